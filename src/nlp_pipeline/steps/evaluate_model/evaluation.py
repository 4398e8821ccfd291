"""Predicts rows that a model has not seen, and writes metrics, predictions and a report."""

import inspect
import json
from pathlib import Path
from typing import Any

import numpy
import pyarrow.parquet

from nlp_pipeline.steps.evaluate_model.metrics import compute_metrics
from nlp_pipeline.steps.evaluate_model.report import MOST_CLASSES, render_report
from nlp_pipeline.volume import Run

BATCH_SIZE = 32


def evaluate(
    model: str,
    rows: str,
    training: str,
    max_length: int,
    run: Run,
    metrics: str,
    confusion: str,
    predictions: str,
    report: str,
) -> tuple[dict[str, Any], list[str], list[list[int]]]:
    """Evaluates a classifier; the run's folder on the volume gets metrics, predictions and report too.

    Args:
        model: The model and its tokenizer as save_pretrained writes them.
        rows: Parquet with the string columns text and label.
        training: JSON of `train_model`, the loss curve among it.
        max_length: Tokens at which a text is cut.
        run: The run.
        metrics: JSON to write: all that `compute_metrics` returns.
        confusion: JSON to write: labels and confusion matrix.
        predictions: Parquet to write: text, label, predicted label and its score, in the order of the rows.
        report: The page to write.

    Returns:
        The metrics that are single numbers, and where to read the report; the labels; their confusion matrix, which is
        empty where it is too large to show.
    """
    import transformers

    transformers.logging.disable_progress_bar()
    table = pyarrow.parquet.read_table(rows)
    texts, truth = table["text"].to_pylist(), table["label"].to_pylist()
    config = transformers.AutoConfig.from_pretrained(model)
    labels = [config.id2label[number] for number in range(config.num_labels)]
    probabilities = predict(model, texts, max_length)
    predicted = [labels[number] for number in probabilities.argmax(axis=1)]
    scores = probabilities.max(axis=1).tolist()
    table = table.append_column("predicted", [predicted]).append_column("score", [scores])
    pyarrow.parquet.write_table(table, predictions)
    run.keep(predictions, "datasets/predictions.parquet")

    result = compute_metrics([config.label2id[label] for label in truth], probabilities, labels)
    matrix = result["confusion"]
    Path(metrics).write_text(json.dumps(result, indent=1))
    Path(confusion).write_text(json.dumps({"labels": labels, "matrix": matrix}))
    run.keep(metrics, "metrics.json")
    trained = json.loads(Path(training).read_text())
    page = render_report(run, result, trained, list(zip(scores, truth, predicted, texts, strict=True)))
    Path(report).write_text(page, encoding="utf-8")

    figures: dict[str, Any] = {name: value for name, value in result.items() if isinstance(value, int | float)}
    figures["report"] = str(run.keep(report, "report.html"))
    print(f"accuracy {figures['accuracy']:.4f}, majority class {figures['majority_accuracy']:.4f}")
    if len(labels) > MOST_CLASSES:
        print(f"a matrix of {len(labels)} classes is too large to show: the report has the most confused pairs")
        matrix = []
    return figures, labels, matrix


def predict(model_path: str | Path, texts: list[str], max_length: int) -> Any:
    """Returns class probabilities of texts, computed in float32: the reference that served models are held against.

    Args:
        model_path: A folder as save_pretrained writes it.
        texts: The texts; those of like length share a batch.
        max_length: Tokens at which a text is cut.

    Returns:
        A float64 array of shape (texts, classes); the rows sum to 1.
    """
    import torch
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_path)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(model_path, dtype=torch.float32)
    model.eval().to(device)
    taken = inspect.signature(model.forward).parameters
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
    probabilities = numpy.zeros((len(texts), model.config.num_labels))
    for start in range(0, len(order), BATCH_SIZE):
        batch = order[start : start + BATCH_SIZE]
        tensors = tokenizer(
            [texts[at] for at in batch], truncation=True, max_length=max_length, padding=True, return_tensors="pt"
        )
        with torch.inference_mode():
            # Some tokenizers give token_type_ids to models that take none.
            logits = model(**{name: tensor.to(device) for name, tensor in tensors.items() if name in taken}).logits
        probabilities[batch] = torch.softmax(logits.double(), dim=-1).cpu().numpy()
        if start // BATCH_SIZE % 50 == 49:
            print(f"predicted {start + len(batch)} of {len(texts)}", flush=True)
    return probabilities
