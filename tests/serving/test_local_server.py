"""`--serve` and `--predict`: which release, and what is left where they or their server end early."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.serving import local_server
from nlp_pipeline.serving.local_server import choose_server, find_release, served
from nlp_pipeline.serving.onnx_server import OnnxServer
from nlp_pipeline.serving.torchserve import TorchServe, free_ports
from tests.serving.bodies import get, post
from tests.serving.conftest import changed_release

# What makes a handler go on with a batch of so many texts or more only when it may.
WAITS = """

def _wait(self, data, context, handle=TextClassificationHandler.handle):
    import time
    while sum(len(row["body"]["instances"]) for row in data) >= {texts} and not Path({path!r}).exists():
        time.sleep(0.01)
    return handle(self, data, context)


TextClassificationHandler.handle = _wait
"""
TORCHSERVE = ("--runtime", "torchserve")
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


@pytest.mark.parametrize("name", ["unvalidated", "*", "a/latest.json"])
def test_no_release_is_one_line(volume: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"make one with --local, or name one with --release DIR$"):
        find_release(volume, name)
    with pytest.raises(UsageError, match=r"^no release of any model in "):
        find_release(volume / "absent", None)


@pytest.mark.parametrize("content", [b"[]", b"\xff"])
def test_a_spoilt_pointer_is_one_line(volume: Path, content: bytes) -> None:
    (volume / "b" / "latest.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"^.*/b/latest\.json names no release: name one with --release DIR$"):
        find_release(volume, "b")


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


@contextmanager
def serving(release: Path, temporary: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str, Any]]:
    """Runs `--serve`; yields its process, the address, and a pool that asks it."""
    [port] = free_ports(1)
    flags = ("--serve", "--release", str(release), "--port", str(port), "--json", *flags)
    with ThreadPoolExecutor(24) as pool, command(*flags, temporary=temporary) as process:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())["url"], pool


def end(process: subprocess.Popen[str], how: signal.Signals) -> None:
    """Asks a server to end, and waits until it says that it will."""
    process.send_signal(how)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("it ends when it has answered what it was asked")


@pytest.mark.slow
def test_ctrl_c_while_it_starts_leaves_nothing(release: Path, tmp_path: Path) -> None:
    with command("--predict", "superb", "--release", str(release), *TORCHSERVE, temporary=tmp_path) as process:
        children = wait_for_java(process)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (130, "", "interrupted; nothing is left running\n")
    assert [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_serve_tells_when_the_server_has_died(release: Path, tmp_path: Path) -> None:
    with serving(release, tmp_path) as (process, _, _):
        [server] = psutil.Process(process.pid).children()
        server.kill()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith("the end of the server's log:\n")
    assert errors.splitlines()[-1].startswith("error: the server has ended by itself")


def holding(release: Path, folder: Path, texts: int) -> tuple[Path, Path]:
    """Returns a release that holds batches of so many texts or more, and the file that lets them go once it exists."""
    waits = WAITS.format(texts=texts, path=str(folder / "go")).encode()
    return changed_release(release, folder / "held", {"handler.py": lambda source: source + waits}), folder / "go"


def wait_until_asked(folder: Path, count: int) -> None:
    """Waits until a server that writes to a folder in this one has got so many requests."""
    [config] = folder.glob("nlp-*/config.properties")
    [metrics] = re.findall("metrics_address=(.*)", config.read_text())
    counter = rf"ts_inference_requests_total{{.*}} {count}\.0"
    while not re.search(counter, get(f"{metrics}/metrics").text):
        time.sleep(0.05)


@pytest.mark.slow
def test_sigterm_while_requests_are_in_flight(release: Path, tmp_path: Path) -> None:
    """They are answered, more of them than the workers' batches have, and then it ends."""
    held, go = holding(release, tmp_path, 0)
    bodies = [{"instances": ["superb"] * count} for count in (1, 2, 200)] * 8
    with serving(held, tmp_path, *TORCHSERVE) as (process, address, pool):
        asked = [pool.submit(post, address, json=body) for body in bodies]
        wait_until_asked(tmp_path, len(bodies))
        end(process, signal.SIGTERM)
        go.touch()
        counts = [len(request.result().json()["predictions"]) for request in asked]
        assert counts == [len(body["instances"]) for body in bodies]
        assert process.wait(timeout=60) == 0


@pytest.mark.slow
def test_a_large_request_holds_none_up_and_is_waited_for_at_the_end(release: Path, tmp_path: Path) -> None:
    """Also while others come and go, which the other worker answers."""
    held, go = holding(release, tmp_path, 200)
    with serving(held, tmp_path, *TORCHSERVE) as (process, address, pool):
        large = pool.submit(post, address, json={"instances": ["superb"] * 256})
        wait_until_asked(tmp_path, 1)
        time.sleep(0.1)  # TorchServe gives a worker what comes within a millisecond together
        for at in range(40):
            assert post(address, json={"instances": ["awful"]}).status_code == 200
            if at == 20:
                end(process, signal.SIGTERM)
        assert process.poll() is None and not large.done()
        go.touch()
        assert len(large.result().json()["predictions"]) == 256
        assert process.wait(timeout=60) == 0


@pytest.mark.slow
def test_our_own_server_answers_what_it_has_and_leaves_nothing(release: Path, tmp_path: Path) -> None:
    """As `--serve` takes it where nothing else is said: requests in flight at a Ctrl-C are answered, then it ends."""
    with serving(release, tmp_path) as (process, address, pool):
        assert not any("java" in child.name() for child in psutil.Process(process.pid).children(recursive=True))
        body = {"instances": ["superb " * 100] * 256}
        large = [pool.submit(post, address, json=body) for _ in range(8)]
        while not any(request.done() for request in large):
            time.sleep(0.01)
        end(process, signal.SIGINT)
        # On a busy machine, some may not have come to it by then.
        taken = [request.result() for request in large if not isinstance(request.exception(), httpx.ConnectError)]
        assert {len(response.json()["predictions"]) for response in taken} == {256}
        assert process.wait(timeout=60) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_second_ctrl_c_ends_it_at_once(release: Path, tmp_path: Path) -> None:
    with serving(release, tmp_path) as (process, address, pool):
        [server] = psutil.Process(process.pid).children()
        server.suspend()
        asked = pool.submit(post, address, json={"instances": ["superb"]})
        end(process, signal.SIGINT)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        assert isinstance(asked.exception(), httpx.HTTPError)


@pytest.mark.slow
def test_our_own_server_that_cannot_start_shows_why(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = changed_release(release, tmp_path / "broken", {"model.onnx": lambda _: b"no model"})
    with pytest.raises(PipelineError, match=r"^the server ended with status 1$"), served(broken, runtime="onnx"):
        pytest.fail("it is served")
    assert f"error: {broken} can't be served: " in capsys.readouterr().err


def test_what_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_server(None) is OnnxServer and choose_server("torchserve") is TorchServe
    monkeypatch.setattr(local_server, "is_installed", lambda: False)
    assert choose_server(None) is TorchServe
    with pytest.raises(UsageError, match="--runtime onnx needs the package kserve: pip install"):
        choose_server("onnx")
