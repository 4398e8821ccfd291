import json
from pathlib import Path
from typing import Any

import numpy
import pyarrow.parquet
import pytest

from nlp_pipeline.steps.classes import Classes
from nlp_pipeline.steps.evaluate_model import evaluation, prediction
from nlp_pipeline.steps.evaluate_model.evaluation import compute_metrics, evaluate
from nlp_pipeline.steps.evaluate_model.prediction import predict
from nlp_pipeline.steps.evaluate_model.settings import ChampionSettings
from nlp_pipeline.volume import Run
from tests.conftest import make_rows, write_parquet


def test_predictions_are_in_order_whatever_the_lengths(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text for text, _ in make_rows(70, seed=9)]
    together = predict(model, texts, max_length=32)
    alone = numpy.vstack([predict(model, [text], max_length=32) for text in texts[:5]])
    assert together.shape == (70, 2)
    assert together.sum(axis=1) == pytest.approx(1)
    assert together[:5] == pytest.approx(alone, abs=1e-5)
    assert predict(model, texts[::-1], max_length=32) == pytest.approx(together[::-1], abs=1e-5)
    monkeypatch.setattr(prediction, "CHUNK", 33)  # texts in memory at a time
    assert predict(model, iter(texts), max_length=32) == pytest.approx(together, abs=1e-5)
    assert predict(model, [], max_length=32).shape == (0, 2)


def evaluate_rows(model: Path, folder: Path, rows: Any, volume: bool = True, **settings: str) -> tuple[Any, Any, Any]:
    """Runs the step; `metrics`, `predictions` and `report` lie in the folder then, which is the volume too."""
    return evaluate(
        str(model),
        str(write_parquet(folder / "rows.parquet", rows)),
        32,
        ChampionSettings(**settings),
        "",
        Run(model_name="tiny", run_id="run", volume_path=str(folder) if volume else ""),
        *(str(folder / name) for name in ("metrics", "predictions", "report")),
    )


def test_the_step_writes_metrics_predictions_and_report(model: Path, tmp_path: Path) -> None:
    rows = [*make_rows(40, seed=5), ("<b>dreadful</b> & boring \x00", "4")]
    figures, labels, matrix = evaluate_rows(model, tmp_path, rows)
    written = json.loads((tmp_path / "metrics").read_text())
    # The words tell the label, and the last row has the wrong one.
    assert written["accuracy"] == figures["accuracy"] == pytest.approx(40 / 41)
    assert written["confusion"] == matrix == [[20, 0], [1, 20]]
    assert labels == ["0", "4"]
    assert all(isinstance(value, int | float) for name, value in figures.items() if name != "report")

    table = pyarrow.parquet.read_table(tmp_path / "predictions")
    told = json.loads(table.schema.metadata[b"metrics"])
    facts = {name: value for name, value in written.items() if not isinstance(value, list | dict)}
    intervals = told.pop("intervals")
    assert all(low <= facts[name] <= high for name, (low, high) in intervals.items() if name in facts)
    assert intervals.keys() >= {"accuracy", "macro_f1", "log_loss"} and told == facts | {"champion": {}}
    predictions = table.to_pylist()
    assert [(row["text"], row["label"]) for row in predictions] == rows
    assert [row["predicted"] for row in predictions] == [label for _, label in rows[:-1]] + ["0"]
    assert all(0.5 <= row["score"] <= 1 for row in predictions)

    folder = tmp_path / "tiny" / "runs" / "run"
    assert figures["report"] == str(folder / "report.html")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page == (tmp_path / "report").read_text(encoding="utf-8")
    assert "&lt;b&gt;dreadful&lt;/b&gt; &amp; boring" in page and "<b>dreadful" not in page
    assert json.loads((folder / "metrics.json").read_text()) == written
    assert pyarrow.parquet.read_table(folder / "datasets" / "predictions.parquet").num_rows == 41


def test_a_matrix_of_many_classes_stays_out_of_the_metadata(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "MOST_CLASSES", 1)
    figures, _, matrix = evaluate_rows(model, tmp_path, make_rows(10), volume=False)
    assert matrix == []
    assert json.loads((tmp_path / "metrics").read_text())["confusion"] != []
    assert figures["report"] == str(tmp_path / "report")


def test_metrics_by_hand() -> None:
    probabilities = numpy.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6], [0.1, 0.9]])
    result = compute_metrics(Classes(["no", "yes"]), numpy.eye(2, dtype=bool)[[0, 0, 0, 1, 1]], probabilities)
    assert result["rows"] == 5
    assert result["accuracy"] == pytest.approx(4 / 5)
    # no: precision 2/2, recall 2/3; yes: precision 2/3, recall 2/2
    assert result["macro_f1"] == pytest.approx(0.8)
    assert result["log_loss"] == pytest.approx(-numpy.log([0.9, 0.8, 0.3, 0.6, 0.9]).mean())
    assert result["confusion"] == [[2, 1], [0, 2]]
    assert result["per_class"][0] == {
        "label": "no", "precision": 1.0, "recall": pytest.approx(2 / 3), "f1": pytest.approx(0.8), "support": 3,
    }  # fmt: skip
    assert result["majority_accuracy"] == 0.6
    assert result["majority_macro_f1"] == pytest.approx(0.75 / 2)
    assert result["majority_log_loss"] == pytest.approx(-0.6 * numpy.log(0.6) - 0.4 * numpy.log(0.4))
    # bins of 1/15: 0.6 (right), 0.7 (wrong), 0.8 (right), 0.9 twice (right)
    assert [(part["accuracy"], part["rows"]) for part in result["calibration"]] == [(1, 1), (0, 1), (1, 1), (1, 2)]
    assert result["expected_calibration_error"] == pytest.approx((2 * 0.1 + 0.2 + 0.7 + 0.4) / 5)


def test_metrics_where_classes_are_missing() -> None:
    result = compute_metrics(
        Classes(["a", "b", "c"]), numpy.eye(3, dtype=bool)[[0, 0]], numpy.array([[1.0, 0.0, 0.0], [0.6, 0.4, 0.0]])
    )
    assert result["accuracy"] == result["majority_accuracy"] == result["macro_f1"] == 1.0
    assert result["majority_log_loss"] == pytest.approx(0)
    assert [item["support"] for item in result["per_class"]] == [2, 0, 0]
    assert [part["confidence"] for part in result["calibration"]] == [0.6, 1.0]
    assert json.loads(json.dumps(result)) == result
