"""What is not work: the time of `--local` outside its steps, `--help` and `--compile`, and the size of the IR."""

import csv
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.data import endless_rows
from benchmarks.measure import FEWEST, OURS, Figure
from benchmarks.processes import ROOT, tell

OUTSIDE = 3.0  # percent of a run, at most
NOTE = "a step's time, as --local tells it, is that of its process, with the start of Python and its imports"


def run(folder: Path, *flags: str) -> tuple[float, str]:
    """Runs pipeline_v2.py in a folder; returns the seconds of its process, and what it wrote to stdout.

    Raises:
        RuntimeError: It failed; the message is the last line that it wrote to stderr.
    """
    command = [sys.executable, str(ROOT / "pipeline_v2.py"), *flags]
    began = time.monotonic()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    seconds = time.monotonic() - began
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["nothing"]
        raise RuntimeError(f"pipeline_v2.py {' '.join(flags)} ended with status {done.returncode}: {said[-1]}")
    return seconds, done.stdout


def few_rows(folder: Path) -> list[str]:
    """Writes few rows that are easy to tell apart, and returns the flags that make the shortest run of them."""
    flags = []
    for part, rows in {"train_data": (0, 200), "evaluation_data": (200, 240)}.items():
        path = folder / f"{part}.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for text, label in itertools.islice(endless_rows(0.0), *rows):
                writer.writerow([f"{['awful', 'superb'][label]} " * 9 + text, label])
        flags += ["--set", f"{part}={path}"]
    return [
        *flags,
        "--set",
        "max_steps=13",
        "--set",
        "max_length=32",
        "--set",
        "min_accuracy=0",
        "--set",
        "precision=fp32",
    ]


def outside_steps(folder: Path, flags: list[str], what: str) -> tuple[float, float, dict[str, float]]:
    """Runs `--local`; returns the seconds outside the steps, those of the run, and those of each step."""
    wall, told = run(folder, "--local", "--json", *flags)
    seconds: dict[str, float] = json.loads(told)["seconds"]
    steps = {step: taken for step, taken in seconds.items() if step != "total"}
    outside = wall - sum(steps.values())
    tell(f"--local, {what}: {wall:.1f} s, of which {outside:.2f} s outside the steps")
    return outside, wall, steps


def measure(quick: bool, folder: Path) -> list[Figure]:
    """Measures them.

    Args:
        quick: `--local` once and on few rows, in place of the demo: the same is done outside the steps.
        folder: Where the runs write.
    """
    flags = few_rows(folder) if quick else []
    outside, wall, steps = outside_steps(folder, flags, "few rows" if quick else "the demo")
    details = {"wall": wall, "steps": steps}
    about: dict[str, Any] = {"higher_is_better": False, "note": NOTE, "details": details}
    figures = [Figure("--local outside its steps", "s", {OURS: [outside]}, **about)]
    if not quick:
        figures.append(Figure("--local outside its steps", "%", {OURS: [100 * outside / wall]}, limit=OUTSIDE, **about))
    target = folder / "ir.yaml"
    for words in (["--help"], ["--compile", "--output", str(target)]):
        run(folder, *words)  # what Python compiles at the first import it reads afterwards
        samples = {OURS: [run(folder, *words)[0] for _ in range(FEWEST)]}
        figures.append(Figure(f"pipeline_v2.py {words[0]}", "s", samples, higher_is_better=False))
    size = {OURS: [target.stat().st_size / 1000]}
    return [*figures, Figure("IR of the pipeline", "kB", size, higher_is_better=False, exact=True)]
