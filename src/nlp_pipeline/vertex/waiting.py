"""`--wait` on Vertex AI: what a run's answer says of its steps, and the end of a failed step's log."""

from collections.abc import Iterator
from functools import partial
from typing import Any, TextIO

from nlp_pipeline.errors import PipelineError
from nlp_pipeline.platforms import waiting
from nlp_pipeline.platforms.waiting import LOG_LINES, Progress, seconds_between
from nlp_pipeline.vertex.connection import Connection
from nlp_pipeline.vertex.failures import one_line
from nlp_pipeline.vertex.runs import STATES, state_of
from nlp_pipeline.vertex.submitting import get_run, run_url

# The step that comes first behind the gate.
BEHIND_GATE = "archive_model"
# States of a task that tell nothing of a step; one that was answered from the cache is SKIPPED.
UNTOLD = ("STATE_UNSPECIFIED", "NOT_TRIGGERED")


def tasks_of(spec: Any, dag: Any) -> Iterator[tuple[str, str]]:
    """Yields the name and the display name of each task that runs something, in an order in which they may run.

    Args:
        spec: The pipeline's spec.
        dag: A graph in it.
    """
    tasks, done = dag["tasks"], set[str]()
    while len(done) < len(tasks):
        name = next(one for one in sorted(tasks) if one not in done and set(needs(tasks[one])) <= done)
        done.add(name)
        component = spec["components"][tasks[name]["componentRef"]["name"]]
        if "dag" in component:
            yield from tasks_of(spec, component["dag"])
        else:
            yield name, tasks[name].get("taskInfo", {}).get("name", name)


def needs(task: Any) -> list[str]:
    """Returns the names of the tasks that a task comes after."""
    return list(task.get("dependentTasks", []))


def task_names(run: Any) -> dict[str, str]:
    """Returns the names of a run's tasks by what the API may call them: that, or their display names.

    Args:
        run: What the API says of the run.
    """
    from google.protobuf.json_format import MessageToDict

    spec, names = MessageToDict(type(run).pb(run).pipeline_spec), {}
    for name, display_name in tasks_of(spec, spec["root"]["dag"]):
        names[display_name] = names[name] = name
    return names


def read_progress(run: Any) -> Progress:
    """Reads how far a run is.

    Args:
        run: What the API says of it.
    """
    state = state_of(run)
    names = {told: name.replace("-", "_") for told, name in task_names(run).items()}
    progress = Progress(
        run_id=run.name.rpartition("/")[2],
        name=run.display_name,
        state=state,
        canceled=state in ("CANCELED", "CANCELING"),
        seconds=seconds_between(run.create_time, run.end_time) or 0.0,
        all_steps=tuple(dict.fromkeys(names.values())),
    )
    details = {names[one.task_name]: one for one in run.job_detail.task_details if one.task_name in names}
    for step in progress.all_steps:
        if step not in details or (told := details[step].state.name) in UNTOLD:
            continue
        one = details[step]
        state = "SUCCEEDED" if told == "SKIPPED" else STATES.get(told, told)
        progress.steps[step] = (state, seconds_between(one.start_time or one.create_time, one.end_time))
        jobs = (one.executor_detail.container_detail.main_job, one.executor_detail.custom_job_detail.job)
        progress.jobs[step] = [job.rpartition("/")[2] for job in jobs if job]
        progress.errors[step] = one_line(one.error.message)
    if progress.state == "SUCCEEDED" and BEHIND_GATE in progress.all_steps:
        progress.gate_passed = BEHIND_GATE in progress.steps
    return progress


def follow(connection: Connection, run_id: str, timeout: float | None, stream: TextIO | None = None) -> dict[str, Any]:
    """Follows a run until it ends; see `platforms.waiting`.

    Args:
        connection: The connection.
        run_id: The run's id.
        timeout: Seconds to wait at most; None for no limit.
        stream: Where its progress is shown; stderr by default.

    Returns:
        What is told of its end.

    Raises:
        PipelineError: It has not ended in time, it failed, or the gate was not passed; see errors.py.
    """
    url = run_url(connection, run_id)

    def read() -> Progress:
        return read_progress(get_run(connection, run_id, repeat=False))

    return waiting.follow(read, partial(end_of_log, connection), run_id, url, timeout, "Vertex AI", stream)


def end_of_log(connection: Connection, progress: Progress, step: str) -> str:
    """Returns the last lines that a step printed, or else, where Cloud Logging does not give them, why it failed."""
    lines: list[str] = []
    for job in progress.jobs[step]:
        wanted = {
            "resourceNames": [f"projects/{connection.project}"],
            "filter": f'resource.type="ml_job" AND resource.labels.job_id="{job}"',
            "orderBy": "timestamp desc",
            "pageSize": LOG_LINES,
        }
        try:
            answer = connection.ask("reading the log", "logging", "/v2/entries:list", body=wanted)
        except PipelineError:
            continue  # that is shown besides; what failed is told in any case
        for entry in reversed(answer.get("entries", [])):
            lines += str(entry.get("textPayload") or entry.get("jsonPayload", {}).get("message", "")).splitlines()
    return "\n".join(lines[-LOG_LINES:]) or progress.errors[step]
