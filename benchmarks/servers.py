"""Servers that stand still, all of their processes stopped, but while they are measured."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

from benchmarks.load import PROTOCOLS
from benchmarks.model import NAME
from benchmarks.processes import run_module
from nlp_pipeline.serving.torchserve import TorchServe, free_ports

TIMEOUT = 180.0  # seconds until a server must answer
FIRST = "A first text."


@dataclasses.dataclass(frozen=True)
class Server:
    """How a server is started and asked.

    Attributes:
        start: Starts it with an empty folder to write to; returns its first process, which leads a group, and the
            address that predictions are asked for at.
        protocol: The name of one of `load.PROTOCOLS`.
        truncates: Whether it cuts long texts; where it doesn't, they are cut before it is asked.
    """

    start: Callable[[Path], tuple[subprocess.Popen[bytes], str]]
    protocol: str = "v1"
    truncates: bool = True


def torchserve(release: Path) -> Server:
    """Returns TorchServe on a release."""

    def start(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
        server = TorchServe(release.absolute(), NAME, folder)
        return server.process, server.address

    return Server(start)


def command_server(
    command: Callable[[int], Sequence[str | Path]],
    environment: Mapping[str, str] | None = None,
    path: str = f"/v1/models/{NAME}:predict",
    working_folder: Path | None = None,
    **properties: Any,
) -> Server:
    """Returns a server that a command starts, which is made for a port, with further properties of a `Server`."""

    def start(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
        (port,) = free_ports(1)
        with (folder / "server.log").open("wb") as log:
            process = subprocess.Popen(
                [str(word) for word in command(port)],
                cwd=working_folder or folder,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return process, f"http://127.0.0.1:{port}{path}"

    return Server(start, **properties)


class Running:
    """A server's processes: started where this is entered as a context, and ended where that is left.

    They are stopped as soon as the first text is answered; `seconds` is how long that took.
    """

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder = server, folder.absolute()

    def __enter__(self) -> Self:
        """Starts the server, waits for the first answer, and stops it."""
        self.folder.mkdir(parents=True)
        began = time.monotonic()
        self.process, self.address = self.server.start(self.folder)
        try:
            self.wait_for_answer(began + TIMEOUT)
        except BaseException:
            self.__exit__()
            raise
        self.seconds = time.monotonic() - began
        self.signal(signal.SIGSTOP)
        return self

    def wait_for_answer(self, until: float) -> None:
        """Waits until a text is answered; RuntimeError, with the log's last line, where the server ends, or is late."""
        protocol = PROTOCOLS[self.server.protocol]
        body = json.dumps(protocol.request([FIRST]))
        # Proxies of the environment are for other machines.
        with httpx.Client(timeout=TIMEOUT, trust_env=False) as client:
            while time.monotonic() < until and self.process.poll() is None:
                with contextlib.suppress(httpx.HTTPError, ValueError, LookupError, TypeError):
                    answer = client.post(self.address, content=body, headers={"Content-Type": "application/json"})
                    if answer.status_code == 200 and len(protocol.predictions(answer.json())) == 1:
                        return
                time.sleep(0.05)
        late = f"did not answer within {TIMEOUT:.0f} s"
        what = late if self.process.returncode is None else f"ended with status {self.process.returncode}"
        log = (self.folder / "server.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise RuntimeError(f"it {what}; the last line of its log: {log[-1] if log else '(nothing)'}")

    def __exit__(self, *_: object) -> None:
        """Kills all of the server's processes: there is nothing to save."""
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to all of the server's processes."""
        os.killpg(self.process.pid, number)

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Lets the server run while inside."""
        self.signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.signal(signal.SIGSTOP)

    def load(self, requests: Path, clients: int, *seconds: float) -> Any:
        """Loads the server by a process of its own, for what `benchmarks.load` takes, and returns what that prints."""
        with self.awake():
            return run_module("load", self.address, self.server.protocol, requests, clients, *seconds)

    def peak_memory(self) -> float:
        """Returns the most memory that the server's processes have had, each for itself, in MB.

        It counts a page once for each process that has it; the processes share little but the C library.
        """
        kilobytes = 0
        for pid in group_members(self.process.pid):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
                    if line.startswith("VmHWM:"):
                        kilobytes += int(line.split()[1])
        return kilobytes / 1000


def group_members(group: int) -> list[int]:
    """Returns the ids of the processes of a group that still run."""
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            # The first process of a container may be slow to bury the dead.
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process.pid)
    return members
