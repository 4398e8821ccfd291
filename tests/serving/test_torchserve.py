"""The real TorchServe on archives of the tiny model: what it answers, how it fails, that it ends."""

import contextlib
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
from nlp_pipeline.serving.client import ask, replay
from nlp_pipeline.serving.endpoint import predict_at
from nlp_pipeline.serving.local_server import served
from nlp_pipeline.serving.torchserve import ServerProcess, release_config
from tests.serving import bodies
from tests.serving.bodies import ASKED, BODY, FORM, labels, post, sent
from tests.serving.conftest import before_it_loads, changed_release, load_handler

pytestmark = pytest.mark.slow


# What must not reach the server, nor keep its clients from it.
FOREIGN = {
    "LC_ALL": "C",
    "TS_CONFIG_FILE": "/nowhere",
    "TS_SERVICE_ENVELOPE": "kserve",
    "LOG_LOCATION": "/nowhere",
    "METRICS_LOCATION": "/nowhere",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "ALL_PROXY": "socks5://127.0.0.1:9",
}


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that makes the server slow while it exists."""
    return tmp_path_factory.mktemp("slow") / "now"


@pytest.fixture(scope="module")
def server(release: Path, slow: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that all tests here may ask: in odd places, of which it leaves nothing. It logs its batches' sizes."""
    first = b"        answers = self.outcomes(data)"
    sleep = f"time.sleep(Path({str(slow)!r}).exists() / 10)"
    report = f'        import time; {sleep}; logger.info("a batch of %d", len(data))\n'
    moved = changed_release(
        release,
        tmp_path_factory.mktemp("moved") / "a folder, näher [x]",
        {"handler.py": lambda source: source.replace(first, report.encode() + first)},
    )
    temporary = tmp_path_factory.mktemp("tmp é")
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tempfile.tempdir", str(temporary))
            for name, value in FOREIGN.items():
                patch.setenv(name, value)
                patch.setenv(name.lower(), value)
            server = stack.enter_context(served(moved))
            predictions = predict_at(server.address, ["superb", "awful \udcff"])
        assert [(each["text"], each["label"]) for each in predictions] == [("superb", "4"), ("awful ?", "0")]
        assert len(group_members(server.process.pid)) == 4  # the launcher, Java, two workers
        yield server
    while group_members(server.process.pid):
        time.sleep(0.02)
    assert list(temporary.iterdir()) == []


@pytest.fixture(scope="module")
def address(server: ServerProcess) -> str:
    return server.address


def test_it_answers_over_http_as_the_offline_model_does(address: str, release: Path, rows: Any) -> None:
    with httpx.Client(trust_env=False) as client:
        predictions = ask(client, address, [*ASKED, {"data": "superb"}, {"text": "awful"}], labels=[])
        assert labels(client.post(address, json={"instances": []})) == []
    bodies.require_as_offline(predictions[:-2], release)
    assert [each["label"] for each in predictions[-2:]] == ["4", "0"]
    texts, expected = zip(*rows(100, seed=11), strict=True)
    replayed, latencies, seconds = replay(address, list(texts), clients=8)
    assert replayed == list(expected)
    assert len(latencies) == 100 and 0 < max(latencies) <= seconds


def test_a_body_is_read_however_it_is_sent(address: str) -> None:
    bodies.require_bodies_read(address, (b"data=" + BODY, {"Content-Type": FORM}))


@given(request=sent(limit=256))
@settings(max_examples=60, deadline=None)
def test_whatever_is_sent_gets_its_own_status_in_json(address: str, request: tuple[bytes, str, int]) -> None:
    body, content_type, status = request
    # TorchServe itself, which reads forms, answers a "%" that is no escape there with a 500.
    bodies.require_status(address, body.replace(b"%", b"_") if content_type == FORM else body, content_type, status)


def test_what_torchserve_itself_answers(address: str) -> None:
    """No handler sees it: another name or address, and a form that can't be read."""
    for method, path, body, status, key in (
        ("GET", "/ping", b"", 200, "status"),
        ("POST", "/v1/models/other:predict", BODY, 404, "message"),
        ("POST", "/nowhere", BODY, 404, "message"),
        ("OPTIONS", "/v1/models/tiny:predict", b"", 200, "openapi"),
        ("HEAD", "/v1/models/tiny:predict", BODY, 200, ""),
    ):
        response = httpx.request(method, httpx.URL(address).copy_with(path=path), content=body, trust_env=False)
        assert (response.status_code, response.headers["Content-Type"]) == (status, "application/json")
        assert key in response.json() if key else response.content == b""
    response = post(address, content=b"a=%zz", headers={"Content-Type": FORM})
    assert response.status_code == 500 and "string: '%zz'" in response.json()["message"]


def test_requests_that_are_too_large_harm_none_beside_them(address: str) -> None:
    assert bodies.require_large_refused(address).content == b""  # by TorchServe itself


def test_150_requests_at_once_get_the_answers_they_would_get_alone(
    server: ServerProcess, slow: Path, release: Path, rows: Any
) -> None:
    """Batched or not, beside malformed ones, and though all wait in the server's queue, which by default takes 100."""
    texts = [text for text, _ in rows(140, seed=13)] + ["", " ", "🙂", "文本", "superb " * 300] * 2
    requests: list[list[Any]] = [texts[at : at + 1 + at % 3 * 2] for at in range(150)]  # of one, three and five texts
    for request in requests[::10]:
        request.append(1)
    alone = dict(zip(texts, load_handler(release).classify(texts), strict=True))

    slow.touch()
    with ThreadPoolExecutor(150) as pool:
        responses = list(pool.map(lambda request: post(server.address, json={"instances": request}), requests))
    slow.unlink()
    log = server.log.read_text()
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
    address: str, release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change = before_it_loads("raise ValueError('no luck today')")
    broken = changed_release(release, tmp_path / "broken", {"handler.py": change})
    assert refusal(broken) == "PipelineError: TorchServe could not load the model"
    shown = capsys.readouterr().err
    assert shown.startswith("the end of TorchServe's log:\n") and "ValueError: no luck today" in shown
    assert labels(post(address, json={"instances": ["awful"]})) == ["0"]  # another server goes on meanwhile


def test_a_taken_port_is_one_line(release: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        reason = refusal(release, port)
    assert re.fullmatch(rf"UsageError: port {port} can't be used \(.*\): choose another with --port", reason)


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
