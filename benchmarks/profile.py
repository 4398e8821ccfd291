"""Where the time of one request goes: the tokenizer, the model, the rest of the handler, TorchServe, the client."""

import cProfile
import itertools
import json
import pstats
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

REQUESTS = 200
POINT = Point("reviews", 1, 1)
TOKENISE = {"encode", "encode_batch", "encode_batch_fast"}
RUN = {"run", "run_with_iobinding"}


class Timed:
    """Stands in for an object and adds up the time that some of its methods take."""

    def __init__(self, real: Any, methods: set[str]) -> None:
        self.real, self.methods, self.seconds = real, methods, 0.0

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
                self.seconds += time.perf_counter() - began

        return timed


def handler_parts(archive: Path, texts: list[str]) -> dict[str, Any]:
    """Times the parts of the archive's handler in this process, with no server.

    Args:
        archive: The unpacked archive.
        texts: The texts, one a request.

    Returns:
        Lists of milliseconds, one a request: `tokenise`, `model`, `rest`.
    """
    import onnxruntime
    from tokenizers import Tokenizer

    handler = load_handler(archive)
    clocks: dict[str, list[Timed]] = {"tokenise": [], "model": []}
    for name, value in list(vars(handler).items()):
        for part, kind, methods in (("tokenise", Tokenizer, TOKENISE), ("model", onnxruntime.InferenceSession, RUN)):
            if isinstance(value, kind):
                clocks[part].append(Timed(value, methods))
                setattr(handler, name, clocks[part][-1])
    parts: dict[str, list[float]] = {"tokenise": [], "model": [], "rest": []}
    for text in texts:
        for clock in itertools.chain(*clocks.values()):
            clock.seconds = 0.0
        began = time.perf_counter()
        answer(handler, archive, [text])
        whole = time.perf_counter() - began
        spent = {part: sum(clock.seconds for clock in found) for part, found in clocks.items()}
        for part, seconds in {**spent, "rest": whole - sum(spent.values())}.items():
            parts[part].append(1000 * seconds)
    return parts


def functions(archive: Path, texts: list[str]) -> list[list[Any]]:
    """Returns the Python functions of the handler that take most time: name, milliseconds a request."""
    handler = load_handler(archive)
    profiler = cProfile.Profile()
    profiler.enable()
    for text in texts:
        answer(handler, archive, [text])
    profiler.disable()
    stats: dict[tuple[str, int, str], tuple[int, int, float, float, Any]] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    own = sorted(((1000 * row[2] / len(texts), name) for (_, _, name), row in stats.items()), reverse=True)
    return [[name, round(each, 4)] for each, name in own[:10]]


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
    events = [event for one in sessions for event in json.loads(Path(one.end_profiling()).read_text(encoding="utf-8"))]
    totals: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            total = totals.setdefault(event["args"]["op_name"], [0.0, 0.0])
            total[0] += event["dur"] / 1000 / len(texts)
            total[1] += 1 / len(texts)
    ordered = sorted(totals.items(), key=lambda item: -item[1][0])
    return [[name, round(each, 4), round(calls)] for name, (each, calls) in ordered]


def told_release(whole: Path, folder: Path) -> Path:
    """Returns the same release, whose server writes down how long each prediction took."""
    (folder / "config").mkdir(parents=True)
    (folder / "model-store").symlink_to(whole / "model-store")
    config = (whole / "config" / "config.properties").read_text(encoding="utf-8")
    text = (
        "".join(f"{line}\n" for line in config.splitlines() if not line.startswith("metrics_mode="))
        + "metrics_mode=log\n"
    )
    (folder / "config" / "config.properties").write_text(text, encoding="utf-8")
    return folder


def served_parts(whole: Path, folder: Path) -> dict[str, float]:
    """Returns the medians of one client's requests: `round trip`, `backend` and `handler`, in milliseconds.

    The round trip is the client's, the backend's is what TorchServe's front end waits for its worker, and the
    handler's what the worker takes in the handler; the latter two are missing where the server's log has them not.
    """
    server = Server(told_release(whole, folder / "told"), folder / "server")
    server.boot()
    try:
        sample = ask(server, POINT, folder, quick=False)
    finally:
        server.end()
    parts = {"round trip": float(sample["p50_ms"])}
    logs = "".join(path.read_text(errors="replace") for path in (server.folder / "logs").glob("*.log"))
    backend = [int(found) / 1e6 for found in re.findall(r"Backend time ns: (\d+)", logs)]
    handler = [float(found) for found in re.findall(r"PredictionTime\.\w+:([0-9.]+)", logs)]
    for name, found in (("backend", backend), ("handler", handler)):
        if found:
            parts[name] = statistics.median(found)
    return parts


def measure(quick: bool, folder: Path) -> list[Figure]:
    """Measures where the time of one request goes: one client, reviews, one text a request.

    Args:
        quick: Whether to take the quick way's model.
        folder: An empty folder.
    """
    whole = release(quick)
    archive = unpacked(whole, folder / "unpacked")
    found = json.loads(run_module("benchmarks.profile", archive, write_requests(folder, POINT)))
    served = served_parts(whole, folder)
    parts = {name: statistics.median(each) for name, each in found["parts"].items()}
    alone = sum(parts.values())
    rows = {
        "tokenizer": parts["tokenise"],
        "model": parts["model"],
        "rest of the handler": parts["rest"],
    }
    if served.keys() >= {"backend", "handler"}:
        rows["the same, slower beside the server's threads"] = served["handler"] - alone
        rows["between TorchServe's front end and its worker"] = served["backend"] - served["handler"]
        rows["TorchServe's front end, HTTP and the client"] = served["round trip"] - served["backend"]
    else:
        rows["TorchServe, HTTP and the client"] = served["round trip"] - alone
    figures = [Figure(name, "ms", {OURS: [value]}, False, exact=True) for name, value in rows.items()]
    details = {"operators": found["operators"], "functions": found["functions"]}
    shown = ", ".join(f"{name} {each:.2f} ms" for name, each, _ in found["operators"][:6])
    whole_trip = {OURS: [served["round trip"]]}
    note = f"the model's operators, profiled: {shown}"
    return [*figures, Figure("round trip, p50", "ms", whole_trip, False, exact=True, note=note, details=details)]


def main() -> None:
    """Profiles the handler of an unpacked archive and prints what was found as JSON."""
    archive = Path(sys.argv[1])
    texts = [request[0] for request in json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))][:REQUESTS]
    handler_parts(archive, texts[:20])
    found = {
        "parts": handler_parts(archive, texts),
        "functions": functions(archive, texts),
        "operators": operators(archive, texts),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
