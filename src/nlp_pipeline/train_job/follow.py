"""A TrainJob from the step's side: made or taken up, followed to its end, and deleted where the run ends before it."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nlp_pipeline.deploy.cluster import api, apply_manifests, call, connect, one_line, own_namespace
from nlp_pipeline.deploy.rollout import pod_failure
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.steps.train_model.settings import TrainSettings
from nlp_pipeline.train_job.access import find_runtime
from nlp_pipeline.train_job.job import GROUP, NODE, PLURAL, VERSION, Json, make_job, read_own_pod
from nlp_pipeline.train_job.node import FINAL, describe_training
from nlp_pipeline.volume import Run, put

# Seconds between looks; until it is said what holds nodes up; and until it is given up: adding a node may take long.
EVERY, GRACE, PATIENCE = 5.0, 30, 1800
JOB_LABEL, INDEX = "jobset.sigs.k8s.io/jobset-name", "batch.kubernetes.io/job-completion-index"
REMEDIES = {
    "OOMKilled": "raise train_memory, or lower batch_size",
    "exit code 137": "it was killed: if for want of memory, raise train_memory, or lower batch_size",
    "Signal 9 (SIGKILL)": "it was killed: if for want of memory, raise train_memory, or lower batch_size",
    "Evicted": "its node ran short: leave more room there",
    "Unschedulable": "ask for less by train_cpu, train_memory or train_gpus, for fewer train_nodes, or add nodes",
    "ImagePullBackOff": "compile with an --image that the nodes can pull",
    "ErrImagePull": "compile with an --image that the nodes can pull",
}


def train_on_nodes(
    nodes: int, runtime: str, model: str, settings: TrainSettings, seed: int, run: Run, source: dict[str, Any]
) -> dict[str, Any]:
    """Fine-tunes an encoder on several nodes, and returns the facts that `fine_tune` does.

    A run that is tried again takes up its job, where that has not failed. A job that succeeded is deleted; one that
    failed is kept, unless it would go on in vain. The folder `model` gets a copy of what the nodes leave on the volume.

    Raises:
        UsageError: There is no volume, or the cluster lacks what it takes, or does not take the job.
        PipelineError: The training failed, or could not go on, or the run was terminated.
    """
    if run.folder is None:
        raise UsageError(f"train_nodes={nodes} needs the volume, which the nodes share: name one as volume_claim")
    connect()
    namespace = own_namespace()
    job = TrainJob(f"train-{run.run_id}", namespace)
    rows = run.folder / "datasets" / "train.parquet"
    training = describe_training(rows, settings, seed, run, source)
    with job.deleted_on_termination():
        if not job.take_up():
            body = make_job(job.name, read_own_pod(namespace), nodes, find_runtime(runtime, namespace), training)
            job.create(body)
        job.follow(nodes)
    put(run.folder / "model", Path(model))
    job.delete()
    facts = json.loads((run.folder / "training.json").read_bytes())
    return {name: value for name, value in facts.items() if name not in source and not isinstance(value, list)}


class TrainJob:
    """A TrainJob of a name, there or not."""

    def __init__(self, name: str, namespace: str) -> None:
        self.name, self.namespace = name, namespace
        self._said = ""
        # How containers ended that did not succeed, with their last line: of a pod, and how often it had been started.
        self._failures: dict[tuple[str, int], str] = {}
        # How many lines of the first node's log are printed, for each time that it was started.
        self._printed: dict[tuple[str, int], int] = {}

    def __str__(self) -> str:
        return f"TrainJob {self.namespace}/{self.name}"

    def _call(self, doing: str, verb: str, *values: Any, **named: Any) -> Any:
        method = getattr(api("CustomObjectsApi"), f"{verb}_namespaced_custom_object")
        return call(f"{doing} {self}", method, GROUP, VERSION, self.namespace, PLURAL, *values, **named)

    def read(self) -> Json | None:
        """Returns the job as it is in the cluster; None where there is none."""
        body = self._call("reading", "get", self.name, expected=(404,))
        return None if body == 404 else dict(body)

    def create(self, body: Json) -> None:
        """Creates the job; one that is there by now, as after an answer that was lost, is the same."""
        try:
            # Strictly, as a Trainer before 2.2 would leave out what it does not know: the volume.
            self._call("creating", "create", body, field_validation="Strict", expected=(409,))
        except UsageError as error:
            text, remedy = str(error), ""
            if "is forbidden" in text:
                remedy = f"; to allow it: {apply_manifests(self.namespace, ' --set train_nodes=2')}"
            elif "unknown field" in text:
                remedy = "; Kubeflow Trainer 2.2 or later is needed"
            raise UsageError(f"{text}{remedy}") from None
        self.say("created")

    def delete(self) -> None:
        """Deletes the job with its pods, if it is there."""
        self._call("deleting", "delete", self.name, expected=(404,))

    def take_up(self) -> bool:
        """Says whether the run's job is there; one that failed is deleted, and one on its way out waited for."""
        while body := self.read():
            is_leaving = "deletionTimestamp" in body["metadata"]
            if not is_leaving and not condition(body, "Failed"):
                self.say("is there already, and is taken up")
                return True
            if not is_leaving:
                self.say("failed before, and is made anew")
                self.delete()
            time.sleep(EVERY)
        return False

    @contextmanager
    def deleted_on_termination(self) -> Iterator[None]:
        """Deletes the job where the step is told to end meanwhile."""

        def end(*_: Any) -> None:
            raise KeyboardInterrupt

        former = signal.signal(signal.SIGTERM, end)
        try:
            yield
        except KeyboardInterrupt:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self.delete()
            raise PipelineError(f"the run was terminated, and {self} with it") from None
        finally:
            signal.signal(signal.SIGTERM, former)

    def say(self, text: str) -> None:
        """Prints what is new of the job."""
        if text != self._said:
            print(f"{self}: {text}", flush=True)
        self._said = text

    def follow(self, nodes: int) -> None:
        """Waits until the job is complete; meanwhile prints the first node's log, and what holds the job up.

        Raises:
            PipelineError: It failed, was deleted, or could not go on for half an hour, after which it is deleted.
        """
        going_since = time.monotonic()
        while True:
            body = self.read()
            if body is None:
                raise PipelineError(f"{self} was deleted meanwhile: try the run again")
            pods = self._list_pods()
            self._print_log(pods)
            self._note_failures(pods)
            if condition(body, "Complete"):
                return
            self._raise_failure(body)
            running = sum(pod.status.phase in ("Running", "Succeeded") for pod in pods)
            obstacle = self._find_obstacle(body, pods) if running < nodes else ""
            going_since = going_since if obstacle else time.monotonic()
            seconds = time.monotonic() - going_since
            self.say(f"{running} of {nodes} nodes run{f'; held up: {obstacle}' if seconds > GRACE else ''}")
            if seconds > PATIENCE:
                self.delete()
                raise PipelineError(f"{self} could not go on for {PATIENCE // 60} minutes: {obstacle}")
            time.sleep(EVERY)

    def _raise_failure(self, body: Json) -> None:
        """Raises the error where the job failed, or would go on in vain: then it is deleted."""
        failures = list(self._failures.values())
        if final := next((text for text in failures if f": {FINAL}" in text), ""):
            self.delete()
            raise PipelineError(f"{self} failed: {final}")
        if failed := condition(body, "Failed"):
            failures.append(one_line(f"{failed['reason']}: {failed.get('message', '')}"))
            # What was cut off from another pod's failure fails later, and has no remedy.
            reason = next((text for text in map(with_remedy, failures) if text not in failures), failures[0])
            kept = f"it is kept: kubectl -n {self.namespace} describe trainjob {self.name}"
            raise PipelineError(f"{self} failed: {reason}; {kept}")

    def _find_obstacle(self, body: Json, pods: list[Any]) -> str:
        """Returns why nodes don't run, with the remedy; empty where it is not known, or a queue has the job wait."""
        if not pods and not condition(body, "Suspended"):
            return f"it has no pods: kubectl -n {self.namespace} describe jobset,job says why"
        return with_remedy(pod_failure(pods)[0])

    def _list_pods(self) -> list[Any]:
        """Returns the nodes' pods, the newest last."""
        read, selector = api("CoreV1Api").list_namespaced_pod, f"{JOB_LABEL}={self.name}"
        pods = call(f"listing the pods of {self}", read, self.namespace, label_selector=selector).items
        return sorted(pods, key=lambda pod: str(pod.metadata.creation_timestamp))

    def _read_log(self, pod: Any, **options: Any) -> list[str]:
        """Returns the whole lines of a pod's log; none where there is none yet, or any more."""
        read, name = api("CoreV1Api").read_namespaced_pod_log, pod.metadata.name
        options |= {"container": NODE, "expected": (400, 404)}
        text = call(f"reading the log of pod {name}", read, name, self.namespace, **options)
        return [] if text in (400, 404) else text.rpartition("\n")[0].splitlines()

    def _print_log(self, pods: list[Any]) -> None:
        """Prints what is new in the first node's log."""
        for pod in [pod for pod in pods if pod.metadata.labels.get(INDEX) == "0"][-1:]:
            lines, start = self._read_log(pod), (pod.metadata.name, starts_of(pod))
            if new := lines[self._printed.get(start, 0) :]:
                print("\n".join(new), flush=True)
            self._printed[start] = len(lines)

    def _note_failures(self, pods: list[Any]) -> None:
        """Keeps in mind how pods ended that did not succeed: at the job's end, they and their logs may be gone."""
        for pod in pods:
            name, (end, is_former) = pod.metadata.name, end_of(pod)
            start = name, starts_of(pod) - is_former
            if end is None or start in self._failures:
                continue
            log = [line for line in self._read_log(pod, previous=is_former, tail_lines=20) if line.strip()]
            # Of an error of the project's own, torchrun's follows.
            words = [line for line in log if line.startswith(FINAL)] or log or ["it said nothing"]
            reason, code = end.reason or "Error", end.exit_code
            self._failures[start] = f"pod {name}: {reason}, exit code {code}: {one_line(words[-1])}"
            print(f"{self}: {self._failures[start]}", flush=True)


def condition(body: Json, kind: str) -> Json | None:
    """Returns a condition of a job that is true; None where it is not."""
    conditions = body.get("status", {}).get("conditions") or []
    return next((item for item in conditions if item["type"] == kind and item["status"] == "True"), None)


def container_of(pod: Any) -> Any:
    """Returns the status of the container that trains in a pod; None where there is none yet."""
    return next((item for item in pod.status.container_statuses or [] if item.name == NODE), None)


def starts_of(pod: Any) -> int:
    """Returns how often that container was started anew."""
    container = container_of(pod)
    return container.restart_count if container else 0


def end_of(pod: Any) -> tuple[Any, bool]:
    """Returns how it ended without success, now or, with True, before it was started anew; None where it did not."""
    container = container_of(pod)
    for state, is_former in ((container.state, False), (container.last_state, True)) if container else ():
        if state and state.terminated and state.terminated.exit_code:
            return state.terminated, is_former
    return None, False


def with_remedy(failure: str) -> str:
    """Returns a failure with what to do about it, where that is known."""
    return next((f"{failure}: {remedy}" for reason, remedy in REMEDIES.items() if reason in failure), failure)
