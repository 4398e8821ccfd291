"""The report: one self-contained page, `report.html.jinja` and `report.css` beside this module filled in by Jinja2."""

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nlp_pipeline.volume import Run

# Larger matrices can't be read, nor longer lists of classes.
MOST_CLASSES = 30


def render_report(
    run: Run, result: dict[str, Any], trained: dict[str, Any], rows: list[tuple[float, str, str, str]]
) -> str:
    """Renders what is known of a model as a page without scripts and without anything fetched from elsewhere.

    Args:
        run: The run.
        result: What `compute_metrics` returns.
        trained: JSON of `train_model`: device, dtype, reason, steps, loss_curve and more.
        rows: For each evaluation row the predicted label's score, the label, the predicted label, and the text.
    """
    import jinja2

    wrong = sorted((row for row in rows if row[1] != row[2]), reverse=True)
    pairs = Counter((true, predicted) for _, true, predicted, _ in wrong)
    # scikit-learn gives 0 for 0 / 0: classes that never occur would seem the worst.
    occurring = {label for row in rows for label in row[1:3]}
    classes = [item for item in result["per_class"] if item["label"] in occurring]
    curve = trained.pop("loss_curve", [])
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, finalize=format_value
    )
    return environment.get_template("report.html.jinja").render(
        run=run,
        result=result,
        trained=trained,
        labels=[item["label"] for item in result["per_class"]],
        most=MOST_CLASSES,
        wrong=wrong,
        pairs=[(*pair, count) for pair, count in pairs.most_common()],
        classes=[item.values() for item in sorted(classes, key=lambda item: item["f1"])],
        calibration=[
            (part["confidence"], part["accuracy"], 3 + 9 * (part["rows"] / len(rows)) ** 0.5)
            for part in result["calibration"]
        ],
        losses=[(step, loss, 2) for step, loss in curve if math.isfinite(loss)],
        logged=len(curve),
        axis_end=axis_end,
    )


def format_value(value: Any) -> Any:
    """Returns a value as the page shows it: numbers rounded, texts cut, "n/a" for what is missing or not finite."""
    if isinstance(value, str):
        return value if hasattr(value, "__html__") or len(value) <= 600 else value[:600] + "…"
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "n/a"
    return f"{value:,.4f}" if isinstance(value, float) else f"{value:,}"


def axis_end(values: Iterable[float]) -> float:
    """Returns a number that no value exceeds, and whose quarters are round."""
    highest = max(values) or 1
    unit = 4 * 10.0 ** math.floor(math.log10(highest) - 1)
    return math.ceil(highest / unit) * unit
