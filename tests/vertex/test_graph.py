"""The compiled pipeline for Vertex AI, task by task, beside the one for Kubeflow."""

from functools import cache
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from nlp_pipeline import packages
from nlp_pipeline.pipeline.compiling import compile_pipeline
from nlp_pipeline.pipeline.embedding import carrying_command
from nlp_pipeline.pipeline.parameters import pipeline_parameters

Json = dict[str, Any]
SHARED = ["load-data", "archive-model", "validate-archive"]
JOBS = ["train-model", "evaluate-model"]
OWN = ["prepare-vertex", "plan-vertex-deployment", "check-vertex-endpoint"]
GOOGLES = ["model-upload", "model-upload-2", "endpoint-create", "model-deploy"]
FOR_GPUS = [{"name": "LD_LIBRARY_PATH", "value": "/usr/local/nvidia/lib64:/usr/local/nvidia/lib"}]


@cache
def compiled() -> str:
    return compile_pipeline(pipeline="vertex")


@pytest.fixture(scope="module")
def ir() -> Json:
    (document,) = yaml.safe_load_all(compiled())
    assert isinstance(document, dict)
    return document


def groups(ir: Json) -> dict[str, Json]:
    """Returns the tasks of each group, by the group's name; the outermost one's is empty."""
    inner = {name: item["dag"]["tasks"] for name, item in ir["components"].items() if "dag" in item}
    return {"": ir["root"]["dag"]["tasks"], **inner}


def tasks(ir: Json) -> dict[str, Json]:
    return {name: task for group in groups(ir).values() for name, task in group.items()}


def container(ir: Json, step: str) -> Json:
    """Returns a step's container; of a custom job, the one that runs the step."""
    inputs = ir["components"][f"comp-{step}"].get("inputDefinitions", {}).get("parameters", {})
    if "worker_pool_specs" in inputs:
        (pool,) = inputs["worker_pool_specs"]["defaultValue"]
        result: Json = pool["container_spec"]
        return result
    executor: Json = ir["deploymentSpec"]["executors"][f"exec-{step}"]["container"]
    return executor


def test_nothing_of_kubernetes_is_in_it(ir: Json) -> None:
    json_format.ParseDict(ir, pipeline_spec_pb2.PipelineSpec())
    assert sorted(ir) == ["components", "deploymentSpec", "pipelineInfo", "root", "schemaVersion", "sdkVersion"]
    parameters = " ".join(ir["root"]["inputDefinitions"]["parameters"])
    assert not [word for word in ("volume", "secret", "namespace", "cpu", "memory") if word in parameters]


def test_the_order_of_what_costs(ir: Json) -> None:
    after = {name: task.get("dependentTasks", []) for name, task in tasks(ir).items()}
    assert "prepare-vertex" in after["train-model"] and "prepare-vertex" in after["evaluate-model"]
    assert "validate-archive" in after["plan-vertex-deployment"] or "validate-archive" in after["condition-2"]
    assert {"condition-branches-3", "condition-branches-6", "plan-vertex-deployment"} <= set(after["model-deploy"])
    assert "model-deploy" in after["check-vertex-endpoint"]


def test_each_step_has_a_name_is_not_tried_again_and_not_taken_from_the_cache(ir: Json) -> None:
    """Nothing of a training is kept for a second one, and what is outside might be done twice."""
    for name, task in tasks(ir).items():
        if name in (*SHARED, *JOBS, *OWN, *GOOGLES):
            assert not task["cachingOptions"].get("enableCache", False), name
            assert "retryPolicy" not in task and task["taskInfo"]["name"] not in (name, ""), name


@pytest.mark.parametrize("step", [*SHARED, *JOBS, *OWN])
def test_each_step_carries_its_own_code(ir: Json, step: str) -> None:
    result = container(ir, step)
    assert result["command"] == carrying_command(step.replace("-", "_"))
    assert "{{$" not in result["command"][-1]
    assert result.get("image", result.get("image_uri")) == packages.BASE_IMAGE
    assert result.get("env", []) == (FOR_GPUS if step in JOBS else [])


def origins(ir: Json, group: str, source: Json) -> set[str]:
    """Returns where a task's input comes from: "pipeline:NAME", "constant", or "STEP:OUTPUT"."""
    if "runtimeValue" in source:
        return {"constant"}
    if "taskOutputParameter" in source:
        item = source["taskOutputParameter"]
        return {f"{item['producerTask']}:{item['outputParameterKey']}"}
    name = source["componentInputParameter"]
    if not group:
        return {f"pipeline:{name}"}
    outer = [(key, task) for key, some in groups(ir).items() for task in some.values()]
    used = [(key, task) for key, task in outer if task["componentRef"]["name"] == group]
    return {item for key, task in used for item in origins(ir, key, task["inputs"]["parameters"][name])}


def test_no_text_of_a_user_goes_into_what_googles_steps_send(ir: Json) -> None:
    texts = {name for name, item in pipeline_parameters("vertex").items() if item.kind is str}
    result: dict[str, set[str]] = {}
    for group, some in groups(ir).items():
        for step, task in some.items():
            if step not in GOOGLES + JOBS:
                continue
            # What the step of a custom job takes reaches it in the executor input, as escaped JSON.
            argument = next(
                item for item in ir["deploymentSpec"]["executors"][f"exec-{step}"]["container"]["args"] if "{" in item
            )
            for name, source in task["inputs"]["parameters"].items():
                if (
                    step in GOOGLES
                    or f"parameters['{name}']" in argument
                    or name in ("machine_type", "accelerator_type")
                ):
                    result.setdefault(step, set()).update(origins(ir, group, source))
    assert sorted(result) == sorted(GOOGLES + JOBS)
    for step, sources in result.items():
        assert not {item for item in sources if item.removeprefix("pipeline:") in texts}, step
        steps = {item.partition(":")[0] for item in sources}
        assert steps <= {"pipeline", "constant", "prepare-vertex", "plan-vertex-deployment"}, step


def test_parameters_that_platforms_share_are_the_same(ir: Json) -> None:
    ours, theirs = pipeline_parameters("vertex"), pipeline_parameters("kubeflow")
    shared = list(ours)[: list(ours).index("endpoint_rows") + 1]
    assert shared == list(theirs)[: len(shared)] and len(shared) == 28
    assert all(ours[name] == theirs[name] for name in shared)
    # Names that mean nearly the same; the others are one platform's own.
    assert sorted(set(ours) & set(theirs) - set(shared)) == [
        *("canary_percent", "max_replicas", "min_replicas", "serving_gpus", "train_gpus")
    ]


def test_the_place_is_the_runs_own_unless_it_is_told(ir: Json) -> None:
    parameters = ir["root"]["inputDefinitions"]["parameters"]
    assert parameters["project"]["defaultValue"] == "{{$.pipeline_google_cloud_project_id}}"
    assert parameters["location"]["defaultValue"] == "{{$.pipeline_google_cloud_location}}"
    for group, some in groups(ir).items():
        for name in set(some) & {*JOBS, "model-upload", "model-upload-2", "endpoint-create"}:
            for place in ("project", "location"):
                source = some[name]["inputs"]["parameters"][place]
                assert origins(ir, group, source) == {f"prepare-vertex:{place}"}, name
