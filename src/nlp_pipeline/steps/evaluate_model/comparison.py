"""Whether a model is better than another on the same rows, beyond chance."""

from collections.abc import Iterator
from typing import Any

import numpy

RESAMPLES = 10_000
SCORES = ("accuracy", "macro_f1", "micro_f1")
# Numbers of rows held at a time.
CHUNK = 10_000_000


def compare_models(truth: Any, answers: list[Any], losses: list[Any], number: int | None = None) -> dict[str, Any]:
    """Compares two models by a paired bootstrap: both are measured on the same 10,000 resamples of the rows.

    Args:
        truth: The rows' labels, as `Classes` encodes them, of shape (rows, classes).
        answers: The two models' answers, of the same shape, or those of one.
        losses: The models' losses, each of shape (rows).
        number: The id of a class whose recall is compared too.

    Returns:
        For accuracy, macro_f1, micro_f1, log_loss and recall each `challenger` and, of two models, `champion` and
        `difference`, as the value and the ends of its 95 % percentile interval (Efron and Tibshirani 1993, "An
        Introduction to the Bootstrap", chapter 13). A difference is above 0 where the challenger is better; the recall
        of a class without rows is NaN.
    """
    # Rows that are alike in truth and answers count together: there are few such cells, however many rows.
    cells, counts = numpy.unique(numpy.stack([truth, *answers]), axis=1, return_counts=True)
    parts = [score_cells(part, cells.astype(float), number) for part in _resampled_cells(counts)]
    scores = numpy.concatenate(parts, axis=-1)
    both, rows = numpy.stack(losses), len(truth)
    generator = numpy.random.default_rng(0)
    drawn = (both[:, generator.integers(rows, size=rows)].mean(axis=1) for _ in range(RESAMPLES))
    loss = numpy.stack([both.mean(axis=1), *drawn], axis=-1)
    names = (*SCORES, *([] if number is None else ["recall"]))
    return {
        **{name: _intervals([*score, score[0] - score[-1]]) for name, score in zip(names, scores, strict=True)},
        "log_loss": _intervals([*loss, loss[-1] - loss[0]]),
    }


def score_cells(counts: Any, cells: Any, number: int | None = None) -> Any:
    """Returns the SCORES and the recall of a class, of some models: an array (figures, models, resamples).

    The accuracy is the share of rows whose answer is right as a whole. Macro F1 is the mean over the classes that
    occur, in truth or in answers; micro F1, of all labels of all rows together, is the accuracy where each row has one.

    Args:
        counts: How many rows each cell has, of shape (resamples, cells).
        cells: The cells' truth, and the models' answers, of shape (1 + models, cells, classes).
        number: The class's id; None for no recall.
    """
    figures = []
    truth = counts @ cells[0]
    for answers in cells[1:]:
        hits, answered = counts @ (cells[0] * answers), counts @ answers
        both = truth + answered
        f1 = numpy.divide(2 * hits, both, out=numpy.zeros_like(both), where=both > 0)
        accuracy = counts @ (cells[0] == answers).all(axis=1) / counts.sum(axis=1)
        with numpy.errstate(invalid="ignore"):
            recall = [] if number is None else [hits[:, number] / truth[:, number]]
            macro = f1.sum(axis=1) / (both > 0).sum(axis=1)
            micro = 2 * hits.sum(axis=1) / both.sum(axis=1)
        figures.append([accuracy, macro, micro, *recall])
    return numpy.array(figures).swapaxes(0, 1)


def _resampled_cells(counts: Any) -> Iterator[Any]:
    """Yields the cells' counts as they are, and then those of the resamples, some at a time."""
    yield counts[None]
    generator, rows = numpy.random.default_rng(0), counts.sum()
    size = max(1, CHUNK // len(counts))
    for start in range(0, RESAMPLES, size):
        yield generator.multinomial(rows, counts / rows, min(size, RESAMPLES - start)).astype(float)


def _intervals(resampled: list[Any]) -> dict[str, list[float]]:
    """Returns of each its first value, which is of the rows themselves, and the ends of the interval of the others."""
    return {
        name: [float(values[0]), *numpy.quantile(values[1:], [0.025, 0.975]).tolist()]
        for name, values in zip(("challenger", "champion", "difference"), resampled, strict=False)
    }
