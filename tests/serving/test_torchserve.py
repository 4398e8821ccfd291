"""The real TorchServe on archives of the tiny model: what it answers, how it fails, that it ends."""

import contextlib
import io
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from nlp_pipeline.errors import PipelineError
from nlp_pipeline.serving import torchserve
from nlp_pipeline.serving.client import ask, replay
from nlp_pipeline.serving.local_server import served
from nlp_pipeline.serving.torchserve import TorchServe, group_members, release_config
from tests.serving.conftest import changed_release, load_handler

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(release: Path) -> Iterator[str]:
    """The address of a server that all tests here may ask."""
    with served(release) as (address, _):
        yield address


def labels(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [one["label"] for one in response.json()["predictions"]]


def test_it_answers_over_http(address: str, rows: Any) -> None:
    texts, expected = zip(*rows(100, seed=11), strict=True)
    with httpx.Client(trust_env=False) as client:
        found = ask(client, address, [*texts, {"data": "superb \ud800"}, {"text": "awful"}], labels=[])
        assert [one["label"] for one in found] == [*expected, "4", "0"]
        assert labels(client.post(address, json={"instances": []})) == []
    one_by_one, latencies, seconds = replay(address, list(texts), clients=8)
    assert one_by_one == list(expected)
    assert len(latencies) == 100 and 0 < max(latencies) <= seconds


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"instances": [', "application/json"),
        (b'{"instances": [1]}', "application/json"),
        (b'"superb"', "application/json"),
        (b"null", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"", "application/json"),
        (b"superb", "text/plain"),
        (b'{"instances": ["superb"]}', "application/x-www-form-urlencoded"),
    ],
)
def test_a_malformed_request_gets_a_sentence(address: str, body: bytes, content_type: str) -> None:
    with httpx.Client(trust_env=False) as client:
        response = client.post(address, content=body, headers={"Content-Type": content_type})
        assert response.status_code == 400
        assert " " in response.json()["error"]
        assert labels(client.post(address, json={"instances": ["superb"]})) == ["4"]


def before_each_batch(statement: bytes) -> Callable[[bytes], bytes]:
    """Returns a change of the handler's source: what it does before it answers a batch."""
    first = b"        if not isinstance(data, list) or not data:"
    return lambda source: source.replace(first, b"        " + statement + b"\n" + first)


def test_batches_and_two_servers_at_once(address: str, release: Path, tmp_path: Path, rows: Any) -> None:
    batching = changed_release(
        release,
        tmp_path / "batching",
        {"handler.py": before_each_batch(b'logger.info("a batch of %d", len(data))')},
        {"batchSize": 8, "maxBatchDelay": 300},
    )
    texts = rows(24, seed=12)

    def post(number: int) -> httpx.Response:
        text, _ = texts[number]
        found = [*["superb", text, "awful"][: 1 + number % 3], text]
        return httpx.post(other, json={"instances": found if number % 4 else [*found, number]}, trust_env=False)

    with served(batching) as (other, process), ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(post, range(24)))
        log = Path(f"/proc/{process.pid}/cwd/server.log").read_text()
        for number, response in enumerate(responses):
            label = texts[number][1]
            if number % 4:
                assert labels(response) == [*["4", label, "0"][: 1 + number % 3], label]
            else:
                assert response.status_code == 400
                assert response.json()["error"].startswith("instance ")
        # The first server goes on meanwhile.
        assert other != address
        assert labels(httpx.post(address, json={"instances": ["awful"]}, trust_env=False)) == ["0"]
    assert any(f"a batch of {size}" in log for size in range(2, 9)), "no requests were batched"


def test_150_requests_at_once_get_the_answers_they_would_get_alone(release: Path, tmp_path: Path, rows: Any) -> None:
    slow = changed_release(
        release, tmp_path / "slow", {"handler.py": before_each_batch(b"import time; time.sleep(0.1)")}
    )
    texts = [text for text, _ in rows(140, seed=13)] + ["", " ", "🙂", "文本", "superb " * 300] * 2
    requests = [texts[at : at + 1 + at % 3 * 2] for at in range(150)]  # of one, three and five texts
    alone = dict(zip(texts, load_handler(release).classify(texts), strict=True))
    start = threading.Barrier(150)

    def post(found: list[str]) -> httpx.Response:
        with httpx.Client(trust_env=False, timeout=60) as client:
            start.wait(60)
            return client.post(slow_address, json={"instances": found})

    # One batch takes so long that all others wait in the server's queue, which by default takes 100.
    with served(slow) as (slow_address, _), ThreadPoolExecutor(150) as pool:
        responses = list(pool.map(post, requests))
    assert Counter(response.status_code for response in responses) == {200: 150}
    assert [response.json()["predictions"] for response in responses] == [
        [alone[text] for text in request] for request in requests
    ]


def test_stop_leaves_nothing(release: Path, tmp_path: Path) -> None:
    server = TorchServe(release, "tiny", tmp_path)
    try:
        server.wait_until_ready(120)
        assert len(group_members(server.process.pid)) == 3  # the launcher, Java, a worker
        server.stop()
        assert group_members(server.process.pid) == []
        # No one listens any more: the connection is refused, or was reset as the port's last one.
        with pytest.raises(httpx.TransportError):
            httpx.get(server.address, trust_env=False)
    finally:
        server.stop()  # again does no harm


def raising(source: bytes) -> bytes:
    return source.replace(
        b"        folder = Path(", b"        raise ValueError('no luck today')\n        folder = Path("
    )


def why_not(release: Path, port: int = 0) -> str:
    """Returns why a release is not served, and what stderr tells."""
    shown = io.StringIO()
    with contextlib.redirect_stderr(shown), pytest.raises(PipelineError) as caught, served(release, port):
        pytest.fail("it is served")
    assert "\n" not in str(caught.value)
    return f"{type(caught.value).__name__}: {caught.value}\n{shown.getvalue()}".rstrip()


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"model.onnx": lambda data: data[: len(data) // 2]}, "model.onnx failed"),
        ({"handler.py": raising}, "ValueError: no luck today"),
        ({"tokenizer.json": None}, "No such file or directory"),
        ({"serving.json": lambda _: b'{"labels": []}'}, "KeyError"),
    ],
)
def test_a_broken_archive_fails_fast_and_shows_why(release: Path, tmp_path: Path, files: Any, problem: str) -> None:
    reason = why_not(changed_release(release, tmp_path / "broken", files))
    assert reason.startswith("PipelineError: TorchServe could not load model 'tiny'\nthe end of TorchServe's log:\n")
    assert problem in reason


@pytest.mark.parametrize("part", ["model-store/tiny.mar", "config/config.properties"])
def test_a_release_that_is_not_whole_is_one_line(release: Path, tmp_path: Path, part: str) -> None:
    broken = changed_release(release, tmp_path / "broken")
    (broken / part).unlink()
    assert re.fullmatch(rf"UsageError: .* is spoilt: {part} is missing; choose .*", why_not(broken))


def test_a_taken_port_is_one_line(release: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        reason = why_not(release, port)
    assert re.fullmatch(rf"UsageError: port {port} can't be used \(.*\): choose another with --port", reason)


def test_a_port_taken_meanwhile_fails_fast(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [taken.getsockname()[1], *torchserve.free_ports(4)]
        monkeypatch.setattr(torchserve, "free_ports", lambda _: ports)
        assert "Address already in use" in why_not(release)


def test_it_serves_whatever_the_environment_and_the_paths(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = changed_release(release, tmp_path / "a folder, näher [x]")
    temporary = tmp_path / "tmp é"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    for name, value in {
        "LC_ALL": "C",
        "TS_CONFIG_FILE": "/nowhere",
        "TS_SERVICE_ENVELOPE": "kserve",
        "TS_DECODE_INPUT_REQUEST": "false",
        "LOG_LOCATION": "/nowhere",
        "METRICS_LOCATION": "/nowhere",
        "LOCAL_RANK": "1",
        "RANK": "1",
        "WORLD_SIZE": "2",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "ALL_PROXY": "socks5://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setenv(name.lower(), value)
    from nlp_pipeline.serving.endpoint import predict_at

    with served(moved) as (address, _):
        found = predict_at(address, ["superb", "awful \udcff"])
    assert [(one["text"], one["label"]) for one in found] == [("superb", "4"), ("awful ?", "0")]
    assert list(temporary.iterdir()) == []


def test_too_long_a_temporary_folder_is_one_line(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 60)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    reason = why_not(release)
    assert re.fullmatch(r"UsageError: .* is too long a path for TorchServe's sockets: set TMPDIR to .*", reason)
    assert list(deep.iterdir()) == []


def test_only_what_places_the_server_is_changed(release: Path) -> None:
    own = (release / "config" / "config.properties").read_text()
    keys, here = (
        dict(line.split("=", 1) for line in text.splitlines())
        for text in (own, release_config(release, "127.0.0.1", [1, 2, 3, 4, 5]))
    )
    assert {key: here[key] for key in here if keys[key] != here[key]} == {
        "inference_address": "http://127.0.0.1:1",
        "management_address": "http://127.0.0.1:2",
        "metrics_address": "http://127.0.0.1:3",
        "grpc_inference_port": "4",
        "grpc_management_port": "5",
        "model_store": f"{release}/model-store",
        "install_py_dep_per_model": "false",
    }
