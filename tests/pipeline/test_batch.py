"""The pipeline that classifies a file in several pods, as compiled: by kfp.local, each step in a process of its own."""

import json
from pathlib import Path

import pyarrow.parquet
import pytest
import yaml
from kfp import components, local

from nlp_pipeline.local import python3_on_path
from nlp_pipeline.pipeline.budget import IMAGE, Workflow, long_values, weigh
from nlp_pipeline.pipeline.compiling import compile_pipeline
from nlp_pipeline.processes import environment
from nlp_pipeline.steps.batch_predict.settings import MOST_PODS
from nlp_pipeline.volume import VARIABLE, VOLUME_PATH
from tests.conftest import make_rows
from tests.serving.conftest import made_release
from tests.steps.detect_drift.test_detection import write_csv


@pytest.fixture(scope="module")
def compiled() -> str:
    return compile_pipeline(pipeline="batch")


@pytest.mark.filterwarnings("ignore:.*have no effect in the current local runner")
def test_each_pod_classifies_its_shards_by_the_code_that_the_first_step_puts_on_the_volume(
    compiled: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = made_release(model, "int8")
    volume = release.parents[2]
    (volume / "tiny" / "latest.json").write_text(json.dumps({"digest": release.name}))
    rows = make_rows(100, seed=5)
    data, to = write_csv(tmp_path / "new.csv", rows), tmp_path / "scored"
    text = compiled.replace(VOLUME_PATH, str(volume))
    # What kfp.local knows another step's list by, and a step; neither is needed in a cluster.
    text = text.replace("plan-batch-Output", "pipelinechannel--plan-batch-Output")
    text = text.replace("import bz2, hashlib\n", "import bz2, hashlib  # kfp.dsl.executor_main\n")
    pipeline = components.load_component_from_text(text)
    # kfp.local puts a function of its own in the place of print, and in several threads it leaves that there.
    monkeypatch.setattr("builtins.print", print)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "root"))
    with python3_on_path(), environment(**{VARIABLE: str(volume)}):
        pipeline(data=str(data), to=str(to), model_name="tiny", shard_rows=30, pods=2)
    assert pyarrow.parquet.read_table(to)["text"].to_pylist() == [text for text, _ in rows]
    assert len(list((volume / ".code").iterdir())) == 1
    outputs = [json.loads(path.read_text()) for path in (tmp_path / "root").glob("*/*finish*/executor_output.json")]
    (figures,) = (output["artifacts"]["results"]["artifacts"][0]["metadata"] for output in outputs)
    assert figures == {"rows": 100, "shards": 4, "without_label": 0, "release": release.name}


def test_there_may_be_as_many_pods_as_the_budget_of_a_workflow_holds(compiled: str) -> None:
    limit = f"parallelismLimit: {MOST_PODS}\n"
    assert compiled.count(limit) == 1
    for ir in (compiled, compile_pipeline(IMAGE, "batch")):
        assert weigh(ir).excess() == ""
    # One more may fit, so that not each line of code changes the range.
    assert weigh(compiled.replace(limit, f"parallelismLimit: {MOST_PODS + 2}\n")).excess() != ""


def test_an_iteration_is_twelve_nodes_of_the_workflow() -> None:
    pipeline, platform = yaml.safe_load_all(compile_pipeline(IMAGE, "batch"))
    counts = []
    for count in (1, 3):
        pipeline["root"]["dag"]["tasks"]["for-loop-1"]["iteratorPolicy"]["parallelismLimit"] = count
        counts.append(len(Workflow(pipeline, platform, long_values(pipeline)).nodes))
    # Twice each: the iteration, its driver and its DAG; the step's driver, its DAG and its pod.
    assert counts[1] - counts[0] == 2 * 12
