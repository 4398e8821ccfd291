"""A run, and what it writes to the volume: files that appear whole or not at all.

Where there is no volume, nothing is written to it: the steps' artifacts are all that there is.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlp_pipeline.errors import PipelineError, RolledBackError
from nlp_pipeline.parameters import MODEL_NAME, Settings, parameter

# Where a step's pod has the claim, and the variable that names a folder in its place, as `--local` has one.
VOLUME_PATH, VARIABLE = "/mnt/nlp-pipeline", "NLP_PIPELINE_VOLUME"
# In the run's folder: how its newest step fares, and what the gate said.
STEP, GATE = "step.json", "gate.json"


def find_volume() -> str:
    """Returns where the volume is mounted, or the folder in its place; nothing where there is none."""
    path = os.environ.get(VARIABLE, VOLUME_PATH)
    return path if Path(path).is_dir() else ""


@dataclass(frozen=True, kw_only=True)
class Run(Settings):
    """A run of the pipeline."""

    model_name: str = parameter(
        "text-classifier", "Name of model, archive and endpoint: lower case, digits, hyphens.", MODEL_NAME
    )
    run_id: str  # KFP's
    volume_path: str = field(default_factory=find_volume)

    @property
    def model_folder(self) -> Path | None:
        """Where the model's releases and runs lie on the volume; None where there is no volume."""
        return Path(self.volume_path, self.model_name) if self.volume_path else None

    @property
    def folder(self) -> Path | None:
        """Where this run's files lie on the volume; None where there is no volume."""
        return self.model_folder / "runs" / self.run_id if self.model_folder else None

    def prepare_folder(self) -> None:
        """Makes the run's folder, where there is a volume; a PipelineError where it can't be written to."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PipelineError(
                f"'{self.folder}' can't be made on the volume ({error.strerror}): user {os.getuid()} must be able to "
                f"write to '{self.volume_path}'; as root, chmod 0777 it once"
            ) from None

    def keep(self, source: str | Path, name: str) -> Path:
        """Copies a file or folder to `name` in the run's folder; returns the copy, or the source without a volume."""
        return put(Path(source), self.folder / name) if self.folder else Path(source)

    def record(self, name: str, **facts: Any) -> None:
        """Writes a file of JSON to the run's folder, where there is one and it can be written to."""
        if self.folder:
            with contextlib.suppress(OSError), tempfile.TemporaryDirectory() as temporary:
                file = Path(temporary, name)
                file.write_text(json.dumps(facts), encoding="utf-8")
                self.keep(file, name)

    @contextlib.contextmanager
    def during(self, step: str) -> Iterator[None]:
        """Records which step runs, and how it ends: all that KFP tells the notice at a run's end is that it failed."""
        self.record(STEP, step=step, state="running")
        try:
            yield
        except BaseException as error:
            state = "rolled back" if isinstance(error, RolledBackError) else "failed"
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            self.record(STEP, step=step, state=state, reason=reason)
            raise
        self.record(STEP, step=step, state="succeeded")


def put(source: Path, target: Path) -> Path:
    """Copies a file or folder so that the copy appears whole or not at all, in the place of a former one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".incoming-", dir=target.parent))
    try:
        incoming = temporary / target.name
        if source.is_dir():
            copy_folder(source, incoming)
            if target.is_dir():
                target.rename(temporary / "former")
        else:
            shutil.copyfile(source, incoming)
        incoming.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def digest_of(value: Any) -> str:
    """Returns what a value that JSON can hold is known again by: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def file_sha256(path: str | Path) -> str:
    """Returns a file's SHA-256 in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_folder(source: Path, target: Path) -> None:
    """Copies a folder's files.

    Not shutil.copytree, which changes modes: a volume with fixed owners (NFS, CSI drivers) may refuse that.
    """
    target.mkdir()
    for path in source.iterdir():
        copy = copy_folder if path.is_dir() else shutil.copyfile
        copy(path, target / path.name)
