"""A release in an object store, where KServe reads it: it is sent there whole, or found there."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.release import RECORD, Release, parse_record
from nlp_pipeline.storage import s3_call, s3_client, s3_endpoint

PART_SIZE = 16 * 2**20  # bytes; files above are sent in parts, three at once
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@dataclass(frozen=True)
class StoredRelease:
    """The place of a release in an object store.

    Attributes:
        uri: s3://bucket/folder/model/releases/digest.
        client: A `minio.Minio`.
    """

    uri: str
    client: Any

    def call(self, name: str, task: str, function: Callable[..., Any], **values: Any) -> Any:
        """Calls a method of the client for one of the release's files, with retries."""
        bucket, _, key = f"{self.uri}/{name}".removeprefix("s3://").partition("/")
        return s3_call(partial(function, bucket, key, **values), f"{self.uri}/{name} at {s3_endpoint()}", task)

    def find(self, name: str, task: str, function: Callable[..., Any]) -> Any:
        """Does the same, and returns None where the file is not there."""
        import minio

        def find(*place: str) -> Any:
            try:
                return function(*place)
            except minio.error.S3Error as error:
                if error.code != "NoSuchKey":
                    raise
                return None

        return self.call(name, task, find)

    def record(self) -> Release | None:
        """Returns what its release.json says; None where there is none, or a spoilt one."""

        def read(*place: str) -> bytes:
            with self.client.get_object(*place) as response:
                return bytes(response.read())

        content = self.find(RECORD, "read", read)
        return None if content is None else parse_record(content)

    def is_sealed(self, release: Release) -> bool:
        """Says whether its release.json is that of a release, which says that the release was put there whole.

        The same release made twice has two records, which differ in the run and the time: either will do.
        """
        found = self.record()
        if found is None:
            return False
        if found.files != release.files:
            raise UsageError(
                f"{self.uri} holds another release under the same digest, by its release.json: "
                "remove it there, or set model_store to another place"
            )
        return (found.digest, found.model_name) == (release.digest, release.model_name)

    def problems(self, folder: Path, release: Release) -> dict[str, str]:
        """Returns what is wrong with its files by their names; those that are as they should be are left out."""
        found = {}
        for name, sha256 in release.files.items():
            there = self.find(name, "read", self.client.stat_object)
            whole = (folder / name).stat().st_size, sha256
            if there is None:
                found[name] = "is missing"
            elif (there.size, there.metadata.get("x-amz-meta-sha256")) != whole:
                found[name] = "is altered"
        return found

    def send(self, path: Path, name: str, metadata: dict[str, str]) -> int:
        """Sends a file, and returns its size in bytes."""
        put = partial(self.client.fput_object, file_path=str(path), metadata=metadata, part_size=PART_SIZE)
        try:
            self.call(name, "sent", put)
            return path.stat().st_size
        except OSError as error:
            raise PipelineError(f"{path} can't be read ({error.strerror or error}): may this user read it?") from None


def upload(folder: Path, release: Release, uri: str) -> int:
    """Sends a release to an object store, release.json last; what is there already, as it should be, is not sent.

    Each object carries the SHA-256 of its content as metadata, so that it can be checked without being read.

    Args:
        folder: The release's folder.
        release: Its record.
        uri: s3://bucket/folder/model/releases/digest.

    Returns:
        The number of bytes sent; 0 where the release was there.

    Raises:
        UsageError: There are no credentials, another release lies there, or there is no such bucket.
        PipelineError: The object store can't be reached or refuses, or does not hold what was sent.
    """
    missing = [name for name in CREDENTIALS if not os.environ.get(name)]
    if missing:
        raise UsageError(
            f"{' and '.join(missing)} must be set in the environment to upload to {uri}, and AWS_ENDPOINT_URL where "
            "the object store is not Amazon's; the step has them from the Secret that s3_secret names"
        )
    stored = StoredRelease(uri, s3_client())
    is_sealed, problems = stored.is_sealed(release), stored.problems(folder, release)
    if is_sealed and not problems:
        print(f"{uri} is there already: nothing is sent", flush=True)
        return 0
    sent = 0
    for name, problem in problems.items():
        if is_sealed or problem != "is missing":
            print(f"{uri}: {name} {problem} there, and is sent again", flush=True)
        sent += stored.send(folder / name, name, {"sha256": release.files[name]})
    altered = stored.problems(folder, release)
    if not altered and not is_sealed:
        sent += stored.send(folder / RECORD, RECORD, {})
        altered = {} if stored.is_sealed(release) else {RECORD: "is altered"}
    for name, problem in altered.items():
        raise PipelineError(f"{uri}/{name} {problem} after it was sent: does something else write there?")
    print(f"{uri}: sent {len(problems)} of {len(release.files)} files, {sent / 1e6:.1f} MB", flush=True)
    return sent
