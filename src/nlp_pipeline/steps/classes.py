"""What a classifier may answer: one label of a text or, where it has thresholds, all labels whose scores reach theirs.

A model's config.json says which, by transformers' `problem_type`; the `thresholds` stand there too. Answers and labels
of rows are arrays of truth values, of shape (rows, classes); by their names they are a label each, or a sorted list.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from nlp_pipeline.labels import labels_of

SINGLE, MULTIPLE = "single_label_classification", "multi_label_classification"
# The least probability that counts: a loss could be infinite.
LEAST = 1e-15


@dataclass(frozen=True)
class Classes:
    """The labels in the order of their ids; of several labels a text, their thresholds too, else None."""

    labels: list[str]
    thresholds: list[float] | None = None

    @classmethod
    def of(cls, model: str | Path) -> "Classes":
        """Reads them from a model's folder."""
        import transformers

        config = transformers.AutoConfig.from_pretrained(model, trust_remote_code=False)
        labels = [config.id2label[number] for number in range(config.num_labels)]
        return cls(labels, config.thresholds if config.problem_type == MULTIPLE else None)

    def encode(self, column: list[Any]) -> Any:
        """Returns the labels of rows, or their lists, as an array."""
        ids = {label: number for number, label in enumerate(self.labels)}
        encoded = numpy.zeros((len(column), len(ids)), bool)
        for row, labels in zip(encoded, column, strict=True):
            row[[ids[label] for label in labels_of(labels)]] = True
        return encoded

    def choose(self, probabilities: Any) -> Any:
        """Returns the answers."""
        if self.thresholds:
            return probabilities >= self.thresholds
        return probabilities.argmax(axis=1)[:, None] == numpy.arange(len(self.labels))

    def name(self, answers: Any) -> list[Any]:
        """Returns answers by their names."""
        if self.thresholds:
            return [sorted(self.labels[number] for number in numpy.flatnonzero(row)) for row in answers]
        return [self.labels[number] for number in answers.argmax(axis=1)]

    def losses(self, truth: Any, probabilities: Any) -> Any:
        """Returns of each row the loss that training minimises: of several labels, their mean."""
        losses = -numpy.log(numpy.where(truth, probabilities, 1 - probabilities).clip(LEAST))
        return losses.mean(axis=1) if self.thresholds else losses[truth]

    def certainty(self, probabilities: Any) -> Any:
        """Returns the probability that a row's answer is right; of several labels, as if they were independent."""
        if self.thresholds:
            return numpy.where(self.choose(probabilities), probabilities, 1 - probabilities).prod(axis=1)
        return probabilities.max(axis=1)


def choose_thresholds(truth: Any, probabilities: Any) -> list[float]:
    """Returns for each label the threshold with the highest F1 on rows that were not trained on.

    It lies halfway between the scores of two rows; 0.5 for a label that fewer than 5 rows have.
    """
    thresholds = []
    for is_right, scores in zip(truth.T, probabilities.T, strict=True):
        order = scores.argsort()[::-1]
        f1 = 2 * is_right[order].cumsum() / (numpy.arange(1, len(order) + 1) + is_right.sum())
        pair = order[f1.argmax() :][:2] if is_right.sum() >= 5 else []
        thresholds.append(float(scores[pair].mean()) if len(pair) else 0.5)
    return thresholds
