"""How `load_data` brings a source to a local file: a path, `file://`, `http(s)://` or `s3://`.

Hermetic helpers, inlined into the step as `additional_funcs`.
"""


def fetch_source(source: str, folder: str) -> tuple[str, str]:
    """Makes a source available as a local file.

    Args:
        source: A path, or a URL that starts with file://, http://, https:// or s3://.
        folder: Where a download is put.

    Returns:
        The path of the local file, and the source's own file name (which tells its format).

    Raises:
        ValueError: The source is not there or of an unknown kind.
        RuntimeError: A download failed for good.
    """
    import os
    from urllib.parse import unquote, urlsplit

    # A Windows drive or a path with a colon is no URL: a scheme here is always followed by two slashes.
    scheme = source.split("://", 1)[0].lower() if "://" in source else ""
    path = unquote(urlsplit(source).path) if scheme else source
    name = os.path.basename(path)
    if scheme in ("", "file"):
        if not os.path.isfile(path):
            kind = "a folder, not a file" if os.path.isdir(path) else "not there"
            raise ValueError(f"{source!r} is {kind}: give the path of a CSV, TSV, JSONL or Parquet file")
        return path, name
    target = os.path.join(folder, name or "download")
    if scheme in ("http", "https"):
        download_http(source, target)
    elif scheme == "s3":
        download_s3(urlsplit(source).netloc, path.lstrip("/"), target)
    else:
        raise ValueError(f"{source!r} starts with {scheme}://, which is unknown here: use a path, file, http(s) or s3")
    return target, name


def download_http(url: str, target: str, attempts: int = 5, first_wait: float = 0.5) -> None:
    """Downloads a file over HTTP, with retries, and makes sure that it came whole.

    Connection errors, broken transfers and the statuses 408, 429 and 5xx are tried again; any other status is final.

    Args:
        url: The address; redirects are followed, TLS is verified.
        target: The file to write.
        attempts: How often it is tried.
        first_wait: Seconds before the second attempt; doubled each time, 10 at most.

    Raises:
        ValueError: The server refuses (a 4xx status).
        RuntimeError: The download failed on every attempt.
    """
    import httpx
    import tenacity

    def fetch() -> None:
        with httpx.stream("GET", url, follow_redirects=True, timeout=httpx.Timeout(60, connect=10)) as response:
            if response.status_code in (408, 429) or response.status_code >= 500:
                response.raise_for_status()
            if response.status_code != 200:
                raise ValueError(f"{shown} answered {response.status_code} {response.reason_phrase}: is it right?")
            # httpx raises RemoteProtocolError where fewer bytes arrive than Content-Length promised.
            with open(target, "wb") as file:
                for chunk in response.iter_bytes(1 << 20):
                    file.write(chunk)

    # A signed URL carries a secret in its query or user part: neither is shown.
    parts = httpx.URL(url)
    shown = f"{parts.scheme}://{parts.netloc.decode().rpartition('@')[2]}{parts.path}"
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type((httpx.TransportError, httpx.HTTPStatusError)),
        stop=tenacity.stop_after_attempt(attempts),
        wait=tenacity.wait_exponential(multiplier=first_wait, max=10),
        before_sleep=lambda state: print(f"{shown}: attempt {state.attempt_number} failed, trying again", flush=True),
        reraise=True,
    )
    try:
        retrying(fetch)
    except httpx.HTTPStatusError as error:
        raise RuntimeError(f"{shown} answered {error.response.status_code} {attempts} times; try later") from None
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise RuntimeError(f"{shown} could not be downloaded in {attempts} attempts: {reason}") from None


def download_s3(bucket: str, key: str, target: str, attempts: int = 5, first_wait: float = 0.5) -> None:
    """Downloads an object with the `minio` client, with retries, and makes sure that it came whole.

    The endpoint and the credentials come from the environment, by the names that AWS's own tools use:
    `AWS_ENDPOINT_URL` (`http://host:port` or `https://host`; Amazon's by default), `AWS_REGION`,
    `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`. Without a key the access is anonymous.

    Args:
        bucket: The bucket.
        key: The object's key.
        target: The file to write.
        attempts: How often it is tried.
        first_wait: Seconds before the second attempt; doubled each time, 10 at most.

    Raises:
        ValueError: The object store refuses: no such bucket or object, or no permission.
        RuntimeError: The download failed on every attempt.
    """
    import os
    from urllib.parse import urlsplit

    import certifi
    import minio
    import tenacity
    import urllib3

    shown = f"s3://{bucket}/{key}"
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "https://s3.amazonaws.com"
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"AWS_ENDPOINT_URL is {endpoint!r}; give it as http://host:port or https://host")
    client = minio.Minio(
        parts.netloc,
        access_key=os.environ.get("AWS_ACCESS_KEY_ID"),
        secret_key=os.environ.get("AWS_SECRET_ACCESS_KEY"),
        session_token=os.environ.get("AWS_SESSION_TOKEN"),
        secure=parts.scheme == "https",
        region=os.environ.get("AWS_REGION"),
        # The retries are this function's; the client's own would multiply them.
        http_client=urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=10, read=60),
            retries=False,
            ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
        ),
    )

    def fetch() -> None:
        expected = client.stat_object(bucket, key).size
        client.fget_object(bucket, key, target)
        if os.path.getsize(target) != expected:
            raise urllib3.exceptions.ProtocolError(f"{os.path.getsize(target)} of {expected} bytes arrived")

    def transient(error: BaseException) -> bool:
        if isinstance(error, minio.error.S3Error):
            return error.response.status >= 500 or error.response.status == 429
        return isinstance(error, (urllib3.exceptions.HTTPError, minio.error.ServerError, OSError))

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(transient),
        stop=tenacity.stop_after_attempt(attempts),
        wait=tenacity.wait_exponential(multiplier=first_wait, max=10),
        before_sleep=lambda state: print(f"{shown}: attempt {state.attempt_number} failed, trying again", flush=True),
        reraise=True,
    )
    try:
        retrying(fetch)
    except minio.error.S3Error as error:
        if transient(error):
            raise RuntimeError(f"{shown} at {endpoint} failed {attempts} times: {error.code}; try later") from None
        raise ValueError(
            f"{shown} at {endpoint} was refused ({error.code}): check the bucket, the key and AWS_ACCESS_KEY_ID"
        ) from None
    except (urllib3.exceptions.HTTPError, minio.error.ServerError, OSError) as error:
        raise RuntimeError(
            f"{shown} at {endpoint} could not be downloaded in {attempts} attempts: {type(error).__name__}; "
            "is AWS_ENDPOINT_URL right?"
        ) from None


def file_sha256(path: str) -> str:
    """Returns the SHA-256 of a file, as 64 hexadecimal digits."""
    import hashlib

    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


HELPERS = [fetch_source, download_http, download_s3, file_sha256]
