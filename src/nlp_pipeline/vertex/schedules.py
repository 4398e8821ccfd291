"""`--schedule`, `--schedules`, `--unschedule`, `--pause` and `--resume` on Vertex AI.

A schedule there can be changed, so that the one of a name is edited in place. What the API does not let be changed (a
start or an end can't be taken away, nor can what is completed be begun anew) is replaced: a new one is made before the
former is removed. Its runs' labels hold a digest of what was asked for, as the API may tell that in other words.
"""

import hashlib
import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.platforms.calls import NotFoundError
from nlp_pipeline.platforms.schedules import (
    SHOWN,
    Timing,
    check_timing,
    note_of_start,
    read_time,
    unknown_schedule,
    write_time,
)
from nlp_pipeline.vertex.connection import Connection, bucket_of
from nlp_pipeline.vertex.cron import read_zoned_cron
from nlp_pipeline.vertex.submitting import build_run, labels_of, with_place

CONTENT, REQUEST = "nlp-pipeline-content", "nlp-pipeline-request"
PAUSED, COMPLETED = "PAUSED", "COMPLETED"
# Each has its runs' whole pipeline in it.
PAGE = 20


@dataclass(frozen=True, kw_only=True)
class Plan(Timing):
    """A schedule as it is wanted on Vertex AI.

    Attributes:
        version: The name of the pipeline's version.
        parameters: Its arguments.
        experiment: The runs' experiment.
        bucket: Where the runs write.
        service_account: What they run as; empty for the project's default.
    """

    version: str
    parameters: dict[str, Any]
    experiment: str
    bucket: str
    service_account: str

    def content(self) -> str:
        """Returns a digest of all that the API may tell in other words than it was told."""
        told = [self.version, self.parameters, self.experiment, self.bucket, self.service_account, self.start, self.end]
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def matches(self, one: Any) -> bool:
        """Returns whether a schedule is what is wanted."""
        most = (one.max_concurrent_run_count, one.max_concurrent_active_run_count)
        return (
            labels(one).get(CONTENT) == self.content()
            and one.cron == self.cron.expression
            and most == (self.max_concurrency, self.max_concurrency)
            and one.state.name != COMPLETED
        )


def labels(one: Any) -> dict[str, str]:
    """Returns the labels that a schedule gives its runs."""
    return dict(one.create_pipeline_job_request.pipeline_job.labels)


def every_schedule(connection: Connection, name: str | None = None) -> list[Any]:
    """Returns the schedules of pipelines, or those of a name, oldest first."""
    listing, only = connection.schedules.list_schedules, "create_pipeline_job_request:*"
    found = connection.every("listing schedules", listing, parent=connection.parent, filter=only, page_size=PAGE)
    of_name = [one for one in found if name in (None, one.display_name)]
    return sorted(of_name, key=lambda one: (one.create_time, one.name))


def known(connection: Connection, name: str) -> list[Any]:
    """Returns the schedules of a name, oldest first.

    Raises:
        UsageError: There is none.
    """
    every = every_schedule(connection)
    found = [one for one in every if one.display_name == name]
    if not found:
        raise unknown_schedule(name, {one.display_name for one in every})
    return found


def schedule_plan(
    connection: Connection, name: str, cron: str, version: str, values: dict[str, Any], **options: Any
) -> Plan:
    """Returns a schedule as it is wanted.

    Args:
        connection: The connection.
        name: Its name.
        cron: When it runs; see `read_zoned_cron`.
        version: The name of the pipeline's version.
        values: The parameters that the user set.
        **options: `max_concurrency`, `start` and `end`; the times in ISO 8601, None for none.

    Raises:
        UsageError: Something is wrong.
    """
    settings = connection.settings
    if len(name) > 128:
        raise UsageError(f"--schedule-name {name[:20]}... has {len(name)} characters: Vertex AI takes 128 at most")
    plan = Plan(
        name=name,
        cron=read_zoned_cron(cron),
        max_concurrency=options["max_concurrency"],
        start=read_time(options["start"], "--start"),
        end=read_time(options["end"], "--end"),
        version=version,
        parameters=with_place(values, settings, connection.project),
        experiment=settings.experiment,
        bucket=bucket_of(settings),
        service_account=settings.service_account,
    )
    return check_timing(plan, datetime.now(UTC), "Vertex AI")


def schedule(connection: Connection, plan: Plan, ir: str, dry_run: bool = False) -> dict[str, Any]:
    """Schedules the pipeline: makes the schedule of a name, or changes it, where it is not as wanted already.

    A schedule that was paused stays so.

    Args:
        connection: The connection.
        plan: The schedule.
        ir: The pipeline's IR.
        dry_run: Whether to show only what would be done.

    Returns:
        What `--json` prints: `name`, `action` ("created", "updated", "replaced" or "unchanged"), `dry_run`, `id`,
        `status`, `cron`, `became` (whether five fields became these), `next` (times in UTC), `replaced` (the ids of
        those that were removed), `note`, and the arguments.

    Raises:
        PipelineError: Google refuses or fails. No schedule is lost: where a new one was made, and the former could not
            be removed, both are there, until the next call removes the former.
    """
    now = datetime.now(UTC)
    found = every_schedule(connection, plan.name)
    former = found[-1] if found else None
    paused = former is not None and former.state.name == PAUSED
    kept, older = former, found[:-1]
    if former is None:
        action = "created"
    elif plan.matches(former):
        action = "unchanged"
    elif can_become(former, plan, now):
        action = "updated"
    else:
        action, kept, older = "replaced", None, found
    notes = [plan.cron.note, note_of_start(plan, former is not None, now) if action != "unchanged" else ""]
    if paused:
        notes.append(f"it was paused and stays so: --resume {plan.name}")
    if older and action != "replaced":
        notes.append(f"older ones of this name go: {len(older)}")
    if not dry_run:
        kept = carried_out(connection, plan, ir, former, action, now)
        if paused and kept.state.name != PAUSED:
            pausing = connection.schedules.pause_schedule
            connection.call(f"having {plan.name!r} paused", pausing, name=kept.name)
        remove_older(connection, plan.name, kept, older, action)
    return {
        "name": plan.name,
        "action": action,
        "dry_run": dry_run,
        "id": id_of(kept) if kept else None,
        "status": "paused" if paused else "enabled",
        "cron": plan.cron.expression,
        "became": plan.cron.became,
        "next": [] if paused else [write_time(time) for time in plan.times(SHOWN, now)],
        "replaced": [id_of(one) for one in older],
        "max_concurrency": plan.max_concurrency,
        "start": plan.start and write_time(plan.start),
        "end": plan.end and write_time(plan.end),
        "version": plan.version,
        "experiment": plan.experiment,
        "bucket": plan.bucket,
        "service_account": plan.service_account,
        "parameters": plan.parameters,
        "note": "; ".join(filter(None, notes)),
    }


def can_become(former: Any, plan: Plan, now: datetime) -> bool:
    """Returns whether a schedule can be changed into what is wanted: what it has can't be taken away."""
    job = former.create_pipeline_job_request.pipeline_job
    starts_later = former.start_time is not None and former.start_time > now
    return not (
        former.state.name == COMPLETED
        or (former.end_time is not None and plan.end is None)
        or (starts_later and plan.start is None)
        or (job.service_account and not plan.service_account)
        or former.max_run_count
    )


def carried_out(connection: Connection, plan: Plan, ir: str, former: Any, action: str, now: datetime) -> Any:
    """Makes a schedule, or changes the former one, or leaves it.

    Args:
        connection: The connection.
        plan: The schedule.
        ir: The pipeline's IR.
        former: The newest one of its name; None where there is none.
        action: What to do.
        now: The time.

    Returns:
        The schedule that is there now.
    """
    from google.cloud import aiplatform_v1

    if action == "unchanged":
        return former
    request = uuid.uuid4().hex
    marks = {**labels_of(plan.version, plan.experiment), CONTENT: plan.content(), REQUEST: request}
    # The runs' own ids and names are the API's to give.
    run = build_run(connection, ir, plan.parameters, marks, plan.version)
    wanted = aiplatform_v1.Schedule(
        display_name=plan.name,
        cron=plan.cron.expression,
        # A start that is past is none: runs since then are not made up for.
        start_time=plan.start if plan.start and plan.start > now else None,
        end_time=plan.end,
        max_concurrent_run_count=plan.max_concurrency,
        max_concurrent_active_run_count=plan.max_concurrency,
        create_pipeline_job_request={"parent": connection.parent, "pipeline_job": run},
    )
    doing = f"scheduling {plan.name!r}"
    if action == "updated":
        wanted.name = former.name
        changed = ["cron", "max_concurrent_run_count", "max_concurrent_active_run_count", "create_pipeline_job_request"]
        changed += [field for field in ("start_time", "end_time") if field in wanted]
        update = {"schedule": wanted, "update_mask": {"paths": changed}}
        return connection.call(doing, connection.schedules.update_schedule, request=update)

    def newest() -> Any:
        return next((one for one in every_schedule(connection, plan.name) if labels(one).get(REQUEST) == request), None)

    create = {"parent": connection.parent, "schedule": wanted}
    return connection.make(doing, connection.schedules.create_schedule, newest, unique=False, request=create)


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
            facts = {"id": id_of(kept), "left": [id_of(left) for left in older[at:]]}
            done = "is as it was" if action == "unchanged" else "was scheduled anew"
            raise type(error)(
                f"{name!r} {done}, but an older one of this name is there, too, until the same command is run "
                f"again: {error}",
                facts,
            ) from None


def remove(connection: Connection, one: Any) -> None:
    """Removes a schedule; that it is gone already is fine."""
    doing = f"removing schedule {one.display_name!r}"
    try:
        going = connection.call(doing, connection.schedules.delete_schedule, name=one.name)
    except NotFoundError:
        return
    connection.finish(doing, going)


def id_of(one: Any) -> str:
    """Returns a schedule's id."""
    return str(one.name.rpartition("/")[2])


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
        PipelineError: Google refuses or fails.
    """
    found = known(connection, name)
    if not dry_run:
        for one in found:
            remove(connection, one)
    return {"name": name, "action": "removed", "dry_run": dry_run, "ids": [id_of(one) for one in found]}


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
        PipelineError: Google refuses or fails.
    """
    active = [one for one in known(connection, name) if one.state.name == "ACTIVE"]
    return switched(connection, name, active, "paused", connection.schedules.pause_schedule, dry_run)


def resume(connection: Connection, name: str, dry_run: bool = False) -> dict[str, Any]:
    """Lets a schedule go on that rests; of several of this name, which a failure may have left, the newest.

    Args:
        connection: The connection.
        name: Its name.
        dry_run: Whether to show only what would be done.

    Returns:
        What `--json` prints: `name`, `action` ("resumed" or "unchanged"), `dry_run`, `ids`, `status`, `note`.

    Raises:
        UsageError: There is none of this name, or it is over.
        PipelineError: Google refuses or fails.
    """
    newest = known(connection, name)[-1]
    if newest.state.name == COMPLETED:
        raise UsageError(f"schedule {name!r} is over: --schedule it anew, with another --end or none")
    resting = [newest] if newest.state.name == PAUSED else []
    return switched(connection, name, resting, "resumed", connection.schedules.resume_schedule, dry_run)


def switched(
    connection: Connection, name: str, found: list[Any], action: str, switch: Any, dry_run: bool
) -> dict[str, Any]:
    """Pauses or resumes schedules.

    Args:
        connection: The connection.
        name: Their name.
        found: The schedules.
        action: "paused" or "resumed".
        switch: The service's method.
        dry_run: Whether not to.

    Returns:
        See `pause`.
    """
    if not dry_run:
        for one in found:
            connection.call(f"having {name!r} {action}", switch, name=one.name)
    return {
        "name": name,
        "action": action if found else "unchanged",
        "dry_run": dry_run,
        "ids": [id_of(one) for one in found],
        "status": "paused" if action == "paused" else "enabled",
        "note": "runs that it has missed meanwhile are not made up for" if action == "resumed" and found else "",
    }
