"""`--wait`: follows a run until it ends; a server that goes away for a while is waited for.

What is shown of a run and how its end is told is the same wherever it is; what a run of Kubeflow's says is read here.
"""

import datetime
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nlp_pipeline.client.calls import NotFoundError
from nlp_pipeline.client.connection import Connection
from nlp_pipeline.client.submitting import run_url
from nlp_pipeline.errors import GateNotPassedError, PipelineError, TimedOutError, UsageError
from nlp_pipeline.local import STEPS

ALL_STEPS = (*STEPS, "deploy_model")
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
POLL_SECONDS = 5.0
# For so long a server may be away, as when it is restarted or its node drained.
PATIENCE_SECONDS = 900.0
LOG_LINES = 20


class NoRunError(UsageError):
    """There is no such run."""


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        run_id: Its id.
        name: Its name.
        state: Its state, as KFP calls it.
        canceled: Whether someone has asked for its end.
        seconds: How long it has run, or did.
        steps: State and seconds (None where unknown) of the steps that have begun, by their names.
        gate_passed: Whether the gate let the model pass; None where that is not known yet.
        pods: Names that the pod of each step may have, or on Vertex AI its job.
        all_steps: The names of all steps, in the order in which they are shown.
        errors: What the server itself says of steps that failed.
    """

    run_id: str
    name: str
    state: str
    canceled: bool
    seconds: float
    steps: dict[str, tuple[str, float | None]] = field(default_factory=dict)
    gate_passed: bool | None = None
    pods: dict[str, list[str]] = field(default_factory=dict)
    all_steps: tuple[str, ...] = ALL_STEPS
    errors: dict[str, str] = field(default_factory=dict)


def seconds_between(start: Any, end: Any) -> float | None:
    """Returns the seconds between two times of the API; to now where the end has not come (it is 1970 then)."""
    if start is None or start.year < 2000:
        return None
    last = end if end is not None and end.year >= 2000 else datetime.datetime.now(datetime.UTC)
    return float(max(0.0, (last - start).total_seconds()))


def read_progress(run: Any) -> Progress:
    """Reads how far a run is.

    Args:
        run: What the API says of it. Its task details are nodes of Argo's workflow, in no order: a step is the node of
            its name, others (`<step>-driver`, `executor`, `root`) are Argo's own.
    """
    nodes = {one.display_name: one for one in (run.run_details and run.run_details.task_details) or []}
    history = [one.state for one in run.state_history or []]
    progress = Progress(
        run_id=run.run_id,
        name=run.display_name,
        state=run.state or "PENDING",
        canceled=run.state == "CANCELED" or "CANCELING" in history,
        seconds=seconds_between(run.created_at, run.finished_at) or 0.0,
    )
    for step in ALL_STEPS:
        if (node := nodes.get(step.replace("_", "-"))) is not None and node.state:
            progress.steps[step] = (node.state, seconds_between(node.start_time or node.create_time, node.end_time))
            nodes_below = [one.pod_name for one in node.child_tasks or [] if one.pod_name]
            progress.pods[step] = list(chain.from_iterable(pod_names(one) for one in nodes_below))
    # The first condition is the gate's; what stands behind it has no nodes where it is skipped.
    if (gate := nodes.get("condition-1")) is not None and gate.state in ENDED:
        progress.gate_passed = gate.state != "SKIPPED"
    return progress


def pod_names(node: str) -> list[str]:
    """Returns the names that the pod of a node may have.

    Args:
        node: The node's id, as in `nlp-pipeline-x7k2f-1793831555`, which older versions of Argo call the pod by.
    """
    workflow, _, number = node.rpartition("-")
    return [f"{workflow}-system-container-impl-{number}", node]


def show_table(progress: Progress) -> Table:
    """Returns a run's steps as a table."""
    table = Table("step", "state", "seconds", box=None, pad_edge=False, header_style="bold")
    table.columns[2].justify = "right"
    for step in progress.all_steps:
        state, seconds = progress.steps.get(step, ("", None))
        table.add_row(step, state.lower(), "" if seconds is None else f"{seconds:.0f}")
    table.add_row(Text(progress.state.lower(), style="bold"), "", f"{progress.seconds:.0f}")
    return table


class Display:
    """Shows a run's progress: a live table on a terminal, a line for each change elsewhere.

    Args:
        stream: Where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False)
        self._live: Live | None = None
        self._told: dict[str, str] = {}

    def __enter__(self) -> "Display":
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        """Shows how far the run is."""
        if self._live is not None:
            self._live.update(show_table(progress), refresh=True)
            return
        for step, (state, seconds) in progress.steps.items():
            if self._told.get(step) != state:
                self._told[step] = state
                took = f" after {seconds:.0f} s" if seconds is not None and state in ENDED else ""
                self._console.print(f"{step} {state.lower()}{took}", markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Says something besides."""
        self._console.print(text, markup=False, soft_wrap=True)


def get_run(connection: Connection, run_id: str) -> Any:
    """Returns what the API says of a run.

    Raises:
        NoRunError: There is no such run.
    """
    try:
        return connection.call("reading the run", connection.runs.run_service_get_run, run_id, repeat=False)
    except NotFoundError:
        raise NoRunError(f"there is no run {run_id}: --runs lists them") from None


def follow(connection: Connection, run_id: str, timeout: float | None, stream: TextIO | None = None) -> Progress:
    """Follows a run until it ends.

    Args:
        connection: The connection.
        run_id: The run's id.
        timeout: Seconds to wait at most; None for no limit.
        stream: Where its progress is shown; stderr by default.

    Returns:
        How it ended.

    Raises:
        TimedOutError: It has not ended in time; it goes on.
        PipelineError: Kubeflow has been away for too long.
    """
    return watch(
        lambda: read_progress(get_run(connection, run_id)), run_id, run_url(connection, run_id), timeout, stream
    )


def watch(
    read: Callable[[], Progress],
    run_id: str,
    url: str,
    timeout: float | None,
    stream: TextIO | None = None,
    server: str = "Kubeflow",
) -> Progress:
    """Watches a run until it ends; see `follow`.

    Args:
        read: Asks how far it is.
        run_id: The run's id.
        url: Where it is shown.
        timeout: Seconds to wait at most; None for no limit.
        stream: Where its progress is shown; stderr by default.
        server: Who is asked, for messages.
    """
    until = None if timeout is None else time.monotonic() + timeout
    away_since = None
    comes_back = f"--wait {run_id} comes back to it"
    with Display(stream or sys.stderr) as display:
        while True:
            try:
                progress = read()
            except UsageError as error:
                # Who may not ask now may have asked before.
                text = str(error) if isinstance(error, NoRunError) else f"{error}; the run may go on: {comes_back}"
                raise UsageError(text, {"run_id": run_id}) from None
            except PipelineError as error:
                if away_since is None:
                    away_since = time.monotonic()
                    display.note(f"{error}; trying on for {PATIENCE_SECONDS / 60:.0f} minutes")
                if time.monotonic() - away_since > PATIENCE_SECONDS:
                    raise PipelineError(f"{error}; the run may go on: {comes_back}", {"run_id": run_id}) from None
            else:
                if away_since is not None:
                    display.note(f"{server} is back")
                    away_since = None
                display.show(progress)
                if progress.state in ENDED:
                    return progress
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                facts = {"run_id": run_id, "url": url}
                raise TimedOutError(f"the run has not ended after {timeout:g} s; it goes on: {comes_back}", facts)
            time.sleep(POLL_SECONDS if left is None else min(POLL_SECONDS, left))


def end_of_log(connection: Connection, pods: list[str], run_id: str) -> str:
    """Returns the last lines that a step printed, where Kubeflow's user interface still has them."""
    for pod in pods:
        named = {"podname": pod, "podnamespace": connection.namespace or "kubeflow", "runid": run_id}
        lines = connection.text("/k8s/pod/logs", named).rstrip().splitlines()
        if lines:
            return "\n".join(lines[-LOG_LINES:])
    return ""


def told(connection: Connection, progress: Progress, stream: TextIO | None = None) -> dict[str, Any]:
    """Returns what is told of a run of Kubeflow's that has ended; see `outcome`.

    Args:
        connection: The connection.
        progress: How it ended.
        stream: Where the end of a failed step's log goes; stderr by default.
    """

    def log_of(step: str) -> str:
        return end_of_log(connection, progress.pods[step], progress.run_id)

    return outcome(progress, run_url(connection, progress.run_id), log_of, stream)


def outcome(progress: Progress, url: str, log_of: Callable[[str], str], stream: TextIO | None = None) -> dict[str, Any]:
    """Returns what is told of a run that has ended.

    Args:
        progress: How it ended.
        url: Where it is shown.
        log_of: Returns the end of a step's log; empty where it can't be had.
        stream: Where the end of a failed step's log goes; stderr by default.

    Returns:
        `run_id`, `name`, `url`, `state`, `seconds` and `steps`.

    Raises:
        GateNotPassedError: The gate was not passed.
        PipelineError: It failed, or was canceled.
    """
    facts = {
        "run_id": progress.run_id,
        "name": progress.name,
        "url": url,
        "state": "CANCELED" if progress.canceled else progress.state,
        "seconds": progress.seconds,
        "steps": {step: {"state": state, "seconds": seconds} for step, (state, seconds) in progress.steps.items()},
    }
    if progress.canceled:
        raise PipelineError(f"the run was canceled: {url}", facts)
    if progress.state != "SUCCEEDED":
        failed = next((step for step, (state, _) in progress.steps.items() if state == "FAILED"), "")
        if failed and (log := log_of(failed)):
            print(f"the end of {failed}'s log:\n{log}", file=stream or sys.stderr)
        raise PipelineError(f"{failed or 'the run'} failed: {url}", {**facts, "failed_step": failed})
    if progress.gate_passed is False:
        raise GateNotPassedError(f"the gate is not passed; nothing was archived: {url}", facts)
    return facts
