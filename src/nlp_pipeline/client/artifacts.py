"""`--download`: a run's artifacts, from the object store to a folder; what was interrupted goes on where it ended."""

import contextlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from nlp_pipeline.client.artifacts_plan import KINDS, Item, find_place, parse_root, plan, possible_roots, present
from nlp_pipeline.client.calls import NotFoundError
from nlp_pipeline.client.connection import Connection
from nlp_pipeline.client.object_store import AlteredError, Store, check_content, open_store
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.settings import Settings

# Notes of what was downloaded, in the target folder.
NOTES = ".nlp-pipeline-download.json"
CHUNK = 1 << 18
# How often an object may be altered, or come wrong, while it is downloaded.
TRIES = 3
ENCRYPTED = ("x-amz-server-side-encryption-aws-kms-key-id", "x-amz-server-side-encryption-customer-algorithm")


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
    """The folder that files are downloaded to.

    Attributes:
        folder: The folder.
        notes: What is known of it.
    """

    folder: Path
    notes: Notes

    def file(self, item: Item) -> Path:
        """Returns where a file goes."""
        return self.folder / item.path

    def part(self, item: Item) -> Path:
        """Returns where a file is while it is not whole."""
        path = self.file(item)
        return path.with_name(f"{path.name}.part")

    def keep(self) -> None:
        """Writes the notes down."""
        path = self.folder / NOTES
        new = path.with_name(f"{NOTES}.new")
        new.write_text(json.dumps(asdict(self.notes), indent=1), encoding="utf-8")
        new.replace(path)

    def is_whole(self, item: Item) -> bool:
        """Tells whether a file is there already, and is the object's content."""
        path = self.file(item)
        if not path.is_file():
            return False
        if self.notes.done.get(item.path) == [item.etag, item.size, "size"]:
            return path.stat().st_size == item.size
        return check_content(path, item.size, item.etag) not in ("", "size")


def download(
    connection: Connection, settings: Settings, run_id: str, target: Path, dry_run: bool = False
) -> dict[str, Any]:
    """Downloads a run's artifacts.

    Each file is fetched as NAME.part, checked against its size and ETag, and renamed. A file that is there whole is not
    fetched again; one that is not whole is continued where it ended, unless its object was altered meanwhile.

    Args:
        connection: The connection to Kubeflow Pipelines.
        settings: The settings; those of the object store are needed.
        run_id: The run's id.
        target: The folder to download to.
        dry_run: Whether to tell only what would be fetched.

    Returns:
        `run_id`, `state` (of the run), `source` (where the files lie), `folder`, `files` and `bytes` (all of them),
        `fetched_files` and `fetched_bytes` (what this call fetched; of a dry run what it would fetch), `artifacts`
        (paths by kind: report, metrics, model, archive), `missing` (the kinds that there are not), `left_out` (keys
        that can't be names of files), and `checked` (how many files were found right by "md5", "md5 of parts" and
        "size").

    Raises:
        NotFoundError: It has no artifacts (yet).
        UsageError: There is no such run, the settings are wrong or not enough, or the folder is another run's.
        PipelineError: A file could not be fetched or written.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", run_id):
        raise UsageError(f"{run_id!r} is no id of a run: --runs lists them")
    try:
        run = connection.call(f"reading run {run_id}", connection.runs.run_service_get_run, run_id)
    except NotFoundError:
        raise UsageError(f"there is no run {run_id}: --runs lists them") from None
    namespace = connection.namespace if connection.multi_user else ""
    root = possible_roots(run, namespace)[0]
    parse_root(root)
    store = open_store(settings, amazon=root.startswith("s3://"))
    place = find_place(store, run, namespace, pipeline_name(run))
    items, left_out = plan(place)
    about = {"run_id": run_id, "state": run.state or "", "source": place.uri}
    return {**about, **fetch_missing(run_id, items, left_out, target, partial(fetch, store, place.bucket), dry_run)}


Fetch = Callable[[Item, "Target", Callable[[int], None]], str]


def fetch_missing(
    run_id: str, items: list[Item], left_out: list[str], target: Path, fetch_one: Fetch, dry_run: bool
) -> dict[str, Any]:
    """Fetches the files of a run that are not in a folder yet.

    Args:
        run_id: The run's id.
        items: The files.
        left_out: What can't be a file here.
        target: The folder.
        fetch_one: Fetches a file, tells how many of its bytes are there, and returns by what it was found right.
        dry_run: Whether to tell only what would be fetched.

    Returns:
        See `download`; what it tells of the folder.
    """
    for key in left_out:
        print_line(f"left out, as it can't be the name of a file: {key}")
    with told_of_files(target):
        kept = Target(target, read_notes(target, run_id))
        wanted = [item for item in items if not kept.is_whole(item)]
        if not dry_run and wanted:
            check_folder(kept, wanted)
            fetch_all(fetch_one, wanted, kept)
    artifacts = present(items)
    return {
        "folder": str(target),
        "files": len(items),
        "bytes": sum(item.size for item in items),
        "fetched_files": len(wanted),
        "fetched_bytes": sum(item.size for item in wanted),
        "artifacts": {kind: str(target / path) for kind, path in artifacts.items()},
        "missing": [kind for kind in KINDS if kind not in artifacts],
        "left_out": left_out,
        "checked": {} if dry_run else counted(items, kept),
    }


def pipeline_name(run: Any) -> str:
    """Returns the name of a run's pipeline, as its spec has it; the project's own where the run doesn't tell."""
    from nlp_pipeline.pipeline.kubeflow import NAME

    spec = run.pipeline_spec if isinstance(run.pipeline_spec, dict) else {}
    info = spec.get("pipeline_spec", spec).get("pipelineInfo")
    return str(info.get("name") or NAME) if isinstance(info, dict) else NAME


def read_notes(folder: Path, run_id: str) -> Notes:
    """Returns what former downloads noted in a folder.

    Raises:
        UsageError: They are of another run.
    """
    try:
        notes = Notes(**json.loads((folder / NOTES).read_text(encoding="utf-8")))
        well = all(isinstance(one, list) and len(one) == 3 for one in notes.done.values())
        if not (well and isinstance(notes.parts, dict)):
            return Notes(run_id)
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, AttributeError):
        return Notes(run_id)
    if notes.run_id != run_id:
        raise UsageError(f"{folder} has artifacts of run {notes.run_id}: name another folder with --to")
    return notes


def check_folder(target: Target, wanted: list[Item]) -> None:
    """Makes the folder ready for what is to be fetched.

    Raises:
        UsageError: A file of someone else is in the way, or there is no room.
    """
    for item in wanted:
        if target.file(item).exists() and item.path not in target.notes.done:
            raise UsageError(f"{target.file(item)} is in the way, and of no download: name an empty folder with --to")
    target.folder.mkdir(parents=True, exist_ok=True)
    target.keep()
    there = sum(one.stat().st_size for one in map(target.part, wanted) if one.is_file())
    needed, free = sum(item.size for item in wanted) - there, shutil.disk_usage(target.folder).free
    if needed > free:
        raise UsageError(f"{target.folder} has room for {free:,} bytes, and {needed:,} are to be fetched")


def fetch_all(fetch_one: Fetch, wanted: list[Item], target: Target) -> None:
    """Fetches files, and shows on stderr how far it is."""
    console = Console(file=sys.stderr, highlight=False)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=sum(item.size for item in wanted))
        before = 0
        for item in wanted:
            bar.update(task, description=item.path)

            def show(size: int, before: int = before) -> None:
                bar.update(task, completed=before + size)

            how = fetch_one(item, target, show)
            before += item.size
            console.print(f"{item.path}: {item.size:,} bytes, checked by {how}", markup=False, soft_wrap=True)


def fetch(store: Store, bucket: str, item: Item, target: Target, show: Callable[[int], None]) -> str:
    """Fetches a file.

    Args:
        store: The object store.
        bucket: The bucket.
        item: The file.
        target: The folder.
        show: Is told how many of its bytes are there.

    Returns:
        By what it was found right: see `check_content`.

    Raises:
        PipelineError: It could not be fetched.
    """
    shown = f"{f's3://{bucket}/{item.key}'!r}"
    path, part = target.file(item), target.part(item)
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(TRIES):
        try:
            encrypted = store.call(f"fetching {shown}", lambda: receive(store, bucket, item, target, show))  # noqa: B023
        except AlteredError:
            item = looked_up(store, bucket, item, shown)
            continue
        how = check_content(part, item.size, item.etag)
        if not how and encrypted and part.stat().st_size == item.size:
            how = "size"  # the ETag is no MD5 where the key management service encrypts
        target.notes.parts.pop(item.path, None)
        if how:
            part.replace(path)
            target.notes.done[item.path] = [item.etag, item.size, how]
            target.keep()
            return how
        part.unlink()
        target.keep()
    raise PipelineError(f"{shown} came otherwise than its size and ETag say, or was altered, {TRIES} times: try later")


def looked_up(store: Store, bucket: str, item: Item, shown: str) -> Item:
    """Returns a file as its object is now."""
    found = store.call(f"looking up {shown}", lambda: store.client.stat_object(bucket, item.key))
    return replace(item, size=found.size or 0, etag=(found.etag or "").strip('"'))


def receive(store: Store, bucket: str, item: Item, target: Target, show: Callable[[int], None]) -> bool:
    """Receives what is missing of a file.

    Args:
        store: The object store.
        bucket: The bucket.
        item: The file.
        target: The folder.
        show: Is told how many of its bytes are there.

    Returns:
        Whether the object is encrypted so that its ETag tells nothing.

    Raises:
        AlteredError: The object is another one.
    """
    part = target.part(item)
    offset = part.stat().st_size if part.is_file() and target.notes.parts.get(item.path) == item.etag else 0
    offset = offset if offset <= item.size else 0
    target.notes.parts[item.path] = item.etag
    target.keep()
    if not offset:
        part.write_bytes(b"")
    if offset == item.size:
        show(item.size)
        return False
    headers = {"Accept-Encoding": "identity", **({"If-Match": f'"{item.etag}"'} if item.etag else {})}
    response = store.client.get_object(bucket, item.key, offset=offset, request_headers=headers)
    try:
        if response.headers.get("etag", "").strip('"') != item.etag:
            raise AlteredError
        begins = re.match(r"bytes (\d+)-", response.headers.get("content-range", ""))
        if offset and not (response.status == 206 and begins and int(begins[1]) == offset):
            offset = 0  # the server gives all of it whatever is asked for
        with part.open("r+b") as file:
            file.truncate(offset)
            file.seek(offset)
            for chunk in response.stream(CHUNK, decode_content=False):
                file.write(chunk)
                offset += len(chunk)
                show(offset)
        return any(response.headers.get(name) for name in ENCRYPTED)
    finally:
        response.close()


def counted(items: list[Item], target: Target) -> dict[str, int]:
    """Returns how many files were found right by what."""
    found: dict[str, int] = {}
    for item in items:
        noted = target.notes.done.get(item.path)
        how = noted[2] if noted else check_content(target.file(item), item.size, item.etag)
        found[how] = found.get(how, 0) + 1
    return found


@contextlib.contextmanager
def told_of_files(folder: Path) -> Iterator[None]:
    """Makes one line of what goes wrong with files."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        raise PipelineError(
            f"{where} can't be written ({error.strerror or error}): the same command goes on where this one ended"
        ) from None


def print_line(text: str) -> None:
    """Prints a line on stderr."""
    Console(file=sys.stderr, highlight=False).print(text, markup=False, soft_wrap=True)
