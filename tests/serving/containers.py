"""The TorchServe image's entry point as a process of its own."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from nlp_pipeline.serving.torchserve import group_members

COMMAND = [sys.executable, "-m", "nlp_pipeline.serving.runtime"]


@contextlib.contextmanager
def container(arguments: list[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs the entry point, leader of a process group, while inside."""
    with log.open("wb") as file:
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
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
        process.wait()


def probe(model: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Asks as the readiness probe does."""
    return subprocess.run([*COMMAND, "--ready", model], env=environment, capture_output=True, text=True)


def end(process: subprocess.Popen[bytes]) -> None:
    """Makes sure that a SIGTERM ends the server, and all that it started."""
    process.terminate()
    assert process.wait(timeout=10) == 128 + 15
    until = time.monotonic() + 5
    while group_members(process.pid):
        assert time.monotonic() < until
        time.sleep(0.05)
