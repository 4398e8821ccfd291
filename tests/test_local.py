import json
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.demo import SENTENCES
from nlp_pipeline.errors import GateNotPassedError, UsageError
from nlp_pipeline.local import check_outputs, complete_arguments, example_texts, print_summary
from tests.conftest import make_rows, write_parquet

RESULT: dict[str, Any] = {
    "data": {"train": 1000, "evaluation": 100},
    "training": {"samples_per_second": 12.3, "dtype": "float32", "device": "cpu"},
    "metrics": {"accuracy": 0.9, "majority_accuracy": 0.5},
    "archive_bytes": 18_000_000,
    "precision": "int8",
    "validation": {"agreement": 0.99, "p50_ms": 6.1, "requests_per_second": 180.0},
    "predictions": [{"label": "[/neg]", "score": 0.9, "text": "see [/url] and [red]x[/red]\n" + "y" * 100}],
    "seconds": dict.fromkeys(
        ("load_data", "train_model", "evaluate_model", "archive_model", "validate_archive", "serve", "total"), 1.0
    ),
    "report": "/v/m/runs/1/report.html",
    "release": "/my volume/m/releases/abc",
    "datasets": "/v/m/runs/1/datasets",
}


def test_what_stands_in_square_brackets_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(RESULT)
    out = capsys.readouterr().out
    assert "[/neg]" in out and "see [/url] and [red]x[/red] yyy" in out
    assert "/v/m/runs/1/report.html" in out


@pytest.mark.parametrize(
    ("release", "serve"),
    [
        ("'/my volume/m/releases/abc'", "--serve --release '/my volume/m/releases/abc'"),
        ("outputs/volume/m/releases/abc", "--serve  "),  # which they find by themselves
    ],
)
def test_the_next_commands_name_the_release(release: str, serve: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_summary({**RESULT, "release": release.strip("'")})
    out = capsys.readouterr().out
    assert serve in out and f"--deploy --release {release} --set model_store=" in out


def test_the_texts_to_show_are_the_demos_or_the_first_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    rows = make_rows(20)
    write_parquet(tmp_path / "datasets" / "evaluation.parquet", rows)
    assert example_texts({}, tmp_path) == SENTENCES
    assert example_texts({"train_data": "x"}, tmp_path) == [text for text, _ in rows[:5]]


def test_paths_of_many_files_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps run in other folders."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a, b.csv").touch()
    for data, absolute in (
        ("parts", f"{tmp_path}/parts"),
        ("parts/*.csv", f"{tmp_path}/parts/*.csv"),
        ('["parts/a, b.csv", "s3://b/c/"]', json.dumps([f"{tmp_path}/parts/a, b.csv", "s3://b/c/"])),
    ):
        assert complete_arguments({"train_data": data, "base_model": "x"})["train_data"] == absolute
    with pytest.raises(UsageError, match=r"^train_data=none.csv: there is no such file"):
        complete_arguments({"train_data": '["parts", "none.csv"]', "base_model": "x"})


def test_a_gate_that_is_not_passed_is_reported_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "gate.json").write_text('{"passed": false, "reason": "accuracy 0.5 is below min_accuracy 0.99"}')
    metrics = {"report": str(tmp_path / "report.html")}
    with pytest.raises(GateNotPassedError, match=r"^the gate is not passed: accuracy 0\.5 .*: /.*/report\.html$"):
        check_outputs({"evaluate_model": {"Output": False, "metrics": metrics}})
