import json
import re
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
import tokenizers

from benchmarks import limit
from benchmarks.measure import OURS
from benchmarks.model import MAX_LENGTH, truncate
from benchmarks.peers import figures_of, targets_of, write_requests
from benchmarks.peers.environments import PINS, python_of
from benchmarks.peers.servers import FORMER, contenders
from benchmarks.servers import Running, command_server

SERVER = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_POST(self):
        texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["instances"]
        body = json.dumps({"predictions": [len(text) for text in texts]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


def wait_until_stopped(process: psutil.Process) -> None:
    while process.status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)


def test_a_server_stands_still_but_while_it_is_asked(tmp_path: Path) -> None:
    server = command_server(lambda port: [sys.executable, "-c", SERVER, str(port)])
    requests = write_requests(tmp_path, "texts", ["a", "bb", "ccc"])
    assert json.loads(write_requests(tmp_path, "pairs", ["a", "b", "c"], 2).read_text(encoding="utf-8")) == [["a", "b"]]
    with Running(server, tmp_path / "server") as running:
        process = psutil.Process(running.process.pid)
        wait_until_stopped(process)
        assert running.seconds > 0
        assert running.load(requests, 2) == [1, 2, 3]
        assert running.load(requests, 2, 0.0, 0.2)["requests"] > 0
        wait_until_stopped(process)
        assert 1 < running.peak_memory() < 1000
    assert not process.is_running()


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    server = command_server(lambda port: [sys.executable, "-c", "import sys; sys.exit('no such model')"])
    with (
        pytest.raises(RuntimeError, match="ended with status 1; the last line of its log: no such model"),
        Running(server, tmp_path / "server"),
    ):
        pass


def test_a_server_that_never_answers_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.servers.TIMEOUT", 0.5)
    server = command_server(lambda port: [sys.executable, "-c", "import time; time.sleep(600)"])
    running = Running(server, tmp_path / "server")
    began = time.monotonic()
    with pytest.raises(RuntimeError, match=r"did not answer within 0 s; .* \(nothing\)"), running:
        pass
    assert time.monotonic() - began < 60
    assert running.process.returncode is not None


def test_a_peer_without_its_environment_says_what_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEERS", str(tmp_path))
    with pytest.raises(RuntimeError, match="make bench-peers makes it"):
        python_of("fastapi")
    monkeypatch.delenv("KSERVE_SOURCE", raising=False)
    with pytest.raises(RuntimeError, match="KSERVE_SOURCE"):
        contenders(quick=True)["huggingfaceserver"]()


def test_every_package_is_pinned() -> None:
    for path in PINS.values():
        pins = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        assert [line for line in pins if not re.fullmatch(r"[\w.-]+==[\w.!-]+", line)] == []
        assert "torch==2.13.0" in pins


def test_goals_are_against_the_former_pipeline_and_the_best_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = {OURS: [200.0], FORMER: [60.0], "slow": [10.0], "fast": [40.0]}
    monkeypatch.setattr("benchmarks.peers.machine", lambda: {"flags": ["avx2"]})
    assert targets_of(("requests/s", 32), samples, True) == {FORMER: 8.0, "fast": 3.0}
    assert targets_of(("p50", 1), samples, False) == {FORMER: 6.0, "slow": 2.5}
    assert targets_of(("requests/s", 8), samples, True) == {}
    monkeypatch.setattr("benchmarks.peers.machine", lambda: {"flags": ["avx512_vnni"]})
    assert targets_of(("requests/s", 32), samples, True)["fast"] == 4.0
    assert targets_of(("requests/s", 32), {OURS: [200.0]}, True) == {}


def test_a_server_that_gave_no_answer_is_in_no_figure() -> None:
    sample = {"requests": 9, "requests_per_second": 3.0, "p50_ms": 10.0, "p99_ms": 20.0, "errors": {}}
    silent = {"requests": 0, "requests_per_second": 0.0, "p50_ms": None, "p99_ms": None, "errors": {"status 500": 4}}
    figures = figures_of("reviews", 32, {OURS: [sample], "peer": [silent]})
    assert [list(figure.samples) for figure in figures] == [[OURS]] * 4
    assert figures[0].details["errors"] == {"peer": [{"status 500": 4}]}
    assert figures[-1].samples[OURS] == [2.0]


def test_a_truncated_text_has_the_tokens_that_are_left(model: Path) -> None:
    texts = ["a superb film " * 100, "short", "unbelievably bad " * 90]
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    cut = truncate(texts, model)
    assert cut[1] == "short"
    assert [len(tokenizer.encode(text)) <= MAX_LENGTH for text in cut] == [True] * 3
    for text, shorter in zip(texts, cut, strict=True):
        assert tokenizer.encode(text).ids[: MAX_LENGTH - 1] == tokenizer.encode(shorter).ids[: MAX_LENGTH - 1]


def test_products_are_counted_by_their_shapes() -> None:
    def event(name: str, left: dict[str, list[int]], right: dict[str, list[int]], out: list[int]) -> dict[str, object]:
        return {"args": {"op_name": name, "input_type_shape": [left, right], "output_type_shape": [{"float": out}]}}

    call = [
        event("DynamicQuantizeMatMul", {"float": [1, 128, 384]}, {"int8": [1536]}, [1, 128, 1536]),
        event("MatMulIntegerToFloat", {"uint8": [1, 1, 384]}, {"float": []}, [1, 1, 384]),
        event("FusedMatMul", {"float": [1, 12, 128, 32]}, {"float": [1, 12, 32, 128]}, [1, 12, 128, 128]),
        event("Add", {"float": [1, 384]}, {"float": [384]}, [1, 384]),
    ]
    assert limit.matrix_products(call) == ({(128, 384, 1536): 1, (1, 384, 384): 1}, 12 * 128 * 128 * 32)


def test_products_alone_are_computed_and_timed() -> None:
    products: Counter[limit.Shape] = Counter({(8, 16, 32): 2, (1, 32, 4): 1})
    outputs = limit.onnxruntime_products(products)()
    assert [output.shape for output in outputs] == [(8, 32), (8, 32), (1, 4)]
    assert all(output.dtype == np.int32 for output in outputs)
    assert limit.rate([limit.onnxruntime_products(products)] * 2, 0.1) > 0
