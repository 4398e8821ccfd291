"""The compiled pipeline, both documents of it."""

import json
from typing import Any

import pytest
import yaml
from kfp import dsl

from nlp_pipeline.kubeflow.runs import ALL_STEPS
from nlp_pipeline.pipeline.compiling import compile_pipeline
from nlp_pipeline.pipeline.components import deploy_model
from nlp_pipeline.pipeline.parameters import pipeline_parameters
from nlp_pipeline.pipeline.pods import HUB_KEYS, S3_KEYS
from tests.conftest import compile_anew

EXECUTORS = [f"exec-{step.replace('_', '-')}" for step in ALL_STEPS]


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(compile_pipeline()))


def tasks(documents: list[dict[str, Any]]) -> dict[str, Any]:
    groups = [documents[0]["root"], *documents[0]["components"].values()]
    return {name: task for group in groups for name, task in group.get("dag", {}).get("tasks", {}).items()}


def test_two_documents_pipeline_and_platform(documents: list[dict[str, Any]]) -> None:
    assert len(documents) == 2
    assert documents[0]["pipelineInfo"]["name"] == "nlp-pipeline"
    assert list(documents[0]["deploymentSpec"]["executors"]) == sorted(EXECUTORS)
    assert list(documents[1]["platforms"]) == ["kubernetes"]


def test_a_step_that_hangs_ends_some_day(documents: list[dict[str, Any]]) -> None:
    executors = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    days = {name: int(executor["activeDeadlineSeconds"]) / 86_400 for name, executor in executors.items()}
    assert days == {**dict.fromkeys(EXECUTORS, 1), "exec-train-model": 7}


def test_secrets_reach_the_steps_by_name_and_need_not_exist(documents: list[dict[str, Any]]) -> None:
    executors = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    found = {
        name: [
            (
                secret["secretNameParameter"]["componentInputParameter"],
                {one["secretKey"]: one["envVar"] for one in secret["keyToEnv"]},
                secret["optional"],
            )
            for secret in executor["secretAsEnv"]
        ]
        for name, executor in executors.items()
        if "secretAsEnv" in executor
    }
    s3 = ("s3_secret", {key: key for key in S3_KEYS}, True)
    hub = ("hub_secret", {"HF_TOKEN": "HF_TOKEN"}, True)
    assert found["exec-load-data"] == [s3, hub]
    assert found["exec-train-model"] == [hub]


def test_what_is_compiled_holds_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in (*S3_KEYS, *HUB_KEYS):
        monkeypatch.setenv(key, f"the value of {key}")
    ir = compile_anew()
    assert "the value of" not in ir
    # Variables that are set in the steps' containers would be credentials, or could become some.
    executors = next(iter(yaml.safe_load_all(ir)))["deploymentSpec"]["executors"]
    assert not any("env" in executor["container"] for executor in executors.values())


def test_every_step_has_a_name_and_none_is_taken_from_the_cache(documents: list[dict[str, Any]]) -> None:
    for name, task in tasks(documents).items():
        if f"exec-{name}" in EXECUTORS:
            assert not task["cachingOptions"].get("enableCache", False), name  # all use the volume
            assert task["taskInfo"]["name"] != name


def test_archiving_stands_behind_the_gate(documents: list[dict[str, Any]]) -> None:
    condition = tasks(documents)["condition-2"]
    assert condition["dependentTasks"] == ["evaluate-model", "train-model"]
    assert condition["triggerPolicy"]["condition"].endswith("['evaluate-model-Output'] == true")
    inner = documents[0]["components"]["comp-condition-2"]["dag"]["tasks"]
    assert sorted(inner) == ["archive-model", "deploy-model", "validate-archive"]


def test_deploying_waits_for_the_validation_and_can_be_left_out(
    documents: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    deploying = tasks(documents)["deploy-model"]
    assert deploying["dependentTasks"] == ["archive-model", "validate-archive"]
    assert deploying["inputs"]["parameters"]["deploy"] == {"componentInputParameter": "deploy"}
    values = dict.fromkeys(deploy_model.component_spec.inputs) | {
        name: parameter.default for name, parameter in pipeline_parameters().items()
    }
    inputs = {name: values[name] for name in deploy_model.component_spec.inputs}
    release = dsl.Model(uri="release", metadata={"digest": "0123456789abcdef"})
    run = {"run_id": "run", "release": release, "deploy": False, "endpoint": None, "deployment": None}
    deploy_model.python_func(**inputs | run)
    assert capsys.readouterr().out == "deploy=false: the release is validated, and not deployed\n"


def test_a_notice_is_sent_however_the_steps_end(documents: list[dict[str, Any]]) -> None:
    assert list(documents[0]["root"]["dag"]["tasks"]) == ["exit-handler-1", "notify"]
    assert tasks(documents)["notify"]["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}


def test_a_training_that_was_evicted_is_tried_again(documents: list[dict[str, Any]]) -> None:
    assert tasks(documents)["train-model"]["retryPolicy"]["maxRetryCount"] == 2


def test_every_parameter_is_described_and_only_the_data_has_no_default(documents: list[dict[str, Any]]) -> None:
    parameters = documents[0]["root"]["inputDefinitions"]["parameters"]
    assert all(one.get("description") for one in parameters.values())
    assert [name for name, one in parameters.items() if "defaultValue" not in one] == ["train_data"]
    assert parameters["base_model"]["defaultValue"] == "distilbert/distilbert-base-uncased"


def test_no_component_describes_itself(documents: list[dict[str, Any]]) -> None:
    """KFP stores a component about nine times; the pipeline's parameters have their descriptions once."""
    for name, component in documents[0]["components"].items():
        assert "description" not in json.dumps(component), name


def test_what_the_platform_takes_from_parameters_reaches_the_steps(documents: list[dict[str, Any]]) -> None:
    """Where a group has no such input, KFP's driver ends the run."""
    executors = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for group in (documents[0]["root"], *documents[0]["components"].values()):
        inputs = group.get("inputDefinitions", {}).get("parameters", {})
        for name, task in group.get("dag", {}).get("tasks", {}).items():
            taken = [item.get("componentInputParameter") for item in task.get("inputs", {})["parameters"].values()]
            executor = executors.get(f"exec-{name}", {})
            names = [mount["pvcNameParameter"] for mount in executor.get("pvcMount", [])]
            names += [secret["secretNameParameter"] for secret in executor.get("secretAsEnv", [])]
            taken += [item["componentInputParameter"] for item in names]
            assert inputs.keys() >= {item for item in taken if item}, name
