import json

import numpy
import pytest

from nlp_pipeline.steps.evaluate_model.metrics import compute_metrics


def test_metrics_by_hand() -> None:
    probabilities = numpy.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6], [0.1, 0.9]])
    result = compute_metrics([0, 0, 0, 1, 1], probabilities, ["no", "yes"])
    assert result["rows"] == 5
    assert result["accuracy"] == pytest.approx(4 / 5)
    # no: precision 2/2, recall 2/3; yes: precision 2/3, recall 2/2
    assert result["macro_f1"] == pytest.approx(0.8)
    assert result["log_loss"] == pytest.approx(-numpy.log([0.9, 0.8, 0.3, 0.6, 0.9]).mean())
    assert result["confusion"] == [[2, 1], [0, 2]]
    assert result["per_class"][0] == {
        "label": "no", "precision": 1.0, "recall": pytest.approx(2 / 3), "f1": pytest.approx(0.8), "support": 3,
    }  # fmt: skip
    assert (result["majority_label"], result["majority_accuracy"]) == ("no", 0.6)
    assert result["majority_macro_f1"] == pytest.approx(0.75 / 2)
    assert result["majority_log_loss"] == pytest.approx(-0.6 * numpy.log(0.6) - 0.4 * numpy.log(0.4))
    # bins of 1/15: 0.6 (right), 0.7 (wrong), 0.8 (right), 0.9 twice (right)
    assert [(part["accuracy"], part["rows"]) for part in result["calibration"]] == [(1, 1), (0, 1), (1, 1), (1, 2)]
    assert result["expected_calibration_error"] == pytest.approx((2 * 0.1 + 0.2 + 0.7 + 0.4) / 5)


def test_metrics_where_classes_are_missing() -> None:
    result = compute_metrics([0, 0], numpy.array([[1.0, 0.0, 0.0], [0.6, 0.4, 0.0]]), ["a", "b", "c"])
    assert result["accuracy"] == result["majority_accuracy"] == result["macro_f1"] == 1.0
    assert result["majority_log_loss"] == pytest.approx(0)
    assert [item["support"] for item in result["per_class"]] == [2, 0, 0]
    assert [part["confidence"] for part in result["calibration"]] == [0.6, 1.0]
    assert json.loads(json.dumps(result)) == result
