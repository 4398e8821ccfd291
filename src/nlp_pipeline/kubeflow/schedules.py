"""`--schedule`, `--schedules`, `--unschedule`, `--pause` and `--resume`: recurring runs of the pipeline.

A recurring run of Kubeflow can't be changed, and several may have the same name. So a new one is made before the old
ones of its name are removed: what fails in between leaves two, never none, and the next call removes the older. Which
one is older is told by a revision that each carries in its description, as two users may do this at the same time.
"""

import contextlib
import hashlib
import json
import re
import uuid
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.kubeflow import pipelines
from nlp_pipeline.kubeflow.connection import Connection, connect
from nlp_pipeline.pipeline.compiling import version_name
from nlp_pipeline.platforms.calls import NotFoundError
from nlp_pipeline.platforms.cron import DESCRIPTORS, Cron, next_times, read_cron
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

# What a recurring run that was made here carries in its description: a revision, by which all agree on which is the
# newest, a digest of its content, and the request that made it.
MARK = re.compile(
    r"revision (?P<revision>[0-9]+), content (?P<content>[0-9a-f]{16}), request (?P<request>[0-9a-f]{32})"
)
PAUSED, ENABLED = "DISABLE", "ENABLE"


def schedule(settings: Settings, options: ScheduleOptions, values: dict[str, Any], dry_run: bool) -> dict[str, Any]:
    """Schedules the pipeline: makes the schedule of a name, or replaces it, where it is not as wanted already.

    A schedule that was paused stays so.

    Returns:
        `name`, `action` ("created", "replaced", "unchanged", or "superseded" by another one who did this at the same
        time), `dry_run`, `id`, `status`, `cron`, `became` (whether five fields became these six), `next` (times in
        UTC), `replaced` (the ids of those that were removed), `note`, and the arguments.

    Raises:
        PipelineError: Kubeflow refuses or fails. No schedule is lost: where a new one was made, and the former could
            not be removed, both are there, until the next call removes the former.
    """
    now = datetime.now(UTC)
    pipelines.check_parameters(values)
    timing = options.read(read_cron, "Kubeflow", now)
    ir = pipelines.compiled(settings)
    connection = connect(settings)
    older = _of_name(recurring_runs(connection), timing.name)  # whether that is allowed shows before an upload
    former = older[-1] if older else None
    ids = _find_ids(connection, ir, dry_run)
    wanted = _build(timing, ids, values, settings.service_account, former, now)
    kept, action = None, "replaced" if former else "created"
    notes = [timing.cron.note]
    if former is not None and _matches(former, wanted):
        kept, action = older.pop(), "unchanged"
        notes.append(f"older ones of this name go: {len(older)}" if older else "")
    else:
        notes.append(note_of_start(timing, former is not None, now))
        if not dry_run:
            *older, kept = _create(connection, wanted, former)
            action = action if _mark(kept, "request") == _mark(wanted, "request") else "superseded"
    paused = (kept or wanted).mode == PAUSED
    if paused:
        notes.append(f"it was paused and stays so: --resume {timing.name}")
    if action == "superseded":
        notes.append("another one of this name was made at the same time, and stays instead")
    replaced = [item.recurring_run_id for item in older]
    if kept is not None and not dry_run:
        remove_older(timing.name, action, kept.recurring_run_id, replaced, partial(_remove, connection, timing.name))
    return {
        "name": timing.name,
        "action": action,
        "dry_run": dry_run,
        "id": kept.recurring_run_id if kept else None,
        "status": "paused" if paused else "enabled",
        "cron": timing.cron.expression,
        "became": timing.cron.became,
        "next": [] if paused else [write_time(time) for time in timing.times(SHOWN, now)],
        "replaced": replaced,
        "catch_up": timing.catch_up,
        "max_concurrency": timing.max_concurrency,
        "start": timing.start and write_time(timing.start),
        "end": timing.end and write_time(timing.end),
        **ids,
        "service_account": settings.service_account,
        "parameters": values,
        "note": "; ".join(filter(None, notes)),
    }


def _find_ids(connection: Connection, ir: str, dry_run: bool) -> dict[str, str | None]:
    """Returns the ids of pipeline, version and experiment; what is not there is made, or None for a dry run."""
    if dry_run:
        pipeline = pipelines.find_pipeline(connection)
        version = pipeline and pipelines.find_version(connection, pipeline.pipeline_id, version_name(ir))
        experiment = pipelines.find_experiment(connection, connection.settings.experiment)
        return {
            "pipeline_id": pipeline and pipeline.pipeline_id,
            "version_id": version and version.pipeline_version_id,
            "experiment_id": experiment and experiment.experiment_id,
        }
    uploaded = pipelines.upload_version(connection, ir)
    experiment_id = pipelines.get_experiment(connection, connection.settings.experiment)
    return {"pipeline_id": uploaded.pipeline_id, "version_id": uploaded.version_id, "experiment_id": experiment_id}


def _build(
    timing: Timing, ids: dict[str, str | None], values: dict[str, Any], service_account: str, former: Any, now: datetime
) -> Any:
    """Returns a recurring run as it is wanted in the place of the newest one of its name, if any."""
    import kfp_server_api  # type: ignore[import-untyped]

    # Of what Kubeflow may tell in other words than it was told.
    content = json.dumps([values, timing.start, timing.end, service_account], sort_keys=True, default=str)
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    mark = f"revision {_revision(former) + 1}, content {digest}, request {uuid.uuid4().hex}"
    # Where its start is past, Kubeflow makes up for what was missed: all with catch-up, otherwise the last of it.
    start = timing.start if timing.start and (timing.start > now or (timing.catch_up and former is None)) else None
    when = kfp_server_api.V2beta1CronSchedule(cron=timing.cron.expression, start_time=start, end_time=timing.end)
    return kfp_server_api.V2beta1RecurringRun(
        display_name=timing.name,
        description=f"Made by nlp-pipeline --schedule: {mark}",
        pipeline_version_reference=kfp_server_api.V2beta1PipelineVersionReference(
            pipeline_id=ids["pipeline_id"], pipeline_version_id=ids["version_id"]
        ),
        runtime_config=kfp_server_api.V2beta1RuntimeConfig(parameters=values),
        experiment_id=ids["experiment_id"],
        service_account=service_account or None,
        max_concurrency=str(timing.max_concurrency),
        no_catchup=not timing.catch_up,
        trigger=kfp_server_api.V2beta1Trigger(cron_schedule=when),
        mode=former.mode if former is not None and former.mode == PAUSED else ENABLED,
    )


def _matches(item: Any, wanted: Any) -> bool:
    """Returns whether a recurring run is what is wanted."""

    def content(item: Any) -> tuple[Any, ...]:
        cron = item.trigger and item.trigger.cron_schedule
        return (
            _mark(item, "content"),
            cron and cron.cron,
            item.pipeline_version_reference,
            item.experiment_id,
            item.max_concurrency,
            bool(item.no_catchup),
        )

    return content(item) == content(wanted)


def _create(connection: Connection, wanted: Any, former: Any) -> list[Any]:
    """Makes a recurring run, and looks whether it is there; returns those of its name, the newest last."""
    name, request, doing = wanted.display_name, _mark(wanted, "request"), f"scheduling {wanted.display_name!r}"

    def find() -> Any:
        same = (item for item in recurring_runs(connection) if _mark(item, "request") == request)
        return next(same, None)

    connection.create(doing, connection.recurring_runs.recurring_run_service_create_recurring_run, find, wanted)
    try:
        existing = _of_name(recurring_runs(connection), name)
    except PipelineError as error:
        both = "anew, and the former one is there, too, until the same command is run again" if former else ""
        raise type(error)(f"{name!r} was scheduled {both or 'and not looked at again'}: {error}") from None
    newest = existing[-1] if existing else None
    if newest is None or _revision(newest) <= _revision(former):
        raise PipelineError(f"{doing}: Kubeflow took it, but it is not there; nothing was removed")
    if _mark(newest, "request") == request and newest.mode != wanted.mode:
        raise PipelineError(
            f"{doing}: Kubeflow took it, but it is {newest.mode}, not {wanted.mode}; nothing was removed"
        )
    return existing


def _remove(connection: Connection, name: str, recurring_run_id: str) -> None:
    method = connection.recurring_runs.recurring_run_service_delete_recurring_run
    with contextlib.suppress(NotFoundError):  # that it is gone already is fine
        connection.call(f"removing schedule {name!r}", method, recurring_run_id)


def recurring_runs(connection: Connection) -> list[Any]:
    """Returns all recurring runs of the user's namespace."""
    method = connection.recurring_runs.recurring_run_service_list_recurring_runs
    return list(connection.list_all("listing schedules", method, "recurring_runs", namespace=connection.namespace))


def _of_name(items: list[Any], name: str) -> list[Any]:
    """Returns the recurring runs of a name, oldest first."""
    return sorted((item for item in items if item.display_name == name), key=_age)


def _age(item: Any) -> tuple[int, datetime, str]:
    """Returns what puts the recurring runs of a name in an order on which all agree, oldest first.

    Who makes one has seen those before it and gives it a higher revision; so what counts as the newest stays that until
    a newer one is made, and is removed by no one.
    """
    return _revision(item), item.created_at or datetime.min.replace(tzinfo=UTC), item.recurring_run_id


def _mark(item: Any, part: str) -> str:
    """Returns a part of what a recurring run that was made here carries in its description; empty for others."""
    match = MARK.search((item and item.description) or "")
    return match[part] if match else ""


def _revision(item: Any) -> int:
    return int(_mark(item, "revision") or 0)


def schedules(settings: Settings) -> list[dict[str, Any]]:
    """Returns the schedules, of any pipeline, by name.

    A `next` time that can't be told is None, as are the last run of one that has made none, and its end where it has
    none; `status` is "enabled", "paused" or "ended", and `version` the version's name, or else its id.
    """
    connection, now = connect(settings), datetime.now(UTC)

    @cache
    def name_of(pipeline_id: str, version_id: str) -> str:
        method = connection.pipelines.pipeline_service_get_pipeline_version
        try:
            return str(connection.call("reading a version", method, pipeline_id, version_id).display_name)
        except (NotFoundError, UsageError):  # it was removed, or is another user's
            return version_id

    rows = []
    for item in sorted(recurring_runs(connection), key=lambda item: (item.display_name or "", _age(item))):
        source = item.pipeline_version_reference
        pipeline_id, version_id = (source.pipeline_id, source.pipeline_version_id) if source else (None, None)
        version = name_of(pipeline_id, version_id) if version_id else "the newest" if pipeline_id else None
        ids = {"version": version, "pipeline_id": pipeline_id, "version_id": version_id}
        rows.append({**_describe(item, now), **ids, **_last_run(connection, item)})
    return rows


def _describe(item: Any, now: datetime) -> dict[str, Any]:
    """Returns what a recurring run says of itself."""
    by_cron, by_interval = item.trigger and item.trigger.cron_schedule, item.trigger and item.trigger.periodic_schedule
    cron = by_cron.cron if by_cron else f"@every {by_interval.interval_second}s" if by_interval else None
    start, end = _bound(by_cron or by_interval, "start_time"), _bound(by_cron or by_interval, "end_time")
    read = as_kubeflow_reads(cron or "")
    times = next_times(read, 1, max(now, start or now)) if read else []
    ended = end is not None and (end < now or (bool(times) and times[0] > end))
    status = "ended" if ended else "paused" if item.mode == PAUSED else "enabled"
    return {
        "name": item.display_name,
        "cron": cron,
        "next": write_time(times[0]) if times and status == "enabled" else None,
        "status": status,
        "id": item.recurring_run_id,
        "experiment_id": item.experiment_id,
        "catch_up": not item.no_catchup,
        "max_concurrency": int(item.max_concurrency or 1),
        "start": start and write_time(start),
        "end": end and write_time(end),
        "service_account": item.service_account or "",
        "parameters": (item.runtime_config and item.runtime_config.parameters) or {},
        "created": write_time(item.created_at) if item.created_at else None,
    }


def _bound(trigger: Any, name: str) -> datetime | None:
    # By the beginning of 1970 Kubeflow means none.
    time: datetime | None = trigger and getattr(trigger, name)
    return time if time is not None and time.timestamp() > 0 else None


def as_kubeflow_reads(text: str) -> Cron | None:
    """Returns a schedule that is in Kubeflow already, as Kubeflow itself reads it; None where that can't be told.

    For it, five fields lack the day of the week, and names such as @daily are known.
    """
    fields = DESCRIPTORS.get(text, text).split()
    try:
        return read_cron(" ".join([*fields, "*"] if len(fields) == 5 else fields))
    except UsageError:
        return None


def _last_run(connection: Connection, item: Any) -> dict[str, Any]:
    of_it = {"key": "recurring_run_id", "operation": "EQUALS", "string_value": item.recurring_run_id}
    try:
        runs = connection.call(
            "listing runs",
            connection.runs.run_service_list_runs,
            namespace=connection.namespace,
            page_size=1,
            sort_by="created_at desc",
            filter=json.dumps({"predicates": [of_it]}),
        ).runs
    except UsageError:  # an older server can't look for that, or the user may not
        runs = None
    if not runs:
        return {"last_run": None, "last_state": None, "last_time": None}
    return {"last_run": runs[0].run_id, "last_state": runs[0].state, "last_time": write_time(runs[0].created_at)}


def unschedule(settings: Settings, name: str, dry_run: bool) -> dict[str, Any]:
    """Removes a schedule; runs that it has made go on."""
    connection = connect(settings)
    ids = [item.recurring_run_id for item in _find_schedules(connection, name)]
    for recurring_run_id in ids if not dry_run else ():
        _remove(connection, name, recurring_run_id)
    return {"name": name, "action": "removed", "dry_run": dry_run, "ids": ids}


def pause(settings: Settings, name: str, dry_run: bool) -> dict[str, Any]:
    """Lets a schedule rest; runs that it has made go on. The `action` is "paused" or "unchanged"."""
    connection = connect(settings)
    active = [item for item in _find_schedules(connection, name) if item.mode != PAUSED]
    return _switch(connection, name, active, "paused", dry_run)


def resume(settings: Settings, name: str, dry_run: bool) -> dict[str, Any]:
    """Lets a schedule go on that rests; of several of this name, which a failure may have left, the newest."""
    connection = connect(settings)
    resting = [item for item in _find_schedules(connection, name)[-1:] if item.mode == PAUSED]
    return _switch(connection, name, resting, "resumed", dry_run)


def _find_schedules(connection: Connection, name: str) -> list[Any]:
    """Returns the recurring runs of a name, oldest first; raises UsageError where there is none."""
    every = recurring_runs(connection)
    items = _of_name(every, name)
    if not items:
        raise unknown_schedule(name, {item.display_name or "" for item in every})
    return items


def _switch(connection: Connection, name: str, items: list[Any], action: str, dry_run: bool) -> dict[str, Any]:
    api, ids = connection.recurring_runs, [item.recurring_run_id for item in items]
    pausing, resuming = api.recurring_run_service_disable_recurring_run, api.recurring_run_service_enable_recurring_run
    for recurring_run_id in ids if not dry_run else ():
        connection.call(f"having {name!r} {action}", pausing if action == "paused" else resuming, recurring_run_id)
    missed = "if a time has passed meanwhile, Kubeflow starts a run at once"
    return report_switch(name, action, ids, dry_run, missed)
