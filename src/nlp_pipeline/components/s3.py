"""How steps talk to an object store: a `minio` client as the environment says, retries, and errors of one line.

Hermetic helpers, inlined into the steps as `additional_funcs`.
"""

from typing import Any, Callable

from nlp_pipeline.components.retries import with_retries


def s3_endpoint() -> str:
    """Returns the object store's address: `AWS_ENDPOINT_URL`, or Amazon's."""
    import os

    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "https://s3.amazonaws.com"


def s3_client(endpoint: str) -> Any:
    """Returns a `minio` client with the credentials of the environment; without a key its access is anonymous.

    They have the names that AWS's own tools use: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN` and
    `AWS_REGION`.

    Args:
        endpoint: The object store's address, `http://host:port` or `https://host`.

    Raises:
        RuntimeError: The environment's settings are wrong.
    """
    import os
    import re

    import certifi
    import minio
    import urllib3

    match = re.fullmatch(r"(https?)://([^\s/?#@]+)/?", endpoint)
    if not match:
        raise RuntimeError("AWS_ENDPOINT_URL is no address of an object store: give it as http://host:port")
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION")
    given = {name: os.environ.get(name) or None for name in names}
    for name, value in given.items():
        # The HTTP client would show it whole, with the signature.
        if not re.fullmatch(r"[!-~]*", value or ""):
            raise RuntimeError(f"{name} has a blank, a line break or another odd character in it: set it anew without")
    if bool(given["AWS_ACCESS_KEY_ID"]) != bool(given["AWS_SECRET_ACCESS_KEY"]):
        raise RuntimeError("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together: set both, or neither")
    try:
        return minio.Minio(
            match[2],
            access_key=given["AWS_ACCESS_KEY_ID"],
            secret_key=given["AWS_SECRET_ACCESS_KEY"],
            session_token=given["AWS_SESSION_TOKEN"],
            secure=match[1] == "https",
            region=given["AWS_REGION"] or given["AWS_DEFAULT_REGION"],
            # The retries are s3_call's; the client's own would multiply them.
            http_client=urllib3.PoolManager(
                timeout=urllib3.Timeout(connect=5, read=60),
                retries=False,
                maxsize=10,
                ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
            ),
        )
    except ValueError as error:
        raise RuntimeError(f"AWS_ENDPOINT_URL {endpoint!r} or AWS_REGION is wrong: {error}") from None


def s3_status(error: BaseException) -> int:
    """Returns the HTTP status that an error of `minio` is about; 0 where it is about none."""
    answer = getattr(error, "response", error)  # S3Error has the response; the others have the status themselves
    return next((getattr(answer, name) for name in ("status", "status_code", "_code") if hasattr(answer, name)), 0)


def s3_transient(error: BaseException) -> bool:
    """Tells whether an error of `minio` may be gone the next time: a broken connection, a server that is too busy."""
    import minio
    import urllib3

    if isinstance(error, minio.error.MinioException):
        status = s3_status(error)
        # A broken transfer in parts is given up, which may find that there is none any more.
        return status in (0, 408, 429) or status >= 500 or getattr(error, "code", None) == "NoSuchUpload"
    return isinstance(error, urllib3.exceptions.HTTPError)


def s3_call(call: Callable[[], Any], shown: str, task: str, attempts: int, first_wait: float) -> Any:
    """Does something with an object, with retries, and makes one line of what fails for good.

    Args:
        call: What to do, each time from its start.
        shown: The object, as messages show it.
        task: What shall be done, as in "downloaded".
        attempts: How often it is tried.
        first_wait: Seconds before the second attempt; doubled each time, 10 at most.

    Returns:
        What `call` returned.

    Raises:
        ValueError: There is no such bucket or object.
        RuntimeError: The object store refuses, or no attempt succeeded.
    """
    import minio
    import urllib3

    try:
        return with_retries(call, s3_transient, shown, attempts, first_wait)
    except minio.error.S3Error as error:
        if error.code in ("NoSuchBucket", "NoSuchKey", "InvalidBucketName"):
            raise ValueError(f"{shown} is not there ({error.code}): check the bucket and the key") from None
        advice = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what they are allowed"
        if s3_transient(error):
            advice = "try later"
        elif error.code in ("PermanentRedirect", "AuthorizationHeaderMalformed"):
            advice = "set AWS_REGION to the bucket's region"
        raise RuntimeError(f"{shown} was refused ({error.code}): {advice}") from None
    except (urllib3.exceptions.HTTPError, minio.error.MinioException, SyntaxError, UnicodeDecodeError) as error:
        # minio's own errors, and its XML parser's, hold the whole answer.
        status = f"status {s3_status(error)}, " if s3_status(error) else ""
        reason = str(error) if isinstance(error, urllib3.exceptions.HTTPError) else f"{status}its answer is not S3's"
        raise RuntimeError(f"{shown} could not be {task} ({reason}): is AWS_ENDPOINT_URL right?") from None
