"""`python -m benchmarks`: measures ours and others in turn; prints medians, spreads and ratios."""

import argparse
import importlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import record
from benchmarks.processes import ROOT
from benchmarks.results import QUICK, RESULTS, describe, write
from benchmarks.table import show

TOPICS = ["peers", "limit", "accuracy", "formats", "training", "data", "overhead", "batch", "profile"]
NOT_QUICK = ["profile"]  # unless it is asked for


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures ours and others in turn; prints medians, spreads and ratios.",
        epilog="A whole run, or one of some topics, updates benchmarks/results.json, the chart beside it and the "
        "table in docs/performance.md; a quick one writes build/benchmarks/quick.json.",
    )
    parser.add_argument("--quick", action="store_true", help="short rounds, a few minutes in all")
    parser.add_argument("--only", metavar="TOPIC,...", help=f"only some of: {', '.join(TOPICS)}")
    parser.add_argument("--profile", action="store_true", help="only where the time of one request goes")
    parser.add_argument("--folder", type=Path, help="keep what the topics write, in this folder")
    parser.add_argument("--output", type=Path, help="write the results there, and leave docs/ as it is")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def chosen_topics(args: argparse.Namespace) -> list[str]:
    """Returns the topics that the user asks for."""
    if args.profile:
        return ["profile"]
    if args.only is None:
        return [topic for topic in TOPICS if not (args.quick and topic in NOT_QUICK)]
    topics: list[str] = args.only.split(",")
    for topic in topics:
        if topic not in TOPICS:
            print(f"error: --only: {topic!r} is no topic; topics are {', '.join(TOPICS)}", file=sys.stderr)
            sys.exit(2)
    return topics


def run_topic(topic: str, args: argparse.Namespace) -> list[dict[str, Any]] | None:
    """Measures a topic and prints its figures; gives their records, or None where it fails, which it tells."""
    print(f"{topic}:", file=sys.stderr, flush=True)
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{topic}-", dir=args.folder)).resolve()
    try:
        figures = importlib.import_module(f"benchmarks.{topic}").measure(args.quick, folder)
        records = [record(figure) for figure in figures]
    except Exception as error:  # one topic's failure shall not take the others' figures with it
        if args.debug:
            raise
        print(f"error: {topic} failed: {str(error).strip() or type(error).__name__}", file=sys.stderr, flush=True)
        return None
    finally:
        if not args.folder:
            shutil.rmtree(folder, ignore_errors=True)
    print(show(topic, records), flush=True)
    return records


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, and writes the results; returns 0, or 1 where a topic failed."""
    args = make_parser().parse_args(arguments)
    topics = chosen_topics(args)
    measured: dict[str, list[dict[str, Any]]] = {}
    seconds: dict[str, float] = {}
    for topic in topics:
        began = time.monotonic()
        records = run_topic(topic, args)
        seconds[topic] = time.monotonic() - began
        if records is not None:
            measured[topic] = records
    path = args.output or (QUICK if args.quick else RESULTS)
    if measured:
        write(describe(measured, seconds, args.quick), path)
        print(f"written: {path}, after {sum(seconds.values()):.0f} s", file=sys.stderr)
    if measured and path == RESULTS:
        subprocess.run([sys.executable, "-m", "nlp_pipeline.docs"], cwd=ROOT, check=True)
    return 0 if len(measured) == len(topics) else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # what was started is ended, as it is by Ctrl-C
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
