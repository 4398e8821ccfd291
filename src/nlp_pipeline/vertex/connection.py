"""The connection to Vertex AI: which project and region, who asks, and how Google's APIs are called.

The clients are Google's own, over REST: a proxy lets that through where it knows no gRPC, and tests can answer it.
"""

import importlib.util
import logging
import re
import time
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from nlp_pipeline.errors import TimedOutError, UsageError
from nlp_pipeline.platforms.calls import make_once
from nlp_pipeline.settings import PREFIX, Settings
from nlp_pipeline.storage import retrying
from nlp_pipeline.vertex.failures import SIGN_IN, explain, explain_answer, one_line

TIMEOUT = 60.0
# How often, and for how long, a long-running operation is looked at.
POLL_SECONDS, PATIENCE_SECONDS = 3.0, 1800.0
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
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


def check_installed() -> None:
    """Makes sure that Google's client libraries are there.

    Raises:
        UsageError: They are not.
    """
    for name in ("aiplatform", "storage"):
        try:
            found = importlib.util.find_spec(f"google.cloud.{name}")
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise UsageError("--platform vertex needs more packages: pip install -c constraints.txt -e '.[vertex]'")


def check_settings(settings: Settings) -> None:
    """Makes sure that the settings can be what Google will be given.

    Raises:
        UsageError: One can't.
    """
    for name, (form, advice) in FORMS.items():
        value = getattr(settings, name)
        if not re.fullmatch(form, value, re.ASCII):
            raise UsageError(f"{name} is {value[:80]!r}: {advice}")
    if endpoint := settings.vertex_endpoint:
        parts = urlsplit(endpoint)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in THIS_MACHINE):
            raise UsageError(
                f"{PREFIX}VERTEX_ENDPOINT is {endpoint!r}: it must be an address that begins with https://"
            )


def bucket_of(settings: Settings) -> str:
    """Returns where runs write, without a slash at its end.

    Raises:
        UsageError: It is not set.
    """
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
        told = one_line(error.args[0] if error.args else error).partition(". To set up")[0].rstrip(".")
        raise UsageError(f"no credentials for Google Cloud: {told}: {SIGN_IN}") from None
    return credentials, project or ""


class Connection:
    """Google's APIs, as the user who is signed in.

    Args:
        settings: The settings.

    Attributes:
        settings: The settings.
        project: The project: the settings', or else the credentials'.
        region: The region.
        parent: Both, as resource names begin with.
        credentials: The credentials.

    Raises:
        UsageError: The settings are wrong, or there are no credentials.
    """

    def __init__(self, settings: Settings) -> None:
        check_installed()
        check_settings(settings)
        # It would warn of each attempt, even of what Google's library looks up in the background for its own purposes.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        self.settings = settings
        self.credentials, project = find_credentials()
        self.project, self.region = settings.project or project, settings.region
        if not self.project:
            raise UsageError(f"no project: give --project NAME, or set {PREFIX}PROJECT")
        self.parent = f"projects/{self.project}/locations/{self.region}"

    @property
    def who(self) -> str:
        """Who asks, as far as the credentials tell: an e-mail address, or empty."""
        for name in ("service_account_email", "account"):
            if "@" in (told := str(getattr(self.credentials, name, None) or "")):
                return told
        return ""

    def address(self, service: str) -> str:
        """Returns where an API is.

        Args:
            service: Its name, as in "storage".
        """
        host = f"{self.region}-aiplatform" if service == "aiplatform" else service
        return self.settings.vertex_endpoint.rstrip("/") or f"https://{host}.googleapis.com"

    def _client(self, kind: str) -> Any:
        from google.api_core.client_options import ClientOptions
        from google.cloud import aiplatform_v1

        options = ClientOptions(api_endpoint=self.address("aiplatform"))
        return getattr(aiplatform_v1, kind)(credentials=self.credentials, transport="rest", client_options=options)

    @cached_property
    def pipelines(self) -> Any:
        """The pipelines' service."""
        return self._client("PipelineServiceClient")

    @cached_property
    def schedules(self) -> Any:
        """The schedules' service."""
        return self._client("ScheduleServiceClient")

    @cached_property
    def endpoints(self) -> Any:
        """The endpoints' service."""
        return self._client("EndpointServiceClient")

    @cached_property
    def models(self) -> Any:
        """The models' service."""
        return self._client("ModelServiceClient")

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
            repeat: Whether it may be done twice: what fails in between is tried again only then.
            **named: Its arguments.

        Returns:
            What it returned.

        Raises:
            NotFoundError, ConflictError: 404, 409.
            UsageError: The user may not do that, or it is refused as wrong.
            PipelineError: Google can't be reached, or fails.
        """
        transient = False

        def send() -> Any:
            nonlocal transient
            try:
                return method(timeout=TIMEOUT, **named)
            except Exception as error:  # noqa: BLE001, what is not Google's is raised again there
                failed, transient = explain(doing, error, self.project)
                raise failed from None

        return retrying(lambda _: transient)(send)() if repeat else send()

    def every(self, doing: str, method: Callable[..., Any], **request: Any) -> list[Any]:
        """Lists all of something; its pages are asked for one by one.

        Args:
            doing: What is listed, for messages.
            method: A list method of one of the services.
            **request: Its request.
        """
        return list(self.call(doing, lambda timeout: list(method(request=request, timeout=timeout))))

    def make(self, doing: str, method: Callable[..., Any], find: Callable[[], Any], unique: bool, **named: Any) -> Any:
        """Makes something once; see `make_once`.

        Args:
            doing: What is made, for messages.
            method: A method of one of the services.
            find: Looks for it; returns None where it is not there.
            unique: Whether there can't be two of its name.
            **named: The method's arguments.
        """
        return make_once(doing, lambda: self.call(doing, method, repeat=False, **named), find, unique)

    def finish(self, doing: str, operation: Any) -> None:
        """Waits for a long-running operation.

        Google's client would ask for it at an address below /ui/, of which the API's reference does not tell.

        Args:
            doing: What is done, for messages.
            operation: The operation, as a method of one of the services returned it.

        Raises:
            TimedOutError: It has not ended in time; it goes on.
            PipelineError: It failed.
        """
        from google.api_core.exceptions import from_grpc_status

        until = time.monotonic() + PATIENCE_SECONDS
        while not (told := self.ask(doing, "aiplatform", f"/v1/{operation.operation.name}")).get("done"):
            if time.monotonic() > until:
                raise TimedOutError(f"{doing}: not done after {PATIENCE_SECONDS / 60:.0f} minutes; it goes on")
            time.sleep(POLL_SECONDS)
        if error := told.get("error"):
            raise explain_answer(doing, from_grpc_status(error.get("code", 2), error.get("message", "")), self.project)

    def ask(self, doing: str, service: str, path: str, body: Any = None, **query: Any) -> Any:
        """Asks an API of which no client library is installed.

        Args:
            doing: What is done, for messages.
            service: The API's name, as in "iam".
            path: The path, percent-encoded.
            body: What to post, for JSON; None to get.
            **query: The query.

        Returns:
            The answer, read from JSON.

        Raises:
            PipelineError: See `call`.
        """
        from google.api_core.exceptions import from_http_response
        from google.protobuf.json_format import ParseError

        def send(timeout: float) -> Any:
            method = "GET" if body is None else "POST"
            answer = self.session.request(
                method, f"{self.address(service)}{path}", json=body, params=query, timeout=timeout
            )
            if answer.status_code >= 400:
                raise from_http_response(answer)
            try:
                return answer.json()
            except ValueError as error:
                raise ParseError(str(error)) from None

        return self.call(doing, send)
