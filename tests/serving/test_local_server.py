"""`--serve` and `--predict`: which release, whom they ask, and that Ctrl-C leaves nothing running."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from pytest_httpserver import HTTPServer

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.release import verify
from nlp_pipeline.serving.local_server import (
    find_release,
    predict_address,
    predict_at,
    served,
)
from nlp_pipeline.serving.torchserve import free_ports

MAIN = "import sys; from nlp_pipeline.cli import main; sys.exit(main())"


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A volume with two models, `b` the one validated last."""
    for at, name in enumerate(["a", "b"]):
        pointer = tmp_path / name / "latest.json"
        pointer.parent.mkdir()
        pointer.write_text(json.dumps({"digest": f"digest-{name}"}))
        os.utime(pointer, (1000 + at, 1000 + at))
    (tmp_path / "unvalidated").mkdir()
    return tmp_path


def test_the_release_validated_last_is_found(volume: Path) -> None:
    assert find_release(volume, None) == volume / "b" / "releases" / "digest-b"
    assert find_release(volume, "a") == volume / "a" / "releases" / "digest-a"
    os.utime(volume / "a" / "latest.json")
    assert find_release(volume, None) == volume / "a" / "releases" / "digest-a"


@pytest.mark.parametrize("name", ["unvalidated", "absent", "*", "[", "/absolute", "..", "a/latest.json", "\n"])
def test_no_release_is_one_line(volume: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"make one with --local, or name one with --release DIR$"):
        find_release(volume, name)
    with pytest.raises(UsageError, match=r"^no release of any model in "):
        find_release(volume / "absent", None)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b"\xff"])
def test_spoilt_records_are_one_line(volume: Path, content: bytes) -> None:
    (volume / "b" / "latest.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"^.*/b/latest\.json names no release: name one with --release DIR$"):
        find_release(volume, "b")
    (volume / "release.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"^.* is no release: it has no sound release\.json; .*$"):
        verify(volume)


PATH = "/v1/models/tiny:predict"


def test_an_endpoint_is_asked(httpserver: HTTPServer) -> None:
    httpserver.expect_request(PATH, method="POST", json={"instances": ["é", "\ud800"]}).respond_with_json(
        {"predictions": [{"label": "ja\n", "score": 1}, {"label": "nein", "score": 0.5, "more": 1}]}
    )
    assert predict_at(httpserver.url_for(PATH), ["é", "\ud800"]) == [
        {"text": "é", "label": "ja\n", "score": 1},
        {"text": "?", "label": "nein", "score": 0.5},
    ]


def test_a_server_that_answers_with_class_ids(httpserver: HTTPServer) -> None:
    """As KServe's for the Hugging Face folder; a class id alone has no score."""
    httpserver.expect_request(PATH).respond_with_json({"predictions": [{"0": 0.25, "1": 0.75}, 0]})
    asked = [predict_at(httpserver.url_for(PATH), ["a", "b"], labels) for labels in ((), ["nein", "ja"])]
    told = [[(one["label"], one["score"]) for one in predictions] for predictions in asked]
    assert told == [[("1", 0.75), ("0", None)], [("ja", 0.75), ("nein", None)]]


def test_labels_of_a_release(release: Path, tmp_path: Path) -> None:
    assert verify(release).labels == ["0", "4"]
    with pytest.raises(UsageError, match="is no release"):
        verify(tmp_path)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html>\nsign in</html>",
        "[]",
        "null",
        "{}",
        '{"predictions": null}',
        '{"predictions": []}',
        '{"predictions": [true]}',
        '{"predictions": ["label"]}',
        '{"predictions": {"a": {"label": "a", "score": 1}}}',
        '{"predictions": [{"label": "a"}]}',
        '{"predictions": [{"label": "a", "score": 1}, {"label": "a", "score": 1}]}',
    ],
)
def test_an_answer_of_another_kind_is_one_line(httpserver: HTTPServer, body: str) -> None:
    httpserver.expect_request(PATH).respond_with_data(body)
    with pytest.raises(PipelineError, match=r"^http.* did not answer with a label and a score for each .*$"):
        predict_at(httpserver.url_for(PATH), ["a"])


def test_an_error_of_the_endpoint_is_one_line(httpserver: HTTPServer) -> None:
    httpserver.expect_request(PATH).respond_with_data("no\nsuch\nmodel" * 1000, status=404)
    with pytest.raises(PipelineError, match=r"^http.* answered 404: no such model.{,300}$"):
        predict_at(httpserver.url_for(PATH), ["a"])


@pytest.mark.parametrize(
    "address", ["http://", "http://[", "http://a\nb/", "http://127.0.0.1:1/", "http://127.0.0.1:999999/"]
)
def test_an_address_nobody_answers_at_is_one_line(address: str) -> None:
    with pytest.raises(PipelineError, match=r"can't be (reached|asked): .+$"):
        predict_at(address, ["a"])


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:1", "socks5://127.0.0.1:1", "nonsense://x"])
def test_proxies_are_for_other_machines(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("http_proxy", proxy)
    httpserver.expect_request(PATH).respond_with_json({"predictions": [{"label": "a", "score": 1}]})
    assert predict_at(f"http://localhost:{httpserver.port}{PATH}", ["a"])[0]["label"] == "a"
    with pytest.raises(PipelineError, match=r"^http://example\.invalid.*can't be (reached|asked): .+$"):
        predict_at(f"http://example.invalid{PATH}", ["a"])


def test_an_endpoint_is_completed() -> None:
    assert predict_address("http://host:8080/", "tiny") == f"http://host:8080{PATH}"
    assert predict_address(f"https://host{PATH}", None) == f"https://host{PATH}"
    with pytest.raises(UsageError, match="which model"):
        predict_address("http://host:8080", None)
    with pytest.raises(UsageError, match="is no address"):
        predict_address("host:8080", "tiny")


@contextmanager
def command(*arguments: str, temporary: Path) -> Iterator[subprocess.Popen[str]]:
    """Runs the command line in a process group of its own, as a shell does."""
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def wait_for_java(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Waits until a command has started Java, and returns the processes that it has started."""
    while True:
        assert process.poll() is None
        children = psutil.Process(process.pid).children(recursive=True)
        if any("java" in child.name() for child in children):
            return children


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_serve_ends_with_nothing_left(release: Path, tmp_path: Path, end: signal.Signals) -> None:
    [port] = free_ports(1)
    with command("--serve", "--release", str(release), "--port", str(port), "--json", temporary=tmp_path) as process:
        assert process.stdout is not None
        told: dict[str, Any] = json.loads(process.stdout.readline())
        assert told == {"release": str(release), "url": f"http://127.0.0.1:{port}{PATH}"}
        response = httpx.post(told["url"], json={"instances": ["superb"]}, trust_env=False)
        assert response.json()["predictions"][0]["label"] == "4"
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) == 3
        process.send_signal(end)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, "")
    assert [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []
    assert list(tmp_path.iterdir()) == []
    socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.slow
def test_ctrl_c_while_it_starts_leaves_nothing(release: Path, tmp_path: Path) -> None:
    with command("--predict", "superb", "--release", str(release), temporary=tmp_path) as process:
        children = wait_for_java(process)
        process.send_signal(signal.SIGINT)
        output, said = process.communicate(timeout=30)
    assert (process.returncode, output, said) == (130, "", "interrupted; nothing is left running\n")
    assert [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_serve_tells_when_the_server_has_died(release: Path, tmp_path: Path) -> None:
    [port] = free_ports(1)
    with command("--serve", "--release", str(release), "--port", str(port), "--json", temporary=tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        [java] = [child for child in wait_for_java(process) if "java" in child.name()]
        java.kill()
        _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert said.startswith("the end of TorchServe's log:\n")
    assert said.splitlines()[-1].startswith("error: TorchServe has ended by itself")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "model-store/tiny.mar is missing"),
        (lambda path: path.write_bytes(b"junk"), "model-store/tiny.mar is altered"),
        (lambda path: path.with_name("b").write_bytes(b"junk"), "model-store/b does not belong to it"),
    ],
)
def test_a_spoilt_release_is_not_served(
    release: Path, tmp_path: Path, spoil: Callable[[Path], Any], message: str
) -> None:
    shutil.copytree(release, tmp_path / "release")
    assert verify(tmp_path / "release").model_name == "tiny"
    spoil(tmp_path / "release" / "model-store" / "tiny.mar")
    with pytest.raises(UsageError, match=f"is spoilt: {message}; choose another release"), served(tmp_path / "release"):
        pass
