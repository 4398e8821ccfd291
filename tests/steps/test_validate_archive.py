"""`validate_archive`: it asks the real TorchServe, and lets only what answers right become the latest release."""

import json
from pathlib import Path

import psutil
import pytest

from nlp_pipeline.errors import PipelineError, TimedOutError
from nlp_pipeline.serving.agreement import AgreementLimits, spread_rows
from nlp_pipeline.steps import validate_archive as step
from nlp_pipeline.steps.validate_archive import ask_torchserve, validate_archive
from nlp_pipeline.volume import VARIABLE, Run
from tests.conftest import make_rows, write_parquet
from tests.serving.conftest import made_release
from tests.steps.programs import run_step

ROWS = make_rows(100, seed=21)
LABELS = [label for _, label in ROWS]


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    return write_parquet(tmp_path / "predictions.parquet", ROWS, predicted=LABELS)


def validate(release: Path, predictions: Path, volume: Path) -> dict[str, float]:
    """Runs the step."""
    run = Run(model_name="tiny", run_id="run", volume_path=str(volume))
    return validate_archive(
        release, release.name, predictions, 0, AgreementLimits(), run, validation=volume / "validation.json"
    )


@pytest.mark.slow
def test_a_server_that_is_too_slow_is_ended(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = psutil.Process().children(recursive=True)  # other tests' servers may run on
    with pytest.raises(TimedOutError, match=r"^TorchServe was not ready after 0 s$"):
        ask_torchserve(made_release(model, "int8"), "tiny", ["a"], timeout=0.2)
    assert "the end of TorchServe's log" in capsys.readouterr().err
    left = [process for process in psutil.Process().children(recursive=True) if process not in before]
    assert [process for process in left if process.status() != psutil.STATUS_ZOMBIE] == []


def test_only_a_release_that_answers_right_becomes_the_latest(
    volume: Path, predictions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = 0  # of the server's labels

    def answer(release: Path, model_name: str, texts: list[str]) -> tuple[list[str], dict[str, float]]:
        assert texts == [text for text, _ in ROWS]
        return ["4" if label == "0" else "0" for label in LABELS[:wrong]] + LABELS[wrong:], {"p50_ms": 1.0}

    monkeypatch.setattr(step, "ask_torchserve", answer)
    assert validate(volume / "former", predictions, volume)["agreement"] == 1
    wrong = 50
    with pytest.raises(PipelineError, match="min_agreement"):
        validate(volume / "later", predictions, volume)
    assert json.loads((volume / "tiny" / "latest.json").read_text()) == {"digest": "former", "run_id": "run"}
    # The numbers are there to look at in either case.
    facts = json.loads((volume / "tiny" / "runs" / "run" / "validation.json").read_text())
    assert (facts["rows"], facts["agreement"], facts["p50_ms"]) == (100, 0.5, 1.0)


@pytest.mark.slow
def test_in_a_pod_a_sound_release_becomes_the_latest(
    model: Path, tmp_path: Path, volume: Path, predictions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(volume))
    release = made_release(model, "int8")
    log, made = run_step(
        "validate_archive",
        tmp_path,
        {**vars(AgreementLimits()), "validation_rows": 20, "model_name": "tiny", "run_id": "run"},
        {"release": (release, {"digest": release.name}), "predictions": (predictions, {})},
        ["validation"],
    )
    facts = made["validation"]
    assert (facts["rows"], facts["agreement"], facts["accuracy"], facts["offline_accuracy"]) == (20, 1, 1, 1)
    assert 0 < facts["p50_ms"] <= facts["p99_ms"] < 10_000
    assert facts["requests_per_second"] > 1 and 0 < facts["seconds_to_ready"] < 60
    assert json.loads((volume / "tiny" / "latest.json").read_text()) == {"digest": release.name, "run_id": "run"}
    # What it answered is kept, for asking the endpoint.
    assert spread_rows(volume / "tiny" / "runs" / "run" / "served.parquet", 0).keys() == {"text", "label", "predicted"}
    assert json.loads((volume / "tiny" / "runs" / "run" / "validation.json").read_text()) == facts
    # The log is what the step prints, with no line for each request.
    assert log.startswith("rows 20, agreement 1, ") and log.count("\n") == 1
