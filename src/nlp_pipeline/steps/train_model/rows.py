"""The rows to train on: tokenised, and in order."""

import math
import random
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import datasets
import numpy

from nlp_pipeline.steps.classes import Classes
from nlp_pipeline.steps.evaluate_model.prediction import read_parts
from nlp_pipeline.steps.parquet import list_parts, read_batches
from nlp_pipeline.steps.train_model.settings import TrainSettings
from nlp_pipeline.steps.training_data import hash_texts

# One in so many texts is held out to choose thresholds on, up to so many; and labels are held out at all that so many
# rows have.
HELD_OUT, MOST_HELD_OUT, FREQUENT = 10, 5000, 20


def hold_out(path: str | Path, counts: Counter[str]) -> dict[str, list[Any]]:
    """Returns the rows, of several labels each, that are not trained on; rows that are alike stay together.

    Of each it has the `number`, the `text` and the `label`. `counts` says how many rows each label has.
    """
    held: dict[str, list[Any]] = {"number": [], "text": [], "label": []}
    start = 0
    for batch in read_batches(path):
        for at in numpy.flatnonzero(hash_texts(batch["text"]) % HELD_OUT == 0):
            row = start + int(at), batch["text"][at], batch["label"][at]
            if len(held["label"]) < MOST_HELD_OUT and all(counts[label] >= FREQUENT for label in row[2]):
                for column, value in zip(held.values(), row, strict=True):
                    column.append(value)
        start += len(batch["text"])
    return held


def tokenise(
    path: str | Path,
    tokenizer: Any,
    labels: list[str],
    settings: TrainSettings,
    seed: int,
    cache: str,
    held_out: Collection[int] = (),
) -> Any:
    """Returns rows as a `datasets.Dataset`, which lies in the folder `cache`, not in memory.

    The rows whose numbers are `held_out` are not among them. Each window of a long text is a row, with the text's
    labels.
    """
    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_parquet(list_parts(path), cache_dir=cache)
    if held_out:
        left_out = set(held_out)
        rows = rows.filter(lambda _, number: number not in left_out, input_columns=["label"], with_indices=True)
    if 0 < settings.max_train_rows < len(rows):
        rows = rows.select(random.Random(seed).sample(range(len(rows)), settings.max_train_rows))  # noqa: S311
    classes, is_list = Classes(labels), not isinstance(rows.features["label"], datasets.Value)

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        parts = read_parts(tokenizer, batch["text"], settings.max_length, settings.long_texts)
        ids = [ids for text in parts for ids in text]
        encoded = classes.encode(batch["label"])
        # Of several labels in the type that their loss wants.
        targets = (encoded.astype(numpy.float32) if is_list else encoded.argmax(axis=1)).tolist()
        labels = [target for target, text in zip(targets, parts, strict=True) for _ in text]
        return {"input_ids": ids, "length": numpy.array(list(map(len, ids)), numpy.int32), "labels": labels}

    return rows.map(encode, batched=True, remove_columns=["text", "label"])


def training_order(lengths: Any, epochs: float, batch_size: int, seed: int) -> Any:
    """Returns the rows to train on, one after the other: shuffled, epoch after epoch, and each batch sorted by length.

    The order is that of all epochs, and fixed by the seed alone, so that a training that was killed resumes with the
    very next row. With a fraction of an epoch, some rows come once more than others.
    """
    rows = numpy.arange(len(lengths), dtype=numpy.int32)
    order = numpy.tile(rows, (math.ceil(epochs), 1))
    numpy.random.default_rng(seed).permuted(order, axis=1, out=order)
    order = order.ravel()[: max(1, round(len(rows) * epochs))]
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        batch[:] = batch[lengths[batch].argsort(kind="stable")]
    return order
