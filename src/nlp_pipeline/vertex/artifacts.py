"""`--download` on Vertex AI: a run's artifacts, from Cloud Storage to a folder."""

import base64
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from nlp_pipeline.errors import PipelineError
from nlp_pipeline.platforms.calls import NotFoundError
from nlp_pipeline.platforms.downloads import ODD_NAME, Item, Target, check_content, fetch_missing
from nlp_pipeline.settings import Settings
from nlp_pipeline.vertex.connection import Connection, connect
from nlp_pipeline.vertex.pipelines import get_run
from nlp_pipeline.vertex.runs import state_of, task_details


def download(settings: Settings, run_id: str, folder: Path, dry_run: bool) -> dict[str, Any]:
    """Downloads a run's artifacts; files that are there already, and whole, are not fetched again.

    Returns:
        `run_id`, `state` (of the run), `source` (where the files lie); and what `fetch_missing` returns.

    Raises:
        NotFoundError: It has no artifacts (yet).
        UsageError: There is no such run, or the folder is another run's.
        PipelineError: A file could not be fetched or written.
    """
    connection = connect(settings)
    run = get_run(connection, run_id)
    items, left_out = [], []
    for place, uri in artifacts_of(run):
        for blob in list_blobs(connection, uri):
            path = place + f"gs://{blob.bucket.name}/{blob.name}".removeprefix(uri)
            if any(ODD_NAME.fullmatch(part) for part in path.split("/")):
                left_out.append(repr(blob.name))
                continue
            # One that was put together of others has no MD5.
            etag = base64.b64decode(blob.md5_hash).hex() if blob.md5_hash else str(blob.generation)
            items.append(Item(f"{blob.bucket.name}/{blob.name}", path, blob.size or 0, etag))
    about = {"run_id": run_id, "state": state_of(run), "source": run.runtime_config.gcs_output_directory}
    if not items and not left_out:
        raise NotFoundError(f"run {run_id} has no artifacts (yet) in {about['source']}: it is {about['state']}")
    items.sort(key=lambda item: item.path)
    return {**about, **fetch_missing(run_id, items, left_out, folder, partial(fetch, connection), dry_run)}


def artifacts_of(run: Any) -> Iterator[tuple[str, str]]:
    """Yields for each artifact of a run its path below the target folder and its address; once what is handed on."""
    known = set()
    for task, detail in task_details(run).items():
        for output, listed in sorted(detail.outputs.items()) if detail else ():
            for at, artifact in enumerate(listed.artifacts):
                if artifact.uri.startswith("gs://") and artifact.uri not in known:
                    known.add(artifact.uri)
                    yield f"{task}/{output}" + (f"-{at + 1}" if at else ""), artifact.uri.rstrip("/")


def list_blobs(connection: Connection, uri: str) -> list[Any]:
    """Returns the objects of an artifact: of its very name, or below it."""
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    listing = partial(connection.storage.list_blobs, bucket, prefix=name, retry=None)
    blobs = [
        blob
        for blob in connection.call(f"listing {uri}", listing)
        if blob.name == name or blob.name.startswith(f"{name}/")
    ]
    return [blob for blob in blobs if blob.size or not blob.name.endswith("/")]  # what some clients make for a folder


def fetch(connection: Connection, item: Item, target: Target, show: Callable[[int], None]) -> str:
    """Fetches a file, which Google's library checks against its checksum; see `platforms.downloads.Fetch`."""
    from google.cloud.storage.exceptions import DataCorruption

    part = target.part(item)
    bucket, _, name = item.key.partition("/")
    send = connection.storage.bucket(bucket).blob(name).download_to_filename
    try:
        connection.call(f"fetching gs://{item.key}", send, filename=str(part), retry=None)
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
