"""The encoder to fine-tune: a Hugging Face model in a folder or on the hub."""

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from nlp_pipeline.errors import UsageError


def load_base_model(base_model: str, labels: list[str], max_length: int) -> tuple[Any, Any]:
    """Loads an encoder with a new classification head, and its tokenizer.

    Only safetensors weights are read, and no code of the model's own is run. Attention is trained without dropout, as
    newer encoders are: drawing its random numbers takes a CPU about as long as all matrix products together, and
    accuracy does not suffer (docs/performance.md). The other layers keep the dropout that the encoder came with.
    """
    if base_model[0] in "./~" and not Path(base_model).is_dir():
        raise UsageError(f"base_model {base_model!r} is not a folder here: give a folder or a hub id")
    try:
        tokenizer = AutoTokenizer.from_pretrained(base_model, trust_remote_code=False)
        config = AutoConfig.from_pretrained(
            base_model,
            id2label=dict(enumerate(labels)),
            label2id={label: number for number, label in enumerate(labels)},
            attention_probs_dropout_prob=0.0,  # as BERT calls it
            attention_dropout=0.0,  # as DistilBERT calls it
            trust_remote_code=False,
        )
        model = AutoModelForSequenceClassification.from_pretrained(
            base_model,
            config=config,
            dtype="float32",  # whatever they were saved in: autocast needs weights that keep small updates
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"base_model {base_model!r} can't be loaded ({reason}); without the hub, give a folder with "
            "config.json, model.safetensors and tokenizer.json"
        ) from None
    # Where there is no tokenizer, transformers makes one that knows the special tokens only.
    if not tokenizer.is_fast or len(tokenizer) <= len(tokenizer.all_special_ids):
        raise UsageError(f"base_model {base_model!r} has no fast tokenizer: put its tokenizer.json beside config.json")
    longest = min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or max_length)
    if max_length > longest:
        raise UsageError(f"max_length is {max_length}: {base_model!r} reads at most {longest} tokens")
    return model, tokenizer


def model_identity(base_model: str) -> list[Any]:
    """Returns what tells one base model from another: its name, and where it is a folder, files, sizes and times."""
    files = sorted(Path(base_model).iterdir()) if Path(base_model).is_dir() else []
    return [base_model, *([file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files)]
