"""Which number format is archived: the fastest that holds, by what was measured, and what is told of it."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.serving.agreement import drop_interval, share_interval
from nlp_pipeline.steps.archive_model import archiving
from nlp_pipeline.steps.archive_model.precision import (
    MARKER,
    ask_archive,
    choose_precision,
    compare,
    holds,
    render_section,
)
from nlp_pipeline.steps.archive_model.settings import ArchiveSettings
from nlp_pipeline.steps.evaluate_model import report
from nlp_pipeline.steps.evaluate_model.prediction import predict
from tests.conftest import make_rows
from tests.serving.conftest import MAX_LENGTH, REPORT, archived, load_handler, made_release

ROWS = make_rows(100, seed=21)  # those of `archived`


def measured(
    texts_per_second: float, agreement: float = 1.0, texts: int = 2000, lost: int = 0, won: int = 0, rows: int = 500
) -> dict[str, Any]:
    """Returns what a number format did, by how many of the labelled rows it lost and won against the offline model."""
    return {
        "rows": rows,
        "accuracy": 0.9 + (won - lost) / rows,
        "offline_accuracy": 0.9,
        "lost": lost,
        "won": won,
        "drop": (lost - won) / rows,
        "drop_interval": drop_interval(lost, won, rows),
        "texts": texts,
        "agreement": agreement,
        "agreement_interval": share_interval(agreement, texts),
        "texts_per_second": texts_per_second,
        "megabytes": 16.0,
    }


FULL, GOOD, BAD = measured(100), measured(200), measured(250, 0.94)


@pytest.mark.parametrize(
    ("trial", "good"),
    [
        (GOOD, True),
        (measured(200, 0.975), False),  # of many texts, it must be shown
        (measured(200, 0.976, texts=4000), True),
        (measured(200, 0.94, texts=100), True),  # of few, the opposite must not be shown
        (measured(200, 0.93, texts=100), False),
        (measured(200, lost=9, won=5), True),  # 0.8 points, by chance
        (measured(200, lost=20, won=5), False),
        (measured(200, lost=65, won=20, rows=5000), False),  # 0.9 points of many rows
    ],
)
def test_a_format_holds_by_what_chance_leaves_open(trial: dict[str, Any], good: bool) -> None:
    assert holds(trial, max_drop=0.005, min_agreement=0.97) == good


@pytest.mark.parametrize(
    ("precision", "gpus", "trials", "chosen", "tried", "reason"),
    [
        ("auto", 0, {"int8": GOOD}, "int8", 2, "int8 holds: it agrees on 100.00 (99.81 to 100.00) % of 2,000 texts, "),
        ("auto", 0, {"int8": BAD, "int8-by-token": GOOD}, "int8-by-token", 3, "int8 does not hold: it agrees on 94.00"),
        ("auto", 0, {"int8": BAD, "int8-by-token": BAD}, "fp32", 3, "int8 does not hold: it agrees on 94.00 "),
        # fp32 is faster: there is nothing to hold.
        ("auto", 0, {"int8": measured(50)}, "fp32", 2, "int8 is no faster than fp32"),
        ("auto", 1, {}, "fp32", 1, "a GPU serves, and int8 is for CPUs"),
        ("fp32", 0, {}, "fp32", 1, "precision=fp32 was asked for"),
        ("int8", 1, {"int8": GOOD}, "int8", 2, "precision=int8 was asked for; int8 holds: it agrees on 100.00 "),
        # Asked for, it is taken however it does: validate_archive tells of that, not this step.
        ("int8", 0, {"int8": BAD, "int8-by-token": BAD}, "int8-by-token", 3, "precision=int8 was asked for; int8 "),
    ],
    ids=str,
)
def test_the_first_format_that_holds_is_chosen(
    capsys: pytest.CaptureFixture[str],
    precision: str, gpus: int, trials: dict[str, Any], chosen: str, tried: int, reason: str,
) -> None:  # fmt: skip
    trials = {"fp32": FULL} | trials
    made = choose_precision(ArchiveSettings(precision=precision), gpus, 0.97, trials.__getitem__)
    assert made["chosen"] == chosen and made["reason"].startswith(reason)
    assert made["tried"] == dict(list(trials.items())[:tried])
    assert [line.split(" agrees on ")[0] for line in capsys.readouterr().out.splitlines()] == list(made["tried"])


def test_labels_are_held_against_the_offline_models() -> None:
    rows = {"text": list("abcd"), "label": list("xxyy"), "predicted": list("xyyy")}
    trial = compare(list("xxyxyyy"), rows, list("yyx"))
    assert (trial["rows"], trial["texts"], trial["lost"], trial["won"]) == (4, 7, 1, 1)
    assert (trial["accuracy"], trial["offline_accuracy"], trial["drop"]) == (0.75, 0.75, 0)
    assert trial["agreement"] == pytest.approx(4 / 7)


def test_an_archive_is_tried_by_its_own_handler(model: Path) -> None:
    release = made_release(model, "fp32")
    load_handler(release)  # it unpacks the archive
    texts = [text for text, _ in make_rows(130, seed=22)]
    labels, texts_per_second = ask_archive(release.parent.parent / "unpacked", texts)
    assert labels == [("0", "4")[at] for at in predict(str(model), texts, MAX_LENGTH).argmax(axis=1)]
    assert texts_per_second > 0


def require_archived(facts: dict[str, Any], folder: Path, precision: str) -> dict[str, Any]:
    """Makes sure that a number format is archived and reported; returns what the record tells of the choice."""
    assert facts["precision"] == precision
    with zipfile.ZipFile(next(Path(facts["release"]).glob("model-store/*.mar"))) as archive:
        assert json.loads(archive.read("serving.json"))["precision"] == precision.partition("-")[0]
    page = (folder / "volume" / "tiny" / "runs" / "run" / "report.html").read_text()
    record = json.loads((Path(facts["release"]) / "release.json").read_text())["precision"]
    section = render_section(record)
    assert page == REPORT.replace(MARKER, section) and (folder / "report.html").read_text().endswith(section)
    assert record["chosen"] == precision and f"<p>{record['reason']}." in page
    return dict(record)


@pytest.mark.parametrize(
    ("trials", "chosen"), [({"int8": BAD, "int8-by-token": GOOD}, "int8-by-token"), ({"int8": measured(50)}, "fp32")]
)  # fmt: skip
def test_what_was_chosen_is_archived_and_reported(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    trials: dict[str, Any], chosen: str,
) -> None:  # fmt: skip
    asked: list[int] = []

    def ask(folder: Path, texts: list[str]) -> tuple[list[str], float]:
        asked.append(len(texts))
        labels = [str(number % 2 * 4) for number in range(len(texts))]
        wrong = 0 if folder.name == "fp32" else round(len(texts) * (1 - trials[folder.name]["agreement"]))
        return ["wrong"] * wrong + labels[wrong:], (FULL | trials.get(folder.name, {}))["texts_per_second"]

    monkeypatch.setattr(archiving, "ask_archive", ask)
    facts = archived(model, tmp_path / "archived", "auto", predicted=["0", "4"] * 50)
    record = require_archived(facts, tmp_path / "archived", chosen)
    assert list(record["tried"]) == ["fp32", *trials]
    assert asked == [500] * len(record["tried"])  # 100 rows, and 400 that it was trained on
    assert f"{chosen}: {record['reason']}" in capsys.readouterr().out


@pytest.mark.parametrize(("precision", "serving_gpus", "batch_size"), [("int8", 0, 8), ("auto", 1, 32)])
def test_where_there_is_no_choice_no_measure_is_held_against_it(
    model: Path, tmp_path: Path, precision: str, serving_gpus: int, batch_size: int
) -> None:
    # The offline model is made to disagree with whatever is served: validate_archive tells of that, not this step.
    wrong = ["4" if label == "0" else "0" for _, label in ROWS]
    facts = archived(model, tmp_path / "archived", precision, predicted=wrong, serving_gpus=serving_gpus)
    record = require_archived(facts, tmp_path / "archived", "int8-by-token" if precision == "int8" else "fp32")
    assert record["tried"][record["chosen"]]["agreement"] < 0.9
    config = (Path(facts["release"]) / "config" / "config.properties").read_text()
    assert f'"batchSize":{batch_size},' in config


def test_the_section_tells_what_was_chosen_and_why() -> None:
    tried = {"fp32": measured(312.4), "int8": measured(812.4, 0.985, lost=4, won=1)}
    section = render_section({"chosen": "int8", "reason": "a <b> & c", "tried": tried})
    assert "Number format of the archive: int8" in section and "<p>a &lt;b&gt; &amp; c.\n" in section
    cells = "0.8940<td>0.60 (-0.36 to 1.55)<td>98.50 (97.87 to 98.95)<td>812<td>16.0"
    assert f"<tr><th>int8<td>{cells}\n" in section
    template = Path(report.__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    assert template.count(MARKER) == 1
