"""The real TorchServe on archives of the tiny model: what it answers, how it fails, that it ends."""

import json
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings

from benchmarks.servers import group_members
from nlp_pipeline.errors import PipelineError
from nlp_pipeline.serving import torchserve
from nlp_pipeline.serving.client import ask, replay
from nlp_pipeline.serving.endpoint import predict_at
from nlp_pipeline.serving.local_server import served
from nlp_pipeline.serving.torchserve import release_config
from tests.serving.bodies import BODY, FORM, MALFORMED, WELL_FORMED, packed, sent
from tests.serving.conftest import before_it_loads, changed_release, load_handler

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(release: Path) -> Iterator[str]:
    """The address of a server that all tests here may ask."""
    with served(release) as server:
        yield server.address


def labels(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [prediction["label"] for prediction in response.json()["predictions"]]


def test_it_answers_over_http(address: str, rows: Any) -> None:
    texts, expected = zip(*rows(100, seed=11), strict=True)
    with httpx.Client(trust_env=False) as client:
        predictions = ask(client, address, [*texts, {"data": "superb \ud800"}, {"text": "awful"}], labels=[])
        assert [prediction["label"] for prediction in predictions] == [*expected, "4", "0"]
        assert labels(client.post(address, json={"instances": []})) == []
    replayed, latencies, seconds = replay(address, list(texts), clients=8)
    assert replayed == list(expected)
    assert len(latencies) == 100 and 0 < max(latencies) <= seconds


@pytest.mark.parametrize(("body", "content_type"), MALFORMED)
def test_a_malformed_request_gets_a_sentence(address: str, body: bytes, content_type: str) -> None:
    with httpx.Client(trust_env=False) as client:
        response = client.post(address, content=body, headers={"Content-Type": content_type})
        assert (response.status_code, response.headers["Content-Type"]) == (400, "application/json")
        assert " " in response.json()["error"]
        assert labels(client.post(address, json={"instances": ["superb"]})) == ["4"]


@pytest.mark.parametrize(("body", "headers"), [*WELL_FORMED, (b"data=" + BODY, {"Content-Type": FORM})])
def test_a_body_is_read_however_it_is_sent(address: str, body: bytes, headers: dict[str, str]) -> None:
    response = httpx.post(address, content=body, headers=headers, trust_env=False)
    assert labels(response) == ["4"]
    assert response.headers["Content-Type"] == "application/json"


@given(request=sent(limit=256))
@settings(max_examples=60, deadline=None)
def test_whatever_is_sent_gets_its_own_status_in_json(address: str, request: tuple[bytes, str, int]) -> None:
    body, content_type, status = request
    # TorchServe itself, which reads forms, answers a "%" that is no escape there with a 500.
    body = body.replace(b"%", b"_") if content_type == FORM else body
    response = httpx.post(address, content=body, headers={"Content-Type": content_type}, trust_env=False, timeout=60)
    assert (response.status_code, response.headers["Content-Type"]) == (status, "application/json")
    assert response.json().keys() == ({"predictions"} if status == 200 else {"error"})


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "key"),
    [
        ("GET", "/v1/models/tiny:predict", b"", 400, "error"),
        ("GET", "/v1/models/tiny:predict", BODY, 200, "predictions"),
        ("PUT", "/v1/models/tiny:predict", BODY, 200, "predictions"),
        ("DELETE", "/v1/models/tiny:predict", b"", 400, "error"),
        ("HEAD", "/v1/models/tiny:predict", BODY, 200, ""),
        ("HEAD", "/v1/models/tiny:predict", b"", 400, ""),
        ("HEAD", "/v1/models/other:predict", BODY, 404, ""),
        ("OPTIONS", "/v1/models/tiny:predict", b"", 200, "openapi"),
        ("OPTIONS", "/v1/models/other:predict", b"", 404, "message"),
        ("OPTIONS", "/", b"", 200, "openapi"),
        ("POST", "/v1/models/other:predict", BODY, 404, "message"),
        ("POST", "/v1/models/tiny", BODY, 404, "message"),
        ("POST", "/v1/models/tiny:predict?a=b", BODY, 200, "predictions"),
        ("POST", "/nowhere", BODY, 404, "message"),
        ("POST", "/", BODY, 405, "message"),
        ("GET", "/ping", b"", 200, "status"),
    ],
)
def test_any_method_and_path_are_answered_in_json(
    address: str, method: str, path: str, body: bytes, status: int, key: str
) -> None:
    url = httpx.URL(address).copy_with(raw_path=path.encode())
    response = httpx.request(method, url, content=body, trust_env=False)
    assert (response.status_code, response.headers["Content-Type"]) == (status, "application/json")
    assert key in response.json() if key else response.content == b""


def test_what_torchserve_itself_refuses(address: str) -> None:
    """No handler sees it: a body over its limit gets no words, one in a form that can't be read a 500."""
    response = httpx.post(address, content=b" " * 6_553_501, trust_env=False)
    assert (response.status_code, response.content) == (413, b"")
    response = httpx.post(address, content=b"a=%zz", headers={"Content-Type": FORM}, trust_env=False)
    assert response.status_code == 500 and "string: '%zz'" in response.json()["message"]
    assert labels(httpx.post(address, content=BODY, trust_env=False)) == ["4"]


def test_requests_that_are_too_large_harm_none_beside_them(address: str, release: Path) -> None:
    """By their texts, by what they unpack to, and by their bytes, where TorchServe itself refuses."""
    many = {"content": json.dumps({"instances": ["ok"] * 130_000}).encode()}
    bomb = {"content": packed(b" " * 9_000_000 + BODY)}
    large = {"content": b" " * 7_000_000 + BODY}
    small = {"content": BODY}
    requests = [many, bomb, large, *[small] * 5] * 4

    def post(request: dict[str, bytes]) -> httpx.Response:
        return httpx.post(address, **request, trust_env=False, timeout=60)  # type: ignore[arg-type]

    with ThreadPoolExecutor(16) as pool:
        responses = list(pool.map(post, requests))
    assert [response.status_code for response in responses] == [413, 413, 413, *[200] * 5] * 4
    assert "130000 texts, and a request may hold 256" in responses[0].json()["error"]
    assert "more than 6553500 bytes" in responses[1].json()["error"]


def test_150_requests_at_once_get_the_answers_they_would_get_alone(
    address: str, release: Path, tmp_path: Path, rows: Any
) -> None:
    """Batched or not, beside malformed ones, and though all wait in the server's queue, which by default takes 100."""
    first = b"        answers = self.outcomes(data)"
    report = b'        import time; time.sleep(0.1); logger.info("a batch of %d", len(data))\n'
    slow = changed_release(
        release, tmp_path / "slow", {"handler.py": lambda source: source.replace(first, report + first)}
    )
    texts = [text for text, _ in rows(140, seed=13)] + ["", " ", "🙂", "文本", "superb " * 300] * 2
    requests: list[list[Any]] = [texts[at : at + 1 + at % 3 * 2] for at in range(150)]  # of one, three and five texts
    for request in requests[::10]:
        request.append(1)
    alone = dict(zip(texts, load_handler(release).classify(texts), strict=True))

    def post(request: list[Any]) -> httpx.Response:
        return httpx.post(server.address, json={"instances": request}, trust_env=False, timeout=60)

    with served(slow) as server, ThreadPoolExecutor(150) as pool:
        responses = list(pool.map(post, requests))
        log = server.log.read_text()
        # Another server goes on meanwhile.
        assert server.address != address
        assert labels(httpx.post(address, json={"instances": ["awful"]}, trust_env=False)) == ["0"]
    assert Counter(response.status_code for response in responses) == {200: 135, 400: 15}
    assert any(f"a batch of {size}" in log for size in range(2, 9)), "no requests were batched"
    for request, response in zip(requests, responses, strict=True):
        if request[-1] == 1:
            assert response.json()["error"].startswith(f"instance {len(request) - 1} is neither")
        else:
            assert response.json()["predictions"] == [alone[text] for text in request]


def refusal(release: Path, port: int = 0) -> str:
    """Returns why a release is not served."""
    with pytest.raises(PipelineError) as caught, served(release, port):
        pytest.fail("it is served")
    assert "\n" not in str(caught.value)
    return f"{type(caught.value).__name__}: {caught.value}"


def test_a_broken_archive_fails_fast_and_shows_why(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change = before_it_loads("raise ValueError('no luck today')")
    broken = changed_release(release, tmp_path / "broken", {"handler.py": change})
    assert refusal(broken) == "PipelineError: TorchServe could not load the model"
    shown = capsys.readouterr().err
    assert shown.startswith("the end of TorchServe's log:\n") and "ValueError: no luck today" in shown


def test_a_taken_port_is_one_line(release: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        reason = refusal(release, port)
    assert re.fullmatch(rf"UsageError: port {port} can't be used \(.*\): choose another with --port", reason)


def test_a_port_taken_meanwhile_fails_fast(
    release: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [taken.getsockname()[1], *torchserve.free_ports(4)]
        monkeypatch.setattr(torchserve, "free_ports", lambda _: ports)
        assert refusal(release).startswith("PipelineError: TorchServe ended with status ")
    assert "Address already in use" in capsys.readouterr().err


def test_it_serves_whatever_the_environment_and_the_paths_and_leaves_nothing(
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
        "LOG_LOCATION": "/nowhere",
        "METRICS_LOCATION": "/nowhere",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "ALL_PROXY": "socks5://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setenv(name.lower(), value)
    with served(moved) as server:
        predictions = predict_at(server.address, ["superb", "awful \udcff"])
        assert len(group_members(server.process.pid)) == 4  # the launcher, Java, two workers
    assert [(each["text"], each["label"]) for each in predictions] == [("superb", "4"), ("awful ?", "0")]
    while group_members(server.process.pid):
        time.sleep(0.02)
    assert list(temporary.iterdir()) == []


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
