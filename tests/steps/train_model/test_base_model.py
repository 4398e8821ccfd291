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


def copy_without(encoder: Path, folder: Path, name: str) -> str:
    """Returns a copy of an encoder that lacks a file."""
    shutil.copytree(encoder, folder / "copy", ignore=shutil.ignore_patterns(name))
    return str(folder / "copy")


def test_dropout_labels_and_number_format_of_what_is_trained(encoder: Path, tmp_path: Path) -> None:
    transformers.AutoModel.from_pretrained(encoder, dtype=torch.bfloat16).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(encoder).save_pretrained(tmp_path)
    model, _ = load_base_model(str(tmp_path), ["no", "yes"], 64)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.attention_probs_dropout_prob == 0 and model.config.hidden_dropout_prob == 0.1
    assert model.config.id2label == {0: "no", 1: "yes"} and model.config.label2id == {"no": 0, "yes": 1}


def test_distilbert_is_trained_without_attention_dropout(encoder: Path, tmp_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    config = transformers.DistilBertConfig(dim=32, hidden_dim=64, n_layers=1, n_heads=2, vocab_size=len(tokenizer))
    transformers.DistilBertModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = load_base_model(str(tmp_path), ["no", "yes"], 64)
    assert model.config.attention_dropout == 0 and model.config.dropout == 0.1


@pytest.mark.parametrize(
    ("base_model", "message"),
    [
        ("./nowhere", "'./nowhere' is not a folder here: give a folder or a hub id"),
        ("some/model", "without the hub, give a folder with config.json, model.safetensors"),
    ],
)
def test_a_model_that_is_not_there_is_named(base_model: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        load_base_model(base_model, ["0", "1"], 32)
    assert "\n" not in str(raised.value)


def test_a_text_longer_than_the_model_reads_is_refused(encoder: Path) -> None:
    with pytest.raises(UsageError, match=r"max_length is 65: .* reads at most 64 tokens"):
        load_base_model(str(encoder), ["0", "1"], 65)


def test_a_folder_without_safetensors_is_refused(encoder: Path, tmp_path: Path) -> None:
    folder = copy_without(encoder, tmp_path, "model.safetensors")
    torch.save({}, f"{folder}/pytorch_model.bin")
    with pytest.raises(UsageError, match="can't be loaded"):
        load_base_model(folder, ["0", "1"], 32)


def test_a_folder_without_a_tokenizer_is_refused(encoder: Path, tmp_path: Path) -> None:
    """Transformers makes one up, for which every word is unknown."""
    with pytest.raises(UsageError, match="copy' has no fast tokenizer: put its tokenizer"):
        load_base_model(copy_without(encoder, tmp_path, "tokenizer*"), ["0", "1"], 32)


@pytest.mark.slow
def test_an_unreachable_hub_says_how_to_pass_a_folder(tmp_path: Path) -> None:
    # A port of localhost that refuses: the hub's client tries again for a while before it gives up.
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    call = f"from {load_base_model.__module__} import *; load_base_model('some/model', ['0', '1'], 32)"
    done = subprocess.run([sys.executable, "-c", call], env=environment, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("nlp_pipeline.errors.UsageError: base_model 'some/model' can't be loaded")
    assert "give a folder" in last


def test_a_changed_folder_is_another_model(encoder: Path, tmp_path: Path) -> None:
    folder = copy_without(encoder, tmp_path, "nothing")
    before = model_identity(folder)
    assert model_identity(folder) == before != model_identity(str(encoder))
    os.utime(f"{folder}/model.safetensors", (1, 1))
    assert model_identity(folder) != before
    assert model_identity("some/model") == ["some/model"]
