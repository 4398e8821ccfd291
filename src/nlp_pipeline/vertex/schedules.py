"""`--schedule`, `--schedules`, `--unschedule`, `--pause` and `--resume` on Vertex AI.

The schedule of a name is edited in place. What the API does not let be changed (a start or an end can't be taken away,
nor can what is completed be begun anew) is replaced: a new one is made before the former is removed. Its runs' labels
hold a digest of what was asked for, as the API may say that in other words.
"""

import hashlib
import json
import re
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from nlp_pipeline.errors import UsageError
from nlp_pipeline.pipeline.compiling import compile_pipeline
from nlp_pipeline.platforms import cron as platform_cron
from nlp_pipeline.platforms.calls import NotFoundError, make_once
from nlp_pipeline.platforms.cron import Cron, refusal
from nlp_pipeline.platforms.schedules import (
    SHOWN,
    ScheduleOptions,
    Timing,
    note_of_start,
    remove_older,
    report_switch,
    unknown_schedule,
    write_time,
)
from nlp_pipeline.settings import Settings
from nlp_pipeline.vertex.connection import Connection, connect
from nlp_pipeline.vertex.pipelines import EXPERIMENT, VERSION, build_run, check_parameters
from nlp_pipeline.vertex.runs import list_runs

CONTENT, REQUEST = "nlp-pipeline-content", "nlp-pipeline-request"
ACTIVE, PAUSED, COMPLETED = "ACTIVE", "PAUSED", "COMPLETED"
STATUS = {ACTIVE: "enabled", PAUSED: "paused", COMPLETED: "ended"}
# What is compared, and changed, besides what its runs are.
FIELDS = ("cron", "max_concurrent_run_count", "max_concurrent_active_run_count")
ZONED = re.compile(r"\s*(?:(?:CRON_)?TZ=(\S*)\s+)?(.*)", re.DOTALL)


def read_cron(text: str) -> Cron:
    """Reads a cron expression as Kubeflow's is read, whose first field must be 0; a time zone may stand before it.

    Both platforms read fields as github.com/robfig/cron does, so that they mean the same on both.
    """
    match = ZONED.fullmatch(text)
    zone, fields = match.groups("UTC") if match else ("UTC", text)
    cron = platform_cron.read_cron(fields)
    if cron.evaluated.split()[0] != "0":
        raise refusal(text, 'Vertex AI knows no seconds: write 0 for the first field, as in "0 0 2 * * *"')
    try:
        ZoneInfo(zone)
    except (LookupError, ValueError, OSError):
        raise refusal(text, f"there is no time zone {zone!r}: write it as in TZ=Europe/Berlin") from None
    return replace(cron, expression=f"TZ={zone} {' '.join(cron.expression.split()[1:])}", zone=zone)


def label(schedule: Any, name: str) -> str:
    """Returns a label that a schedule gives its runs; empty where there is none."""
    return str(schedule.create_pipeline_job_request.pipeline_job.labels.get(name, ""))


def id_of(schedule: Any) -> str:
    """Returns a schedule's id."""
    return str(schedule.name.rpartition("/")[2])


def list_schedules(connection: Connection, name: str | None = None) -> list[Any]:
    """Returns the schedules of pipelines, or those of a name, oldest first."""
    # Few at once, as each has its runs' whole pipeline in it.
    request = {"parent": connection.parent, "filter": "create_pipeline_job_request:*", "page_size": 20}
    every = connection.call("listing schedules", connection.service("Schedule").list_schedules, request=request)
    own = [item for item in every if name in (None, item.display_name)]
    return sorted(own, key=lambda item: (item.create_time, item.name))


def find_schedules(connection: Connection, name: str) -> list[Any]:
    """Returns the schedules of a name, oldest first; raises UsageError where there is none."""
    own = list_schedules(connection, name)
    if not own:
        raise unknown_schedule(name, {item.display_name for item in list_schedules(connection)})
    return own


def schedule(settings: Settings, options: ScheduleOptions, values: dict[str, Any], dry_run: bool) -> dict[str, Any]:
    """Schedules the pipeline: makes the schedule of a name, or changes it, where it is not as wanted already.

    A schedule that was paused stays so.

    Returns:
        What `--json` prints: `name`, `action` ("created", "updated", "replaced" or "unchanged"), `dry_run`, `id`,
        `status`, `cron`, `became` (whether five fields became these), `next` (times in UTC), `replaced` (the ids of
        those that were removed), `note`, and the arguments.

    Raises:
        UsageError: Something is wrong.
        PipelineError: Google refuses or fails. No schedule is lost: where a new one was made, and the former could not
            be removed, both are there, until the next call removes the former.
    """
    now, name = datetime.now(UTC), options.name
    if options.catch_up:
        raise UsageError("--catch-up: on Vertex AI missed runs are made up for only by resuming in the console")
    if len(name) > 128:
        raise UsageError(f"--schedule-name {name[:20]}... has {len(name)} characters: Vertex AI takes 128 at most")
    check_parameters(values)
    timing = options.read(read_cron, "Vertex AI", now)
    connection = connect(settings)
    connection.check_bucket()
    wanted = build_schedule(connection, timing, values, now)
    own = list_schedules(connection, name)
    former = own[-1] if own else None
    action = choose_action(former, wanted, now)
    kept, older = (former, own[:-1]) if action in ("updated", "unchanged") else (None, own)
    paused = former is not None and former.state.name == PAUSED
    notes = [
        timing.cron.note,
        note_of_start(timing, former is not None, now) if action != "unchanged" else "",
        f"it was paused and stays so: --resume {name}" if paused else "",
        f"older ones of this name go: {len(older)}" if older and action != "replaced" else "",
    ]
    if not dry_run:
        kept = carry_out(connection, wanted, kept, action)
        if paused and kept.state.name != PAUSED:
            switch(connection, name, [kept], "paused", dry_run)
        remove_older(name, action, id_of(kept), [id_of(item) for item in older], partial(remove, connection, name))
    return {
        "name": name,
        "action": action,
        "dry_run": dry_run,
        "id": id_of(kept) if kept else None,
        "became": timing.cron.became,
        "next": [] if paused else [write_time(time) for time in timing.times(SHOWN, now)],
        "replaced": [id_of(item) for item in older],
        "note": "; ".join(filter(None, notes)),
        **describe(wanted),
        "status": "paused" if paused else "enabled",
        "start": timing.start and write_time(timing.start),
        "end": timing.end and write_time(timing.end),
    }


def build_schedule(connection: Connection, timing: Timing, values: dict[str, Any], now: datetime) -> Any:
    """Returns a schedule as it is wanted, that has not been sent."""
    from google.cloud import aiplatform_v1

    # The runs' own ids and names are the API's to give.
    ir = compile_pipeline(connection.settings.image or None, "vertex")
    run = build_run(connection, ir, values, {REQUEST: uuid.uuid4().hex})
    config = run.runtime_config
    content = [run.labels[VERSION], run.labels[EXPERIMENT], dict(config.parameter_values), config.gcs_output_directory]
    content += [run.service_account, timing.start, timing.end]
    run.labels[CONTENT] = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return aiplatform_v1.Schedule(
        display_name=timing.name,
        cron=timing.cron.expression,
        # A start that is past is none: runs since then are not made up for.
        start_time=timing.start if timing.start and timing.start > now else None,
        end_time=timing.end,
        max_concurrent_run_count=timing.max_concurrency,
        max_concurrent_active_run_count=timing.max_concurrency,
        create_pipeline_job_request={"parent": connection.parent, "pipeline_job": run},
    )


def choose_action(former: Any, wanted: Any, now: datetime) -> str:
    """Returns what becomes of the newest schedule of a name, if any: what it has can't be taken away."""
    if former is None:
        return "created"
    if former.state.name == COMPLETED:
        return "replaced"
    is_same = all(getattr(former, name) == getattr(wanted, name) for name in FIELDS)
    if is_same and label(former, CONTENT) == label(wanted, CONTENT):
        return "unchanged"
    account, other = (item.create_pipeline_job_request.pipeline_job.service_account for item in (former, wanted))
    loses_start = former.start_time and former.start_time > now and not wanted.start_time
    loses_end = former.end_time and not wanted.end_time
    is_lost = loses_start or loses_end or former.max_run_count or (account and not other)
    return "replaced" if is_lost else "updated"


def carry_out(connection: Connection, wanted: Any, former: Any, action: str) -> Any:
    """Makes a schedule, changes the former one or leaves it, as the action says; returns what is there now."""
    if action == "unchanged":
        return former
    service, doing = connection.service("Schedule"), f"scheduling {wanted.display_name!r}"
    if action == "updated":
        wanted.name = former.name
        changed = [*FIELDS, "create_pipeline_job_request"]
        changed += [field for field in ("start_time", "end_time") if field in wanted]
        update = {"schedule": wanted, "update_mask": {"paths": changed}}
        return connection.call(doing, service.update_schedule, request=update)

    def find() -> Any:
        own = list_schedules(connection, wanted.display_name)
        return next((item for item in own if label(item, REQUEST) == label(wanted, REQUEST)), None)

    request = {"parent": connection.parent, "schedule": wanted}
    send = partial(connection.call, doing, service.create_schedule, repeat=False, request=request)
    return make_once(doing, send, find, unique=False)


def remove(connection: Connection, name: str, schedule_id: str) -> None:
    """Removes a schedule of a name; that it is gone already is fine."""
    full_name, delete = f"{connection.parent}/schedules/{schedule_id}", connection.service("Schedule").delete_schedule
    try:
        connection.call(f"removing schedule {name!r}", delete, name=full_name)
    except NotFoundError:
        return


def describe(schedule: Any) -> dict[str, Any]:
    """Returns what a schedule says of itself; see `schedules`."""
    from google.protobuf.json_format import MessageToDict

    job = schedule.create_pipeline_job_request.pipeline_job
    config = MessageToDict(type(job).pb(job).runtime_config)
    return {
        "cron": schedule.cron,
        "status": STATUS.get(schedule.state.name, schedule.state.name.lower()),
        "version": label(schedule, VERSION),
        "experiment": label(schedule, EXPERIMENT),
        "max_concurrency": schedule.max_concurrent_active_run_count or schedule.max_concurrent_run_count,
        "start": schedule.start_time and write_time(schedule.start_time),
        "end": schedule.end_time and write_time(schedule.end_time),
        "service_account": job.service_account,
        "bucket": config.get("gcsOutputDirectory", ""),
        "parameters": config.get("parameterValues", {}),
    }


def schedules(settings: Settings) -> list[dict[str, Any]]:
    """Lists the schedules, of any pipeline, by name.

    Returns:
        For each: `name`, `cron`, `next` (the next time, in UTC; None where it rests), `status` ("enabled", "paused" or
        "ended"), `version` (its name; empty for those of others), `last_run`, `last_state` and `last_time` (of the last
        run; None where there is none), `id`, `experiment`, `max_concurrency`, `start`, `end`, `service_account`,
        `bucket`, `parameters`, `created`.
    """
    connection = connect(settings)
    return [
        {
            "name": item.display_name,
            **describe(item),
            "id": id_of(item),
            "next": write_time(item.next_run_time) if item.next_run_time and item.state.name == ACTIVE else None,
            "created": item.create_time and write_time(item.create_time),
            **last_run(connection, item),
        }
        for item in sorted(list_schedules(connection), key=lambda item: item.display_name)
    ]


def last_run(connection: Connection, item: Any) -> dict[str, Any]:
    """Returns the last run that a schedule made; see `schedules`."""
    try:
        runs = list_runs(connection, 1, only=f"schedule_name={item.name}")
    except UsageError:  # the user may not see runs
        runs = []
    last = runs[0] if runs else {"id": None, "state": None, "created": None}
    return {"last_run": last["id"], "last_state": last["state"], "last_time": last["created"]}


def unschedule(settings: Settings, name: str, dry_run: bool) -> dict[str, Any]:
    """Removes a schedule, of which there must be one; runs that it has made go on."""
    connection = connect(settings)
    ids = [id_of(item) for item in find_schedules(connection, name)]
    for schedule_id in () if dry_run else ids:
        remove(connection, name, schedule_id)
    return {"name": name, "action": "removed", "dry_run": dry_run, "ids": ids}


def pause(settings: Settings, name: str, dry_run: bool) -> dict[str, Any]:
    """Lets a schedule rest, of which there must be one; runs that it has made go on."""
    connection = connect(settings)
    active = [item for item in find_schedules(connection, name) if item.state.name == ACTIVE]
    return switch(connection, name, active, "paused", dry_run)


def resume(settings: Settings, name: str, dry_run: bool) -> dict[str, Any]:
    """Lets a schedule go on that rests; of several of this name, which a failure may have left, the newest."""
    connection = connect(settings)
    newest = find_schedules(connection, name)[-1]
    if newest.state.name == COMPLETED:
        raise UsageError(f"schedule {name!r} is over: --schedule it anew, with another --end or none")
    return switch(connection, name, [newest] if newest.state.name == PAUSED else [], "resumed", dry_run)


def switch(connection: Connection, name: str, changing: list[Any], action: str, dry_run: bool) -> dict[str, Any]:
    """Has schedules of a name "paused" or "resumed"; see `platforms.schedules.report_switch`."""
    service = connection.service("Schedule")
    method = service.pause_schedule if action == "paused" else service.resume_schedule
    for item in () if dry_run else changing:
        connection.call(f"having {name!r} {action}", method, name=item.name)
    missed = "runs that it has missed meanwhile are not made up for"
    return report_switch(name, action, [id_of(item) for item in changing], dry_run, missed)
