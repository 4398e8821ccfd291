"""The compiled file for Kubeflow has the steps' code once; the whole run of it is in tests/e2e/test_pods.py."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import components

from nlp_pipeline.pipeline.compiling import compile_pipeline
from nlp_pipeline.pipeline.embedding import FILES, pack, step_containers, step_name

IR = compile_pipeline()
PIPELINE: dict[str, Any] = next(yaml.safe_load_all(IR))
PROGRAMS = {step_name(one): one["command"][-1] for one in step_containers(PIPELINE)}
ARCHIVE = pack({path: text for name in PROGRAMS for path, text in FILES[name].items()})


def run_gate(folder: Path, code: bytes) -> subprocess.CompletedProcess[str]:
    """Runs the compiled gate with an artifact of code."""
    (folder / "code").write_bytes(code)
    (folder / "metrics").write_text('{"accuracy": 0.75, "majority_accuracy": 0.5}', encoding="utf-8")
    kind = {"schemaTitle": "system.Artifact"}
    artifacts = {name: {"artifacts": [{"uri": str(folder / name), "type": kind}]} for name in ("code", "metrics")}
    executor_input = {
        "inputs": {"parameterValues": {"min_accuracy": 0.5}, "artifacts": artifacts},
        "outputs": {"outputFile": str(folder / "output.json")},
    }
    arguments = ["--executor_input", json.dumps(executor_input), "--function_to_execute", "gate"]
    return subprocess.run(
        [sys.executable, "-c", PROGRAMS["gate"], *arguments], cwd=folder, capture_output=True, text=True
    )


def test_the_first_step_carries_it_and_every_other_takes_it() -> None:
    carrying = max(PROGRAMS, key=lambda name: len(PROGRAMS[name]))
    assert carrying == "load_data" and len(set(PROGRAMS.values())) == 2
    for name, component in PIPELINE["components"].items():
        assert ("code" in component["inputDefinitions"].get("artifacts", {})) is (name != "comp-load-data"), name
    assert "code" in PIPELINE["components"]["comp-load-data"]["outputDefinitions"]["artifacts"]


def test_kfp_takes_the_file() -> None:
    assert components.load_component_from_text(IR).pipeline_spec.pipeline_info.name == "nlp-pipeline"


def test_a_step_runs_by_the_code_that_it_is_given(tmp_path: Path) -> None:
    done = run_gate(tmp_path, ARCHIVE)
    assert done.stdout.startswith("passed: accuracy 0.7500"), done.stderr


@pytest.mark.parametrize("code", [ARCHIVE[:-1], ARCHIVE + b"\n", b""])
def test_code_that_was_altered_is_not_run(tmp_path: Path, code: bytes) -> None:
    done = run_gate(tmp_path, code)
    assert done.returncode == 1 and not (tmp_path / "output.json").exists()
    assert done.stderr == "error: the code was altered on its way: run it anew\n"
