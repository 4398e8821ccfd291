"""The processes that a command starts: their environment, and that none of them outlives the command."""

import contextlib
import os
import signal
import uuid
from collections.abc import Iterator

MARK = "NLP_PIPELINE_COMMAND"
# After so long, what does not end is killed.
GRACE_SECONDS = 10.0


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Sets environment variables while inside."""
    former = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in former.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def nothing_left_running() -> Iterator[None]:
    """Ends, on leaving, every process that was started inside, whatever the reason for leaving.

    A step is a shell, a Python and maybe a TorchServe, each of which may have lost its parent by then. So they are
    found by a mark in their environment. SIGTERM, and the SIGHUP of a terminal that is closed, become KeyboardInterrupt
    as SIGINT does, so that they leave this way too.
    """
    mark = uuid.uuid4().hex
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    former = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        with environment(**{MARK: mark}):
            yield
    finally:
        for number in former:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not cut this short
        _end_marked(mark)
        for number, handler in former.items():
            signal.signal(number, handler)


def _end_marked(mark: str) -> None:
    import psutil

    def marked() -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                    yield process

    running = list(marked())
    for process in running:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    psutil.wait_procs(running, timeout=GRACE_SECONDS)
    for process in marked():
        with contextlib.suppress(psutil.Error):
            process.kill()
