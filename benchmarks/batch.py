"""How fast `--batch` classifies a file, in turn with the same model in a process on the same rows, texts alone.

Both times are of a process of its own, from the loading of the model on; of `--batch` with all that it does besides:
it counts the rows, hashes the file, writes the parts in Parquet, and reads them back for the manifest.
"""

import contextlib
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pyarrow
import pyarrow.parquet

from benchmarks.limit import IN_PROCESS, OF_PROCESS
from benchmarks.measure import FEWEST, OURS, Figure, alternate
from benchmarks.model import labelled_rows, load_classifier, release
from benchmarks.processes import run_module, tell
from nlp_pipeline.steps.batch_predict.prediction import predict_all
from nlp_pipeline.steps.batch_predict.settings import BatchSettings


def rows_per_second(what: str, release_folder: Path, data: str) -> float:
    """Classifies a file, `OURS`, or its texts in memory, `IN_PROCESS`."""
    rows = pyarrow.parquet.read_table(data)
    with tempfile.TemporaryDirectory() as to, contextlib.redirect_stdout(sys.stderr):
        began = time.perf_counter()
        if what == OURS:
            predict_all(BatchSettings(data=data, to=to), "text", release_folder)
        else:
            load_classifier(release_folder).classify(rows["text"].to_pylist())
        return float(rows.num_rows / (time.perf_counter() - began))


def measure(quick: bool, folder: Path) -> list[Figure]:
    """Measures both in turn on held-out rows, half of them reviews and half sentences."""
    rows = labelled_rows()[1][: 1000 if quick else None]
    data = folder / "rows.parquet"
    columns = {"id": range(len(rows)), "text": [text for text, _ in rows], "label": [label for _, label in rows]}
    pyarrow.parquet.write_table(pyarrow.table({name: [*values] for name, values in columns.items()}), data)
    takers = {who: partial(run_module, "batch", who, release(quick), data) for who in (OURS, IN_PROCESS)}
    samples = alternate(FEWEST, takers)
    tell(f"rows/s: {samples}")
    name = f"--batch, {len(rows):,} rows of Parquet: rows/s"
    return [Figure(name, "rows/s", samples, targets={IN_PROCESS: OF_PROCESS})]


if __name__ == "__main__":
    what, release_folder, data = sys.argv[1:]
    print(json.dumps(rows_per_second(what, Path(release_folder), data)))
