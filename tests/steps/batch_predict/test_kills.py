"""Rows in are rows out, whenever the process is killed."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest

from tests.conftest import make_rows
from tests.serving.conftest import made_release
from tests.steps.batch_predict.test_batch import read_parts, write_rows

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_killed_again_and_again_it_comes_to_its_end(model: Path, tmp_path: Path) -> None:
    texts = [text for text, _ in make_rows(6000, seed=5)]
    data, to = write_rows(tmp_path / "new.csv", texts), tmp_path / "scored"
    command = [sys.executable, str(ROOT / "pipeline_v2.py"), "--batch", "--data", str(data), "--to", str(to)]
    command += ["--release", str(made_release(model, "int8")), "--set", "shard_rows=100"]
    rng, killed = random.Random(3), 0
    for _ in range(6):
        before = len(list(to.glob("part-*")))
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:  # once it has done some more, at any moment
            while process.poll() is None and len(list(to.glob("part-*"))) < before + 3:
                time.sleep(0.01)
            time.sleep(rng.random() / 10)
        finally:
            process.kill()
        killed += process.wait() == -signal.SIGKILL
        for part in to.glob("part-*"):  # whole, whatever was killed
            assert pyarrow.parquet.read_metadata(part).num_rows == 100
    assert killed >= 4 and not (to / "_manifest.json").exists()
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert [row["id"] for row in read_parts(to)] == [str(at) for at in range(len(texts))]
    assert (to / "_manifest.json").exists() and not list(to.glob(".incoming-*"))
