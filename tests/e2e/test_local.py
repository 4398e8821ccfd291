"""Whole runs of the pipeline as its users start them, each in a process of its own, with a real TorchServe."""

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

from tests.conftest import make_rows

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).parents[2] / "pipeline_v2.py"
FAST = {"epochs": 8, "learning_rate": 2e-3, "batch_size": 16, "max_length": 32, "validation_rows": 40}


def settings(**values: Any) -> list[str]:
    return [f"--set={name}={value}" for name, value in values.items()]


def started(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "MARKED_BY_TEST": str(folder)},
    )


def finished(folder: Path, *arguments: str) -> tuple[int, str, str]:
    process = started(folder, *arguments)
    try:
        out, err = process.communicate()
    finally:
        process.kill()
    return process.returncode, out, err


def processes_of(folder: Path) -> list[psutil.Process]:
    """Returns what runs and was started, at any remove, by `started` in this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MARKED_BY_TEST") == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def wait_for(condition: Callable[[], Any], process: "subprocess.Popen[str]") -> Any:
    until = time.monotonic() + 180
    while not (value := condition()):
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.05)
    return value


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A working folder. What a test leaves running there is ended, and fails the test."""
    yield tmp_path
    left = {process: process.name() for process in processes_of(tmp_path)}
    for process in left:
        process.kill()
    assert not left, list(left.values())


def write_csv(path: Path, rows: list[tuple[str, str]], columns: tuple[str, str] = ("text", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def test_ones_own_data_with_five_integer_classes_and_other_column_names(folder: Path, encoder: Path) -> None:
    columns = ("review", "stars")
    write_csv(folder / "train.csv", make_rows(400, classes=5), columns)
    write_csv(folder / "evaluation.csv", make_rows(100, classes=5, seed=7), columns)
    arguments = [
        "--local",
        "--json",
        *settings(**FAST, base_model=encoder),
        *settings(train_data="train.csv", evaluation_data="evaluation.csv"),
        # For a model as small as this, which number format is the faster one is noise.
        *settings(text_column="review", label_column="stars", model_name="stars", precision="int8"),
    ]
    code, out, err = finished(folder, *arguments)
    assert code == 0, err
    result = json.loads(out)
    assert result["metrics"]["accuracy"] > 0.9 > result["metrics"]["majority_accuracy"] == 0.2
    assert result["validation"]["agreement"] >= 0.97
    assert result["validation"]["accuracy"] > 0.9
    assert result["validation"]["p50_ms"] > 0 and result["validation"]["requests_per_second"] > 0
    assert len(result["predictions"]) == 5
    assert all(one["label"] in "01234" and 0 < one["score"] <= 1 and one["text"] for one in result["predictions"])
    steps = ["load_data", "train_model", "evaluate_model", "gate", "archive_model", "validate_archive", "serve"]
    assert list(result["seconds"]) == [*steps, "total"]

    # What is promised to lie on the volume.
    model = folder / "outputs" / "volume" / "stars"
    run = Path(result["run_dir"])
    assert run.parent == model / "runs"
    assert sorted(path.name for path in run.iterdir()) == [
        "datasets", "metrics.json", "model", "report.html", "training.json", "validation.json"
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
    assert record["parameters"]["base_model"] == str(encoder)
    assert list((model / "staging").iterdir()) == []

    # A second run of the same finds the same model, and its release is there already.
    written = (release / "release.json").stat().st_mtime_ns
    code, out, err = finished(folder, *arguments)
    assert code == 0, err
    assert json.loads(out)["release"] == result["release"]
    assert (release / "release.json").stat().st_mtime_ns == written


def test_string_labels_without_evaluation_data_end_with_a_table(folder: Path, encoder: Path) -> None:
    names = {"0": "schlecht", "4": "großartig"}
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for text, label in make_rows(300):
            file.write(json.dumps({"text": text, "label": names[label]}) + "\n")
    code, out, err = finished(
        folder,
        "--local",
        "--predict",
        "superb and brilliant",
        "awful",
        *settings(**FAST, base_model=encoder, train_data="rows.jsonl", precision="fp32"),
    )
    assert code == 0, err
    lines = [line.split() for line in out.splitlines()]
    assert [line[0] for line in lines if line[-1:] in (["brilliant"], ["awful"])] == ["großartig", "schlecht"]
    assert "240 rows to train on, 60 to evaluate on" in out and "100.0% as offline" in out
    for name in ("report", "release", "datasets"):
        (path,) = [line[1] for line in lines if line[:1] == [name]]
        assert (folder / path).exists()
    assert "python pipeline_v2.py --serve" in out
    assert "load_data ..." in err and "step " in err


def test_a_model_that_is_not_good_enough_is_not_archived(folder: Path, encoder: Path) -> None:
    rows = [(text, str(number % 2)) for number, (text, _) in enumerate(make_rows(100))]  # nothing to learn
    write_csv(folder / "rows.csv", rows)
    code, out, err = finished(
        folder, "--local", "--json", *settings(**FAST, base_model=encoder, train_data="rows.csv", min_accuracy=0.99)
    )
    last = err.splitlines()[-1]
    assert (code, json.loads(out)["error"]) == (3, last.removeprefix("error: "))
    assert last.startswith("error: the gate is not passed: accuracy ") and "below min_accuracy 0.99" in last
    assert not (folder / "outputs" / "volume" / "text-classifier" / "releases").exists()
    assert Path(last.rpartition(" ")[2]).is_file()  # the report


def test_a_step_that_fails_says_why_in_one_line(folder: Path, encoder: Path) -> None:
    write_csv(folder / "rows.csv", make_rows(100))
    code, out, err = finished(
        folder, "--local", *settings(base_model=encoder, train_data="rows.csv", label_column="stars")
    )
    assert (code, out) == (1, "")
    last = err.splitlines()[-1]
    assert last.startswith(
        f"error: load_data failed: '{folder}/rows.csv' has no column 'stars'; its columns are 'text',"
    )
    assert "Traceback" not in err
    assert "Traceback" in (folder / last.rpartition(" ")[2].rstrip(")")).read_text()


def test_a_killed_training_step_goes_on_when_it_is_run_again(folder: Path, encoder: Path) -> None:
    write_csv(folder / "rows.csv", make_rows(200))
    arguments = ["--local", "--json", *settings(**FAST | {"epochs": 40}, base_model=encoder, train_data="rows.csv")]
    process = started(folder, *arguments)
    checkpoints = folder / "outputs" / "volume" / "text-classifier" / "checkpoints"
    try:
        wait_for(lambda: any(checkpoints.glob("*/*/complete")), process)
        (step,) = [one for one in processes_of(folder) if "train_model" in one.cmdline() and "sh" not in one.name()]
        step.kill()
        out, err = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith("error: train_model failed: ")
    assert not (folder / "outputs" / "volume" / "text-classifier" / "releases").exists()

    code, out, err = finished(folder, *arguments)
    assert code == 0, err
    assert json.loads(out)["training"]["resumed_from_step"] > 0
    assert "going on from the checkpoint of step" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_running(folder: Path, encoder: Path, number: signal.Signals) -> None:
    write_csv(folder / "rows.csv", make_rows(200))
    process = started(folder, "--local", *settings(**FAST, min_accuracy=0, base_model=encoder, train_data="rows.csv"))
    try:
        # When TorchServe has been booted by validate_archive.
        wait_for(lambda: [one for one in processes_of(folder) if one.name() == "java"], process)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted; nothing is left running"
    assert processes_of(folder) == []


def test_serve_answers_until_it_is_interrupted(folder: Path, model: Path) -> None:
    import shutil

    from nlp_pipeline.release import Release, publish, seal
    from nlp_pipeline.serving.torchserve import free_ports
    from nlp_pipeline.steps.archive_model.export import export_model
    from nlp_pipeline.steps.archive_model.packing import build_release, pack_model

    volume = folder / "outputs" / "volume" / "tiny"
    export_model(model, folder / "fp32.onnx")
    pack_model(model, folder / "fp32.onnx", folder / "scratch", "int8", max_length=32)
    build_release(model, folder / "scratch", folder / "release", "tiny", 8)
    digest = seal(folder / "release", Release(model_name="tiny")).digest
    publish(folder / "release", volume, digest)
    (volume / "latest.json").write_text(json.dumps({"digest": digest, "run_id": "run"}))
    shutil.rmtree(folder / "scratch")

    port = free_ports(1)[0]
    process = started(folder, "--serve", "--json", "--port", str(port))
    try:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        assert said == {
            "release": f"outputs/volume/tiny/releases/{digest}",
            "url": f"http://127.0.0.1:{port}/v1/models/tiny:predict",
        }
        request = urllib.request.Request(
            said["url"], b'{"instances": ["superb"]}', {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)["predictions"][0]["label"] == "4"
        code, out, err = finished(
            folder,
            "--predict",
            "superb",
            "awful",
            "--endpoint",
            f"http://127.0.0.1:{port}",
            *settings(model_name="tiny"),
        )
        assert code == 0, err
        assert [line.split("\t")[0] for line in out.splitlines()] == ["4", "0"]
        code, _, err = finished(folder, "--serve", "--port", str(port))
        assert (code, err.splitlines()[-1].partition(" can't")[0]) == (2, f"error: port {port}")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.communicate()
    assert processes_of(folder) == []

    # Without a server, one is booted for the question.
    code, out, err = finished(folder, "--predict", "superb", "--json")
    assert code == 0, err
    assert json.loads(out)["predictions"][0] | {"score": 0} == {"text": "superb", "label": "4", "score": 0}


@pytest.mark.timeout(1800)  # two minutes alone; training suffers much from others that compute
def test_the_demo(folder: Path) -> None:
    code, out, err = finished(folder, "--local", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["data"]["evaluation"] == 500
    assert result["metrics"]["accuracy"] >= 0.80 > 0.55 > result["metrics"]["majority_accuracy"]
    assert result["validation"]["rows"] == 500
    assert result["validation"]["agreement"] >= 0.97
    assert result["validation"]["accuracy"] >= result["metrics"]["accuracy"] - 0.01
    assert len(result["predictions"]) == 5
    assert result["predictions"][0]["label"] == "positive" and result["predictions"][3]["label"] == "negative"
    assert result["archive_bytes"] < 25_000_000
