import json
from pathlib import Path

import numpy
import pytest
from kfp import dsl

from nlp_pipeline.components.evaluate_model import calibration_bins, compute_metrics, evaluate_model, predict
from tests.conftest import make_rows, write_parquet


def test_metrics_by_hand() -> None:
    probabilities = numpy.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6], [0.1, 0.9]])
    result = compute_metrics([0, 0, 0, 1, 1], probabilities, ["no", "yes"])
    assert result["rows"] == 5
    assert result["accuracy"] == pytest.approx(4 / 5)
    # no: precision 2/2, recall 2/3; yes: precision 2/3, recall 2/2
    assert result["macro_f1"] == pytest.approx(0.8)
    assert result["log_loss"] == pytest.approx(-numpy.log([0.9, 0.8, 0.3, 0.6, 0.9]).mean())
    assert result["confusion"] == [[2, 1], [0, 2]]
    assert result["per_class"][0] == pytest.approx(
        {"label": "no", "precision": 1.0, "recall": 2 / 3, "f1": 0.8, "support": 3}, nan_ok=True
    )
    assert (result["majority_label"], result["majority_accuracy"]) == ("no", 0.6)
    assert result["majority_macro_f1"] == pytest.approx(0.75 / 2)
    assert result["majority_log_loss"] == pytest.approx(-0.6 * numpy.log(0.6) - 0.4 * numpy.log(0.4))
    # bins of 1/15: 0.9 twice (right), 0.8 (right), 0.7 (wrong), 0.6 (right)
    assert result["expected_calibration_error"] == pytest.approx((2 * 0.1 + 0.2 + 0.7 + 0.4) / 5)


def test_metrics_where_classes_are_missing() -> None:
    result = compute_metrics([0, 0], numpy.array([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0]]), ["a", "b", "c"])
    assert result["accuracy"] == result["majority_accuracy"] == result["macro_f1"] == 1.0
    assert result["majority_log_loss"] == 0.0
    assert [one["support"] for one in result["per_class"]] == [2, 0, 0]


def test_calibration_bins_hold_every_row_and_the_ends() -> None:
    confidence = numpy.array([0.0, 0.5, 1.0, 1.0])
    bins = calibration_bins(numpy.array([False, True, True, False]), confidence, bins=10)
    assert bins == [
        {"confidence": 0.0, "accuracy": 0.0, "rows": 1},
        {"confidence": 0.5, "accuracy": 1.0, "rows": 1},
        {"confidence": 1.0, "accuracy": 0.5, "rows": 2},
    ]


def test_predictions_are_in_order_whatever_the_lengths(model: Path) -> None:
    texts = [text for text, _ in make_rows(70, seed=9)]
    together = predict(str(model), texts, max_length=32, batch_size=16)
    alone = numpy.vstack([predict(str(model), [text], max_length=32) for text in texts[:5]])
    assert together.shape == (70, 2)
    assert together.sum(axis=1) == pytest.approx(1)
    assert together[:5] == pytest.approx(alone, abs=1e-5)
    assert predict(str(model), texts[::-1], max_length=32) == pytest.approx(together[::-1], abs=1e-5)


def test_the_step_writes_metrics_predictions_and_report(model: Path, tmp_path: Path) -> None:
    import pyarrow.parquet

    rows = [*make_rows(40, seed=5), ("<b>dreadful</b> & boring \x00", "4")]
    write_parquet(tmp_path / "evaluation.parquet", rows)
    metrics, confusion = dsl.Metrics(uri=str(tmp_path / "m")), dsl.ClassificationMetrics(uri=str(tmp_path / "c"))
    evaluate_model(
        model=dsl.Model(uri=str(model)),
        evaluation=dsl.Dataset(uri=str(tmp_path / "evaluation.parquet")),
        training=dsl.Metrics(uri=str(model.parent / "training.json")),
        max_length=32,
        volume_path=str(tmp_path),
        model_name="tiny",
        run_id="run",
        metrics=metrics,
        confusion=confusion,
        predictions=dsl.Dataset(uri=str(tmp_path / "predictions.parquet")),
        report=dsl.HTML(uri=str(tmp_path / "report.html")),
    )
    written = json.loads((tmp_path / "m").read_text())
    # The words tell the label, and the last row has the wrong one.
    assert written["accuracy"] == metrics.metadata["accuracy"] == pytest.approx(40 / 41)
    assert written["confusion"] == [[20, 0], [1, 20]]
    matrix = confusion.metadata["confusionMatrix"]
    assert [one["row"] for one in matrix["rows"]] == [[20, 0], [1, 20]]
    assert json.loads((tmp_path / "c").read_text())["labels"] == ["0", "4"]
    predictions = pyarrow.parquet.read_table(tmp_path / "predictions.parquet").to_pylist()
    assert [(one["text"], one["label"]) for one in predictions] == rows
    assert [one["predicted"] for one in predictions] == [label for _, label in rows[:-1]] + ["0"]
    assert all(0.5 <= one["score"] <= 1 for one in predictions)
    run = tmp_path / "tiny" / "runs" / "run"
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page == (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;dreadful&lt;/b&gt; &amp; boring" in page and "<b>dreadful" not in page and "\x00" not in page
    assert metrics.metadata["report"] == str(run / "report.html")
    assert json.loads((run / "metrics.json").read_text()) == written
    assert (run / "datasets" / "predictions.parquet").exists()
