"""Predicts rows that a model has not seen, and writes metrics, predictions and a report."""

import inspect
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet

from nlp_pipeline.steps.evaluate_model.metrics import compute_metrics
from nlp_pipeline.steps.evaluate_model.report import MOST_CLASSES, render_report
from nlp_pipeline.volume import Run

BATCH_SIZE = 32


def evaluate(
    model: str, rows: str, max_length: int, run: Run, metrics: str, predictions: str, report: str
) -> tuple[dict[str, Any], list[str], list[list[int]]]:
    """Evaluates a classifier; the run's folder on the volume gets metrics, predictions and report too.

    It reads `train_model`'s training.json beside the model. `metrics` becomes JSON of all that `compute_metrics`
    returns; `predictions` Parquet with the columns text, label, predicted and its score, whose schema's metadata has,
    as `metrics`, the JSON of those that are no lists.

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
    del facts["majority_label"]  # as long as a user's data has it
    print(f"accuracy {result['accuracy']:.4f}, majority class {result['majority_accuracy']:.4f}")
    if len(labels) <= MOST_CLASSES:
        return facts, labels, result["confusion"]
    print(f"{len(labels)} classes are too many to show a matrix: the report has the most confused pairs")
    return facts, labels, []


def predict(model_path: str | Path, texts: list[str], max_length: int) -> Any:
    """Computes class probabilities of texts in float32: the reference that served models are held against.

    Returns:
        A float64 array of shape (texts, classes); the rows sum to 1.
    """
    import torch
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_path)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(model_path, dtype=torch.float32)
    model.eval().to(device)
    known = inspect.signature(model.forward).parameters
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
    probabilities = torch.zeros(len(texts), model.config.num_labels, dtype=torch.float64)
    for start in range(0, len(order), BATCH_SIZE):
        batch = order[start : start + BATCH_SIZE]
        tokens = tokenizer(
            [texts[at] for at in batch], truncation=True, max_length=max_length, padding=True, return_tensors="pt"
        ).to(device)
        with torch.inference_mode():
            # Some tokenizers give token_type_ids to models that take none.
            logits = model(**{name: tensor for name, tensor in tokens.items() if name in known}).logits
        probabilities[batch] = logits.double().softmax(dim=-1).cpu()
        if start // BATCH_SIZE % 50 == 49:
            print(f"predicted {start + len(batch)} of {len(texts)}", flush=True)
    return probabilities.numpy()
