import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from benchmarks.baseline.archive import baseline_config, build
from benchmarks.baseline.handler import EagerHandler
from benchmarks.handlers import answer, context, load_handler
from benchmarks.model import unpacked

SETTINGS = {"marName": "m.mar", "minWorkers": 2, "maxWorkers": 2, "batchSize": 8, "responseTimeout": 120}
SNAPSHOT = {"name": "startup.cfg", "modelCount": 1, "models": {"m": {"1.0": SETTINGS}}}
CONFIG = f"inference_address=http://0.0.0.0:8085\nmodel_snapshot={json.dumps(SNAPSHOT)}\n"
TEXTS = ["a fine film", "a dull film that is long " * 40, "é"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier with random weights."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("model")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "fine", "film", "dull", "that", "is", "long"]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=1.0,
        id2label={0: "negative", 1: "neutral", 2: "positive"},
        label2id={"negative": 0, "neutral": 1, "positive": 2},
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def handler(folder: Path, dtype: str) -> EagerHandler:
    (folder / "serving.json").write_text(json.dumps({"max_length": 128, "dtype": dtype}), encoding="utf-8")
    eager = EagerHandler()
    eager.initialize(context(folder, []))
    return eager


def expected(model: Path, texts: list[str]) -> list[dict[str, Any]]:
    """What transformers' own pipeline says."""
    classify = transformers.pipeline("text-classification", model=str(model), dtype=torch.float32, device="cpu")
    return [classify(text, truncation=True, max_length=128)[0] for text in texts]


def test_the_baseline_says_what_transformers_says(model: Path) -> None:
    eager = handler(model, "float32")
    body = {"instances": TEXTS}
    for sent in (body, json.dumps(body), json.dumps(body).encode()):
        (answered,) = eager.handle([{"body": sent}], context(model, ["one"]))
        for found, wanted in zip(answered["predictions"], expected(model, TEXTS), strict=True):
            assert found["label"] == wanted["label"]
            assert found["score"] == pytest.approx(wanted["score"], abs=1e-5)
    assert len({one["label"] for one in expected(model, TEXTS)}) > 1


def test_bfloat16_is_a_setting(model: Path) -> None:
    eager = handler(model, "bfloat16")
    assert eager.model.dtype == torch.bfloat16
    (answered,) = eager.handle([{"body": {"instances": TEXTS}}], context(model, ["one"]))
    for found, wanted in zip(answered["predictions"], expected(model, TEXTS), strict=True):
        assert found["score"] == pytest.approx(wanted["score"], abs=0.1)


def test_its_archive_holds_the_model_folder_and_answers(model: Path, tmp_path: Path) -> None:
    release = tmp_path / "release"
    release.mkdir()
    build(model, release, "m", CONFIG, "float32", 128)
    with zipfile.ZipFile(release / "model-store" / "m.mar") as archive:
        assert set(archive.namelist()) >= {"model.safetensors", "tokenizer.json", "config.json", "handler.py"}
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(release / "model-store" / "m.mar") as archive:
        archive.extractall(folder)
    found = answer(load_handler(folder), folder, TEXTS)
    assert [one["label"] for one in found] == [one["label"] for one in expected(model, TEXTS)]


def test_a_failing_archiver_is_told(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.baseline.archive.sys.executable", "false")
    with pytest.raises(RuntimeError, match="torch-model-archiver failed"):
        build(model, tmp_path, "m", CONFIG, "float32", 128)


def test_its_configuration_differs_in_workers_and_batches_only() -> None:
    theirs = baseline_config(CONFIG)
    changed = [two for one, two in zip(CONFIG.splitlines(), theirs.splitlines(), strict=True) if one != two]
    assert len(changed) == 1
    settings = json.loads(changed[0].removeprefix("model_snapshot="))["models"]["m"]["1.0"]
    assert (settings["minWorkers"], settings["maxWorkers"], settings["batchSize"]) == (1, 1, 1)
    assert settings["responseTimeout"] == 120


def test_an_archive_is_unpacked_where_it_is_asked_for(model: Path, tmp_path: Path) -> None:
    release = tmp_path / "release"
    release.mkdir()
    build(model, release, "bench", CONFIG.replace('"m"', '"bench"').replace("m.mar", "bench.mar"), "float32", 128)
    assert (unpacked(release, tmp_path / "here") / "MAR-INF" / "MANIFEST.json").is_file()
