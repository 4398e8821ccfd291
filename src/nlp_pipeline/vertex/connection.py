"""The connection to Google Cloud: which project and region, who asks, and what each failure means.

The clients are Google's own, over REST: a proxy lets that through where it knows no gRPC.
"""

import logging
import re
import sys
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any
from urllib.parse import quote, urlsplit

from nlp_pipeline.errors import PipelineError, TimedOutError, UsageError
from nlp_pipeline.pipeline.compiling import check_vertex_installed
from nlp_pipeline.platforms.calls import ERRORS, TRANSIENT, NotFoundError, UnansweredError
from nlp_pipeline.settings import PREFIX, Settings
from nlp_pipeline.storage import retrying

TIMEOUT = 60.0
# For so long a long-running operation is waited for.
PATIENCE_SECONDS = 1800.0
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
SIGN_IN = "run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS to a key file"
THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
# What settings must look like, and what to say where they don't.
FORMS = {
    "project": (r"|([a-z0-9.-]+:)?[a-z][-a-z0-9]{4,28}[a-z0-9]|[0-9]+", "give the project's id, as in my-project"),
    "region": (r"[a-z]+-[a-z]+[0-9]+", "give one, as in europe-west4"),
    "bucket": (r"|gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/[\w.+=@-]+)*/?", "write gs://bucket or gs://bucket/folder"),
    "service_account": (
        r"|[^@\s]+@[^@\s]+\.[^@\s]+",
        "on Vertex AI it is an e-mail address, as in runs@my-project.iam.gserviceaccount.com",
    ),
    "experiment": (
        r"[a-z0-9_-]{1,63}",
        "on Vertex AI it is a label: lower-case letters, digits, hyphens, at most 63 characters",
    ),
}
# Access tokens of Google's, signed tokens, and whatever stands where a header would have one.
TOKENS = re.compile(r"ya29\.[\w.~+/-]+|eyJ[\w-]+(?:\.[\w-]*)*|(?<=Bearer )\S+")


def check_settings(settings: Settings) -> None:
    """Makes sure that the settings can be what Google will be given; raises UsageError where one can't."""
    for name, (form, advice) in FORMS.items():
        if not re.fullmatch(form, value := getattr(settings, name), re.ASCII):
            raise UsageError(f"{name} is {value[:80]!r}: {advice}")
    if endpoint := settings.vertex_endpoint:
        parts = urlsplit(endpoint)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in THIS_MACHINE):
            name = f"{PREFIX}VERTEX_ENDPOINT"
            raise UsageError(f"{name} is {endpoint!r}: it must be an address that begins with https://")


def bucket_of(settings: Settings) -> str:
    """Returns where runs write, without a slash at its end; raises UsageError where it is not set."""
    if not settings.bucket:
        raise UsageError(f"no bucket: give --bucket gs://NAME, or set {PREFIX}BUCKET; runs write what they make there")
    return settings.bucket.rstrip("/")


def find_credentials() -> tuple[Any, str]:
    """Returns the Application Default Credentials, and the project that they name; empty where they name none.

    Raises:
        UsageError: There are none.
    """
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a user's credentials name no quota project
            credentials, project = google.auth.default(scopes=[SCOPE])
    except (GoogleAuthError, ValueError) as error:
        reason = one_line(error.args[0] if error.args else error).partition(". To set up")[0].rstrip(".")
        raise UsageError(f"no credentials for Google Cloud: {reason}: {SIGN_IN}") from None
    return credentials, project or ""


class Connection:
    """Google's APIs, as the user who is signed in.

    Attributes:
        project: The project: the settings', or else the credentials'.
        parent: Project and region, as resource names begin with.

    Raises:
        UsageError: The settings are wrong, there are no credentials, or Google's libraries are not installed.
    """

    def __init__(self, settings: Settings) -> None:
        check_vertex_installed()
        check_settings(settings)
        # It would warn of each attempt, even of what Google's library looks up in the background for its own purposes.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        self.settings = settings
        self.credentials, project = find_credentials()
        self.project, self.region = settings.project or project, settings.region
        if not self.project:
            raise UsageError(f"no project: give --project NAME, or set {PREFIX}PROJECT")
        self.parent = f"projects/{self.project}/locations/{self.region}"
        self._services: dict[str, Any] = {}

    @property
    def who(self) -> str:
        """Who asks, as far as the credentials tell: an e-mail address, or empty."""
        names = [getattr(self.credentials, name, None) for name in ("service_account_email", "account")]
        return next((str(name) for name in names if "@" in str(name)), "")

    def address(self, service: str) -> str:
        """Returns where an API is, by its name, as in "storage"."""
        host = f"{self.region}-aiplatform" if service == "aiplatform" else service
        return self.settings.vertex_endpoint.rstrip("/") or f"https://{host}.googleapis.com"

    def service(self, name: str) -> Any:
        """Returns the client of one of Vertex AI's services, as in "Pipeline"."""
        from google.cloud import aiplatform_v1

        if name not in self._services:
            options = {"api_endpoint": self.address("aiplatform")}
            client = getattr(aiplatform_v1, f"{name}ServiceClient")
            self._services[name] = client(credentials=self.credentials, transport="rest", client_options=options)
        return self._services[name]

    @cached_property
    def storage(self) -> Any:
        """The `google.cloud.storage.Client`."""
        from google.cloud import storage

        options = {"api_endpoint": self.address("storage")}
        return storage.Client(self.project, self.credentials, client_options=options)

    @cached_property
    def session(self) -> Any:
        """HTTP that is signed in, for APIs of which no client library is installed."""
        from google.auth.transport.requests import AuthorizedSession

        return AuthorizedSession(self.credentials)

    def call(self, doing: str, method: Callable[..., Any], repeat: bool = True, **named: Any) -> Any:
        """Calls an API.

        Args:
            doing: What is done, for messages, as in "starting the run".
            method: A method of one of the services, which takes `timeout`.
            repeat: Whether it may be done twice: what fails for a moment is tried again only then.
            **named: Its arguments.

        Raises:
            NotFoundError, ConflictError: 404, 409.
            UsageError: The user may not do that, or it is refused as wrong.
            PipelineError: Google can't be reached, or fails.
        """
        try:
            return (retrying(is_transient)(method) if repeat else method)(timeout=TIMEOUT, **named)
        except Exception as error:  # noqa: BLE001, what is not Google's is raised again there
            raise explain(doing, error, self.project) from None

    def list_all(self, doing: str, method: Callable[..., Any], **request: Any) -> list[Any]:
        """Lists all of something; its pages are asked for one by one."""
        found: list[Any] = self.call(doing, lambda timeout: list(method(request=request, timeout=timeout)))
        return found

    def finish(self, doing: str, operation: Any) -> None:
        """Waits for a long-running operation.

        Raises:
            TimedOutError: It has not ended in time; it goes on.
            PipelineError: It failed.
        """
        try:
            self.call(doing, lambda timeout: operation.result(timeout=PATIENCE_SECONDS))
        except TimeoutError:
            raise TimedOutError(f"{doing}: not done after {PATIENCE_SECONDS / 60:.0f} minutes; it goes on") from None

    def ask(self, doing: str, service: str, path: str, body: Any = None, **query: Any) -> Any:
        """Asks an API of which no client library is installed, and returns what it answers in JSON; see `call`.

        Args:
            doing: What is done, for messages.
            service: The API's name, as in "iam".
            path: The path, percent-encoded.
            body: What to post, for JSON; None to get.
            **query: The query.
        """
        from google.api_core.exceptions import from_http_response

        def send(timeout: float) -> Any:
            method, url = "GET" if body is None else "POST", f"{self.address(service)}{path}"
            answer = self.session.request(method, url, json=body, params=query, timeout=timeout)
            if answer.status_code >= 400:
                raise from_http_response(answer)
            return answer.json()

        return self.call(doing, send)

    def check_bucket(self) -> None:
        """Makes sure that the bucket is there: a run would find out only when its first step has ended."""
        name = bucket_of(self.settings).removeprefix("gs://").partition("/")[0]
        try:
            self.ask(f"looking for bucket {name}", "storage", f"/storage/v1/b/{quote(name)}", fields="name")
        except NotFoundError:
            make = f"gcloud storage buckets create gs://{name} --project {self.project} --location {self.region}"
            raise UsageError(f"there is no bucket {name}: {make}") from None
        except UsageError as error:
            # Who may write there need not be allowed to read what the bucket itself is.
            if ": 403:" not in str(error):
                raise


_last: tuple[Settings, Connection] | None = None


def connect(settings: Settings) -> Connection:
    """Returns a connection, and says on stderr whose it is: once for each settings, as a command has them."""
    global _last
    if _last is not None and _last[0] is settings:
        return _last[1]
    connection = Connection(settings)
    who = f", as {connection.who}" if connection.who else ", by the credentials of gcloud"
    print(f"project {connection.project}, region {connection.region}{who}", file=sys.stderr)
    _last = settings, connection
    return connection


def one_line(text: object) -> str:
    """Returns a text of someone else's as a line of limited length, with stars for the tokens in it."""
    # Cut only when they are gone, or else half a token would be left.
    return TOKENS.sub("********", " ".join(str(text).split()))[:400]


def reached(error: BaseException) -> BaseException:
    """Returns what went wrong on the way: asking for a token, which comes first, hides it in an error of its own."""
    from google.auth.exceptions import TransportError

    cause = next(iter(error.args), None)
    return cause if isinstance(error, TransportError) and isinstance(cause, Exception) else error


def is_transient(error: BaseException) -> bool:
    """Says whether an error of Google's libraries may be gone a moment later."""
    import requests

    cause = reached(error)
    if isinstance(cause, requests.RequestException) and not isinstance(cause, requests.exceptions.JSONDecodeError):
        return not isinstance(cause, requests.exceptions.SSLError)
    return getattr(error, "code", None) in TRANSIENT


def explain(doing: str, error: Exception, project: str) -> PipelineError:
    """Returns what to raise for a call that failed: one line, without a token in it.

    An error that is none of google-api-core's, google-auth's or requests' is raised again.
    """
    import requests
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError, RefreshError
    from google.protobuf.json_format import ParseError

    if isinstance(error, GoogleAPICallError):
        return explain_refusal(doing, error, project)
    cause = reached(error)
    if isinstance(error, ParseError | requests.exceptions.JSONDecodeError):
        return PipelineError(f"{doing}: what answers is not Google's API; is a proxy in between?")
    if isinstance(cause, requests.RequestException):
        return explain_silence(doing, cause)
    if isinstance(error, RefreshError):
        reason = one_line(error.args[0] if error.args else "")
        if error.retryable:  # the library has tried again itself
            return PipelineError(f"{doing}: Google gives no token now ({reason})")
        return UsageError(f"{doing}: Google gives no token for these credentials ({reason}): {SIGN_IN}")
    if isinstance(error, GoogleAuthError):
        return UsageError(f"{doing}: {one_line(error)}: {SIGN_IN}")
    raise error


def explain_silence(doing: str, error: Any) -> PipelineError:
    """Returns what to raise where there was no answer, by what requests raised."""
    import requests

    where = urlsplit(getattr(error.request, "url", None) or "").netloc or "Google"
    if isinstance(error, requests.exceptions.ReadTimeout):
        return UnansweredError(f"{doing}: {where} does not answer in time")
    if isinstance(error, requests.exceptions.SSLError):
        advice = "behind a proxy with an authority of its own, set REQUESTS_CA_BUNDLE"
        return UsageError(f"{doing}: {where}: its certificate can't be verified: {advice}")
    reason = one_line(getattr(error.args[0], "reason", error.args[0]) if error.args else type(error).__name__)
    # urllib3 names the object that failed, too: `HTTPConnection(...): Failed to establish ...: [Errno 111] ...`.
    return PipelineError(f"{doing}: {where} can't be reached: {reason.rpartition(': ')[2]}")


def explain_refusal(doing: str, error: Any, project: str) -> PipelineError:
    """Returns what to raise for an answer that says no, a `GoogleAPICallError`."""
    code = int(error.code or 0)
    # The library puts the request before the message, as in `GET http://x: no`.
    message = re.sub(r"^[A-Z]+ \S+: ", "", str(error.message))
    line = f"{doing}: {code}: {'a page, not an answer' if message.lstrip().startswith('<') else one_line(message)}"
    if code == 403 and error.reason == "SERVICE_DISABLED":
        service = dict(error.metadata or {}).get("service", "aiplatform.googleapis.com")
        enable = f"gcloud services enable {service} --project {project}"
        line = f"{doing}: the API {service} is not enabled in project {project}: {enable}"
    elif code == 403 and error.reason == "BILLING_DISABLED":
        line = f"{doing}: project {project} has no billing account: link one in the console"
    elif code == 403:
        line += "; --doctor shows what is missing"
    elif code == 401:
        line += f": {SIGN_IN}"
    elif code == 429:
        quotas = f"https://console.cloud.google.com/iam-admin/quotas?project={project}"
        line += f"; a quota is used up, or too much was asked at once: {quotas}"
    return ERRORS.get(code, PipelineError)(line)
