"""`--serve` and `--predict`: which release, and what is left where they or their server end early."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from nlp_pipeline.errors import UsageError
from nlp_pipeline.serving.local_server import find_release
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


@pytest.mark.parametrize("name", ["unvalidated", "absent", "*", "/absolute", "..", "a/latest.json"])
def test_no_release_is_one_line(volume: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"make one with --local, or name one with --release DIR$"):
        find_release(volume, name)
    with pytest.raises(UsageError, match=r"^no release of any model in "):
        find_release(volume / "absent", None)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff"])
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


@pytest.mark.slow
def test_ctrl_c_while_it_starts_leaves_nothing(release: Path, tmp_path: Path) -> None:
    with command("--predict", "superb", "--release", str(release), temporary=tmp_path) as process:
        children = wait_for_java(process)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (130, "", "interrupted; nothing is left running\n")
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
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith("the end of TorchServe's log:\n")
    assert errors.splitlines()[-1].startswith("error: TorchServe has ended by itself")
