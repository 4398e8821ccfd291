"""Makes sure that nothing that a command has started outlives it."""

import contextlib
import os
import signal
import uuid
from collections.abc import Iterator
from types import FrameType

MARK = "NLP_PIPELINE_COMMAND"


@contextlib.contextmanager
def nothing_left_running() -> Iterator[None]:
    """Ends, on leaving, every process that was started inside, whatever the reason for leaving.

    A step is a shell, a Python and maybe a TorchServe, each of which may have lost its parent by then. So they are
    found by a mark in their environment. SIGTERM, and the SIGHUP of a terminal that is closed, are made exceptions, as
    SIGINT is, so that they leave this way too.
    """
    mark = uuid.uuid4().hex
    former = os.environ.get(MARK)
    os.environ[MARK] = mark
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    former_handlers = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C shall not cut this short
        end_marked(mark)
        for number, handler in former_handlers.items():
            signal.signal(number, handler)
        if former is None:
            del os.environ[MARK]
        else:
            os.environ[MARK] = former


def interrupt(number: int, frame: FrameType | None) -> None:
    """Turns a signal into a KeyboardInterrupt."""
    raise KeyboardInterrupt


def end_marked(mark: str, grace: float = 10) -> None:
    """Ends the processes whose environment has a mark, this one excepted, and waits until they are gone.

    Args:
        mark: The mark.
        grace: Seconds before what is left is killed.
    """
    import psutil

    def marked() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                    found.append(process)
        return found

    left = marked()
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    psutil.wait_procs(left, timeout=grace)
    for process in marked():
        with contextlib.suppress(psutil.Error):
            process.kill()
