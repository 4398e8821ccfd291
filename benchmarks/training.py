"""Training: rows a second, and the accuracy after as many epochs, against the former pipeline's loop."""

import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import FEWEST, OURS, Figure
from benchmarks.model import LABELS, Row, labelled_rows
from benchmarks.processes import run_module, tell
from nlp_pipeline.demo import encoder_folder

BASELINE = "fp32, padded"
TARGET = 3.0  # times as many rows a second
OPTIONS = {"epochs": 1.0, "batch_size": 32, "learning_rate": 2e-4, "weight_decay": 0.01, "warmup_share": 0.1}
HELD_OUT = 500  # rows asked for accuracy
BATCH = 32


def train_ours(rows: list[Row], options: dict[str, Any]) -> tuple[Any, float]:
    """Fine-tunes the encoder as `train_model` does; returns the model, and rows trained on per second."""
    import pyarrow
    import pyarrow.parquet
    import transformers

    from nlp_pipeline.components.train_model import choose_device, load_base_model, run_trainer, tokenise

    transformers.set_seed(options["seed"])
    model, tokenizer = load_base_model(encoder_folder(), LABELS, options["max_length"])
    limits = {"max_length": options["max_length"], "max_train_rows": 0, "seed": options["seed"]}
    with tempfile.TemporaryDirectory() as scratch:
        path = str(Path(scratch) / "train.parquet")
        columns = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
        tokenised = tokenise(path, tokenizer, LABELS, limits, scratch)
        result = run_trainer(model, tokenizer, tokenised, scratch, {"max_steps": 0, **options, **choose_device()})
    return model, result["samples_per_second"]


def train_baseline(rows: list[Row], options: dict[str, Any]) -> tuple[Any, float]:
    """Fine-tunes the encoder as the former pipeline did; returns the model, and rows trained on per second."""
    from benchmarks.baseline.training import train

    return train(rows, encoder_folder(), LABELS, options)


def accuracy(model: Any, rows: list[Row], max_length: int) -> float:
    """Returns on how many of 100 rows the model is right, in fp32; rows of like length share a batch."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder_folder())
    rows = sorted(rows, key=lambda row: len(row[0]))
    right = 0
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(rows), BATCH):
            texts, labels = zip(*rows[start : start + BATCH], strict=True)
            tokens = tokenizer(list(texts), truncation=True, max_length=max_length, padding=True, return_tensors="pt")
            best = model(**tokens.to(model.device)).logits.argmax(-1).tolist()
            right += sum(LABELS[one] == label for one, label in zip(best, labels, strict=True))
    return 100 * right / len(rows)


def sample(who: str, options: dict[str, Any], rows: int, held_out: int) -> dict[str, float]:
    """Trains in a process of its own; returns `samples_per_second` and `accuracy`."""
    found: dict[str, float] = json.loads(
        run_module("benchmarks.training", who, json.dumps(options), str(rows), str(held_out))
    )
    rate, right = found["samples_per_second"], found["accuracy"]
    tell(f"{options['max_length']} tokens, {who}: {rate:.1f} samples/s, accuracy {right:.1f}%")
    return found


def measure(quick: bool, folder: Path) -> list[Figure]:
    """Measures training; the n-th round of both has the same seed, which the rows' order and the head depend on.

    Args:
        quick: Only 128 tokens and few rows, too few to learn from.
        folder: Not used.
    """
    figures = []
    for max_length, rows in {128: 96}.items() if quick else {128: 800, 256: 400}.items():
        samples: dict[str, list[dict[str, float]]] = {OURS: [], BASELINE: []}
        for seed in range(1, FEWEST + 1):
            options = {**OPTIONS, "max_length": max_length, "seed": seed}
            for who, taken in samples.items():
                taken.append(sample(who, options, rows, 32 if quick else HELD_OUT))
        speed = {who: [one["samples_per_second"] for one in taken] for who, taken in samples.items()}
        right = {who: [one["accuracy"] for one in taken] for who, taken in samples.items()}
        name, note = f"training, {max_length} tokens", f"{rows} rows, once"
        figures.append(Figure(name, "samples/s", speed, targets={BASELINE: TARGET}, note=note))
        if not quick:
            figures.append(Figure(f"accuracy after {name}", "%", right, exact=True, shown=True, note=note))
    return figures


if __name__ == "__main__":
    who, options = sys.argv[1], json.loads(sys.argv[2])
    train, held_out = labelled_rows()
    with contextlib.redirect_stdout(sys.stderr):
        trainer = train_ours if who == OURS else train_baseline
        model, rate = trainer(train[: int(sys.argv[3])], options)
        found = accuracy(model, held_out[: int(sys.argv[4])], options["max_length"])
    print(json.dumps({"samples_per_second": rate, "accuracy": found}))
