"""Nothing that a command has started outlives it: shown with processes that try to."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from nlp_pipeline import processes
from nlp_pipeline.processes import MARK, nothing_left_running

# A shell that is gone at once, and leaves behind a process that is nobody's child and ignores SIGTERM.
ORPHAN = (
    f"{sys.executable} -c 'import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    'open(sys.argv[1], "w").write(str(os.getpid())); time.sleep(600)\' {path} >/dev/null 2>&1 &'
)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def started_orphan(path: Path) -> psutil.Process:
    subprocess.run(["sh", "-c", ORPHAN.format(path=path)], start_new_session=True, check=True)
    wait_for(lambda: path.exists() and path.read_text() != "")
    return psutil.Process(int(path.read_text()))


def test_ends_what_lost_its_parent_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.3)
    outside = started_orphan(tmp_path / "outside")
    try:
        with pytest.raises(RuntimeError, match="a step failed"), nothing_left_running():
            inside = started_orphan(tmp_path / "inside")
            assert inside.is_running()
            raise RuntimeError("a step failed")
        wait_for(lambda: not inside.is_running() or inside.status() == psutil.STATUS_ZOMBIE)
        assert outside.is_running()
        assert MARK not in os.environ
    finally:
        outside.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_leave_by_the_same_way(number: signal.Signals) -> None:
    code = (
        "import subprocess, sys, time\nfrom nlp_pipeline.processes import nothing_left_running\n"
        "with nothing_left_running():\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "    print(child.pid, flush=True)\n    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(number)
        parent.wait(timeout=30)
    wait_for(lambda: not child.is_running())
