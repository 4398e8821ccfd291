import json
from pathlib import Path

import pytest
from kfp import dsl

from nlp_pipeline.components.gate import gate


@pytest.mark.parametrize(
    ("accuracy", "majority", "floor", "passes", "says"),
    [
        (0.80, 0.5, 0.80, True, "passed: accuracy 0.8000"),
        (0.79, 0.5, 0.80, False, "not passed: accuracy 0.7900 is 0.0100 below min_accuracy 0.8"),
        (0.60, 0.6, 0.50, False, "not passed: accuracy 0.6000 is not above 0.6000"),
        (0.61, 0.6, 0.50, True, "passed"),
        (0.00, 0.0, 0.00, False, "not passed"),
    ],
)
def test_gate(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    accuracy: float,
    majority: float,
    floor: float,
    passes: bool,
    says: str,
) -> None:
    metrics = dsl.Metrics(uri=str(tmp_path / "metrics"))
    Path(metrics.path).write_text(json.dumps({"accuracy": accuracy, "majority_accuracy": majority}))
    assert gate(metrics=metrics, min_accuracy=floor) is passes
    assert capsys.readouterr().out.startswith(says)
