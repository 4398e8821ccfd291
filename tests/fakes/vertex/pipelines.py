"""Vertex AI's pipeline jobs and schedules: what is refused, and how a job goes on each time that it is read."""

import copy
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim
from google.cloud import aiplatform_v1
from google.protobuf import empty_pb2, field_mask_pb2, json_format
from google.protobuf.struct_pb2 import Value
from kfp.pipeline_spec import pipeline_spec_pb2

from tests.fakes.vertex.rest import Json, Operations, RefusedError, Request, as_json, check_mask, list_of, plain, read

Schedule, State = aiplatform_v1.Schedule, aiplatform_v1.PipelineState
Task = aiplatform_v1.PipelineTaskDetail
RUN_ID = re.compile(r"[a-z][-a-z0-9]{0,127}")
ZONED = re.compile(r"((CRON_)?TZ=[\w/+-]+ )?(\S+ ){4}\S+")
KINDS = {"STRING": "string_value", "NUMBER_INTEGER": "number_value", "NUMBER_DOUBLE": "number_value"}


@dataclass(frozen=True)
class Fate:
    """What becomes of a job; time passes only when it is read by its name, and each read ends a task."""

    ends: str | None = "SUCCEEDED"  # its last state, or FAILED or CANCELLED; None if it never ends
    pending: int = 0  # how many reads it stays PENDING for
    failing: str = ""  # the task that fails, and the job with it
    reason: str = "The replica workerpool0-0 exited with a non-zero status of 1."
    not_triggered: tuple[str, ...] = ()  # conditions that aren't fulfilled
    cached: tuple[str, ...] = ()  # tasks that are answered from the cache
    display_names: bool = False  # whether tasks are called by their display names


def check_job(job: Any) -> None:
    """Makes sure that a job can be made: its spec is one, its parameters are the spec's, and labels are labels."""
    for name, value in job.labels.items():
        if not (re.fullmatch(r"[a-z0-9_-]{0,63}", value) and re.fullmatch("[a-z][a-z0-9_-]{0,62}", name)):
            raise RefusedError(400, f"Invalid label: {name}={value}")
    spec, config = pipeline_spec_pb2.PipelineSpec(), plain(job).runtime_config
    json_format.ParseDict(as_json(plain(job).pipeline_spec), spec)
    if not 0 < len(job.display_name) <= 128 or not re.fullmatch(
        r"gs://[a-z0-9._-]+(/.+)?", config.gcs_output_directory
    ):
        raise RefusedError(
            400, "display_name must have 1 to 128 characters, gcs_output_directory must begin with gs://."
        )
    check_parameters(dict(config.parameter_values), spec.root.input_definitions.parameters)


def check_parameters(values: dict[str, Value], inputs: Any) -> None:
    """Makes sure that parameters are those of the pipeline, in their types."""
    kinds = pipeline_spec_pb2.ParameterType.ParameterTypeEnum
    for name, value in values.items():
        kind = kinds.Name(inputs[name].parameter_type) if name in inputs else "unknown"
        is_right = value.WhichOneof("kind") == KINDS.get(kind, "bool_value")
        if not is_right or (kind == "NUMBER_INTEGER" and value.number_value != int(value.number_value)):
            raise RefusedError(400, f"The input parameter {name} is not of type {kind}.")
    for name, item in inputs.items():
        if not (name in values or item.is_optional or item.HasField("default_value")):
            raise RefusedError(400, f"The input parameter {name} is required.")


class Job:
    """A job, which goes on as its fate says with each `read`."""

    def __init__(self, job: Any, fate: Fate, started: datetime) -> None:
        self.job, self.fate, self._started = job, fate, started
        self._spec, self._reads = as_json(plain(job).pipeline_spec), 0
        job.state = State.PIPELINE_STATE_PENDING

    def read(self) -> None:
        if self.job.end_time is not None:
            return
        self._reads += 1
        left = self._reads - self.fate.pending - 1
        if left < 0:
            return
        details: list[Any] = []
        self.job.state, ends = State.PIPELINE_STATE_RUNNING, self.fate.ends
        for name, task, triggered in self._tasks(self._spec["root"]["dag"], True):
            if left < 0 and triggered and ends != "FAILED":  # what is not its turn yet is not told
                ends = None
                continue
            shown = task.get("taskInfo", {}).get("name", name) if self.fate.display_names else name
            detail: Any = Task(task_id=len(details) + 1, task_name=shown, create_time=self._started)
            details.append(detail)
            if not triggered or left < 0:
                detail.state = Task.State.NOT_TRIGGERED
                continue
            self._run(name, task, detail, is_over=left > 0)
            left -= 1
            if detail.state == Task.State.FAILED:
                ends, left = "FAILED", -1
            elif detail.state == Task.State.RUNNING:
                ends = None
        self.job.job_detail = aiplatform_v1.PipelineJobDetail(task_details=details)
        if ends is not None:
            self.job.state = getattr(State, f"PIPELINE_STATE_{ends}")
            self.job.end_time = self._started + timedelta(seconds=60)

    def _tasks(self, dag: Json, triggered: bool) -> Iterator[tuple[str, Json, bool]]:
        """Yields the tasks of a graph that are no graphs, each after those that it depends on."""
        done: list[str] = []
        while len(done) < len(dag["tasks"]):
            name, task = next(
                (name, task)
                for name, task in sorted(dag["tasks"].items())
                if name not in done and set(task.get("dependentTasks", [])) <= set(done)
            )
            done.append(name)
            reached = triggered and name not in self.fate.not_triggered
            inner = self._spec["components"][task["componentRef"]["name"]].get("dag")
            yield from self._tasks(inner, reached) if inner else [(name, task, reached)]

    def _run(self, name: str, task: Json, detail: Any, is_over: bool) -> None:
        detail.start_time = self._started + timedelta(seconds=1)
        detail.state = Task.State.RUNNING
        detail.executor_detail.container_detail.main_job = f"projects/1/locations/r/customJobs/job-{name}"
        if not is_over:
            return
        detail.end_time = self._started + timedelta(seconds=8)
        if name == self.fate.failing:
            detail.error, detail.state = {"code": 13, "message": self.fate.reason}, Task.State.FAILED
            return
        detail.state = Task.State.SKIPPED if name in self.fate.cached else Task.State.SUCCEEDED
        place = f"{self.job.runtime_config.gcs_output_directory}/1/{self.job.display_name}/{name}_{detail.task_id}"
        component = self._spec["components"][task["componentRef"]["name"]]
        for output in component.get("outputDefinitions", {}).get("artifacts", {}):
            detail.outputs[output] = {"artifacts": [{"uri": f"{place}/{output}"}]}


class Pipelines:
    """Pipeline jobs and schedules of a place, by name; `fate` is what becomes of jobs that are made from now on.

    A paused schedule that is changed goes on if it `wakes`, as no one says that it doesn't. `page` is how many items a
    page has at most.
    """

    def __init__(self, place: str, clock: Any, operations: Operations) -> None:
        self._place, self._clock, self._operations = place, clock, operations
        self.jobs: dict[str, Job] = {}
        self.schedules: dict[str, Any] = {}
        self.fate, self.wakes, self.page = Fate(), False, 100

    def create_job(self, request: Request) -> Json:
        return as_json(self.make_job(read(aiplatform_v1.PipelineJob, request), dict(request.query)["pipelineJobId"]))

    def make_job(self, job: Any, run_id: str) -> Any:
        """Makes a job, as a request or a schedule wants it."""
        if not RUN_ID.fullmatch(run_id):
            raise RefusedError(400, f"Invalid pipeline job id: {run_id!r}")
        name = f"{self._place}/pipelineJobs/{run_id}"
        if name in self.jobs:
            raise RefusedError(409, f"PipelineJob {name} already exists.")
        check_job(job)
        job.name, job.create_time = name, self._clock()
        self.jobs[name] = Job(job, self.fate, job.create_time)
        return job

    def get_job(self, request: Request, name: str) -> Json:
        job = self._find(self.jobs, f"pipelineJobs/{name}")
        job.read()
        return as_json(job.job)

    def list_jobs(self, request: Request) -> Json:
        kind, result = aiplatform_v1.ListPipelineJobsRequest, [item.job for item in self.jobs.values()]
        return list_of(kind, request, result, "pipelineJobs", ("display_name", "schedule_name"), self.page)

    def create_schedule(self, request: Request) -> Json:
        schedule = read(Schedule, request)
        self._check(schedule)
        schedule.name = f"{self._place}/schedules/{uuid.uuid4().int % 10**19}"
        schedule.create_time = self._clock()
        schedule.start_time = schedule.start_time or schedule.create_time
        schedule.state = Schedule.State.ACTIVE
        self.schedules[schedule.name] = schedule
        return as_json(schedule)

    def list_schedules(self, request: Request) -> Json:
        kind, result = aiplatform_v1.ListSchedulesRequest, self.schedules.values()
        for item in result:
            zone, _, fields = item.cron.partition(" ")
            item.next_run_time = next(CronSim(fields, datetime.now(ZoneInfo(zone.partition("=")[2]))))
        return list_of(kind, request, result, "schedules", ("create_pipeline_job_request",), self.page)

    def update_schedule(self, request: Request, name: str) -> Json:
        """Changes a schedule: what its mask names is replaced, and nothing can be taken away."""
        schedule, expected = self._find(self.schedules, f"schedules/{name}"), read(Schedule, request)
        if schedule.state == Schedule.State.COMPLETED:
            raise RefusedError(400, "A completed schedule can't be updated.")
        mask = field_mask_pb2.FieldMask()
        mask.FromJsonString(dict(request.query).get("updateMask", ""))
        changed = copy.deepcopy(schedule)
        for path in check_mask(schedule, list(mask.paths)).paths:
            if path in schedule and getattr(schedule, path) and not getattr(expected, path):
                raise RefusedError(400, f"The non-empty field {path} cannot be unset.")
            setattr(changed, path, getattr(expected, path))
        self._check(changed)
        if self.wakes:
            changed.state = Schedule.State.ACTIVE
        self.schedules[schedule.name] = changed
        return as_json(changed)

    def delete_schedule(self, request: Request, name: str) -> Json:
        full = self._find(self.schedules, f"schedules/{name}").name

        def remove() -> Any:
            self.schedules.pop(full, None)
            return empty_pb2.Empty()

        return self._operations.begin(full, "delete schedule", remove)

    def pause_schedule(self, request: Request, name: str) -> Json:
        return self._switch(name, Schedule.State.ACTIVE, Schedule.State.PAUSED)

    def resume_schedule(self, request: Request, name: str) -> Json:
        return self._switch(name, Schedule.State.PAUSED, Schedule.State.ACTIVE)

    def fire(self, schedule: Any, at: datetime | None = None) -> Any:
        job = copy.deepcopy(schedule.create_pipeline_job_request.pipeline_job)
        job.schedule_name = schedule.name
        made = self.make_job(job, f"nlp-pipeline-{len(self.jobs) + 1:014}")
        made.create_time = at or made.create_time
        return made

    def _switch(self, name: str, former: Any, state: Any) -> Json:
        schedule = self._find(self.schedules, f"schedules/{name}")
        if schedule.state != former:
            raise RefusedError(400, f"The schedule is {schedule.state.name}.")
        schedule.state = state
        return {}

    @staticmethod
    def _check(schedule: Any) -> None:
        asked = schedule.create_pipeline_job_request
        if not ZONED.fullmatch(schedule.cron) or schedule.max_concurrent_run_count < 1:
            raise RefusedError(400, f"Invalid cron or max_concurrent_run_count: {schedule.cron}")
        if not re.fullmatch(r"projects/[^/]+/locations/[^/]+", asked.parent):
            raise RefusedError(400, "create_pipeline_job_request.parent is required.")
        if asked.pipeline_job_id or asked.pipeline_job.name:
            raise RefusedError(400, "A scheduled run's id can't be given.")
        if schedule.start_time and schedule.end_time and schedule.start_time >= schedule.end_time:
            raise RefusedError(400, "start_time must be before end_time.")
        check_job(asked.pipeline_job)

    def _find(self, among: dict[str, Any], name: str) -> Any:
        full = f"{self._place}/{name}"
        if full not in among:
            raise RefusedError(404, f"{full} is not found.")
        return among[full]
