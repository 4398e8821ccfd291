"""Ours, the former pipeline's way and other servers of the same model, in turn, in one run on one machine.

While one is measured the others' processes are stopped (SIGSTOP), so that it is alone. A server that can't be started
is in the results with the reason.
"""

import contextlib
import functools
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.measure import FEWEST, OURS, Figure, alternate
from benchmarks.model import (
    LABELS,
    MAX_LENGTH,
    NAME,
    baseline_release,
    labelled_rows,
    release,
    texts_of_length,
    trained_model,
    truncate,
)
from benchmarks.peers.servers import FORMER, OURS_IN_TORCHSERVE, contenders
from benchmarks.processes import tell
from benchmarks.results import machine
from benchmarks.servers import Running
from nlp_pipeline.steps.evaluate_model.prediction import predict

POINTS = [("reviews", 1), ("reviews", 8), ("reviews", 32), ("sentences", 32)]  # kind of texts, clients
TEXTS = 1024
ROWS = 500  # asked for accuracy
OFFLINE = "transformers, no server"
KEYS = {"requests/s": "requests_per_second", "p50": "p50_ms", "p99": "p99_ms"}

# How many times better than the former pipeline and than the best peer, by what is measured of reviews and clients.
THAN_FORMER = {("requests/s", 32): 8.0, ("p50", 1): 6.0}
THAN_PEER = {("requests/s", 32): 3.0, ("p50", 1): 2.5}
THAN_PEER_WITH_VNNI = {("requests/s", 32): 4.0, ("p50", 1): 2.5}
TAIL = 3.0  # times the median, at most
SMALLER = 5.0  # times than the former pipeline's archive
SECONDS, MEGABYTES = 3.0, 350.0  # to the first answer, and of memory, at most


def write_requests(folder: Path, name: str, texts: list[str], size: int = 1) -> Path:
    """Writes requests of so many texts for the load generator, and returns the file."""
    path = folder / f"{name}-{size}.json"
    starts = range(0, len(texts) - size + 1, size)
    path.write_text(json.dumps([texts[at : at + size] for at in starts]), encoding="utf-8")
    return path


def write_both(folder: Path, name: str, texts: list[str], quick: bool) -> dict[bool, Path]:
    """Writes requests of one text for servers that truncate texts (True), and for those that don't (False)."""
    cut = truncate(texts, trained_model(quick))
    return {True: write_requests(folder, name, texts), False: write_requests(folder, f"{name}-cut", cut)}


def start_all(stack: contextlib.ExitStack, quick: bool, folder: Path) -> tuple[dict[str, Running], dict[str, str]]:
    """Starts all servers; returns those that answer, and why others don't.

    Each is asked for some texts of many lengths at once, for which one of them compiles its model anew.
    """
    servers, missing = {}, {}
    some = write_both(folder, "some", [text for text, _ in labelled_rows()[1][:24]], quick)
    for number, (name, describe) in enumerate(contenders(quick).items()):
        try:
            servers[name] = stack.enter_context(Running(describe(), folder / f"server-{number}"))
            servers[name].load(some[servers[name].server.truncates], 8)
            tell(f"{name}: the first answer after {servers[name].seconds:.1f} s")
        except (RuntimeError, OSError) as error:
            if name == OURS:
                raise
            servers.pop(name, None)
            missing[name] = str(error)
            tell(f"{name} can't be measured: {error}")
    return servers, missing


def targets_of(key: tuple[str, int], samples: dict[str, list[float]], higher_is_better: bool) -> dict[str, float]:
    """Returns by how much ours shall be better than the former pipeline, and than the best peer of all."""
    targets = {FORMER: THAN_FORMER[key]} if FORMER in samples and key in THAN_FORMER else {}
    peers = [name for name in samples if name not in (OURS, OURS_IN_TORCHSERVE, FORMER)]
    if peers and key in THAN_PEER:
        best = (max if higher_is_better else min)(peers, key=lambda name: statistics.median(samples[name]))
        vnni = any(flag.endswith("vnni") for flag in machine()["flags"])
        targets[best] = (THAN_PEER_WITH_VNNI if vnni else THAN_PEER)[key]
    return targets


def figures_of(kind: str, clients: int, rounds: dict[str, list[dict[str, Any]]]) -> list[Figure]:
    """Returns a point's figures: requests/s, latencies, and the tail; a server that gave no answer is in none."""
    name = f"{kind}, {clients} client{'s' if clients > 1 else ''}"
    answered = {who: each for who, each in rounds.items() if all(sample["requests"] for sample in each)}
    errors = {who: [sample["errors"] for sample in each] for who, each in rounds.items()}
    details = {"errors": {who: each for who, each in errors.items() if any(each)}}
    figures = []
    for what, key in KEYS.items():
        samples = {who: [sample[key] for sample in each] for who, each in answered.items()}
        more = what == "requests/s"
        targets = targets_of((what, clients), samples, more) if kind == "reviews" else {}
        column = f"{kind}: {what}, {clients}" if more or (what, clients) == ("p50", 1) else ""
        about: dict[str, Any] = {"targets": targets, "column": column, "details": details}
        figures.append(Figure(f"{name}: {what}", what if more else "ms", samples, more, **about))
    if (kind, clients) == ("reviews", 32):
        tails = {who: [each["p99_ms"] / each["p50_ms"] for each in samples] for who, samples in answered.items()}
        figures.append(
            Figure(f"{name}: p99 against p50", "times", tails, False, limit=TAIL, column="reviews: p99 / p50, 32")
        )
    return figures


def measure_points(servers: dict[str, Running], quick: bool, folder: Path) -> list[Figure]:
    """Loads the servers in turn, a point after the other."""
    figures = []
    for kind, clients in POINTS[::2] if quick else POINTS:
        requests = write_both(folder, kind, texts_of_length(kind, TEXTS), quick)
        # The slowest take seconds until each of many clients has its first answer, and some answer all 32 at once.
        seconds = (0.5, 1.5) if quick else (1.5, 8.0) if clients > 8 else (0.5, 2.5)
        takers = {
            who: functools.partial(server.load, requests[server.server.truncates], clients, *seconds)
            for who, server in servers.items()
        }
        rounds = alternate(1 if quick else FEWEST, takers)
        rates = {who: [round(sample["requests_per_second"], 1) for sample in each] for who, each in rounds.items()}
        tell(f"{kind}, {clients} clients: requests/s {rates}")
        figures += figures_of(kind, clients, rounds)
    return figures


def equal_share(labels: list[str], others: list[str]) -> float:
    """Returns how many of 100 labels are equal."""
    return 100 * sum(map(str.__eq__, labels, others)) / len(labels)


def measure_accuracy(servers: dict[str, Running], quick: bool, folder: Path) -> list[Figure]:
    """Asks each server for rows that were held out: how many are right, and equal to the model's with no server."""
    rows = labelled_rows()[1][: 24 if quick else ROWS]
    texts, truth = [text for text, _ in rows], [label for _, label in rows]
    requests = write_both(folder, "rows", texts, quick)
    offline = [LABELS[best] for best in predict(trained_model(quick), texts, MAX_LENGTH).argmax(axis=1)]
    labels: dict[str, list[str]] = {}
    for who, server in servers.items():
        answers = server.load(requests[server.server.truncates], 8)
        labels[who] = [LABELS[answer] if isinstance(answer, int) else answer for answer in answers]
    accuracy = {who: [equal_share(answers, truth)] for who, answers in {**labels, OFFLINE: offline}.items()}
    agreement = {who: [equal_share(answers, offline)] for who, answers in labels.items()}
    note = f"{len(rows)} rows"
    return [
        Figure("accuracy of the servers", "%", accuracy, exact=True, note=note, column="accuracy, %"),
        Figure("answers equal to transformers'", "%", agreement, exact=True, note=note, column="as offline, %"),
    ]


def measure(quick: bool, folder: Path) -> list[Figure]:
    """Measures all servers; the quick way once each, with 1 and 32 clients."""
    booted = []
    for turn in range(0 if quick else FEWEST - 1):  # ours has a goal: its start is measured as often as the rest
        with Running(contenders(quick)[OURS](), folder / f"ours-{turn}") as server:
            booted.append(server.seconds)
    with contextlib.ExitStack() as stack:
        servers, missing = start_all(stack, quick, folder)
        figures = measure_points(servers, quick, folder) + measure_accuracy(servers, quick, folder)
        seconds = {who: [server.seconds] for who, server in servers.items()}
        memory = {who: [server.peak_memory()] for who, server in servers.items()}
    seconds[OURS] += booted
    archives = {OURS: release(quick), FORMER: baseline_release(quick)}
    size = {who: [(path / "model-store" / f"{NAME}.mar").stat().st_size / 1e6] for who, path in archives.items()}
    about: dict[str, Any] = {"exact": True, "details": {"missing": missing}}
    return [
        *figures,
        Figure("seconds to the first answer", "s", seconds, False, limit=SECONDS, column="start, s", **about),
        Figure("server's memory, the most", "MB", memory, False, limit=MEGABYTES, column="memory, MB", **about),
        Figure("archive", "MB", size, False, {FORMER: SMALLER}, exact=True),
    ]
