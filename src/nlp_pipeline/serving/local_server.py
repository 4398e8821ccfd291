"""`--serve` and `--predict` on this machine: which release, and a server on it."""

import contextlib
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.release import verify
from nlp_pipeline.serving.endpoint import predict_at
from nlp_pipeline.serving.onnx_server import OnnxServer, is_installed
from nlp_pipeline.serving.torchserve import TorchServe, serving


def find_release(volume: Path, model_name: str | None) -> Path:
    """Returns the release on a volume that passed validation last, of a model or of any; UsageError without one."""
    candidates = [volume / model_name / "latest.json"] if model_name else volume.glob("*/latest.json")
    pointers = [path for path in candidates if path.is_file()]
    if not pointers:
        raise UsageError(
            f"no release of {model_name or 'any model'} in {volume}: make one with --local, or name one "
            "with --release DIR"
        )
    pointer = max(pointers, key=lambda path: path.stat().st_mtime)
    try:
        return pointer.parent / "releases" / str(json.loads(pointer.read_text(encoding="utf-8"))["digest"])
    except (OSError, ValueError, LookupError, TypeError):
        raise UsageError(f"{pointer} names no release: name one with --release DIR") from None


def choose_server(runtime: str | None) -> type[OnnxServer] | type[TorchServe]:
    """Returns the server that `--runtime` names; by default our own where KServe's package is installed."""
    if runtime == "onnx" and not is_installed():
        raise UsageError("--runtime onnx needs the package kserve: pip install -c constraints.txt -e '.[local,deploy]'")
    return OnnxServer if runtime == "onnx" or (runtime is None and is_installed()) else TorchServe


@contextlib.contextmanager
def served(
    release: Path, port: int = 0, timeout: float = 120, runtime: str | None = "torchserve"
) -> Iterator[TorchServe | OnnxServer]:
    """Serves a whole release while inside, as `serving` does; yields the server."""
    name, kind = verify(release).model_name, choose_server(runtime)
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise UsageError(
            f"port {port} can't be used ({os.strerror(error.errno or 0)}): choose another with --port"
        ) from None
    with serving(release, name, port, timeout, kind) as server:
        yield server


def predict_with_release(release: Path, texts: list[str], runtime: str | None = None) -> list[dict[str, Any]]:
    """Serves a release just long enough to ask it for texts; returns what `predict_at` does."""
    with served(release, runtime=runtime) as server:
        return predict_at(server.address, texts)


def count_by_worker(log: Path, step: str) -> Counter[str]:
    """Returns how often each worker has logged a step of its work."""
    with log.open(encoding="utf-8", errors="replace") as lines:
        return Counter(line.split(" W-", 1)[1].split()[0] for line in lines if step in line)


def drain(server: TorchServe | OnnxServer, seconds: float = 120) -> None:
    """Waits until the requests that a server has are answered, so many seconds at most.

    TorchServe's workers take them in turn: when a request that came after them is answered, they are all taken, and
    each is answered when its worker is done with what it has. Others may come in meanwhile.
    """
    import httpx

    if isinstance(server, OnnxServer):
        server.drain(seconds)
        return
    end = time.monotonic() + seconds
    with contextlib.suppress(httpx.HTTPError), httpx.Client(timeout=seconds, trust_env=False) as client:
        while client.post(server.address, json={"instances": []}).status_code == 503 and time.monotonic() < end:
            time.sleep(0.1)  # its queue is full
        taken = count_by_worker(server.log, "Flushing req.cmd")
        while taken - count_by_worker(server.log, "Backend response time") and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(0.2)  # the last answers are on their way


def wait_for_end(server: TorchServe | OnnxServer) -> None:
    """Waits until a server ends by itself, which it should not: then it raises a PipelineError."""
    status = server.process.wait()
    raise PipelineError(f"{server.title} has ended by itself, with status {status}: start it again")
