"""Served requests: the archive in TorchServe, against the former handler in the same server, and this route's ceiling.

Servers are measured in turn, a point at a time; the others' processes are stopped (SIGSTOP) meanwhile, so that one runs
alone.
"""

import contextlib
import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import Any

from benchmarks.measure import FEWEST, OURS, Figure, alternate
from benchmarks.model import NAME, baseline_release, release, texts_of_length, unpacked
from benchmarks.processes import run_module, tell
from benchmarks.servers import Server

FP32, BF16 = "eager fp32", "eager bf16"
BOTH = ((1, 1), (1, 32))  # instances a request and clients
TEXTS = 1024
# By how much ours shall be better, for reviews in requests of one instance.
TARGETS = {"requests/s": 8.0, "p50": 6.0}
OF_CEILING = 0.95  # of what the model does in one process, all threads a call
TAIL = 3.0  # times the median, at most
SMALLER = 5.0  # times, the archive
KEYS = {"requests/s": "requests_per_second", "p50": "p50_ms", "p99": "p99_ms"}

Sample = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Point:
    """What is asked for: kind of texts, instances a request, clients at once."""

    texts: str
    instances: int
    clients: int

    def __str__(self) -> str:
        """Says it in words."""
        each = "" if self.instances == 1 else f" of {self.instances} instances"
        return f"{self.texts}, {self.clients} client{'s' if self.clients > 1 else ''}{each}"


def points(quick: bool) -> list[Point]:
    """Returns what is asked for. With sixteen instances, more clients than 8 would wait minutes for the baseline."""
    if quick:
        return [Point("reviews", 1, clients) for clients in (1, 32)]
    single = [Point(texts, 1, clients) for texts in ("reviews", "sentences") for clients in (1, 8, 32, 128)]
    return single + [Point(texts, 16, clients) for texts in ("reviews", "sentences") for clients in (1, 8)]


def write_requests(folder: Path, point: Point) -> Path:
    """Writes a point's requests for the load generator, and returns the file."""
    path = folder / f"{point.texts}-{point.instances}.json"
    texts = texts_of_length(point.texts, TEXTS)
    starts = range(0, len(texts) - point.instances + 1, point.instances)
    path.write_text(json.dumps([texts[at : at + point.instances] for at in starts]), encoding="utf-8")
    return path


def ask(server: Server, point: Point, folder: Path, quick: bool) -> Sample:
    """Takes one sample: lets a server run and loads it; many texts at once need longer until each is answered."""
    waves = 2.0 if not quick and point.clients * point.instances > 64 else 0.0
    requests = write_requests(folder, point)
    with server.running() as url:
        sample: Sample = run_module("load", url, requests, point.clients, 1.0 + waves, 3.0 + waves)
    return sample


def figures_of(point: Point, samples: dict[str, list[Sample]]) -> list[Figure]:
    """Returns a point's figures: requests/s and latencies of the samples' rounds, with the errors in their details."""
    usual = (point.texts, point.instances) == ("reviews", 1)
    aimed = {1: "p50", 32: "requests/s"}.get(point.clients) if usual else None
    errors = {who: [one["errors"] for one in each if one["errors"]] for who, each in samples.items()}
    failed = {who: each for who, each in errors.items() if each}
    shares = {who: [one["cpu_share"] for one in each] for who, each in samples.items()}
    details = {"errors": failed, "load_cpu_share": shares}
    note = "errors: " + "; ".join(f"{who} {each}" for who, each in failed.items()) if failed else ""
    figures = []
    for what, key in KEYS.items():
        values = {who: [one[key] for one in each] for who, each in samples.items()}
        answered = {who: each for who, each in values.items() if None not in each}
        more = what == "requests/s"
        targets = {FP32: TARGETS[what]} if what == aimed and FP32 in answered else {}
        about: dict[str, Any] = {"shown": more and point.instances == 1, "note": note, "details": details}
        figures.append(Figure(f"{point}: {what}", what if more else "ms", answered, more, targets, **about))
    if usual and point.clients == 32:
        tails = {who: [one["p99_ms"] / one["p50_ms"] for one in each] for who, each in samples.items()}
        figures.append(Figure(f"{point}: p99 against p50", "times", tails, False, limit=TAIL))
    return figures


def measure_points(quick: bool, folder: Path, servers: dict[str, Server]) -> list[Figure]:
    """Loads the servers in turn, a point after the other."""
    figures = []
    for point in points(quick):
        # The second baseline is there to compare with, at two points of each kind of texts.
        asked = {who: one for who, one in servers.items() if who != BF16 or (point.instances, point.clients) in BOTH}
        takers = {who: functools.partial(ask, server, point, folder, quick) for who, server in asked.items()}
        samples = alternate(FEWEST, takers)
        rates = {who: [round(one["requests_per_second"], 1) for one in each] for who, each in samples.items()}
        tell(f"{point}: requests/s {rates}")
        figures += figures_of(point, samples)
    return figures


def measure_ceilings(folder: Path, ours: Server) -> list[Figure]:
    """Holds the served archive against its own model in a process, one text a call: what no server can get beyond."""
    cpus = len(os.sched_getaffinity(0))
    archive = unpacked(ours.release, folder / "unpacked")
    many_threads, many_calls = f"in process, {cpus} threads a call", f"in process, {cpus} calls at once"
    figures = []
    for texts in ("reviews", "sentences"):
        point = Point(texts, 1, 32)
        call = functools.partial(run_module, "ceiling", archive, write_requests(folder, point))
        takers = {
            OURS: functools.partial(ask, ours, point, folder, True),
            many_threads: functools.partial(call, cpus, 1),
            many_calls: functools.partial(call, 1, cpus),
        }
        samples = alternate(FEWEST, takers)
        values = {who: [one["requests_per_second"] for one in each] for who, each in samples.items()}
        rates = {who: [round(one, 1) for one in each] for who, each in values.items()}
        tell(f"{texts}, the ceiling: requests/s {rates}")
        targets = {many_threads: OF_CEILING} if texts == "reviews" else {}
        name = f"{point}, against the ceiling: requests/s"
        figures.append(Figure(name, "requests/s", values, targets=targets, shown=True))
    return figures


def measure(quick: bool, folder: Path) -> list[Figure]:
    """Measures what is served; the quick way only ours and the eager fp32 handler, reviews, 1 and 32 clients."""
    releases = {OURS: release(quick), FP32: baseline_release(quick, "float32")}
    if not quick:
        releases[BF16] = baseline_release(quick, "bfloat16")
    booted: dict[str, list[float]] = {who: [] for who in releases}
    for turn in reversed(range(1 if quick else FEWEST)):
        with contextlib.ExitStack() as stack:
            servers = {}
            for number, (who, path) in enumerate(releases.items()):
                servers[who] = stack.enter_context(Server(path, folder / f"server-{number}-{turn}"))
                booted[who].append(servers[who].seconds)
            if turn == 0:  # those booted last are measured
                figures = measure_points(quick, folder, servers)
                if not quick:
                    figures += measure_ceilings(folder, servers[OURS])
                memory = {who: [server.peak_memory()] for who, server in servers.items()}
    size = {who: [(path / "model-store" / f"{NAME}.mar").stat().st_size / 1e6] for who, path in releases.items()}
    return [
        *figures,
        Figure("seconds to ready", "s", booted, False, shown=True),
        Figure("server's memory, the most", "MB", memory, False, exact=True, shown=True),
        Figure("archive", "MB", size, False, {FP32: SMALLER}, exact=True, shown=True),
    ]
