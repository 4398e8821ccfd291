"""How far a served model may differ from the offline one."""

import re
from pathlib import Path

import pytest

from nlp_pipeline.errors import PipelineError
from nlp_pipeline.serving.agreement import AgreementLimits, compare_answers, require_agreement, spread_rows
from tests.conftest import write_parquet


def test_rows_are_spread_evenly(tmp_path: Path) -> None:
    rows = [(str(number), "a") for number in range(10)]
    path = write_parquet(tmp_path / "predictions.parquet", rows, predicted=["a"] * len(rows))
    for count, expected in ((5, "02468"), (3, "036"), (1, "0"), (0, "0123456789"), (11, "0123456789")):
        assert spread_rows(path, count) == {
            "text": [*expected],
            "label": ["a"] * len(expected),
            "predicted": ["a"] * len(expected),
        }
    with pytest.raises(PipelineError, match=r"^there are no predictions"):
        spread_rows(write_parquet(tmp_path / "none.parquet", [], predicted=[]), 5)


@pytest.mark.parametrize(
    ("wrong", "limits", "problem"),
    [
        (0, {}, ""),
        (1, {}, ""),
        (
            2,
            {},
            "the served model's accuracy is 0.9800, 0.0200 below the offline model's; max_accuracy_drop is 0.01: try "
            "precision=fp32",
        ),
        (3, {"max_accuracy_drop": 1.0}, ""),
        (
            4,
            {"max_accuracy_drop": 1.0},
            "the served model gives the offline model's label on 0.9600 of 100 rows; min_agreement is 0.97: try "
            "precision=fp32",
        ),
    ],
)
def test_limits(wrong: int, limits: dict[str, float], problem: str) -> None:
    offline = ["a", "b"] * 50
    compared = compare_answers(["c"] * wrong + offline[wrong:], offline, offline)
    assert (compared["rows"], compared["agreement"], compared["offline_accuracy"]) == (100, (100 - wrong) / 100, 1)
    if problem:
        with pytest.raises(PipelineError, match=f"^{re.escape(problem)}$"):
            require_agreement(compared, AgreementLimits(**limits))
    else:
        require_agreement(compared, AgreementLimits(**limits))


def test_a_better_served_model_has_no_drop() -> None:
    compared = compare_answers(["a", "b", "b"], ["a", "b", "a"], ["a", "b", "b"])
    assert compared == {"rows": 3, "agreement": 2 / 3, "accuracy": 1.0, "offline_accuracy": 2 / 3}
    require_agreement(compared, AgreementLimits(min_agreement=0.5, max_accuracy_drop=0.0))
