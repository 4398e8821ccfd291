"""`--schedule`, `--schedules`, `--unschedule`, `--pause` and `--resume`: recurring runs of the pipeline.

A recurring run of Kubeflow can't be changed, and several may have the same name. So a new one is made before the old
ones of its name are removed: what fails in between leaves two, never none, and the next call removes the older. Which
one is older is told by a revision that each carries in its description, as two users may do this at the same time.
"""

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from nlp_pipeline.client.calls import NotFoundError
from nlp_pipeline.client.connection import Connection
from nlp_pipeline.client.cron import Cron, as_kubeflow_reads, next_times, read_cron, read_time, write_time
from nlp_pipeline.client.recurring import (
    ENABLED,
    PAUSED,
    age,
    describe,
    known,
    mark,
    moment,
    of_name,
    recurring_runs,
    remove,
    revision,
)
from nlp_pipeline.client.schedule_plan import Plan, check_plan, note_of_start
from nlp_pipeline.errors import PipelineError, UsageError

SHOWN = 5


def schedule(
    connection: Connection,
    name: str,
    cron: Cron | str,
    pipeline_id: str,
    version_id: str,
    experiment_id: str,
    parameters: dict[str, Any],
    *,
    catch_up: bool = False,
    max_concurrency: int = 1,
    start: str | None = None,
    end: str | None = None,
    service_account: str = "",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Schedules the pipeline: makes the schedule of a name, or replaces it, where it is not as wanted already.

    A schedule that was paused stays so.

    Args:
        connection: The connection.
        name: The schedule's name.
        cron: When it runs.
        pipeline_id: The pipeline's id.
        version_id: The version's id.
        experiment_id: The id of the runs' experiment.
        parameters: The pipeline's arguments.
        catch_up: Whether to make up for runs that were missed.
        max_concurrency: How many runs there may be at once, 1 to 10.
        start: Not before this time, ISO 8601, in UTC where it has no zone; None for at once.
        end: Not after; None for never.
        service_account: The service account of the runs; empty for Kubeflow's choice.
        dry_run: Whether to show only what would be done.

    Returns:
        What `--json` prints: `name`, `action` ("created", "replaced", "unchanged", or "superseded" by another one who
        did this at the same time), `dry_run`, `id`, `status`, `cron`, `became` (whether five fields became these six),
        `next` (times in UTC), `replaced` (the ids of those that were removed), `note`, and the arguments.

    Raises:
        UsageError: An argument is wrong.
        PipelineError: Kubeflow refuses or fails. No schedule is lost: where a new one was made, and the former could
            not be removed, both are there, until the next call removes the former.
    """
    now = datetime.now(UTC)
    plan = check_plan(
        Plan(
            name=name,
            cron=read_cron(cron) if isinstance(cron, str) else cron,
            pipeline_id=pipeline_id,
            version_id=version_id,
            experiment_id=experiment_id,
            parameters=parameters,
            catch_up=catch_up,
            max_concurrency=max_concurrency,
            start=read_time(start, "--start") if start else None,
            end=read_time(end, "--end") if end else None,
            service_account=service_account,
        ),
        now,
    )
    found = of_name(recurring_runs(connection), name)
    former = found[-1] if found else None
    paused = former is not None and former.mode == PAUSED
    notes = [plan.cron.note]
    if former is not None and plan.matches(former):
        action, kept, older = "unchanged", former, found[:-1]
        notes.append(f"older ones of this name go: {len(older)}" if older else "")
    else:
        action, kept, older = "replaced" if former else "created", None, found
        notes.append(note_of_start(plan, former is not None, now))
        if not dry_run:
            action, kept, older = make(connection, plan, former, now, paused, action)
    paused = kept.mode == PAUSED if kept else paused
    if paused:
        notes.append(f"it was paused and stays so: --resume {name}")
    if action == "superseded":
        notes.append("another one of this name was made at the same time, and stays instead")
    if not dry_run:
        remove_older(connection, name, kept, older, action)
    return {
        "name": name,
        "action": action,
        "dry_run": dry_run,
        "id": kept.recurring_run_id if kept else None,
        "status": "paused" if paused else "enabled",
        "cron": plan.cron.expression,
        "became": plan.cron.became,
        "next": [] if paused else [write_time(time) for time in plan.times(SHOWN, now)],
        "replaced": [one.recurring_run_id for one in older],
        "catch_up": catch_up,
        "max_concurrency": max_concurrency,
        "start": plan.start and write_time(plan.start),
        "end": plan.end and write_time(plan.end),
        "pipeline_id": pipeline_id,
        "version_id": version_id,
        "experiment_id": experiment_id,
        "service_account": service_account,
        "parameters": parameters,
        "note": "; ".join(filter(None, notes)),
    }


def make(
    connection: Connection, plan: Plan, former: Any, now: datetime, paused: bool, action: str
) -> tuple[str, Any, list[Any]]:
    """Makes a schedule, and looks whether it is there.

    Args:
        connection: The connection.
        plan: The schedule.
        former: The newest one of the same name; None where there is none.
        now: The time.
        paused: Whether it is to rest.
        action: What this is, "created" or "replaced".

    Returns:
        What it was in the end, the newest schedule of the name, and the older ones.

    Raises:
        PipelineError: It was not made; the former ones are there still.
    """
    import kfp_server_api  # type: ignore[import-untyped]

    request = uuid.uuid4().hex
    # Where its start is past, Kubeflow makes up for what was missed: all with catch-up, otherwise the last of it.
    start = plan.start if plan.start and (plan.start > now or (plan.catch_up and former is None)) else None
    when = kfp_server_api.V2beta1CronSchedule(cron=plan.cron.expression, start_time=start, end_time=plan.end)
    body = kfp_server_api.V2beta1RecurringRun(
        display_name=plan.name,
        description=describe(revision(former) + 1, plan.content(), request),
        pipeline_version_reference=kfp_server_api.V2beta1PipelineVersionReference(
            pipeline_id=plan.pipeline_id, pipeline_version_id=plan.version_id
        ),
        runtime_config=kfp_server_api.V2beta1RuntimeConfig(parameters=plan.parameters),
        experiment_id=plan.experiment_id,
        service_account=plan.service_account or None,
        max_concurrency=str(plan.max_concurrency),
        no_catchup=not plan.catch_up,
        trigger=kfp_server_api.V2beta1Trigger(cron_schedule=when),
        mode=PAUSED if paused else ENABLED,
    )

    def newest() -> Any:
        found = [one for one in of_name(recurring_runs(connection), plan.name) if mark(one, "request") == request]
        return found[-1] if found else None

    doing = f"scheduling {plan.name!r}"
    connection.create(doing, connection.recurring_runs.recurring_run_service_create_recurring_run, newest, body)
    try:
        found = of_name(recurring_runs(connection), plan.name)
    except PipelineError as error:
        both = "anew, and the former one is there, too, until the same command is run again" if former else ""
        raise type(error)(f"{plan.name!r} was scheduled {both or 'and not looked at again'}: {error}") from None
    if not found or revision(found[-1]) <= revision(former):
        raise PipelineError(f"{doing}: Kubeflow took it, but it is not there; nothing was removed")
    last = found[-1]
    if mark(last, "request") != request:
        return "superseded", last, found[:-1]
    if last.mode != body.mode:
        raise PipelineError(f"{doing}: Kubeflow took it, but it is {last.mode}, not {body.mode}; nothing was removed")
    return action, last, found[:-1]


def remove_older(connection: Connection, name: str, kept: Any, older: list[Any], action: str) -> None:
    """Removes the older schedules of a name.

    Args:
        connection: The connection.
        name: The name.
        kept: The newest one.
        older: The older ones.
        action: What became of the newest one.

    Raises:
        PipelineError: One could not be removed.
    """
    for at, one in enumerate(older):
        try:
            remove(connection, one)
        except PipelineError as error:
            facts = {"id": kept.recurring_run_id, "left": [one.recurring_run_id for one in older[at:]]}
            done = "is as it was" if action == "unchanged" else "was scheduled anew"
            raise type(error)(
                f"{name!r} {done}, but an older one of this name is there, too, until the same command is run "
                f"again: {error}",
                facts,
            ) from None


def schedules(connection: Connection) -> list[dict[str, Any]]:
    """Lists the schedules, of any pipeline, by name.

    Returns:
        For each: `name`, `cron`, `next` (the next time, in UTC; None where that can't be told or it rests), `status`
        ("enabled", "paused" or "ended"), `version` (its name, or else its id), `last_run`, `last_state` and
        `last_time` (of the last run; None where there is none), `id`, `pipeline_id`, `version_id`, `experiment_id`,
        `catch_up`, `max_concurrency`, `start`, `end`, `service_account`, `parameters`, `created`.

    Raises:
        PipelineError: Kubeflow refuses or fails.
    """
    now = datetime.now(UTC)
    versions: dict[tuple[str, str], str] = {}
    found = sorted(recurring_runs(connection), key=lambda one: (one.display_name or "", age(one)))
    return [{**told(one, now), **version_of(connection, one, versions), **last_run(connection, one)} for one in found]


def told(one: Any, now: datetime) -> dict[str, Any]:
    """Returns what a recurring run tells itself; see `schedules`."""
    by_cron, by_interval = one.trigger and one.trigger.cron_schedule, one.trigger and one.trigger.periodic_schedule
    when = by_cron or by_interval
    start, end = moment(when and when.start_time), moment(when and when.end_time)
    cron = by_cron.cron if by_cron else f"@every {by_interval.interval_second}s" if by_interval else None
    read = as_kubeflow_reads(cron or "")
    times = next_times(read, 1, max(now, start or now)) if read else []
    ended = end is not None and (end < now or (bool(times) and times[0] > end))
    status = "ended" if ended else "paused" if one.mode == PAUSED else "enabled"
    return {
        "name": one.display_name,
        "cron": cron,
        "next": write_time(times[0]) if times and status == "enabled" else None,
        "status": status,
        "id": one.recurring_run_id,
        "experiment_id": one.experiment_id,
        "catch_up": not one.no_catchup,
        "max_concurrency": int(one.max_concurrency or 1),
        "start": start and write_time(start),
        "end": end and write_time(end),
        "service_account": one.service_account or "",
        "parameters": (one.runtime_config and one.runtime_config.parameters) or {},
        "created": write_time(one.created_at) if one.created_at else None,
    }


def version_of(connection: Connection, one: Any, names: dict[tuple[str, str], str]) -> dict[str, Any]:
    """Returns the pipeline's version that a recurring run runs; see `schedules`.

    Args:
        connection: The connection.
        one: The recurring run.
        names: The names that are known; more are added.
    """
    source = one.pipeline_version_reference
    ids = ((source and source.pipeline_id) or "", (source and source.pipeline_version_id) or "")
    if all(ids) and ids not in names:
        get = connection.pipelines.pipeline_service_get_pipeline_version
        try:
            names[ids] = connection.call("reading a version", get, *ids).display_name
        except (NotFoundError, UsageError):  # it was removed, or is another user's
            names[ids] = ids[1]
    newest = "the newest" if ids[0] else None
    return {"version": names.get(ids, newest), "pipeline_id": ids[0] or None, "version_id": ids[1] or None}


def last_run(connection: Connection, one: Any) -> dict[str, Any]:
    """Returns the last run that a recurring run made; see `schedules`."""
    of_it = {"key": "recurring_run_id", "operation": "EQUALS", "string_value": one.recurring_run_id}
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


def unschedule(connection: Connection, name: str, dry_run: bool = False) -> dict[str, Any]:
    """Removes a schedule; runs that it has made go on.

    Args:
        connection: The connection.
        name: Its name.
        dry_run: Whether to show only what would be removed.

    Returns:
        What `--json` prints: `name`, `action` ("removed"), `dry_run`, `ids`.

    Raises:
        UsageError: There is none of this name.
        PipelineError: Kubeflow refuses or fails.
    """
    found = known(connection, name)
    if not dry_run:
        for one in found:
            remove(connection, one)
    ids = [one.recurring_run_id for one in found]
    return {"name": name, "action": "removed", "dry_run": dry_run, "ids": ids}


def pause(connection: Connection, name: str, dry_run: bool = False) -> dict[str, Any]:
    """Lets a schedule rest; runs that it has made go on.

    Args:
        connection: The connection.
        name: Its name.
        dry_run: Whether to show only what would be done.

    Returns:
        What `--json` prints: `name`, `action` ("paused" or "unchanged"), `dry_run`, `ids`, `status`, `note`.

    Raises:
        UsageError: There is none of this name.
        PipelineError: Kubeflow refuses or fails.
    """
    active = [one for one in known(connection, name) if one.mode != PAUSED]
    switch = connection.recurring_runs.recurring_run_service_disable_recurring_run
    return switched(connection, name, active, "paused", switch, dry_run)


def resume(connection: Connection, name: str, dry_run: bool = False) -> dict[str, Any]:
    """Lets a schedule go on that rests; of several of this name, which a failure may have left, the newest.

    Args:
        connection: The connection.
        name: Its name.
        dry_run: Whether to show only what would be done.

    Returns:
        What `--json` prints: `name`, `action` ("resumed" or "unchanged"), `dry_run`, `ids`, `status`, `note`.

    Raises:
        UsageError: There is none of this name.
        PipelineError: Kubeflow refuses or fails.
    """
    resting = [one for one in known(connection, name)[-1:] if one.mode == PAUSED]
    switch = connection.recurring_runs.recurring_run_service_enable_recurring_run
    return switched(connection, name, resting, "resumed", switch, dry_run)


def switched(
    connection: Connection, name: str, found: list[Any], action: str, switch: Callable[..., Any], dry_run: bool
) -> dict[str, Any]:
    """Pauses or resumes recurring runs.

    Args:
        connection: The connection.
        name: Their name.
        found: The recurring runs.
        action: "paused" or "resumed".
        switch: The service's method.
        dry_run: Whether not to.

    Returns:
        See `pause`.
    """
    if not dry_run:
        for one in found:
            connection.call(f"having {name!r} {action}", switch, one.recurring_run_id)
    missed = "if a time has passed meanwhile, Kubeflow starts a run at once" if action == "resumed" and found else ""
    return {
        "name": name,
        "action": action if found else "unchanged",
        "dry_run": dry_run,
        "ids": [one.recurring_run_id for one in found],
        "status": "paused" if action == "paused" else "enabled",
        "note": missed,
    }
