"""What the TorchServe image runs, run for real: on a read-only release, with all that it writes in TMPDIR."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import psutil
import pytest

from nlp_pipeline.serving.runtime import PORTS
from tests.serving.conftest import changed_release
from tests.serving.containers import chosen_ports, container, failure

NO_TORCHSERVE = dict.fromkeys(PORTS, "9")


def slow(source: bytes) -> bytes:
    return source.replace(b"        folder = Path(", b"        import time; time.sleep(5)\n        folder = Path(", 1)


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


@pytest.mark.slow
def test_it_serves_what_is_mounted_and_ends_at_once(release: Path, tmp_path: Path) -> None:
    mounted = changed_release(release, tmp_path / "models", {"handler.py": slow})
    for path in [*mounted.rglob("*"), mounted]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before, ports = snapshot(mounted), chosen_ports()
    with tempfile.TemporaryDirectory(prefix="nlp-") as temporary:
        environment = {**os.environ, **ports, "TMPDIR": temporary, "TS_SERVICE_ENVELOPE": "kserve"}
        address = f"http://127.0.0.1:{ports['PORT_INFERENCE']}"
        with (
            container([str(mounted)], environment, tmp_path / "log") as pod,
            httpx.Client(base_url=address, trust_env=False, timeout=60) as client,
        ):
            pinged = False
            for _ in pod.polls():
                probed = pod.probe()
                if probed.returncode == 0:
                    break
                assert probed.stderr.startswith("model 'tiny' is not loaded: ") and probed.stderr.count("\n") == 1
                try:
                    pinged = pinged or client.get("/ping").status_code == 200
                except httpx.HTTPError:
                    assert not pinged
            assert pinged, "where /ping tells when the model is loaded, it can be the readiness probe"
            assert (probed.stdout, probed.stderr) == ("", "")
            assert "TorchServe does not list it" in pod.probe("other").stderr

            answer = client.post("/v1/models/tiny:predict", json={"instances": ["superb", "awful"]})
            assert [one["label"] for one in answer.json()["predictions"]] == ["4", "0"]
            metrics = f"http://127.0.0.1:{ports['PORT_METRICS']}/metrics"
            assert httpx.get(metrics, trust_env=False).status_code == 200

            # The process itself is the server, and only localhost may manage it.
            server = psutil.Process(pod.process.pid)
            assert Path(server.exe()).name == "java"
            listening = {
                str(one.laddr.port): one.laddr.ip.removeprefix("::ffff:")
                for one in psutil.net_connections("tcp")
                if one.laddr and one.status == "LISTEN" and one.pid == server.pid
            }
            everywhere = {name for name, port in ports.items() if listening[port] in ("0.0.0.0", "::")}
            assert everywhere == {"PORT_INFERENCE", "PORT_METRICS"}

            assert "POST /v1/models/tiny:predict" in pod.log and "MODEL_LOG" in pod.log
            assert not list(Path(temporary).rglob("*.log"))
            pod.end()
    assert snapshot(mounted) == before


@pytest.mark.parametrize(
    ("arguments", "changed", "problem"),
    [
        (["nowhere"], {}, "nowhere/config/config.properties can't be read (No such file or directory)"),
        ([], {"AIP_STORAGE_URI": ""}, "/mnt/models/config/config.properties can't be read"),
        (["nowhere"], {"AIP_STORAGE_URI": "gs://b/x"}, "nowhere/config/config.properties can't be read"),
        (["x"], {"PORT_METRICS": "tcp://1"}, "PORT_METRICS is 'tcp://1': it must be the number of a port"),
        (["x"], {"AIP_HTTP_PORT": "", "PORT_INFERENCE": "1"}, "AIP_HTTP_PORT is '': it must be the number of a port"),
        (["--ready", "tiny"], NO_TORCHSERVE, "model 'tiny' is not loaded: TorchServe does not list it, or does not"),
        (["--ready", "tiny"], {"PORT_MANAGEMENT": "x"}, "PORT_MANAGEMENT is 'x': it must be"),
    ],
)
def test_what_it_can_not_do_is_one_line(
    arguments: list[str], changed: dict[str, str], problem: str, tmp_path: Path
) -> None:
    assert problem in failure(arguments, {**os.environ, "TMPDIR": str(tmp_path), **changed})


def test_it_needs_the_standard_library_only_until_it_starts_the_server() -> None:
    code = "import sys, nlp_pipeline.serving.runtime; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"httpx", "torch", "kfp", "psutil", "requests", "ts", "yaml"}.isdisjoint(done.stdout.split())
