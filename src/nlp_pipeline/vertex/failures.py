"""What each failure of a call of Google's means, as the user is told it: one line, without a token in it."""

import re
from typing import Any
from urllib.parse import urlsplit

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.platforms.calls import ConflictError, NotFoundError, UnansweredError

TRANSIENT = (429, 500, 502, 503, 504)
SIGN_IN = "run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS to a key file"
# Access tokens of Google's, signed tokens, and whatever stands where a header would have one.
TOKENS = re.compile(r"ya29\.[\w.~+/-]+|eyJ[\w-]+(?:\.[\w-]*)*|(?<=Bearer )\S+")


def one_line(text: object) -> str:
    """Returns a text of someone else's as a line of limited length, with stars for the tokens in it."""
    # Cut only when they are gone, or else half a token would be left.
    return TOKENS.sub("********", " ".join(str(text).split()))[:400]


def explain(doing: str, error: Exception, project: str) -> tuple[PipelineError, bool]:
    """Returns what to raise for a call that failed.

    Args:
        doing: What was done, as in "starting the run".
        error: What google-api-core, google-auth or requests raised.
        project: The project.

    Returns:
        What to raise, and whether it may go well a moment later.

    Raises:
        Exception: The error itself, where it is none of theirs.
    """
    import requests
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError
    from google.protobuf.json_format import ParseError

    if isinstance(error, GoogleAPICallError):
        return explain_answer(doing, error, project), int(error.code or 0) in TRANSIENT
    # A token is asked for before anything else; that may fail in the same ways.
    reached = error.args[0] if isinstance(error, TransportError) and error.args else error
    if isinstance(reached, requests.RequestException):
        failed = explain_silence(doing, reached)
        return failed, not isinstance(failed, UsageError)
    if isinstance(error, RefreshError):
        told = one_line(error.args[0] if error.args else "")
        if error.retryable:  # the library has tried again itself
            return PipelineError(f"{doing}: Google gives no token now ({told})"), False
        return UsageError(f"{doing}: Google gives no token for these credentials ({told}): {SIGN_IN}"), False
    if isinstance(error, GoogleAuthError):
        return UsageError(f"{doing}: {one_line(error)}: {SIGN_IN}"), False
    if isinstance(error, ParseError):
        return PipelineError(f"{doing}: what answers is not Google's API; is a proxy in between?"), False
    raise error


def explain_silence(doing: str, error: Any) -> PipelineError:
    """Returns what to raise where there was no answer.

    Args:
        doing: What was done.
        error: What requests raised.
    """
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


def explain_answer(doing: str, error: Any, project: str) -> PipelineError:
    """Returns what to raise for an answer that says no.

    Args:
        doing: What was done.
        error: The `GoogleAPICallError`.
        project: The project.
    """
    code = int(error.code or 0)
    # The library puts the request before the message, as in `GET http://x: no`.
    said = re.sub(r"^[A-Z]+ \S+: ", "", str(error.message))
    line = f"{doing}: {code}: {'a page, not an answer' if said.lstrip().startswith('<') else one_line(said)}"
    if code == 401:
        return UsageError(f"{line}: {SIGN_IN}")
    if code == 403 and error.reason == "SERVICE_DISABLED":
        service = dict(error.metadata or {}).get("service", "aiplatform.googleapis.com")
        enable = f"gcloud services enable {service} --project {project}"
        return UsageError(f"{doing}: the API {service} is not enabled in project {project}: {enable}")
    if code == 403 and error.reason == "BILLING_DISABLED":
        return UsageError(f"{doing}: project {project} has no billing account: link one in the console")
    if code == 403:
        return UsageError(f"{line}; --doctor shows what is missing")
    if code == 429:
        quotas = f"https://console.cloud.google.com/iam-admin/quotas?project={project}"
        return PipelineError(f"{line}; a quota is used up, or too much was asked at once: {quotas}")
    kinds: dict[int, type[PipelineError]] = {
        400: UsageError,
        404: NotFoundError,
        409: ConflictError,
        504: UnansweredError,
    }
    return kinds.get(code, PipelineError)(line)
