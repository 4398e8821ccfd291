import json
from pathlib import Path

import pytest

from nlp_pipeline.steps.evaluate_model.gate import passes_gate
from nlp_pipeline.steps.evaluate_model.settings import ComparisonLimits, GateSettings
from nlp_pipeline.volume import Run


@pytest.mark.parametrize(
    ("accuracy", "majority", "floor", "printed"),
    [
        (0.80, 0.5, 0.80, "passed: accuracy 0.8000, min_accuracy 0.8, most frequent class 0.5000"),
        (0.79, 0.5, 0.80, "not passed: accuracy 0.7900 is 0.0100 below min_accuracy 0.8"),
        (0.61, 0.6, 0.50, "passed: accuracy 0.6100, min_accuracy 0.5, most frequent class 0.6000"),
        (0.60, 0.6, 0.50, "not passed: accuracy 0.6000 is not above 0.6000, that of always naming the most frequent"),
    ],
)
def test_gate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], accuracy: float, majority: float, floor: float, printed: str
) -> None:
    (tmp_path / "metrics").write_text(json.dumps({"accuracy": accuracy, "majority_accuracy": majority, "champion": {}}))
    run = Run(run_id="run", volume_path=str(tmp_path))
    passes = passes_gate(tmp_path / "metrics", run, GateSettings(min_accuracy=floor), ComparisonLimits())
    assert passes is printed.startswith("passed")
    line = capsys.readouterr().out
    assert line.startswith(printed)
    recorded = json.loads((tmp_path / run.model_name / "runs" / "run" / "gate.json").read_bytes())
    assert recorded["passed"] is passes and line == f"{'' if passes else 'not '}passed: {recorded['reason']}\n"
