"""The compiled file, run without the project: what travels in it is all that the steps need."""

import json
from pathlib import Path

import pytest
import yaml

from nlp_pipeline import packages
from nlp_pipeline.kubeflow.runs import ALL_STEPS
from nlp_pipeline.pipeline.budget import METADATA, METADATA_OF_OTHERS
from nlp_pipeline.pipeline.compiling import compiled_path
from tests.conftest import make_rows
from tests.e2e.pods import Pods

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def test_each_step_runs_by_its_command_line_where_only_kfp_and_its_pins_are(tmp_path: Path, encoder: Path) -> None:
    ir = next(yaml.safe_load_all((ROOT / compiled_path("kubeflow")).read_text(encoding="utf-8")))
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in make_rows(200)), encoding="utf-8")
    pods = Pods(ir, tmp_path, {step.replace("_", "-"): getattr(packages, step.upper()) for step in ALL_STEPS})
    pods.run(
        {
            "train_data": str(rows),
            "base_model": str(encoder),
            "epochs": 8.0,
            "learning_rate": 2e-3,
            "batch_size": 16,
            "max_length": 32,
            "validation_rows": 20,
            "deploy": False,
        }
    )
    assert [name.replace("-", "_") for name in pods.logs] == list(ALL_STEPS)
    release = Path(pods.outputs["archive-model"]["artifacts"]["release"]["artifacts"][0]["metadata"]["release"])
    assert (release / "release.json").is_file() and release.is_relative_to(pods.volume)
    assert pods.outputs["validate-archive"]["artifacts"]["validation"]["artifacts"][0]["metadata"]["agreement"] == 1.0
    for output in pods.outputs.values():  # what the budget of a workflow provides for
        for name, artifact in output.get("artifacts", {}).items():
            assert len(json.dumps(artifact["artifacts"][0]["metadata"])) <= METADATA.get(name, METADATA_OF_OTHERS), (
                artifact
            )
    for name, log in pods.logs.items():
        # What a person wants to read: nothing of kfp's, pip's and the HTTP client's.
        for noise in ("KFP Executor", "executor_input", "HTTP Request", "INFO", "WARNING", "notice"):
            assert noise not in log, f"{name}: {log}"
