"""Training: rows a second, and the accuracy after as many epochs, against the former pipeline's loop."""

import contextlib
import io
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.measure import FEWEST, OURS, Figure
from benchmarks.model import LABELS, labelled_rows, train
from benchmarks.processes import tell
from nlp_pipeline.demo import encoder_folder

BASELINE = "fp32, padded"
TARGET = 3.0  # times as many rows a second
OPTIONS = {"epochs": 1.0, "batch_size": 16, "learning_rate": 1e-4, "weight_decay": 0.01, "warmup_share": 0.1}
HELD_OUT = 1000  # rows asked for accuracy

Samples = dict[str, list[float]]


def sample(who: str, options: dict[str, Any], rows: int, held_out: int) -> tuple[float, float]:
    """Trains on so many rows; returns rows a second, without loading, and the accuracy in % on rows held out."""
    import transformers

    from benchmarks.baseline.training import train as train_baseline
    from nlp_pipeline.steps.evaluate_model.prediction import predict

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    given, held = labelled_rows()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        if who == OURS:
            rate = train(Path(folder), given[:rows], **options)["samples_per_second"]
        else:
            rate = train_baseline(Path(folder), given[:rows], encoder_folder(), LABELS, options)
        best = predict(folder, [text for text, _ in held[:held_out]], options["max_length"]).argmax(axis=1)
    right = sum(LABELS[at] == label for at, (_, label) in zip(best, held, strict=False))
    return rate, 100 * right / held_out


def rounds(
    max_length: int, rows: dict[str, int], held_out: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Returns rows a second and accuracies of each side, taken in turn, each in a process of its own.

    The n-th round of both has the same seed, which the new head, the order of rows and dropout depend on.
    """
    spawn = multiprocessing.get_context("spawn")
    speed: Samples = {who: [] for who in rows}
    right: Samples = {who: [] for who in rows}
    with contextlib.ExitStack() as stack:
        processes = {who: stack.enter_context(ProcessPoolExecutor(1, spawn)) for who in rows}
        for who, process in processes.items():  # the first step of a process is a slow one
            process.submit(sample, who, {**OPTIONS, "max_length": max_length, "seed": 0}, 32, 32).result()
        for seed in range(1, FEWEST + 1):
            options = {**OPTIONS, "max_length": max_length, "seed": seed}
            for who, process in processes.items():
                rate, accuracy = process.submit(sample, who, options, rows[who], held_out).result()
                speed[who].append(rate)
                right[who].append(accuracy)
                tell(f"{max_length} tokens, {who}: {rate:.1f} samples/s, accuracy {accuracy:.1f}%")
    return speed, right


def measure(quick: bool, folder: Path) -> list[Figure]:
    """Measures training at 128 and at 256 tokens.

    The quick way only at 128, and on few rows, too few to learn from; on fewer for the baseline, which takes as long
    for any.
    """
    if quick:
        speed, _ = rounds(128, {OURS: 256, BASELINE: 96}, 32)
        return [Figure("training, 128 tokens", "samples/s", speed, targets={BASELINE: TARGET}, note="few rows")]
    figures = []
    for max_length, rows in {128: 960, 256: 320}.items():
        speed, right = rounds(max_length, {OURS: rows, BASELINE: rows}, HELD_OUT)
        name, note = f"training, {max_length} tokens", f"{rows} rows, once"
        figures.append(Figure(name, "samples/s", speed, targets={BASELINE: TARGET}, note=note))
        figures.append(Figure(f"accuracy after {name}", "%", right, exact=True, shown=True, note=note))
    return figures
