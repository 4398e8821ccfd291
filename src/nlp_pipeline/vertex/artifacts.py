"""`--download` on Vertex AI: a run's artifacts, from Cloud Storage to a folder."""

import base64
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from nlp_pipeline.errors import PipelineError
from nlp_pipeline.platforms.downloads import Item, fetch_missing
from nlp_pipeline.settings import Settings
from nlp_pipeline.vertex.connection import Connection, connect
from nlp_pipeline.vertex.pipelines import get_run
from nlp_pipeline.vertex.runs import state_of, task_details


def download(settings: Settings, run_id: str, folder: Path, dry_run: bool) -> dict[str, Any]:
    """Downloads a run's artifacts; files that are there already, and whole, are not fetched again.

    Returns:
        What `fetch_missing` does.

    Raises:
        NotFoundError: The run has no artifacts yet, or Cloud Storage does not know their bucket.
        UsageError: There is no such run, Google refuses, or a file is in the way.
        PipelineError: Google can't be reached, or fails; or a file can't be written.
    """
    connection = connect(settings)
    run = get_run(connection, run_id)
    objects = []
    for place, uri in artifacts_of(run):
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        listing = partial(connection.storage.list_blobs, bucket, prefix=name, retry=None)
        for blob in connection.call(f"listing {uri}", listing):
            if blob.name != name and not blob.name.startswith(f"{name}/"):
                continue  # it only begins alike
            key = f"gs://{bucket}/{blob.name}"
            # One that was put together of others has no MD5.
            etag = base64.b64decode(blob.md5_hash).hex() if blob.md5_hash else str(blob.generation)
            objects.append(Item(key, place + key.removeprefix(uri), blob.size or 0, etag))
    about = {"run_id": run_id, "state": state_of(run), "source": run.runtime_config.gcs_output_directory}
    return fetch_missing(about, objects, folder, partial(receive, connection), dry_run)


def artifacts_of(run: Any) -> Iterator[tuple[str, str]]:
    """Yields for each artifact of a run its path below the target folder and its address; once what is handed on."""
    known = set()
    for task, detail in task_details(run).items():
        for output, listed in sorted(detail.outputs.items()) if detail else ():
            for at, artifact in enumerate(listed.artifacts):
                if artifact.uri.startswith("gs://") and artifact.uri not in known:
                    known.add(artifact.uri)
                    yield f"{task}/{output}" + (f"-{at + 1}" if at else ""), artifact.uri.rstrip("/")


def receive(connection: Connection, item: Item, part: Path, show: Callable[[int], None]) -> bool:
    """Receives a file, which Google's library checks against its checksum; see `platforms.downloads.Receive`."""
    from google.cloud.storage import Blob
    from google.cloud.storage.exceptions import DataCorruption

    send = Blob.from_uri(item.key, connection.storage).download_to_filename
    try:
        connection.call(f"fetching {item.key}", send, filename=str(part), retry=None)
    except DataCorruption:
        raise PipelineError(f"{item.key} came otherwise than its checksum says: try later") from None
    show(item.size)
    return False
