"""Our own server on archives of the tiny model: what it answers by v1, v2 and gRPC, and how it ends."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import httpx
import kserve
import numpy as np
import psutil
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from kserve.protocol.rest.server import RESTServer

from nlp_pipeline.docs import ROOT
from nlp_pipeline.serving.agreement import label_of
from nlp_pipeline.serving.client import ask, replay
from nlp_pipeline.serving.torchserve import free_ports
from tests.conftest import make_rows_of_several
from tests.serving import bodies
from tests.serving.bodies import ASKED, BODY, get, labels, sent
from tests.serving.conftest import MAX_LENGTH, before_it_loads, changed_release, load_handler, made_release

pytestmark = pytest.mark.slow


class Server:
    """A server in a process of its own, with its ports."""

    def __init__(self, release: Path, log: Path, *flags: str, **environment: str) -> None:
        self.port, self.grpc_port = free_ports(2)
        self.log = log
        ports = ("--http_port", str(self.port), "--grpc_port", str(self.grpc_port))
        command = [sys.executable, "-m", "nlp_pipeline.serving.server", "--model_dir", str(release)]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, *ports, "--host", "127.0.0.1", *flags],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
            )
        self.url = f"http://127.0.0.1:{self.port}"
        self.address = f"{self.url}/v1/models/tiny:predict"

    def wait_until_ready(self) -> None:
        while True:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if get(f"{self.url}/v2/models/tiny/ready").status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.05)


@contextmanager
def running(release: Path, log: Path, *flags: str, **environment: str) -> Iterator[Server]:
    server = Server(release, log, *flags, **environment)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="module")
def server(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that all tests here may ask."""
    with running(release, tmp_path_factory.mktemp("server") / "log") as server:
        yield server


def post(server: Server, **options: Any) -> httpx.Response:
    return bodies.post(server.address, **options)


def infer(server: Server, *texts: Any, **changed: Any) -> httpx.Response:
    item = {"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)} | changed
    body = json.dumps({"inputs": [item]})  # half a surrogate pair, too
    headers = {"Content-Type": "application/json"}
    return bodies.post(f"{server.url}/v2/models/tiny/infer", content=body, headers=headers)


def outputs(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    label, score = response.json()["outputs"]
    assert (label["name"], label["datatype"], score["name"], score["datatype"]) == ("label", "BYTES", "score", "FP32")
    assert label["shape"] == score["shape"] == [len(label["data"])]
    return [{"label": a, "score": b} for a, b in zip(label["data"], score["data"], strict=True)]


async def by_grpc(server: Server, texts: list[str]) -> list[dict[str, Any]]:
    client = kserve.InferenceGRPCClient(url=f"127.0.0.1:{server.grpc_port}")
    item = kserve.InferInput("text", [len(texts)], "BYTES")
    item.set_data_from_numpy(np.array([text.encode("utf-8", "replace") for text in texts], dtype=object))
    answer = await client.infer(kserve.InferRequest(model_name="tiny", infer_inputs=[item]))
    label, score = (output.as_numpy().tolist() for output in answer.outputs)
    await client.close()
    return [{"label": a.decode(), "score": b} for a, b in zip(label, score, strict=True)]


def test_all_protocols_say_what_the_offline_model_says(server: Server, release: Path) -> None:
    with httpx.Client(trust_env=False, timeout=60) as client:
        bodies.require_as_offline(ask(client, server.address, ASKED, []), release)
    bodies.require_as_offline(outputs(infer(server, *ASKED)), release)
    bodies.require_as_offline(asyncio.run(by_grpc(server, ASKED)), release)


def test_a_body_is_read_however_it_is_sent(server: Server) -> None:
    bodies.require_bodies_read(server.address)


@given(request=sent(limit=256))
@settings(max_examples=60, deadline=None)
def test_whatever_is_sent_gets_its_own_status_in_json(server: Server, request: tuple[bytes, str, int]) -> None:
    bodies.require_status(server.address, *request)


def test_requests_that_are_too_large_harm_none_beside_them(server: Server) -> None:
    bodies.require_large_refused(server.address, iter([b" " * 7_000_000, BODY]))  # whose length is not said


def test_v2_tells_of_the_model_and_refuses_what_is_none_of_it(server: Server) -> None:
    tensor = {"datatype": "BYTES", "shape": [-1]}
    metadata = get(f"{server.url}/v2/models/tiny").json()
    assert metadata["inputs"] == [{"name": "text", **tensor}]
    assert metadata["outputs"] == [{"name": "label", **tensor}, {"name": "score", "datatype": "FP32", "shape": [-1]}]
    assert outputs(infer(server)) == []
    for response, reason in (
        (infer(server, 1.0, datatype="FP32"), "text (FP32): send one, of datatype BYTES"),
        (infer(server, 1), "element 0 of the input is no text"),
        (infer(server, "a", "b", shape=[3]), "the input can't be read"),
        (infer(server, "a", data=3), "the body is no request of v2"),
    ):
        assert response.status_code == 400 and reason in response.json()["error"], response.text
    response = infer(server, *["a"] * 257)
    assert (response.status_code, response.json()["error"][:9]) == (413, "257 texts")
    assert get(f"{server.url}/v2/models/other").status_code == 404


def test_it_counts_what_it_does(server: Server) -> None:
    def counted() -> dict[str, float]:
        lines = get(f"{server.url}/metrics").text.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[:4] == "nlp_")}

    post(server, json={"instances": ["warm"]})
    post(server, content=b"")
    before = counted()
    post(server, json={"instances": ["superb", "superb " * 100]})
    post(server, content=b"")
    after = counted()
    name = 'model_name="tiny"'
    assert after[f"nlp_texts_total{{{name}}}"] - before[f"nlp_texts_total{{{name}}}"] == 2
    assert after[f"nlp_tokens_total{{{name}}}"] - before[f"nlp_tokens_total{{{name}}}"] == 3 + MAX_LENGTH
    refused = f'nlp_refused_total{{{name},status="400"}}'
    assert after[refused] - before[refused] == 1
    for stage in ("tokenise", "infer"):
        assert after[f'nlp_stage_seconds_total{{{name},stage="{stage}"}}'] > 0


def test_a_large_request_holds_no_small_one_up(server: Server) -> None:
    """While it is answered, dozens of others are."""
    long = ["superb " * 100] * 256
    with ThreadPoolExecutor(4) as pool:
        large = pool.map(lambda texts: post(server, json={"instances": texts}), [long] * 4)
        ended: list[float] = []
        collector = threading.Thread(target=lambda: ended.extend(time.monotonic() for _ in large))
        collector.start()
        small = 0
        while collector.is_alive() and not ended:
            assert labels(post(server, json={"instances": ["awful"]})) == ["0"]
            small += 1
        collector.join()
    assert small > 5


def test_several_labels_a_text(model_of_several: Path, tmp_path: Path) -> None:
    texts, expected = zip(*make_rows_of_several(12, seed=3), strict=True)
    with running(made_release(model_of_several, "fp32"), tmp_path / "log") as server:
        answers = post(server, json={"instances": texts}).json()["predictions"]
        assert [label_of(answer) for answer in answers] == list(expected) and {"labels": []} in answers
        assert replay(server.address, list(texts), clients=2)[0] == list(expected)
        (output,) = infer(server, *texts).json()["outputs"]
        assert (output["name"], output["datatype"], output["shape"]) == ("labels", "BYTES", [len(texts)])
        assert [{"labels": json.loads(item)} for item in output["data"]] == answers
        told = get(f"{server.url}/v2/models/tiny").json()
        assert told["outputs"] == [{"name": "labels", "datatype": "BYTES", "shape": [-1]}]


def test_what_is_no_release_is_one_line(tmp_path: Path) -> None:
    server = Server(tmp_path, tmp_path / "log")
    assert server.process.wait(timeout=120) == 1
    assert server.log.read_text().splitlines()[-1].startswith(f"error: {tmp_path}")


def test_kserve_times_requests_by_the_middleware_that_the_server_leaves_out() -> None:
    """What it would write goes to a log that the server mutes; so its name is all that can be seen of it."""
    middleware = Mock()
    with patch("kserve.protocol.rest.server.TimingMiddleware", middleware):
        RESTServer("", None, None, 0)._add_middlewares(app := FastAPI())
    assert [item.cls for item in app.user_middleware] == [middleware]


def test_it_starts_quickly_in_little_memory_and_writes_nothing(release: Path, tmp_path: Path, rows: Any) -> None:
    """An older release too, whose handler is not asked. By what it computes, as a busy machine's clock says little.

    So the root file system of its container may be read-only. ONNX Runtime would keep notes of its use at home.
    """
    change = before_it_loads("raise ValueError")
    older = changed_release(release, tmp_path / "older", {"archived_model.py": None, "handler.py": change})
    before = {path: path.stat().st_mtime_ns for path in older.rglob("*")}
    home = tmp_path / "home"
    home.mkdir()
    texts, expected = zip(*rows(10, seed=3), strict=True)
    with running(older, tmp_path / "log", HOME=str(home), TMPDIR=str(home)) as server:
        assert replay(server.address, list(texts), clients=4)[0] == list(expected)
        process = psutil.Process(server.process.pid)
        times, memory = process.cpu_times(), process.memory_info().rss
        opened = {item.path for item in process.open_files() if item.mode != "r"}
    assert times.user + times.system < 6
    assert memory < 350e6
    assert opened <= {str(tmp_path / "log")} and list(home.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in older.rglob("*")} == before


def test_no_accepted_request_is_lost_when_it_is_asked_to_end(release: Path, tmp_path: Path, rows: Any) -> None:
    """1,000 requests of mixed sizes by 32 clients, and a SIGTERM in the middle of them."""
    texts = [text for text, _ in rows(50, seed=37)]
    sizes = [1, 1, 1, 2, 5, 1, 40, 1]
    requests = [[texts[(at + number) % 50] for number in range(sizes[at % len(sizes)])] for at in range(1000)]
    expected = {
        text: answer["label"] for text, answer in zip(texts, load_handler(release).classify(texts), strict=True)
    }
    answered, told = Counter[int](), threading.Event()

    with running(release, tmp_path / "log", "--log_requests") as server:

        def send(request: list[str]) -> str:
            try:
                response = post(server, json={"instances": request})
            except httpx.TransportError:
                assert told.is_set()
                return "refused"
            assert labels(response) == [expected[text] for text in request]
            answered[len(request)] += 1
            if sum(answered.values()) == 300:
                told.set()
                server.process.send_signal(signal.SIGTERM)
            return "answered"

        with ThreadPoolExecutor(32) as pool:
            outcomes = Counter(pool.map(send, requests))
        assert server.process.wait(timeout=120) == 0
        accepted = Counter(
            json.loads(line)["texts"] for line in server.log.read_text().splitlines() if line.startswith("{")
        )
    assert outcomes["answered"] >= 300 and outcomes["refused"] > 0
    # Whatever it has taken, its client has got.
    assert accepted == answered


SNIPPETS = re.findall(r"```(bash|python)\n(.*?)```", (ROOT / "docs" / "serving.md").read_text("utf-8"), re.S)


def test_the_clients_of_the_documentation(server: Server) -> None:
    """Each of its snippets that asks an address is run as it stands, but for the address and the name."""
    answers = []
    for language, snippet in SNIPPETS:
        if "127.0.0.1:8" not in snippet:
            continue
        places = {"127.0.0.1:8080": f"127.0.0.1:{server.port}", "127.0.0.1:8081": f"127.0.0.1:{server.grpc_port}"}
        for former, here in (places | {"movie-reviews": "tiny", "what a film": "superb", "a bore": "awful"}).items():
            snippet = snippet.replace(former, here)
        command = [sys.executable, "-c"] if language == "python" else ["bash", "-c"]
        done = subprocess.run([*command, snippet], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        answers.append(done.stdout)
    assert len(answers) == 4
    for answer in answers:
        assert re.findall(r"""["'](0|4)["']""", answer)[:2] == ["4", "0"], answer


def test_in_flight_by_grpc_is_answered_too(release: Path, tmp_path: Path) -> None:
    with running(release, tmp_path / "log", "--log_requests") as server:

        async def ask_and_end() -> list[dict[str, Any]]:
            asked = asyncio.create_task(by_grpc(server, ["superb " * 100] * 256))
            await asyncio.sleep(0)
            # Its first texts are answered when the counter of busy seconds moves; a word in the log says it is over.
            while not asked.done() and psutil.Process(server.process.pid).cpu_percent(0.1) < 20:
                await asyncio.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            return await asked

        answers = asyncio.run(ask_and_end())
        assert [answer["label"] for answer in answers] == ["4"] * 256
        assert server.process.wait(timeout=120) == 0
