"""Where a run's artifacts lie in the object store, and where each of their files goes on this machine."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from nlp_pipeline.client.calls import NotFoundError
from nlp_pipeline.client.object_store import Store
from nlp_pipeline.errors import PipelineError, UsageError

DEFAULT_ROOT = "minio://mlpipeline/v2/artifacts"
# What Kubeflow with several users gives each namespace since KFP 2.15.
NAMESPACE_ROOT = "minio://mlpipeline/private-artifacts/{}/v2/artifacts"
ROOT = re.compile(r"(minio|s3)://([^/?]+)/?([^?]*)(?:\?.*)?")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Names of devices on Windows; a name with a colon may name another drive or stream there.
ODD_PART = re.compile(r"\.{0,2}|.*[\x00-\x1f\x7f-\x9f\\:].*|(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.I | re.S)
# The artifacts that people want, and which task's output each is.
KINDS = {
    "report": ("evaluate-model", "report"),
    "metrics": ("evaluate-model", "metrics"),
    "model": ("train-model", "model"),
    "archive": ("archive-model", "release"),
}


@dataclass(frozen=True)
class Place:
    """Where a run's artifacts lie.

    Attributes:
        bucket: The bucket.
        prefix: What their keys begin with, up to a slash.
        objects: What is there, as `minio` lists it.
    """

    bucket: str
    prefix: str
    objects: list[Any]

    @property
    def uri(self) -> str:
        """The place as an address."""
        return f"s3://{self.bucket}/{self.prefix}"


@dataclass(frozen=True)
class Item:
    """A file of an artifact.

    Attributes:
        key: Its key in the bucket.
        path: Its path below the target folder.
        size: Its size in bytes.
        etag: Its ETag, without quotes.
    """

    key: str
    path: str
    size: int
    etag: str


def possible_roots(run: Any, namespace: str) -> list[str]:
    """Returns the pipeline roots that a run may have had, the likeliest first.

    Args:
        run: The run, as the API tells it.
        namespace: The user's namespace; empty where there is but one user.
    """
    given = run.runtime_config.pipeline_root if run.runtime_config else ""
    if given:
        return [given]
    return [*([NAMESPACE_ROOT.format(namespace)] if namespace else []), DEFAULT_ROOT]


def parse_root(root: str) -> tuple[str, str]:
    """Returns the bucket and the prefix of a pipeline root; what it asks for in its query the settings tell.

    Raises:
        UsageError: It is in no S3 object store.
    """
    match = ROOT.fullmatch(root)
    if not match:
        raise UsageError(f"pipeline root {root.partition('?')[0]!r}: only minio:// and s3:// can be downloaded from")
    return match[2], f"{match[3].strip('/')}/" if match[3].strip("/") else ""


def find_place(store: Store, run: Any, namespace: str, pipeline: str) -> Place:
    """Finds a run's artifacts: below ROOT/PIPELINE/RUN ID/, whatever the pipeline is named.

    Args:
        store: The object store.
        run: The run, as the API tells it.
        namespace: The user's namespace; empty where there is but one user.
        pipeline: The pipeline's likeliest name.

    Raises:
        NotFoundError: It has none.
        PipelineError: The object store can't be asked.
    """
    roots = possible_roots(run, namespace)
    failures: list[PipelineError] = []
    for root in roots:
        bucket, prefix = parse_root(root)
        try:
            for folder in run_folders(store, bucket, prefix, run.run_id, pipeline):
                if objects := listed(store, bucket, folder, recursive=True):
                    return Place(bucket, folder, objects)
        except (NotFoundError, UsageError) as error:
            # A user may be allowed the namespace's own root alone.
            failures.append(error)
    if len(failures) == len(roots):
        raise failures[0]
    raise NotFoundError(
        f"run {run.run_id} has no artifacts (yet) below {' or '.join(root.partition('?')[0] for root in roots)} at "
        f"{store.address}: it is {run.state or 'of unknown state'}"
    )


def run_folders(store: Store, bucket: str, prefix: str, run_id: str, pipeline: str) -> Iterator[str]:
    """Yields the folders that may be a run's, the likeliest first."""
    likeliest = f"{prefix}{pipeline}/{run_id}/"
    yield likeliest
    for one in listed(store, bucket, prefix, recursive=False):
        folder = f"{one.object_name}{run_id}/"
        if one.is_dir and folder != likeliest:
            yield folder


def listed(store: Store, bucket: str, prefix: str, recursive: bool) -> list[Any]:
    """Returns the objects below a prefix; with folders as such where it is not recursive."""
    client = store.client
    return list(
        store.call(
            f"listing {f's3://{bucket}/{prefix}'!r}",
            lambda: list(client.list_objects(bucket, prefix=prefix, recursive=recursive)),
        )
    )


def plan(place: Place) -> tuple[list[Item], list[str]]:
    """Tells where each object goes below the target folder.

    KFP puts an artifact at TASK/RANDOM ID/ARTIFACT, before 2.3 at TASK/ARTIFACT. The id is left out, unless a task has
    several.

    Args:
        place: The objects.

    Returns:
        The files, in the order of their paths; and the keys, as text to show, that are left out, as their names could
        lead out of the folder or can't be names of files.

    Raises:
        PipelineError: Two of them can't be beside each other.
    """
    ids: dict[str, set[str]] = {}
    named: list[tuple[Any, list[str]]] = []
    left_out = []
    for one in place.objects:
        parts = one.object_name.removeprefix(place.prefix).split("/")
        if parts[-1] == "" and not one.size:  # what some clients make for a folder
            continue
        if any(ODD_PART.fullmatch(part) for part in parts) or parts[0].startswith(".nlp-pipeline"):
            left_out.append(repr(one.object_name))
            continue
        named.append((one, parts))
        ids.setdefault(parts[0], set()).add(parts[1] if len(parts) > 2 and UUID.fullmatch(parts[1]) else "")
    items = []
    for one, parts in named:
        with_id = len(parts) > 2 and UUID.fullmatch(parts[1])
        short = [parts[0], *parts[2:]] if with_id and len(ids[parts[0]]) == 1 else parts
        items.append(Item(one.object_name, "/".join(short), one.size or 0, (one.etag or "").strip('"')))
    items.sort(key=lambda item: item.path)
    check_names(items)
    return items, left_out


def check_names(items: list[Item]) -> None:
    """Makes sure that all files can be there at once, also where the case of names does not matter.

    Raises:
        PipelineError: They can't.
    """
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


def present(items: list[Item]) -> dict[str, str]:
    """Returns where the artifacts that people want are, by kind; a path below the target folder."""
    found = {}
    for kind, (task, artifact) in KINDS.items():
        for item in items:
            parts = item.path.split("/")
            at = next((at for at in (1, 2) if parts[at : at + 1] == [artifact]), 0)
            if parts[0] == task and at:
                found[kind] = "/".join(parts[: at + 1])
    return found
