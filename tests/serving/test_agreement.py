"""How far a served model may differ from the offline one."""

import re
from pathlib import Path

import pytest

from nlp_pipeline.errors import PipelineError
from nlp_pipeline.serving.agreement import (
    AgreementLimits,
    compare_answers,
    require_agreement,
    require_sameness,
    spread_rows,
)
from tests.conftest import write_parquet


def test_rows_are_spread_evenly(tmp_path: Path) -> None:
    rows = [(str(number), "a") for number in range(10)]
    path = write_parquet(tmp_path / "predictions.parquet", rows, predicted=["b"] * len(rows))
    for count, expected in ((5, "02468"), (3, "036"), (0, "0123456789"), (11, "0123456789")):
        size = len(expected)
        assert spread_rows(path, count) == {"text": [*expected], "label": ["a"] * size, "predicted": ["b"] * size}
    with pytest.raises(PipelineError, match=r"has no rows$"):
        spread_rows(write_parquet(tmp_path / "none.parquet", [], predicted=[]), 5)


@pytest.mark.parametrize(
    ("wrong", "max_accuracy_drop", "problem"),
    [
        (1, 0.01, ""),
        (
            2,
            0.01,
            "the served model's accuracy is 0.9800, 0.0200 below the offline one's; max_accuracy_drop is 0.01: ",
        ),
        (3, 1.0, ""),
        (4, 1.0, "the served model gives the offline one's label on 0.9600 of 100 rows; min_agreement is 0.97: "),
    ],
)
def test_limits(wrong: int, max_accuracy_drop: float, problem: str) -> None:
    limits = AgreementLimits(max_accuracy_drop=max_accuracy_drop)
    offline = ["a", "b"] * 50
    compared = compare_answers(["c"] * wrong + offline[wrong:], offline, offline)
    assert (compared["rows"], compared["agreement"], compared["offline_accuracy"]) == (100, (100 - wrong) / 100, 1)
    if problem:
        with pytest.raises(PipelineError, match=f"^{re.escape(problem)}try precision=fp32$"):
            require_agreement(compared, limits)
    else:
        require_agreement(compared, limits)


def test_a_better_served_model_has_no_drop() -> None:
    compared = compare_answers(["a", "b", "b"], ["a", "b", "a"], ["a", "b", "b"])
    assert compared == {"rows": 3, "agreement": 2 / 3, "accuracy": 1.0, "offline_accuracy": 2 / 3}
    require_agreement(compared, AgreementLimits(min_agreement=0.5, max_accuracy_drop=0.0))


@pytest.mark.parametrize(
    ("rows", "share", "most"), [(1, 0.97, 1), (6, 0.97, 1), (30, 0.97, 3), (100, 0.97, 8), (2000, 0.97, 82), (30, 1, 1)]
)
def test_few_rows_of_a_deployed_model(rows: int, share: float, most: int) -> None:
    limits = AgreementLimits(min_agreement=share)
    for differing in range(most + 1):
        require_sameness({"rows": rows, "agreement": 1 - differing / rows}, limits)
    if most < rows:
        with pytest.raises(PipelineError, match=rf"^{most + 1} of {rows} answers differ"):
            require_sameness({"rows": rows, "agreement": 1 - (most + 1) / rows}, limits)
