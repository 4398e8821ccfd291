"""Processes of their own for what is measured, so that nothing of one measurement is left in the next."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, folder: Path = ROOT) -> str:
    """Runs Python in a folder and returns what it printed; a RuntimeError has the last line of its stderr."""
    words = [str(word) for word in command]
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise RuntimeError(f"python {' '.join(words)} ended with status {done.returncode}: {last}")
    return done.stdout


def run_module(module: str, *arguments: object) -> Any:
    """Runs a module of this package with arguments; returns the last line that it printed, which is JSON."""
    return json.loads(run("-m", f"benchmarks.{module}", *map(str, arguments)).splitlines()[-1])


def tell(what: str) -> None:
    """Prints a line of progress."""
    print(f"  {what}", file=sys.stderr, flush=True)
