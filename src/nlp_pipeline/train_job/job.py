"""The TrainJob that trains what a step would: its nodes are made like the step's own pod."""

import os
import socket
from typing import Any

from nlp_pipeline.deploy.cluster import api, call
from nlp_pipeline.volume import VOLUME_PATH

Json = dict[str, Any]
GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
# The runtimes' name for what a node runs, both the replicated job and its container.
NODE = "node"
# What the step's pod mounts of the project's own; all else there is Kubeflow Pipelines'.
MOUNTED = (VOLUME_PATH, "/etc/nlp-pipeline", "/dev/shm")  # noqa: S108
# A node has the environment of a step before torch is imported.
PROGRAM = """\
from nlp_pipeline.pipeline.startup import prepare
prepare()
from nlp_pipeline.train_job.node import launch
launch()
"""
# An Istio sidecar would keep the nodes from each other, and the job from its end.
NO_SIDECAR = {"sidecar.istio.io/inject": "false"}


def read_own_pod(namespace: str) -> Json:
    """Returns the pod that this step runs in, as the API server has it."""
    core, name = api("CoreV1Api"), os.environ.get("KFP_POD_NAME") or socket.gethostname()
    pod = call(f"reading this step's pod {name}", core.read_namespaced_pod, name, namespace)
    return dict(core.api_client.sanitize_for_serialization(pod))


def make_job(name: str, pod: Json, nodes: int, runtime: tuple[str, str], arguments: str) -> Json:
    """Returns a TrainJob.

    Args:
        name: Its name.
        pod: The step's own pod: image, resources, volumes, environment and place are taken from it.
        nodes: How many pods train.
        runtime: The kind of the training runtime, and its name.
        arguments: What `node.launch` is given.
    """
    spec = pod["spec"]
    step = next(item for item in spec["containers"] if item["name"] == "main")
    mounts = [item for item in step.get("volumeMounts", []) if item["mountPath"] in MOUNTED]
    mounted = {item["name"] for item in mounts}
    container = {"name": NODE, "volumeMounts": mounts, "securityContext": step.get("securityContext")}
    patch = {
        "volumes": [item for item in spec.get("volumes", []) if item["name"] in mounted],
        "containers": [without_empty(container)],
        "serviceAccountName": spec.get("serviceAccountName"),
        "securityContext": spec.get("securityContext"),
        "nodeSelector": spec.get("nodeSelector"),
        "tolerations": spec.get("tolerations"),
    }
    template = {"metadata": {"labels": NO_SIDECAR, "annotations": NO_SIDECAR}, "spec": without_empty(patch)}
    replicated = {"name": NODE, "template": {"spec": {"template": template}}}
    kind, runtime_name = runtime
    # Where a run's workflow is deleted, a job that was kept goes too.
    owners = [
        {key: item[key] for key in ("apiVersion", "kind", "name", "uid")}
        for item in pod["metadata"].get("ownerReferences", [])
    ]
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": without_empty({"name": name, "ownerReferences": owners}),
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": kind, "name": runtime_name},
            "trainer": {
                "numNodes": nodes,
                "image": step["image"],
                "command": ["python3", "-c", PROGRAM],
                "args": [arguments],
                "env": [item for item in step.get("env", []) if "secretKeyRef" in (item.get("valueFrom") or {})],
                "resourcesPerNode": resources_of(step),
            },
            "runtimePatches": [
                {
                    "manager": "nlp-pipeline/train-model",
                    "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [replicated]}}},
                }
            ],
        },
    }


def resources_of(step: Json) -> Json:
    """Returns a container's resources but for those of which it has none, which the runtime may have instead: GPUs."""
    resources = step.get("resources", {})
    kept = {kind: resources.get(kind) or {} for kind in ("limits", "requests")}
    return {kind: {name: amount for name, amount in amounts.items() if amount != "0"} for kind, amounts in kept.items()}


def without_empty(values: Json) -> Json:
    """Returns an object without what is empty in it."""
    return {name: value for name, value in values.items() if value}
