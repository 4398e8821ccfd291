"""`validate_archive`: it asks the real TorchServe, and lets only what answers right become the latest release."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from kfp import dsl

from nlp_pipeline.components import validate_archive as module
from nlp_pipeline.components.validate_archive import ask_torchserve, validate_archive
from tests.conftest import write_parquet
from tests.serving.conftest import changed_release, made_release, run_in_local_runner

Rows = list[tuple[str, str]]


@pytest.fixture(scope="module")
def evaluation(rows: Callable[..., Rows]) -> Rows:
    return rows(100, seed=21)


def predictions_of(folder: Path, rows: Rows, predicted: list[str] | None = None) -> Path:
    return write_parquet(folder / "predictions.parquet", rows, predicted=predicted or [label for _, label in rows])


def validate(release: Path, predictions: Path, volume: Path, **changed: Any) -> dict[str, Any]:
    """Runs the step and returns its metrics."""
    volume.mkdir(exist_ok=True)
    validation = dsl.Metrics(uri=str(volume / "metrics.json"))
    options: dict[str, Any] = {"validation_rows": 0, "min_agreement": 0.97, "max_accuracy_drop": 0.01} | changed
    validate_archive(
        release=dsl.Model(uri=str(release), metadata={"digest": release.name}),
        predictions=dsl.Dataset(uri=str(predictions)),
        volume_path=str(volume),
        model_name="tiny",
        run_id="run",
        validation=validation,
        **options,
    )
    return dict(validation.metadata)


@pytest.fixture(autouse=True)
def others() -> set[int]:
    """The processes that were there before, as other tests' servers may be."""
    return {one.pid for one in psutil.Process().children(recursive=True)}


def servers(others: set[int]) -> list[int]:
    """Returns the ids of this test's servers that still run."""
    children = psutil.Process().children(recursive=True)
    return [one.pid for one in children if one.pid not in others and one.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def canned(monkeypatch: pytest.MonkeyPatch, evaluation: Rows) -> Callable[[int], None]:
    """Lets the server's place be taken by one that gives a number of wrong labels."""

    def give(wrong: int) -> None:
        labels = [label for _, label in evaluation]
        for at in range(wrong):
            labels[at] = "0" if labels[at] == "4" else "4"
        facts = {"p50_ms": 1.0, "p99_ms": 2.0, "requests_per_second": 100.0, "seconds_to_ready": 3.0}
        monkeypatch.setattr(module, "ask_torchserve", lambda *_, **__: {"labels": labels, **facts})

    return give


@pytest.mark.slow
def test_a_sound_release_becomes_the_latest(
    model: Path, tmp_path: Path, evaluation: Rows, capsys: pytest.CaptureFixture[str], others: set[int]
) -> None:
    release = made_release(model, "int8")
    facts = validate(release, predictions_of(tmp_path, evaluation), tmp_path / "volume")
    assert (facts["rows"], facts["agreement"], facts["accuracy"], facts["offline_accuracy"]) == (100, 1, 1, 1)
    assert 0 < facts["p50_ms"] <= facts["p99_ms"] < 10_000
    assert facts["requests_per_second"] > 1
    assert 0 < facts["seconds_to_ready"] < 60
    folder = tmp_path / "volume" / "tiny"
    assert json.loads((folder / "latest.json").read_text()) == {"digest": release.name, "run_id": "run"}
    assert json.loads((folder / "runs" / "run" / "validation.json").read_text()) == facts
    assert "agreement 1" in capsys.readouterr().out
    assert servers(others) == []


@pytest.mark.slow
def test_a_release_that_does_not_load_shows_the_log(
    model: Path, tmp_path: Path, evaluation: Rows, capsys: pytest.CaptureFixture[str], others: set[int]
) -> None:
    broken = changed_release(made_release(model, "int8"), tmp_path / "broken", {"tokenizer.json": None})
    with pytest.raises(RuntimeError, match=r"^TorchServe could not load model 'tiny'$"):
        validate(broken, predictions_of(tmp_path, evaluation), tmp_path / "volume")
    output = capsys.readouterr().out
    assert output.startswith("the end of TorchServe's log:\n") and "No such file or directory" in output
    assert not (tmp_path / "volume" / "tiny" / "latest.json").exists()
    assert servers(others) == []


@pytest.mark.slow
def test_a_server_that_is_too_slow_is_ended(model: Path, capsys: pytest.CaptureFixture[str], others: set[int]) -> None:
    with pytest.raises(TimeoutError, match=r"^TorchServe was not ready with model 'tiny' after 0 s$"):
        ask_torchserve(str(made_release(model, "int8")), "tiny", ["a"], timeout=0.2)
    assert "the end of TorchServe's log" in capsys.readouterr().out
    assert servers(others) == []


@pytest.mark.parametrize(("wrong", "passes"), [(0, True), (3, True), (4, False)])
def test_agreement(canned: Any, tmp_path: Path, evaluation: Rows, wrong: int, passes: bool) -> None:
    canned(wrong)
    predictions = predictions_of(tmp_path, evaluation)
    if passes:
        facts = validate(tmp_path / "digest", predictions, tmp_path / "v", max_accuracy_drop=1.0)
        assert facts["agreement"] == (100 - wrong) / 100
    else:
        with pytest.raises(
            ValueError,
            match=r"^the served model gives the offline model's label on 0\.9600 of 100 rows; min_agreement is 0\.97: "
            r"try precision=fp32$",
        ):
            validate(tmp_path / "digest", predictions, tmp_path / "v", max_accuracy_drop=1.0)
    assert (tmp_path / "v" / "tiny" / "latest.json").exists() == passes
    # The numbers are there to look at in either case.
    assert json.loads((tmp_path / "v" / "tiny" / "runs" / "run" / "validation.json").read_text())["rows"] == 100


@pytest.mark.parametrize(("wrong", "passes"), [(1, True), (2, False)])
def test_accuracy_drop(canned: Any, tmp_path: Path, evaluation: Rows, wrong: int, passes: bool) -> None:
    canned(wrong)
    predictions = predictions_of(tmp_path, evaluation)
    if passes:
        validate(tmp_path / "digest", predictions, tmp_path / "v")
    else:
        with pytest.raises(
            ValueError,
            match=r"^the served model's accuracy is 0\.9800, 0\.0200 below the offline model's; max_accuracy_drop is "
            r"0\.01: try precision=fp32$",
        ):
            validate(tmp_path / "digest", predictions, tmp_path / "v")
    assert (tmp_path / "v" / "tiny" / "latest.json").exists() == passes


def test_a_failure_leaves_the_former_latest(canned: Any, tmp_path: Path, evaluation: Rows) -> None:
    predictions = predictions_of(tmp_path, evaluation)
    canned(0)
    validate(tmp_path / "former", predictions, tmp_path / "v")
    canned(50)
    with pytest.raises(ValueError, match="min_agreement"):
        validate(tmp_path / "later", predictions, tmp_path / "v")
    assert json.loads((tmp_path / "v" / "tiny" / "latest.json").read_text())["digest"] == "former"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"min_agreement": 97.0}, r"^min_agreement is 97\.0: it must be a share from 0 to 1, .*$"),
        ({"min_agreement": -0.1}, r"^min_agreement is -0\.1: .*$"),
        ({"min_agreement": float("nan")}, r"^min_agreement is nan: .*$"),
        ({"max_accuracy_drop": 1.5}, r"^max_accuracy_drop is 1\.5: it must be a share from 0 to 1, .*$"),
        ({"validation_rows": -1}, r"^validation_rows is -1: it must be 0 for all, .*$"),
    ],
)
def test_limits_are_checked_before_anything_is_started(
    tmp_path: Path, evaluation: Rows, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(module, "ask_torchserve", lambda *_, **__: pytest.fail("it was asked"))
    with pytest.raises(ValueError, match=message):
        validate(tmp_path / "digest", predictions_of(tmp_path, evaluation), tmp_path / "v", **changed)


@pytest.mark.slow
def test_in_kfps_local_runner(model: Path, tmp_path: Path, evaluation: Rows) -> None:
    release = made_release(model, "fp32")
    (tmp_path / "volume").mkdir()

    @dsl.pipeline(name="validate")
    def pipeline(release_uri: str, predictions_uri: str) -> None:
        imported = dsl.importer(artifact_uri=release_uri, artifact_class=dsl.Model, metadata={"digest": release.name})
        validate_archive(
            release=imported.output,
            predictions=dsl.importer(artifact_uri=predictions_uri, artifact_class=dsl.Dataset).output,
            validation_rows=20,
            min_agreement=0.97,
            max_accuracy_drop=0.01,
            volume_path=str(tmp_path / "volume"),
            model_name="tiny",
            run_id="run",
        )

    arguments = {"release_uri": str(release), "predictions_uri": str(predictions_of(tmp_path, evaluation))}
    run_in_local_runner(pipeline, arguments, tmp_path)
    latest = json.loads((tmp_path / "volume" / "tiny" / "latest.json").read_text())
    assert latest == {"digest": release.name, "run_id": "run"}
    facts = json.loads((tmp_path / "volume" / "tiny" / "runs" / "run" / "validation.json").read_text())
    assert (facts["rows"], facts["agreement"]) == (20, 1)
