"""Predicts rows that a model has not seen, and writes metrics, predictions and a report."""

import json
from pathlib import Path
from typing import Any

import numpy
import pyarrow.parquet

from nlp_pipeline.steps.evaluate_model.champion import compare_with, find_champion
from nlp_pipeline.steps.evaluate_model.prediction import predict
from nlp_pipeline.steps.evaluate_model.report import MOST_CLASSES, render_report
from nlp_pipeline.steps.evaluate_model.settings import ChampionSettings
from nlp_pipeline.volume import Run


def evaluate(
    model: str,
    rows: str,
    max_length: int,
    settings: ChampionSettings,
    namespace: str,
    run: Run,
    metrics: str,
    predictions: str,
    report: str,
) -> tuple[dict[str, Any], list[str], list[list[int]]]:
    """Evaluates a classifier; the run's folder on the volume gets metrics, predictions and report too.

    Where there is a champion, a release that serves or was validated last, the metrics compare the two as `champion`;
    it is looked for in `namespace`, empty for the pod's own.

    `predictions` becomes Parquet with the columns text, label, predicted, its score, and what the champion said where
    the two are compared; its schema's metadata has as `metrics` the JSON of those metrics that are numbers, and
    `champion`.

    Returns:
        The metrics that are single numbers, and where to read the report; the labels; their confusion matrix, which is
        empty where it is too large to show.
    """
    import transformers

    transformers.logging.disable_progress_bar()
    columns = pyarrow.parquet.read_table(rows).to_pydict()
    config = transformers.AutoConfig.from_pretrained(model)
    labels = [config.id2label[number] for number in range(config.num_labels)]
    probabilities = predict(model, columns["text"], max_length)
    result = compute_metrics([config.label2id[label] for label in columns["label"]], probabilities, labels)
    folder, note = find_champion(settings.champion, run, namespace)
    print(f"champion: {note}", flush=True)
    champion = compare_with(folder, Path(model), columns, probabilities, labels, settings.metric) if folder else {}
    columns["predicted"] = [labels[number] for number in probabilities.argmax(axis=1)]
    columns["score"] = probabilities.max(axis=1).tolist()
    columns["champion"] = champion.pop("answers", [None] * len(probabilities))
    result["champion"] = champion
    Path(metrics).write_text(json.dumps(result, indent=1))
    facts = {name: value for name, value in result.items() if not isinstance(value, list | dict)}
    noted = {"metrics": json.dumps(facts | {"champion": champion})}
    pyarrow.parquet.write_table(pyarrow.table(columns, metadata=noted), predictions)
    page = render_report(run, result, json.loads(Path(model, "training.json").read_text()), columns)
    Path(report).write_text(page, encoding="utf-8")
    run.keep(predictions, "datasets/predictions.parquet")
    run.keep(metrics, "metrics.json")
    facts["report"] = str(run.keep(report, "report.html"))
    print(f"accuracy {result['accuracy']:.4f}, majority class {result['majority_accuracy']:.4f}")
    return facts, labels, result["confusion"] if len(labels) <= MOST_CLASSES else []


def compute_metrics(truth: list[int], probabilities: Any, labels: list[str]) -> dict[str, Any]:
    """Computes figures from the ids of the rows' labels, and probabilities of shape (rows, classes).

    Those of the baseline, `majority_*`: its probabilities are the classes' shares in the evaluation rows, and so it
    always names the most frequent class. The expected calibration error is that of Guo et al. 2017, "On Calibration of
    Modern Neural Networks": the mean distance between a bin's confidence and accuracy, weighted by its rows. Macro F1
    is the mean over the classes that occur, in truth or in predictions.
    """
    from sklearn import metrics

    ids, rows = range(len(labels)), len(truth)
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    bins = numpy.ceil(confidence * 15)
    calibration = [
        {
            "confidence": float(confidence[part].mean()),
            "accuracy": float((predicted == truth)[part].mean()),
            "rows": int(part.sum()),
        }
        for part in (bins == number for number in numpy.unique(bins))
    ]
    per_class = metrics.precision_recall_fscore_support(truth, predicted, labels=ids, zero_division=0)
    shares = numpy.bincount(truth, minlength=len(labels)) / rows
    result = {
        "rows": rows,
        "expected_calibration_error": sum(
            part["rows"] / rows * abs(part["accuracy"] - part["confidence"]) for part in calibration
        ),
        "per_class": [
            dict(zip(("label", "precision", "recall", "f1", "support"), row, strict=True))
            for row in zip(labels, *(column.tolist() for column in per_class), strict=True)
        ],
        "confusion": metrics.confusion_matrix(truth, predicted, labels=ids).tolist(),
        "calibration": calibration,
    }
    for prefix, scores in ("", probabilities), ("majority_", numpy.broadcast_to(shares, probabilities.shape)):
        answers = scores.argmax(axis=1)
        result[prefix + "accuracy"] = metrics.accuracy_score(truth, answers)
        result[prefix + "macro_f1"] = metrics.f1_score(truth, answers, average="macro", zero_division=0)
        result[prefix + "log_loss"] = metrics.log_loss(truth, scores, labels=ids)
    return result
