"""Recurring runs of the pipeline.

A recurring run of Kubeflow can't be changed, and several may have the same name. So a new one is made before the old
ones of its name are removed: what fails in between leaves two, never none, and the next call removes the older.
"""

import contextlib
import re
import uuid
from datetime import UTC, datetime
from typing import Any

from nlp_pipeline.errors import UsageError
from nlp_pipeline.kubeflow import pipelines
from nlp_pipeline.kubeflow.connection import connect
from nlp_pipeline.kubeflow.runs import runs
from nlp_pipeline.pipeline.compiling import version_name
from nlp_pipeline.platforms import schedules
from nlp_pipeline.platforms.calls import NotFoundError
from nlp_pipeline.platforms.cron import next_times, read_cron
from nlp_pipeline.platforms.schedules import ENABLED, ENDED, PAUSED, Schedule, ScheduleOptions, Timing, write_time

# What a recurring run that was made here carries in its description: a digest of what it is made of.
CONTENT = re.compile("content ([0-9a-f]{16})")


class Schedules(schedules.Schedules):
    """Those of the user's namespace; their contents are recurring runs."""

    platform = "Kubeflow"
    longest_name = 255  # of a column of KFP's database: backend/src/apiserver/model/job.go
    kills_runs = True
    when_resumed = "if a time has passed meanwhile, Kubeflow starts a run at once"

    def read(self, options: ScheduleOptions, values: dict[str, Any]) -> Timing:
        pipelines.check_parameters(self.settings, values)
        return options.read(read_cron, self.platform, self.longest_name)

    def list_schedules(self) -> list[Schedule]:
        connection = connect(self.settings)
        items = connection.list_all("recurring_runs", namespace=connection.namespace)
        return [_read_schedule(item) for item in sorted(items, key=lambda item: item.created_at)]

    def build(self, timing: Timing, values: dict[str, Any], former: Any, dry_run: bool) -> Any:
        import kfp_server_api  # type: ignore[import-untyped]

        ir, version, experiment_id = pipelines.compiled(self.settings), None, None
        if not dry_run:
            connection = connect(self.settings)
            version = pipelines.upload_version(connection, ir).reference
            experiment_id = pipelines.get_experiment(connection, self.settings.experiment)
        when = [timing.cron.expression, timing.start, timing.end, timing.catch_up, timing.max_concurrency]
        account, experiment = self.settings.service_account, self.settings.experiment
        digest = schedules.digest(version_name(ir), experiment, account, values, when)
        # Where its start is past, Kubeflow makes up for what was missed: all with catch-up, otherwise the last of it.
        start = timing.start if timing.catch_up and former is None else timing.later_start
        cron = kfp_server_api.V2beta1CronSchedule(cron=timing.cron.expression, start_time=start, end_time=timing.end)
        return kfp_server_api.V2beta1RecurringRun(
            display_name=timing.name,
            # By the request it is found again where the answer is lost.
            description=f"Made by nlp-pipeline --schedule: content {digest}, request {uuid.uuid4().hex}",
            pipeline_version_reference=version,
            runtime_config=kfp_server_api.V2beta1RuntimeConfig(parameters=values),
            experiment_id=experiment_id,
            service_account=account or None,
            max_concurrency=str(timing.max_concurrency),
            no_catchup=not timing.catch_up,
            trigger=kfp_server_api.V2beta1Trigger(cron_schedule=cron),
            mode="DISABLE" if former and former.mode == "DISABLE" else "ENABLE",
        )

    def choose_action(self, former: Any, desired: Any) -> str:
        # A version or an experiment of the same name may be another one; a dry run has not made them.
        for name in ("pipeline_version_reference", "experiment_id"):
            if getattr(desired, name) not in (None, getattr(former, name)):
                return "replaced"
        digests = [CONTENT.findall(item.description or "") for item in (former, desired)]  # others' have none
        return "unchanged" if digests[0] == digests[1] else "replaced"

    def send(self, desired: Any, former: Schedule | None) -> Schedule:
        connection, name = connect(self.settings), desired.display_name

        def find() -> Any:
            named = self.named(name)
            return next((item.content for item in named if item.content.description == desired.description), None)

        method = connection.recurring_runs.recurring_run_service_create_recurring_run
        item = connection.create(f"scheduling {name!r}", method, find, desired)
        return _read_schedule(item)

    def change(self, doing: str, verb: str, schedule: Schedule) -> None:
        connection, own = connect(self.settings), {"pause": "disable", "resume": "enable"}.get(verb, verb)
        method = getattr(connection.recurring_runs, f"recurring_run_service_{own}_recurring_run")
        # From 2.16 on, Kubeflow can leave a schedule's runs alone; before, it ignores that, and kills what goes on.
        options: dict[str, Any] = {"propagation_policy": "ORPHAN"} if verb == "delete" else {}
        connection.call(doing, method, schedule.id, **options)

    def describe(self, content: Any) -> dict[str, Any]:
        source, by_cron = content.pipeline_version_reference, content.trigger.cron_schedule
        start, end = _read_bounds(content)
        return {
            "cron": by_cron.cron if by_cron else f"@every {content.trigger.periodic_schedule.interval_second}s",
            "pipeline_id": source and source.pipeline_id,
            "version_id": source and source.pipeline_version_id,
            "experiment_id": content.experiment_id,
            "catch_up": not content.no_catchup,
            "max_concurrency": int(content.max_concurrency or 1),
            "start": start and write_time(start),
            "end": end and write_time(end),
            "service_account": content.service_account or "",
            "parameters": (content.runtime_config and content.runtime_config.parameters) or {},
        }

    def look_up(self, content: Any) -> dict[str, Any]:
        connection, source = connect(self.settings), content.pipeline_version_reference
        version = source and source.pipeline_version_id
        if version:
            read = connection.pipelines.pipeline_service_get_pipeline_version
            # Where it was removed, or is another user's, its id stands for it.
            with contextlib.suppress(NotFoundError, UsageError):
                version = connection.call("reading a version", read, source.pipeline_id, version).display_name
        return {"version": version or (source and "the newest")}

    def last_runs(self, schedule: Schedule, count: int) -> list[dict[str, Any]]:
        of_it = {"key": "recurring_run_id", "operation": "EQUALS", "string_value": schedule.id}
        return runs(self.settings, count, of_it)


def _read_bounds(item: Any) -> tuple[datetime | None, ...]:
    """Returns a recurring run's start and end; by the beginning of 1970 Kubeflow means none."""
    when = item.trigger.cron_schedule or item.trigger.periodic_schedule
    return tuple(time if time and time.timestamp() > 0 else None for time in (when.start_time, when.end_time))


def _read_schedule(item: Any) -> Schedule:
    now, following = datetime.now(UTC), None
    start, end = _read_bounds(item)
    with contextlib.suppress(UsageError):  # of others, which may be what only Kubeflow reads
        cron = read_cron(item.trigger.cron_schedule.cron) if item.trigger.cron_schedule else None
        if cron and not cron.became:  # for Kubeflow five fields lack the day of the week
            following = next_times(cron, 1, max(now, start or now))[0]
    status = PAUSED if item.mode == "DISABLE" else ENDED if end and (following or now) > end else ENABLED
    coming = following if status == ENABLED else None
    return Schedule(item.display_name, item.recurring_run_id, status, item.created_at, coming, item)
