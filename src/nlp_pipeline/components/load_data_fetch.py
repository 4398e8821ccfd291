"""How `load_data` brings a source to a local file: a path, `file://`, `http(s)://`, `s3://` or `gs://`.

Hermetic helpers, inlined into the step as `additional_funcs`.
"""

from nlp_pipeline.components.load_data_rows import format_of_name
from nlp_pipeline.storage import ATTEMPTS, retrying, s3_call, s3_client, s3_endpoint


def fetch_source(source: str, folder: str) -> tuple[str, str]:
    """Makes a source available as a local file.

    Args:
        source: A path, or a URL that starts with file://, http://, https://, s3:// or gs://.
        folder: Where a download is put.

    Returns:
        The path of the local file; and the source's name as it may be shown and kept: its path, or its URL without
        user, password and query. Its end tells the format.

    Raises:
        ValueError: The source is not there or of an unknown kind.
        RuntimeError: A download failed for good.
    """
    import os
    import re

    scheme, is_url, rest = source.partition("://")
    scheme = scheme.lower()
    if not is_url or scheme == "file":
        path = file_path(source)
        return path, path
    if scheme == "gs":
        return mounted_path(source), source
    target = os.path.join(folder, "download")
    if scheme in ("http", "https"):
        name = shown_url(source)
        format_of_name(name)  # a wrong name shows before a long download
        download_http(source, target)
    elif scheme == "s3":
        bucket, _, key = rest.partition("/")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{2,62}", bucket):
            raise ValueError("the bucket's name is wrong: write s3://bucket/key, and set AWS_ACCESS_KEY_ID to sign in")
        name = f"s3://{bucket}/{key}"
        format_of_name(key)
        download_s3(bucket, key, target)
    else:
        # The rest of an address that isn't understood may hold a password, so it isn't shown.
        raise ValueError(f"the source starts with {scheme[:20]!r}://: use a path, file://, http(s)://, s3:// or gs://")
    return target, name


def file_path(source: str) -> str:
    """Returns the path of a local file.

    Args:
        source: A path, or a URL such as file:///data/reviews.csv.

    Raises:
        ValueError: The file is not there, is no file, or may not be read.
    """
    import os
    from urllib.parse import unquote

    path = source
    if "://" in source:
        host, _, rest = source.partition("://")[2].partition("/")
        if host not in ("", "localhost"):
            raise ValueError(
                f"{source!r} names the host {host!r}: a file URL has three slashes, as in file:///data.csv"
            )
        path = "/" + unquote(rest)
    if not os.path.isfile(path):
        kind = "a folder, not a file" if os.path.isdir(path) else "not there"
        raise ValueError(f"{source!r} is {kind}: give the path of a CSV, TSV, JSONL or Parquet file")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{source!r} may not be read by this user: change its permissions")
    return path


def mounted_path(source: str, mount: str = "/gcs") -> str:
    """Returns the path of an object in Cloud Storage, whose buckets Vertex AI mounts into every step.

    Args:
        source: gs://bucket/object.
        mount: The folder that holds the buckets.

    Raises:
        ValueError: Buckets are not mounted here, or the object is not there.
    """
    import os

    if not os.path.isdir(mount):
        raise ValueError(
            f"{source!r} is read through {mount}, where Vertex AI mounts buckets, and here is none: copy it"
        )
    path = os.path.join(mount, source.partition("://")[2])
    if not os.path.isfile(path):
        raise ValueError(f"{source!r} is not there, or the run's service account may not read it")
    return path


def shown_url(url: str) -> str:
    """Returns a URL as it may be shown: without user and password, and without its query, which may be a signature.

    Raises:
        ValueError: It has no host, or can't be read; the message does not show it, as it may hold a password.
    """
    import re

    scheme, _, rest = url.partition("://")
    host, _, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    host = host.rpartition("@")[2]
    if not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:@\[\]\\]+)(:[0-9]{1,5})?", host) or not url.isprintable():
        raise ValueError(
            f"an address that starts with {scheme}:// has no host, or can't be read: write "
            f"{scheme}://host/reviews.csv, with '/', '?', '#' and '@' in a user or password percent-encoded"
        )
    return f"{scheme}://{host}/{path}"


def download_http(url: str, target: str) -> None:
    """Downloads a file over HTTP, with retries, and makes sure that it came whole.

    Connection errors, broken transfers and the statuses 408, 429 and 5xx are tried again; any other status is final.

    Args:
        url: The address; redirects are followed, TLS is verified.
        target: The file to write.
        attempts: How often it is tried.
        first_wait: Seconds before the second attempt; doubled each time, 10 at most.

    Raises:
        ValueError: The address is wrong, or the server refuses (a 4xx status).
        RuntimeError: The download failed on every attempt.
    """
    import logging

    import httpx

    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs whole URLs, signatures too
    shown = shown_url(url)
    headers = {"Accept-Encoding": "identity"}
    timeout = httpx.Timeout(60, connect=10)

    def fetch() -> None:
        with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=timeout) as response:
            if response.status_code in (408, 429) or response.status_code >= 500:
                response.raise_for_status()
            if response.status_code != 200:
                answer = f"{response.status_code} {response.reason_phrase}"
                raise ValueError(f"{shown} answered {answer}: is the address right, and may it be read?")
            # Some servers declare a stored .gz file as an encoding, to be undone: it is wanted as it is.
            chunks = response.iter_raw if shown.lower().endswith(".gz") else response.iter_bytes
            with open(target, "wb") as file:
                # httpx raises RemoteProtocolError where fewer bytes arrive than Content-Length promised.
                for chunk in chunks(1 << 20):
                    file.write(chunk)

    def transient(error: BaseException) -> bool:
        return isinstance(error, (httpx.TransportError, httpx.HTTPStatusError))

    try:
        retrying(transient, shown)(fetch)()
    except httpx.HTTPStatusError as error:
        raise RuntimeError(f"{shown} answered {error.response.status_code} {ATTEMPTS} times; try later") from None
    except httpx.InvalidURL:
        raise ValueError(f"{shown} is no valid address: percent-encode what is no letter or digit") from None
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise RuntimeError(f"{shown} could not be downloaded ({reason}): is its host right, and up?") from None
    except OSError as error:
        raise RuntimeError(f"{shown} could not be written to {target}: {error.strerror}") from None


def download_s3(bucket: str, key: str, target: str) -> None:
    """Downloads an object with the `minio` client, with retries, and makes sure that it came whole.

    The endpoint and the credentials come from the environment, as `s3_endpoint` and `s3_client` tell.

    Args:
        bucket: The bucket.
        key: The object's key.
        target: The file to write.
        attempts: How often it is tried.
        first_wait: Seconds before the second attempt; doubled each time, 10 at most.

    Raises:
        ValueError: There is no such bucket or object.
        RuntimeError: The object store refuses, or the download failed on every attempt.
    """
    endpoint = s3_endpoint()
    client = s3_client()
    shown = f"{f's3://{bucket}/{key}'!r} at {endpoint}"  # a key may hold line breaks

    def fetch() -> None:
        response = client.get_object(bucket, key)
        try:
            with open(target, "wb") as file:
                # A .gz object is wanted as it is. urllib3 raises IncompleteRead where fewer bytes arrive than promised.
                for chunk in response.stream(1 << 20, decode_content=not key.lower().endswith(".gz")):
                    file.write(chunk)
        finally:
            response.close()

    try:
        s3_call(fetch, shown, "downloaded")
    except OSError as error:
        raise RuntimeError(f"{shown} could not be written to {target}: {error.strerror}") from None


def file_sha256(path: str) -> str:
    """Returns the SHA-256 of a file, as 64 hexadecimal digits."""
    import hashlib

    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
