"""`--runs` and `--wait` on Vertex AI: the recent runs of a project and region, and following one until it ends."""

import datetime
from collections.abc import Iterator
from functools import partial
from graphlib import TopologicalSorter
from itertools import islice
from typing import Any

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.platforms import waiting
from nlp_pipeline.platforms.waiting import LOG_LINES, Progress, seconds_between
from nlp_pipeline.settings import Settings
from nlp_pipeline.vertex.connection import Connection, connect
from nlp_pipeline.vertex.pipelines import EXPERIMENT, VERSION, get_run, run_url
from nlp_pipeline.vertex.steps.api import one_line

# Without the pipeline itself, which is long.
FIELDS = ("name", "display_name", "state", "create_time", "end_time", "labels")
# What KFP calls in another way; a step that was answered from the cache is SKIPPED.
STATES = {"CANCELLED": "CANCELED", "CANCELLING": "CANCELING", "QUEUED": "PENDING"}
# The step that comes first behind the gate.
BEHIND_GATE = "archive_model"


def state_of(run: Any) -> str:
    """Returns a run's state, as KFP calls it."""
    state = str(run.state.name).removeprefix("PIPELINE_STATE_")
    return STATES.get(state, state)


def runs(settings: Settings, count: int, only: Any = None) -> list[dict[str, Any]]:
    """Returns so many runs that were made last in a project and region; `only` is a filter of the API's.

    Returns:
        Newest first, each with `id`, `name`, `state` (as KFP calls it), `created` (ISO 8601, UTC), `seconds` (None
        while it is not over), `experiment` and `version` (of the pipeline; both empty for runs of others).
    """
    connection = connect(settings)
    request: dict[str, Any] = {"parent": connection.parent, "filter": only or "", "order_by": "create_time desc"}
    request |= {"page_size": min(count, 100), "read_mask": {"paths": FIELDS}}
    listing = connection.service("Pipeline").list_pipeline_jobs

    def list_last(timeout: float) -> list[Any]:
        return list(islice(listing(request=request, timeout=timeout), count))

    return [
        {
            "id": run.name.rpartition("/")[2],
            "name": run.display_name,
            "state": state_of(run),
            "created": run.create_time.astimezone(datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds_between(run.create_time, run.end_time) or 0) if run.end_time else None,
            "experiment": run.labels.get(EXPERIMENT, ""),
            "version": run.labels.get(VERSION, ""),
        }
        for run in connection.call("listing runs", list_last)
    ]


def wait(settings: Settings, run_id: str, timeout: float | None) -> dict[str, Any]:
    """Follows a run until it ends; see `platforms.waiting.follow`."""
    connection = connect(settings)

    def read() -> Progress:
        return read_progress(get_run(connection, run_id, repeat=False))

    url = run_url(connection, run_id)
    return waiting.follow(read, partial(end_of_log, connection), run_id, url, timeout, "Vertex AI")


def retry(settings: Settings, run_id: str, dry_run: bool) -> dict[str, Any]:
    """Raises UsageError: there is no such thing."""
    raise UsageError(f"--retry: Vertex AI can't let a run go on, such as {run_id}: start another with --submit")


def task_details(run: Any) -> dict[str, Any]:
    """Returns what the API says of a run's tasks, by name in an order in which they may run; None where it is silent.

    Groups are left out. The API may call a task by its display name.
    """
    from google.protobuf.json_format import MessageToDict

    spec = MessageToDict(type(run).pb(run).pipeline_spec)
    details = {detail.task_name: detail for detail in run.job_detail.task_details}

    def details_in(dag: Any) -> Iterator[tuple[str, Any]]:
        tasks = dag["tasks"]
        before = {name: sorted(tasks[name].get("dependentTasks", [])) for name in sorted(tasks)}
        for name in TopologicalSorter(before).static_order():
            component = spec["components"][tasks[name]["componentRef"]["name"]]
            if "dag" in component:
                yield from details_in(component["dag"])
            else:
                display_name = tasks[name].get("taskInfo", {}).get("name", name)
                yield name, details.get(name, details.get(display_name))

    return dict(details_in(spec["root"]["dag"]))


def read_progress(run: Any) -> Progress:
    """Reads how far a run is, from what the API says of it."""
    state, details = state_of(run), task_details(run)
    progress = Progress(
        run_id=run.name.rpartition("/")[2],
        name=run.display_name,
        state=state,
        seconds=seconds_between(run.create_time, run.end_time) or 0.0,
        all_steps=tuple(name.replace("-", "_") for name in details),
    )
    for step, detail in zip(progress.all_steps, details.values(), strict=True):
        if detail is None or detail.state.name in ("STATE_UNSPECIFIED", "NOT_TRIGGERED"):
            continue
        state = {"SKIPPED": "SUCCEEDED", **STATES}.get(detail.state.name, detail.state.name)
        progress.steps[step] = (state, seconds_between(detail.start_time or detail.create_time, detail.end_time))
        jobs = (detail.executor_detail.container_detail.main_job, detail.executor_detail.custom_job_detail.job)
        progress.jobs[step] = [job.rpartition("/")[2] for job in jobs if job]
        progress.errors[step] = one_line(detail.error.message)
    if progress.state == "SUCCEEDED" and BEHIND_GATE in progress.all_steps:
        progress.gate_passed = BEHIND_GATE in progress.steps
    return progress


def end_of_log(connection: Connection, progress: Progress, step: str) -> str:
    """Returns the last lines that a step printed, or else, where Cloud Logging does not give them, why it failed."""
    lines: list[str] = []
    for job in progress.jobs[step]:
        query = {
            "resourceNames": [f"projects/{connection.project}"],
            "filter": f'resource.type="ml_job" AND resource.labels.job_id="{job}"',
            "orderBy": "timestamp desc",
            "pageSize": LOG_LINES,
        }
        try:
            answer = connection.ask("reading the log", "logging", "/v2/entries:list", body=query)
        except PipelineError:
            continue  # that is shown besides; what failed is reported in any case
        for entry in reversed(answer.get("entries", [])):
            lines += str(entry.get("textPayload") or entry.get("jsonPayload", {}).get("message", "")).splitlines()
    return "\n".join(lines[-LOG_LINES:]) or progress.errors[step]
