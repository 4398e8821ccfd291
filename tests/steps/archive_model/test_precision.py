"""Which number format is archived: the fastest that is as good, by what was measured, and what is told of it."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.steps.archive_model import archiving
from nlp_pipeline.steps.archive_model.precision import MARKER, choose_precision, render_section, try_archive
from nlp_pipeline.steps.evaluate_model import report
from nlp_pipeline.steps.evaluate_model.evaluation import predict
from tests.conftest import make_rows
from tests.serving.conftest import MAX_LENGTH, REPORT, archived, load_handler, made_release

ROWS = make_rows(100, seed=21)  # those of `archived`


def measured(texts_per_second: float, drop: float = 0.0, agreement: float = 1.0) -> dict[str, Any]:
    return {
        "rows": 2000,
        "agreement": agreement,
        "accuracy": 0.9 - drop,
        "offline_accuracy": 0.9,
        "drop": drop,
        "texts_per_second": texts_per_second,
        "megabytes": 16.0,
    }


@pytest.mark.parametrize(
    ("int8", "chosen", "reason"),
    [
        (measured(200, 0.001, 0.99), "int8", "int8 does 200 texts/s with a drop of 0.10 points"),
        (measured(200, -0.01), "int8", "int8 does 200 texts/s with a drop of -1.00 points"),
        (
            measured(200, 0.01, 0.99),
            "fp32",
            "int8 is faster, but drops by 1.00 points (at most 0.50) and agrees on 99.0% of the rows "
            "(at least 97.0%); fp32 does 100 texts/s with a drop of 0.00 points",
        ),
        # fp32 is faster: there is nothing to refuse.
        (measured(50, 0.5, 0.5), "fp32", "fp32 does 100 texts/s with a drop of 0.00 points"),
        # As fast as each other: the smaller.
        (measured(100), "int8", None),
        # The limits exactly met, as decimal fractions subtract: 0.9 - 0.895 is more than 0.005.
        (measured(200, 0.9 - 0.895, 1940 / 2000), "int8", None),
        (measured(200, 0.0055), "fp32", None),
        (measured(200, 0.0, 1939 / 2000), "fp32", None),
    ],
)
def test_the_fastest_that_is_as_good_is_chosen(int8: dict[str, Any], chosen: str, reason: str | None) -> None:
    found = choose_precision({"int8": int8, "fp32": measured(100)}, max_drop=0.005, min_agreement=0.97)
    assert found[0] == chosen
    assert reason is None or found[1] == reason


def test_fp32_is_taken_even_where_it_is_no_better() -> None:
    # What the model was archived from is fp32: there is nothing else to fall back on.
    assert choose_precision({"int8": measured(200, 0.5), "fp32": measured(100, 0.4, 0.1)}, 0.005, 0.97)[0] == "fp32"
    # Limits of 0 and 1 let pass what is the same.
    assert choose_precision({"int8": measured(200), "fp32": measured(100)}, 0.0, 1.0)[0] == "int8"


def test_an_archive_is_tried_by_its_own_handler(model: Path) -> None:
    release = made_release(model, "fp32")
    load_handler(release)  # it unpacks the archive
    unpacked = release.parent.parent / "unpacked"
    texts, labels = map(list, zip(*make_rows(130, seed=22), strict=True))
    offline = [("0", "4")[at] for at in predict(str(model), texts, MAX_LENGTH).argmax(axis=1)]
    truth = ["0" if at < 13 else label for at, label in enumerate(labels)]
    found = try_archive(unpacked, {"text": texts, "label": truth, "predicted": offline})
    right = sum(one == other for one, other in zip(offline, truth, strict=True)) / 130
    assert right < 1
    assert (found["rows"], found["agreement"], found["drop"]) == (130, 1.0, 0.0)
    assert found["accuracy"] == found["offline_accuracy"] == right
    assert found["texts_per_second"] > 0
    assert found["megabytes"] == (unpacked / "model.onnx").stat().st_size / 1e6


def require_archived(facts: dict[str, Any], folder: Path, precision: str) -> dict[str, Any]:
    """Makes sure that a number format is archived and reported; returns what the record tells of the choice."""
    assert facts["precision"] == precision
    with zipfile.ZipFile(next(Path(facts["release"]).glob("model-store/*.mar"))) as archive:
        assert json.loads(archive.read("serving.json"))["precision"] == precision
    page = (folder / "volume" / "tiny" / "runs" / "run" / "report.html").read_text()
    record = json.loads((Path(facts["release"]) / "release.json").read_text())["precision"]
    section = render_section(record)
    assert page == REPORT.replace(MARKER, section) and (folder / "report.html").read_text().endswith(section)
    assert record["chosen"] == precision and f" evaluation rows: {record['reason']}." in page
    return dict(record)


@pytest.mark.parametrize(
    ("int8", "chosen", "reason"),
    [
        (measured(200), "int8", "int8 does 200 texts/s with a drop of 0.00 points"),
        (measured(200, 0.4, 0.6), "fp32", "int8 is faster, but drops by 40.00 points"),
    ],
)
def test_what_was_chosen_is_archived_and_reported(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    int8: dict[str, Any], chosen: str, reason: str,
) -> None:  # fmt: skip
    trials = {"int8": int8, "fp32": measured(100)}
    monkeypatch.setattr(archiving, "try_archive", lambda folder, _: trials[folder.name])
    record = require_archived(archived(model, tmp_path / "archived", "auto"), tmp_path / "archived", chosen)
    assert record["tried"] == trials and record["reason"].startswith(reason)
    assert f"{chosen}: {reason}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("precision", "serving_gpus", "chosen", "batch_size"), [("int8", 0, "int8", 8), ("auto", 1, "fp32", 32)]
)
def test_where_there_is_no_choice_no_measure_is_held_against_it(
    model: Path, tmp_path: Path, precision: str, serving_gpus: int, chosen: str, batch_size: int
) -> None:
    # The offline model is made to disagree with whatever is served: validate_archive tells of that, not this step.
    wrong = ["4" if label == "0" else "0" for _, label in ROWS]
    facts = archived(model, tmp_path / "archived", precision, predicted=wrong, serving_gpus=serving_gpus)
    record = require_archived(facts, tmp_path / "archived", chosen)
    assert list(record["tried"]) == [chosen] and record["tried"][chosen]["agreement"] < 0.5
    config = (Path(facts["release"]) / "config" / "config.properties").read_text()
    assert f'"batchSize":{batch_size},' in config


def test_the_section_tells_what_was_chosen_and_why() -> None:
    tried = {"int8": measured(812.4, 0.0015, 0.99951), "fp32": measured(312.4)}
    section = render_section({"chosen": "int8", "reason": "a <b> & c", "tried": tried})
    assert "Number format of the archive: int8" in section
    assert "On 2,000 evaluation rows: " in section and "a &lt;b&gt; &amp; c." in section
    assert "<tr><th>int8<td>0.8985<td>+0.15<td>0.9995<td>812<td>16.0\n" in section
    assert "<tr><th>fp32<td>0.9000<td>+0.00<td>1.0000<td>312<td>16.0\n" in section
    template = Path(report.__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    assert template.count(MARKER) == 1
