"""Predicts rows that a model has not seen, and writes metrics, predictions and a report."""

import json
from pathlib import Path
from typing import Any

import numpy
import pyarrow.parquet

from nlp_pipeline.steps.evaluate_model.report import MOST_CLASSES, render_report
from nlp_pipeline.volume import Run

BATCH_SIZE = 32


def evaluate(
    model: str, rows: str, max_length: int, run: Run, metrics: str, predictions: str, report: str
) -> tuple[dict[str, Any], list[str], list[list[int]]]:
    """Evaluates a classifier; the run's folder on the volume gets metrics, predictions and report too.

    `predictions` becomes Parquet with the columns text, label, predicted and its score; its schema's metadata has as
    `metrics` the JSON of those metrics that are no lists.

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
    Path(metrics).write_text(json.dumps(result, indent=1))
    columns["predicted"] = [labels[number] for number in probabilities.argmax(axis=1)]
    columns["score"] = probabilities.max(axis=1).tolist()
    facts = {name: value for name, value in result.items() if not isinstance(value, list)}
    pyarrow.parquet.write_table(pyarrow.table(columns, metadata={"metrics": json.dumps(facts)}), predictions)
    page = render_report(run, result, json.loads(Path(model, "training.json").read_text()), columns)
    Path(report).write_text(page, encoding="utf-8")
    run.keep(predictions, "datasets/predictions.parquet")
    run.keep(metrics, "metrics.json")
    facts["report"] = str(run.keep(report, "report.html"))
    print(f"accuracy {result['accuracy']:.4f}, majority class {result['majority_accuracy']:.4f}")
    return facts, labels, result["confusion"] if len(labels) <= MOST_CLASSES else []


def predict(model_path: str | Path, texts: list[str], max_length: int) -> Any:
    """Computes class probabilities in float32, of shape (texts, classes): what served models must agree with."""
    import torch
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_path)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(model_path, dtype=torch.float32)
    model.eval().to(device)
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
    probabilities = torch.zeros(len(texts), model.config.num_labels, dtype=torch.float64)
    for start in range(0, len(order), BATCH_SIZE):
        batch = order[start : start + BATCH_SIZE]
        tokens = tokenizer(
            [texts[at] for at in batch],
            truncation=True,
            max_length=max_length,
            padding=True,
            return_tensors="pt",
            return_token_type_ids=False,
        ).to(device)
        with torch.inference_mode():
            logits = model(**tokens).logits
        probabilities[batch] = logits.double().softmax(dim=-1).cpu()
        if start // BATCH_SIZE % 50 == 49:
            print(f"predicted {start + len(batch)} of {len(texts)}", flush=True)
    return probabilities.numpy()


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
