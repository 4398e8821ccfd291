"""`--download`: a run's files, from wherever they lie to a folder; what was interrupted goes on where it ended."""

import contextlib
import hashlib
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from nlp_pipeline.errors import PipelineError, UsageError

# Notes of what was downloaded, in the target folder.
NOTES = ".nlp-pipeline-download.json"
# Names of devices on Windows; a name with a colon may name another drive or stream there.
ODD_NAME = re.compile(r"\.{0,2}|.*[\x00-\x1f\x7f-\x9f\\:].*|(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.I | re.S)
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
class Notes:
    """What is known of a folder's files from former downloads.

    Attributes:
        run_id: The run.
        done: ETag, size and kind of check of each file that is whole, by its path.
        parts: ETag of each file that is not whole, by its path.
    """

    run_id: str
    done: dict[str, list[Any]] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)


@dataclass
class Target:
    """The folder that files are downloaded to, and what is known of it."""

    folder: Path
    notes: Notes

    def file(self, item: Item) -> Path:
        """Returns where a file goes."""
        return self.folder / item.path

    def part(self, item: Item) -> Path:
        """Returns where a file is while it is not whole."""
        path = self.file(item)
        return path.with_name(f"{path.name}.part")

    def keep_notes(self) -> None:
        """Writes the notes down."""
        path = self.folder / NOTES
        new = path.with_name(f"{NOTES}.new")
        new.write_text(json.dumps(asdict(self.notes), indent=1), encoding="utf-8")
        new.replace(path)

    def begin(self, item: Item) -> int:
        """Makes a part ready to be written to, and returns how many of its bytes are there already."""
        part = self.part(item)
        size = part.stat().st_size if part.is_file() and self.notes.parts.get(item.path) == item.etag else 0
        if not 0 < size <= item.size:
            size = 0
            part.write_bytes(b"")
        self.notes.parts[item.path] = item.etag
        self.keep_notes()
        return size

    def reject(self, item: Item) -> None:
        """Throws away a part that came wrong."""
        self.notes.parts.pop(item.path, None)
        self.part(item).unlink()
        self.keep_notes()

    def accept(self, item: Item, how: str) -> None:
        """Takes a part for the whole file, which was found right by what `how` names."""
        self.notes.parts.pop(item.path, None)
        self.part(item).replace(self.file(item))
        self.notes.done[item.path] = [item.etag, item.size, how]
        self.keep_notes()

    def is_whole(self, item: Item) -> bool:
        """Tells whether a file is there already, and is the object's content."""
        path = self.file(item)
        if not path.is_file():
            return False
        if self.notes.done.get(item.path) == [item.etag, item.size, "size"]:
            return path.stat().st_size == item.size
        return check_content(path, item.size, item.etag) not in ("", "size")


Fetch = Callable[[Item, Target, Callable[[int], None]], str]


def fetch_missing(
    run_id: str, items: list[Item], left_out: list[str], folder: Path, fetch: Fetch, dry_run: bool
) -> dict[str, Any]:
    """Fetches the files of a run that are not in a folder yet.

    Each is fetched as NAME.part, checked against its size and ETag, and renamed.

    Args:
        run_id: The run's id.
        items: The files.
        left_out: What can't be a file here.
        folder: The folder.
        fetch: Fetches a file, tells how many of its bytes are there, and returns by what it was found right.
        dry_run: Whether to tell only what would be fetched.

    Returns:
        `folder`, `files` and `bytes` (all of them), `fetched_files` and `fetched_bytes` (what this call fetched; of a
        dry run what it would fetch), `artifacts` (paths by kind: report, metrics, model, archive), `missing` (the kinds
        that there are not), `left_out` (keys that can't be names of files), and `checked` (how many files were found
        right by "md5", "md5 of parts" and "size").

    Raises:
        UsageError: The folder is another run's, a file is in the way, or there is no room.
        PipelineError: Files can't be beside each other, or one could not be fetched or written.
    """
    check_names(items)
    console = Console(file=sys.stderr, highlight=False)
    for key in left_out:
        console.print(f"left out, as it can't be the name of a file: {key}", markup=False, soft_wrap=True)
    with _explained(folder):
        target = Target(folder, _read_notes(folder, run_id))
        wanted = [item for item in items if not target.is_whole(item)]
        if not dry_run and wanted:
            _make_ready(target, wanted)
            _fetch_all(fetch, wanted, target, console)
        artifacts = find_artifacts(items)
        return {
            "folder": str(folder),
            "files": len(items),
            "bytes": sum(item.size for item in items),
            "fetched_files": len(wanted),
            "fetched_bytes": sum(item.size for item in wanted),
            "artifacts": {kind: str(folder / path) for kind, path in artifacts.items()},
            "missing": [kind for kind in KINDS if kind not in artifacts],
            "left_out": left_out,
            "checked": {} if dry_run else dict(Counter(_how(target, item) for item in items)),
        }


def _read_notes(folder: Path, run_id: str) -> Notes:
    try:
        notes = Notes(**json.loads((folder / NOTES).read_text(encoding="utf-8")))
        is_sound = all(isinstance(item, list) and len(item) == 3 for item in notes.done.values())
        if not (is_sound and isinstance(notes.parts, dict)):
            return Notes(run_id)
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, AttributeError):
        return Notes(run_id)
    if notes.run_id != run_id:
        raise UsageError(f"{folder} has artifacts of run {notes.run_id}: name another folder with --to")
    return notes


def _make_ready(target: Target, wanted: list[Item]) -> None:
    for item in wanted:
        if target.file(item).exists() and item.path not in target.notes.done:
            raise UsageError(f"{target.file(item)} is in the way, and of no download: name an empty folder with --to")
    target.folder.mkdir(parents=True, exist_ok=True)
    target.keep_notes()
    there = sum(part.stat().st_size for part in map(target.part, wanted) if part.is_file())
    needed, free = sum(item.size for item in wanted) - there, shutil.disk_usage(target.folder).free
    if needed > free:
        raise UsageError(f"{target.folder} has room for {free:,} bytes, and {needed:,} are to be fetched")


def _fetch_all(fetch: Fetch, wanted: list[Item], target: Target, console: Console) -> None:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=sum(item.size for item in wanted))
        before = 0
        for item in wanted:
            bar.update(task, description=item.path)

            def show(size: int, before: int = before) -> None:
                bar.update(task, completed=before + size)

            target.file(item).parent.mkdir(parents=True, exist_ok=True)
            how = fetch(item, target, show)
            before += item.size
            console.print(f"{item.path}: {item.size:,} bytes, checked by {how}", markup=False, soft_wrap=True)


def _how(target: Target, item: Item) -> str:
    noted = target.notes.done.get(item.path)
    return str(noted[2]) if noted else check_content(target.file(item), item.size, item.etag)


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Makes one line of what goes wrong with files."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        raise PipelineError(
            f"{where} can't be written ({error.strerror or error}): the same command goes on where this one ended"
        ) from None


def check_names(items: list[Item]) -> None:
    """Raises a PipelineError unless all files can be there at once, also where the case of names does not matter."""
    paths = {item.path.casefold() for item in items}
    if len(paths) < len(items):
        raise PipelineError("two of the run's files have names that differ in nothing but case: download them apart")
    for item in items:
        path = PurePosixPath(item.path.casefold())
        for other in [*(str(parent) for parent in path.parents), f"{path}.part"]:
            if other in paths:
                raise PipelineError(
                    f"the run's files {item.path!r} and {other!r} can't be beside each other: download them apart"
                )


def find_artifacts(items: list[Item]) -> dict[str, str]:
    """Returns where the artifacts that people want are, by kind; a path below the target folder."""
    found = {}
    for kind, (task, artifact) in KINDS.items():
        for item in items:
            parts = item.path.split("/")
            at = next((at for at in (1, 2) if parts[at : at + 1] == [artifact]), 0)
            if parts[0] == task and at:
                found[kind] = "/".join(parts[: at + 1])
    return found


def check_content(path: Path, size: int, etag: str) -> str:
    """Checks a file against the size and the ETag of its object.

    The ETag of what was uploaded at once is its MD5; of what was uploaded in parts it is made of the parts' MD5s, so
    that it can be checked where the size of the parts can be guessed. Other ETags tell nothing of the content.

    Returns:
        By what it was found right: "md5", "md5 of parts" or "size"; empty where it is wrong.
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
    found = []
    with path.open("rb") as file:
        for start in range(0, max(path.stat().st_size, 1), part):
            digest = hashlib.md5(usedforsecurity=False)
            for at in range(start, start + part, MIB):
                digest.update(file.read(min(MIB, start + part - at)))
            found.append(digest.digest())
    return found
