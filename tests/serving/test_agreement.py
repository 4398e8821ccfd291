"""How far a served model may differ from the offline one."""

import re
from pathlib import Path

import pytest

from nlp_pipeline.errors import PipelineError
from nlp_pipeline.serving.agreement import (
    AgreementLimits,
    compare_answers,
    drop_interval,
    require_agreement,
    require_sameness,
    share_interval,
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


def test_answers_of_several_labels_agree_by_those_in_common() -> None:
    served = [["a", "b"], ["a"], [], ["b"]]
    offline = [["a", "b"], ["a", "b"], [], []]
    compared = compare_answers(served, offline, [["a", "b"], ["a"], ["a"], []])
    assert compared == {"rows": 4, "agreement": 2.5 / 4, "accuracy": 0.5, "offline_accuracy": 0.5, "lost": 1, "won": 1}


def test_intervals_are_those_of_the_books() -> None:
    assert share_interval(0.93, 100) == pytest.approx((0.8625, 0.9657), abs=1e-4)
    assert share_interval(1, 100) == pytest.approx((0.9630, 1.0), abs=1e-4)
    # Agresti, "Categorical Data Analysis": of 1,600, 86 changed their mind one way and 150 the other.
    assert drop_interval(86, 150, 1600) == pytest.approx((-0.0587, -0.0212), abs=1e-4)
    assert drop_interval(0, 0, 100)[0] < 0 < drop_interval(0, 0, 100)[1]


@pytest.mark.parametrize(
    ("wrong", "rows", "max_accuracy_drop", "problem"),
    [
        (8, 100, 0.01, ""),  # by chance
        (9, 100, 1.0, "9 of 100 answers differ from the offline model's; by min_agreement=0.97 and chance 8 may: "),
        (
            26,
            500,
            0.01,
            "the served model's accuracy is 0.9480, 0.0520 below the offline one's, and not by chance; "
            "max_accuracy_drop is 0.01: ",
        ),
    ],
)
def test_limits(wrong: int, rows: int, max_accuracy_drop: float, problem: str) -> None:
    limits = AgreementLimits(max_accuracy_drop=max_accuracy_drop)
    offline = ["a", "b"] * (rows // 2)
    compared = compare_answers(["c"] * wrong + offline[wrong:], offline, offline)
    assert (compared["rows"], compared["agreement"], compared["offline_accuracy"]) == (rows, (rows - wrong) / rows, 1)
    assert (compared["lost"], compared["won"]) == (wrong, 0)
    if problem:
        with pytest.raises(PipelineError, match=f"^{re.escape(problem)}try precision=fp32$"):
            require_agreement(compared, limits)
    else:
        require_agreement(compared, limits)


def test_a_better_served_model_has_no_drop() -> None:
    compared = compare_answers(["a", "b", "b"], ["a", "b", "a"], ["a", "b", "b"])
    shares = {"agreement": 2 / 3, "accuracy": 1.0, "offline_accuracy": 2 / 3}
    assert compared == {"rows": 3, **shares, "lost": 0, "won": 1}
    require_agreement(compared, AgreementLimits(min_agreement=0.5, max_accuracy_drop=0.0))


@pytest.mark.parametrize(("rows", "share", "most"), [(1, 0.97, 1), (30, 0.97, 3), (2000, 0.97, 82), (30, 1, 1)])
def test_few_rows_of_a_deployed_model(rows: int, share: float, most: int) -> None:
    limits = AgreementLimits(min_agreement=share)
    for differing in range(most + 1):
        require_sameness({"rows": rows, "agreement": 1 - differing / rows}, limits)
    if most < rows:
        with pytest.raises(PipelineError, match=rf"^{most + 1} of {rows} answers differ"):
            require_sameness({"rows": rows, "agreement": 1 - (most + 1) / rows}, limits)
