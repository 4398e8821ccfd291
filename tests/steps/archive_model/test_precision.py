"""Which number format is archived: the fastest that is as good, by what was measured, and what is told of it."""

import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.steps.archive_model import archiving
from nlp_pipeline.steps.archive_model.precision import candidates, choose_precision, try_archive
from nlp_pipeline.steps.archive_model.report import MARKER, render_section
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
            "int8 is faster, but its accuracy drops by 1.00 points (allowed: 0.50) and it agrees on 99.0% of the rows "
            "(at least 97.0%); fp32 does 100 texts/s with a drop of 0.00 points",
        ),
        # fp32 is as fast or faster: there is nothing to refuse.
        (measured(99.9), "fp32", "fp32 does 100 texts/s with a drop of 0.00 points"),
        (measured(50, 0.5, 0.5), "fp32", "fp32 does 100 texts/s with a drop of 0.00 points"),
        # As fast as each other: the smaller.
        (measured(100), "int8", None),
        (measured(100, 0.01), "fp32", None),
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


@pytest.mark.parametrize(
    ("precision", "serving_gpus", "names", "reason"),
    [
        ("auto", 0, ["int8", "fp32"], ""),
        ("auto", 1, ["fp32"], "a GPU serves, and int8 of this kind is for CPUs"),
        ("int8", 1, ["int8"], "precision=int8 was asked for"),
        ("fp32", 0, ["fp32"], "precision=fp32 was asked for"),
    ],
)
def test_what_is_tried(precision: str, serving_gpus: int, names: list[str], reason: str) -> None:
    assert candidates(precision, serving_gpus) == (names, reason)


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


def spoil_int8(model: Path, target: Path) -> None:
    """Writes a classifier that int8 spoils, and fp32 does not: each row of a weight has a huge number that meets 0.

    One number in 64 of what the last layer gives is made 0 by its norm; its weights in the pooler, which follows,
    are so large that all others are nothing beside them.
    """
    import safetensors.torch

    shutil.copytree(model, target)
    weights = safetensors.torch.load_file(target / "model.safetensors")
    for name in ("weight", "bias"):
        weights[f"bert.encoder.layer.1.output.LayerNorm.{name}"][0] = 0
    weights["bert.pooler.dense.weight"][:, 0] = 1e6
    safetensors.torch.save_file(weights, target / "model.safetensors", {"format": "pt"})


@pytest.fixture
def two_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has int8 measured twice as fast as fp32, which it is not for a model as small as this."""

    def tried(folder: Path, rows: dict[str, list[str]]) -> dict[str, Any]:
        return try_archive(folder, rows) | {"texts_per_second": 200 if folder.name == "int8" else 100}

    monkeypatch.setattr(archiving, "try_archive", tried)


@pytest.fixture
def exported(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the step take the model's ONNX file from an archive, as the export takes seconds."""
    with zipfile.ZipFile(next(made_release(model, "fp32").glob("model-store/*.mar"))) as archive:
        content = archive.read("model.onnx")
    monkeypatch.setattr(archiving, "export_model", lambda _, target: target.write_bytes(content))


def require_archived(made: dict[str, Any], folder: Path, precision: str) -> dict[str, Any]:
    """Makes sure that a number format is archived and reported; returns what the record tells of the choice."""
    assert made["precision"] == precision
    with zipfile.ZipFile(made["archive"]) as archive:
        assert json.loads(archive.read("serving.json"))["precision"] == precision
    page = (folder / "volume" / "tiny" / "runs" / "run" / "report.html").read_text()
    record = json.loads((Path(made["release"]) / "release.json").read_text())["precision"]
    section = render_section(record)
    assert page == REPORT.replace(MARKER, section) and (folder / "report.html").read_text().endswith(section)
    assert record["chosen"] == precision and f"before it was archived: {record['reason']}." in page
    return dict(record)


def test_a_model_that_int8_spoils_is_archived_in_fp32(
    model: Path, tmp_path: Path, two_to_one: None, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil_int8(model, tmp_path / "spoilt")
    texts = [text for text, _ in ROWS]
    offline = [("0", "4")[at] for at in predict(str(tmp_path / "spoilt"), texts, MAX_LENGTH).argmax(axis=1)]
    made = archived(tmp_path / "spoilt", tmp_path / "archived", "auto", predicted=offline)
    record = require_archived(made, tmp_path / "archived", "fp32")
    assert re.fullmatch(
        r"int8 is faster, but its accuracy drops by [0-9.]+ points \(allowed: 0\.50\) and it agrees on [0-9.]+% of the "
        r"rows \(at least 97\.0%\); fp32 does 100 texts/s with a drop of 0\.00 points",
        record["reason"],
    )
    int8, fp32 = (record["tried"][name] for name in ("int8", "fp32"))
    assert int8["agreement"] < 0.8 < int8["offline_accuracy"] and int8["drop"] > 0.2 and fp32["agreement"] == 1
    assert f"fp32: {record['reason']}\n" in capsys.readouterr().out


def test_int8_is_archived_where_it_is_as_good(model: Path, tmp_path: Path, exported: None, two_to_one: None) -> None:
    made = archived(model, tmp_path / "archived", "auto")
    record = require_archived(made, tmp_path / "archived", "int8")
    assert re.fullmatch(r"int8 does 200 texts/s with a drop of -?[0-9.]+ points", record["reason"])


@pytest.mark.parametrize(
    ("precision", "serving_gpus", "chosen", "batch_size"), [("int8", 0, "int8", 8), ("auto", 1, "fp32", 32)]
)
def test_where_there_is_no_choice_no_measure_is_held_against_it(
    model: Path, tmp_path: Path, exported: None, precision: str, serving_gpus: int, chosen: str, batch_size: int
) -> None:
    # The offline model is made to disagree with whatever is served: validate_archive tells of that, not this step.
    wrong = ["4" if label == "0" else "0" for _, label in ROWS]
    made = archived(model, tmp_path / "archived", precision, predicted=wrong, serving_gpus=serving_gpus)
    record = require_archived(made, tmp_path / "archived", chosen)
    assert list(record["tried"]) == [chosen] and record["tried"][chosen]["agreement"] < 0.5
    config = (Path(made["release"]) / "config" / "config.properties").read_text()
    assert f'"batchSize":{batch_size},' in config
