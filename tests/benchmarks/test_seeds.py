"""Trainings paired by their seed: in each way, and what is said of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import seeds

TINY = "sentences, 2 classes"


def test_like_lengths_come_together_and_each_row_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "EPOCHS", 2)
    monkeypatch.setattr(seeds, "BATCH_SIZE", 8)
    rows = [{"input_ids": [0] * (5 + 50 * (at % 2)), "at": at} for at in range(64)]
    order = seeds.pooled(rows, seed=1)
    assert sorted(row["at"] for row in order[:64]) == sorted(row["at"] for row in order[64:]) == list(range(64))
    assert all(len({len(row["input_ids"]) for row in order[at : at + 8]}) == 1 for at in range(0, 128, 8))


def test_a_difference_has_students_interval_over_the_seeds_that_both_have() -> None:
    base = {"1": 80.0, "2": 81.0, "3": 82.0, "4": 83.0}
    way = {"1": 80.0, "2": 82.0, "3": 84.0}
    assert seeds.difference(base, way) == "+1.00 (-1.48 to +3.48), 3 seeds"  # 4.303 * 1 / sqrt(3)


def test_what_is_kept_makes_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "RESULTS", tmp_path / "seeds.json")
    lines: list[dict[str, Any]] = [
        {"set": name, "way": way, "seed": seed, "accuracy": 80 + seed + number / 10}
        for name in seeds.SETS
        for number, way in enumerate(seeds.WAYS)
        for seed in (2, 1, 3)
    ]
    seeds.keep(lines, "a machine")
    assert json.loads((tmp_path / "seeds.json").read_text())["accuracies"][TINY][seeds.BASELINE] == {
        "1": 81.0,
        "2": 82.0,
        "3": 83.0,
    }
    told = seeds.table().splitlines()
    assert told[0].endswith("; a machine.")
    assert told[4] == "| as transformers trains | 82.00 % | 82.00 % | 82.00 % |"
    assert told[5].startswith("| no dropout in attention | +0.10 (+0.10 to +0.10), 3 seeds |")
