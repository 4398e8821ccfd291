"""Texts that have moved, and texts that have not, as `--drift` tells them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest

from nlp_pipeline.cli import main
from nlp_pipeline.release import seal, verify
from nlp_pipeline.steps.detect_drift.detection import chance_index, compare_counts
from nlp_pipeline.steps.training_data import stability_index
from tests.conftest import make_rows
from tests.serving.conftest import made_release

STABLE = {"lengths": "stable", "labels": "stable", "predictions": "stable", "unknown tokens": "stable"}
SAME = make_rows(400, seed=5)


def write_csv(path: Path, rows: list[tuple[str, str]], header: str = "text,label") -> Path:
    lines = [",".join(row[: header.count(",") + 1]) for row in rows]
    path.write_text("\n".join([header, *lines]), encoding="utf-8")
    return path


def drift(
    capsys: pytest.CaptureFixture[str], release: Path, data: Path | str, *options: str, code: int = 0
) -> dict[str, Any]:
    capsys.readouterr()  # of what made the release
    assert main(["--drift", "--json", "--data", str(data), "--release", str(release), *options]) == code
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def verdicts(result: dict[str, Any]) -> dict[str, str]:
    return {figure["what"]: figure["verdict"] for figure in result["figures"]}


def only_positive() -> list[tuple[str, str]]:
    return [row for row in make_rows(800, seed=6) if row[1] == "4"]


def test_alike_texts_have_not_moved(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release = made_release(model, "int8")
    result = drift(capsys, release, write_csv(tmp_path / "same.csv", SAME))
    assert (verdicts(result), result["moved"], result["rows"]) == (STABLE, False, 400)
    assert (result["digest"], result["unlabelled"]) == (release.name, "")


def test_several_files_are_taken_together(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release = made_release(model, "int8")
    (tmp_path / "new").mkdir()
    files = [write_csv(tmp_path / "new" / f"{at}.csv", SAME[200 * at : 200 * at + 200]) for at in range(2)]
    of_one = drift(capsys, release, write_csv(tmp_path / "same.csv", SAME))
    for data in (json.dumps([str(file) for file in files]), tmp_path / "new"):
        result = drift(capsys, release, data)
        assert result.pop("source") == f"{files[0]} and 1 more"
        assert result == {name: value for name, value in of_one.items() if name != "source"}


@pytest.mark.parametrize(
    ("rows", "moved"),
    [
        (only_positive(), {"labels", "predictions"}),
        ([(f"{text} " * 5, label) for text, label in SAME], {"lengths"}),
        ([(text + " \u4f60" * 9, label) for text, label in SAME], {"unknown tokens"}),
    ],
    ids=["labels", "lengths", "words"],
)
def test_what_has_moved_is_told(
    rows: list[tuple[str, str]], moved: set[str], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_csv(tmp_path / "new.csv", rows)
    result = drift(capsys, made_release(model, "int8"), data, code=3)
    assert {name for name, verdict in verdicts(result).items() if verdict == "moved"} >= moved


def test_without_labels_the_predictions_tell(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_csv(tmp_path / "new.csv", [(f"{text}; x", label) for text, label in only_positive()], "review")
    arguments = ("--set", "text_column=review")
    result = drift(capsys, made_release(model, "int8"), data, *arguments, code=3)
    assert main(["--drift", "--data", str(data), "--release", str(made_release(model, "int8")), *arguments]) == 3
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["what", "formerly", "now", "index", "by_chance", "verdict"]
    assert "\nmoved: " in out and f"400 texts of {data}, release" in out
    assert verdicts(result)["predictions"] == "moved" and "labels" not in verdicts(result)
    assert "has no column 'label'" in result["unlabelled"] and (result["rows"], result["missing"]) == (400, 0)


def test_one_label_is_not_compared_with_several(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release, several = made_release(model, "int8"), tmp_path / "several"
    shutil.copytree(release, several)
    seal(several, replace(verify(release), parameters={"thresholds": [0.5, 0.5]}))
    data, separator = write_csv(tmp_path / "new.csv", SAME), ("--set", "label_separator=|")
    assert verdicts(drift(capsys, several, data, *separator))["labels"] == "stable"
    for result, kind in (
        (drift(capsys, several, data), "several labels: set label_separator"),
        (drift(capsys, release, data, *separator), "one label"),
    ):
        assert "labels" not in verdicts(result) and result["rows"] == 400
        assert result["unlabelled"].startswith(f"'{data}' has in line 2 the label ")
        assert result["unlabelled"].endswith(f", and the release gives a text {kind}")


def test_the_threshold_is_a_parameter(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_csv(tmp_path / "new.csv", only_positive())
    assert drift(capsys, made_release(model, "int8"), data, "--set", "threshold=50")["moved"] is False


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (SAME, "words,label", "has no column 'text'; its columns are 'words', 'label'"),
        (SAME[:20], "text,label", "has 20 texts, too few to tell: the index of so few is up to 0."),
        (None, "", "new.csv' can't be read (No such file or directory): give a CSV, TSV, JSONL or Parquet file"),
    ],
    ids=["no text column", "few rows", "no file"],
)
def test_what_can_not_be_compared_is_one_line(
    rows: Any, header: str, message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "new.csv" if rows is None else write_csv(tmp_path / "new.csv", rows, header)
    result = drift(capsys, made_release(model, "int8"), data, code=2)
    assert message in result["error"] and "\n" not in result["error"]


@pytest.mark.parametrize("setting", ["release=0123456789abcdef", "retrain=nightly"])
def test_what_only_the_pipeline_does_is_refused(setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = drift(capsys, Path("release"), Path("new.csv"), "--set", setting, code=2)
    assert result["error"].startswith(f"{setting} is for --pipeline drift; ")


def test_a_release_without_a_profile(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    older = tmp_path / "older"
    shutil.copytree(made_release(model, "int8"), older)
    (older / "huggingface" / "profile.json").unlink()
    seal(older, verify(made_release(model, "int8")))
    message = drift(capsys, older, write_csv(tmp_path / "new.csv", SAME), code=2)["error"]
    assert message == f"{older} has no profile.json of its training data, as it is an older release: train it anew"


@pytest.mark.parametrize("spans", [2, 50])
def test_what_an_index_is_by_chance(spans: int) -> None:
    generator, shares = numpy.random.default_rng(0), numpy.ones(spans) / spans
    drawn = (generator.multinomial((5000, 1000), shares).tolist() for _ in range(1000))
    above = sum(stability_index(*counts) > chance_index(spans, 5000, 1000) for counts in drawn)
    assert 25 <= above <= 75  # of 1000, one in twenty


def test_many_labels_need_many_rows() -> None:
    labels = {str(number): 100 for number in range(200)}
    assert compare_counts("labels", labels, {"0": 300}, 0.25)["verdict"] == "too few to tell"
    assert compare_counts("labels", labels, {"0": 3000}, 0.25)["verdict"] == "moved"
