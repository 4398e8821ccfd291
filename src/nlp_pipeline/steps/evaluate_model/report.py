"""The report: one self-contained page, `report.html.jinja` and `report.css` beside this module filled in by Jinja2."""

import itertools
import re
from collections import Counter
from typing import Any

from nlp_pipeline.labels import MISSING, doubtful_values
from nlp_pipeline.steps.evaluate_model.gate import describe
from nlp_pipeline.volume import Run

# Larger matrices can't be read, nor longer lists of classes.
MOST_CLASSES = 30
# So many rows the page shows of a kind.
MOST_ROWS = 20


def render_report(run: Run, result: dict[str, Any], trained: dict[str, Any], columns: dict[str, Any]) -> str:
    """Renders what is known of a model as a page without scripts and without anything fetched from elsewhere.

    `result` is what `compute_metrics` returns, with the `champion`, `trained` training.json; `columns` are the
    evaluation rows' text, label, predicted label, that label's score, and the champion's label or None, in this order.
    """
    import jinja2

    texts, *others = columns.values()
    # Of texts, but for those that are shown, lengths alone are in memory.
    rows = list(zip(range(len(others[0])), *others, map(len, texts), strict=True))
    wrong = sorted((row[:4] for row in rows if row[1] != row[2]), key=lambda row: -row[3])
    compared = _compare(result["champion"], [row for row in rows if row[4] is not None])
    tables = [wrong, compared.get("gained", []), compared.get("lost", [])]
    numbers = {row[0] for table in tables for row in table[:MOST_ROWS]}
    shown = {number: text for number, text in enumerate(texts) if number in numbers}
    for table in tables:
        table[:MOST_ROWS] = [(shown[number], *row) for number, *row in table[:MOST_ROWS]]
    figures: list[Any] = []
    for key in (name for name in ("accuracy", "macro_f1", "micro_f1", "log_loss") if name in result):
        value, baseline = result[key], result["majority_" + key]
        is_better = value < baseline if key == "log_loss" else value > baseline
        figures.append((key.replace("_", " ").title(), value, baseline, "" if is_better else "no better"))
    figures.append(("Calibration Error", result["expected_calibration_error"]))
    loader = jinja2.PackageLoader(__name__, "")
    environment = jinja2.Environment(loader=loader, autoescape=True, finalize=_format_value)
    return environment.get_template("report.html.jinja").render(
        run=run,
        result=result,
        champion=result["champion"],
        comparison=describe(result["champion"], 0) if result["champion"] else "",
        trained=trained,
        most=MOST_CLASSES,
        figures=figures,
        **compared,
        doubts=doubtful_values(Counter(columns["label"]), Counter(filter(re.compile(MISSING).match, texts))),
        wrong=wrong,
        pairs=[(*pair, count) for pair, count in Counter(row[1:3] for row in wrong).most_common()],
        calibration=[tuple(part.values()) for part in result["calibration"]],
    )


def _compare(champion: dict[str, Any], rows: list[Any]) -> dict[str, Any]:
    """Returns what the page says of a comparison with the champion, on the rows that both were asked for."""
    if not rows:
        return {}
    # Of several labels a text, each set of them counts as a label here: there may be thousands.
    labels = sorted({label for row in rows for label in (row[1], row[2], row[4])})
    lengths = sorted(row[5] for row in rows)
    quarters = [lengths[len(rows) * at // 4] for at in range(4)] + [lengths[-1] + 1]
    slices = [(label, [row for row in rows if row[1] == label]) for label in labels[:MOST_CLASSES]]
    slices += [
        (f"{low} to {high - 1} characters", [row for row in rows if low <= row[5] < high])
        for low, high in itertools.pairwise(quarters)
    ]
    counts = [Counter((row[1], row[at]) for row in rows) for at in (2, 4)]
    return {
        "both": labels,
        "matrices": [
            [[pairs[true, said] for said in labels] for true in labels]
            for pairs in counts
            if len(labels) <= MOST_CLASSES
        ],
        "compared": [
            (
                name.replace("_", " ").title(),
                *("{:.4f} ({:.4f} to {:.4f})".format(*values) for values in figure.values()),
            )
            for name, figure in champion["figures"].items()
        ],
        "slices": [
            (name, len(part), *(sum(row[1] == row[at] for row in part) / len(part) for at in (2, 4)))
            for name, part in slices
            if part
        ],
        "gained": [(*row[:3], row[4]) for row in rows if row[1] == row[2] != row[4]],
        "lost": [(*row[:3], row[4]) for row in rows if row[1] == row[4] != row[2]],
    }


def _format_value(value: Any) -> Any:
    """Returns a value as the page shows it: numbers rounded, texts cut."""
    if isinstance(value, float | int):
        return f"{value:,.4f}" if isinstance(value, float) else f"{value:,}"
    return value if hasattr(value, "__html__") else value[:600] + "…" * (len(value) > 600)
