import json
from pathlib import Path

import pyarrow.parquet
import pytest

from nlp_pipeline.steps import training_data
from nlp_pipeline.steps.training_data import compare_profiles, record_training_data, stability_index, was_trained_on
from tests.conftest import make_rows, write_parquet


def tokenizer_of(encoder: Path) -> object:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(encoder)


def record(folder: Path, rows: list[tuple[str, str]], encoder: Path) -> Path:
    folder.mkdir()
    record_training_data(write_parquet(folder / "rows.parquet", rows), folder, tokenizer_of(encoder))
    return folder


@pytest.mark.parametrize(("count", "kept"), [(3, "0369"), (50, "0123456789")])
def test_what_is_kept_of_the_rows(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, kept: str
) -> None:
    monkeypatch.setattr(training_data, "SAMPLE", count)
    folder = record(tmp_path / "model", [(str(number), "ab"[number % 2]) for number in range(10)], encoder)
    assert pyarrow.parquet.read_table(folder / "texts.parquet")["text"].to_pylist() == list(kept)
    assert was_trained_on(folder, [" 3\n", "11", "9"]).tolist() == [True, False, True]
    profile = json.loads((folder / "profile.json").read_text())
    assert (profile["labels"], profile["lengths"][:2]) == ({"a": 5, "b": 5}, [10, 0])
    assert 0 < profile["unknown"] < 1  # digits, between [CLS] and [SEP]
    assert was_trained_on(tmp_path, ["3"]).tolist() == [False]


def test_what_has_moved(encoder: Path, tmp_path: Path) -> None:
    former = record(tmp_path / "former", make_rows(400), encoder)
    alike = compare_profiles(former, record(tmp_path / "alike", make_rows(400, seed=1), encoder))
    assert alike["moved"] == [] and 0 <= alike["lengths"] < 0.1 and alike["labels"] == 0
    rows = [(f"{text} " * 4 + "\u4f60 \u597d " * 9, "4") for text, _ in make_rows(300)] + make_rows(100, seed=2)
    moved = compare_profiles(former, record(tmp_path / "later", rows, encoder))["moved"]
    assert [sentence[:13] for sentence in moved] == ["the labels mo", "the lengths m", "of the tokens"]
    assert compare_profiles(tmp_path, former) == {}


def test_the_stability_index_by_hand() -> None:
    # (0.6 - 0.5) ln (0.6 / 0.5) + (0.4 - 0.5) ln (0.4 / 0.5)
    assert stability_index([50, 50], [60, 40]) == pytest.approx(0.0405, abs=1e-4)
    assert stability_index([10, 0], [10, 0]) == 0
