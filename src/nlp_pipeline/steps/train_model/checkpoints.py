"""Where checkpoints lie, so that a repeated run resumes from them."""

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nlp_pipeline.volume import Run


@contextmanager
def checkpoint_folder(run: Run, inputs: Any) -> Iterator[Path]:
    """Gives a folder that a repeated run with the same inputs finds again; removed once the training succeeded.

    It is named by the digest of the inputs, so that a training never resumes from checkpoints of other data or other
    parameters, and locked. Where another process trains the very same now, or the volume knows no locks, the run gets
    a folder of its own, which its own retries find again. Without a volume it is a temporary one.
    """
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
    folder = (run.model_folder or Path(tempfile.mkdtemp())) / "checkpoints" / digest
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            folder = folder.with_name(f"{digest}-{run.run_id}")
            folder.mkdir(exist_ok=True)
        yield folder
        shutil.rmtree(folder)


def last_checkpoint(folder: Path) -> int:
    """Returns the step of the newest checkpoint that was written to its end; 0 where there is none."""
    marks = folder.glob("checkpoint-*/complete")
    return max((int(mark.parent.name.split("-")[1]) for mark in marks), default=0)
