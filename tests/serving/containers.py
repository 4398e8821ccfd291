"""The TorchServe image's entry point as a process of its own."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nlp_pipeline.serving.runtime import PORTS
from nlp_pipeline.serving.torchserve import free_ports, group_members

COMMAND = [sys.executable, "-m", "nlp_pipeline.serving.runtime"]


def chosen_ports() -> dict[str, str]:
    """Returns variables that give the server free ports."""
    return {name: str(port) for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)}


@dataclass
class Container:
    """The running entry point."""

    process: subprocess.Popen[bytes]
    environment: Mapping[str, str]
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def probe(self, model: str = "tiny") -> subprocess.CompletedProcess[str]:
        """Asks as the readiness probe does."""
        return subprocess.run([*COMMAND, "--ready", model], env=self.environment, capture_output=True, text=True)

    def polls(self, seconds: float = 60) -> Iterator[None]:
        """Yields every now and then, and fails where the server has ended or the time is over."""
        until = time.monotonic() + seconds
        while True:
            assert self.process.poll() is None and time.monotonic() < until, self.log
            yield
            time.sleep(0.2)

    def end(self) -> None:
        """Makes sure that a SIGTERM ends the server, and all that it started."""
        self.process.terminate()
        assert self.process.wait(timeout=60) == 128 + 15
        until = time.monotonic() + 60
        while group_members(self.process.pid):
            assert time.monotonic() < until
            time.sleep(0.05)


@contextlib.contextmanager
def container(arguments: list[str], environment: Mapping[str, str], log_file: Path) -> Iterator[Container]:
    """Runs the entry point, leader of a process group, while inside."""
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


def failure(arguments: list[str], environment: Mapping[str, str]) -> str:
    """Runs the entry point, which must fail, and returns the line that ends its stderr."""
    done = subprocess.run([*COMMAND, *arguments], env=environment, cwd="/", capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "" and "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]
