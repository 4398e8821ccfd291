"""Shows how far a local run is: a live line on a terminal, plain lines elsewhere, all of it on stderr."""

import io
import re
import time
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
STARTED = re.compile(r"- INFO - Executing task '(?P<task>[^']+)'")
ENDED = re.compile(r"- (INFO|ERROR) - Task '(?P<task>[^']+)' finished with status (?P<status>\w+)")
RAISED = re.compile(r"^(?:[\w.]+\.)?[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Killed): (?P<message>.*)$")


class Progress(io.TextIOBase):
    """Takes what kfp.local prints, which has no events: its own lines and those of the steps.

    Everything goes to a log file; of it, the user sees when a step starts and ends, and what the step itself says.
    """

    def __init__(self, log: Path, stream: TextIO, debug: bool = False) -> None:
        self.debug = debug  # tracebacks are shown too
        self.console = Console(file=stream, highlight=False)
        self.log = log.open("w", encoding="utf-8", buffering=1)
        self.live: Live | None = None
        self.step = ""  # the one that runs
        self.seconds: dict[str, float] = {}  # how long each finished step took
        self.error_messages: dict[str, str] = {}  # of the last error that each step raised
        self.started = 0.0
        self.partial_line = ""
        self.in_traceback = False

    def write(self, text: str) -> int:
        """Takes what is printed, in pieces of any size."""
        *lines, self.partial_line = (self.partial_line + text).split("\n")
        for line in lines:
            self._take_line(COLOURS.sub("", line))
        return len(text)

    def _take_line(self, line: str) -> None:
        self.log.write(line + "\n")
        if started := STARTED.search(line):
            self.begin(started["task"].replace("-", "_"))
        elif ended := ENDED.search(line):
            self.end(ended["status"] == "SUCCESS")
        elif line.startswith("    ") and line.strip() and self.step:  # a step's, which kfp.local indents
            self._take_step_line(line[4:])

    def _take_step_line(self, line: str) -> None:
        error = RAISED.match(line)
        if error:
            self.error_messages[self.step] = error["message"]
        # The log has the whole of a traceback; its last line is shown once the step has failed.
        in_traceback = self.in_traceback or line.startswith("Traceback (most recent call last)")
        self.in_traceback = in_traceback and not error
        if self.debug or not in_traceback:
            self._show(line)

    def begin(self, step: str) -> None:
        """Notes that a step starts."""
        self.step, self.started, self.in_traceback = step, time.monotonic(), False
        if self.console.is_terminal:
            # By default a live line takes stdout over, which is where this object is written to.
            self.live = Live(console=self.console, transient=True, redirect_stdout=False, redirect_stderr=False)
            self.live.start()
            self._show("")
        else:
            self.console.print(f"{step} ...", markup=False, soft_wrap=True)

    def _show(self, line: str) -> None:
        if self.live:
            text = Text(f"{self.step:<18} {line.strip()}", no_wrap=True, overflow="ellipsis")
            self.live.update(Spinner("dots", text), refresh=True)
        else:
            self.console.print(f"  {line}", markup=False, soft_wrap=True)

    def end(self, succeeded: bool) -> None:
        """Notes that the step has ended."""
        seconds = self.seconds[self.step] = time.monotonic() - self.started
        if self.console.is_terminal:
            self._stop_live()
            mark = "[green]✓[/]" if succeeded else "[red]✗[/]"
            self.console.print(f"{mark} {self.step:<18} {seconds:6.1f} s")
        else:
            verb = "done" if succeeded else "failed"
            self.console.print(f"{self.step} {verb} after {seconds:.1f} s", markup=False, soft_wrap=True)
        self.step = ""

    def _stop_live(self) -> None:
        if self.live:
            self.live.stop()
            self.live = None

    def close(self) -> None:
        """Takes the live line off the terminal and closes the log."""
        self._stop_live()
        self.log.close()
        super().close()
