from typing import Any

import numpy
import pytest

from nlp_pipeline.steps.classes import Classes
from nlp_pipeline.steps.evaluate_model import comparison
from nlp_pipeline.steps.evaluate_model.comparison import compare_models
from nlp_pipeline.steps.evaluate_model.evaluation import compute_metrics
from nlp_pipeline.steps.evaluate_model.gate import verdict

LABELS = ["a", "b", "c"]


def compare(truth: Any, ours: Any, theirs: Any, labels: list[str], number: int | None = None) -> Any:
    """Compares models by the ids of the rows' labels, and by probabilities."""
    classes = Classes(labels)
    rows = truth[:, None] == numpy.arange(len(labels))
    models = (ours, theirs)
    return compare_models(
        rows, [classes.choose(model) for model in models], [classes.losses(rows, model) for model in models], number
    )


def answer(truth: Any, accuracy: float, seed: int, classes: int = 3) -> Any:
    """Returns the probabilities of a model that is right so often."""
    generator = numpy.random.default_rng(seed)
    rows = numpy.arange(len(truth))
    probabilities = generator.dirichlet(numpy.ones(classes), len(truth)) * 0.4
    is_right = generator.random(len(truth)) < accuracy
    probabilities[rows, numpy.where(is_right, truth, (truth + 1) % classes)] += 0.6
    return probabilities


def test_figures_are_those_of_each_model_and_differences_are_gains() -> None:
    truth = numpy.random.default_rng(0).integers(3, size=400)
    ours, theirs = answer(truth, 0.9, 1), answer(truth, 0.7, 2)
    figures = compare(truth, ours, theirs, LABELS, 1)
    for name, probabilities in (("challenger", ours), ("champion", theirs)):
        metrics = compute_metrics(Classes(LABELS), truth[:, None] == numpy.arange(3), probabilities)
        metrics["micro_f1"] = metrics["accuracy"]
        metrics["recall"] = metrics["per_class"][1]["recall"]
        for figure, values in figures.items():
            value, low, high = values[name]
            assert value == pytest.approx(metrics[figure]) and low < value < high
    for values in figures.values():
        value, low, high = values["difference"]
        assert 0 < low < value < high
    # The normal approximation of a share's interval.
    low, high = figures["accuracy"]["champion"][1:]
    share = figures["accuracy"]["champion"][0]
    assert high - low == pytest.approx(2 * 1.96 * numpy.sqrt(share * (1 - share) / 400), rel=0.1)


def test_pairs_tell_more_than_two_models_apart() -> None:
    truth = numpy.zeros(200, int)
    theirs = answer(truth, 0.6, 1)
    ours = theirs.copy()
    wrong = numpy.flatnonzero(theirs.argmax(axis=1))[:8]
    ours[wrong] = [1, 0, 0]  # the same answers, and eight more right
    accuracy = compare(truth, ours, theirs, LABELS)["accuracy"]
    assert accuracy["difference"][1] > 0
    assert accuracy["challenger"][1] < accuracy["champion"][2]  # their own intervals overlap


def test_models_that_are_alike_pass_as_not_worse_and_not_as_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "RESAMPLES", 300)
    verdicts = []
    for draw in range(100):
        truth = numpy.random.default_rng(draw).integers(2, size=300)
        ours, theirs = (answer(truth, 0.85, seed, classes=2) for seed in (1000 + draw, 2000 + draw))
        figures = compare(truth, ours, theirs, ["a", "b"])
        verdicts.append(verdict({"figures": figures, "metric": "accuracy"}, 0))
    assert verdicts.count("better") <= 5
    assert verdicts.count("worse") <= 10


def test_many_rows_and_classes_stay_within_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "RESAMPLES", 50)
    monkeypatch.setattr(comparison, "CHUNK", 1000)
    truth = numpy.random.default_rng(0).integers(40, size=2000)
    labels = [str(number) for number in range(40)]
    figures = compare(truth, answer(truth, 0.9, 1, 40), answer(truth, 0.9, 2, 40), labels)
    assert set(figures) == {"accuracy", "macro_f1", "micro_f1", "log_loss"}
