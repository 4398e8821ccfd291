"""One label a text, or several: answers, their names, losses, and the thresholds that are chosen for several."""

import numpy
import pytest

from nlp_pipeline.steps.classes import Classes, choose_thresholds

PROBABILITIES = numpy.array([[0.7, 0.2, 0.1], [0.2, 0.3, 0.5]])


def test_one_label_a_text() -> None:
    classes = Classes(["2", "10", "a"])
    truth = classes.encode(["10", "a"])
    assert truth.tolist() == [[False, True, False], [False, False, True]]
    assert classes.choose(PROBABILITIES).tolist() == [[True, False, False], [False, False, True]]
    assert classes.name(classes.choose(PROBABILITIES)) == ["2", "a"] and classes.name(truth) == ["10", "a"]
    assert classes.losses(truth, PROBABILITIES) == pytest.approx(-numpy.log([0.2, 0.5]))
    assert classes.certainty(PROBABILITIES).tolist() == [0.7, 0.5]


def test_several_labels_a_text() -> None:
    classes = Classes(["2", "10", "a"], [0.7, 0.25, 0.6])
    truth = classes.encode([["10", "2"], []])
    assert truth.tolist() == [[True, True, False], [False] * 3]
    # A score at its threshold is enough; none that is enough is an answer too.
    answers = classes.choose(PROBABILITIES)
    assert answers.tolist() == [[True, False, False], [False, True, False]]
    assert classes.name(truth) == [["10", "2"], []]  # sorted, as in the data
    assert classes.losses(truth, PROBABILITIES) == pytest.approx(
        [-numpy.log([0.7, 0.2, 0.9]).mean(), -numpy.log([0.8, 0.7, 0.5]).mean()]
    )
    assert classes.certainty(PROBABILITIES) == pytest.approx([0.7 * 0.8 * 0.9, 0.8 * 0.3 * 0.5])


def test_a_threshold_is_where_f1_is_highest() -> None:
    scores = numpy.array([0.9, 0.8, 0.7, 0.4, 0.3, 0.2, 0.1])
    truth = numpy.array([1, 1, 0, 1, 1, 1, 0], bool)
    few = numpy.array([1, 1, 0, 0, 0, 0, 0], bool)
    columns = numpy.stack([truth, few, numpy.ones(7, bool)], axis=1)
    assert choose_thresholds(columns, numpy.stack([scores] * 3, axis=1)) == pytest.approx([0.15, 0.5, 0.1])
    assert choose_thresholds(columns[:0], PROBABILITIES[:0]) == [0.5] * 3
