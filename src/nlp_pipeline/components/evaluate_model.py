"""`evaluate_model`: how good the model is on rows it has not seen, as numbers and as a report."""

from typing import Any

from kfp import dsl

from nlp_pipeline.components.evaluate_model_report import render_report
from nlp_pipeline.components.volume import put_on_volume, run_folder


def predict(model_path: str, texts: list[str], max_length: int, batch_size: int = 32) -> Any:
    """Returns class probabilities of texts, computed in float32: the reference that served models are held against.

    Args:
        model_path: A folder as save_pretrained writes it.
        texts: The texts.
        max_length: Tokens at which a text is cut.
        batch_size: Texts a step; texts of like length share one.

    Returns:
        A float64 array of shape (texts, classes); the rows sum to 1.
    """
    import inspect

    import numpy
    import torch
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_path, trust_remote_code=False)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        model_path, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
    )
    model.eval().to(device)
    known = inspect.signature(model.forward).parameters
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
    probabilities = numpy.zeros((len(texts), model.config.num_labels))
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            at = order[start : start + batch_size]
            batch = tokenizer(
                [texts[one] for one in at], truncation=True, max_length=max_length, padding=True, return_tensors="pt"
            )
            # Some tokenizers give token_type_ids to models that take none.
            columns = {name: tensor.to(device) for name, tensor in batch.items() if name in known}
            logits = model(**columns).logits.double()
            probabilities[at] = torch.softmax(logits, dim=-1).cpu().numpy()
            if start // batch_size % 50 == 49:
                print(f"predicted {start + len(at)} of {len(texts)}", flush=True)
    return probabilities


def calibration_bins(correct: Any, confidence: Any, bins: int = 15) -> list[dict[str, float]]:
    """Groups predictions into equally wide bins of confidence.

    Args:
        correct: Whether each prediction was right, shape (rows,).
        confidence: The probability of each predicted class, shape (rows,).
        bins: How many bins between 0 and 1.

    Returns:
        For each bin that has rows: `confidence` and `accuracy` (means) and `rows`.
    """
    import numpy

    at = numpy.minimum((confidence * bins).astype(int), bins - 1)
    return [
        {
            "confidence": float(confidence[at == number].mean()),
            "accuracy": float(correct[at == number].mean()),
            "rows": int((at == number).sum()),
        }
        for number in range(bins)
        if (at == number).any()
    ]


def compute_metrics(truth: list[int], probabilities: Any, labels: list[str]) -> dict[str, Any]:
    """Computes what is told of a model.

    The baseline is a model that always gives the shares of the classes in the evaluation rows as its probabilities,
    and so always names the most frequent class. The expected calibration error is that of Guo et al. 2017, "On
    Calibration of Modern Neural Networks", with 15 bins: the mean distance between a bin's confidence and accuracy,
    weighted by its rows.

    Args:
        truth: The id of each row's label.
        probabilities: Class probabilities, shape (rows, classes).
        labels: The label names in the order of their ids.

    Returns:
        `rows`; `accuracy`, `macro_f1`, `log_loss` and `expected_calibration_error`; `majority_label`,
        `majority_accuracy`, `majority_macro_f1` and `majority_log_loss`; `per_class` (label, precision, recall, f1,
        support); `confusion` (rows by true, columns by predicted class); `calibration` (see `calibration_bins`).
        Macro F1 is the mean over the classes that occur, in truth or in predictions.
    """
    import numpy
    from sklearn import metrics

    ids = list(range(len(labels)))
    true = numpy.asarray(truth)
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    calibration = calibration_bins(predicted == true, confidence)
    shares = numpy.bincount(true, minlength=len(labels)) / len(true)
    majority = numpy.full_like(true, shares.argmax())
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        true, predicted, labels=ids, zero_division=0
    )
    return {
        "rows": len(true),
        "accuracy": float(metrics.accuracy_score(true, predicted)),
        "macro_f1": float(metrics.f1_score(true, predicted, average="macro", zero_division=0)),
        "log_loss": float(metrics.log_loss(true, probabilities, labels=ids)),
        "expected_calibration_error": sum(one["rows"] * abs(one["accuracy"] - one["confidence"]) for one in calibration)
        / len(true),
        "majority_label": labels[int(shares.argmax())],
        "majority_accuracy": float(shares.max()),
        "majority_macro_f1": float(metrics.f1_score(true, majority, average="macro", zero_division=0)),
        "majority_log_loss": float(sum(-share * numpy.log(share) for share in shares if 0 < share < 1)),
        "per_class": [
            {
                "label": label,
                "precision": float(precision[at]),
                "recall": float(recall[at]),
                "f1": float(f1[at]),
                "support": int(support[at]),
            }
            for at, label in enumerate(labels)
        ],
        "confusion": metrics.confusion_matrix(true, predicted, labels=ids).tolist(),
        "calibration": calibration,
    }


def evaluate_model(
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Dataset],
    training: dsl.Input[dsl.Metrics],
    max_length: int,
    volume_path: str,
    model_name: str,
    run_id: str,
    metrics: dsl.Output[dsl.Metrics],
    confusion: dsl.Output[dsl.ClassificationMetrics],
    predictions: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Evaluates a classifier on rows it has not seen.

    Args:
        model: The model and its tokenizer as save_pretrained writes them.
        evaluation: Rows to evaluate on: Parquet with the string columns text and label.
        training: What train_model told, the loss curve among it.
        max_length: Tokens at which a text is cut.
        volume_path: Where the volume is mounted; empty where there is none.
        model_name: Name of the model, a DNS-1035 label.
        run_id: The pipeline run's id.
        metrics: Accuracy, macro F1, log loss, calibration error and the majority class's; the file holds all of it.
        confusion: The confusion matrix.
        predictions: Parquet with text, label, predicted label and score, in the evaluation rows' order.
        report: The report, one self-contained page.
    """
    import json

    import pyarrow
    import pyarrow.parquet
    import transformers

    transformers.logging.disable_progress_bar()
    folder = run_folder(volume_path, model_name, run_id)
    table = pyarrow.parquet.read_table(evaluation.path)
    texts, names = table["text"].to_pylist(), table["label"].to_pylist()
    id2label = transformers.AutoConfig.from_pretrained(model.path, trust_remote_code=False).id2label
    labels = [id2label[number] for number in range(len(id2label))]
    probabilities = predict(model.path, texts, max_length)
    result = compute_metrics([labels.index(name) for name in names], probabilities, labels)
    predicted = [labels[number] for number in probabilities.argmax(axis=1)]
    scores = probabilities.max(axis=1).tolist()
    pyarrow.parquet.write_table(
        table.append_column("predicted", [predicted]).append_column("score", [scores]), predictions.path
    )

    confusion.log_confusion_matrix(labels, result["confusion"])
    with open(confusion.path, "w", encoding="utf-8") as file:
        json.dump({"labels": labels, "matrix": result["confusion"]}, file)
    for key, value in result.items():
        if not isinstance(value, list):
            metrics.metadata[key] = value
    with open(metrics.path, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
    with open(training.path, encoding="utf-8") as file:
        trained = json.load(file)
    rows = list(zip(texts, names, predicted, scores, strict=True))
    with open(report.path, "w", encoding="utf-8") as file:
        file.write(render_report(model_name, run_id, result, trained, rows))
    metrics.metadata["report"] = put_on_volume(report.path, folder, "report.html")
    put_on_volume(metrics.path, folder, "metrics.json")
    put_on_volume(predictions.path, folder, "datasets/predictions.parquet")
    print(f"accuracy {result['accuracy']:.4f}, majority class {result['majority_accuracy']:.4f}")
