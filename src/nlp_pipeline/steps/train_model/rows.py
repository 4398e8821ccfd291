"""The rows to train on: tokenised, and in an order that wastes little on padding."""

import itertools
import math
import random
from pathlib import Path
from typing import Any

import datasets

from nlp_pipeline.steps.train_model.settings import TrainSettings


def tokenise(
    path: str | Path, tokenizer: Any, labels: list[str], settings: TrainSettings, seed: int, cache: str
) -> Any:
    """Returns rows as a `datasets.Dataset`, which lies in the folder `cache`, not in memory."""
    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_parquet(str(path), cache_dir=cache)
    if 0 < settings.max_train_rows < len(rows):
        rows = rows.shuffle(seed=seed).select(range(settings.max_train_rows))
    ids = {label: number for number, label in enumerate(labels)}

    def encode(batch: dict[str, list[str]]) -> dict[str, Any]:
        # Types tell two texts of a row apart, and there is one.
        encoded = tokenizer(batch["text"], truncation=True, max_length=settings.max_length, return_token_type_ids=False)
        lengths = [len(tokens) for tokens in encoded["input_ids"]]
        return {**encoded, "length": lengths, "labels": [ids[label] for label in batch["label"]]}

    return rows.map(encode, batched=True, remove_columns=["text", "label"])


def training_order(lengths: list[int], epochs: float, batch_size: int, seed: int) -> list[int]:
    """Returns the rows to train on, one after the other, so that rows of a batch are of like length.

    A batch is padded to its longest row, so mixed lengths are mostly padding. Rows are shuffled, epoch after epoch,
    then sorted by length within pools of up to 50 batches, and their batches shuffled: each batch still holds rows
    from everywhere, and no stretch of the training sees only short or only long ones. The order is that of all epochs,
    and fixed by the seed alone, so that a training that was killed resumes with the very next row. With a fraction of
    an epoch, some rows come once more than others.
    """
    rng, rows = random.Random(seed), range(len(lengths))  # noqa: S311, an order, no secret
    shuffled = [row for _ in range(math.ceil(epochs)) for row in rng.sample(rows, len(rows))]
    shuffled = shuffled[: max(1, round(len(rows) * epochs))]
    order: list[int] = []
    # No pool has more than an epoch's rows: the same row twice in a batch would teach no more than once.
    size = batch_size * max(1, min(50, len(rows) // batch_size))
    for start in range(0, len(shuffled), size):
        pool = sorted(shuffled[start : start + size], key=lengths.__getitem__)
        # What does not fill a batch stays last, or the batches after it would all shift.
        whole = len(pool) // batch_size * batch_size
        batches = [pool[at : at + batch_size] for at in range(0, whole, batch_size)]
        rng.shuffle(batches)
        order += [*itertools.chain.from_iterable(batches), *pool[whole:]]
    return order
