"""Data sets of a Hugging Face hub: `hf://datasets/OWNER/NAME[@REVISION][/PATH]`, as huggingface_hub writes them.

Only files of rows are read, through the hub's HTTP API; a data set's own code is not run. Where this package is
installed only: it does not travel with the steps.
"""

import os
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import quote

import httpx

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.steps.load_data.fetch import download_http
from nlp_pipeline.steps.load_data.rows import Source
from nlp_pipeline.storage import is_transient, retrying

ADDRESS = re.compile(r"(?i:hf)://datasets/([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.*))?", re.ASCII)
# The hub's own names of branches with a slash in them, as huggingface_hub has them in addresses.
BRANCHES = {"~parquet": "refs/convert/parquet"}


def list_files(address: str) -> list[str]:
    """Returns the addresses of a data set's files: of all, those below a folder, or those that fit a pattern.

    They name the revision's commit, so that what is listed is what is downloaded, and known later.
    """
    name, revision, path = _parse(address)
    api = f"{endpoint()}/api/datasets/{name}"
    commit = _read(f"{api}/revision/{quote(revision, safe='')}", address).json()["sha"]
    folder = path.partition("*")[0].rpartition("/")[0] if "*" in path else path.rstrip("/")
    tree = f"{api}/tree/{commit}/{quote(folder, safe='')}".rstrip("/")
    files = [item["path"] for item in _read_pages(f"{tree}?recursive=true", address) if item["type"] == "file"]
    pattern = path if "*" in path else "*"
    return [f"hf://datasets/{name}@{commit}/{file}" for file in files if fnmatchcase(file, pattern)]


def download(address: str, source: Source) -> None:
    """Downloads a file of a data set, and makes sure that it came whole."""
    name, revision, path = _parse(address)
    url = f"{endpoint()}/datasets/{name}/resolve/{quote(revision, safe='')}/{quote(path)}"
    try:
        download_http(url, source, _headers())
    except UsageError as error:
        raise UsageError(f"{error} {_advice(name)}") from None


def endpoint() -> str:
    """Returns the hub's address: as for huggingface_hub, HF_ENDPOINT's, or that of Hugging Face's own."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def _parse(address: str) -> tuple[str, str, str]:
    """Returns the name of a data set, its revision, and what is asked for in it."""
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise UsageError(f"{address!r} names no data set of the hub: write hf://datasets/OWNER/NAME, and /PATH in it")
    name, revision, path = match.groups(default="")
    return name, BRANCHES.get(revision, revision or "main"), path


def _headers() -> dict[str, str]:
    token = os.environ.get("HF_TOKEN", "").strip()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _advice(name: str) -> str:
    return f"A private one, or one with terms, needs the HF_TOKEN of someone who may read {endpoint()}/datasets/{name}"


def _read_pages(url: str, address: str) -> Iterator[Any]:
    """Yields what a list of the API has; a page names the next one."""
    while url:
        response = _read(url, address)
        yield from response.json()
        url = response.links.get("next", {}).get("url", "")


def _read(url: str, address: str) -> httpx.Response:
    """Returns the API's answer."""

    @retrying(address)
    def ask() -> httpx.Response:
        answer = httpx.get(url, headers=_headers(), follow_redirects=True, timeout=httpx.Timeout(60, connect=10))
        return answer.raise_for_status()

    try:
        return ask()
    except httpx.HTTPStatusError as error:
        answer = error.response
        status = f"{answer.status_code} ({answer.headers.get('X-Error-Code') or answer.reason_phrase})"
        if is_transient(error):
            raise PipelineError(f"{address}: the hub at {endpoint()} answered {status}: try later") from None
        raise UsageError(
            f"{address}: the hub answered {status}: are name, revision and path right? {_advice(_parse(address)[0])}"
        ) from None
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise PipelineError(
            f"{address}: the hub at {endpoint()} can't be asked ({reason}): is it reachable from the step's pod? "
            "HF_ENDPOINT names another"
        ) from None
