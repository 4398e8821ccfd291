"""`--download`: a run's files, from wherever they lie to a folder; what was interrupted goes on where it ended."""

import hashlib
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.platforms.calls import NotFoundError

# Notes of what was downloaded, in the target folder.
NOTES = ".nlp-pipeline-download.json"
# Ours, and names of devices on Windows; a name with a colon may name another drive or stream there.
ODD_NAME = re.compile(
    r"\.{0,2}|\.nlp-pipeline.*|.*[\x00-\x1f\x7f-\x9f\\:].*|(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.I | re.S
)
ANEW = "the same command again fetches it anew"
# The artifacts that people want, and which task's output each is.
KINDS = {
    "report": ("evaluate-model", "report"),
    "metrics": ("evaluate-model", "metrics"),
    "model": ("train-model", "model"),
    "archive": ("archive-model", "release"),
}
MIB = 1 << 20
# Sizes of the parts in which clients upload: KFP's launcher and minio-py, AWS's tools, others.
PART_SIZES = tuple(number * MIB for number in (5, 8, 10, 16, 25, 32, 50, 64, 100, 128, 256))


@dataclass(frozen=True)
class Item:
    """A file of an artifact: where it lies, its path below the target folder, its size in bytes, its unquoted ETag."""

    key: str
    path: str
    size: int
    etag: str


@dataclass
class Target:
    """The folder that a run's files are downloaded to, and its notes, which are in it.

    Attributes:
        folder: The folder.
        run_id: The run.
        done: ETag, size and kind of check of each file that is whole, by its path.
        parts: ETag of each file that is not whole, by its path.
    """

    folder: Path
    run_id: str
    done: dict[str, list[Any]] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)

    def read_notes(self) -> None:
        """Reads what former downloads noted; a UsageError says that the folder is another run's."""
        try:
            notes = json.loads((self.folder / NOTES).read_text(encoding="utf-8"))
            run_id, done, parts = notes["run_id"], dict(notes.get("done", {})), dict(notes.get("parts", {}))
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, LookupError, AttributeError):
            return
        if run_id != self.run_id:
            raise UsageError(f"{self.folder} has artifacts of run {run_id}: name another folder with --to")
        self.done, self.parts = done, parts

    def keep_notes(self) -> None:
        """Writes the notes down."""
        new = self.folder / f"{NOTES}.new"
        notes = {"run_id": self.run_id, "done": self.done, "parts": self.parts}
        new.write_text(json.dumps(notes, indent=1), encoding="utf-8")
        new.replace(self.folder / NOTES)

    def file(self, item: Item) -> Path:
        """Returns where a file goes."""
        return self.folder / item.path

    def part(self, item: Item) -> Path:
        """Returns where a file is while it is not whole."""
        path = self.file(item)
        return path.with_name(f"{path.name}.part")

    def begin(self, item: Item) -> int:
        """Makes a part ready to be written to, and returns how many of its bytes are there already."""
        part = self.part(item)
        size = part.stat().st_size if part.is_file() and self.parts.get(item.path) == item.etag else 0
        if not 0 < size <= item.size:
            size = 0
            part.write_bytes(b"")
        self.parts[item.path] = item.etag
        self.keep_notes()
        return size

    def accept(self, item: Item, is_encrypted: bool) -> str:
        """Takes a part for the whole file, and returns by what it was found right; or throws it away."""
        part = self.part(item)
        how = check_content(part, item.size, "" if is_encrypted else item.etag)
        if how:
            part.replace(self.file(item))
            self.done[item.path] = [item.etag, item.size, how]
        else:
            part.unlink()
        self.parts.pop(item.path, None)
        self.keep_notes()
        return how

    def check(self, item: Item) -> str:
        """Returns by what a file that is there already is found right; empty where it is not there, or wrong."""
        path = self.file(item)
        if not path.is_file():
            return ""
        if self.done.get(item.path) == [item.etag, item.size, "size"]:
            return "size" if path.stat().st_size == item.size else ""
        how = check_content(path, item.size, item.etag)
        return "" if how == "size" else how


# Receives a file as its part, and tells how many of its bytes are there; returns whether it was encrypted, so that its
# ETag is no MD5.
Receive = Callable[[Item, Target, Callable[[int], None]], bool]


def fetch_missing(
    about: dict[str, Any], objects: list[Item], folder: Path, receive: Receive, dry_run: bool
) -> dict[str, Any]:
    """Fetches the files of a run that are not in a folder yet.

    Each is fetched as NAME.part, checked against its size and ETag, and renamed. `about` has the run's `run_id`,
    `state` and `source` (where its files lie); of the objects there, those that can't be files here are left out.

    Returns:
        `about`, and `folder`, `files` and `bytes` (all of them), `fetched_files` and `fetched_bytes` (what this call
        fetched, or would), `artifacts` (paths by kind), `missing` (the kinds that there are not), `left_out` (keys),
        and `checked` (how many files were found right by "md5", "md5 of parts" and "size").

    Raises:
        NotFoundError: There are no files.
        UsageError: The folder is another run's, a file is in the way, or there is no room.
        PipelineError: A file could not be fetched or written.
    """
    if not objects:
        raise NotFoundError("run {run_id} has no artifacts (yet) in {source}: it is {state}".format(**about))
    items, left_out = choose_files(objects)
    console = Console(file=sys.stderr, highlight=False)
    for key in left_out:
        console.print(f"left out, as it can't be the name of a file: {key}", markup=False, soft_wrap=True)
    target = Target(folder, about["run_id"])
    try:
        target.read_notes()
        checked = {item: target.check(item) for item in items}
        wanted = [item for item, how in checked.items() if not how]
        if wanted and not dry_run:
            _make_ready(target, wanted)
            checked |= _fetch_all(receive, wanted, target, console)
    except OSError as error:
        where = f"{error.filename or folder} can't be written ({error.strerror or error})"
        raise PipelineError(f"{where}: the same command goes on where this one ended") from None
    artifacts = find_artifacts(items)
    return {
        **about,
        "folder": str(folder),
        "files": len(items),
        "bytes": sum(item.size for item in items),
        "fetched_files": len(wanted),
        "fetched_bytes": sum(item.size for item in wanted),
        "artifacts": {kind: str(folder / path) for kind, path in artifacts.items()},
        "missing": [kind for kind in KINDS if kind not in artifacts],
        "left_out": left_out,
        "checked": {} if dry_run else dict(Counter(checked.values())),
    }


def _make_ready(target: Target, wanted: list[Item]) -> None:
    for item in wanted:
        if target.file(item).exists() and item.path not in target.done:
            raise UsageError(f"{target.file(item)} is in the way, and of no download: name an empty folder with --to")
    target.folder.mkdir(parents=True, exist_ok=True)
    target.keep_notes()
    there = sum(part.stat().st_size for part in map(target.part, wanted) if part.is_file())
    needed, free = sum(item.size for item in wanted) - there, shutil.disk_usage(target.folder).free
    if needed > free:
        raise UsageError(f"{target.folder} has room for {free:,} bytes, and {needed:,} are to be fetched")


def _fetch_all(receive: Receive, wanted: list[Item], target: Target, console: Console) -> dict[Item, str]:
    """Returns by what each file was found right."""
    checked: dict[Item, str] = {}
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=sum(item.size for item in wanted))

        def show(size: int) -> None:
            bar.update(task, completed=sum(item.size for item in checked) + size)

        for item in wanted:
            bar.update(task, description=item.path)
            target.file(item).parent.mkdir(parents=True, exist_ok=True)
            checked[item] = target.accept(item, receive(item, target, show))
            if not checked[item]:
                raise PipelineError(f"{item.key!r} came otherwise than its size and ETag say: {ANEW}")
            done = f"{item.path}: {item.size:,} bytes, checked by {checked[item]}"
            console.print(done, markup=False, soft_wrap=True)
    return checked


def choose_files(objects: list[Item]) -> tuple[list[Item], list[str]]:
    """Returns the objects that are files, by path, and the keys, as text to show, of those that can't be any here.

    Raises:
        PipelineError: Not all can be there at once, which counts also where the case of names does not matter.
    """
    files = [item for item in objects if item.size or not item.path.endswith("/")]  # some clients make such for folders
    odd = [item for item in files if any(ODD_NAME.fullmatch(part) for part in item.path.split("/"))]
    items = sorted({*files} - {*odd}, key=lambda item: item.path)
    paths = [PurePosixPath(item.path.casefold()) for item in items]
    taken = {other for path in paths for other in (*path.parents, path.with_name(f"{path.name}.part"))}
    for path, count in Counter(paths).items():
        if count > 1 or path in taken:
            raise PipelineError(f"the run's file '{path}' can't be beside another of them: download them apart")
    return items, [repr(item.key) for item in odd]


def find_artifacts(items: list[Item]) -> dict[str, str]:
    """Returns where the artifacts that people want are, by kind; a path below the target folder."""
    artifacts = {}
    for kind, (task, artifact) in KINDS.items():
        for item in items:
            # An id may stand in between.
            if match := re.match(f"{task}/([^/]+/)?{artifact}(?=/|$)", item.path):
                artifacts[kind] = match[0]
    return artifacts


def check_content(path: Path, size: int, etag: str) -> str:
    """Checks a file against the size and the ETag of its object.

    The ETag of what was uploaded at once is its MD5; of what was uploaded in parts it is made of the parts' MD5s, so
    that it can be checked where the size of the parts can be guessed. Other ETags tell nothing of the content. Returns
    by what it was found right: "md5", "md5 of parts" or "size"; empty where it is wrong.
    """
    if path.stat().st_size != size:
        return ""
    if re.fullmatch("[0-9a-f]{32}", etag):
        return "md5" if _md5s(path, max(size, 1))[0].hex() == etag else ""
    if match := re.fullmatch(r"([0-9a-f]{32})-([0-9]+)", etag):
        for part in {size, *PART_SIZES}:
            if part and -(-size // part) == int(match[2]):
                digests = b"".join(_md5s(path, part))
                if hashlib.md5(digests, usedforsecurity=False).hexdigest() == match[1]:
                    return "md5 of parts"
    return "size"


def _md5s(path: Path, part: int) -> list[bytes]:
    """Returns the MD5 of each part of a file."""
    digests = []
    with path.open("rb") as file:
        for start in range(0, max(path.stat().st_size, 1), part):
            digest = hashlib.md5(usedforsecurity=False)
            for at in range(start, start + part, MIB):
                digest.update(file.read(min(MIB, start + part - at)))
            digests.append(digest.digest())
    return digests
