"""Where results go: a folder, or a bucket of an object store. A file appears there whole or not at all."""

import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.storage import s3_call, s3_client, s3_endpoint
from nlp_pipeline.volume import put


class Folder:
    """A folder, which is made where it is not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            writable = os.access(path, os.W_OK)
        except OSError as error:
            raise UsageError(f"{path} can't be made ({error.strerror}): name another folder") from None
        if not writable:
            raise UsageError(f"{path} can't be written to: name another folder, or let user {os.getuid()} write there")

    def names(self) -> set[str]:
        """Returns what lies there, but for what a process that was killed has left."""
        return {path.name for path in self.path.iterdir() if not path.name.startswith(".incoming-")}

    def read(self, name: str) -> bytes | None:
        """Returns a file's content; None where it is not there."""
        with contextlib.suppress(FileNotFoundError):
            return (self.path / name).read_bytes()
        return None

    def clean(self) -> None:
        """Removes what a process that was killed has left."""
        for path in self.path.glob(".incoming-*"):
            shutil.rmtree(path, ignore_errors=True)

    def write(self, source: Path, name: str) -> None:
        """Copies a file there."""
        try:
            put(source, self.path / name)
        except OSError as error:
            raise PipelineError(
                f"{self.path / name} can't be written ({error.strerror}): make room, and run it again"
            ) from None


class Bucket:
    """A folder of an object store that speaks S3, with the credentials of the environment."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket, self.prefix, self.client = bucket, f"{prefix.strip('/')}/".lstrip("/"), s3_client()
        self.shown = f"s3://{bucket}/{self.prefix} at {s3_endpoint()}"

    def names(self) -> set[str]:
        """Returns what lies there."""
        found = s3_call(lambda: list(self.client.list_objects(self.bucket, self.prefix)), self.shown, "listed")
        return {str(item.object_name).removeprefix(self.prefix).rstrip("/") for item in found}

    def read(self, name: str) -> bytes | None:
        """Returns an object's content; None where it is not there."""
        if name not in self.names():
            return None

        def fetch() -> Any:
            with contextlib.closing(self.client.get_object(self.bucket, self.prefix + name)) as response:
                return response.read()

        return bytes(s3_call(fetch, f"{self.shown}: {name}", "read"))

    def clean(self) -> None:
        """Does nothing: an object is there whole, or not at all."""

    def write(self, source: Path, name: str) -> None:
        """Uploads a file."""
        key = self.prefix + name
        s3_call(lambda: self.client.fput_object(self.bucket, key, str(source)), f"{self.shown}: {name}", "written")


def open_destination(to: str) -> Folder | Bucket:
    """Returns where results go, by its address."""
    scheme, is_url, rest = to.partition("://")
    if not is_url:
        return Folder(Path(to))
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{2,62}", bucket) or not prefix.strip("/"):
        raise UsageError(f"results can't go to {scheme[:20]}://: name a folder, or s3://bucket/folder")
    return Bucket(bucket, prefix)
