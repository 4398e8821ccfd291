"""Object stores that speak S3: a `minio` client, the one policy of retries, and errors of one line."""

import os
import re
import ssl
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from nlp_pipeline.errors import PipelineError, UsageError

T = TypeVar("T")

# How often something is tried, and the seconds before the second attempt; doubled each time, 10 at most.
ATTEMPTS, FIRST_WAIT = 5, 0.5


def status_of(error: BaseException) -> int:
    """Returns the HTTP status that an error of a client's library is about; 0 where it is about none."""
    answer = getattr(error, "response", error)  # some have the response, the others the status themselves
    return next((getattr(answer, name) for name in ("status", "status_code", "_code") if hasattr(answer, name)), 0) or 0


def is_transient(error: BaseException) -> bool:
    """Says whether a client's error may be gone the next time: of a broken connection, or of a server too busy."""
    status, library = status_of(error), type(error).__module__.partition(".")[0]
    return (
        status in (408, 429)
        or status >= 500
        or (not status and library in ("httpx", "kubernetes", "minio", "urllib3"))
        # A broken transfer in parts is given up, which may find that there is none any more.
        or getattr(error, "code", None) == "NoSuchUpload"
    )


def retrying(
    shown: str = "", may_pass: Callable[[BaseException], bool] = is_transient
) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Returns a decorator for what may fail for a moment: it is tried again, each time from its start.

    An error that will not pass by itself, and the last one, is raised. The log has what is `shown`; empty for no word.
    """
    import tenacity

    def log(state: tenacity.RetryCallState) -> None:
        print(f"{shown}: attempt {state.attempt_number} failed, trying again", file=sys.stderr, flush=True)

    return tenacity.retry(
        retry=tenacity.retry_if_exception(may_pass),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_exponential(multiplier=FIRST_WAIT, max=10),
        before_sleep=log if shown else None,
        reraise=True,
    )


def s3_endpoint() -> str:
    """Returns the object store's address as the environment has it, or Amazon's."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "https://s3.amazonaws.com"


def s3_client(
    endpoint: str | None = None,
    access_key: str | None = None,
    secret_key: str | None = None,
    region: str | None = None,
    tls: ssl.SSLContext | None = None,
    names: tuple[str, str] = ("AWS_ENDPOINT_URL", "AWS_REGION"),
) -> Any:
    """Returns a `minio.Minio`; nothing is sent yet.

    Args:
        endpoint: The object store's address, `http://host:port` or `https://host`; None for `s3_endpoint`.
        access_key: None to take credentials and region from the environment, by the names that AWS's own tools use.
            Access is anonymous where there are none either.
        secret_key: Belongs to `access_key`.
        region: The bucket's; None to have the object store asked.
        tls: Whose certificates are trusted; None for the public authorities', or those of the file `SSL_CERT_FILE`.
        names: What errors call the settings of endpoint and region.

    Raises:
        UsageError: The address is none, or it, the region or a key is wrong.
    """
    import certifi
    import minio
    import urllib3

    session_token = None
    if not access_key:
        access_key, secret_key, session_token, region, default_region = map(
            _read_variable, ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "REGION", "DEFAULT_REGION")
        )
        region = region or default_region
    match = re.fullmatch(r"(https?)://([^\s/?#@]+)/?", endpoint or s3_endpoint())
    if not match:
        raise UsageError(f"{names[0]} is no address of an object store: write it as in http://localhost:9000")
    http_client = urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=5, read=60),
        retries=False,  # s3_call tries again; the client's own attempts would multiply
        maxsize=10,
        ssl_context=tls,
        ca_certs=None if tls else os.environ.get("SSL_CERT_FILE") or certifi.where(),
    )
    try:
        return minio.Minio(
            match[2],
            access_key,
            secret_key,
            session_token,
            secure=match[1] == "https",
            region=region,
            http_client=http_client,
        )
    except ValueError as error:
        raise UsageError(f"{names[0]}={match[0]}, {names[1]} or a key is wrong: {error}") from None


def _read_variable(name: str) -> str | None:
    value = os.environ.get(f"AWS_{name}") or None
    # The HTTP client would show it whole, with the signature.
    if not re.fullmatch("[!-~]*", value or ""):
        raise UsageError(f"AWS_{name} has a blank, a line break or another odd character in it: set it anew")
    return value


def s3_call(call: Callable[[], T], shown: str, task: str) -> T:
    """Does something with an object, with retries, and makes one line of what fails for good.

    `shown` is the object, as messages show it, and `task` what shall be done, as in "downloaded".

    Raises:
        UsageError: There is no such bucket or object.
        PipelineError: The object store refuses, or no attempt succeeded.
    """
    import minio
    import urllib3

    try:
        return retrying(shown)(call)()
    except minio.error.S3Error as error:
        if error.code in ("NoSuchBucket", "NoSuchKey", "InvalidBucketName"):
            raise UsageError(f"{shown} is not there ({error.code}): check the bucket and the key") from None
        advice = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what they are allowed"
        if is_transient(error):
            advice = "try later"
        elif error.code in ("PermanentRedirect", "AuthorizationHeaderMalformed"):
            advice = "set AWS_REGION to the bucket's region"
        raise PipelineError(f"{shown} was refused ({error.code}): {advice}") from None
    except (urllib3.exceptions.HTTPError, minio.error.MinioException, SyntaxError, UnicodeDecodeError) as error:
        # All but the first, minio's own and its XML parser's, hold the whole answer.
        reason: object = error
        if not isinstance(error, urllib3.exceptions.HTTPError):
            reason = f"its answer, of status {status_of(error) or 200}, is not S3's"
        raise PipelineError(f"{shown} could not be {task} ({reason}): is AWS_ENDPOINT_URL right?") from None
