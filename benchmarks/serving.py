"""Served requests: the archive in TorchServe, against the former handler in the same server, and this route's ceiling.

Servers are measured in turn, a point at a time; the others' processes are stopped (SIGSTOP) meanwhile, so that one runs
alone.
"""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import FEWEST, OURS, Figure, alternate
from benchmarks.model import baseline_release, release, texts_of_length, unpacked
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


def seconds_of(point: Point, quick: bool) -> tuple[float, float]:
    """Returns seconds of warm-up and of counting: many texts at once need longer until each has been answered."""
    waves = 2.0 if point.clients * point.instances > 64 else 0.0
    return (1.0, 3.0) if quick else (1.0 + waves, 3.0 + waves)


def write_requests(folder: Path, point: Point) -> Path:
    """Writes a point's requests for the load generator, and returns the file."""
    path = folder / f"{point.texts}-{point.instances}.json"
    if not path.exists():
        texts = texts_of_length(point.texts, TEXTS)
        whole = len(texts) - len(texts) % point.instances
        requests = [texts[at : at + point.instances] for at in range(0, whole, point.instances)]
        path.write_text(json.dumps(requests), encoding="utf-8")
    return path


def ask(server: Server, point: Point, folder: Path, quick: bool) -> dict[str, Any]:
    """Takes one sample: lets a server run and loads it."""
    warm_up, seconds = seconds_of(point, quick)
    requests = write_requests(folder, point)
    with server.running() as url:
        options = ["--clients", str(point.clients), "--warm-up", str(warm_up), "--seconds", str(seconds)]
        sample: dict[str, Any] = json.loads(run_module("benchmarks.load", url, requests, *options))
    return sample


def call(archive: Path, point: Point, folder: Path, threads: int, callers: int) -> dict[str, Any]:
    """Takes one sample of the archive's model in a process, with no server."""
    options = ["--threads", str(threads), "--callers", str(callers), "--seconds", "3"]
    sample: dict[str, Any] = json.loads(
        run_module("benchmarks.ceiling", archive, write_requests(folder, point), *options)
    )
    return sample


def figures_of(name: str, samples: dict[str, list[dict[str, Any]]], targets: dict[str, float]) -> list[Figure]:
    """Returns a point's figures: requests/s and latencies, with the errors in their details.

    Args:
        name: What was asked for.
        samples: By who was asked, what the load generator told, round by round.
        targets: "requests/s" and "p50": by how much ours shall be better than the eager fp32.
    """
    errors = {who: [one["errors"] for one in each if one.get("errors")] for who, each in samples.items()}
    failed = {who: each for who, each in errors.items() if each}
    details: dict[str, Any] = {"errors": failed}
    details["load_cpu_share"] = {who: [one["cpu_share"] for one in each] for who, each in samples.items()}
    note = "errors: " + "; ".join(f"{who} {each}" for who, each in failed.items()) if failed else ""
    figures = []
    for what, key, unit in (
        ("requests/s", "requests_per_second", "requests/s"),
        ("p50", "p50_ms", "ms"),
        ("p99", "p99_ms", "ms"),
    ):
        values = {who: [one[key] for one in each] for who, each in samples.items()}
        answered = {who: each for who, each in values.items() if None not in each}
        target = {FP32: targets[what]} if what in targets and FP32 in answered else {}
        shown = unit != "ms" and "instances" not in name
        about: dict[str, Any] = {"shown": shown, "note": note, "details": details}
        figures.append(Figure(f"{name}: {what}", unit, answered, unit != "ms", target, **about))
    return figures


def measure_points(quick: bool, folder: Path, servers: dict[str, Server]) -> list[Figure]:
    """Loads the servers in turn, a point after the other."""
    figures = []
    for point in points(quick):

        def sampler(server: Server, point: Point = point) -> Callable[[], dict[str, Any]]:
            return lambda: ask(server, point, folder, quick)

        # The second baseline is there to compare with, at two points of each kind of texts.
        asked = {who: one for who, one in servers.items() if who != BF16 or (point.instances, point.clients) in BOTH}
        samples = alternate(FEWEST, {who: sampler(server) for who, server in asked.items()})
        rates = {who: [round(one["requests_per_second"], 1) for one in each] for who, each in samples.items()}
        tell(f"{point}: requests/s {rates}")
        aimed = {1: {"p50": TARGETS["p50"]}, 32: {"requests/s": TARGETS["requests/s"]}}
        usual = (point.texts, point.instances) == ("reviews", 1)
        figures += figures_of(str(point), samples, aimed.get(point.clients, {}) if usual else {})
        if usual and point.clients == 32:
            tails = {who: [one["p99_ms"] / one["p50_ms"] for one in each] for who, each in samples.items()}
            figures.append(Figure(f"{point}: p99 against p50", "times", tails, False, limit=TAIL))
    return figures


def measure_ceilings(folder: Path, ours: Server) -> list[Figure]:
    """Holds the served archive against its own model in a process, one text a call: what no server can get beyond."""
    cpus = len(os.sched_getaffinity(0))
    archive = unpacked(ours.release, folder / "unpacked")
    figures = []
    for texts in ("reviews", "sentences"):
        point = Point(texts, 1, 32)
        kinds = {f"in process, {cpus} threads a call": (cpus, 1), f"in process, {cpus} calls at once": (1, cpus)}
        takers: dict[str, Callable[[], dict[str, Any]]] = {OURS: lambda point=point: ask(ours, point, folder, True)}  # type: ignore[misc]
        for name, (threads, callers) in kinds.items():
            takers[name] = lambda point=point, threads=threads, callers=callers: call(  # type: ignore[misc]
                archive, point, folder, threads, callers
            )
        samples = alternate(FEWEST, takers)
        values = {who: [one["requests_per_second"] for one in each] for who, each in samples.items()}
        rates = {who: [round(one, 1) for one in each] for who, each in values.items()}
        tell(f"{texts}, the ceiling: requests/s {rates}")
        aimed = {next(iter(kinds)): OF_CEILING} if texts == "reviews" else {}
        about: dict[str, Any] = {"targets": aimed, "shown": True}
        figures.append(Figure(f"{point}, against the ceiling: requests/s", "requests/s", values, **about))
    return figures


def measure(quick: bool, folder: Path) -> list[Figure]:
    """Measures what is served.

    Args:
        quick: Only ours against the eager fp32 handler, reviews, one instance a request, 1 and 32 clients.
        folder: An empty folder.
    """
    releases = {OURS: release(quick), FP32: baseline_release(quick, "float32")}
    if not quick:
        releases[BF16] = baseline_release(quick, "bfloat16")
    servers: dict[str, Server] = {}
    booted: dict[str, list[float]] = {who: [] for who in releases}
    try:
        for turn in range(1 if quick else FEWEST):
            for number, (who, path) in enumerate(releases.items()):
                if who in servers:
                    servers.pop(who).end()
                server = Server(path, folder / f"server-{number}-{turn}")
                booted[who].append(server.boot())
                servers[who] = server
        figures = measure_points(quick, folder, servers)
        if not quick:
            figures += measure_ceilings(folder, servers[OURS])
        memory = {who: [server.peak_memory()] for who, server in servers.items()}
    finally:
        for server in servers.values():
            server.end()
    size = {who: [path.stat().st_size / 1e6] for who, path in ((w, s.archive) for w, s in servers.items())}
    return [
        *figures,
        Figure("seconds to ready", "s", booted, higher_is_better=False, shown=True),
        Figure("server's memory, the most", "MB", memory, higher_is_better=False, exact=True, shown=True),
        Figure("archive", "MB", size, higher_is_better=False, targets={FP32: SMALLER}, exact=True, shown=True),
    ]
