"""Following a run until it ends: what is shown of it, a server that goes away for a while, and how its end is told."""

import contextlib
import datetime
import math
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nlp_pipeline.errors import GateNotPassedError, PipelineError, StoppedWaitingError, TimedOutError, UsageError
from nlp_pipeline.progress import RAISED
from nlp_pipeline.steps.evaluate_model.gate import NOT_PASSED

ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
POLL_SECONDS = 5.0
# For so long a server may be away, as when it is restarted or its node drained.
PATIENCE_SECONDS = 900.0
# After so long without a change, it is said how to look for its reason.
QUIET_SECONDS = 300.0
LOG_LINES = 20
# Of an error's message, in the line that ends a run.
MESSAGE_LENGTH = 300


class NoRunError(UsageError):
    """There is no such run."""


@dataclass
class Progress:
    """How far a run is, in the states that KFP knows."""

    run_id: str
    name: str
    state: str
    seconds: float
    all_steps: tuple[str, ...]  # in the order in which they are shown
    steps: dict[str, tuple[str, float | None]] = field(default_factory=dict)  # state and seconds of those begun
    gate_passed: bool | None = None  # None where that is not known yet
    jobs: dict[str, list[str]] = field(default_factory=dict)  # names that a step's pod may have, or of its jobs
    errors: dict[str, str] = field(default_factory=dict)  # what the server says of steps; of the run by no name
    notes: list[str] = field(default_factory=list)  # what is to be said besides, each once
    lost: str = ""  # why it will not end, though the server says that it goes on
    look: str = ""  # how people can look for what holds it up; empty where the notes say so


def seconds_between(start: Any, end: Any) -> float | None:
    """Returns the seconds between two times of an API; to now where the end has not come (it is 1970 then)."""
    if start is None or start.year < 2000:
        return None
    last = end if end is not None and end.year >= 2000 else datetime.datetime.now(datetime.UTC)
    return float(max(0.0, (last - start).total_seconds()))


class Display:
    """Shows a run's progress: a live table on a terminal, a line for each change elsewhere."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr, highlight=False)
        live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self.live = live if self._console.is_terminal else None
        self._states: dict[str, str] = {}
        self._notes: set[str] = set()
        self._quiet_since = time.monotonic()

    def show(self, progress: Progress) -> None:
        """Shows how far the run is."""
        changes = {step: state for step, (state, _) in progress.steps.items() if self._states.get(step) != state}
        self._states |= changes
        if self.live is not None:
            self.live.update(_table(progress), refresh=True)
        else:
            for step, state in changes.items():
                seconds = progress.steps[step][1]
                took = f" after {seconds:.0f} s" if seconds is not None and state in ENDED else ""
                self.note(f"{step} {state.lower()}{took}")
        for note in progress.notes:
            if note not in self._notes:
                self._notes.add(note)
                self.note(note)
        now = time.monotonic()
        if changes:
            self._quiet_since = now
        elif progress.look and now - self._quiet_since >= QUIET_SECONDS:
            self._quiet_since = math.inf  # it is said once in a silence
            self.note(f"nothing has changed for {QUIET_SECONDS / 60:.0f} minutes; {progress.look}")

    def note(self, text: str) -> None:
        """Shows a line besides."""
        self._console.print(text, markup=False, soft_wrap=True)


def _table(progress: Progress) -> Table:
    table = Table("step", "state", "seconds", box=None, pad_edge=False, header_style="bold")
    table.columns[2].justify = "right"
    for step in progress.all_steps:
        state, seconds = progress.steps.get(step, ("", None))
        table.add_row(step, state.lower(), "" if seconds is None else f"{seconds:.0f}")
    table.add_row(Text(progress.state.lower(), style="bold"), "", f"{progress.seconds:.0f}")
    return table


def follow(
    read: Callable[[], Progress],
    log_of: Callable[[Progress, str], str],
    run_id: str,
    url: str,
    timeout: float | None,
    server: str,
) -> dict[str, Any]:
    """Follows a run until it ends; shows how far it is, and the end of a failed step's log, on stderr.

    Args:
        read: Asks how far it is.
        log_of: Returns the end of a step's log; empty where it can't be had.
        run_id: The run's id.
        url: Where people see it.
        timeout: Seconds to wait at most; None for no limit.
        server: Who is asked, as the user knows it.

    Returns:
        `run_id`, `name`, `url`, `state`, `seconds`, and `steps` (`state` and `seconds` of those that have begun, by
        name). The error of a run that has ended has them as `facts`, and `failed_step` where it failed.

    Raises:
        TimedOutError: It has not ended in time; it goes on.
        GateNotPassedError: The gate was not passed.
        UsageError: There is no such run, or the server refuses to tell.
        PipelineError: It failed, or was canceled; or the server has been away for too long.
        StoppedWaitingError: The user has pressed Ctrl-C; the run goes on.
    """
    display = Display()
    facts = {"run_id": run_id, "url": url}
    comes_back = f"--wait {run_id} comes back to it"
    try:
        with display.live or contextlib.nullcontext():
            progress = _watch(read, display, server, timeout)
    except KeyboardInterrupt:
        raise StoppedWaitingError(f"the run goes on: {comes_back}", facts) from None
    except PipelineError as error:
        # Who may not ask now may have asked before.
        hint = "" if isinstance(error, NoRunError) else f"; the run may go on: {comes_back}"
        kind = UsageError if isinstance(error, UsageError) else PipelineError
        raise kind(f"{error}{hint}", {"run_id": run_id}) from None
    if progress is None:
        raise TimedOutError(f"the run has not ended after {timeout:g} s; it goes on: {comes_back}", facts)
    return _outcome(progress, url, log_of)


def _watch(read: Callable[[], Progress], display: Display, server: str, timeout: float | None) -> Progress | None:
    """Shows a run until it ends, and returns its end; None where that has not come in time."""
    until = time.monotonic() + (math.inf if timeout is None else timeout)
    away_since = None
    while True:
        try:
            progress = read()
        except PipelineError as error:
            if isinstance(error, UsageError) or (away_since and time.monotonic() - away_since > PATIENCE_SECONDS):
                raise
            if away_since is None:
                away_since = time.monotonic()
                display.note(f"{error}; trying on for {PATIENCE_SECONDS / 60:.0f} minutes")
        else:
            if away_since is not None:
                away_since = None
                display.note(f"{server} is back")
            display.show(progress)
            if progress.state in ENDED or progress.lost:
                return progress
        left = until - time.monotonic()
        if left <= 0:
            return None
        time.sleep(min(POLL_SECONDS, left))


def _outcome(progress: Progress, url: str, log_of: Callable[[Progress, str], str]) -> dict[str, Any]:
    state = progress.state
    steps = {step: {"state": how, "seconds": seconds} for step, (how, seconds) in progress.steps.items()}
    facts: dict[str, Any] = {"run_id": progress.run_id, "name": progress.name, "url": url, "state": state}
    facts |= {"seconds": progress.seconds, "steps": steps}
    if state == "CANCELED":
        raise PipelineError(f"the run was canceled: {url}", facts)
    if state != "SUCCEEDED":
        failed = next((step for step, (how, _) in progress.steps.items() if how == "FAILED"), "")
        message = progress.errors.get(failed, "")
        if failed and (log := log_of(progress, failed)):
            print(f"the end of {failed}'s log:\n{log}", file=sys.stderr)
            raised = [match["message"] for match in map(RAISED.match, log.splitlines()) if match]
            message = raised[-1] if raised else message
        what = progress.lost or f"{failed or 'the run'} failed"
        parts = filter(None, (what, message[:MESSAGE_LENGTH].strip(), url))
        raise PipelineError(": ".join(parts), {**facts, "failed_step": failed})
    if progress.gate_passed is False:
        said = re.findall(rf"^{NOT_PASSED}(.*)", log_of(progress, "evaluate_model"), re.MULTILINE)
        reason = f": {said[-1]}" if said else ""
        raise GateNotPassedError(f"the gate is not passed{reason}; nothing was archived: {url}", facts)
    return facts
