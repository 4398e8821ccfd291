"""Several processes that train one model, as several GPUs do: here two of them on the CPU, which gloo connects."""

import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import psutil
import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ErrorHandler, ProcessFailure

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.steps.evaluate_model.prediction import predict
from nlp_pipeline.steps.train_model import processes
from nlp_pipeline.steps.train_model.device import PROCESSES
from nlp_pipeline.steps.train_model.fine_tune import fine_tune
from nlp_pipeline.steps.train_model.settings import TrainSettings
from nlp_pipeline.steps.train_model.trainer import Progress
from nlp_pipeline.volume import VARIABLE as VOLUME
from nlp_pipeline.volume import Run
from tests.conftest import TRAINING, make_rows, without_a_trial, write_parquet
from tests.steps.programs import run_step

pytestmark = pytest.mark.slow

ROWS, STEPS = 410, 77  # the last step has 14 rows
SCRIPT = """
import pickle, sys
from pathlib import Path
from nlp_pipeline.steps.train_model.processes import fine_tune_in_processes
fine_tune_in_processes(2, *pickle.loads(Path(sys.argv[1]).read_bytes()))
"""


def arguments(folder: Path, encoder: Path, batch_size: int = 16) -> list[Any]:
    """Returns the arguments of `fine_tune`, whose outputs lie in a folder then."""
    rows = write_parquet(folder / "train.parquet", make_rows(ROWS))
    settings = TrainSettings(**TRAINING | {"batch_size": batch_size}, base_model=str(encoder))
    return [rows, folder / "model", settings, 1, Run(model_name="tiny", run_id="run", volume_path=str(folder))]


def written(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "model" / "training.json").read_text())
    return facts


def accuracy(folder: Path) -> float:
    rows = make_rows(1000, seed=9)
    probabilities = predict(folder / "model", [text for text, _ in rows], 32)
    return float(numpy.mean([label == "04"[at] for (_, label), at in zip(rows, probabilities.argmax(1), strict=True)]))


@pytest.fixture
def steady_encoder(encoder: Path, tmp_path: Path) -> Path:
    """An encoder without dropout, whose loss depends on nothing but rows and weights."""
    folder = shutil.copytree(encoder, tmp_path / "encoder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_dropout_prob": 0.0}))
    return folder


def stop_one(folder: Path, encoder: Path, step: int) -> None:
    """Trains by one process, which is stopped after a step."""

    def stop(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step > step:
            raise OSError("stopped")

    with without_a_trial(), pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="stopped"):
        patch.setattr(Progress, "on_log", stop)
        fine_tune(*arguments(folder, encoder))


def kill_one_of_two(folder: Path, encoder: Path) -> int:
    """Trains by two processes, of which one is killed after a checkpoint, and returns its step; a line says why."""
    given = arguments(folder, encoder, batch_size=17)  # of which two take 16
    (folder / "arguments").write_bytes(pickle.dumps(given))
    command = [sys.executable, "-c", SCRIPT, str(folder / "arguments")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        lines: list[str] = []
        for line in process.stdout or ():
            lines.append(line)
            if line.startswith("checkpoint at step"):
                break
        children = [child for child in psutil.Process(process.pid).children() if "spawn_main" in str(child.cmdline())]
        assert len(children) == 2, "".join(lines)
        assert "batch_size is 16: 2 processes can't share 17\n" in lines
        assert any(line.startswith("going on from step ") for line in lines)
        children[1].kill()
        log = process.communicate()[0]
    finally:
        process.kill()
        process.wait()
    (said,) = [line for line in log.splitlines() if "PipelineError: " in line]
    assert said.endswith(f"process 1 of 2 failed: Signal 9 (SIGKILL) received by PID {children[1].pid}")
    assert process.returncode == 1 and log.count("Traceback") == 1
    assert not any(child.is_running() for child in children) and not (folder / "model").exists()
    return int(lines[-1].split()[-1])


def test_it_goes_on_in_as_many_processes_as_there_are_and_ends_as_one_does(
    steady_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By one that is stopped, by two of which one is killed, by one again, and in a pod by two."""
    alone, folder = tmp_path / "alone", tmp_path / "broken"
    alone.mkdir()
    folder.mkdir()
    with without_a_trial():
        fine_tune(*arguments(alone, steady_encoder))
    assert written(alone)["processes"] == 1
    stop_one(folder, steady_encoder, step=20)
    saved = kill_one_of_two(folder, steady_encoder)
    capsys.readouterr()
    stop_one(folder, steady_encoder, step=60)
    (step,) = re.findall(rf"going on from step (\d+) of {STEPS}\n", capsys.readouterr().out)
    assert int(step) >= saved

    monkeypatch.setenv(PROCESSES, "2")
    monkeypatch.setenv(VOLUME, str(folder))
    rows, _, settings, seed, _ = arguments(folder, steady_encoder)
    others = {"seed": seed, "model_name": "tiny", "run_id": "run", "train_nodes": 1, "train_runtime": ""}
    parameters = vars(settings) | others
    log, made = run_step(
        "train_model", folder, parameters, {"train": (rows, {})}, ["model", "training"], is_installed=True
    )
    facts = written(folder)
    assert (facts["processes"], made["training"]["processes"]) == (2, 2)
    assert f"going on from step {facts['resumed_from_step']} of {STEPS}\n" in log
    assert facts["resumed_from_step"] >= saved
    assert log.count(f"step {STEPS}/{STEPS}") == log.count("training on cpu") == 1  # the first of them prints

    curves = [numpy.array(written(place)["loss_curve"]) for place in (folder, alone)]
    assert curves[0][:, 0].tolist() == curves[1][:, 0].tolist() and curves[0][-1, 0] == STEPS
    numpy.testing.assert_allclose(curves[0][:, 1], curves[1][:, 1], atol=0.03)
    assert abs(accuracy(folder) - accuracy(alone)) <= 0.005
    assert list((folder / "tiny" / "checkpoints").iterdir()) == []


def test_an_error_of_one_of_them_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "error.json")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", file)
    try:
        raise UsageError("base_model 'none' can't be loaded")
    except UsageError as error:
        ErrorHandler().record_exception(error)  # as torch does in each process

    def launch(*_: Any) -> Any:
        raise ChildFailedError("training", {1: ProcessFailure(local_rank=1, pid=7, exitcode=1, error_file=file)})

    monkeypatch.setattr(processes, "elastic_launch", lambda *_: launch)
    with pytest.raises(PipelineError, match=r"^process 1 of 2 failed: UsageError: base_model 'none' can't be loaded$"):
        processes.fine_tune_in_processes(2)
    assert capsys.readouterr().out.startswith("Traceback")
