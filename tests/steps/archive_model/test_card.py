"""The model card: what Hugging Face's own reader makes of it, and how `--card` shows it."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from nlp_pipeline.cli import main
from nlp_pipeline.release import CARD, RECORD, Release, seal, verify
from nlp_pipeline.steps.archive_model.card import write_card
from tests.serving.conftest import made_release

AGREEMENT = {"texts": 1200, "agreement": 0.99, "agreement_interval": [0.982, 0.9943], "texts_per_second": 300.0}
TRIED = {"fp32": {"rows": 1000, "drop": 0.001, "drop_interval": [-0.002, 0.004], **AGREEMENT}}
FIGURES = {"challenger": [0.9, 0.89, 0.91], "champion": [0.8, 0.78, 0.82], "difference": [0.1, 0.08, 0.12]}
CHAMPION = {
    "digest": "0123456789abcdef",
    "rows": 900,
    "problem": "",
    "gone": [],
    "metric": "accuracy",
    "figures": {"accuracy": FIGURES},
}
FACTS: dict[str, Any] = {
    "model_name": "films",
    "run_id": "run-7",
    "labels": ["bad", "a `good` |\none"],
    "intervals": {"accuracy": [0.88, 0.92], "macro_f1": [0.87, 0.91]},
    "metrics": {"rows": 1000, "accuracy": 0.9, "macro_f1": 0.89, "majority_accuracy": 0.5},
    "parameters": {"base_model": "owner/encoder", "max_length": 128.0, "rows": 5000},
    "precision": {"chosen": "fp32", "reason": "int8 does not hold", "tried": TRIED},
    "source": "https://example.com/a: b.csv",
    "source_sha256": "ab12",
}


def card_of(tmp_path: Path, **facts: Any) -> Any:
    write_card(Release(**FACTS | facts), tmp_path / "README.md")
    return ModelCard.load(tmp_path / "README.md")


def test_the_header_is_what_the_hub_reads(tmp_path: Path) -> None:
    data = card_of(tmp_path).data
    assert (data.base_model, data.pipeline_tag) == ("owner/encoder", "text-classification")
    figures = {result.metric_type: result.metric_value for result in data.eval_results}
    assert figures == {"accuracy": 0.9, "macro_f1": 0.89}
    assert (data.model_name, data.license, data.language) == ("films", None, None)
    folder = tmp_path / "encoder"
    folder.mkdir()
    parameters = FACTS["parameters"] | {"base_model": str(folder)}
    data = card_of(tmp_path, parameters=parameters).data
    assert data.base_model is None  # a folder is nothing on the hub


def test_the_text_says_data_metrics_format_limits_and_how_to_ask(tmp_path: Path) -> None:
    text = card_of(tmp_path).text
    for words in (
        "- Base model: `owner/encoder`",
        "- Data: `https://example.com/a: b.csv`, SHA-256 `ab12`",
        "- Rows trained on: 5000",
        "- Labels (2): `bad`, `a 'good' | one`",
        "| Accuracy | 0.9000 | 0.8800 to 0.9200 | 0.5000 |",
        "| Macro F1 | 0.8900 | 0.8700 to 0.9100 |  |",
        "is in fp32: int8 does not hold; it agrees on 99.00 (98.20 to 99.43) % of 1,200 texts, loses 0.10 (",
        "the first 128 tokens",
        '-d \'{"instances": ["a text", "another one"]}\' \\\n  http://localhost:8080/v1/models/films:predict',
    ):
        assert words in text
    assert "champion" not in text


def test_it_says_how_it_compared_with_the_champion(tmp_path: Path) -> None:
    text = card_of(tmp_path, champion=CHAMPION).text
    assert "\nBetter than the champion, release 0123456789abcdef: accuracy +0.1000, in 95 % from +0.0800 to" in text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_command_shows_the_newest_releases_card(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made_release(model, "int8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NLP_PIPELINE_VOLUME", str(tmp_path))
    capsys.readouterr()
    latest = tmp_path / "tiny" / "latest.json"
    (latest.parent / "releases").mkdir(parents=True)
    shutil.copytree(folder, latest.parent / "releases" / folder.name)
    latest.write_text(json.dumps({"digest": folder.name}))
    assert main(["--card"]) == 0
    text = capsys.readouterr().out
    data: Any = ModelCard(text).data
    assert text == (folder / CARD).read_text() and data.model_name == "tiny"
    assert main(["--card", "--release", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"release": str(folder), "card": text}
    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    assert main(["--card"]) == 0
    assert "library_name" not in terminal.getvalue() and "Number format" in terminal.getvalue()


def test_a_release_of_old_has_none(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = shutil.copytree(made_release(model, "int8"), tmp_path / "old")
    digest = verify(old).digest
    (old / CARD).unlink()
    record = json.loads((old / RECORD).read_text())
    del record["champion"], record["files"][CARD]
    (old / RECORD).write_text(json.dumps(record))
    assert seal(old, verify(old)).digest == digest  # and is known by the same digest
    assert main(["--card", "--release", str(old)]) == 2
    assert capsys.readouterr().err == f"error: {old} has no model card: it is from before releases had one\n"
