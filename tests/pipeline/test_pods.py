"""The pods that KFP's driver makes of the compiled file: what they ask of a node, where they go, what they may do."""

from typing import Any

import pytest
import yaml
from kubernetes.utils.quantity import parse_quantity

from nlp_pipeline.pipeline.budget import Workflow
from nlp_pipeline.pipeline.compiling import compile_pipeline
from nlp_pipeline.pipeline.parameters import with_defaults
from nlp_pipeline.pipeline.pods import requests_of
from tests.fakes.kubernetes.pod_security import violations

Json = dict[str, Any]
# What KFP's compiler gives the pod and its first container; its own init container is hardened wholly
# (backend/src/v2/compiler/argocompiler/security_context.go, applySecurityContextToExecutorTemplate).
POD = {"seccompProfile": {"type": "RuntimeDefault"}}
CONTAINER = {**POD, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def pods(**options: Any) -> dict[str, Json]:
    """Returns each step's pod, with the parameters' defaults."""
    pipeline, platform = yaml.safe_load_all(compile_pipeline(**options))
    values = with_defaults({"train_data": "s3://b/x.csv"})
    workflow = Workflow(pipeline, platform["platforms"] and platform, values)
    dags = [pipeline["root"], *(component for component in pipeline["components"].values() if "dag" in component)]
    tasks = {name: task for dag in dags for name, task in dag["dag"]["tasks"].items()}
    made = {}
    for name, task in tasks.items():
        label = pipeline["components"][task["componentRef"]["name"]].get("executorLabel")
        if label:
            spec = workflow.pod_spec(task)
            spec["securityContext"] = POD
            own = workflow.kubernetes[label].get("securityContext", {})
            spec["containers"][0]["securityContext"] = CONTAINER | own
            made[name] = spec
    return made


def test_with_a_user_of_their_own_they_pass_pod_security_restricted() -> None:
    for name, spec in pods(run_as_user=1000).items():
        assert violations(spec) == [], name


def test_without_it_only_that_is_missing() -> None:
    for name, spec in pods().items():
        assert violations(spec) == ["main: runAsNonRoot is not true"], name
    assert violations(pods(run_as_user=0)["notify"]) == ["main: runAsNonRoot is not true"]


def test_each_starts_on_a_node_of_two_cpus_and_eight_gibibytes() -> None:
    for name, spec in pods().items():
        resources = spec["containers"][0]["resources"]
        # Argo's own containers, and what runs on each node, ask for some too.
        assert parse_quantity(resources["resourceCpuRequest"]) <= 0.5, name
        assert parse_quantity(resources["resourceMemoryRequest"]) <= parse_quantity("2Gi"), name
        limit = parse_quantity(resources["resourceMemoryLimit"])
        assert limit >= parse_quantity(resources["resourceMemoryRequest"]) and "resourceCpuLimit" not in resources, name


def test_what_they_ask_for_is_what_the_doctor_and_dry_runs_say() -> None:
    values = with_defaults({})
    said = requests_of(values)
    for name, spec in pods().items():
        resources = spec["containers"][0]["resources"]
        asked = {"cpu": resources["resourceCpuRequest"], "memory": resources["resourceMemoryRequest"]}
        assert asked == said["training" if name in ("train-model", "evaluate-model") else "a step"], name
    assert said["serving"] == {"cpu": "250m", "memory": "2Gi"}
    assert requests_of({**values, "train_gpus": "4"})["training"]["nvidia.com/gpu"] == "4"
    assert "training and each of its 2 nodes" in requests_of({**values, "train_nodes": 2})
    batch = with_defaults({}, "batch")
    assert "nvidia.com/gpu" not in requests_of(batch)["each of 4 that classify"]
    assert requests_of({**batch, "pod_gpus": "1"})["each of 4 that classify"]["nvidia.com/gpu"] == "1"
    assert "serving" not in requests_of({**values, "deploy": False})


@pytest.mark.parametrize("name", ["node_selector", "tolerations", "environment_config", "volume_claim"])
def test_what_a_cluster_wants_reaches_every_step_by_a_parameter(name: str) -> None:
    pipeline, platform = yaml.safe_load_all(compile_pipeline())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors.keys() == pipeline["deploymentSpec"]["executors"].keys()
    field, key = {
        "node_selector": ("nodeSelector", "nodeSelectorJson"),
        "tolerations": ("tolerations", "tolerationJson"),
        "environment_config": ("configMapAsVolume", "configMapNameParameter"),
        "volume_claim": ("pvcMount", "pvcNameParameter"),
    }[name]
    for executor in executors.values():
        (item,) = executor[field] if isinstance(executor[field], list) else [executor[field]]
        assert item[key]["componentInputParameter"] == name
        assert name != "environment_config" or item["optional"]
        assert name != "volume_claim" or item["mountPath"] == "/mnt/nlp-pipeline"
