"""The rows to train on: tokenised, and in order."""

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
    """Returns the rows to train on, one after the other: shuffled, epoch after epoch, and each batch sorted by length.

    The order is that of all epochs, and fixed by the seed alone, so that a training that was killed resumes with the
    very next row. With a fraction of an epoch, some rows come once more than others.
    """
    rng, rows = random.Random(seed), range(len(lengths))  # noqa: S311, an order, no secret
    shuffled = [row for _ in range(math.ceil(epochs)) for row in rng.sample(rows, len(rows))]
    shuffled = shuffled[: max(1, round(len(rows) * epochs))]
    batches = (shuffled[at : at + batch_size] for at in range(0, len(shuffled), batch_size))
    return [row for batch in batches for row in sorted(batch, key=lengths.__getitem__)]
