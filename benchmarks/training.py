"""Training: rows a second, and the accuracy after as many epochs, against the former pipeline's loop."""

import contextlib
import io
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.measure import FEWEST, OURS, Figure
from benchmarks.model import LABELS, Row, labelled_rows, train
from benchmarks.processes import tell
from nlp_pipeline.demo import encoder_folder

BASELINE = "fp32, padded"
TARGET = 3.0  # times as many rows a second
OPTIONS = {"epochs": 1.0, "batch_size": 16, "learning_rate": 1e-4, "weight_decay": 0.01, "warmup_share": 0.1}
HELD_OUT = 1000  # rows asked for accuracy
BATCH = 32  # of rows asked for accuracy


def train_ours(rows: list[Row], options: dict[str, Any]) -> tuple[Any, float]:
    """Fine-tunes the encoder as `train_model` does; returns the model, and rows trained on per second."""
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        facts = train(Path(folder), rows, **options)
        return transformers.AutoModelForSequenceClassification.from_pretrained(folder), facts["samples_per_second"]


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
    """Trains on so many rows; returns `samples_per_second`, without loading, and `accuracy` on rows held out."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    train, test = labelled_rows()
    trainer = train_ours if who == OURS else train_baseline
    with contextlib.redirect_stdout(io.StringIO()):
        model, rate = trainer(train[:rows], options)
        found = {"samples_per_second": rate, "accuracy": accuracy(model, test[:held_out], options["max_length"])}
    return found


def rounds(max_length: int, rows: dict[str, int], held_out: int) -> dict[str, list[dict[str, float]]]:
    """Takes the samples in turn, each side in a process of its own, which waits while the other trains.

    The n-th round of both has the same seed, which the new head, the order of rows and dropout depend on.

    Args:
        max_length: Tokens at which a text is cut.
        rows: How many to train on, for each side.
        held_out: How many to ask for.
    """
    spawn = multiprocessing.get_context("spawn")
    samples: dict[str, list[dict[str, float]]] = {who: [] for who in rows}
    with contextlib.ExitStack() as stack:
        processes = {who: stack.enter_context(ProcessPoolExecutor(1, spawn)) for who in rows}
        for who, process in processes.items():  # the first step of a process is a slow one
            process.submit(sample, who, {**OPTIONS, "max_length": max_length, "seed": 0}, BATCH, BATCH).result()
        for seed in range(1, FEWEST + 1):
            options = {**OPTIONS, "max_length": max_length, "seed": seed}
            for who, process in processes.items():
                samples[who].append(process.submit(sample, who, options, rows[who], held_out).result())
                rate, right = samples[who][-1]["samples_per_second"], samples[who][-1]["accuracy"]
                tell(f"{max_length} tokens, {who}: {rate:.1f} samples/s, accuracy {right:.1f}%")
    return samples


def measure(quick: bool, folder: Path) -> list[Figure]:
    """Measures training at 128 and at 256 tokens.

    Args:
        quick: Only 128 tokens and few rows, too few to learn from; fewer for the baseline, which takes as long for any.
        folder: Not used.
    """
    if quick:
        speed = of(rounds(128, {OURS: 256, BASELINE: 96}, 32), "samples_per_second")
        return [Figure("training, 128 tokens", "samples/s", speed, targets={BASELINE: TARGET}, note="few rows")]
    figures = []
    for max_length, rows in {128: 960, 256: 320}.items():
        samples = rounds(max_length, {OURS: rows, BASELINE: rows}, HELD_OUT)
        name, note = f"training, {max_length} tokens", f"{rows} rows, once"
        speed, right = of(samples, "samples_per_second"), of(samples, "accuracy")
        figures.append(Figure(name, "samples/s", speed, targets={BASELINE: TARGET}, note=note))
        figures.append(Figure(f"accuracy after {name}", "%", right, exact=True, shown=True, note=note))
    return figures


def of(samples: dict[str, list[dict[str, float]]], key: str) -> dict[str, list[float]]:
    """Returns one of the things that were measured."""
    return {who: [one[key] for one in taken] for who, taken in samples.items()}
