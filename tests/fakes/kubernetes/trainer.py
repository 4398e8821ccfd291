"""What Kubeflow Trainer takes for a TrainJob: its models' fields, and the rules of its webhook (trainjob_webhook.go,
plugins/jobset/jobset.go and plugins/torch/torch.go of kubeflow/trainer 2.3); and nodes that are processes here.
"""

import contextlib
import copy
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

from tests.fakes.kubernetes.admission import Refusal

Json = dict[str, Any]
RESERVED = {"PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"}
JOB_LABEL, INDEX = "jobset.sigs.k8s.io/jobset-name", "batch.kubernetes.io/job-completion-index"


def admit_train_job(sent: Json, runtimes: set[tuple[str, str]]) -> Json:
    """Returns a TrainJob as it is to be stored; raises where the server or the webhook does not take it.

    The runtimes are the kinds and names of those that there are; all have one container, `node`, as Kubeflow's own.
    """
    name = sent["metadata"]["name"]
    known = TrainerV1alpha1TrainJob.from_dict(sent).to_dict()
    if lost := difference(sent, known):
        raise Refusal(
            400, "BadRequest", f'TrainJob in version "v1alpha1" cannot be handled: strict decoding error: {lost}'
        )
    if not re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name) or len(name) > 63:
        raise Refusal(
            422, "Invalid", f'TrainJob "{name}" is invalid: metadata.name must match RFC 1035 DNS label format'
        )
    problems = list(webhook_problems(sent["spec"], runtimes))
    if problems:
        webhook = 'admission webhook "validator.trainjob.trainer.kubeflow.org" denied the request'
        raise Refusal(403, "Forbidden", f"{webhook}: {'; '.join(problems)}")
    return copy.deepcopy(sent)


def webhook_problems(spec: Json, runtimes: set[tuple[str, str]]) -> Iterator[str]:
    """Yields what the webhook refuses."""
    if (spec["runtimeRef"]["kind"], spec["runtimeRef"]["name"]) not in runtimes:
        yield "spec.RuntimeRef: Invalid value: specified clusterTrainingRuntime must be created before"
    if RESERVED & {item["name"] for item in spec["trainer"].get("env", [])}:
        yield "spec.trainer.env: Invalid value: must not have reserved envs"
    for patch in spec.get("runtimePatches", []):
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[-\w.]+", patch["manager"]):
            yield "spec.runtimePatches.manager: must be a domain-prefixed path"
        for job in patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]:
            for container in job["template"]["spec"]["template"]["spec"].get("containers", []):
                if job["name"] != "node" or container["name"] != "node" or "env" in container:
                    yield "spec.runtimePatches: Invalid value: must not have such a container, or its env"


def difference(sent: Any, known: Any, where: str = "") -> str:
    """Returns the first field that is sent and not known, or is known as another value; empty where all are."""
    if isinstance(sent, dict) and isinstance(known, dict):
        pairs = [(f"{where}.{key}", value, known.get(key)) for key, value in sent.items()]
    elif isinstance(sent, list) and isinstance(known, list) and len(sent) == len(known):
        pairs = [(f"{where}[{at}]", *pair) for at, pair in enumerate(zip(sent, known, strict=True))]
    else:
        return "" if sent == known else f'unknown field "{where.lstrip(".")}"'
    return next((text for path, old, new in pairs if (text := difference(old, new, path))), "")


def pod_of(job: str, index: int, **status: Any) -> Json:
    """Returns a node's pod, which runs where nothing else is said of it.

    Args:
        job: The name of the TrainJob.
        index: The node's number.
        status: Its `phase`; `ended` and `former`, how its container has ended and did before; `waiting`, why it waits;
            `unschedulable`, why; `log` and `previous`, its texts; and `restarts`.
    """
    state: Json = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    state = {"terminated": status["ended"]} if "ended" in status else state
    state = {"waiting": status["waiting"]} if "waiting" in status else state
    container = {
        "name": "node",
        "image": "x",
        "imageID": "",
        "ready": "running" in state,
        "restartCount": status.get("restarts", 0),
        "state": state,
        "lastState": {"terminated": status["former"]} if "former" in status else {},
    }
    conditions = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": status.get("unschedulable")}
    ]
    labels = {JOB_LABEL: job, INDEX: str(index)}
    return {
        "kind": "Pod",
        "metadata": {"name": f"{job}-node-0-{index}-abcde", "labels": labels},
        "spec": {"containers": [{"name": "node"}]},
        "status": {
            "phase": status.get("phase", "Pending" if "unschedulable" in status else "Running"),
            **({"conditions": conditions} if "unschedulable" in status else {"containerStatuses": [container]}),
        },
        "log": status.get("log", ""),
        "previous": status.get("previous", ""),
    }


class Nodes:
    """The nodes of a TrainJob as processes of this machine, with the environment that the torch plugin sets."""

    def __init__(self, job: Json, folder: Path, variables: dict[str, str]) -> None:
        self.name, trainer = job["metadata"]["name"], job["spec"]["trainer"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.logs = [folder / f"node-{index}.log" for index in range(trainer["numNodes"])]
        # Of the CPUs that are asked for, whole ones; see getNumCPUPerNode.
        per_node = {"PET_NNODES": str(len(self.logs)), "PET_NPROC_PER_NODE": "1", "PET_MASTER_ADDR": "127.0.0.1"}
        self.processes = []
        for index, log in enumerate(self.logs):
            torchrun = {**per_node, "PET_NODE_RANK": str(index), "PET_MASTER_PORT": str(port)}
            with log.open("w") as output:
                command = [sys.executable, *trainer["command"][1:], *trainer["args"]]
                environment = {**os.environ, **torchrun, **variables}
                process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
                self.processes.append(process)

    def pods(self) -> list[Json]:
        """Returns their pods."""
        codes = [process.poll() for process in self.processes]
        ended = [
            {}
            if code is None
            else {"phase": "Failed" if code else "Succeeded", "ended": {"exitCode": code if code > 0 else 128 - code}}
            for code in codes
        ]
        return [pod_of(self.name, at, log=self.logs[at].read_text(), **state) for at, state in enumerate(ended)]

    def status(self) -> Json:
        """Returns the status of the job."""
        codes = [process.poll() for process in self.processes]
        kind = "Failed" if any(codes) else "Complete" if all(code == 0 for code in codes) else ""
        return {"conditions": [{"type": kind, "status": "True", "reason": "Jobs" + kind, "message": json.dumps(codes)}]}

    def end(self, *which: int) -> None:
        """Kills nodes, all unless some are named."""
        for process in [self.processes[at] for at in which] or self.processes:
            with contextlib.suppress(psutil.NoSuchProcess):  # torchrun's processes have groups of their own
                whole = psutil.Process(process.pid)
                for part in [whole, *whole.children(recursive=True)]:
                    part.kill()
            process.wait()
