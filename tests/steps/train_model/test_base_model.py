"""Encoders that can be fine-tuned, and those that can't."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from nlp_pipeline.errors import UsageError
from nlp_pipeline.steps.train_model.base_model import load_base_model, model_identity


@pytest.mark.parametrize(
    ("kind", "attention_dropout", "other_dropout"),
    [
        ("bert", "attention_probs_dropout_prob", "hidden_dropout_prob"),
        ("distilbert", "attention_dropout", "dropout"),
    ],
)
def test_what_is_trained_has_labels_float32_and_no_dropout_in_attention(
    kind: str, attention_dropout: str, other_dropout: str, encoder: Path, tmp_path: Path
) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    config = transformers.AutoConfig.for_model(kind, vocab_size=len(tokenizer), hidden_size=24, dim=24)
    transformers.AutoModel.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = load_base_model(str(tmp_path), ["no", "yes"], 64)
    assert {weights.dtype for weights in model.parameters()} == {torch.float32}
    assert getattr(model.config, attention_dropout) == 0 and getattr(model.config, other_dropout) == 0.1
    assert model.config.id2label == {0: "no", 1: "yes"} and model.config.label2id == {"no": 0, "yes": 1}


@pytest.mark.parametrize(
    ("lacks", "base_model", "max_length", "message"),
    [
        ("", "./nowhere", 32, "'./nowhere' is not a folder here: give a folder or a hub id"),
        ("", "some/model", 32, "without the hub, give a folder with config.json, model.safetensors"),
        ("", "copy", 65, "max_length is 65: 'copy' reads at most 64 tokens"),
        ("model.safetensors", "copy", 32, "'copy' can't be loaded"),
        # Transformers makes one up, for which every word is unknown.
        ("tokenizer*", "copy", 32, "'copy' has no fast tokenizer: put its tokenizer.json beside config.json"),
    ],
)
def test_a_model_that_can_not_be_used_is_named(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    lacks: str, base_model: str, max_length: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    shutil.copytree(encoder, "copy", ignore=shutil.ignore_patterns(lacks))
    torch.save({}, "copy/pytorch_model.bin")
    with pytest.raises(UsageError) as raised:
        load_base_model(base_model, ["0", "1"], max_length)
    assert message in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.slow
def test_an_unreachable_hub_says_how_to_pass_a_folder(tmp_path: Path) -> None:
    # A port of localhost that refuses: the hub's client would try again for 50 seconds before it gives up.
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    call = (
        "import time; time.sleep = lambda seconds: None\n"
        f"from {load_base_model.__module__} import *; load_base_model('some/model', ['0', '1'], 32)"
    )
    done = subprocess.run([sys.executable, "-c", call], env=environment, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("nlp_pipeline.errors.UsageError: base_model 'some/model' can't be loaded")
    assert "give a folder" in last


def test_a_changed_folder_is_another_model(encoder: Path, tmp_path: Path) -> None:
    folder = str(shutil.copytree(encoder, tmp_path / "copy"))
    before = model_identity(folder)
    assert model_identity(folder) == before != model_identity(str(encoder))
    os.utime(f"{folder}/model.safetensors", (1, 1))
    assert model_identity(folder) != before
    assert model_identity("some/model") == ["some/model"]
