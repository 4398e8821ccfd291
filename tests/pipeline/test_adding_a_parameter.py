"""Adding a parameter is two lines: where it is declared, and where it is used. This does it, in a copy, and looks."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nlp_pipeline.pipeline.compiling import compiled_path
from nlp_pipeline.pipeline.embedding import step_containers, step_name
from nlp_pipeline.platforms import PLATFORMS

ROOT = Path(__file__).parents[2]
DECLARATION = '    min_macro_f1: float = parameter(0.25, "Floor of the macro F1.", SHARE)\n'
USE = '    print(f"the floor of the macro F1 is {settings.min_macro_f1}")\n'


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project whose gate has one parameter more, compiled and documented anew."""
    copy = tmp_path_factory.mktemp("changed")
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.png")
    for name in ("src", "docs", "benchmarks"):
        shutil.copytree(ROOT / name, copy / name, ignore=unwanted)
    shutil.copy(ROOT / "pipeline_v2.py", copy)
    gate = copy / "src" / "nlp_pipeline" / "steps" / "gate.py"
    lines = gate.read_text(encoding="utf-8").splitlines(keepends=True)
    lines.insert(next(at for at, line in enumerate(lines) if "min_accuracy: float = parameter" in line), DECLARATION)
    lines.insert(next(at for at, line in enumerate(lines) if "json.loads" in line), USE)
    gate.write_text("".join(lines), encoding="utf-8")
    for command in (["pipeline_v2.py", "--compile"], ["-m", "nlp_pipeline.docs"]):
        assert run(copy, *command).returncode == 0
    return copy


def run(copy: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in the copy."""
    environment = {**os.environ, "PYTHONPATH": f"{copy / 'src'}{os.pathsep}{copy}"}
    return subprocess.run([sys.executable, *command], cwd=copy, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_it_is_in_both_compiled_files(changed: Path, platform: str) -> None:
    ir = next(yaml.safe_load_all((changed / compiled_path(platform)).read_text(encoding="utf-8")))
    parameter = ir["root"]["inputDefinitions"]["parameters"]["min_macro_f1"]
    assert (parameter["defaultValue"], parameter["description"]) == (0.25, "Floor of the macro F1.")
    assert "min_macro_f1" in ir["components"]["comp-gate"]["inputDefinitions"]["parameters"]
    inputs = ir["root"]["dag"]["tasks"]["gate"]["inputs"]["parameters"]
    assert inputs["min_macro_f1"] == {"componentInputParameter": "min_macro_f1"}


def test_it_reaches_the_step(changed: Path, tmp_path: Path) -> None:
    ir = next(yaml.safe_load_all((changed / compiled_path("vertex")).read_text(encoding="utf-8")))
    (gate,) = (one for one in step_containers(ir) if step_name(one) == "gate")
    (tmp_path / "metrics").write_text('{"accuracy": 0.75, "majority_accuracy": 0.5, "champion": {}}', encoding="utf-8")
    artifact = {"name": "metrics", "uri": str(tmp_path / "metrics"), "type": {"schemaTitle": "system.Metrics"}}
    values = {"min_accuracy": 0.5, "min_macro_f1": 0.125, "require": "floor", "min_gain": 0.0}
    executor_input = {
        "inputs": {"parameterValues": values, "artifacts": {"metrics": {"artifacts": [artifact]}}},
        "outputs": {"outputFile": str(tmp_path / "output.json")},
    }
    arguments = [json.dumps(executor_input) if one == "{{$}}" else one for one in gate["args"]]
    done = run(changed, *gate["command"][-2:], *arguments)
    assert done.stdout.startswith("the floor of the macro F1 is 0.125\npassed: "), done.stderr


def test_it_can_be_set_and_is_checked(changed: Path) -> None:
    done = run(changed, "pipeline_v2.py", "--local", "--set", "min_macro_f1=7")
    assert done.returncode == 2
    assert done.stderr == "error: min_macro_f1 is 7.0: it must be from 0 to 1, as 0.05 for 5%\n"
    done = run(changed, "pipeline_v2.py", "--local", "--set", "min_macro_f1=much")
    assert "min_macro_f1 is a number, as in --set min_macro_f1=0.25" in done.stderr


def test_it_is_documented(changed: Path) -> None:
    assert "min_macro_f1=0.25" in run(changed, "pipeline_v2.py", "--help").stdout
    row = "| `min_macro_f1` | float | `0.25` | Floor of the macro F1. |"
    assert row in (changed / "docs" / "parameters.md").read_text(encoding="utf-8")
