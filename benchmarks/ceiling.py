"""`python -m benchmarks.ceiling`: the archive's own model.onnx in one process, with no server: this route's ceiling."""

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.handlers import load_handler
from benchmarks.load import percentile

WARM_UP, SECONDS = 1.0, 3.0


def load_model(archive: Path, threads: int) -> Callable[[str], int]:
    """Returns a function that gives the class id of a text by an archive's handler, with so many threads a call."""
    handler = load_handler(archive)
    session = handler.load(archive, "CPUExecutionProvider", threads)
    return lambda text: int(handler.probabilities([text], session).argmax())


def ask(classify: Callable[[str], int], texts: list[str], callers: int) -> dict[str, Any]:
    """Asks from a number of threads at once, a text a request, and measures what is answered after the warm-up."""
    latencies: list[float] = []
    begin = time.perf_counter() + WARM_UP
    end = begin + SECONDS

    def call(first: int) -> None:
        at, came = first, 0.0
        while came < end:
            asked = time.perf_counter()
            classify(texts[at % len(texts)])
            at, came = at + callers, time.perf_counter()
            if begin <= came < end:
                latencies.append(came - asked)

    threads = [threading.Thread(target=call, args=(first,)) for first in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    latencies.sort()
    rate = len(latencies) / SECONDS
    return {"requests_per_second": rate, "p50_ms": percentile(latencies, 50), "p99_ms": percentile(latencies, 99)}


if __name__ == "__main__":
    # The unpacked archive; a JSON file with a list of requests, each a list of texts; threads a call; calls at once.
    archive, path, threads, callers = sys.argv[1:]
    texts = [text for request in json.loads(Path(path).read_text(encoding="utf-8")) for text in request]
    print(json.dumps(ask(load_model(Path(archive), int(threads)), texts, int(callers))))
