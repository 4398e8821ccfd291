"""`--download` on Vertex AI: a run's artifacts, from Cloud Storage to a folder."""

import base64
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from nlp_pipeline.errors import PipelineError
from nlp_pipeline.platforms.calls import NotFoundError
from nlp_pipeline.platforms.downloads import ODD_NAME, Item, Target, check_content, fetch_missing
from nlp_pipeline.vertex.connection import Connection
from nlp_pipeline.vertex.runs import state_of
from nlp_pipeline.vertex.submitting import get_run
from nlp_pipeline.vertex.waiting import task_names


def download(connection: Connection, run_id: str, target: Path, dry_run: bool = False) -> dict[str, Any]:
    """Downloads a run's artifacts; files that are there already, and whole, are not fetched again.

    Args:
        connection: The connection.
        run_id: The run's id.
        target: The folder to download to.
        dry_run: Whether to tell only what would be fetched.

    Returns:
        `run_id`, `state` (of the run), `source` (where the files lie); and what `fetch_missing` returns.

    Raises:
        NotFoundError: It has no artifacts (yet).
        UsageError: There is no such run, or the folder is another run's.
        PipelineError: A file could not be fetched or written.
    """
    run = get_run(connection, run_id)
    storage = storage_of(connection)
    items, left_out = [], []
    for folder, uri in artifacts_of(run):
        for blob in blobs_of(connection, storage, uri):
            rest = blob.name.removeprefix(uri.partition("://")[2].partition("/")[2]).lstrip("/")
            path = f"{folder}/{rest}" if rest else folder
            if any(ODD_NAME.fullmatch(part) for part in path.split("/")):
                left_out.append(repr(blob.name))
            else:
                # One that was put together of others has no MD5.
                etag = base64.b64decode(blob.md5_hash).hex() if blob.md5_hash else ""
                items.append(
                    Item(f"{blob.bucket.name}/{blob.name}", path, blob.size or 0, etag or str(blob.generation))
                )
    state, source = state_of(run), run.runtime_config.gcs_output_directory
    if not items and not left_out:
        raise NotFoundError(f"run {run_id} has no artifacts (yet) in {source}: it is {state}")
    items.sort(key=lambda item: item.path)
    about = {"run_id": run_id, "state": state, "source": source}
    fetch_one = partial(fetch, connection, storage)
    return {**about, **fetch_missing(run_id, items, left_out, target, fetch_one, dry_run)}


def storage_of(connection: Connection) -> Any:
    """Returns the `google.cloud.storage.Client`."""
    from google.cloud import storage

    address = connection.address("storage")
    return storage.Client(connection.project, connection.credentials, client_options={"api_endpoint": address})


def artifacts_of(run: Any) -> Iterator[tuple[str, str]]:
    """Yields where each artifact of a run goes below the target folder, and its address, in the order of the steps.

    Args:
        run: What the API says of the run. An artifact that another step hands on is told once.
    """
    names = task_names(run)
    details = {names[one.task_name]: one for one in run.job_detail.task_details if one.task_name in names}
    told = set()
    for task in dict.fromkeys(names.values()):
        for output, found in sorted(details[task].outputs.items()) if task in details else ():
            for at, artifact in enumerate(found.artifacts):
                if artifact.uri.startswith("gs://") and artifact.uri not in told:
                    told.add(artifact.uri)
                    yield f"{task}/{output}" + (f"-{at + 1}" if at else ""), artifact.uri.rstrip("/")


def blobs_of(connection: Connection, storage: Any, uri: str) -> list[Any]:
    """Returns the objects of an artifact: of its very name, or below it."""
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    listed = connection.call(
        f"listing {uri}",
        lambda timeout: list(storage.list_blobs(bucket, prefix=name, timeout=timeout, retry=None)),
    )
    of_it = [one for one in listed if one.name == name or one.name.startswith(f"{name}/")]
    return [one for one in of_it if one.size or not one.name.endswith("/")]  # what some clients make for a folder


def fetch(connection: Connection, storage: Any, item: Item, target: Target, show: Callable[[int], None]) -> str:
    """Fetches a file; Google's library holds it against the checksum that it comes with.

    Args:
        connection: The connection.
        storage: The `google.cloud.storage.Client`.
        item: The file.
        target: The folder.
        show: Is told how many of its bytes are there.

    Returns:
        By what it was found right.

    Raises:
        PipelineError: It could not be fetched.
    """
    from google.cloud.storage.exceptions import DataCorruption

    part = target.part(item)
    bucket, _, name = item.key.partition("/")
    blob = storage.bucket(bucket).blob(name)

    def send(timeout: float) -> None:
        blob.download_to_filename(str(part), timeout=timeout, retry=None)

    try:
        connection.call(f"fetching gs://{item.key}", send)
    except DataCorruption:
        part.unlink(missing_ok=True)
        raise PipelineError(f"gs://{item.key} came otherwise than its checksum says: try later") from None
    how = check_content(part, item.size, item.etag)
    if not how:
        part.unlink()
        raise PipelineError(f"gs://{item.key} was altered while it was fetched: the same command again fetches it anew")
    target.accept(item, how)
    show(item.size)
    return how
