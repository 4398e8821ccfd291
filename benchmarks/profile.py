"""Where the time of one request goes: the tokenizer, the model, the rest of the classifier, the server."""

import collections
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.measure import OURS, Figure
from benchmarks.model import load_classifier, release, texts_of_length
from benchmarks.peers import TEXTS, write_requests
from benchmarks.peers.servers import contenders
from benchmarks.processes import run_module
from benchmarks.servers import Running

REQUESTS, WARM_UP = 200, 20
TOKENISE = {"encode", "encode_batch", "encode_batch_fast"}
RUN = {"run", "run_with_iobinding"}


class Timed:
    """Stands in for an object and adds up the milliseconds that some of its methods take."""

    def __init__(self, real: Any, methods: set[str]) -> None:
        self.real, self.methods, self.milliseconds = real, methods, 0.0

    def __getattr__(self, name: str) -> Any:
        """Gives the object's own attribute, a method to be timed within a clock."""
        attribute = getattr(self.real, name)
        if name not in self.methods:
            return attribute

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return attribute(*args, **kwargs)
            finally:
                self.milliseconds += 1000 * (time.perf_counter() - began)

        return timed


def classifier_parts(release_folder: Path, texts: list[str]) -> dict[str, float]:
    """Returns the median milliseconds of the classifier's parts in this process, with no server, a text a request."""
    import onnxruntime
    from tokenizers import Tokenizer

    classifier = load_classifier(release_folder)
    clocks: dict[str, list[Timed]] = {"tokenizer": [], "model": []}
    for name, value in list(vars(classifier).items()):
        for part, kind, methods in (("tokenizer", Tokenizer, TOKENISE), ("model", onnxruntime.InferenceSession, RUN)):
            if isinstance(value, kind):
                clocks[part].append(Timed(value, methods))
                setattr(classifier, name, clocks[part][-1])
    taken: list[dict[str, float]] = []
    for text in [*texts[:WARM_UP], *texts]:
        before = {part: sum(clock.milliseconds for clock in timed) for part, timed in clocks.items()}
        began = time.perf_counter()
        classifier.classify([text])
        whole = 1000 * (time.perf_counter() - began)
        spent = {part: sum(clock.milliseconds for clock in timed) - before[part] for part, timed in clocks.items()}
        taken.append({**spent, "rest of the classifier": whole - sum(spent.values())})
    return {part: statistics.median(parts[part] for parts in taken[WARM_UP:]) for part in taken[0]}


def profiled_calls(release_folder: Path, texts: list[str]) -> list[list[dict[str, Any]]]:
    """Returns for each of some texts the events of the model's operators, by ONNX Runtime's own profile."""
    import onnxruntime

    real = onnxruntime.InferenceSession

    def profiled(model: bytes, options: Any, **more: Any) -> Any:
        options.enable_profiling = True
        options.profile_file_prefix = f"{folder}/profile"
        return real(model, options, **more)

    with tempfile.TemporaryDirectory() as folder:
        with mock.patch.object(onnxruntime, "InferenceSession", profiled):
            classifier = load_classifier(release_folder)
        for text in texts:
            classifier.classify([text])
        # Of the session that a lone text is computed by.
        events = json.loads(Path(classifier.together.end_profiling()).read_text(encoding="utf-8"))
    calls: list[list[dict[str, Any]]] = [[]]
    for event in events:
        if event["name"] == "model_run":
            calls.append([])
        elif event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            calls[-1].append(event)
    return calls[-1 - len(texts) : -1]  # after those that it was warmed up with


def operators(release_folder: Path, texts: list[str]) -> list[list[Any]]:
    """Returns the types of the model's operators, with milliseconds and how many there are in a call."""
    calls = profiled_calls(release_folder, texts)
    milliseconds: dict[str, float] = collections.defaultdict(float)
    count: collections.Counter[str] = collections.Counter()
    for event in itertools.chain.from_iterable(calls):
        milliseconds[event["args"]["op_name"]] += event["dur"] / 1000 / len(calls)
        count[event["args"]["op_name"]] += 1
    ordered = sorted(milliseconds.items(), key=lambda item: -item[1])
    return [[name, round(each, 4), round(count[name] / len(calls))] for name, each in ordered]


def measure(quick: bool, folder: Path) -> list[Figure]:
    """Measures where the time of one request goes: one client, reviews, one text a request."""
    requests = write_requests(folder, "reviews", texts_of_length("reviews", TEXTS))
    parts, operators = run_module("profile", release(quick), requests)
    with Running(contenders(quick)[OURS](), folder / "server") as server:
        trip = float(server.load(requests, 1, 1.0, 3.0)["p50_ms"])
    parts["the server, HTTP and the client"] = trip - sum(parts.values())
    note = "the model's operators, profiled: " + ", ".join(f"{name} {each:.2f} ms" for name, each, _ in operators[:6])
    about: dict[str, Any] = {"note": note, "details": {"operators": operators}}
    figures = [Figure(name, "ms", {OURS: [value]}, False, exact=True) for name, value in parts.items()]
    return [*figures, Figure("round trip, p50", "ms", {OURS: [trip]}, False, exact=True, **about)]


if __name__ == "__main__":
    # A release, and a JSON file with a list of requests, each a list of texts.
    folder, path = Path(sys.argv[1]), Path(sys.argv[2])
    texts = [request[0] for request in json.loads(path.read_text(encoding="utf-8"))][:REQUESTS]
    print(json.dumps([classifier_parts(folder, texts), operators(folder, texts)]))
