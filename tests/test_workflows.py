"""The workflows of CI, as far as they can be tested without running them."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from nlp_pipeline import __version__, packages
from nlp_pipeline.deploy.manifests import IMAGES
from nlp_pipeline.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".github" / "workflows"
NAMES = ["ci", "cluster"]
CLUSTER = yaml.safe_load((FOLDER / "cluster.yaml").read_text(encoding="utf-8"))


def load(name: str) -> dict[Any, Any]:
    """Returns a workflow; YAML reads its key `on` as true."""
    workflow: dict[Any, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return workflow


def steps_of(workflow: dict[Any, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_when_they_run() -> None:
    assert sorted(path.stem for path in FOLDER.iterdir()) == NAMES
    assert load("ci")[True].keys() == {"push", "pull_request"}
    assert load("cluster")[True].keys() == {"schedule", "workflow_dispatch"}


@pytest.mark.parametrize("name", NAMES)
def test_they_may_read_and_no_more_and_end_in_time(name: str) -> None:
    workflow = load(name)
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert all(job["timeout-minutes"] <= 90 and "permissions" not in job for job in workflow["jobs"].values())


@pytest.mark.parametrize("name", NAMES)
def test_their_actions_are_pinned_and_their_scripts_are_bash(name: str) -> None:
    for step in steps_of(load(name)):
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+\.\d+\.\d+", step["uses"])
        else:
            done = subprocess.run(["bash", "-n"], input=step["run"], capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", NAMES)
def test_python_and_what_is_made(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    (python,) = [step["with"] for step in steps_of(load(name)) if "setup-python" in step.get("uses", "")]
    made = {target for step in steps_of(load(name)) for target in re.findall(r"\bmake ([a-z-]+)", step.get("run", ""))}
    assert made == {{"ci": "test", "cluster": "cluster-test"}[name]} and made <= targets
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    assert f">={python['python-version']}" == requires and python["cache"] == "pip"
    assert all((ROOT / path).is_file() for path in python["cache-dependency-path"].split())


def test_the_cluster_has_the_versions_that_the_project_knows() -> None:
    versions = CLUSTER["env"]
    assert f"kfp=={versions['KFP']}" == packages.KFP
    minor = ".".join(versions["KSERVE"].removeprefix("v").split(".")[:2])
    assert f"KServe {minor}" in (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    for name in ("KFP", "KSERVE"):
        assert versions[name].removeprefix("v").rpartition(".")[0] in page
    assert versions["RUNTIME_IMAGE"] == IMAGES["onnx"]
    assert versions["STEPS_IMAGE"] == f"nlp-pipeline-steps:{__version__}"


def test_the_cluster_test_is_told_by_settings_that_there_are() -> None:
    text = (FOLDER / "cluster.yaml").read_text(encoding="utf-8")
    named = {name.lower() for name in re.findall(rf"\b{PREFIX}(\w+)", text)}
    assert named <= Settings.model_fields.keys() and {"host", "image", "s3_endpoint"} <= named
