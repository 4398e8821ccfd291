"""The rows to train on: tokenised, and in order."""

import math
import random
from pathlib import Path
from typing import Any

import datasets
import numpy

from nlp_pipeline.labels import count_labels
from nlp_pipeline.steps.classes import Classes
from nlp_pipeline.steps.evaluate_model.prediction import read_parts
from nlp_pipeline.steps.train_model.settings import TrainSettings
from nlp_pipeline.steps.training_data import hash_texts

# One in so many texts is held out to choose thresholds on, up to so many; and labels are held out at all that so many
# rows have.
HELD_OUT, MOST_HELD_OUT, FREQUENT = 10, 5000, 20


def hold_out(table: Any) -> Any:
    """Returns which rows, of several labels each, are not trained on, an array; rows that are alike stay together."""
    column = table["label"].to_pylist()
    counts = count_labels(column)
    is_held = hash_texts(table["text"].to_pylist()) % HELD_OUT == 0
    is_held &= [all(counts[label] >= FREQUENT for label in labels) for labels in column]
    return is_held & (is_held.cumsum() <= MOST_HELD_OUT)


def tokenise(
    path: str | Path,
    tokenizer: Any,
    labels: list[str],
    settings: TrainSettings,
    seed: int,
    cache: str,
    held_out: Any = (),
) -> Any:
    """Returns rows as a `datasets.Dataset`, which lies in the folder `cache`, not in memory.

    `held_out` says of each row whether it is left out. Each window of a long text is a row, with the text's labels.
    """
    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_parquet(str(path), cache_dir=cache)
    if any(held_out):
        rows = rows.select(numpy.flatnonzero(~held_out))
    if 0 < settings.max_train_rows < len(rows):
        rows = rows.shuffle(seed=seed).select(range(settings.max_train_rows))
    ids = {label: number for number, label in enumerate(labels)}
    is_list = not isinstance(rows.features["label"], datasets.Value)

    def targets(column: list[Any]) -> Any:
        if is_list:  # in the type that the loss of several labels wants
            return Classes(labels).encode(column).astype(numpy.float32).tolist()
        return [ids[label] for label in column]

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        parts = read_parts(tokenizer, batch["text"], settings.max_length, settings.long_texts)
        ids = [ids for text in parts for ids in text]
        labels = [label for label, text in zip(targets(batch["label"]), parts, strict=True) for _ in text]
        return {"input_ids": ids, "length": list(map(len, ids)), "labels": labels}

    return rows.map(encode, batched=True, remove_columns=["text", "label"])


def training_order(lengths: list[int], epochs: float, batch_size: int, seed: int) -> list[int]:
    """Returns the rows to train on, one after the other: shuffled, epoch after epoch, and each batch sorted by length.

    The order is that of all epochs, and fixed by the seed alone, so that a training that was killed resumes with the
    very next row. With a fraction of an epoch, some rows come once more than others.
    """
    rng, rows = random.Random(seed), range(len(lengths))  # noqa: S311, an order, no secret
    shuffled = [row for _ in range(math.ceil(epochs)) for row in rng.sample(rows, len(rows))]
    shuffled = shuffled[: max(1, round(len(rows) * epochs))]
    batches = (shuffled[at : at + batch_size] for at in range(0, len(shuffled), batch_size))
    return [row for batch in batches for row in sorted(batch, key=lengths.__getitem__)]
