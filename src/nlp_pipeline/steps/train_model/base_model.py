"""The encoder to fine-tune: a Hugging Face model in a folder or on the hub."""

import math
import tempfile
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from nlp_pipeline.errors import UsageError
from nlp_pipeline.steps.archive_model.export import export_model
from nlp_pipeline.steps.archive_model.packing import pack_model
from nlp_pipeline.steps.archive_model.precision import ask_archive
from nlp_pipeline.steps.classes import MULTIPLE, SINGLE
from nlp_pipeline.volume import file_sha256


def load_base_model(base_model: str, labels: list[str], max_length: int, task: str = SINGLE) -> tuple[Any, Any]:
    """Loads an encoder with a classification head for the labels, and its tokenizer; the task is SINGLE or MULTIPLE.

    Only safetensors weights are read, and no code of the model's own is run. Attention is trained without dropout, as
    newer encoders are: drawing its random numbers takes a CPU long, and accuracy does not suffer
    (docs/performance.md). The other layers keep the dropout that the encoder came with.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(base_model, trust_remote_code=False)
        tokenizer.truncation_side = tokenizer.padding_side = "right"  # as every server does
        config = AutoConfig.from_pretrained(
            base_model,
            attention_probs_dropout_prob=0.0,  # as BERT calls it
            attention_dropout=0.0,  # as DistilBERT calls it
            trust_remote_code=False,
        )
        is_alike = "ForSequenceClassification" in str(config.architectures) and (config.problem_type or SINGLE) == task
        former = [str(name) for _, name in sorted(config.id2label.items())] if is_alike else []
        config.problem_type = task  # or the loss would be the one that the base model was trained by
        if task == MULTIPLE:
            config.thresholds = [0.5] * len(labels)
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
        config.pad_token_id = tokenizer.pad_token_id  # which pads; a configuration's default may be another token
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            base_model,
            config=config,
            dtype="float32",  # whatever they were saved in: autocast needs weights that keep small updates
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # noqa: BLE001  of a broken folder, each library complains in its own way
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"base_model {base_model!r} can't be loaded ({reason}); without the hub, give a folder with "
            "config.json, model.safetensors and tokenizer.json"
        ) from None
    new = {*loading["missing_keys"], *(name for name, *_ in loading["mismatched_keys"])}
    require_whole(base_model, model, tokenizer, new)
    longest = longest_input(model, tokenizer)
    if max_length > longest:
        raise UsageError(f"max_length is {max_length}: {base_model!r} reads at most {longest} tokens")
    settle_head(model, former, labels, new)
    return model, tokenizer


def require_whole(base_model: str, model: Any, tokenizer: Any, new: set[str]) -> None:
    """Refuses a tokenizer that lacks something, or does not fit the model, and an encoder that lacks weights.

    `new` names the weights that were made at random. An encoder without a pooler is whole: few are trained with one.
    """
    lacking = sorted(name for name in new if name.startswith(f"{model.base_model_prefix}.") and "pool" not in name)
    numbers = tokenizer.get_vocab()
    last = max(numbers, key=numbers.get, default="")
    # Where there is no tokenizer, transformers makes one that knows the special tokens only.
    if not tokenizer.is_fast or len(tokenizer) <= len(tokenizer.all_special_ids):
        reason = "has no fast tokenizer: put its tokenizer.json beside config.json"
    elif tokenizer.pad_token is None:
        reason = "has no pad token: set its tokenizer's pad_token"
    elif lacking:
        reason = f"has no {lacking[0]} of the size that config.json says"
    elif numbers[last] >= getattr(model.config, "vocab_size", math.inf):
        reason = f"has no embedding of the token {last!r}: call resize_token_embeddings"
    else:
        return
    raise UsageError(f"base_model {base_model!r} {reason}")


def longest_input(model: Any, tokenizer: Any) -> int:
    """Returns how many tokens a model reads at most, as far as it is known.

    A tokenizer may say less: how many a former training read. It counts where the model has no number of positions.
    """
    positions = getattr(model.config, "max_position_embeddings", None) or 0
    # RoBERTa and its kin count positions from behind the padding's, so that 514 are good for 512 tokens.
    padding = getattr(getattr(model.base_model, "embeddings", None), "padding_idx", None)
    positions -= 0 if padding is None else padding + 1
    return positions if positions > 0 else int(tokenizer.model_max_length)  # XLNet says -1: its are relative


def settle_head(model: Any, former: list[str], labels: list[str], new: set[str]) -> None:
    """Takes over the head of a base model that is a classifier of the very same labels; any other head is made anew.

    A head that fits in size came with the base model's weights, but for those that are `new`. The `former` labels are
    the base model's, in the order of their ids; none where it is no classifier of the same task.
    """
    name, head = [pair for pair in model.named_modules() if getattr(pair[1], "out_features", 0) == len(labels)][-1]
    origin = "new"
    if f"{name}.weight" not in new:
        if sorted(former) == sorted(labels):
            origin = "the base model's, by the labels' names"
            for weights in head.parameters():
                weights.data = weights.data[[former.index(label) for label in labels]]
        else:
            head.reset_parameters()
    print(f"the classification head is {origin}")


def require_servable(base_model: str, model: Any, tokenizer: Any, max_length: int) -> None:
    """Refuses a model that can't be archived and served, which takes seconds to find out before it is trained."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, full, packed = Path(temporary), Path(temporary, "fp32.onnx"), Path(temporary, "packed")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        try:
            export_model(folder, full)
            pack_model(folder, full, packed, "fp32", max_length)
            ask_archive(packed, ["a " * max_length])
        except Exception as error:
            reason = str(error).strip().partition("\n")[0].partition(". ")[0]  # the exporter's advice has colours
            raise UsageError(
                f"base_model {base_model!r} is a {model.config.model_type}, which can't be exported to ONNX and served "
                f"({reason}): take a BERT, RoBERTa, DeBERTa or ModernBERT"
            ) from error


def model_identity(base_model: str) -> list[Any]:
    """Returns what tells one base model from another: its name, and where it is a folder, its files' SHA-256."""
    return [base_model, *(file_sha256(path) for path in sorted(Path(base_model).glob("*")) if path.is_file())]
