"""`python -m benchmarks`: measures ours and the baseline in turn, and prints medians, spreads and ratios."""

import argparse
import contextlib
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure, record
from benchmarks.report import RESULTS, machine, show, versions

TOPICS = ["serving", "accuracy", "training", "data", "overhead", "profile"]


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").split(": ", 1)[1])
    parser.add_argument("--quick", action="store_true", help="short rounds, under three minutes in all")
    parser.add_argument("--only", metavar="TOPIC,...", help=f"only some of: {', '.join(TOPICS)}")
    parser.add_argument("--folder", type=Path, help="keep what the topics write, in this folder")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the results (default: benchmarks/results.json)")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def chosen_topics(only: str | None) -> list[str]:
    """Returns the topics to measure.

    Args:
        only: What the user asked for, with commas; None for all.
    """
    topics = only.split(",") if only else TOPICS
    unknown = [topic for topic in topics if topic not in TOPICS]
    if unknown:
        print(f"error: --only {unknown[0]!r} is no topic: {', '.join(TOPICS)}", file=sys.stderr)
        sys.exit(2)
    return topics


@contextlib.contextmanager
def work_folder(kept: Path | None, topic: str) -> Iterator[Path]:
    """Gives an empty folder for a topic, which is removed afterwards unless it is to be kept."""
    if kept is None:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            yield Path(folder)
    else:
        kept.mkdir(parents=True, exist_ok=True)
        yield Path(tempfile.mkdtemp(prefix=f"{topic}-", dir=kept))


def run_topic(topic: str, quick: bool, kept: Path | None, debug: bool) -> list[Figure] | None:
    """Measures a topic and prints its figures; None where it fails, which is told in a line."""
    print(f"{topic}:", file=sys.stderr, flush=True)
    try:
        with work_folder(kept, topic) as folder:
            figures: list[Figure] = importlib.import_module(f"benchmarks.{topic}").measure(quick, folder)
    except Exception as error:  # one topic's failure shall not take the others' figures with it
        if debug:
            raise
        said = str(error).strip() or type(error).__name__
        print(f"error: {topic} failed: {said}", file=sys.stderr, flush=True)
        return None
    print(show(topic, figures), flush=True)
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, and writes the results.

    Args:
        arguments: The command line; sys.argv's where None.

    Returns:
        0, or 1 where a topic failed.
    """
    args = make_parser().parse_args(arguments)
    topics = chosen_topics(args.only)
    began = time.monotonic()
    found = {topic: run_topic(topic, args.quick, args.folder, args.debug) for topic in topics}
    results: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "quick": args.quick,
        "seconds": round(time.monotonic() - began),
        "machine": machine(),
        "versions": versions(),
        "topics": {topic: [record(one) for one in figures] for topic, figures in found.items() if figures is not None},
        "failed": [topic for topic, figures in found.items() if figures is None],
    }
    args.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"{args.output} is written, after {results['seconds']} s", file=sys.stderr)
    return 1 if results["failed"] else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
