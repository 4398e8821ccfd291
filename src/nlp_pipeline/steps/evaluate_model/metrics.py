"""How good predictions are: accuracy and the like, beside those of a baseline."""

from typing import Any

import numpy


def compute_metrics(truth: list[int], probabilities: Any, labels: list[str]) -> dict[str, Any]:
    """Computes the figures of an evaluation.

    The baseline gives the shares of the classes in the evaluation rows as its probabilities, and so always names the
    most frequent class. The expected calibration error is that of Guo et al. 2017, "On Calibration of Modern Neural
    Networks": the mean distance between a bin's confidence and accuracy, weighted by its rows.

    `truth` has the id of each row's label; `probabilities` are of shape (rows, classes).

    Returns:
        `rows`; `accuracy`, `macro_f1`, `log_loss` and `expected_calibration_error`; `majority_label`,
        `majority_accuracy`, `majority_macro_f1` and `majority_log_loss`; `per_class` (label, precision, recall, f1,
        support); `confusion` (rows by true, columns by predicted class); `calibration` (confidence, accuracy and rows
        of each bin that has rows). Macro F1 is the mean over the classes that occur, in truth or in predictions.
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
        "majority_label": labels[shares.argmax()],
        "per_class": [
            {"label": label, "precision": precision, "recall": recall, "f1": f1, "support": support}
            for label, precision, recall, f1, support in zip(
                labels, *(column.tolist() for column in per_class), strict=True
            )
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
