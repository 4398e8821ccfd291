"""How good predictions are: accuracy and the like, beside those of a baseline."""

from typing import Any

import numpy


def compute_metrics(truth: list[int], probabilities: Any, labels: list[str]) -> dict[str, Any]:
    """Computes the figures of an evaluation.

    The baseline gives the shares of the classes in the evaluation rows as its probabilities, and so always names the
    most frequent class. The expected calibration error is that of Guo et al. 2017, "On Calibration of Modern Neural
    Networks": the mean distance between a bin's confidence and accuracy, weighted by its rows.

    Args:
        truth: The id of each row's label.
        probabilities: Class probabilities, shape (rows, classes).
        labels: The label names in the order of their ids.

    Returns:
        `rows`; `accuracy`, `macro_f1`, `log_loss` and `expected_calibration_error`; `majority_label`,
        `majority_accuracy`, `majority_macro_f1` and `majority_log_loss`; `per_class` (label, precision, recall, f1,
        support); `confusion` (rows by true, columns by predicted class); `calibration` (confidence, accuracy and rows
        of each bin that has rows). Macro F1 is the mean over the classes that occur, in truth or in predictions.
    """
    from sklearn import metrics

    ids = range(len(labels))
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    per_class = metrics.precision_recall_fscore_support(truth, predicted, labels=ids, zero_division=0)
    calibration = []
    bins = numpy.ceil(confidence * 15)
    for number in numpy.unique(bins):
        found = bins == number
        accuracy = float((predicted == truth)[found].mean())
        part = {"confidence": float(confidence[found].mean()), "accuracy": accuracy, "rows": int(found.sum())}
        calibration.append(part)
    shares = numpy.bincount(truth, minlength=len(labels)) / len(truth)
    result = {
        "rows": len(truth),
        "expected_calibration_error": sum(
            part["rows"] * abs(part["accuracy"] - part["confidence"]) for part in calibration
        )
        / len(truth),
        "majority_label": labels[shares.argmax()],
        "per_class": [
            dict(zip(("label", "precision", "recall", "f1", "support"), values, strict=True))
            for values in zip(labels, *(column.tolist() for column in per_class), strict=True)
        ],
        "confusion": metrics.confusion_matrix(truth, predicted, labels=ids).tolist(),
        "calibration": calibration,
    }
    for prefix, given in ("", probabilities), ("majority_", numpy.broadcast_to(shares, probabilities.shape)):
        result[prefix + "accuracy"] = metrics.accuracy_score(truth, given.argmax(axis=1))
        result[prefix + "macro_f1"] = metrics.f1_score(truth, given.argmax(axis=1), average="macro", zero_division=0)
        result[prefix + "log_loss"] = metrics.log_loss(truth, given, labels=ids)
    return result
