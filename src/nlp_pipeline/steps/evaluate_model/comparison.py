"""Whether a model is better than another on the same rows, beyond chance."""

from collections.abc import Iterator
from typing import Any

import numpy

RESAMPLES = 10_000
# Numbers of rows held at a time.
CHUNK = 10_000_000
# The probability that a model gives the true class at the least, or its log loss could be infinite.
LEAST = 1e-15


def compare_models(truth: Any, ours: Any, theirs: Any, labels: list[str], label: str = "") -> dict[str, Any]:
    """Compares two models by a paired bootstrap: both are measured on the same 10,000 resamples of the rows.

    Args:
        truth: The ids of the rows' labels, an array.
        ours: Class probabilities of shape (rows, classes).
        theirs: The other model's, of the same shape.
        labels: The labels in the order of their ids.
        label: A class whose recall is compared too.

    Returns:
        For accuracy, macro_f1, log_loss and recall each `challenger`, `champion` and `difference`, as the value and the
        ends of its 95 % percentile interval (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter
        13). A difference is above 0 where the challenger is better; the recall of a class without rows is NaN.
    """
    # Rows that are alike in truth and answers count together: there are few such cells, however many rows.
    answers = numpy.stack([truth, ours.argmax(axis=1), theirs.argmax(axis=1)])
    cells, counts = numpy.unique(answers, axis=1, return_counts=True)
    one_hot = (numpy.arange(len(labels)) == cells[..., None]).astype(float)
    at = labels.index(label) if label else None
    scores = numpy.concatenate([score_cells(part, one_hot, at) for part in _resampled_cells(counts)], axis=-1)
    rows = numpy.arange(len(truth))
    losses = -numpy.log(numpy.stack([ours[rows, truth], theirs[rows, truth]]).clip(LEAST))
    generator = numpy.random.default_rng(0)
    drawn = (losses[:, generator.integers(len(rows), size=len(rows))].mean(axis=1) for _ in range(RESAMPLES))
    loss = numpy.stack([losses.mean(axis=1), *drawn], axis=-1)
    names = ("accuracy", "macro_f1", *(["recall"] if label else []))
    return {
        **{
            name: _intervals([score[0], score[1], score[0] - score[1]])
            for name, score in zip(names, scores, strict=True)
        },
        "log_loss": _intervals([loss[0], loss[1], loss[1] - loss[0]]),
    }


def score_cells(counts: Any, one_hot: Any, at: int | None) -> Any:
    """Returns accuracy, macro F1 and the recall of class `at`, of two models: an array (figures, models, resamples).

    Args:
        counts: How many rows each cell has, of shape (resamples, cells).
        one_hot: The cells' truth, and the models' answers, of shape (3, cells, classes).
        at: The class, or None.
    """
    figures = []
    truth = counts @ one_hot[0]
    for answers in one_hot[1:]:
        hits, answered = counts @ (one_hot[0] * answers), counts @ answers
        both = truth + answered
        # A class counts that occurs, in truth or in answers, as in `compute_metrics`.
        f1 = numpy.divide(2 * hits, both, out=numpy.zeros_like(both), where=both > 0).sum(axis=1) / (both > 0).sum(
            axis=1
        )
        with numpy.errstate(invalid="ignore"):
            recall = [] if at is None else [hits[:, at] / truth[:, at]]
        figures.append([hits.sum(axis=1) / counts.sum(axis=1), f1, *recall])
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
        for name, values in zip(("challenger", "champion", "difference"), resampled, strict=True)
    }
