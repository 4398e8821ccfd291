"""A cluster with Kubeflow Trainer, and the pod of a step in it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.kubernetes.emulator import Cluster, emulated_cluster

RUNTIME = "torch-distributed"
STEP: dict[str, Any] = {
    "kind": "Pod",
    "metadata": {
        "name": "step-pod",
        "ownerReferences": [{"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w", "uid": "u"}],
    },
    "spec": {
        "serviceAccountName": "default-editor",
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000},
        "volumes": [
            {"name": "claim", "persistentVolumeClaim": {"claimName": "claim"}},
            {"name": "nlp-pipeline-environment", "configMap": {"name": "nlp-pipeline-environment", "optional": True}},
            {"name": "kfp-launcher", "emptyDir": {}},
        ],
        "containers": [
            {"name": "wait", "image": "argoexec"},
            {
                "name": "main",
                "image": "registry.example/steps:1",
                "env": [
                    {"name": "KFP_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}},
                ],
                "resources": {
                    "limits": {"memory": "12Gi", "nvidia.com/gpu": "2"},
                    "requests": {"cpu": "500m", "memory": "2Gi"},
                },
                "volumeMounts": [
                    {"name": "claim", "mountPath": "/mnt/nlp-pipeline"},
                    {"name": "nlp-pipeline-environment", "mountPath": "/etc/nlp-pipeline"},
                    {"name": "kfp-launcher", "mountPath": "/kfp-launcher"},
                ],
            },
        ],
    },
}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster with Kubeflow Trainer, to which the kubeconfig points, and the step's pod."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("KFP_POD_NAME", "step-pod")
    with emulated_cluster() as cluster:
        cluster.write_kubeconfig(tmp_path / "kubeconfig", "team")
        cluster.trainer_installed = True
        cluster.add({"kind": "ClusterTrainingRuntime", "metadata": {"name": RUNTIME}})
        cluster.add(STEP)
        yield cluster
        for nodes in cluster.nodes.values():
            nodes.end()
