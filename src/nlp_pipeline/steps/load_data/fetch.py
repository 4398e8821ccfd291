"""Lists the files of a source, and brings each to a local file.

Addresses are paths, `file://`, `http(s)://`, `s3://`, `gs://` or, of a Hugging Face hub, `hf://`.
"""

import contextlib
import glob
import logging
import re
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.installed import import_installed
from nlp_pipeline.steps.load_data.rows import FORM, Source
from nlp_pipeline.steps.load_data.settings import split_addresses
from nlp_pipeline.storage import retrying, s3_call, s3_client, s3_endpoint

# The module that knows a hub, and what needs it.
HUB = ("steps.load_data.hub", "hf://")
# Where Vertex AI mounts the buckets of Cloud Storage into every step.
BUCKETS = Path("/gcs")


def list_sources(data: str) -> list[str]:
    """Returns the address of each file that data consists of, once, for `fetch_source`.

    `data` is an address or a JSON list of them, where an address may be a folder, a prefix (`s3://bucket/folder/`), or
    a pattern with `*`. Of these come, in order of their names, the files that end as files of rows do; but none whose
    name, or a folder's of theirs, begins with a dot or an underscore.
    """
    return list(dict.fromkeys(file for address in split_addresses(data) for file in _list_files(address)))


def _list_files(address: str) -> list[str]:
    scheme, _, rest = address.partition("://")
    bucket, _, key = rest.partition("/")
    path, begin = _local_path(address), ""
    if path and path.is_dir():
        start, names = str(path), [str(file) for file in path.rglob("*")]
    elif path and "*" in str(path) and not path.exists():
        start, names = str(path).partition("*")[0], glob.glob(str(path), recursive=True)  # noqa: PTH207, it lists files for **
    elif scheme.lower() == "s3" and (rest.endswith("/") or "*" in key):
        start, begin = key.partition("*")[0], f"s3://{bucket}/"
        names = [name for name in _list_s3(bucket, start) if fnmatchcase(name, key if "*" in key else f"{key}*")]
    elif scheme.lower() == "hf" and ("*" in rest or not FORM.search(rest)):
        start, names = "hf://datasets/", import_installed(*HUB).list_files(address)
    else:
        return [address]
    files = [begin + name for name in names if FORM.search(name) and not re.search(r"(^|/)[._]", name[len(start) :])]
    if not files:
        raise UsageError(f"{address!r} has no CSV, TSV, JSONL or Parquet file: is it right?")
    return sorted(files)


def _local_path(address: str) -> Path | None:
    """Returns where a path, `file://` or `gs://` lies; None for any other address."""
    scheme, is_url, rest = address.partition("://")
    if not is_url:
        return Path(address)
    if scheme.lower() == "file":
        return Path(unquote(rest.removeprefix("localhost")))
    return BUCKETS / rest if scheme.lower() == "gs" else None


def fetch_source(address: str, target: Path) -> Source:
    """Makes a file available locally, a download at `target`; its name has no user, password and query."""
    scheme, _, rest = address.partition("://")
    scheme = scheme.lower()
    if path := _local_path(address):
        source = Source(path, str(path) if scheme == "file" else address)
        try:
            with path.open("rb"):
                return source
        except OSError as error:
            advice = "give a CSV, TSV, JSONL or Parquet file"
            if scheme == "gs":
                advice = f"only Vertex AI has buckets, at {BUCKETS}; may the run's service account read it?"
            raise UsageError(f"{source.name!r} can't be read ({error.strerror}): {advice}") from None
    if scheme == "hf":
        source = Source(target, address)
        import_installed(*HUB).download(address, source)
        return source
    if scheme in ("http", "https"):
        return download_http(address, Source(target, without_secrets(address)))
    if scheme != "s3":
        # The rest of an address that isn't understood may hold a password, so it isn't shown.
        raise UsageError(
            f"the source starts with {scheme[:20]!r}://: use a path, file://, http(s)://, s3://, gs:// or hf://"
        )
    bucket, _, key = rest.partition("/")
    _check_bucket(bucket)
    return _download_s3(bucket, key, Source(target, f"s3://{bucket}/{key}"))


def _check_bucket(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{2,62}", name):
        raise UsageError("the bucket's name is wrong: write s3://bucket/key, and set AWS_ACCESS_KEY_ID to sign in")


def without_secrets(url: str) -> str:
    """Returns a URL as it may be shown: without user and password, and without its query, which may be a signature."""
    import httpx

    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if not parsed.host:
        raise UsageError(
            "the source's address has no host, or can't be read: write it as in https://host/reviews.csv, with '/', "
            "'?', '#' and '@' in a user or password percent-encoded"
        )
    return str(parsed.copy_with(userinfo=b"", query=None, fragment=None))


def download_http(url: str, source: Source, headers: dict[str, str] | None = None) -> Source:
    """Downloads a file, and makes sure that it came whole; redirects are followed, TLS is verified.

    Connection errors, broken transfers and the statuses 408, 429 and 5xx are tried again; any other status is final.
    """
    import httpx

    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs whole URLs, signatures too
    headers, timeout = {"Accept-Encoding": "identity", **(headers or {})}, httpx.Timeout(60, connect=10)

    @retrying(source.name)
    def fetch() -> None:
        with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=timeout) as response:
            status = response.status_code
            if status in (408, 429) or status >= 500:
                raise httpx.NetworkError(f"it answered {status}")
            if status != 200:
                answer = f"{status} {response.reason_phrase}"
                raise UsageError(f"{source.name} answered {answer}: is the address right, and may it be read?")
            # Raw: some servers declare a stored .gz file as an encoding. Where fewer bytes arrive than Content-Length
            # promised, httpx raises RemoteProtocolError.
            with source.path.open("wb") as file:
                file.writelines(response.iter_raw(1 << 20))

    try:
        fetch()
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise PipelineError(f"{source.name} could not be downloaded ({reason}): is its host right, and up?") from None
    return source


def _download_s3(bucket: str, key: str, source: Source) -> Source:
    """Downloads an object, and makes sure that it came whole; `s3_client` says whence the credentials are."""
    client = s3_client()

    def fetch() -> None:
        # Where fewer bytes arrive than promised, urllib3 raises IncompleteRead.
        with contextlib.closing(client.get_object(bucket, key)) as response, source.path.open("wb") as file:
            file.writelines(response.stream(1 << 20, decode_content=False))

    s3_call(fetch, f"{source.name!r} at {s3_endpoint()}", "downloaded")  # a key may hold line breaks
    return source


def _list_s3(bucket: str, prefix: str) -> list[str]:
    """Returns the keys below a prefix, those of its folders too."""
    _check_bucket(bucket)
    client = s3_client()

    def fetch() -> list[str]:
        return [str(item.object_name) for item in client.list_objects(bucket, prefix, recursive=True)]

    return s3_call(fetch, f"{f's3://{bucket}/{prefix}'!r} at {s3_endpoint()}", "listed")
