"""Predicts rows that a model has not seen, and writes metrics, predictions and a report."""

import json
from pathlib import Path
from typing import Any

import numpy
import pyarrow.parquet

from nlp_pipeline.steps.classes import Classes
from nlp_pipeline.steps.evaluate_model.champion import compare_with, find_champion
from nlp_pipeline.steps.evaluate_model.comparison import SCORES, compare_models, score_cells
from nlp_pipeline.steps.evaluate_model.prediction import predict
from nlp_pipeline.steps.evaluate_model.report import MOST_CLASSES, render_report
from nlp_pipeline.steps.evaluate_model.settings import ChampionSettings
from nlp_pipeline.steps.parquet import Texts, list_parts, read_batches
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
    the two are compared, labels as the data has them; its schema's metadata has as `metrics` the JSON of those metrics
    that are numbers, and `champion`.

    Returns:
        The metrics that are single numbers, and as `report` where to read it; the labels; their confusion matrix, of
        rows by label and then by answer, which is empty where it is too large to show, or a text has several labels.
    """
    import transformers

    transformers.logging.disable_progress_bar()
    texts, classes = Texts(rows), Classes.of(model)
    probabilities = predict(model, texts, max_length)
    truth = numpy.concatenate([classes.encode(batch["label"]) for batch in read_batches(rows, "label")])
    result = compute_metrics(classes, truth, probabilities)
    own = [classes.choose(probabilities)], [classes.losses(truth, probabilities)]
    intervals = {name: figures["challenger"][1:] for name, figures in compare_models(truth, *own).items()}
    folder, note = find_champion(settings.champion, run, namespace)
    print(f"champion: {note}", flush=True)
    own_answers = texts, truth, probabilities, classes
    champion = compare_with(folder, Path(model), *own_answers, settings.metric) if folder else {}
    columns = {
        "predicted": classes.name(classes.choose(probabilities)),
        "score": classes.certainty(probabilities).tolist(),
        "champion": champion.pop("answers", [None] * len(probabilities)),
    }
    result["champion"] = champion
    Path(metrics).write_text(json.dumps(result, indent=1))
    facts = {name: value for name, value in result.items() if not isinstance(value, list | dict)}
    noted = {"metrics": json.dumps(facts | {"champion": champion, "intervals": intervals})}
    write_predictions(predictions, rows, columns, noted)
    shown = {name: [_show(value) for value in values] for name, values in columns.items()}
    named = {"text": texts, "label": [_show(value) for value in classes.name(truth)]}
    page = render_report(run, result, json.loads(Path(model, "training.json").read_text()), named | shown)
    Path(report).write_text(page, encoding="utf-8")
    run.keep(predictions, "datasets/predictions.parquet")
    run.keep(metrics, "metrics.json")
    facts["report"] = str(run.keep(report, "report.html"))
    print(", ".join(f"{name} {value:.4f}" for name, value in facts.items() if isinstance(value, float)))
    return facts, classes.labels, result["confusion"] if len(classes.labels) <= MOST_CLASSES else []


def write_predictions(path: str, rows: str, columns: dict[str, list[Any]], metadata: dict[str, str]) -> None:
    """Writes rows as Parquet, with the columns `predicted`, `score` and `champion`."""
    kind = pyarrow.parquet.read_schema(list_parts(rows)[0]).field("label").type
    kinds = {"text": pyarrow.string(), "label": kind, "predicted": kind, "score": pyarrow.float64(), "champion": kind}
    schema, start = pyarrow.schema(kinds, metadata), 0
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for batch in read_batches(rows, "text", "label"):
            end = start + len(batch["text"])
            batch |= {name: values[start:end] for name, values in columns.items()}
            writer.write_table(pyarrow.table(batch, schema))
            start = end


def _show(value: Any) -> Any:
    return (", ".join(value) or "-") if isinstance(value, list) else value


def compute_metrics(classes: Classes, truth: Any, probabilities: Any) -> dict[str, Any]:
    """Computes figures from the rows' labels, encoded, and probabilities of shape (rows, classes).

    Those of the baseline, `majority_*`: its probabilities are the classes' shares in the evaluation rows, and it
    always names the most frequent class. The expected calibration error is that of Guo et al. 2017, "On Calibration of
    Modern Neural Networks": the mean distance between a bin's confidence and accuracy, weighted by its answers.
    Accuracy and F1 are those of `score_cells`. Where a text has several labels there is micro F1 too, and the matrix
    of confusions is empty.
    """
    from sklearn import metrics

    labels, rows, answers = classes.labels, len(truth), classes.choose(probabilities)
    confidence, is_right = probabilities[answers], truth[answers]
    bins = numpy.ceil(confidence * 15)
    calibration = [
        {
            "confidence": float(confidence[part].mean()),
            "accuracy": float(is_right[part].mean()),
            "rows": int(part.sum()),
        }
        for part in (bins == number for number in numpy.unique(bins))
    ]
    per_class = metrics.precision_recall_fscore_support(truth, answers, average=None, zero_division=0)
    thresholds = [classes.thresholds] if classes.thresholds else []
    shares = truth.mean(axis=0)
    majority = numpy.broadcast_to(numpy.arange(len(labels)) == shares.argmax(), truth.shape)
    result = {
        "rows": rows,
        "expected_calibration_error": sum(
            part["rows"] / len(confidence) * abs(part["accuracy"] - part["confidence"]) for part in calibration
        ),
        "per_class": [
            dict(zip(("label", "precision", "recall", "f1", "support", "threshold"), row, strict=False))
            for row in zip(labels, *(column.tolist() for column in per_class), *thresholds, strict=True)
        ],
        "confusion": [] if classes.thresholds else (truth.T.astype(int) @ answers).tolist(),
        "calibration": calibration,
    }
    scores = score_cells(numpy.ones((1, rows)), numpy.stack([truth, answers, majority]).astype(float))
    losses = [classes.losses(truth, values) for values in (probabilities, numpy.broadcast_to(shares, truth.shape))]
    for at, prefix in enumerate(("", "majority_")):
        result |= {prefix + name: float(values[at, 0]) for name, values in zip(SCORES, scores, strict=True)}
        result[prefix + "log_loss"] = float(losses[at].mean())
        if classes.thresholds is None:
            del result[prefix + "micro_f1"]
    return result
