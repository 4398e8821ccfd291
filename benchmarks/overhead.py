"""What is not work: the time of `--local` outside its steps, `--help` and `--compile`, and the size of the IR."""

import csv
import itertools
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.data import endless_rows
from benchmarks.measure import FEWEST, OURS, Figure
from benchmarks.processes import ROOT, run, tell

OUTSIDE = 3.0  # percent of a run, at most
NOTE = "a step's time, as --local tells it, is that of its process, with the start of Python and its imports"


def timed(folder: Path, *flags: str) -> tuple[float, str]:
    """Runs pipeline_v2.py in a folder; returns the seconds of its process, and what it wrote to stdout."""
    began = time.monotonic()
    output = run(ROOT / "pipeline_v2.py", *flags, folder=folder)
    return time.monotonic() - began, output


def few_rows(folder: Path) -> list[str]:
    """Writes few rows that are easy to tell apart, and returns the flags that make the shortest run of them."""
    values = {"max_steps": "13", "max_length": "32", "min_accuracy": "0", "precision": "fp32"}
    for part, rows in {"train_data": (0, 200), "evaluation_data": (200, 240)}.items():
        values[part] = str(folder / f"{part}.csv")
        with Path(values[part]).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for text, label in itertools.islice(endless_rows(0.0), *rows):
                writer.writerow([f"{['awful', 'superb'][label]} " * 9 + text, label])
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


def measure(quick: bool, folder: Path) -> list[Figure]:
    """Measures them; the quick way `--local` on few rows, not on the demo's: the same is done outside the steps."""
    wall, output = timed(folder, "--local", "--json", *(few_rows(folder) if quick else []))
    steps = {step: seconds for step, seconds in json.loads(output)["seconds"].items() if step != "total"}
    outside = wall - sum(steps.values())
    tell(f"--local, {'few rows' if quick else 'the demo'}: {wall:.1f} s, of which {outside:.2f} s outside the steps")
    about: dict[str, Any] = {"higher_is_better": False, "note": NOTE, "details": {"wall": wall, "steps": steps}}
    figures = [Figure("--local outside its steps", "s", {OURS: [outside]}, **about)]
    if not quick:
        figures.append(Figure("--local outside its steps", "%", {OURS: [100 * outside / wall]}, limit=OUTSIDE, **about))
    target = folder / "ir.yaml"
    for flags in (["--help"], ["--compile", "--output", str(target)]):
        timed(folder, *flags)  # what Python compiles at the first import it reads afterwards
        samples = {OURS: [timed(folder, *flags)[0] for _ in range(FEWEST)]}
        figures.append(Figure(f"pipeline_v2.py {flags[0]}", "s", samples, False))
    return [*figures, Figure("IR of the pipeline", "kB", {OURS: [target.stat().st_size / 1000]}, False, exact=True)]
