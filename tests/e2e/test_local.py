"""Whole runs of the pipeline as its users start them, each in a process of its own, with a real TorchServe.

A run takes half a minute, most of it the imports of its steps: so all that one's own data show is one test.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from nlp_pipeline.serving.torchserve import free_ports
from tests.conftest import make_rows

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).parents[2] / "pipeline_v2.py"
FAST = {"epochs": 16, "learning_rate": 2e-3, "batch_size": 16, "max_length": 32, "validation_rows": 40}
STEPS = ["load_data", "train_model", "evaluate_model", "archive_model", "validate_archive", "serve"]
MARK = "MARKED_BY_TEST"


def settings(**values: Any) -> list[str]:
    return [f"--set={name}={value}" for name, value in values.items()]


def start(folder: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment, MARK: str(folder)},
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    try:
        out, err = process.communicate()
    finally:
        process.kill()
    return process.returncode, out, err


def processes_of(folder: Path) -> list[psutil.Process]:
    """Returns what runs and was started, at any remove, by `start` in this folder."""
    found = []
    for process in psutil.process_iter(["name"]):  # which is read now: it may end at any time
        try:
            if process.environ().get(MARK) == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def wait_for(condition: Callable[[], Any], process: "subprocess.Popen[str]") -> Any:
    while not (value := condition()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    return value


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A working folder. What a test leaves running there is ended, and fails the test."""
    yield tmp_path
    left = {process: process.info["name"] for process in processes_of(tmp_path)}
    for process in left:
        process.kill()
    assert not left, list(left.values())


def write_csv(path: Path, rows: list[tuple[str, str]], columns: tuple[str, str] = ("text", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def test_ones_own_data_from_a_killed_training_to_an_interrupted_run(folder: Path, encoder: Path) -> None:
    """Five integer classes, other column names, texts with braces and umlauts."""
    rows = [(f"{text} {{{{$.Name}}}} großartig", label) for text, label in make_rows(400, classes=5)]
    write_csv(folder / "train.csv", rows, ("review", "stars"))
    write_csv(folder / "evaluation.csv", make_rows(100, classes=5, seed=7), ("review", "stars"))
    arguments = [
        "--local",
        "--json",
        *settings(**FAST, base_model=encoder),
        *settings(train_data="train.csv", evaluation_data="evaluation.csv"),
        # For a model as small as this, which number format is the faster one is noise.
        *settings(text_column="review", label_column="stars", model_name="stars", precision="int8"),
    ]
    kill_training(start(folder, *arguments), folder)
    code, out, err = finish(start(folder, *arguments, "--predict", "superb and brilliant", "awful"))
    assert code == 0, err
    assert processes_of(folder) == []
    result = json.loads(out)
    check_what_it_says(result, err)
    check_what_lies_on_the_volume(result, folder / "outputs" / "volume" / "stars", str(encoder))
    check_serve(folder, Path(result["release"]).name)
    check_the_same_run_again(folder, arguments, Path(result["release"]) / "release.json")


def kill_training(process: "subprocess.Popen[str]", folder: Path) -> None:
    """Kills a run's step `train_model` once it has written a checkpoint, and makes sure that the run says so."""
    try:
        wait_for(lambda: any(folder.glob("outputs/volume/*/checkpoints/*/*/complete")), process)
        (step,) = [
            item for item in processes_of(folder) if "train_model" in item.cmdline() and "sh" not in item.info["name"]
        ]
        step.kill()
        _, err = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith("error: train_model failed: ")


def check_what_it_says(result: dict[str, Any], err: str) -> None:
    assert result["data"] == {"train": 400, "evaluation": 100}
    assert result["metrics"]["accuracy"] > 0.9 > result["metrics"]["majority_accuracy"] == 0.2
    assert result["validation"]["agreement"] >= 0.97
    assert result["validation"]["accuracy"] > 0.9
    assert result["validation"]["p50_ms"] > 0 and result["validation"]["requests_per_second"] > 0
    assert [(item["text"], item["label"]) for item in result["predictions"]] == [
        ("superb and brilliant", "4"),
        ("awful", "0"),
    ]
    assert all(0 < item["score"] <= 1 for item in result["predictions"])
    assert list(result["seconds"]) == [*STEPS, "total"]
    assert [line.split()[0] for line in err.splitlines() if line.endswith(" ...")] == STEPS
    assert "\n  step " in err  # what a step says of its own
    assert "going on from step" in err
    assert json.loads((Path(result["run_dir"]) / "training.json").read_text())["resumed_from_step"] > 0


def check_what_lies_on_the_volume(result: dict[str, Any], model_folder: Path, encoder: str) -> None:
    run = Path(result["run_dir"])
    assert run.parent == model_folder / "runs"
    assert sorted(path.name for path in run.iterdir()) == [
        "datasets", "gate.json", "metrics.json", "model", "report.html", "served.parquet", "step.json", "training.json",
        "validation.json",
    ]  # fmt: skip
    assert sorted(path.name for path in (run / "datasets").iterdir()) == [
        "evaluation.parquet", "predictions.parquet", "summary.md", "train.parquet"
    ]  # fmt: skip
    assert Path(result["report"]) == run / "report.html"
    assert "Number format of the archive: int8" in (run / "report.html").read_text()
    release = Path(result["release"])
    assert Path(result["archive"]) == release / "model-store" / "stars.mar"
    record = json.loads((release / "release.json").read_text())
    assert record["digest"] == release.name and record["labels"] == ["0", "1", "2", "3", "4"]
    assert record["source_sha256"] and record["metrics"]["accuracy"] == result["metrics"]["accuracy"]
    assert record["parameters"]["base_model"] == encoder
    assert list((model_folder / "staging").iterdir()) == []


def check_serve(folder: Path, digest: str) -> None:
    (port,) = free_ports(1)
    process = start(folder, "--serve", "--json", "--port", str(port))
    try:
        assert process.stdout is not None
        served = json.loads(process.stdout.readline())
        assert served == {
            "release": f"outputs/volume/stars/releases/{digest}",
            "url": f"http://127.0.0.1:{port}/v1/models/stars:predict",
        }
        request = urllib.request.Request(
            served["url"], b'{"instances": ["superb"]}', {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)["predictions"][0]["label"] == "4"
        endpoint = ["--endpoint", f"http://127.0.0.1:{port}", *settings(model_name="stars")]
        code, out, err = finish(start(folder, "--predict", "superb", "awful", *endpoint))
        assert code == 0, err
        assert [line.split("\t")[0] for line in out.splitlines()] == ["4", "0"]
        code, _, err = finish(start(folder, "--serve", "--port", str(port)))
        assert (code, err.splitlines()[-1].partition(" can't")[0]) == (2, f"error: port {port}")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.communicate()
    assert processes_of(folder) == []


def check_the_same_run_again(folder: Path, arguments: list[str], record: Path) -> None:
    """It makes the same release; interrupted after that, it leaves nothing running."""
    written = record.stat().st_mtime_ns
    process = start(folder, *arguments)
    try:
        # When TorchServe has been booted by validate_archive, and the release is published.
        wait_for(lambda: [item for item in processes_of(folder) if item.info["name"] == "java"], process)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted; nothing is left running"
    assert processes_of(folder) == []
    assert list(record.parent.parent.iterdir()) == [record.parent] and record.stat().st_mtime_ns == written


def test_a_step_that_fails_says_why_in_one_line(folder: Path, encoder: Path) -> None:
    write_csv(folder / "rows.csv", make_rows(100))
    process = start(folder, "--local", *settings(base_model=encoder, train_data="rows.csv", label_column="stars"))
    code, out, err = finish(process)
    assert (code, out) == (1, "")
    last = err.splitlines()[-1]
    assert last.startswith(
        f"error: load_data failed: '{folder}/rows.csv' has no column 'stars'; its columns are 'text',"
    )
    assert "Traceback" not in err
    assert "Traceback" in (folder / last.rpartition(" ")[2].rstrip(")")).read_text()


@pytest.mark.timeout(1800)  # a minute alone; training suffers much from others that compute
def test_the_demo(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # This model is large enough for threads; on a busy machine, those that wait must not take what others need.
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    code, out, err = finish(start(folder, "--local"))
    assert code == 0, err
    lines = [line.split() for line in out.partition("\nnext:")[0].splitlines()]
    labels = [line[0] for line in lines if line[0:1] in (["positive"], ["negative"])]
    assert len(labels) == 5 and (labels[0], labels[3]) == ("positive", "negative")
    paths = {line[0]: folder / line[1] for line in lines if line[0:1] in (["report"], ["release"], ["datasets"])}
    assert len(paths) == 3 and all(path.exists() for path in paths.values())
    assert [line[0] for line in lines if line[0:1] and line[0] in (*STEPS, "all")] == [*STEPS, "all"]
    assert "500 to evaluate on" in out and "python pipeline_v2.py --serve  " in out

    metrics, validation = (
        json.loads((paths["report"].parent / f"{name}.json").read_text()) for name in ("metrics", "validation")
    )
    assert metrics["accuracy"] >= 0.80 > 0.55 > metrics["majority_accuracy"]
    assert validation["rows"] == 500 and validation["agreement"] >= 0.97
    assert validation["accuracy"] >= metrics["accuracy"] - 0.01
    assert (paths["release"] / "model-store" / "movie-reviews.mar").stat().st_size < 25_000_000
