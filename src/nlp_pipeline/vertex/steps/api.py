"""Vertex AI's API, as the steps and the command line call it: over REST, which proxies let through unlike gRPC."""

import re
from collections.abc import Callable
from typing import Any, ClassVar
from urllib.parse import urlsplit

from nlp_pipeline.errors import PipelineError, TimedOutError, UsageError
from nlp_pipeline.storage import retrying

TIMEOUT = 60.0
# For so long a long-running operation is waited for.
PATIENCE_SECONDS = 1800.0
SIGN_IN = "run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS to a key file"
# Access tokens of Google's, signed tokens, and whatever stands where a header would have one.
TOKENS = re.compile(r"ya29\.[\w.~+/-]+|eyJ[\w-]+(?:\.[\w-]*)*|(?<=Bearer )\S+")


class NotFoundError(PipelineError):
    """What was asked for is not there."""


class Api:
    """Vertex AI in a project and region; with no address it is asked at the region's own."""

    # What is raised for an answer that says no, by its code; and what to do where the account lacks a right.
    kinds: ClassVar[dict[int, type[PipelineError]]] = {404: NotFoundError}
    denied = " (the run's service account needs the role Vertex AI User, roles/aiplatform.user)"

    def __init__(self, project: str, region: str, address: str = "", credentials: Any = None) -> None:
        self.project, self.region, self.credentials = project, region, credentials
        self.parent = f"projects/{project}/locations/{region}"
        self._address = address or f"https://{region}-aiplatform.googleapis.com"
        self._services: dict[tuple[str, str], Any] = {}

    def service(self, name: str, address: str = "") -> Any:
        """Returns the client of one of Vertex AI's services, as in "Pipeline"; an address may be its own."""
        from google.cloud import aiplatform_v1

        address = address or self._address
        if (name, address) not in self._services:
            client, options = getattr(aiplatform_v1, f"{name}ServiceClient"), {"api_endpoint": address}
            self._services[name, address] = client(
                credentials=self.credentials, transport="rest", client_options=options
            )
        return self._services[name, address]

    def call(self, doing: str, method: Callable[..., Any], repeat: bool = True, **arguments: Any) -> Any:
        """Calls the API, and returns its answer: the whole list where that comes in pages, the result of an operation.

        Args:
            doing: What is done, for messages, as in "starting the run".
            method: A method of a client, which takes `timeout`.
            repeat: Whether it may be done twice: what fails for a moment is tried again only then.
            **arguments: Its arguments.

        Raises:
            TimedOutError: An operation has not ended in half an hour; it goes on.
            UsageError: Google gives no token for the credentials, or its certificate can't be verified.
            PipelineError: The API refuses (which kind of it, `kinds` says), or it can't be reached.
        """
        from google.api_core.operation import Operation

        def send() -> Any:
            answer = method(timeout=TIMEOUT, **arguments)
            return list(answer) if hasattr(type(answer), "pages") else answer

        try:
            answer = (retrying(may_pass=is_transient)(send) if repeat else send)()
            if isinstance(answer, Operation):
                return retrying(may_pass=is_transient)(answer.result)(timeout=PATIENCE_SECONDS)
            return answer
        except TimeoutError:
            raise TimedOutError(f"{doing}: not done after {PATIENCE_SECONDS / 60:.0f} minutes; it goes on") from None
        except Exception as error:  # noqa: BLE001, what is not Google's is raised again there
            raise self.explain(doing, error) from None

    def explain(self, doing: str, error: Exception) -> PipelineError:
        """Returns what to raise for a call that failed, without a token in it; raises an error that is not Google's."""
        import requests
        from google.api_core.exceptions import GoogleAPICallError
        from google.auth.exceptions import GoogleAuthError
        from google.protobuf.json_format import ParseError

        cause: Any = cause_of(error)
        where = urlsplit(getattr(getattr(cause, "request", None), "url", None) or "").netloc or "Google"
        reason = one_line(error.args[0] if error.args else type(error).__name__)
        if isinstance(error, GoogleAPICallError):
            code = int(error.code or 0)
            # The library puts the request before the message, as in `GET http://x: no`.
            message = one_line(re.sub(r"^[A-Z]+ \S+: ", "", str(error.message)))
            message = "a page, not an answer" if message.startswith("<") else message
            quotas = f"https://console.cloud.google.com/iam-admin/quotas?project={self.project}"
            too_much = f"; a quota is used up, or too much was asked at once: {quotas}"
            advice = {401: f": {SIGN_IN}", 403: self.denied, 429: too_much}.get(code, "")
            return self.kinds.get(code, PipelineError)(f"{doing}: {code}: {message}{advice}")
        if isinstance(cause, ParseError | requests.exceptions.JSONDecodeError):
            return PipelineError(f"{doing}: what answers is not Google's API; is a proxy in between?")
        if isinstance(cause, requests.exceptions.ReadTimeout):
            return self.kinds.get(504, PipelineError)(f"{doing}: {where} does not answer in time")
        if isinstance(cause, requests.exceptions.SSLError):
            advice = "behind a proxy with an authority of its own, set REQUESTS_CA_BUNDLE"
            return UsageError(f"{doing}: {where}: its certificate can't be verified: {advice}")
        if isinstance(cause, requests.RequestException):
            # What urllib3 says begins with names of its objects: `HTTPConnection(...): Failed to ...: [Errno 111] ...`.
            why = one_line(cause).rpartition(": ")[2].rstrip(")")
            return PipelineError(f"{doing}: {where} can't be reached: {why}")
        if not isinstance(error, GoogleAuthError):
            raise error
        if error.retryable:  # the library has tried again itself
            return PipelineError(f"{doing}: Google gives no token now ({reason})")
        return UsageError(f"{doing}: Google gives no token for these credentials ({reason}): {SIGN_IN}")


def cause_of(error: BaseException) -> BaseException:
    """Returns what went wrong on the way: asking for a token, which comes first, hides it in an error of its own."""
    from google.auth.exceptions import TransportError

    cause = next(iter(error.args), None)
    return cause if isinstance(error, TransportError) and isinstance(cause, Exception) else error


def is_transient(error: BaseException) -> bool:
    """Says whether an error of Google's libraries may be gone a moment later."""
    import requests

    cause = cause_of(error)
    if isinstance(cause, requests.RequestException):
        return not isinstance(cause, requests.exceptions.SSLError | requests.exceptions.JSONDecodeError)
    return getattr(error, "code", None) in (429, 500, 502, 503, 504)


def one_line(text: object) -> str:
    """Returns a text of someone else's as a line of limited length, with stars for the tokens in it."""
    # Cut only when they are gone, or else half a token would be left.
    return TOKENS.sub("********", " ".join(str(text).split()))[:400]
