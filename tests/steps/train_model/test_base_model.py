"""Encoders that can be fine-tuned, and those that can't."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers

from nlp_pipeline.errors import UsageError
from nlp_pipeline.steps.train_model.base_model import load_base_model, model_identity, require_servable
from tests.steps.archive_model.architectures import configurations


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
    ("base_model", "max_length", "message"),
    [
        ("some/model", 32, "'some/model' can't be loaded ("),
        ("some/model", 32, "without the hub, give a folder with config.json, model.safetensors and tokenizer.json"),
        ("copy", 65, "max_length is 65: 'copy' reads at most 64 tokens"),
    ],
)
def test_a_model_that_can_not_be_used_is_named(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base_model: str, max_length: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("copy").symlink_to(encoder)
    with pytest.raises(UsageError) as raised:
        load_base_model(base_model, ["0", "1"], max_length)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def save_base(folder: Path, encoder: Path, model: Any, **tokenizer: Any) -> str:
    """Saves a model with the tokenizer of `encoder`, some of whose settings are other ones; returns the folder."""
    transformers.AutoTokenizer.from_pretrained(encoder, **tokenizer).save_pretrained(folder)
    model.save_pretrained(folder)
    return str(folder)


def make_former(
    architecture: str, labels: list[str], kind: Any = transformers.AutoModelForSequenceClassification, **config: Any
) -> Any:
    """Returns a finished classifier, whose head is sure of the last label, whatever the text."""
    settings = configurations()[architecture]
    settings.update({"id2label": dict(enumerate(labels)), "label2id": {name: at for at, name in enumerate(labels)}})
    settings.update(config)
    model = kind.from_config(settings)
    with torch.no_grad():
        head = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)][-1]
        head.weight.zero_()
        head.bias.copy_(torch.arange(len(labels)) * 9.0)
    return model


def answer(model: Any, tokenizer: Any) -> list[float]:
    """Returns the probabilities that a model gives the labels for some text."""
    tokens = tokenizer("a superb film", return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        probabilities: list[float] = model.eval()(**tokens).logits.softmax(dim=-1)[0].tolist()
    return probabilities


SAME, NEW = "is the base model's, by the labels' names", "is new"
TOKENS = transformers.AutoModelForTokenClassification


@pytest.mark.parametrize(
    ("architecture", "former", "config", "message", "sure_of"),
    [
        ("bert", ["no", "yes"], {}, SAME, "yes"),
        ("bert", ["yes", "no"], {"problem_type": "single_label_classification"}, SAME, "no"),
        ("distilbert", ["yes", "no"], {}, SAME, "no"),
        ("roberta", ["yes", "no"], {}, SAME, "no"),
        ("modernbert", ["yes", "no"], {}, SAME, "no"),
        ("modernbert", ["No", "Yes"], {}, NEW, None),
        ("bert", ["No", "Yes"], {}, NEW, None),
        ("bert", ["no", "yes"], {"problem_type": "multi_label_classification"}, NEW, None),
        ("roberta", ["score"], {"problem_type": "regression"}, NEW, None),
        ("distilbert", ["no", "perhaps", "yes"], {}, NEW, None),
        ("bert", ["no", "yes"], {"kind": TOKENS}, NEW, None),
    ],
)
def test_a_head_is_taken_over_by_its_labels_names_or_made_anew(
    encoder: Path, tmp_path: Path, capsys: Any, architecture: str,
    former: list[str], config: dict[str, Any], message: str, sure_of: str | None,
) -> None:  # fmt: skip
    base_model = save_base(tmp_path, encoder, make_former(architecture, former, **config))
    model, tokenizer = load_base_model(base_model, ["no", "yes"], 32)
    assert f"the classification head {message}" in capsys.readouterr().out
    no, yes = answer(model, tokenizer)
    if sure_of:
        assert (yes if sure_of == "yes" else no) > 0.99
    else:
        assert 0.02 < no < 0.98  # ModernBERT begins with larger weights
    assert model.config.id2label == {0: "no", 1: "yes"}


@pytest.mark.parametrize(
    ("problem_type", "former"), [("regression", ["score"]), ("multi_label_classification", ["yes", "no"])]
)
def test_the_loss_is_that_of_single_labels(
    encoder: Path, tmp_path: Path, problem_type: str | None, former: list[str]
) -> None:
    base_model = save_base(tmp_path, encoder, make_former("bert", former, problem_type=problem_type))
    model, tokenizer = load_base_model(base_model, ["no", "yes"], 32)
    labels = torch.tensor([0, 1])
    outputs = model.eval()(**tokenizer(["a film", "superb"], padding=True, return_tensors="pt"), labels=labels)
    assert torch.allclose(outputs.loss, torch.nn.functional.cross_entropy(outputs.logits, labels))


@pytest.mark.parametrize(
    ("architecture", "longest"),
    [("bert", 512), ("roberta", 79), ("xlnet", None)],
)
def test_the_longest_text_is_what_the_positions_allow(
    encoder: Path, tmp_path: Path, architecture: str, longest: int | None
) -> None:
    xlnet = transformers.XLNetConfig(vocab_size=64, d_model=32, n_layer=2, n_head=2, d_inner=64, pad_token_id=0)
    config = (configurations() | {"xlnet": xlnet})[architecture]
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    base_model = save_base(tmp_path, encoder, model, model_max_length=32 if longest else 10**30)
    model, tokenizer = load_base_model(base_model, ["0", "1"], longest or 1000)
    length = longest or 1000
    tokens = tokenizer(
        "a " * 2000, truncation=True, max_length=length, return_tensors="pt", return_token_type_ids=False
    )
    assert tokens["input_ids"].shape == (1, length)
    with torch.inference_mode():
        model(**tokens)
    if longest:
        with pytest.raises(UsageError, match=f"max_length is {longest + 1}: .* reads at most {longest} tokens"):
            load_base_model(base_model, ["0", "1"], longest + 1)


def set_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def add_token(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"[PRODUCT{at}]" for at in range(5)])
    tokenizer.save_pretrained(folder)


def cut_embedding(folder: Path) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    (name,) = [name for name in weights if name.endswith("word_embeddings.weight")]
    weights[name] = weights[name][:50].clone()
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})


def cut_file(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def take_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def take_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def take_fast_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    transformers.ByT5Tokenizer().save_pretrained(folder)


def take_pad_token(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (add_token, "has no embedding of the token '[PRODUCT4]': call resize_token_embeddings"),
        (cut_embedding, "has no bert.embeddings.word_embeddings.weight of the size that config.json says"),
        (lambda folder: set_config(folder, num_hidden_layers=3), "has no bert.encoder.layer.2."),
        (cut_file, "can't be loaded"),
        (take_weights, "can't be loaded"),
        # Transformers makes one up, for which every word is unknown.
        (take_tokenizer, "has no fast tokenizer: put its tokenizer.json beside config.json"),
        (take_pad_token, "has no pad token: set its tokenizer's pad_token"),
        (lambda folder: set_config(folder, model_type="mine", auto_map={"AutoConfig": "mine.C"}), "can't be loaded"),
        (take_fast_tokenizer, "has no fast tokenizer"),
    ],
)
def test_a_model_that_does_not_hold_together_is_refused(
    encoder: Path, tmp_path: Path, spoil: Any, message: str
) -> None:
    folder = shutil.copytree(encoder, tmp_path / "base")
    spoil(folder)
    with pytest.raises(UsageError) as raised:
        load_base_model(str(folder), ["0", "1"], 32)
    assert message in str(raised.value) and "\n" not in str(raised.value) and str(folder) in str(raised.value)


def test_texts_are_cut_and_padded_where_and_with_what_servers_do(encoder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(encoder, tmp_path / "base")
    set_config(folder, pad_token_id=1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, truncation_side="left", padding_side="left")
    tokenizer.save_pretrained(folder)
    model, tokenizer = load_base_model(str(folder), ["0", "1"], 32)
    assert (tokenizer.truncation_side, tokenizer.padding_side) == ("right", "right")
    assert model.config.pad_token_id == 0


@pytest.mark.slow
def test_what_can_not_be_served_is_known_before_the_training(encoder: Path, tmp_path: Path) -> None:
    config = transformers.T5Config(vocab_size=64, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    base_model = save_base(tmp_path, encoder, model)
    model, tokenizer = load_base_model(base_model, ["0", "1"], 32)
    with pytest.raises(UsageError) as raised:
        require_servable(base_model, model, tokenizer, 32)
    message = str(raised.value)
    assert "is a t5, which can't be exported to ONNX" in message and message.isprintable()


def test_a_changed_folder_is_another_model(encoder: Path, tmp_path: Path) -> None:
    folder = str(shutil.copytree(encoder, tmp_path / "copy"))
    before = model_identity(folder)
    assert model_identity(folder) == before != model_identity(str(encoder))
    Path(folder, "tokenizer.json").write_text("{}")
    assert model_identity(folder) != before
    assert model_identity("some/model") == ["some/model"]
