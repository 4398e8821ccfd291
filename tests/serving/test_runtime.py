"""What the TorchServe image runs, run for real: on a mounted release, and as a prediction container of Vertex AI."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from benchmarks.servers import group_members
from nlp_pipeline.serving.runtime import PORTS
from nlp_pipeline.serving.torchserve import free_ports
from tests.fakes.cloud_storage import TOKEN, CloudStorage
from tests.serving.bodies import get
from tests.serving.conftest import before_it_loads, changed_release

COMMAND = [sys.executable, "-m", "nlp_pipeline.serving.runtime"]
NO_TORCHSERVE = dict.fromkeys(PORTS, "9")
URI = "gs://managed-by-vertex/models/1234/artifacts"


@dataclass
class Container:
    """The running entry point, leader of a process group."""

    process: subprocess.Popen[bytes]
    environment: Mapping[str, str]
    log_file: Path

    def probe(self, model: str = "tiny") -> subprocess.CompletedProcess[str]:
        """Asks as the readiness probe does."""
        return subprocess.run([*COMMAND, "--ready", model], env=self.environment, capture_output=True, text=True)

    def probes(self) -> Iterator[None]:
        """Yields after each failed probe until one succeeds; fails where the server has ended or the time is over."""
        until = time.monotonic() + 60
        while (probed := self.probe()).returncode != 0:
            assert self.process.poll() is None and time.monotonic() < until, self.log_file.read_text()
            assert probed.stderr.startswith("model 'tiny' is not loaded: ") and probed.stderr.count("\n") == 1
            yield
        assert (probed.stdout, probed.stderr) == ("", "")

    def end(self) -> str:
        """Makes sure that a SIGTERM ends the server, and all that it started; returns the log."""
        self.process.terminate()
        assert self.process.wait(timeout=60) == 128 + 15
        until = time.monotonic() + 60
        while group_members(self.process.pid):
            assert time.monotonic() < until
            time.sleep(0.05)
        return self.log_file.read_text()


@contextlib.contextmanager
def container(arguments: list[str], environment: Mapping[str, str], log_file: Path) -> Iterator[Container]:
    with log_file.open("wb") as file:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Container(process, environment, log_file)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


def chosen_ports() -> dict[str, str]:
    """Returns variables that give the server free ports."""
    return {name: str(port) for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)}


def failure(arguments: list[str], environment: Mapping[str, str]) -> str:
    """Runs the entry point, which must fail, and returns the line that ends its stderr."""
    done = subprocess.run([*COMMAND, *arguments], env=environment, cwd="/", capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "" and "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


@pytest.fixture
def temporary() -> Iterator[str]:
    """A folder whose path is short enough for TorchServe's sockets."""
    with tempfile.TemporaryDirectory(prefix="nlp-") as folder:
        yield folder


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


@pytest.mark.slow
def test_it_serves_what_is_mounted_and_ends_at_once(release: Path, tmp_path: Path, temporary: str) -> None:
    go_on = tmp_path / "go-on"
    wait = before_it_loads(f'import os, time; exec("while not os.path.exists({str(go_on)!r}): time.sleep(0.05)")')
    mounted = changed_release(release, tmp_path / "models", {"handler.py": wait})
    for path in [*mounted.rglob("*"), mounted]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before, ports = snapshot(mounted), chosen_ports()
    environment = {**os.environ, **ports, "TMPDIR": temporary, "TS_SERVICE_ENVELOPE": "kserve"}
    address = f"http://127.0.0.1:{ports['PORT_INFERENCE']}"
    with (
        container([str(mounted)], environment, tmp_path / "log") as pod,
        httpx.Client(base_url=address, trust_env=False, timeout=60) as client,
    ):
        for _ in pod.probes():
            # Where /ping told when the model is loaded, it could be the readiness probe.
            with contextlib.suppress(httpx.HTTPError):
                if client.get("/ping").status_code == 200:
                    go_on.touch()
        assert go_on.exists()
        assert "TorchServe does not list it" in pod.probe("other").stderr

        answer = client.post("/v1/models/tiny:predict", json={"instances": ["superb", "awful"]})
        assert [each["label"] for each in answer.json()["predictions"]] == ["4", "0"]
        metrics = f"http://127.0.0.1:{ports['PORT_METRICS']}/metrics"
        assert get(metrics).status_code == 200

        # The process itself is the server, and only localhost may manage it.
        server = psutil.Process(pod.process.pid)
        assert Path(server.exe()).name == "java"
        listening = {
            str(each.laddr.port): each.laddr.ip.removeprefix("::ffff:")
            for each in psutil.net_connections("tcp")
            if each.laddr and each.status == "LISTEN" and each.pid == server.pid
        }
        everywhere = {name for name, port in ports.items() if listening[port] in ("0.0.0.0", "::")}
        assert everywhere == {"PORT_INFERENCE", "PORT_METRICS"}
        log = pod.end()
    assert "POST /v1/models/tiny:predict" in log and "MODEL_LOG" in log
    assert not list(Path(temporary).rglob("*.log"))
    assert snapshot(mounted) == before


@pytest.mark.parametrize(
    ("arguments", "changed", "problem"),
    [
        (["nowhere"], {}, "error: [Errno 2] No such file or directory: '/nowhere/config/config.properties'"),
        (["nowhere"], {"AIP_STORAGE_URI": "gs://b/x"}, "'/nowhere/config/config.properties'"),
        (["x"], {"PORT_METRICS": "tcp://1"}, "PORT_METRICS is 'tcp://1': it must be the number of a port"),
        (["--ready", "tiny"], NO_TORCHSERVE, "model 'tiny' is not loaded: TorchServe does not list it, or does not"),
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


@pytest.fixture
def cloud() -> Iterator[CloudStorage]:
    """A Cloud Storage that the service account alone may read, and the metadata server that knows the account."""
    cloud = CloudStorage(signed_in=True)
    hosts = [cloud.host, cloud.metadata]
    for host in hosts:
        host.start()
    yield cloud
    for host in hosts:
        host.stop()
        assert not host.broken


def vertex_environment(cloud: CloudStorage, temporary: str) -> dict[str, str]:
    """Returns the environment as Vertex AI sets it, with the addresses of the stand-ins."""
    ports = chosen_ports()
    metadata = cloud.metadata.url.removeprefix("http://")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GOOGLE_", "STORAGE_", "HOME"))}
    return {
        **kept,
        **ports,
        "AIP_MODE": "PREDICTION",
        "AIP_HTTP_PORT": ports.pop("PORT_INFERENCE"),
        "AIP_HEALTH_ROUTE": "/ping",
        "AIP_PREDICT_ROUTE": "/v1/models/tiny:predict",
        "AIP_STORAGE_URI": URI,
        "TMPDIR": temporary,
        "HOME": temporary,
        "NO_PROXY": "*",
        "API_ENDPOINT_OVERRIDE": cloud.host.url,  # of Google's client; the emulator's variable would leave sign-in out
        "GCE_METADATA_HOST": metadata,
        "GCE_METADATA_IP": metadata,
    }


@pytest.mark.slow
def test_on_vertex_ai_it_fetches_its_release_serves_and_ends(
    cloud: CloudStorage, release: Path, tmp_path: Path, temporary: str
) -> None:
    cloud.upload(release, URI.removeprefix("gs://"))
    environment = vertex_environment(cloud, temporary)
    address = f"http://127.0.0.1:{environment['AIP_HTTP_PORT']}"
    with (
        container([], environment, tmp_path / "log") as pod,
        httpx.Client(base_url=address, trust_env=False, timeout=60) as client,
    ):
        for _ in pod.probes():
            time.sleep(0.2)
        assert client.get(environment["AIP_HEALTH_ROUTE"]).status_code == 200
        body: dict[str, Any] = {"instances": ["superb", {"text": "awful"}], "parameters": {"any": 1}}
        answer = client.post(environment["AIP_PREDICT_ROUTE"], json=body)
        assert answer.json().keys() == {"predictions"}
        assert [each["label"] for each in answer.json()["predictions"]] == ["4", "0"]
        # As large as a request that a shared endpoint lets through.
        answer = client.post(environment["AIP_PREDICT_ROUTE"], json={"instances": ["superb " * 2000] * 105})
        assert len(answer.json()["predictions"]) == 105
        log = pod.end()
    assert {request.headers["authorization"] for request in cloud.asked} == {f"Bearer {TOKEN}"}
    assert not [request for request in cloud.asked if "huggingface" in request.target]
    assert TOKEN not in log


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (
            {
                "AIP_STORAGE_URI": "gs://managed-by-vertex/tiny",
                "AIP_PREDICT_ROUTE": "/v1/endpoints/1/deployedModels/2:predict",
            },
            "AIP_PREDICT_ROUTE is '/v1/endpoints/1/deployedModels/2:predict': "
            "the Model's predictRoute must be /v1/models/tiny:predict",
        ),
        ({"NO_GCE_CHECK": "true"}, "gs://managed-by-vertex can't be read: Your default credentials were not found"),
    ],
)
def test_what_it_can_not_do_on_vertex_ai_is_one_line(
    changed: dict[str, str], problem: str, cloud: CloudStorage, release: Path, tmp_path: Path
) -> None:
    cloud.upload(release, "managed-by-vertex/tiny")
    # Google's client may warn before that.
    assert failure([], {**vertex_environment(cloud, str(tmp_path)), **changed}).startswith(f"error: {problem}")
