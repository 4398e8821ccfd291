"""A model that gives a text several labels: trained, evaluated, compared, judged, archived and asked."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet
import pytest

from nlp_pipeline.labels import count_labels
from nlp_pipeline.release import verify
from nlp_pipeline.serving.agreement import AgreementLimits, compare_answers, label_of, require_agreement
from nlp_pipeline.steps.classes import Classes
from nlp_pipeline.steps.evaluate_model import comparison
from nlp_pipeline.steps.evaluate_model.gate import passes_gate
from nlp_pipeline.steps.evaluate_model.prediction import predict
from nlp_pipeline.steps.evaluate_model.settings import ComparisonLimits, GateSettings
from nlp_pipeline.steps.train_model.rows import HELD_OUT, hold_out
from nlp_pipeline.volume import Run
from tests.conftest import make_rows, make_rows_of_several, write_parquet
from tests.serving.conftest import load_handler, made_release
from tests.steps.evaluate_model.test_champion import run_step

ROWS = make_rows_of_several(120, seed=5)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "RESAMPLES", 300)


def test_training_holds_rows_out_for_the_thresholds(model_of_several: Path, tmp_path: Path) -> None:
    config = json.loads((model_of_several / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification" and len(config["thresholds"]) == 3
    trained = json.loads((model_of_several / "training.json").read_text())
    assert trained["thresholds"] == config["thresholds"] and 0.5 not in config["thresholds"]
    rows = [*make_rows_of_several(600), ("rare", ["0", "once"]), *make_rows_of_several(600)]
    counts = count_labels(labels for _, labels in rows)
    held = hold_out(write_parquet(tmp_path / "rows.parquet", rows), counts)
    assert [*zip(held["text"], held["label"], strict=True)] == [rows[number] for number in held["number"]]
    first = [number for number in held["number"] if number < 600]
    assert trained["rows"] == 600 - len(first)
    assert 600 / HELD_OUT / 2 < len(first) < 2 * 600 / HELD_OUT
    assert held["number"] == first + [number + 601 for number in first]


def test_metrics_report_and_gate(model_of_several: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics, _ = run_step(model_of_several, tmp_path, ROWS)
    assert metrics["micro_f1"] > 0.9 and metrics["macro_f1"] > 0.9 and metrics["confusion"] == []
    assert metrics["majority_micro_f1"] < 0.6 and metrics["accuracy"] > 0.8 > metrics["majority_accuracy"]
    table = pyarrow.parquet.read_table(tmp_path / "predictions")
    rows = table.to_pylist()
    assert [(row["text"], row["label"]) for row in rows] == ROWS
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert metrics["accuracy"] == pytest.approx(right / len(rows)) and [] in table["predicted"].to_pylist()
    page = (tmp_path / "report").read_text()
    assert "Micro F1" in page and "Confused classes" in page and "Confusion matrix" not in page
    assert passes_gate(tmp_path / "metrics", Run(run_id="run"), GateSettings(), ComparisonLimits())
    assert "passed: micro F1 1.0000, min_accuracy 0.5, most frequent class 0.3592" in capsys.readouterr().out
    (tmp_path / "metrics").write_text(json.dumps(metrics | {"micro_f1": metrics["majority_micro_f1"]}))
    assert not passes_gate(tmp_path / "metrics", Run(run_id="run"), GateSettings(min_accuracy=0), ComparisonLimits())
    assert "that of always naming the most frequent class" in capsys.readouterr().out


def test_beside_the_champion(model_of_several: Path, model: Path, tmp_path: Path) -> None:
    for former, digest in ((model_of_several, "a" * 16), (model, "b" * 16)):
        release = made_release(former, "fp32")
        shutil.copytree(release, tmp_path / "tiny" / "releases" / digest)
    metrics, predictions = run_step(model_of_several, tmp_path, ROWS, champion="a" * 16, metric="micro_f1")
    champion = metrics["champion"]
    assert (champion["rows"], champion["problem"], champion["new"], champion["gone"]) == (len(ROWS), "", [], [])
    for name in ("accuracy", "macro_f1", "micro_f1", "log_loss"):
        assert champion["figures"][name]["difference"] == pytest.approx([0, 0, 0])
    assert predictions["champion"] == predictions["predicted"]
    for asked, rows, digest in ((model_of_several, ROWS, "b" * 16), (model, make_rows(20), "a" * 16)):
        metrics, _ = run_step(asked, tmp_path, rows, champion=digest)
        problem = metrics["champion"]["problem"]
        assert problem == "of the two models, one gives a text one label and the other several"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_archive_answers_as_the_model_does(model_of_several: Path, precision: str) -> None:
    release = made_release(model_of_several, precision)
    record, classes = verify(release), Classes.of(model_of_several)
    assert (record.labels, record.parameters["thresholds"]) == (["0", "2", "4"], classes.thresholds)
    texts, labels = map(list, zip(*ROWS, strict=True))
    predicted = classes.name(classes.choose(predict(model_of_several, texts, 32)))
    answers = load_handler(release).classify(texts)
    compared = compare_answers(list(map(label_of, answers)), predicted, labels)
    assert compared["agreement"] == 1 if precision == "fp32" else compared["agreement"] > 0.9
    require_agreement(compared, AgreementLimits())
    for answer in answers:
        scores = [item["score"] for item in answer["labels"]]
        assert scores == sorted(scores, reverse=True)
