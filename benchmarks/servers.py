"""A TorchServe that stands still, all of its processes stopped, but while it is measured."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import psutil

from benchmarks.model import NAME
from nlp_pipeline.errors import PipelineError
from nlp_pipeline.serving.torchserve import TorchServe


def group_members(group: int) -> list[int]:
    """Returns the ids of the processes of a group that still run."""
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            # The first process of a container may be slow to bury the dead.
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process.pid)
    return members


class Server:
    """A server on a release, booted where it is entered as a context, in `seconds`, and ended where that is left."""

    def __init__(self, release: Path, folder: Path) -> None:
        self.release, self.folder = release, folder

    def __enter__(self) -> Self:
        """Boots the server and stops it as soon as it is ready."""
        self.folder.mkdir(parents=True)
        began = time.monotonic()
        self.server = TorchServe(self.release.absolute(), NAME, self.folder.absolute())
        try:
            self.server.wait_until_ready(120)
        except (PipelineError, KeyboardInterrupt) as error:
            self.server.stop()
            raise PipelineError(f"{error}; the end of its log: {self.server.log_tail(1)}") from None
        self.seconds = time.monotonic() - began
        self.signal(signal.SIGSTOP)
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the server."""
        self.server.stop()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to all of the server's processes."""
        os.killpg(self.server.process.pid, number)

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """Lets the server run while inside; gives the model's address."""
        self.signal(signal.SIGCONT)
        try:
            yield self.server.address
        finally:
            self.signal(signal.SIGSTOP)

    def peak_memory(self) -> float:
        """Returns the most memory that the server's processes have had, each for itself, in MB.

        It counts a page once for each process that has it; the processes share little but the C library.
        """
        kilobytes = 0
        for pid in group_members(self.server.process.pid):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
                    if line.startswith("VmHWM:"):
                        kilobytes += int(line.split()[1])
        return kilobytes / 1000
