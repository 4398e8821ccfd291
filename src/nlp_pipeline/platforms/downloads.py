"""`--download`: a run's files, from wherever they lie to a folder; what was interrupted goes on where it ended."""

import hashlib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.platforms.calls import NotFoundError

# A colon may name another drive or stream on Windows.
ODD_NAME = re.compile(r"\.{0,2}|.*[\x00-\x1f\x7f-\x9f\\:].*", re.DOTALL)
ANEW = "the same command again fetches it anew"
# The artifacts that people want, and which task's output each is.
KINDS = {
    "report": ("evaluate-model", "report"),
    "metrics": ("evaluate-model", "metrics"),
    "model": ("train-model", "model"),
    "archive": ("archive-model", "release"),
}


@dataclass(frozen=True)
class Item:
    """A file of an artifact: where it lies, its path below the target folder, its size in bytes, its unquoted ETag."""

    key: str
    path: str
    size: int
    etag: str


# Receives a file at a path, where its beginning may be already, and reports how many bytes are there; returns whether
# it was encrypted, so that its ETag is no MD5.
Receive = Callable[[Item, Path, Callable[[int], None]], bool]


def fetch_missing(
    about: dict[str, Any], objects: list[Item], folder: Path, receive: Receive, dry_run: bool
) -> dict[str, Any]:
    """Fetches the files of a run that are not whole in a folder yet; those that can't be files here are left out.

    `about` has the run's `run_id`, `state` and `source` (where its files lie); `objects` are the files there.

    Returns:
        `about`, and `folder`, `files` and `bytes` (of all of them), `fetched_files` and `fetched_bytes` (what this call
        fetched, or would in a dry run), `artifacts` (paths by kind, one of KINDS), `missing` (the kinds that there are
        not), and `left_out` (keys, as text to show).

    Raises:
        NotFoundError: There are no files.
        UsageError: A file is in the way.
        PipelineError: A file could not be written, or came otherwise than its size and ETag say.
    """
    if not objects:
        raise NotFoundError("run {run_id} has no artifacts (yet) in {source}: it is {state}".format(**about))
    items, left_out = choose_files(objects)
    console = Console(file=sys.stderr, highlight=False)
    for key in left_out:
        console.print(f"left out, as it can't be the name of a file: {key}", markup=False, soft_wrap=True)
    try:
        absent = [item for item in items if not is_whole(folder / item.path, item)]
        for item in absent:
            if (folder / item.path).exists():
                problem = f"{folder / item.path} is in the way, and not this run's"
                raise UsageError(f"{problem}: name an empty folder with --to")
        if not dry_run:
            _fetch_all(receive, absent, folder, console)
    except OSError as error:
        where = f"{error.filename or folder} can't be written ({error.strerror or error})"
        raise PipelineError(f"{where}: the same command goes on where this one ended") from None
    artifacts = find_artifacts(items)
    return {
        **about,
        "folder": str(folder),
        "files": len(items),
        "bytes": sum(item.size for item in items),
        "fetched_files": len(absent),
        "fetched_bytes": sum(item.size for item in absent),
        "artifacts": {kind: str(folder / path) for kind, path in artifacts.items()},
        "missing": [kind for kind in KINDS if kind not in artifacts],
        "left_out": left_out,
    }


def _fetch_all(receive: Receive, items: list[Item], folder: Path, console: Console) -> None:
    """Fetches each file under a name of its own, and renames it when it is whole."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=sum(item.size for item in items))
        done = 0

        def show(size: int) -> None:
            bar.update(task, completed=done + size)

        for item in items:
            bar.update(task, description=item.path)
            path = folder / item.path
            path.parent.mkdir(parents=True, exist_ok=True)
            # With the ETag in its name, it is only continued with what it was begun with.
            part = path.with_name(f".{path.name}.{re.sub(r'[^0-9a-f-]', '', item.etag)}.part")
            is_encrypted = receive(item, part, show)
            if not is_whole(part, item, is_encrypted):
                part.unlink()
                raise PipelineError(f"{item.key!r} came otherwise than its size and ETag say: {ANEW}")
            part.replace(path)
            done += item.size
            console.print(f"{item.path}: {item.size:,} bytes", markup=False, soft_wrap=True)


def choose_files(objects: list[Item]) -> tuple[list[Item], list[str]]:
    """Returns the objects that are files, by path, and the keys, as text to show, of those that can't be any here."""
    files = [item for item in objects if item.size or not item.path.endswith("/")]  # some clients make such for folders
    odd = [item for item in files if any(ODD_NAME.fullmatch(part) for part in item.path.split("/"))]
    return sorted({*files} - {*odd}, key=lambda item: item.path), [repr(item.key) for item in odd]


def find_artifacts(items: list[Item]) -> dict[str, str]:
    """Returns where the artifacts that people want are, by kind; a path below the target folder."""
    artifacts = {}
    for kind, (task, artifact) in KINDS.items():
        for item in items:
            # An id may stand in between.
            if match := re.match(f"{task}/([^/]+/)?{artifact}(?=/|$)", item.path):
                artifacts[kind] = match[0]
    return artifacts


def is_whole(path: Path, item: Item, is_encrypted: bool = False) -> bool:
    """Returns whether a file is what an object is, by its size, and by its ETag where that is the content's MD5."""
    if not path.is_file() or path.stat().st_size != item.size:
        return False
    if is_encrypted or not re.fullmatch("[0-9a-f]{32}", item.etag):  # as that of an upload in parts
        return True
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return digest.hexdigest() == item.etag
