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

SCRIPT = """
import sys
from pathlib import Path
from nlp_pipeline.steps.batch_predict.prediction import predict_all
from nlp_pipeline.steps.batch_predict.settings import BatchSettings
predict_all(BatchSettings(data=sys.argv[1], to=sys.argv[2], shard_rows=100), "text", Path(sys.argv[3]))
"""


@pytest.mark.slow
def test_killed_again_and_again_it_comes_to_its_end(model: Path, tmp_path: Path) -> None:
    texts = [text for text, _ in make_rows(4000, seed=5)]
    data, to = write_rows(tmp_path / "new.csv", texts), tmp_path / "scored"
    command = [sys.executable, "-c", SCRIPT, str(data), str(to), str(made_release(model, "int8"))]
    rng, killed = random.Random(3), 0
    for _ in range(4):
        before = len(list(to.glob("part-*")))
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:  # once it has done some more, at any moment
            while process.poll() is None and len(list(to.glob("part-*"))) < before + 3:
                time.sleep(0.01)
            time.sleep(rng.random() / 10)
        finally:
            process.kill()
        killed += process.wait() == -signal.SIGKILL
        for part in to.glob("part-*"):  # whole, whatever was killed
            assert pyarrow.parquet.read_metadata(part).num_rows == 100
    assert killed >= 3 and not (to / "_manifest.json").exists()
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
    assert [row["id"] for row in read_parts(to)] == [str(at) for at in range(len(texts))]
    assert (to / "_manifest.json").exists() and not list(to.glob(".incoming-*"))
