"""Adding a parameter is two lines: where it is declared, and where it is used. This does it, in a copy, and looks."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import yaml

from nlp_pipeline.pipeline.compiling import compiled_path
from nlp_pipeline.pipeline.embedding import step_containers, step_name
from nlp_pipeline.platforms import PLATFORMS
from nlp_pipeline.steps.load_data.settings import LoadSettings

ROOT = Path(__file__).parents[2]
DECLARATION = '    max_repeats: float = parameter(0.25, "Share of rows that may repeat others.", SHARE)\n'
USE = '    print(f"up to {settings.max_repeats} may repeat others")\n'

# Compiles and documents it. The file for Kubeflow may have no room left for one more, where it carries the steps' code.
MAKE = """
from nlp_pipeline import cli, docs
assert cli.main(["--compile", "--platform", "vertex"]) == 0
assert cli.main(["--compile", "--platform", "kubeflow", "--pipeline", "train", "--image", "team/steps:1"]) == 0
docs.main()
"""


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project whose first step has one parameter more, compiled and documented anew."""
    copy = tmp_path_factory.mktemp("changed")
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.png")
    for name in ("src", "docs", "benchmarks"):
        shutil.copytree(ROOT / name, copy / name, ignore=unwanted)
    shutil.copy(ROOT / "pipeline_v2.py", copy)
    for name, before, new in (
        ("settings.py", "max_bad_share: float = parameter", DECLARATION),
        ("load.py", "run.prepare_folder()", USE),
    ):
        file = copy / "src" / "nlp_pipeline" / "steps" / "load_data" / name
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        lines.insert(next(at for at, line in enumerate(lines) if before in line), new)
        file.write_text("".join(lines), encoding="utf-8")
    done = run(copy, "-c", MAKE)
    assert done.returncode == 0, done.stderr
    return copy


def run(copy: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in the copy."""
    environment = {**os.environ, "PYTHONPATH": f"{copy / 'src'}{os.pathsep}{copy}"}
    return subprocess.run([sys.executable, *command], cwd=copy, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_it_is_in_both_compiled_files(changed: Path, platform: str) -> None:
    ir = next(yaml.safe_load_all((changed / compiled_path(platform)).read_text(encoding="utf-8")))
    parameter = ir["root"]["inputDefinitions"]["parameters"]["max_repeats"]
    assert (parameter["defaultValue"], parameter["description"]) == (0.25, "Share of rows that may repeat others.")
    assert "max_repeats" in ir["components"]["comp-load-data"]["inputDefinitions"]["parameters"]
    dags = [ir["root"]["dag"], *(component["dag"] for component in ir["components"].values() if "dag" in component)]
    (task,) = (dag["tasks"]["load-data"] for dag in dags if "load-data" in dag["tasks"])
    assert task["inputs"]["parameters"]["max_repeats"]["componentInputParameter"].endswith("max_repeats")


def test_it_reaches_the_step(changed: Path, tmp_path: Path) -> None:
    ir = next(yaml.safe_load_all((changed / compiled_path("vertex")).read_text(encoding="utf-8")))
    (step,) = (container for container in step_containers(ir) if step_name(container) == "load_data")
    defaults = {item.name: None if item.default is MISSING else item.default for item in fields(LoadSettings)}
    values = defaults | {"train_data": "/nowhere.csv", "max_repeats": 0.125, "model_name": "reviews", "run_id": "run"}
    executor_input = {
        "inputs": {"parameterValues": values},
        "outputs": {
            "artifacts": {
                name: {"artifacts": [{"name": name, "uri": str(tmp_path / name), "type": {"schemaTitle": schema}}]}
                for name, schema in dict.fromkeys(("train", "evaluation", "summary"), "system.Artifact").items()
            },
            "outputFile": str(tmp_path / "output.json"),
        },
    }
    arguments = [json.dumps(executor_input) if part == "{{$}}" else part for part in step["args"]]
    done = run(changed, *step["command"][-2:], *arguments)
    # Then it fails: there is no such file.
    assert done.stdout.startswith("up to 0.125 may repeat others\n"), done.stderr


def test_it_can_be_set_and_is_checked(changed: Path) -> None:
    done = run(changed, "pipeline_v2.py", "--local", "--set", "max_repeats=7")
    assert done.returncode == 2
    assert done.stderr == "error: max_repeats is 7.0: it must be from 0 to 1, as 0.05 for 5%\n"
    done = run(changed, "pipeline_v2.py", "--local", "--set", "max_repeats=much")
    assert "max_repeats is a number, as in --set max_repeats=0.25" in done.stderr


def test_it_is_documented(changed: Path) -> None:
    assert "max_repeats=0.25" in run(changed, "pipeline_v2.py", "--help").stdout
    row = "| `max_repeats` | float | `0.25` | Share of rows that may repeat others. |"
    assert row in (changed / "docs" / "parameters.md").read_text(encoding="utf-8")
