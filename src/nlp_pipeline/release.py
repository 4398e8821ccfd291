"""A release: a model as it is served, immutable and named by its content.

On the volume, `<model_name>/releases/<digest>/` holds

- `release.json`: its record, written last;
- `config/config.properties`, `model-store/<model_name>.mar`: what TorchServe serves;
- `huggingface/`: the model as save_pretrained writes it.

`<model_name>/latest.json` names the release that passed validation last.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nlp_pipeline.errors import UsageError

RECORD = "release.json"


@dataclass(frozen=True, kw_only=True)
class Release:
    """What is known of a release: the content of its release.json.

    Attributes:
        digest: Its name; like `created` and `files`, set by `seal`.
        files: The SHA-256 of each other file by its path.
    """

    digest: str = ""
    created: str = ""
    model_name: str
    run_id: str = ""
    labels: list[str] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    precision: dict[str, Any] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    source: str | None = None
    source_sha256: str | None = None
    files: dict[str, str] = field(default_factory=dict)


def parse_record(content: str | bytes) -> Release | None:
    """Returns the release that a release.json describes; None where it describes none."""
    try:
        values = json.loads(content)
        release = Release(**{one.name: values[one.name] for one in fields(Release) if one.name in values})
        texts = [release.digest, release.model_name, *release.labels, *release.files, *release.files.values()]
    except (ValueError, TypeError, AttributeError):
        return None
    return release if release.digest and all(isinstance(text, str) for text in texts) else None


def hash_files(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of each of a release's files but release.json, by its path in the release, in order."""
    found: dict[str, str] = {}
    for path in folder.rglob("*"):
        if not path.is_dir():
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    found.pop(RECORD, None)
    return dict(sorted(found.items()))


def digest_of(files: dict[str, str]) -> str:
    """Returns the name of a release with these files (path to SHA-256): 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16]


def seal(folder: Path, release: Release) -> Release:
    """Writes a release's release.json, its last file.

    Args:
        folder: The release's folder, with all its other files.
        release: What shall be known of it.

    Returns:
        The same, with digest, time and files.
    """
    files = hash_files(folder)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    sealed = replace(release, digest=digest_of(files), created=created, files=files)
    (folder / RECORD).write_text(json.dumps(asdict(sealed), indent=1), encoding="utf-8")
    return sealed


def verify(folder: Path) -> Release:
    """Makes sure that a release is whole and as it was sealed.

    Raises:
        UsageError: The folder is no release, or a file is missing, altered or additional.
    """
    try:
        release = parse_record((folder / RECORD).read_bytes())
    except OSError:
        release = None
    if release is None:
        raise UsageError(
            f"{folder} is no release: it has no sound {RECORD}; releases lie in <volume>/<model>/releases/"
        )
    try:
        found = hash_files(folder)
    except OSError as error:
        raise UsageError(
            f"{folder} can't be read ({error.strerror}: {error.filename}): may this user read it?"
        ) from None
    problem = find_problem(release, found)
    if problem:
        raise UsageError(f"{folder} is spoilt: {problem}; choose another release, or make it anew")
    return release


def find_problem(release: Release, found: dict[str, str]) -> str:
    """Returns what is wrong with a release that has these files (path to SHA-256), or nothing."""
    for name in sorted({*release.files, *found}):
        if name not in found:
            return f"{name} is missing"
        if name not in release.files:
            return f"{name} does not belong to it"
        if found[name] != release.files[name]:
            return f"{name} is altered"
    if release.digest != digest_of(found):
        return f"{RECORD} has the digest {release.digest[:100]!r}, and its files have {digest_of(found)}"
    return ""
