"""Boots our own server (`server.py`) on a release, on a port of localhost, and ends it again."""

import http.client
import importlib.util
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from nlp_pipeline.serving.torchserve import ServerProcess, free_ports


def is_installed() -> bool:
    """Tells whether this Python has what the server needs."""
    return all(importlib.util.find_spec(name) for name in ("kserve", "onnxruntime", "tokenizers"))


class OnnxServer(ServerProcess):
    """Our own server, by HTTP alone."""

    title = "the server"

    def __init__(self, release: Path, model_name: str, folder: Path, port: int = 0) -> None:
        self.port = port or free_ports(1)[0]
        self.model_name = model_name
        self.address = f"http://127.0.0.1:{self.port}/v1/models/{model_name}:predict"
        command = [sys.executable, "-m", "nlp_pipeline.serving.server", "--model_dir", str(release)]
        command += ["--host", "127.0.0.1", "--http_port", str(self.port), "--enable_grpc", "false"]
        self.start(command, folder, dict(os.environ))

    def is_ready(self) -> bool:
        """Tells whether it listens, which it does when the model has answered."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", f"/v2/models/{self.model_name}/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def drain(self, seconds: float) -> None:
        """Lets it answer what it has, so many seconds at most, and end."""
        self.process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
