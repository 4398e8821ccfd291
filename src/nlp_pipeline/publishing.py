"""Puts a release on the volume, so that it is there whole or not at all."""

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

from nlp_pipeline.release import RECORD, hash_files


def publish(folder: Path, model_folder: Path | None, digest: str) -> Path:
    """Publishes a sealed release as `<model_folder>/releases/<digest>`, in one step; a no-op where it is there.

    It is first copied to `<model_folder>/staging/`, on the same volume but not under releases/, and made durable; then
    renamed. A process that is killed leaves a folder in staging/, which the next publication removes when it is an
    hour old.

    Args:
        folder: The sealed release.
        model_folder: The model's folder on the volume; None where there is no volume.
        digest: The release's digest.

    Returns:
        The published folder; the sealed release itself where there is no volume.
    """
    if model_folder is None:
        return folder
    target, staging = model_folder / "releases" / digest, model_folder / "staging"
    if (target / RECORD).exists():
        return target
    for place in (staging, target.parent):
        place.mkdir(parents=True, exist_ok=True)
    for abandoned in staging.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another run has just published it
            if abandoned.stat().st_mtime < time.time() - 3600:
                shutil.rmtree(abandoned, ignore_errors=True)
    incoming = Path(tempfile.mkdtemp(prefix=f"{digest}-", dir=staging))
    try:
        copy_durably(folder, incoming)
        try:
            incoming.rename(target)
        except OSError:  # another run has published the same release in the meantime
            if not (target / RECORD).exists():
                raise
        sync_folder(target.parent)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return target


def copy_durably(folder: Path, target: Path) -> None:
    """Copies a release into an empty folder, release.json last, readable by all, and waits until the disk has it."""
    for name in [*hash_files(folder), RECORD]:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    for path in [target, *target.rglob("*")]:
        # KServe reads as another user, and mkdtemp makes folders for the owner only; some volumes have fixed modes.
        with contextlib.suppress(OSError):
            path.chmod(0o755 if path.is_dir() else 0o644)
        if path.is_dir():
            sync_folder(path)


def sync_folder(folder: Path) -> None:
    """Waits until the disk has a folder's entries."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
