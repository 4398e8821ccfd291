"""What was loaded, for a person to read."""

import html
from collections.abc import Iterable

import pyarrow.compute

from nlp_pipeline.labels import label_order
from nlp_pipeline.steps.load_data.datasets import Dataset

MOST_LABELS = 100
QUANTILES = [0, 0.25, 0.5, 0.75, 0.95, 1]
COUNTS = {
    "rows": "rows kept",
    "bad": "dropped: no text, no label, or cells too many",
    "leaked": "dropped: text stands in evaluation too",
    "duplicates": "kept, though the text stood before",
    "conflicts": "kept, though the text stood before with another label",
}


def summarise(datasets: list[Dataset], names: list[str]) -> str:
    """Renders what was loaded as Markdown: rows, what was dropped and why, class balance, lengths.

    Args:
        datasets: The rows to train on, and those to evaluate on.
        names: Where they are from.
    """
    counts = [
        (shown, *(f"{one.counts[key]:,}" if key in one.counts else "" for one in datasets))
        for key, shown in COUNTS.items()
    ]
    labels = label_order(datasets[0].labels)
    classes = [
        (
            html.escape(" ".join(label.split())[:100]).replace("|", "&#124;"),
            *(f"{one.labels[label]:,} ({one.labels[label] / one.counts['rows']:.1%})" for one in datasets),
        )
        for label in labels[:MOST_LABELS]
    ]
    if len(labels) > MOST_LABELS:
        classes.append((f"... and {len(labels) - MOST_LABELS} more", "", ""))
    quantiles = [
        pyarrow.compute.quantile(one.lengths, QUANTILES, interpolation="nearest").to_pylist() for one in datasets
    ]
    lengths = [
        (f"{share:.0%}", f"{train:,}", f"{other:,}") for share, train, other in zip(QUANTILES, *quantiles, strict=True)
    ]
    return (
        f"# Data\n\n{table('', counts)}\n## Classes\n\n{table('label', classes)}\n## Length in characters\n\n"
        f"{table('quantile', lengths)}\n## Sources\n\n- train: `{names[0]}`\n- evaluation: `{names[1]}`\n"
    )


def table(head: str, rows: Iterable[tuple[str, ...]]) -> str:
    """Returns a table with a column each for training and evaluation."""
    lines = [(head, "training", "evaluation"), ("---", "---:", "---:"), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
