from pathlib import Path

import pytest

from nlp_pipeline.components.agreement import compare_answers, require_agreement, spread_rows
from tests.conftest import write_parquet


def test_rows_are_spread_evenly(tmp_path: Path) -> None:
    rows = [(str(number), "a") for number in range(10)]
    path = str(write_parquet(tmp_path / "predictions.parquet", rows, predicted=["a"] * len(rows)))
    for count, expected in ((5, "02468"), (3, "036"), (1, "0"), (0, "0123456789"), (11, "0123456789")):
        assert spread_rows(path, count) == {
            "text": [*expected],
            "label": ["a"] * len(expected),
            "predicted": ["a"] * len(expected),
        }
    with pytest.raises(ValueError, match=r"^there are no predictions"):
        spread_rows(str(write_parquet(tmp_path / "none.parquet", [], predicted=[])), 5)


def test_a_better_served_model_has_no_drop() -> None:
    compared = compare_answers(["a", "b", "b"], ["a", "b", "a"], ["a", "b", "b"])
    assert compared == {"rows": 3, "agreement": 2 / 3, "accuracy": 1.0, "offline_accuracy": 2 / 3}
    require_agreement(compared, 0.5, 0.0)
