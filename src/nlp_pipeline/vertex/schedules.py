"""Schedules on Vertex AI.

The schedule of a name is edited in place. What the API does not let be changed (a start or an end can't be taken away,
nor can what is completed be begun anew) is replaced: a new one is made before the former is removed. Its runs' labels
hold a digest of what was asked for, as the API may say that in other words.
"""

import re
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from nlp_pipeline.errors import UsageError
from nlp_pipeline.pipeline.compiling import compile_pipeline
from nlp_pipeline.platforms import cron, schedules
from nlp_pipeline.platforms.calls import make_once
from nlp_pipeline.platforms.schedules import ENABLED, ENDED, PAUSED, Schedule, ScheduleOptions, Timing, write_time
from nlp_pipeline.vertex.connection import connect
from nlp_pipeline.vertex.pipelines import EXPERIMENT, VERSION, build_run, check_parameters
from nlp_pipeline.vertex.runs import runs

CONTENT, REQUEST = "nlp-pipeline-content", "nlp-pipeline-request"
STATUS = {"ACTIVE": ENABLED, "PAUSED": PAUSED, "COMPLETED": ENDED}
# What is compared, and changed, besides what its runs are.
FIELDS = ("cron", "max_concurrent_run_count", "max_concurrent_active_run_count")
ZONED = re.compile(r"\s*(?:(?:CRON_)?TZ=(\S*)\s+)?(.*)", re.DOTALL)


def read_cron(text: str) -> cron.Cron:
    """Reads a cron expression as Kubeflow's is read, whose first field must be 0; a time zone may stand before it.

    Raises:
        UsageError: It can't be read, the first of six fields is not 0, or there is no such time zone.
    """
    match = ZONED.fullmatch(text)
    zone, fields = match.groups("UTC") if match else ("UTC", text)
    read = cron.read_cron(fields)
    if read.expression.split()[0].strip("0"):
        raise cron.refusal(text, 'Vertex AI knows no seconds: write 0 for the first field, as in "0 0 2 * * *"')
    try:
        ZoneInfo(zone)
    except (LookupError, ValueError, OSError):
        raise cron.refusal(text, f"there is no time zone {zone!r}: write it as in TZ=Europe/Berlin") from None
    return replace(read, zone=zone)


def label(content: Any, name: str) -> str:
    """Returns a label that a schedule gives its runs; empty where there is none."""
    return str(content.create_pipeline_job_request.pipeline_job.labels.get(name, ""))


class Schedules(schedules.Schedules):
    """Those of the project and region; their contents are schedules of pipelines."""

    platform = "Vertex AI"
    longest_name = 128
    when_resumed = "runs that it has missed meanwhile are not made up for"

    def read(self, options: ScheduleOptions, values: dict[str, Any]) -> Timing:
        if options.catch_up:
            raise UsageError("--catch-up: on Vertex AI missed runs are made up for only by resuming in the console")
        check_parameters(values)
        return options.read(read_cron, self.platform, self.longest_name)

    def list_schedules(self) -> list[Schedule]:
        connection = connect(self.settings)
        # Few at once, as each has its runs' whole pipeline in it.
        request = {"parent": connection.parent, "filter": "create_pipeline_job_request:*", "page_size": 20}
        every = connection.call("listing schedules", connection.service("Schedule").list_schedules, request=request)
        return [_read_schedule(item) for item in sorted(every, key=lambda item: (item.create_time, item.name))]

    def build(self, timing: Timing, values: dict[str, Any], former: Any, dry_run: bool) -> Any:
        from google.cloud import aiplatform_v1

        connection = connect(self.settings)
        connection.check_bucket()
        # The runs' own ids and names are the API's to give.
        ir = compile_pipeline(self.settings.image or None, "vertex")
        run = build_run(connection, ir, values, {REQUEST: uuid.uuid4().hex})
        config = run.runtime_config
        asked = [run.labels[VERSION], run.labels[EXPERIMENT], dict(config.parameter_values)]
        asked += [config.gcs_output_directory, run.service_account, timing.start, timing.end]
        run.labels[CONTENT] = schedules.digest(*asked)
        return aiplatform_v1.Schedule(
            display_name=timing.name,
            cron=f"TZ={timing.cron.zone} {timing.cron.expression.partition(' ')[2]}",
            start_time=timing.later_start,  # runs since a start that is past are not made up for
            end_time=timing.end,
            max_concurrent_run_count=timing.max_concurrency,
            max_concurrent_active_run_count=timing.max_concurrency,
            create_pipeline_job_request={"parent": connection.parent, "pipeline_job": run},
        )

    def choose_action(self, former: Any, desired: Any) -> str:
        if former.state.name == "COMPLETED":
            return "replaced"
        is_same = all(getattr(former, name) == getattr(desired, name) for name in FIELDS)
        if is_same and label(former, CONTENT) == label(desired, CONTENT):
            return "unchanged"
        # What it has can't be taken away.
        account, other = (item.create_pipeline_job_request.pipeline_job.service_account for item in (former, desired))
        loses_start = former.start_time and former.start_time > datetime.now(UTC) and not desired.start_time
        loses_end = former.end_time and not desired.end_time
        is_lost = loses_start or loses_end or former.max_run_count or (account and not other)
        return "replaced" if is_lost else "updated"

    def send(self, desired: Any, former: Schedule | None) -> Schedule:
        connection, doing = connect(self.settings), f"scheduling {desired.display_name!r}"
        service = connection.service("Schedule")
        if former:
            desired.name = former.content.name
            changed = [*FIELDS, "create_pipeline_job_request"]
            changed += [field for field in ("start_time", "end_time") if field in desired]
            update = {"schedule": desired, "update_mask": {"paths": changed}}
            return _read_schedule(connection.call(doing, service.update_schedule, request=update))

        def find() -> Any:
            own = (item.content for item in self.named(desired.display_name))
            return next((item for item in own if label(item, REQUEST) == label(desired, REQUEST)), None)

        request = {"parent": connection.parent, "schedule": desired}
        send = partial(connection.call, doing, service.create_schedule, repeat=False, request=request)
        return _read_schedule(make_once(doing, send, find, unique=False))

    def change(self, doing: str, verb: str, schedule: Schedule) -> None:
        connection = connect(self.settings)
        method = getattr(connection.service("Schedule"), f"{verb}_schedule")
        connection.call(doing, method, name=schedule.content.name)

    def describe(self, content: Any) -> dict[str, Any]:
        from google.protobuf.json_format import MessageToDict

        job = content.create_pipeline_job_request.pipeline_job
        config = MessageToDict(type(job).pb(job).runtime_config)
        return {
            "cron": content.cron,
            "version": label(content, VERSION),
            "experiment": label(content, EXPERIMENT),
            "max_concurrency": content.max_concurrent_active_run_count or content.max_concurrent_run_count,
            "start": content.start_time and write_time(content.start_time),
            "end": content.end_time and write_time(content.end_time),
            "service_account": job.service_account,
            "bucket": config.get("gcsOutputDirectory", ""),
            "parameters": config.get("parameterValues", {}),
        }

    def last_runs(self, schedule: Schedule, count: int) -> list[dict[str, Any]]:
        return runs(self.settings, count, f"schedule_name={schedule.content.name}")


def _read_schedule(item: Any) -> Schedule:
    status = STATUS.get(item.state.name, item.state.name.lower())
    coming = item.next_run_time if status == ENABLED else None
    return Schedule(item.display_name, item.name.rpartition("/")[2], status, item.create_time, coming, item)
