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
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
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


@dataclass(frozen=True)
class Plan:
    """A schedule as it is wanted in Kubeflow: when which version runs, where, with what, and as whom."""

    timing: Timing
    pipeline_id: str
    version_id: str
    experiment_id: str
    parameters: dict[str, Any]
    service_account: str

    def content(self) -> str:
        """Returns a digest of all that Kubeflow may tell in other words than it was told."""
        content = [self.parameters, self.timing.start, self.timing.end, self.service_account]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def matches(self, found: Any) -> bool:
        """Returns whether a recurring run is what is wanted."""
        source, cron = found.pipeline_version_reference, found.trigger and found.trigger.cron_schedule
        return bool(
            _mark(found, "content") == self.content()
            and cron
            and cron.cron == self.timing.cron.expression
            and source
            and (source.pipeline_id, source.pipeline_version_id) == (self.pipeline_id, self.version_id)
            and found.experiment_id == self.experiment_id
            and int(found.max_concurrency or 0) == self.timing.max_concurrency
            and bool(found.no_catchup) is not self.timing.catch_up
        )


def schedule(settings: Settings, options: ScheduleOptions, values: dict[str, Any], dry_run: bool) -> dict[str, Any]:
    """Schedules the pipeline: makes the schedule of a name, or replaces it, where it is not as wanted already.

    A schedule that was paused stays so.

    Returns:
        `name`, `action` ("created", "replaced", "unchanged", or "superseded" by another one who did this at the same
        time), `dry_run`, `id`, `status`, `cron`, `became` (whether five fields became these six), `next` (times in
        UTC), `replaced` (the ids of those that were removed), `note`, and the arguments.

    Raises:
        UsageError: An argument is wrong.
        PipelineError: Kubeflow refuses or fails. No schedule is lost: where a new one was made, and the former could
            not be removed, both are there, until the next call removes the former.
    """
    now = datetime.now(UTC)
    pipelines.check_parameters(values)
    timing = options.read(read_cron, "Kubeflow", now)
    ir = pipelines.compiled(settings)
    connection = connect(settings)
    found = _of_name(recurring_runs(connection), timing.name)  # whether that is allowed shows before an upload
    if dry_run:
        experiment = pipelines.find_experiment(connection, settings.experiment)
        pipeline = pipelines.find_pipeline(connection)
        version = pipeline and pipelines.find_version(connection, pipeline.pipeline_id, version_name(ir))
        pipeline_id = pipeline.pipeline_id if pipeline else ""
        version_id = version.pipeline_version_id if version else ""
        experiment_id = experiment.experiment_id if experiment else ""
    else:
        uploaded = pipelines.upload_version(connection, ir)
        pipeline_id, version_id = uploaded.pipeline_id, uploaded.version_id
        experiment_id = pipelines.get_experiment(connection, settings.experiment)
    plan = Plan(timing, pipeline_id, version_id, experiment_id, values, settings.service_account)
    return carry_out(connection, plan, found, now, dry_run)


def carry_out(connection: Connection, plan: Plan, found: list[Any], now: datetime, dry_run: bool) -> dict[str, Any]:
    """Makes or replaces a schedule, where none of `found`, those of its name, is as wanted already; see `schedule`."""
    timing, name = plan.timing, plan.timing.name
    former = found[-1] if found else None
    paused = former is not None and former.mode == PAUSED
    notes = [timing.cron.note]
    if former is not None and plan.matches(former):
        action, kept, older = "unchanged", former, found[:-1]
        notes.append(f"older ones of this name go: {len(older)}" if older else "")
    else:
        action, kept, older = "replaced" if former else "created", None, found
        notes.append(note_of_start(timing, former is not None, now))
        if not dry_run:
            is_ours, kept, older = _make(connection, plan, former, now)
            action, paused = action if is_ours else "superseded", kept.mode == PAUSED
    if paused:
        notes.append(f"it was paused and stays so: --resume {name}")
    if action == "superseded":
        notes.append("another one of this name was made at the same time, and stays instead")
    if not dry_run:
        ids = [item.recurring_run_id for item in older]
        remove_older(name, action, kept.recurring_run_id, ids, partial(_remove, connection, name))
    return {
        "name": name,
        "action": action,
        "dry_run": dry_run,
        "id": kept.recurring_run_id if kept else None,
        "status": "paused" if paused else "enabled",
        "cron": timing.cron.expression,
        "became": timing.cron.became,
        "next": [] if paused else [write_time(time) for time in timing.times(SHOWN, now)],
        "replaced": [item.recurring_run_id for item in older],
        "catch_up": timing.catch_up,
        "max_concurrency": timing.max_concurrency,
        "start": timing.start and write_time(timing.start),
        "end": timing.end and write_time(timing.end),
        "pipeline_id": plan.pipeline_id,
        "version_id": plan.version_id,
        "experiment_id": plan.experiment_id,
        "service_account": plan.service_account,
        "parameters": plan.parameters,
        "note": "; ".join(filter(None, notes)),
    }


def _make(connection: Connection, plan: Plan, former: Any, now: datetime) -> tuple[bool, Any, list[Any]]:
    """Makes a schedule in the place of the newest one of its name, if any, and looks whether it is there.

    Returns:
        Whether it is the newest schedule of the name, that one, and the older ones.
    """
    name, request = plan.timing.name, uuid.uuid4().hex
    body = _body(plan, former, now, request)

    def find() -> Any:
        made = [item for item in _of_name(recurring_runs(connection), name) if _mark(item, "request") == request]
        return made[-1] if made else None

    doing = f"scheduling {name!r}"
    connection.create(doing, connection.recurring_runs.recurring_run_service_create_recurring_run, find, body)
    try:
        found = _of_name(recurring_runs(connection), name)
    except PipelineError as error:
        both = "anew, and the former one is there, too, until the same command is run again" if former else ""
        raise type(error)(f"{name!r} was scheduled {both or 'and not looked at again'}: {error}") from None
    if not found or _revision(found[-1]) <= _revision(former):
        raise PipelineError(f"{doing}: Kubeflow took it, but it is not there; nothing was removed")
    last = found[-1]
    is_ours = _mark(last, "request") == request
    if is_ours and last.mode != body.mode:
        raise PipelineError(f"{doing}: Kubeflow took it, but it is {last.mode}, not {body.mode}; nothing was removed")
    return is_ours, last, found[:-1]


def _body(plan: Plan, former: Any, now: datetime, request: str) -> Any:
    """Returns a recurring run as the API takes it."""
    import kfp_server_api  # type: ignore[import-untyped]

    timing = plan.timing
    # Where its start is past, Kubeflow makes up for what was missed: all with catch-up, otherwise the last of it.
    start = timing.start if timing.start and (timing.start > now or (timing.catch_up and former is None)) else None
    when = kfp_server_api.V2beta1CronSchedule(cron=timing.cron.expression, start_time=start, end_time=timing.end)
    mark = f"revision {_revision(former) + 1}, content {plan.content()}, request {request}"
    return kfp_server_api.V2beta1RecurringRun(
        display_name=timing.name,
        description=f"Made by nlp-pipeline --schedule: {mark}",
        pipeline_version_reference=kfp_server_api.V2beta1PipelineVersionReference(
            pipeline_id=plan.pipeline_id, pipeline_version_id=plan.version_id
        ),
        runtime_config=kfp_server_api.V2beta1RuntimeConfig(parameters=plan.parameters),
        experiment_id=plan.experiment_id,
        service_account=plan.service_account or None,
        max_concurrency=str(timing.max_concurrency),
        no_catchup=not timing.catch_up,
        trigger=kfp_server_api.V2beta1Trigger(cron_schedule=when),
        mode=PAUSED if former is not None and former.mode == PAUSED else ENABLED,
    )


def _remove(connection: Connection, name: str, recurring_run_id: str) -> None:
    """Removes a recurring run; that it is gone already is fine."""
    method = connection.recurring_runs.recurring_run_service_delete_recurring_run
    with contextlib.suppress(NotFoundError):
        connection.call(f"removing schedule {name!r}", method, recurring_run_id)


def recurring_runs(connection: Connection) -> list[Any]:
    """Returns all recurring runs of the user's namespace."""
    method = connection.recurring_runs.recurring_run_service_list_recurring_runs
    return list(connection.list_all("listing schedules", method, "recurring_runs", namespace=connection.namespace))


def _of_name(found: list[Any], name: str) -> list[Any]:
    """Returns the recurring runs of a name, oldest first."""
    return sorted((item for item in found if item.display_name == name), key=_age)


def _age(item: Any) -> tuple[int, datetime, str]:
    """Returns what puts the recurring runs of a name in an order on which all agree, oldest first.

    Who makes one has seen those before it and gives it a higher revision; so what counts as the newest stays that until
    a newer one is made, and is removed by no one.
    """
    return _revision(item), item.created_at or datetime.min.replace(tzinfo=UTC), item.recurring_run_id


def _mark(item: Any, part: str) -> str:
    """Returns a part of what a recurring run that was made here carries in its description; empty for others."""
    found = MARK.search(item.description or "")
    return found[part] if found else ""


def _revision(item: Any) -> int:
    """Returns a recurring run's revision; 0 for others than those made here, and for None."""
    return int(_mark(item, "revision") or 0) if item is not None else 0


def schedules(settings: Settings) -> list[dict[str, Any]]:
    """Returns the schedules, of any pipeline, by name.

    A `next` time that can't be told is None, as are the last run of one that has made none, and its end where it has
    none; `status` is "enabled", "paused" or "ended", and `version` the version's name, or else its id.
    """
    connection, now = connect(settings), datetime.now(UTC)
    names: dict[tuple[str, str], str] = {}
    found = sorted(recurring_runs(connection), key=lambda item: (item.display_name or "", _age(item)))
    return [
        {**_described(item, now), **_version_of(connection, item, names), **_last_run(connection, item)}
        for item in found
    ]


def _described(item: Any, now: datetime) -> dict[str, Any]:
    """Returns what a recurring run says of itself."""
    by_cron, by_interval = item.trigger and item.trigger.cron_schedule, item.trigger and item.trigger.periodic_schedule
    when = by_cron or by_interval
    start, end = _moment(when and when.start_time), _moment(when and when.end_time)
    cron = by_cron.cron if by_cron else f"@every {by_interval.interval_second}s" if by_interval else None
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


def _moment(time: datetime | None) -> datetime | None:
    """Returns a time; None for the beginning of 1970, by which Kubeflow means none."""
    return time if time is not None and time.timestamp() > 0 else None


def as_kubeflow_reads(text: str) -> Cron | None:
    """Returns a schedule that is in Kubeflow already, as Kubeflow itself reads it; None where that can't be told.

    For it, five fields lack the day of the week, and names such as @daily are known.
    """
    fields = DESCRIPTORS.get(text, text).split()
    try:
        return read_cron(" ".join([*fields, "*"] if len(fields) == 5 else fields)) if len(fields) > 4 else None
    except UsageError:
        return None


def _version_of(connection: Connection, item: Any, names: dict[tuple[str, str], str]) -> dict[str, Any]:
    """Returns the pipeline's version that a recurring run runs; `names` are those that are known already."""
    source = item.pipeline_version_reference
    ids = ((source and source.pipeline_id) or "", (source and source.pipeline_version_id) or "")
    if all(ids) and ids not in names:
        get = connection.pipelines.pipeline_service_get_pipeline_version
        try:
            names[ids] = connection.call("reading a version", get, *ids).display_name
        except (NotFoundError, UsageError):  # it was removed, or is another user's
            names[ids] = ids[1]
    newest = "the newest" if ids[0] else None
    return {"version": names.get(ids, newest), "pipeline_id": ids[0] or None, "version_id": ids[1] or None}


def _last_run(connection: Connection, item: Any) -> dict[str, Any]:
    """Returns the last run that a recurring run made."""
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
    ids = [item.recurring_run_id for item in _known(connection, name)]
    for recurring_run_id in ids if not dry_run else ():
        _remove(connection, name, recurring_run_id)
    return {"name": name, "action": "removed", "dry_run": dry_run, "ids": ids}


def pause(settings: Settings, name: str, dry_run: bool) -> dict[str, Any]:
    """Lets a schedule rest; runs that it has made go on. The `action` is "paused" or "unchanged"."""
    connection = connect(settings)
    active = [item for item in _known(connection, name) if item.mode != PAUSED]
    switch = connection.recurring_runs.recurring_run_service_disable_recurring_run
    return _switched(connection, name, active, "paused", switch, dry_run)


def resume(settings: Settings, name: str, dry_run: bool) -> dict[str, Any]:
    """Lets a schedule go on that rests; of several of this name, which a failure may have left, the newest."""
    connection = connect(settings)
    resting = [item for item in _known(connection, name)[-1:] if item.mode == PAUSED]
    switch = connection.recurring_runs.recurring_run_service_enable_recurring_run
    return _switched(connection, name, resting, "resumed", switch, dry_run)


def _known(connection: Connection, name: str) -> list[Any]:
    """Returns the recurring runs of a name, oldest first; raises UsageError where there is none."""
    every = recurring_runs(connection)
    found = _of_name(every, name)
    if not found:
        raise unknown_schedule(name, {item.display_name or "" for item in every})
    return found


def _switched(
    connection: Connection, name: str, found: list[Any], action: str, switch: Callable[..., Any], dry_run: bool
) -> dict[str, Any]:
    ids = [item.recurring_run_id for item in found]
    for recurring_run_id in ids if not dry_run else ():
        connection.call(f"having {name!r} {action}", switch, recurring_run_id)
    missed = "if a time has passed meanwhile, Kubeflow starts a run at once"
    return report_switch(name, action, ids, dry_run, missed)
