"""A release: a model as it is served, immutable and named by its content; on the volume it is whole or not there.

On the volume, `<model_name>/releases/<digest>/` holds

- `release.json`: its record, written last;
- `config/config.properties`, `model-store/<model_name>.mar`: what TorchServe serves;
- `huggingface/`: the model as save_pretrained writes it, and its card, which Hugging Face's hub looks for there.

`<model_name>/latest.json` names the release that passed validation last.
"""

import contextlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nlp_pipeline.errors import UsageError
from nlp_pipeline.volume import digest_of, file_sha256

RECORD, CARD = "release.json", "huggingface/README.md"


@dataclass(frozen=True, kw_only=True)
class Release:
    """The content of a release.json. `seal` sets `digest`, `created` and `files`: each file's SHA-256 by its path."""

    digest: str = ""
    created: str = ""
    model_name: str
    run_id: str = ""
    labels: list[str] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    precision: dict[str, Any] = field(default_factory=dict)
    champion: dict[str, Any] = field(default_factory=dict)
    intervals: dict[str, list[float]] = field(default_factory=dict)  # of the metrics, 95 %
    packages: dict[str, str] = field(default_factory=dict)
    source: str | None = None
    source_sha256: str | None = None
    files: dict[str, str] = field(default_factory=dict)


def parse_record(content: str | bytes) -> Release | None:
    """Returns the release that a release.json describes; None where it describes none."""
    try:
        values = json.loads(content)
        release = Release(**{item.name: values[item.name] for item in fields(Release) if item.name in values})
        texts = [release.digest, release.model_name, *release.labels, *release.files, *release.files.values()]
    except (ValueError, TypeError, AttributeError):
        return None
    return release if release.digest and all(isinstance(text, str) for text in texts) else None


def hash_files(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of each of a release's files but release.json, by its path in the release."""
    paths = [path for path in sorted(folder.rglob("*")) if not path.is_dir() and path != folder / RECORD]
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}


def content_digest(files: dict[str, str]) -> str:
    """Returns the digest of a release, by its files' SHA-256.

    The card does not count: a model that is made again is the same, whatever it was compared with and how fast it was.
    """
    return digest_of({name: sha256 for name, sha256 in files.items() if name != CARD})


def seal(folder: Path, release: Release) -> Release:
    """Writes release.json into a release's folder, where all other files are, and returns what it says."""
    files = hash_files(folder)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    sealed = replace(release, digest=content_digest(files), created=created, files=files)
    (folder / RECORD).write_text(json.dumps(asdict(sealed), indent=1), encoding="utf-8")
    return sealed


def verify(folder: Path) -> Release:
    """Returns what a release's record says; a UsageError where the release is not whole, or not as it was sealed."""
    try:
        release = parse_record((folder / RECORD).read_bytes())
    except OSError:
        release = None
    if release is None:
        raise UsageError(f"{folder} is no release: it has no sound {RECORD}; they lie in <volume>/<model>/releases/")
    try:
        files = hash_files(folder)
    except OSError as error:
        raise UsageError(
            f"{folder} can't be read ({error.strerror}: {error.filename}): may this user read it?"
        ) from None
    if release.files != files or release.digest != content_digest(files):
        name, _ = min(release.files.items() ^ files.items(), default=(RECORD, ""))
        raise UsageError(f"{folder} is spoilt: {name} is missing, altered or none of its files; make it anew")
    return release


def publish(folder: Path, model_folder: Path | None, digest: str) -> Path:
    """Publishes a sealed release as `<model_folder>/releases/<digest>`, in one step; a no-op where it is there.

    It is first copied to `<model_folder>/staging/`, on the same volume but not under releases/, and made durable; then
    renamed. A process that is killed leaves a folder in staging/, which the next publication removes when it is an
    hour old. Without a volume there is no `model_folder`, and the sealed release itself is returned.
    """
    if model_folder is None:
        return folder
    target, staging = model_folder / "releases" / digest, model_folder / "staging"
    if (target / RECORD).exists():
        return target
    for parent in (staging, target.parent):
        parent.mkdir(parents=True, exist_ok=True)
    for abandoned in staging.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another run has just published it
            if abandoned.stat().st_mtime < time.time() - 3600:
                shutil.rmtree(abandoned, ignore_errors=True)
    incoming = Path(tempfile.mkdtemp(prefix=f"{digest}-", dir=staging))
    try:
        _copy_durably(folder, incoming)
        try:
            incoming.rename(target)
        except OSError:  # another run has published the same release in the meantime
            if not (target / RECORD).exists():
                raise
        _sync(target.parent)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return target


def _copy_durably(folder: Path, target: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: path == folder / RECORD):  # which comes last
        copy = target / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    for path in [target, *target.rglob("*")]:
        # KServe reads as another user, and mkdtemp makes folders for the owner only; some volumes have fixed modes.
        with contextlib.suppress(OSError):
            path.chmod(0o755 if path.is_dir() else 0o644)
        _sync(path)


def _sync(path: Path) -> None:
    """Waits until the disk has a file's content, or a folder's entries."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
