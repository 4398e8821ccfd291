"""What the TorchServe image runs, run for real: on a read-only release, with all that it writes in TMPDIR."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from nlp_pipeline.serving.runtime import PORTS
from nlp_pipeline.serving.torchserve import free_ports
from tests.serving import containers
from tests.serving.conftest import changed_release
from tests.serving.containers import COMMAND, container

NO_TORCHSERVE = dict.fromkeys(PORTS, "9")


def slow(source: bytes) -> bytes:
    return source.replace(b"        folder = Path(", b"        import time; time.sleep(5)\n        folder = Path(", 1)


@dataclass
class Pod:
    """The entry point on a release whose model takes five seconds to load."""

    process: subprocess.Popen[bytes]
    environment: dict[str, str]
    release: Path
    temporary: Path
    log: Path

    def url(self, path: str, port: str = "PORT_INFERENCE") -> str:
        return f"http://127.0.0.1:{self.environment[port]}{path}"

    def probe(self, model: str = "tiny") -> subprocess.CompletedProcess[str]:
        return containers.probe(model, self.environment)


@pytest.fixture(scope="module")
def pod(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    folder = tmp_path_factory.mktemp("pod")
    mounted = changed_release(release, folder / "models", {"handler.py": slow})
    for path in [*mounted.rglob("*"), mounted]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    ports = {name: str(port) for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)}
    with tempfile.TemporaryDirectory(prefix="nlp-") as temporary:
        environment = {**os.environ, **ports, "TMPDIR": temporary, "TS_SERVICE_ENVELOPE": "kserve"}
        with container([str(mounted)], environment, folder / "log") as process:
            yield Pod(process, environment, mounted, Path(temporary), folder / "log")


def snapshot(folder: Path) -> dict[str, Any]:
    return {str(path): path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


@pytest.mark.slow
def test_it_serves_what_is_mounted_and_ends_at_once(pod: Pod) -> None:
    before = snapshot(pod.release)
    until = time.monotonic() + 60
    pinged = False
    while (told := pod.probe()).returncode != 0:
        assert pod.process.poll() is None and time.monotonic() < until, pod.log.read_text()
        assert told.stderr.startswith("model 'tiny' is not loaded: ") and told.stderr.count("\n") == 1
        try:
            pinged = pinged or httpx.get(pod.url("/ping"), trust_env=False).status_code == 200
        except httpx.HTTPError:
            assert not pinged
        time.sleep(0.2)
    assert pinged, "where /ping tells when the model is loaded, it can be the readiness probe"
    assert (told.stdout, told.stderr) == ("", "")
    assert "TorchServe does not list it" in pod.probe("other").stderr

    answer = httpx.post(
        pod.url("/v1/models/tiny:predict"), json={"instances": ["superb", "awful"]}, trust_env=False, timeout=20
    )
    assert [one["label"] for one in answer.json()["predictions"]] == ["4", "0"]
    assert httpx.get(pod.url("/metrics", "PORT_METRICS"), trust_env=False).status_code == 200

    # The process itself is the server, and only localhost may manage it.
    server = psutil.Process(pod.process.pid)
    assert Path(server.exe()).name == "java"
    listening = {
        str(one.laddr.port): one.laddr.ip
        for one in psutil.net_connections("tcp")
        if one.laddr and one.status == "LISTEN" and one.pid == server.pid
    }
    everywhere = {
        name for name in PORTS if listening[pod.environment[name]].removeprefix("::ffff:") in ("0.0.0.0", "::")
    }
    assert everywhere == {"PORT_INFERENCE", "PORT_METRICS"}

    log = pod.log.read_text()
    assert "POST /v1/models/tiny:predict" in log and "MODEL_LOG" in log
    assert not list(pod.temporary.rglob("*.log"))
    containers.end(pod.process)
    assert snapshot(pod.release) == before


@pytest.mark.parametrize(
    ("arguments", "changed", "told"),
    [
        (["nowhere"], {}, "nowhere/config/config.properties can't be read (No such file or directory)"),
        ([], {}, "/mnt/models/config/config.properties can't be read"),
        (["x"], {"PORT_METRICS": "tcp://1"}, "PORT_METRICS is 'tcp://1': it must be the number of a port"),
        (["x"], {"AIP_HTTP_PORT": "", "PORT_INFERENCE": "1"}, "AIP_HTTP_PORT is '': it must be the number of a port"),
        ([], {"AIP_STORAGE_URI": ""}, "/mnt/models/config/config.properties can't be read"),
        (["nowhere"], {"AIP_STORAGE_URI": "gs://b/x"}, "nowhere/config/config.properties can't be read"),
        (["x"], {"TMPDIR": "/nowhere", "TEMP": "/nowhere", "TMP": "/nowhere"}, "/config.properties can't be read"),
        (["--ready", "tiny"], NO_TORCHSERVE, "model 'tiny' is not loaded: TorchServe does not list it, or does not"),
        (["--ready", "tiny"], {"PORT_MANAGEMENT": "x"}, "PORT_MANAGEMENT is 'x': it must be"),
    ],
)
def test_what_it_can_not_do_is_one_line(
    arguments: list[str], changed: dict[str, str], told: str, tmp_path: Path
) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), **changed}
    done = subprocess.run([*COMMAND, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert told in done.stderr and done.stderr.count("\n") == 1


def test_it_needs_the_standard_library_only_until_it_starts_the_server() -> None:
    code = "import sys, nlp_pipeline.serving.runtime; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"httpx", "torch", "kfp", "psutil", "requests", "ts", "yaml"}.isdisjoint(done.stdout.split())
