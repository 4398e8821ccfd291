"""Processes of their own for what is measured, so that nothing of one measurement is left in the next."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_module(module: str, *arguments: str | Path) -> str:
    """Runs `python -m <module>` from the repository's root and returns what it printed.

    Args:
        module: The module, such as "benchmarks.load".
        arguments: Its arguments.

    Raises:
        RuntimeError: It failed; the message is the last line that it wrote to stderr.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["nothing"]
        raise RuntimeError(f"python -m {module} ended with status {done.returncode}, and said: {said[-1]}")
    return done.stdout


def tell(what: str) -> None:
    """Prints a line of progress."""
    print(f"  {what}", file=sys.stderr, flush=True)
