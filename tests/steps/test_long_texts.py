"""Texts of more tokens than a model reads at once: what it reads of them, trained, evaluated and where it serves."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import transformers

from nlp_pipeline.release import verify
from nlp_pipeline.serving.model import FAR, WINDOWS, Encoder
from nlp_pipeline.steps.batch_predict.gpu import TorchSession, use_torch
from nlp_pipeline.steps.evaluate_model.prediction import predict
from nlp_pipeline.steps.train_model.fine_tune import fine_tune
from nlp_pipeline.steps.train_model.rows import tokenise
from nlp_pipeline.steps.train_model.settings import TrainSettings
from nlp_pipeline.volume import Run
from tests.conftest import FILLER, TRAINING, make_rows, without_a_trial, write_parquet
from tests.serving import conftest
from tests.serving.conftest import MAX_LENGTH, archived, exported, load_handler

LENGTH = 10  # of which 8 are a text's own
MODES = ["cut", "head_tail", "windows"]
LONG = "the " * 60  # tokens in front of the word that tells the label
TEXTS = ["", "film", "a film with a very long plot and music", *(FILLER[at % 16] + " film" * at for at in range(6, 40))]
TEXTS += ["x" * 3000, "film [SEP] [CLS] " * 20, "[SEP] " * 30, "a film. " * (FAR * LENGTH // 8 + 50), " " * 99 + "film"]


def encoder_for(tokenizer: Path, long_texts: str, max_length: int = LENGTH) -> Encoder:
    encoder = Encoder()
    encoder.prepare((tokenizer / "tokenizer.json").read_text(), max_length, long_texts)
    return encoder


def test_what_is_read_of_a_text(encoder: Path) -> None:
    ids = list(range(4, 4 + 12))  # the text's own tokens: FILLER in order
    text = " ".join(FILLER[:12])
    cut, both, windows = (encoder_for(encoder, mode) for mode in MODES)
    assert cut.parts(text) == [[2, *ids[:8], 3]]
    assert both.parts(text) == [[2, *ids[:2], *ids[6:], 3]]
    # Each begins with the last quarter of the one before, and the last one ends where the text ends.
    assert windows.parts(text) == [[2, *ids[:8], 3], [2, *ids[4:], 3]]
    for mode in (cut, both, windows):
        assert mode.parts(" ".join(FILLER[:8])) == [[2, *ids[:8], 3]]
        assert mode.parts("") == [[2, 3]]


def test_a_text_of_megabytes_is_read_in_part(encoder: Path) -> None:
    text = "the film was long and the music was very long " * 100_000
    assert len(encoder_for(encoder, "windows").parts(text)) == WINDOWS
    both = encoder_for(encoder, "head_tail")
    assert both.parts(text + "superb") == [[*both.parts(text)[0][:3], *both.parts(text + "superb")[0][3:]]]
    assert both.parts(text + "superb")[0][-2] == both.parts("superb")[0][1]


@pytest.mark.parametrize("mode", MODES)
def test_training_reads_what_servers_read(encoder: Path, tmp_path: Path, mode: str) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    path = write_parquet(tmp_path / "rows.parquet", [(text, "a") for text in TEXTS])
    settings = TrainSettings(**TRAINING | {"max_length": LENGTH, "long_texts": mode})
    rows = tokenise(path, tokenizer, ["a"], settings, 1, str(tmp_path))
    served = [ids for text in TEXTS for ids in encoder_for(encoder, mode).parts(text)]
    assert rows["input_ids"][:] == served
    assert rows["length"][:] == [len(ids) for ids in served] and max(map(len, served)) == LENGTH
    assert len(rows["labels"]) == len(served) and (mode == "windows") == (len(served) > len(TEXTS))


def test_a_model_is_trained_on_beginnings_and_ends(encoder: Path, tmp_path: Path) -> None:
    rows = [(LONG + text, label) for text, label in make_rows(300)]
    settings = TrainSettings(
        base_model=str(encoder), **TRAINING | {"max_length": MAX_LENGTH, "long_texts": "head_tail", "epochs": 6.0}
    )
    run = Run(model_name="tiny", run_id="run", volume_path=str(tmp_path))
    model = tmp_path / "model"
    with without_a_trial():
        fine_tune(write_parquet(tmp_path / "rows.parquet", rows), model, settings, 1, run)
    for name in ("config", "training"):
        assert json.loads((model / f"{name}.json").read_text())["long_texts"] == "head_tail"
    texts, labels = zip(*make_rows(60, seed=5), strict=True)
    probabilities = predict(model, [LONG + text for text in texts], MAX_LENGTH)
    assert [("0", "4")[at] for at in probabilities.argmax(axis=1)] == list(labels)


def test_a_model_of_windows_is_archived_and_asked(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = exported(model)  # the weights are the same
    monkeypatch.setattr(conftest, "exported", lambda _: content)
    windows = shutil.copytree(model, tmp_path / "model")
    for name in ("config", "training"):
        values = json.loads((model / f"{name}.json").read_text())
        (windows / f"{name}.json").write_text(json.dumps(values | {"long_texts": "windows"}))
    rows = [(LONG + text, label) for text, label in make_rows(60, seed=5)]
    texts = [text for text, _ in rows]
    probabilities = predict(windows, texts, MAX_LENGTH)
    # Each alone gives what all together give, whatever their windows are computed with.
    alone = numpy.concatenate([predict(windows, [text], MAX_LENGTH) for text in texts[:5]])
    assert probabilities[:5] == pytest.approx(alone, abs=1e-5)

    predicted = [("0", "4")[at] for at in probabilities.argmax(axis=1)]
    made: dict[str, Any] = archived(windows, tmp_path / "archived", "fp32", predicted=predicted, rows=rows)
    release = Path(made["release"])
    assert verify(release).parameters["long_texts"] == "windows"
    assert f'"responseTimeout":{600 * WINDOWS}' in (release / "config" / "config.properties").read_text()
    handler = load_handler(release)
    assert handler.probabilities(texts[:7], handler.single) == pytest.approx(probabilities[:7], abs=1e-4)
    assert [answer["label"] for answer in handler.classify(texts)] == predicted
    handler.chunk = 32  # parts of many texts, computed at once as on a GPU
    assert handler.probabilities(texts, handler.single) == pytest.approx(probabilities, abs=1e-4)
    use_torch(handler, TorchSession(release / "huggingface", "cpu", torch.float32))
    assert handler.probabilities(texts, handler.single) == pytest.approx(probabilities, abs=1e-4)
