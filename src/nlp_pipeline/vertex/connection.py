"""The connection to Google Cloud: which project and region, and who asks."""

import difflib
import logging
import sys
import warnings
from functools import cached_property
from typing import Any

from nlp_pipeline.errors import UsageError
from nlp_pipeline.parameters import matches
from nlp_pipeline.pipeline.compiling import check_vertex_installed
from nlp_pipeline.platforms.calls import ERRORS, once_per_settings
from nlp_pipeline.settings import PREFIX, Settings
from nlp_pipeline.vertex.settings import ACCOUNT, LOCATION_NAME, PROJECT_NAME
from nlp_pipeline.vertex.steps.api import SIGN_IN, Api, one_line

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
BUCKET = r"|gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/[\w.+=@-]+)*/?"
ADDRESS = r"|https://.*|http://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?/?"
# What settings may be, on Vertex AI.
ALLOWED = {
    "project": matches(f"|{PROJECT_NAME}", "a project's id, as in my-project"),
    "region": matches(LOCATION_NAME, "a region, as in europe-west4"),
    "bucket": matches(BUCKET, "a bucket or a folder in one, as in gs://bucket/folder"),
    "service_account": ACCOUNT,
    "experiment": matches("[a-z0-9_-]{1,63}", "a label: lower-case letters, digits, hyphens, at most 63 characters"),
    "vertex_endpoint": matches(ADDRESS, "an address that begins with https://"),
}


def check_settings(settings: Settings) -> None:
    """Raises UsageError where a setting can't be what Google will be given."""
    for name, (is_allowed, meaning) in ALLOWED.items():
        if not is_allowed(value := getattr(settings, name)):
            raise UsageError(f"{name} is {value[:80]!r}: it must be {meaning}")


def bucket_of(settings: Settings) -> str:
    """Returns where runs write, without a slash at its end; raises UsageError where it is not set."""
    if not settings.bucket:
        raise UsageError(f"no bucket: give --bucket gs://NAME, or set {PREFIX}BUCKET; runs write what they make there")
    return settings.bucket.rstrip("/")


def find_credentials() -> tuple[Any, str]:
    """Returns the Application Default Credentials, and the project that they name, which may be empty.

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


class Connection(Api):
    """Google's APIs, as the user who is signed in; `project` is the settings', or else the credentials'.

    Raises:
        UsageError: The settings are wrong, there are no credentials or no project, or Google's libraries are not
            installed.
    """

    kinds = ERRORS
    denied = "; --doctor shows what is missing"

    def __init__(self, settings: Settings) -> None:
        check_vertex_installed()
        check_settings(settings)
        # It would warn of each attempt, even of what Google's library looks up in the background for its own purposes.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        credentials, project = find_credentials()
        if not (settings.project or project):
            raise UsageError(f"no project: give --project NAME, or set {PREFIX}PROJECT")
        super().__init__(settings.project or project, settings.region, settings.vertex_endpoint, credentials)
        self.settings = settings

    @property
    def who(self) -> str:
        """Who asks, as far as the credentials tell: an e-mail address, or empty."""
        names = [getattr(self.credentials, name, None) for name in ("service_account_email", "account")]
        return next((str(name) for name in names if "@" in str(name)), "")

    @cached_property
    def storage(self) -> Any:
        """The `google.cloud.storage.Client`."""
        from google.cloud import storage

        options = {"api_endpoint": self.settings.vertex_endpoint.rstrip("/") or "https://storage.googleapis.com"}
        return storage.Client(self.project, self.credentials, client_options=options)

    def ask(self, doing: str, service: str, path: str, body: Any = None, **query: Any) -> Any:
        """Asks an API of which no client library is installed, as in "iam", for a path; posts, where there is a body.

        Returns:
            What it answers in JSON.

        Raises:
            PipelineError: As `call` does.
        """
        from google.api_core.exceptions import from_http_response
        from google.auth.transport.requests import AuthorizedSession

        host = self.settings.vertex_endpoint.rstrip("/") or f"https://{service}.googleapis.com"
        method = "GET" if body is None else "POST"

        def send(timeout: float) -> Any:
            with AuthorizedSession(self.credentials) as session:
                answer = session.request(method, f"{host}{path}", json=body, params=query, timeout=timeout)
            if answer.status_code >= 400:
                raise from_http_response(answer)
            return answer.json()

        return self.call(doing, send)

    @property
    def bucket(self) -> Any:
        """The bucket that runs write to, there or not."""
        return self.storage.bucket(bucket_of(self.settings).removeprefix("gs://").partition("/")[0])

    def check_bucket(self) -> None:
        """Raises UsageError where the bucket is not there: a run would find out only when its first step has ended."""
        name = self.bucket.name
        try:
            is_there = self.call(f"looking for bucket {name}", self.bucket.exists, retry=None)
        except UsageError:
            return  # who may write there need not be allowed to look; what else is wrong the next request shows
        if not is_there:
            make = f"gcloud storage buckets create gs://{name} --project {self.project} --location {self.region}"
            raise UsageError(f"there is no bucket {name}: {make}")


@once_per_settings
def connect(settings: Settings) -> Connection:
    """Returns a connection, and says on stderr whose it is."""
    connection = Connection(settings)
    who = f", as {connection.who}" if connection.who else ", by the credentials of gcloud"
    print(f"project {connection.project}, region {connection.region}{who}", file=sys.stderr)
    return connection


def check_region(region: str) -> None:
    """Raises UsageError where Vertex AI is not in a region."""
    from google.cloud.aiplatform.constants.base import SUPPORTED_REGIONS

    if region not in SUPPORTED_REGIONS:
        near = difflib.get_close_matches(region, SUPPORTED_REGIONS, n=1)
        raise UsageError(f"Vertex AI is not in {region}{f': did you mean {near[0]}?' if near else ''}")
