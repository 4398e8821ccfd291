"""The compiled file for Kubeflow has the steps' code once; the whole run of it is in tests/cluster/."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import components

from nlp_pipeline.pipeline.compiling import compile_pipeline
from nlp_pipeline.pipeline.embedding import step_containers, step_name
from nlp_pipeline.volume import VOLUME_PATH
from tests.pipeline.programs import NOTICE, run_program

IR = compile_pipeline()
PIPELINE: dict[str, Any] = next(yaml.safe_load_all(IR))
PROGRAMS = {step_name(container): container["command"][-1] for container in step_containers(PIPELINE)}


def run_step(name: str, volume: Path) -> subprocess.CompletedProcess[str]:
    """Runs a step's program with a folder in place of the volume; of the steps only the notice gets what it needs."""
    return run_program(PROGRAMS[name].replace(VOLUME_PATH, str(volume)), name, volume.parent, NOTICE)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder


def test_the_first_step_carries_it_and_every_other_takes_it() -> None:
    carrying = max(PROGRAMS, key=lambda name: len(PROGRAMS[name]))
    assert carrying == "load_data" and len(set(PROGRAMS.values())) == 2


def test_kfp_takes_the_file() -> None:
    assert components.load_component_from_text(IR).pipeline_spec.pipeline_info.name == "nlp-pipeline"


def test_a_step_runs_by_the_code_that_the_first_one_put_on_the_volume(volume: Path) -> None:
    for _ in range(2):  # another run finds it there
        run_step("load_data", volume)
        (code,) = (volume / ".code").iterdir()
        assert code.stat().st_mode & 0o044 == 0o044, "a pod of another user reads it"
    done = run_step("notify", volume)
    assert done.stdout.startswith("reviews: succeeded\n"), done.stderr


def test_code_that_was_altered_is_not_run(volume: Path) -> None:
    run_step("load_data", volume)
    (code,) = (volume / ".code").iterdir()
    code.write_bytes(code.read_bytes() + b"\n")
    done = run_step("notify", volume)
    assert done.returncode == 1 and not (volume.parent / "output.json").exists()
    assert done.stderr == f"error: {code} was altered: start the run anew\n"


def test_a_volume_that_can_not_be_written_to_is_reported(volume: Path) -> None:
    (volume / ".code").write_text("a file, where the folder should be")
    done = run_step("load_data", volume)
    assert done.returncode == 1
    assert done.stderr == f"error: the volume can't be written to at {volume} (File exists): may the step's user?\n"
