"""Vertex AI's pipeline jobs: what is refused, and how one goes on each time that it is read.

A task that a condition leaves out is NOT_TRIGGERED, and so are those behind it; one from the cache is SKIPPED.
"""

import dataclasses
import re
from datetime import datetime, timedelta
from typing import Any

from google.cloud import aiplatform_v1
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value
from kfp.pipeline_spec import pipeline_spec_pb2

from tests.vertex.rest import Json, RefusedError

Task = aiplatform_v1.PipelineTaskDetail
State = aiplatform_v1.PipelineState
RUN_ID = re.compile(r"[a-z][-a-z0-9]{0,127}")
LABEL = re.compile(r"[a-z0-9_-]{0,63}")
KINDS = {"STRING": "string_value", "NUMBER_INTEGER": "number_value", "NUMBER_DOUBLE": "number_value"}


@dataclasses.dataclass(frozen=True)
class Fate:
    """What becomes of a job; time passes only when it is read by its name.

    Attributes:
        ends: Its last state, SUCCEEDED, FAILED or CANCELLED; None if it never ends.
        pending: How many reads it stays PENDING for; after that, each read ends a task.
        failing: The name of the task that fails, and the job with it.
        reason: Why.
        not_triggered: Names of the conditions that aren't fulfilled.
        cached: Names of the tasks that are answered from the cache.
        display_names: Whether tasks are told by their display names.
    """

    ends: str | None = "SUCCEEDED"
    pending: int = 0
    failing: str = ""
    reason: str = "The replica workerpool0-0 exited with a non-zero status of 1."
    not_triggered: tuple[str, ...] = ()
    cached: tuple[str, ...] = ()
    display_names: bool = False


def check_job(job: Any) -> None:
    """Makes sure that a job can be made.

    Raises:
        RefusedError: It can't.
    """
    if not 0 < len(job.display_name) <= 128:
        raise RefusedError(400, "display_name must have 1 to 128 characters.")
    for name, value in job.labels.items():
        if not (LABEL.fullmatch(value) and re.fullmatch("[a-z][a-z0-9_-]{0,62}", name)):
            raise RefusedError(400, f"Invalid label: {name}={value}")
    spec = pipeline_spec_pb2.PipelineSpec()
    try:
        json_format.ParseDict(spec_of(job), spec)
    except json_format.ParseError as error:
        raise RefusedError(400, f"Invalid pipeline spec: {error}") from None
    config = type(job).pb(job).runtime_config
    if not re.fullmatch(r"gs://[a-z0-9._-]+(/.+)?", config.gcs_output_directory):
        raise RefusedError(400, "gcs_output_directory must begin with gs://.")
    check_parameters(dict(config.parameter_values), spec.root.input_definitions.parameters)


def check_parameters(values: dict[str, Value], inputs: Any) -> None:
    """Makes sure that parameters are those of the pipeline, in their types.

    Raises:
        RefusedError: They are not.
    """
    kinds = pipeline_spec_pb2.ParameterType.ParameterTypeEnum
    for name, value in values.items():
        if name not in inputs:
            raise RefusedError(400, f"The input parameter {name} is not defined in the pipeline.")
        kind = kinds.Name(inputs[name].parameter_type)
        is_right = value.WhichOneof("kind") == KINDS.get(kind, "bool_value")
        if not is_right or (kind == "NUMBER_INTEGER" and value.number_value != int(value.number_value)):
            raise RefusedError(400, f"The input parameter {name} is not of type {kind}.")
    for name, one in inputs.items():
        if not (name in values or one.is_optional or one.HasField("default_value")):
            raise RefusedError(400, f"The input parameter {name} is required.")


def spec_of(job: Any) -> Json:
    """Returns a job's pipeline."""
    found: Json = json_format.MessageToDict(type(job).pb(job).pipeline_spec)
    return found


def ordered(dag: Json) -> list[str]:
    """Returns the names of a graph's tasks, each after those that it depends on."""
    found: list[str] = []
    while len(found) < len(dag["tasks"]):
        ready = [
            name
            for name, task in sorted(dag["tasks"].items())
            if name not in found and set(task.get("dependentTasks", [])) <= set(found)
        ]
        found.append(ready[0])
    return found


class Progress:
    """How far a job is.

    Args:
        job: The job, which is changed with each step.
        fate: What becomes of it.
        started: When it was made.
    """

    def __init__(self, job: Any, fate: Fate, started: datetime) -> None:
        self.job, self.fate, self._started = job, fate, started
        self._spec = spec_of(job)
        self._reads = 0
        job.state = State.PIPELINE_STATE_PENDING

    def read(self) -> None:
        """Lets time pass."""
        if self.job.state in (State.PIPELINE_STATE_CANCELLING, State.PIPELINE_STATE_CANCELLED):
            self._end("CANCELLED")
            return
        if self.job.end_time is not None:
            return
        self._reads += 1
        if self._reads <= self.fate.pending:
            return
        self.job.state = State.PIPELINE_STATE_RUNNING
        self._left = self._reads - self.fate.pending - 1
        self._details: list[Any] = []
        state = self._walk(self._spec["root"]["dag"], 0, reached=True)
        self.job.job_detail = aiplatform_v1.PipelineJobDetail(task_details=self._details)
        if state == "FAILED" or (state == "SUCCEEDED" and self.fate.ends is not None):
            self._end("FAILED" if state == "FAILED" else str(self.fate.ends))

    def _end(self, state: str) -> None:
        self.job.state = getattr(State, f"PIPELINE_STATE_{state}")
        self.job.end_time = self._started + timedelta(seconds=60)

    def _walk(self, dag: Json, parent: int, reached: bool) -> str:
        """Adds the details of a graph's tasks, and returns the graph's state."""
        states: dict[str, str] = {}
        for name in ordered(dag):
            task = dag["tasks"][name]
            inner = self._spec["components"][task["componentRef"]["name"]].get("dag")
            needs = {states[one] for one in task.get("dependentTasks", [])}
            at = len(self._details) + 1
            if reached and needs & {"PENDING", "RUNNING", "WAITING"}:
                states[name] = "WAITING"  # what is not its turn yet is not told
                continue
            if not reached or needs & {"FAILED", "NOT_TRIGGERED"} or name in self.fate.not_triggered:
                states[name] = "NOT_TRIGGERED"
            else:
                states[name] = "RUNNING"
            detail = Task(task_id=at, task_name=self._told(name, task), create_time=self._started)
            if parent:
                detail.parent_task_id = parent
            self._details.append(detail)
            if inner is not None and states[name] == "RUNNING":
                states[name] = self._walk(inner, at, reached=True)
            elif inner is not None and states[name] == "NOT_TRIGGERED":
                self._walk(inner, at, reached=False)
            elif states[name] == "RUNNING":
                states[name] = self._run(name, task, detail)
            detail.state = getattr(Task.State, states[name])
        whole = set(states.values())
        for state in ("FAILED", "RUNNING", "PENDING", "WAITING"):
            if state in whole:
                return "RUNNING" if state == "WAITING" else state
        return "SUCCEEDED"

    def _told(self, name: str, task: Json) -> str:
        return str(task.get("taskInfo", {}).get("name", name)) if self.fate.display_names else name

    def _run(self, name: str, task: Json, detail: Any) -> str:
        """Runs a task that is no graph, and returns its state."""
        if self._left < 0:
            return "PENDING"
        detail.start_time = self._started + timedelta(seconds=1)
        detail.executor_detail.container_detail.main_job = f"projects/1/locations/r/customJobs/job-{name}"
        if self._left == 0:
            self._left = -1
            return "RUNNING"
        self._left -= 1
        detail.end_time = self._started + timedelta(seconds=8)
        if name == self.fate.failing:
            detail.error = {"code": 13, "message": self.fate.reason}
            self._left = -1
            return "FAILED"
        component = self._spec["components"][task["componentRef"]["name"]]
        root = self.job.runtime_config.gcs_output_directory
        place = f"{root}/1/{self.job.name.rpartition('/')[2]}/{name}_{detail.task_id}"
        for output in component.get("outputDefinitions", {}).get("artifacts", {}):
            detail.outputs[output] = {"artifacts": [{"uri": f"{place}/{output}"}]}
        return "SKIPPED" if name in self.fate.cached else "SUCCEEDED"
