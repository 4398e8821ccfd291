"""The pipeline that looks for drift, as compiled: by kfp.local, in a process of its own, with a volume's releases."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import components, local

from nlp_pipeline.local import python3_on_path
from nlp_pipeline.pipeline.compiling import compile_pipeline
from nlp_pipeline.pipeline.parameters import pipeline_parameters
from nlp_pipeline.processes import environment
from nlp_pipeline.volume import VARIABLE
from tests.conftest import make_rows
from tests.fakes.kfp import kubeflow
from tests.serving.conftest import made_release
from tests.steps.detect_drift.test_detection import only_positive, write_csv
from tests.steps.detect_drift.test_retraining import VALUES, schedule


@pytest.fixture(scope="module")
def compiled() -> str:
    return compile_pipeline(pipeline="drift")


@pytest.mark.filterwarnings("ignore:.*have no effect in the current local runner")
@pytest.mark.parametrize("moved", [False, True], ids=["alike", "moved"])
def test_a_run_leaves_a_report_and_starts_a_training_where_the_data_moved(
    moved: bool, compiled: str, model: Path, tmp_path: Path
) -> None:
    release = made_release(model, "int8")
    volume = release.parents[2]
    (volume / "tiny" / "latest.json").write_text(json.dumps({"digest": release.name}))
    data = write_csv(tmp_path / "new.csv", only_positive() if moved else make_rows(400, seed=5))
    pipeline = components.load_component_from_text(compiled)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "root"))
    with kubeflow() as k:
        schedule(k, "nightly")
        variables = {VARIABLE: str(volume), "KF_PIPELINES_ENDPOINT": k.url}
        with python3_on_path(), environment(**variables):
            pipeline(data=str(data), model_name="tiny", retrain="nightly")
        runs = k.api.runs
    (output,) = (tmp_path / "root").glob("*/*/executor_output.json")
    figures = json.loads(output.read_text())["artifacts"]["drift"]["artifacts"][0]["metadata"]
    assert figures["moved"] == moved and (figures["predictions"] > 0.25) is moved
    assert [run["runtime_config"]["parameters"] for run in runs] == [VALUES] * moved
    assert figures.get("started") == (runs[0]["run_id"] if moved else None)
    report = max((volume / "tiny" / "runs").glob("*/drift.md"), key=lambda path: path.stat().st_mtime).read_text()
    assert report.startswith("# tiny: has the data moved?\n") and f"release {release.name}" in report
    assert f"| predictions | 50.0% 4 | {100 if moved else 50}.0% 4 |" in report
    assert (output.parent / "report").read_text() == report


def test_the_one_step_carries_its_code_and_gets_what_it_needs(compiled: str) -> None:
    pipeline, platform = yaml.safe_load_all(compiled)
    (executor,) = pipeline["deploymentSpec"]["executors"].values()
    (pod,) = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
    assert "/.code/" not in executor["container"]["command"][-1]
    assert pod["podMetadata"]["labels"] == {"access-ml-pipeline": "true"}
    (secret,), (mount,) = pod["secretAsEnv"], pod["pvcMount"]
    assert secret["secretNameParameter"] == {"componentInputParameter": "s3_secret"} and secret["optional"]
    assert mount["pvcNameParameter"] == {"componentInputParameter": "volume_claim"}
    parameters: dict[str, Any] = pipeline["root"]["inputDefinitions"]["parameters"]
    assert list(parameters) == sorted(pipeline_parameters("drift")) and sys.prefix not in compiled
    assert [name for name, declared in parameters.items() if "defaultValue" not in declared] == ["data"]
