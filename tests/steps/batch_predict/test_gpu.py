"""Batch prediction by torch, as pods with a GPU do it; here torch computes on the CPU."""

import random
from pathlib import Path

import numpy
import pytest
import torch
import transformers

from nlp_pipeline.serving.archived import load_archived
from nlp_pipeline.steps.batch_predict import gpu, prediction
from nlp_pipeline.steps.batch_predict.gpu import TorchSession, use_torch
from tests.conftest import make_rows, make_rows_of_several
from tests.serving.conftest import made_release
from tests.steps.batch_predict.test_batch import TEXTS, batch, read_parts, write_rows


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 5e-3)], ids=["32", "16"])
def test_answers_are_those_of_the_archive(
    dtype: torch.dtype, tolerance: float, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts of all lengths, in any order, few and many tokens a call."""
    texts = [text * (at % 5 + 1) for at, (text, _) in enumerate(make_rows(150, seed=9))] + ["", "🙂"]
    random.Random(1).shuffle(texts)
    release = made_release(model, "fp32")
    classifier = load_archived(release, "tiny")
    expected = classifier.classify(texts)
    monkeypatch.setattr(gpu, "TEXTS", 40)
    monkeypatch.setattr(gpu, "TOKENS", 100)
    use_torch(classifier, TorchSession(release / "huggingface", "cpu", dtype))
    answers = classifier.classify(texts)
    assert [answer["label"] for answer in answers] == [answer["label"] for answer in expected]
    assert [answer["score"] for answer in answers] == pytest.approx([row["score"] for row in expected], abs=tolerance)
    assert classifier.classify(texts[:1])[0]["score"] == pytest.approx(expected[0]["score"], abs=tolerance)


def test_of_several_labels_the_thresholds_of_the_archive_count(model_of_several: Path) -> None:
    release = made_release(model_of_several, "fp32")
    classifier = load_archived(release, "tiny")
    texts = [text for text, _ in make_rows_of_several(100, seed=5)]
    expected = classifier.classify(texts)
    use_torch(classifier, TorchSession(release / "huggingface", "cpu", torch.float32))
    labels = [
        [[item["label"] for item in answer["labels"]] for answer in answers]
        for answers in (classifier.classify(texts), expected)
    ]
    assert labels[0] == labels[1] and any(len(of_text) > 1 for of_text in labels[0])


def test_numbers_that_are_too_large_for_float16_are_computed_in_float32(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = transformers.AutoModelForSequenceClassification.from_pretrained(model)
    with torch.no_grad():
        network.classifier.weight *= 1e6
    network.save_pretrained(tmp_path)
    session = TorchSession(tmp_path, "cpu")
    columns = {"input_ids": numpy.array([[2, 4, 3]]), "attention_mask": numpy.array([[1, 1, 1]])}
    assert numpy.isfinite(session.run(None, columns)[0]).all()
    assert capsys.readouterr().out == "numbers are too large for float16: computes in float32\n"


@pytest.mark.parametrize("usable", [True, False])
def test_a_gpu_is_taken_where_torch_can_use_it(
    usable: bool, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sessions: list[TorchSession] = []
    monkeypatch.setattr(prediction, "GPU", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: usable)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")

    def on_the_cpu(folder: Path, device: str) -> TorchSession:
        assert device == "cuda"
        sessions.append(TorchSession(folder, "cpu"))
        return sessions[-1]

    monkeypatch.setattr(gpu, "TorchSession", on_the_cpu)
    batch(write_rows(tmp_path / "new.csv", TEXTS), tmp_path / "scored", made_release(model, "int8"))
    err = capsys.readouterr().err
    assert ("classifies on a GPU" if usable else "classifies on the CPU: this torch can't use the GPU") in err
    assert len(sessions) == usable
    assert [row["text"] for row in read_parts(tmp_path / "scored")] == TEXTS
