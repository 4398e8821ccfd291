"""What a release is: its digest, its record, and how it is published so that it is there whole or not at all.

Hermetic helpers, inlined into the steps as `additional_funcs`.
"""

from typing import Any


def release_files(folder: str) -> dict[str, str]:
    """Returns the SHA-256 of each of a release's files but release.json, by its path in the release, in order."""
    import hashlib
    import os

    found: dict[str, str] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, folder)] = hashlib.file_digest(file, "sha256").hexdigest()
    found.pop("release.json", None)
    return dict(sorted(found.items()))


def release_digest(files: dict[str, str]) -> str:
    """Returns the name of a release with these files (path to SHA-256): 16 hexadecimal digits."""
    import hashlib
    import json

    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16]


def seal_release(folder: str, record: dict[str, Any]) -> str:
    """Writes a release's `release.json`, its last file.

    Args:
        folder: The release's folder, with all its other files.
        record: What shall be known of the release.

    Returns:
        The release's digest.
    """
    import datetime
    import json
    import os

    files = release_files(folder)
    digest = release_digest(files)
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with open(os.path.join(folder, "release.json"), "w", encoding="utf-8") as file:
        json.dump({"digest": digest, "created": created, **record, "files": files}, file, indent=1)
    return digest


def publish_release(folder: str, model_folder: str, digest: str) -> str:
    """Publishes a sealed release as `<model_folder>/releases/<digest>`, in one step; a no-op where it is there.

    It is first copied to `<model_folder>/staging/`, on the same volume but not under releases/, with release.json
    last, and made durable; then renamed. A process that is killed leaves a folder in staging/, which the next
    publication removes when it is an hour old; nothing half written ever lies under releases/.

    Args:
        folder: The sealed release.
        model_folder: The model's folder on the volume; empty where there is no volume.
        digest: The release's digest.

    Returns:
        The published folder; the sealed release itself where there is no volume.
    """
    import contextlib
    import os
    import shutil
    import tempfile
    import time

    if not model_folder:
        return folder
    target = os.path.join(model_folder, "releases", digest)
    if os.path.exists(os.path.join(target, "release.json")):
        return target
    staging = os.path.join(model_folder, "staging")
    for place in (staging, os.path.dirname(target)):
        os.makedirs(place, exist_ok=True)
    for left in os.scandir(staging):
        with contextlib.suppress(FileNotFoundError):  # another run has just published it
            if left.stat().st_mtime < time.time() - 3600:
                shutil.rmtree(left.path, ignore_errors=True)
    incoming = tempfile.mkdtemp(prefix=f"{digest}-", dir=staging)
    try:
        copy_durably(folder, incoming)
        try:
            os.rename(incoming, target)
        except OSError:  # another run has published the same release in the meantime
            if not os.path.exists(os.path.join(target, "release.json")):
                raise
        sync_folder(os.path.dirname(target))
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return target


def copy_durably(folder: str, target: str) -> None:
    """Copies a release into an empty folder, release.json last, readable by all, and waits until the disk has it."""
    import contextlib
    import os
    import shutil

    files = [*release_files(folder), "release.json"]
    for name in files:
        path = os.path.join(target, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        shutil.copyfile(os.path.join(folder, name), path)
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # a volume with fixed modes
            os.chmod(path, 0o644)
    for place, _, _ in os.walk(target):
        # KServe reads as another user, and mkdtemp makes folders for the owner only.
        with contextlib.suppress(OSError):
            os.chmod(place, 0o755)  # noqa: S103
        sync_folder(place)


def sync_folder(folder: str) -> None:
    """Waits until the disk has a folder's entries."""
    import os

    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
