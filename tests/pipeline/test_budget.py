"""The budget of a workflow, held against a real run.

The run: Kubernetes 1.34.4 with stock KFP 2.17.0 and Argo Workflows 4.0.8, 2026-11, of this pipeline at commit 3da429f.
Its compiled file pasted each step's source; the file that ran had them gzipped, in base 64. `measured_pipeline` makes a
pipeline of the same shape from the sizes that were seen.
"""

import csv
import json
import random
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import dsl

from nlp_pipeline.cli import main
from nlp_pipeline.pipeline import budget
from nlp_pipeline.pipeline.budget import (
    COMPRESSED,
    IMAGE,
    TEMPLATE,
    UNCOMPRESSED,
    Budget,
    Workflow,
    encode,
    long_values,
    weigh,
)
from nlp_pipeline.pipeline.compiling import compile_pipeline
from nlp_pipeline.pipeline.components import evaluate_model, load_data, train_model
from nlp_pipeline.pipeline.parameters import PIPELINES, check_ranges, pipeline_parameters
from nlp_pipeline.processes import environment
from nlp_pipeline.volume import VARIABLE
from tests.conftest import make_rows, without_a_trial

# Source code, as far as JSON is concerned: how often it has a quotation mark or a new line.
SOURCE = '    found = look_for("label", among=rows, default=None)  \n' * 2000


@dataclass
class Step:
    """A step, by the bytes of what is known of it."""

    component: int  # what the compiled file says of it: these three
    task: int
    container: int
    source: int  # in the file at first, and
    program: int  # in the one that ran
    patch: int  # what its driver made of it all; 0 where that was not taken down
    shape: tuple[int, int, int, int]  # parameters of its component, and of its task; artifacts given, and made
    keys: int | None = 0  # how many of a Secret it gets; None for the step that has no volume either
    after: str | None = None  # the step before it


STEPS = {
    "load-data": Step(1_451, 695, 15_604, 56_025, 14_468, 20_025, (10, 10, 0, 3), 4),
    "train-model": Step(1_764, 1_806, 9_667, 30_164, 8_252, 15_093, (13, 21, 1, 2), 1, "load-data"),
    "evaluate-model": Step(1_330, 1_432, 14_907, 38_961, 13_488, 21_989, (4, 12, 3, 4), 0, "train-model"),
    "gate": Step(419, 330, 3_435, 6_299, 2_436, 5_902, (1, 1, 1, 0), None, "evaluate-model"),
    "archive-model": Step(2_249, 15_095, 12_699, 41_374, 11_476, 36_039, (10, 10, 5, 2)),
    "validate-archive": Step(1_167, 818, 9_542, 29_853, 8_300, 0, (6, 6, 2, 1), 0, "archive-model"),
    "deploy-model": Step(3_447, 2_271, 24_554, 99_576, 23_368, 0, (26, 26, 2, 2), 0),
}
# The DAGs: bytes of component and task, the tasks before, and their own.
DAGS: dict[str, tuple[int, int, list[str], list[str]]] = {
    "condition-2": (4_324, 3_086, ["validate-archive"], ["deploy-model"]),
    "condition-1": (21_687, 3_386, ["gate"], ["archive-model", "validate-archive", "condition-2"]),
    "root": (16_115, 0, [], ["load-data", "train-model", "evaluate-model", "gate", "condition-1"]),
}


def filler(size: int) -> str:
    """Returns a text that compresses about as well as a description does."""
    return "".join(random.Random(size).choices("aeio", k=size))


def padded(value: dict[str, Any], size: int) -> dict[str, Any]:
    """Returns a value with so much more that its JSON has a size."""
    missing = size - len(encode({**value, "description": ""}))
    return {**value, "description": filler(missing)} if missing >= 0 else value


def measured_pipeline(plain: bool) -> list[dict[str, Any]]:
    """Returns both documents of a pipeline as large as that of the run, with packed programs or plain sources."""
    noise = random.Random(0)
    components: dict[str, Any] = {}
    tasks: dict[str, Any] = {}
    containers: dict[str, Any] = {}
    kubernetes: dict[str, Any] = {}
    claim = {"mountPath": "/mnt/nlp-pipeline", "pvcNameParameter": {"componentInputParameter": "volume_claim"}}
    for name, step in STEPS.items():
        own, parameters, given, made = step.shape
        program = "".join(noise.choices(string.ascii_letters + string.digits, k=step.program))
        container: dict[str, Any] = {"image": "python:3.11", "args": ["--function_to_execute", name]}
        install = filler(step.container - len(encode({**container, "command": ["", program]})))
        container["command"] = [install, SOURCE[: step.source] if plain else program]
        containers[name] = {"container": container}
        artifacts = {
            f"artifact_{i}": {"artifactType": {"schemaTitle": "system.Model"}} for i in range(max(given, made))
        }
        components[name] = padded(
            {
                "executorLabel": name,
                "inputDefinitions": {
                    "artifacts": dict(list(artifacts.items())[:given]),
                    "parameters": {
                        f"parameter_{i}": {"description": "", "parameterType": "STRING"} for i in range(own)
                    },
                },
                "outputDefinitions": {"artifacts": dict(list(artifacts.items())[:made])},
            },
            step.component,
        )
        inputs: dict[str, Any] = {f"parameter_{i}": {"componentInputParameter": "parameter"} for i in range(parameters)}
        task = {
            "componentRef": {"name": name},
            "dependentTasks": [step.after] if step.after else [],
            "inputs": {"artifacts": dict(list(artifacts.items())[:given]), "parameters": inputs},
        }
        if name == "archive-model":  # it was given the source of the handler, as a constant
            inputs["parameter_0"] = {"runtimeValue": {"constant": SOURCE[:13_080]}}
        tasks[name] = padded(task, step.task)
        if step.keys is not None:
            pairs = [{"envVar": "AWS_ENDPOINT_URL", "secretKey": "AWS_ENDPOINT_URL"}] * step.keys
            secret = {"secretNameParameter": {"componentInputParameter": "parameter"}, "keyToEnv": pairs}
            kubernetes[name] = {"pvcMount": [claim], "secretAsEnv": [secret]}
    for name, (component_size, task_size, after, inner) in DAGS.items():
        components[name] = padded({"dag": {"tasks": {one: tasks[one] for one in inner}}}, component_size)
        passed = {one: {"componentInputParameter": one} for one in ("parameter", "volume_claim")}
        task = {"componentRef": {"name": name}, "dependentTasks": after, "inputs": {"parameters": passed}}
        tasks[name] = padded(task, task_size)
    pipeline = {"components": components, "root": components.pop("root"), "deploymentSpec": {"executors": containers}}
    return [pipeline, {"platforms": {"kubernetes": {"deploymentSpec": {"executors": kubernetes}}}}]


VALUES = {"parameter": "some-value", "volume_claim": "nlp-pipeline", **{f"other_{i}": "some-value" for i in range(50)}}


def measured_workflow(plain: bool) -> Workflow:
    pipeline, platform = measured_pipeline(plain)
    return Workflow(pipeline, platform, VALUES)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Artifacts with as much metadata as they had in the run: a few figures, and two labels."""
    monkeypatch.setattr(budget, "METADATA_OF_OTHERS", 150)


@pytest.mark.parametrize(("plain", "size"), [(True, 469_107), (False, 207_137)])
def test_the_spec_weighs_what_it_did(plain: bool, size: int) -> None:
    workflow = measured_workflow(plain)
    assert workflow.frame - budget.WORKFLOW_FRAME == pytest.approx(size, rel=0.03)


def test_the_nodes_weigh_what_they_did(seen: None) -> None:
    workflow = measured_workflow(plain=False)
    assert len(workflow.nodes) == 56
    assert len(encode(workflow.nodes)) == pytest.approx(1_361_483, rel=0.03)
    for name, step in STEPS.items():
        driver = next(node for node in workflow.nodes.values() if node["name"].endswith(f".{name}-driver"))
        sizes = {one["name"]: len(one["value"]) for one in driver["inputs"]["parameters"]}
        assert (sizes["component"], sizes["task"], sizes["container"]) == (step.component, step.task, step.container)
        patch = next(one["value"] for one in driver["outputs"]["parameters"] if one["name"] == "pod-spec-patch")
        assert step.patch == 0 or len(patch) == pytest.approx(step.patch, rel=0.03)


def test_the_whole_weighs_what_it_did_and_the_api_goes_blind_where_it_did(seen: None) -> None:
    found = weigh(yaml.safe_dump_all(measured_pipeline(plain=False)), VALUES)
    assert found.uncompressed == pytest.approx(1_570_060, rel=0.03)
    assert found.compressed == pytest.approx(941_673, rel=0.03)
    assert found.blind_after == "archive-model" and "over it from archive-model on" in str(found)


def test_json_is_as_go_writes_it() -> None:
    assert encode({"a": ["<b>&", 'c"\n']}) == '{"a":["\\u003cb\\u003e\\u0026","c\\"\\n"]}'


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_with_an_image_the_whole_budget_is_kept(pipeline: str) -> None:
    found = weigh(compile_pipeline(IMAGE, pipeline))
    assert found.excess() == found.blind_after == "" and sum(found.code.values()) < 15_000


def test_what_is_over_the_budget() -> None:
    found = Budget({"gate": 1}, template=TEMPLATE + 1, uncompressed=UNCOMPRESSED + 1, compressed=COMPRESSED + 1)
    assert found.excess(embedded=True) == "template 100,001 of 100,000, compressed 700,001 of 700,000"
    assert "uncompressed 1,000,001 of 1,000,000" in found.excess()


def test_a_file_that_is_over_the_budget_does_not_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(budget, "COMPRESSED", 500_000)
    assert main(["--compile", "--platform", "kubeflow", "--output", str(tmp_path / "made.yaml")]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: {tmp_path / 'made.yaml'} is larger than a stock cluster can store (compressed ")


def test_the_committed_file_is_within_the_budget() -> None:
    ir = compile_pipeline()
    assert weigh(ir).excess(embedded=True) == ""
    # Until the release is validated, KFP reports every step.
    assert weigh(ir).blind_after in ("", "deploy-model")


def test_texts_are_as_long_as_a_run_can_have_them() -> None:
    values = long_values(next(yaml.safe_load_all(compile_pipeline(IMAGE))))
    check_ranges(values | {"namespace": "team", "deploy": False})  # KServe leaves so long a name no room
    lengths = {"train_data": 200, "model_store": 200, "gateway": 200, "volume_claim": 63, "model_name": 48}
    assert {name: len(values[name]) for name in lengths} == lengths


def test_longer_parameters_and_more_code_make_a_larger_workflow() -> None:
    ir = compile_pipeline(IMAGE)
    pipeline = next(yaml.safe_load_all(ir))
    short = {name: "x" if isinstance(value, str) else value for name, value in long_values(pipeline).items()}
    assert weigh(ir, short).uncompressed + 40_000 < weigh(ir).uncompressed < weigh(compile_pipeline()).uncompressed


def run_step(component: Any, folder: Path, values: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Runs a step here, and returns the artifacts that it made in a folder, by name.

    Among the values and the artifacts that are given are its own.
    """
    own = component.component_spec
    known = {**values, **given}
    inputs = {name: known[name] for name in own.inputs}
    made = {
        name: getattr(dsl, one.type.partition(".")[2].partition("@")[0])(name=name)
        for name, one in own.outputs.items()
        if one.type.startswith("system.")
    }
    for name, artifact in made.items():
        artifact.uri = str(folder / own.name / name)
    (folder / own.name).mkdir(parents=True)
    component.python_func(**inputs, **made)
    return made


@pytest.mark.slow
def test_the_names_of_many_classes_are_not_in_the_artifacts_metadata(tmp_path: Path, encoder: Path) -> None:
    folder = tmp_path / ("f" * (150 - len(str(tmp_path))))
    (folder / "volume").mkdir(parents=True)
    labels = [f"class {number:04} has a name of 40 characters...." for number in range(300)]
    rows = [(text, labels[at % len(labels)]) for at, (text, _) in enumerate(make_rows(900))]
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    values = {one.name: one.default for one in pipeline_parameters("kubeflow").values()} | {
        "train_data": str(folder / "rows.csv"),
        "base_model": str(encoder),
        "max_steps": 1,
        "max_length": 32,
        "run_id": budget.RUN_ID,
    }
    artifacts: dict[str, Any] = {}
    with without_a_trial(), environment(**{VARIABLE: str(folder / "volume")}):
        for component in (load_data, train_model, evaluate_model):
            artifacts |= run_step(component, folder, values, artifacts)
    sizes = {name: len(json.dumps(artifact.metadata)) for name, artifact in artifacts.items()}
    assert {name: size for name, size in sizes.items() if size > budget.METADATA.get(name, size)} == {}
    assert not any("class 0" in json.dumps(artifact.metadata) for artifact in artifacts.values())
