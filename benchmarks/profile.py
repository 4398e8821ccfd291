"""Where the time of one request goes: the tokenizer, the model, the rest of the handler, TorchServe, the client."""

import collections
import json
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.handlers import answer, load_handler
from benchmarks.measure import OURS, Figure
from benchmarks.model import release, unpacked
from benchmarks.processes import run_module
from benchmarks.servers import Server
from benchmarks.serving import Point, ask, write_requests

REQUESTS, WARM_UP = 200, 20
POINT = Point("reviews", 1, 1)
TOKENISE = {"encode", "encode_batch", "encode_batch_fast"}
RUN = {"run", "run_with_iobinding"}


class Timed:
    """Stands in for an object and adds up the milliseconds that some of its methods take."""

    def __init__(self, real: Any, methods: set[str]) -> None:
        self.real, self.methods, self.milliseconds = real, methods, 0.0

    def __getattr__(self, name: str) -> Any:
        """Gives the object's own attribute, a method to be timed within a clock."""
        found = getattr(self.real, name)
        if name not in self.methods:
            return found

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return found(*args, **kwargs)
            finally:
                self.milliseconds += 1000 * (time.perf_counter() - began)

        return timed


def handler_parts(archive: Path, texts: list[str]) -> dict[str, float]:
    """Returns the median milliseconds of the handler's parts in this process, with no server, a text a request."""
    import onnxruntime
    from tokenizers import Tokenizer

    handler = load_handler(archive)
    clocks: dict[str, list[Timed]] = {"tokenizer": [], "model": []}
    for name, value in list(vars(handler).items()):
        for part, kind, methods in (("tokenizer", Tokenizer, TOKENISE), ("model", onnxruntime.InferenceSession, RUN)):
            if isinstance(value, kind):
                clocks[part].append(Timed(value, methods))
                setattr(handler, name, clocks[part][-1])
    taken: list[dict[str, float]] = []
    for text in [*texts[:WARM_UP], *texts]:
        before = {part: sum(clock.milliseconds for clock in found) for part, found in clocks.items()}
        began = time.perf_counter()
        answer(handler, archive, [text])
        whole = 1000 * (time.perf_counter() - began)
        spent = {part: sum(clock.milliseconds for clock in found) - before[part] for part, found in clocks.items()}
        taken.append({**spent, "rest of the handler": whole - sum(spent.values())})
    return {part: statistics.median(one[part] for one in taken[WARM_UP:]) for part in taken[0]}


def operators(archive: Path, texts: list[str]) -> list[list[Any]]:
    """Returns the model's operators by ONNX Runtime's own profile: type, milliseconds a request, calls a request."""
    import onnxruntime

    sessions: list[Any] = []
    real = onnxruntime.InferenceSession

    def profiled(path: str, options: Any, **more: Any) -> Any:
        options.enable_profiling = True
        options.profile_file_prefix = str(archive / f"profile-{len(sessions)}")
        sessions.append(real(path, options, **more))
        return sessions[-1]

    with mock.patch.object(onnxruntime, "InferenceSession", profiled):
        handler = load_handler(archive)
    for text in texts:
        answer(handler, archive, [text])
    milliseconds: dict[str, float] = collections.defaultdict(float)
    calls: collections.Counter[str] = collections.Counter()
    for session in sessions:
        for event in json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")):
            if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
                milliseconds[event["args"]["op_name"]] += event["dur"] / 1000 / len(texts)
                calls[event["args"]["op_name"]] += 1
    ordered = sorted(milliseconds.items(), key=lambda item: -item[1])
    return [[name, round(each, 4), round(calls[name] / len(texts))] for name, each in ordered]


def served_parts(whole: Path, folder: Path) -> dict[str, float]:
    """Returns the medians of one client's requests: `round trip`, `backend` and `handler`, in milliseconds.

    The round trip is the client's, the backend's is what TorchServe's front end waits for its worker, and the
    handler's what the worker takes in the handler; the latter two are missing where the server's log has them not.
    """
    logging = folder / "logging"  # the same release, whose server writes down how long each prediction took
    (logging / "config").mkdir(parents=True)
    (logging / "model-store").symlink_to(whole / "model-store")
    config = (whole / "config" / "config.properties").read_text(encoding="utf-8")
    config = re.sub(r"(?m)^metrics_mode=.*\n", "", config) + "metrics_mode=log\n"
    (logging / "config" / "config.properties").write_text(config, encoding="utf-8")
    with Server(logging, folder / "server") as server:
        parts = {"round trip": float(ask(server, POINT, folder, quick=False)["p50_ms"])}
    logs = "".join(path.read_text(errors="replace") for path in (server.folder / "logs").glob("*.log"))
    if backend := re.findall(r"Backend time ns: (\d+)", logs):
        parts["backend"] = statistics.median(int(found) / 1e6 for found in backend)
    if handler := re.findall(r"PredictionTime\.\w+:([0-9.]+)", logs):
        parts["handler"] = statistics.median(map(float, handler))
    return parts


def measure(quick: bool, folder: Path) -> list[Figure]:
    """Measures where the time of one request goes: one client, reviews, one text a request."""
    whole = release(quick)
    parts, found = run_module("profile", unpacked(whole, folder / "unpacked"), write_requests(folder, POINT))
    served = served_parts(whole, folder)
    alone = sum(parts.values())
    if served.keys() >= {"backend", "handler"}:
        parts["the same, slower beside the server's threads"] = served["handler"] - alone
        parts["between TorchServe's front end and its worker"] = served["backend"] - served["handler"]
        parts["TorchServe's front end, HTTP and the client"] = served["round trip"] - served["backend"]
    else:
        parts["TorchServe, HTTP and the client"] = served["round trip"] - alone
    note = "the model's operators, profiled: " + ", ".join(f"{name} {each:.2f} ms" for name, each, _ in found[:6])
    trip: dict[str, Any] = {"note": note, "details": {"operators": found}}
    figures = [Figure(name, "ms", {OURS: [value]}, False, exact=True) for name, value in parts.items()]
    return [*figures, Figure("round trip, p50", "ms", {OURS: [served["round trip"]]}, False, exact=True, **trip)]


if __name__ == "__main__":
    # An unpacked archive, and a JSON file with a list of requests, each a list of texts.
    archive, path = Path(sys.argv[1]), Path(sys.argv[2])
    texts = [request[0] for request in json.loads(path.read_text(encoding="utf-8"))][:REQUESTS]
    print(json.dumps([handler_parts(archive, texts), operators(archive, texts)]))
