import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks.load import PROTOCOLS, Load
from benchmarks.processes import run_module

PATH = "/v1/models/m:predict"


class Model(ThreadingHTTPServer):
    """Answers with a prediction for each text; what a text asks for otherwise, it does."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.connections: set[Any] = set()
        self.under_way = self.most = 0
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{PATH}"


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in one piece
    server: Model

    def do_POST(self) -> None:
        assert self.path == PATH
        texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["instances"]
        with self.server.lock:
            self.server.texts += texts
            self.server.connections.add(self.client_address)
            self.server.under_way += 1
            self.server.most = max(self.server.most, self.server.under_way)
        threading.Event().wait(0.005)
        with self.server.lock:
            self.server.under_way -= 1
        self.close_connection = self.close_connection or "refused" in texts
        if "hang up" in texts:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        predictions = [{"label": text[:1], "score": 1.0} for text in texts if text != "forgotten"]
        body = b"no JSON" if "garbled" in texts else json.dumps({"predictions": predictions}, indent=2).encode()
        self.send_response(503 if "refused" in texts else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def model() -> Iterator[Model]:
    with Model() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_each_client_keeps_its_connection_and_has_one_request_under_way(model: Model) -> None:
    result = asyncio.run(Load(model.url, "v1", [["one"], ["two"]], clients=5).run(0.05, 0.3))
    assert model.under_way == 0  # all answers are in
    assert result["errors"] == {}
    assert result["requests"] > 5
    assert len(model.connections) == 5
    assert model.most <= 5
    assert 0 < result["requests_per_second"] <= result["requests"] / 0.3
    assert 5 <= result["p50_ms"] <= result["p99_ms"]
    assert result["cpu_share"] > 0


def test_requests_are_sent_in_their_order_over_and_over(model: Model) -> None:
    texts = [f"text {number} é\n" for number in range(3)]
    asyncio.run(Load(model.url, "v1", [[text] for text in texts], clients=1).run(0.0, 0.4))
    assert len(model.texts) > len(texts)
    assert model.texts == (texts * len(model.texts))[: len(model.texts)]


@pytest.mark.parametrize(
    ("texts", "error"),
    [
        (["refused"], "status 503"),
        (["whole", "forgotten"], "1 predictions for 2 instances"),
        (["garbled"], "no predictions"),
        (["hang up"], "connection lost"),
    ],
)
def test_wrong_answers_are_counted_by_kind_and_are_no_requests(
    model: Model, texts: list[str], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.load.PAUSE", 0.1)
    result = asyncio.run(Load(model.url, "v1", [["right"], texts], clients=1).run(0.0, 0.5))
    assert result["errors"].keys() == {error}
    # The client waits after an error; one that did not would ask dozens of times.
    assert result["errors"][error] <= 6
    assert abs(result["requests"] - result["errors"][error]) <= 1
    result = asyncio.run(Load(model.url, "v1", [texts], clients=1).run(0.0, 0.1))
    assert (result["requests"], result["p50_ms"]) == (0, None)


def test_as_a_process_of_its_own(model: Model, tmp_path: Path) -> None:
    requests = tmp_path / "requests.json"
    requests.write_text(json.dumps([["one", "two"]]), encoding="utf-8")
    assert run_module("load", model.url, "v1", requests, 2, 0, 0.2)["errors"] == {}
    assert set(model.texts) == {"one", "two"}


def test_no_server_is_told_in_one_line(tmp_path: Path) -> None:
    requests = tmp_path / "requests.json"
    requests.write_text('[["one"]]', encoding="utf-8")
    with pytest.raises(RuntimeError, match=r"ended with status 1: http://127\.0\.0\.1:9.* can't be reached"):
        run_module("load", "http://127.0.0.1:9" + PATH, "v1", requests, 1, 0, 0.2)


def test_each_request_is_asked_once_for_its_labels(model: Model, tmp_path: Path) -> None:
    requests = tmp_path / "requests.json"
    requests.write_text(json.dumps([[f"{letter} film", f"{letter}"] for letter in "abcdefg"]), encoding="utf-8")
    assert run_module("load", model.url, "v1", requests, 3) == list("aabbccddeeffgg")
    assert len(model.texts) == 14


@pytest.mark.parametrize(
    ("name", "sent", "answer"),
    [
        ("v1", {"instances": ["a", "b"]}, {"predictions": [{"label": "good", "score": 0.7}, 1]}),
        (
            "v2",
            {"inputs": [{"name": "args", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]}]},
            {"outputs": [{"data": ['{"label": "good", "score": 0.7}', '{"label": 1, "score": 0.7}']}]},
        ),
        (
            "infinity",
            {"model": "bench", "input": ["a", "b"]},
            {"data": [[{"label": "bad", "score": 0.3}, {"label": "good", "score": 0.7}], [{"label": 1, "score": 1.0}]]},
        ),
    ],
    ids=["v1", "v2", "infinity"],
)
def test_protocols(name: str, sent: Any, answer: Any) -> None:
    protocol = PROTOCOLS[name]
    assert protocol.request(["a", "b"]) == sent
    labels = [protocol.label(prediction) for prediction in protocol.predictions(answer)]
    assert list(map(str, labels)) == ["good", "1"]
