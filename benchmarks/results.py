"""benchmarks/results.json, and the chart beside it."""

import json
import time
from pathlib import Path
from typing import Any

from benchmarks.chart import chart
from benchmarks.processes import ROOT
from benchmarks.report import machine, versions

RESULTS = Path(__file__).with_name("results.json")
QUICK = ROOT / "build" / "benchmarks" / "quick.json"


def describe(topics: dict[str, list[dict[str, Any]]], seconds: dict[str, float], quick: bool) -> dict[str, Any]:
    """Returns the results as they are written.

    Args:
        topics: The records of each topic's figures.
        seconds: How long each topic took.
        quick: Whether they were taken the quick way.
    """
    date = time.strftime("%Y-%m-%d", time.gmtime())
    return {
        "machine": machine(),
        "versions": versions(),
        "quick": quick,
        "topics": {
            topic: {"date": date, "seconds": round(seconds[topic]), "figures": figures}
            for topic, figures in topics.items()
        },
    }


def write(results: dict[str, Any], path: Path) -> None:
    """Writes results; topics of an earlier run stay, where it ran on the same machine with the same versions.

    Args:
        results: The results, see `describe`.
        path: The file; the chart goes beside it.
    """
    same = ("machine", "versions", "quick")
    if path.exists():
        former = json.loads(path.read_text(encoding="utf-8"))
        if all(former.get(key) == results[key] for key in same):
            results = {**results, "topics": {**former["topics"], **results["topics"]}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    path.with_name("chart.svg" if path == RESULTS else f"{path.stem}.svg").write_text(chart(results), encoding="utf-8")
