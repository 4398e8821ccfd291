"""A release in an object store, where KServe reads it: it is sent there whole, or found there."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlp_pipeline.errors import UsageError
from nlp_pipeline.release import RECORD, Release, parse_record
from nlp_pipeline.storage import s3_call, s3_client, s3_endpoint

PART_SIZE = 16 * 2**20  # bytes; files above are sent in parts, three at once


@dataclass(frozen=True)
class StoredRelease:
    """The place of a release in an object store: s3://bucket/folder/model/releases/digest, and a `minio.Minio`."""

    uri: str
    client: Any

    def _call(self, name: str, task: str, function: Callable[[str, str], Any]) -> Any:
        """Calls something with the bucket and the key of one of the release's files; None where that is not there."""
        import minio

        bucket, _, key = f"{self.uri}/{name}".removeprefix("s3://").partition("/")

        def attempt() -> Any:
            try:
                return function(bucket, key)
            except minio.error.S3Error as error:
                if error.code != "NoSuchKey":
                    raise
                return None

        return s3_call(attempt, f"{self.uri}/{name} at {s3_endpoint()}", task)

    def record(self) -> Release | None:
        """Returns what its release.json says; None where there is none, or a spoilt one."""

        def read(*place: str) -> bytes:
            with self.client.get_object(*place) as response:
                return bytes(response.read())

        return parse_record(self._call(RECORD, "read", read) or b"")

    def has(self, path: Path, name: str, sha256: str) -> bool:
        """Says whether a file is there as it is here."""
        stat = self._call(name, "read", self.client.stat_object)
        return bool(stat) and (stat.size, stat.metadata.get("x-amz-meta-sha256")) == (path.stat().st_size, sha256)

    def send(self, path: Path, name: str, **metadata: str) -> None:
        """Sends a file."""
        put = self.client.fput_object
        self._call(name, "sent", lambda *place: put(*place, str(path), metadata=metadata, part_size=PART_SIZE))


def upload(folder: Path, release: Release, uri: str) -> None:
    """Sends a release to an object store, release.json last; what is there already, as it should be, is not sent.

    Each object carries the SHA-256 of its content as metadata, so that it can be checked without being read.
    """
    if not os.environ.get("AWS_SECRET_ACCESS_KEY"):
        raise UsageError(
            f"to upload to {uri}, set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; steps have them from s3_secret"
        )
    stored = StoredRelease(uri, s3_client())
    files = {name: sha256 for name, sha256 in release.files.items() if not stored.has(folder / name, name, sha256)}
    print(f"{uri}: sending {len(files)} of {len(release.files)} files", flush=True)
    for name, sha256 in files.items():
        stored.send(folder / name, name, sha256=sha256)
    # The same release made twice has two records, which differ in the run and the time: either will do.
    record = stored.record()
    if record is None or record.files != release.files:
        stored.send(folder / RECORD, RECORD)
