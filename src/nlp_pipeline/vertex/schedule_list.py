"""`--schedules` on Vertex AI: the schedules of a project and region."""

from datetime import UTC, datetime
from typing import Any

from nlp_pipeline.errors import UsageError
from nlp_pipeline.platforms.cron import next_times
from nlp_pipeline.platforms.schedules import write_time
from nlp_pipeline.vertex.connection import Connection
from nlp_pipeline.vertex.cron import as_vertex_reads
from nlp_pipeline.vertex.runs import recent_runs
from nlp_pipeline.vertex.schedules import every_schedule, id_of, labels
from nlp_pipeline.vertex.submitting import EXPERIMENT, VERSION

STATUS = {"ACTIVE": "enabled", "PAUSED": "paused", "COMPLETED": "ended"}


def schedules(connection: Connection) -> list[dict[str, Any]]:
    """Lists the schedules, of any pipeline, by name.

    Returns:
        For each: `name`, `cron`, `next` (the next time, in UTC; None where that can't be told or it rests), `status`
        ("enabled", "paused" or "ended"), `version` (its name; empty for those of others), `last_run`, `last_state` and
        `last_time` (of the last run; None where there is none), `id`, `experiment`, `max_concurrency`, `start`, `end`,
        `service_account`, `bucket`, `parameters`, `created`.

    Raises:
        PipelineError: Google refuses or fails.
    """
    found = sorted(every_schedule(connection), key=lambda one: (one.display_name, one.create_time, one.name))
    return [{**told(one, datetime.now(UTC)), **last_run(connection, one)} for one in found]


def told(one: Any, now: datetime) -> dict[str, Any]:
    """Returns what a schedule tells itself; see `schedules`."""
    from google.protobuf.json_format import MessageToDict

    job = one.create_pipeline_job_request.pipeline_job
    config = MessageToDict(type(job).pb(job).runtime_config)
    status = STATUS.get(one.state.name, one.state.name.lower())
    following = one.next_run_time
    if following is None and (cron := as_vertex_reads(one.cron)):
        following = next(iter(next_times(cron, 1, max(now, one.start_time or now))), None)
    return {
        "name": one.display_name,
        "cron": one.cron,
        "next": write_time(following) if following and status == "enabled" else None,
        "status": status,
        "version": labels(one).get(VERSION, ""),
        "id": id_of(one),
        "experiment": labels(one).get(EXPERIMENT, ""),
        "max_concurrency": one.max_concurrent_active_run_count or one.max_concurrent_run_count,
        "start": one.start_time and write_time(one.start_time),
        "end": one.end_time and write_time(one.end_time),
        "service_account": job.service_account,
        "bucket": config.get("gcsOutputDirectory", ""),
        "parameters": config.get("parameterValues", {}),
        "created": one.create_time and write_time(one.create_time),
    }


def last_run(connection: Connection, one: Any) -> dict[str, Any]:
    """Returns the last run that a schedule made; see `schedules`."""
    try:
        runs = recent_runs(connection, 1, of=f"schedule_name={one.name}")
    except UsageError:  # the user may not see runs
        runs = []
    last = runs[0] if runs else {"id": None, "state": None, "created": None}
    return {"last_run": last["id"], "last_state": last["state"], "last_time": last["created"]}
