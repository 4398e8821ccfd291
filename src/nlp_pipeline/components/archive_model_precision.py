"""Which number format an archive gets: the fastest that costs no more accuracy than stated, measured.

Hermetic helpers of `archive_model`, which inlines them as `additional_funcs`.
"""

from typing import Any

from nlp_pipeline.components.agreement import compare_answers


def candidates(precision: str, serving_gpus: int) -> tuple[list[str], str]:
    """Returns the number formats to try, and where there is no choice the reason.

    Args:
        precision: "int8", "fp32" or "auto".
        serving_gpus: GPUs that the archive is served with.
    """
    if precision != "auto":
        return [precision], f"precision={precision} was asked for"
    if serving_gpus > 0:
        return ["fp32"], "a GPU serves, and int8 of this kind is for CPUs"
    return ["int8", "fp32"], ""


def try_archive(folder: str, rows: dict[str, list[str]]) -> dict[str, Any]:
    """Asks an archive's own handler for rows, as TorchServe would, and times it.

    Args:
        folder: What goes into the archive: handler.py, model.onnx, tokenizer.json, serving.json.
        rows: The columns text, label and predicted; the last is what the offline model said.

    Returns:
        `rows`, `agreement` with the offline model, `accuracy` and `offline_accuracy`, from 0 to 1; the `drop` of the
        accuracy; `texts_per_second`, all CPUs together; the `megabytes` of the model.
    """
    import importlib.util
    import os
    import time
    import types

    spec = importlib.util.spec_from_file_location("archived_handler", os.path.join(folder, "handler.py"))
    assert spec is not None and spec.loader is not None  # noqa: S101, the path ends in .py
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    handler = module.TextClassificationHandler()
    handler.initialize(types.SimpleNamespace(system_properties={"model_dir": folder}))
    labels: list[str] = []
    began = time.perf_counter()
    for start in range(0, len(rows["text"]), 64):
        labels += [one["label"] for one in handler.classify(rows["text"][start : start + 64])]
    seconds = time.perf_counter() - began
    compared: dict[str, Any] = compare_answers(labels, rows["predicted"], rows["label"])
    return {
        **compared,
        "drop": compared["offline_accuracy"] - compared["accuracy"],
        "texts_per_second": len(labels) / seconds,
        "megabytes": os.path.getsize(os.path.join(folder, "model.onnx")) / 1e6,
    }


def choose_precision(tried: dict[str, dict[str, Any]], max_drop: float, min_agreement: float) -> tuple[str, str]:
    """Chooses the fastest number format that answers as the offline model does.

    Args:
        tried: What `try_archive` told, by number format; fp32 among them, which is taken where no other will do.
        max_drop: By how much the accuracy may be lower, as a fraction.
        min_agreement: Least share of rows with the offline model's label.

    Returns:
        The number format, and the reason as a sentence.
    """
    fastest = sorted(tried, key=lambda name: -tried[name]["texts_per_second"])
    refused: list[str] = []
    for name in fastest:
        one = tried[name]
        # Differences of decimal fractions are not exact.
        if name == "fp32" or (one["drop"] <= max_drop + 1e-9 and one["agreement"] >= min_agreement):
            reason = f"{name} does {one['texts_per_second']:.0f} texts/s with a drop of {100 * one['drop']:.2f} points"
            return name, "; ".join([*refused, reason])
        refused.append(
            f"{name} is faster, but its accuracy drops by {100 * one['drop']:.2f} points (allowed: "
            f"{100 * max_drop:.2f}) and it agrees on {one['agreement']:.1%} of the rows (at least {min_agreement:.1%})"
        )
    raise ValueError("fp32 was not tried")
