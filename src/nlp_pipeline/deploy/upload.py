"""A release in an object store, where KServe reads it: it is sent there whole, or found there."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.release import RECORD, Release, parse_record
from nlp_pipeline.storage import s3_call, s3_client, s3_endpoint

PART_SIZE = 16 * 2**20  # bytes; files above are sent in parts, three at once
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


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

    def problems(self, folder: Path, release: Release) -> dict[str, str]:
        """Returns what is wrong with its files by their names; those that are as they should be are left out."""
        problems = {}
        for name, sha256 in release.files.items():
            stat = self._call(name, "read", self.client.stat_object)
            if stat is None:
                problems[name] = "is missing"
            elif (stat.size, stat.metadata.get("x-amz-meta-sha256")) != ((folder / name).stat().st_size, sha256):
                problems[name] = "is altered"
        return problems

    def send(self, folder: Path, name: str, **metadata: str) -> int:
        """Sends a file, and returns its size in bytes."""
        path, put = folder / name, self.client.fput_object
        try:
            self._call(name, "sent", lambda *place: put(*place, str(path), metadata=metadata, part_size=PART_SIZE))
            return path.stat().st_size
        except OSError as error:
            raise PipelineError(f"{path} can't be read ({error.strerror or error}): may this user read it?") from None


def upload(folder: Path, release: Release, uri: str) -> int:
    """Sends a release to an object store, release.json last; what is there already, as it should be, is not sent.

    Each object carries the SHA-256 of its content as metadata, so that it can be checked without being read. Returns
    the number of bytes sent.
    """
    missing = [name for name in CREDENTIALS if not os.environ.get(name)]
    if missing:
        raise UsageError(
            f"{' and '.join(missing)} must be set in the environment to upload to {uri}, and AWS_ENDPOINT_URL where "
            "the object store is not Amazon's; the step has them from the Secret that s3_secret names"
        )
    stored = StoredRelease(uri, s3_client())
    # The same release made twice has two records, which differ in the run and the time: either will do.
    sealed, problems = stored.record(), stored.problems(folder, release)
    if sealed and sealed.files != release.files:
        raise UsageError(
            f"{uri} holds another release under the same digest, by its release.json: "
            "remove it there, or set model_store to another place"
        )
    if sealed and not problems:
        print(f"{uri} is there already: nothing is sent", flush=True)
        return 0
    sent = 0
    for name, problem in problems.items():
        if sealed or problem != "is missing":
            print(f"{uri}: {name} {problem} there, and is sent again", flush=True)
        sent += stored.send(folder, name, sha256=release.files[name])
    remaining = stored.problems(folder, release)
    if not remaining and not sealed:
        sent += stored.send(folder, RECORD)
        remaining = {} if stored.record() else {RECORD: "is altered"}
    for name, problem in remaining.items():
        raise PipelineError(f"{uri}/{name} {problem} after it was sent: does something else write there?")
    print(f"{uri}: sent {len(problems)} of {len(release.files)} files, {sent / 1e6:.1f} MB", flush=True)
    return sent
