"""Vertex AI's services for pipeline jobs and for schedules."""

import copy
import re
import uuid
from datetime import datetime
from typing import Any

from google.cloud import aiplatform_v1
from google.protobuf import empty_pb2, field_mask_pb2

from tests.fakes.httpd import Request
from tests.vertex.jobs import RUN_ID, Fate, Progress, check_job
from tests.vertex.rest import Json, Operations, RefusedError, chosen, page_of, read, read_query, told

Schedule = aiplatform_v1.Schedule
ZONED = re.compile(r"((CRON_)?TZ=[\w/+-]+ )?(\S+ ){4}\S+")
OUTPUT = ("name", "state", "create_time", "update_time", "next_run_time", "started_run_count", "catch_up")


class Pipelines:
    """Pipeline jobs and schedules of one project and region.

    Args:
        place: The beginning of their names, with the project's number.
        clock: Tells the time; it goes on with each call.
        operations: Where long-running operations are.

    Attributes:
        jobs: The jobs, by name, in the order in which they were made.
        schedules: The schedules.
        fate: What becomes of jobs that are made from now on.
        accounts: The service accounts that jobs may run as.
        wakes: Whether a paused schedule that is changed goes on, as no one says that it doesn't.
        page: How many items a page has at most.
    """

    def __init__(self, place: str, clock: Any, operations: Operations) -> None:
        self._place, self._clock, self._operations = place, clock, operations
        self.jobs: dict[str, Progress] = {}
        self.schedules: dict[str, Any] = {}
        self.fate = Fate()
        self.accounts: set[str] = set()
        self.wakes = False
        self.page = 100

    def create_job(self, request: Request) -> Json:
        """Makes a job."""
        run_id = dict(request.query).get("pipelineJobId", "")
        return told(self.make_job(read(aiplatform_v1.PipelineJob, request), run_id))

    def make_job(self, job: Any, run_id: str) -> Any:
        """Makes a job, as a request or a schedule wants it."""
        if not RUN_ID.fullmatch(run_id):
            raise RefusedError(400, f"Invalid pipeline job id: {run_id!r}")
        name = f"{self._place}/pipelineJobs/{run_id}"
        if name in self.jobs:
            raise RefusedError(409, f"PipelineJob {name} already exists.")
        check_job(job)
        if job.service_account and job.service_account not in self.accounts:
            raise RefusedError(
                403, f"You do not have permission to act as service_account: {job.service_account}. "
                "(or it may not exist)."
            )  # fmt: skip
        job.name, job.create_time = name, self._clock()
        self.jobs[name] = Progress(job, self.fate, job.create_time)
        return job

    def get_job(self, request: Request, name: str) -> Json:
        """Reads a job, which goes on by that."""
        progress = self._find(self.jobs, f"{self._place}/pipelineJobs/{name}")
        progress.read()
        return told(progress.job)

    def list_jobs(self, request: Request) -> Json:
        """Lists jobs."""
        asked = read_query(aiplatform_v1.ListPipelineJobsRequest, request)
        found = chosen([one.job for one in self.jobs.values()], asked.filter, ("display_name", "schedule_name"))
        return page_of(found, asked, "pipelineJobs", self.page)

    def cancel_job(self, request: Request, name: str) -> Json:
        """Cancels a job."""
        job = self._find(self.jobs, f"{self._place}/pipelineJobs/{name}").job
        job.state = aiplatform_v1.PipelineState.PIPELINE_STATE_CANCELLING
        return {}

    def create_schedule(self, request: Request) -> Json:
        """Makes a schedule."""
        schedule = read(Schedule, request)
        self._check(schedule)
        for field in OUTPUT:
            setattr(schedule, field, None)
        schedule.name = f"{self._place}/schedules/{uuid.uuid4().int % 10**19}"
        schedule.create_time = self._clock()
        schedule.start_time = schedule.start_time or schedule.create_time
        schedule.state = Schedule.State.ACTIVE
        self.schedules[schedule.name] = schedule
        return told(schedule)

    def get_schedule(self, request: Request, name: str) -> Json:
        """Reads a schedule."""
        return told(self._find(self.schedules, f"{self._place}/schedules/{name}"))

    def list_schedules(self, request: Request) -> Json:
        """Lists schedules."""
        asked = read_query(aiplatform_v1.ListSchedulesRequest, request)
        fields = ("display_name", "create_pipeline_job_request")
        return page_of(chosen(self.schedules.values(), asked.filter, fields), asked, "schedules", self.page)

    def update_schedule(self, request: Request, name: str) -> Json:
        """Changes a schedule: what its mask names is replaced, and nothing can be taken away."""
        schedule = self._find(self.schedules, f"{self._place}/schedules/{name}")
        if schedule.state == Schedule.State.COMPLETED:
            raise RefusedError(400, "A completed schedule can't be updated.")
        mask = field_mask_pb2.FieldMask()
        mask.FromJsonString(dict(request.query).get("updateMask", ""))
        wanted = read(Schedule, request)
        if not mask.paths or not mask.IsValidForDescriptor(Schedule.pb(schedule).DESCRIPTOR):
            raise RefusedError(400, f"Invalid update mask: {mask.paths}")
        changed = copy.deepcopy(schedule)
        for path in mask.paths:
            if path in OUTPUT:
                continue
            if path in schedule and getattr(schedule, path) and not getattr(wanted, path):
                raise RefusedError(400, f"The non-empty field {path} cannot be unset.")
            setattr(changed, path, getattr(wanted, path))
        self._check(changed)
        if self.wakes:
            changed.state = Schedule.State.ACTIVE
        changed.update_time = self._clock()
        self.schedules[schedule.name] = changed
        return told(changed)

    def delete_schedule(self, request: Request, name: str) -> Json:
        """Removes a schedule."""
        full = self._find(self.schedules, f"{self._place}/schedules/{name}").name

        def remove() -> Any:
            self.schedules.pop(full, None)
            return empty_pb2.Empty()

        return self._operations.begin(full, "delete schedule", remove)

    def pause_schedule(self, request: Request, name: str) -> Json:
        """Lets a schedule rest."""
        return self._switch(name, Schedule.State.ACTIVE, Schedule.State.PAUSED)

    def resume_schedule(self, request: Request, name: str) -> Json:
        """Lets it go on."""
        return self._switch(name, Schedule.State.PAUSED, Schedule.State.ACTIVE)

    def fire(self, schedule: Any, at: datetime | None = None) -> Any:
        """Has a schedule make a run, and returns it."""
        job = copy.deepcopy(schedule.create_pipeline_job_request.pipeline_job)
        job.schedule_name = schedule.name
        made = self.make_job(job, f"nlp-pipeline-{len(self.jobs) + 1:014}")
        made.create_time = at or made.create_time
        return made

    def _switch(self, name: str, former: Any, state: Any) -> Json:
        schedule = self._find(self.schedules, f"{self._place}/schedules/{name}")
        if schedule.state != former:
            raise RefusedError(400, f"The schedule is {schedule.state.name}.")
        schedule.state = state
        return {}

    def _check(self, schedule: Any) -> None:
        job_request = schedule.create_pipeline_job_request
        if not 0 < len(schedule.display_name) <= 128:
            raise RefusedError(400, "display_name must have 1 to 128 characters.")
        if not ZONED.fullmatch(schedule.cron):
            raise RefusedError(400, f"Invalid cron: {schedule.cron}")
        if schedule.max_concurrent_run_count < 1:
            raise RefusedError(400, "max_concurrent_run_count is required.")
        if not re.fullmatch(r"projects/[^/]+/locations/[^/]+", job_request.parent):
            raise RefusedError(400, "create_pipeline_job_request.parent is required.")
        if job_request.pipeline_job_id or job_request.pipeline_job.name:
            raise RefusedError(400, "A scheduled run's id can't be given.")
        if schedule.start_time and schedule.end_time and schedule.start_time >= schedule.end_time:
            raise RefusedError(400, "start_time must be before end_time.")
        check_job(job_request.pipeline_job)

    @staticmethod
    def _find(among: dict[str, Any], name: str) -> Any:
        if name not in among:
            raise RefusedError(404, f"{name} is not found.")
        return among[name]
