"""The report: one self-contained page, `report.html.jinja` and `report.css` beside this module filled in by Jinja2."""

import re
from collections import Counter
from typing import Any

from nlp_pipeline.labels import MISSING, doubtful_values
from nlp_pipeline.volume import Run

# Larger matrices can't be read, nor longer lists of classes.
MOST_CLASSES = 30


def render_report(run: Run, result: dict[str, Any], trained: dict[str, Any], columns: dict[str, list[Any]]) -> str:
    """Renders what is known of a model as a page without scripts and without anything fetched from elsewhere.

    `result` is what `compute_metrics` returns, `trained` training.json; `columns` are the evaluation rows' text, label,
    predicted label, and that label's score, in this order.
    """
    import jinja2

    wrong = [row for row in zip(*columns.values(), strict=True) if row[1] != row[2]]
    figures: list[Any] = []
    for key in ("accuracy", "macro_f1", "log_loss"):
        value, baseline = result[key], result["majority_" + key]
        is_better = value < baseline if key == "log_loss" else value > baseline
        figures.append((key.replace("_", " ").title(), value, baseline, "" if is_better else "no better"))
    figures.append(("Calibration Error", result["expected_calibration_error"]))
    loader = jinja2.PackageLoader(__name__, "")
    environment = jinja2.Environment(loader=loader, autoescape=True, finalize=_format_value)
    return environment.get_template("report.html.jinja").render(
        run=run,
        result=result,
        trained=trained,
        most=MOST_CLASSES,
        figures=figures,
        doubts=doubtful_values(Counter(columns["label"]), Counter(filter(re.compile(MISSING).match, columns["text"]))),
        wrong=sorted(wrong, key=lambda row: -row[3]),
        pairs=[(*pair, count) for pair, count in Counter(row[1:3] for row in wrong).most_common()],
        calibration=[tuple(part.values()) for part in result["calibration"]],
    )


def _format_value(value: Any) -> Any:
    """Returns a value as the page shows it: numbers rounded, texts cut."""
    if isinstance(value, float | int):
        return f"{value:,.4f}" if isinstance(value, float) else f"{value:,}"
    return value if hasattr(value, "__html__") else value[:600] + "…" * (len(value) > 600)
