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
    """Renders as Markdown what was loaded to train on and to evaluate on: rows, what was dropped, classes, lengths."""
    counts = [
        (meaning, *(f"{data.counts[key]:,}" if key in data.counts else "" for data in datasets))
        for key, meaning in COUNTS.items()
    ]
    labels = label_order(datasets[0].labels)
    classes = [
        (
            html.escape(" ".join(label.split())[:100]).replace("|", "&#124;"),
            *(f"{data.labels[label]:,} ({data.labels[label] / data.counts['rows']:.1%})" for data in datasets),
        )
        for label in labels[:MOST_LABELS]
    ]
    if len(labels) > MOST_LABELS:
        classes.append((f"... and {len(labels) - MOST_LABELS} more", "", ""))
    quantiles = [pyarrow.compute.quantile(data.lengths, QUANTILES, interpolation="nearest") for data in datasets]
    lengths = [
        (f"{share:.0%}", *(f"{values[at].as_py():,}" for values in quantiles)) for at, share in enumerate(QUANTILES)
    ]
    return (
        f"# Data\n\n{_table('', counts)}\n## Classes\n\n{_table('label', classes)}\n## Length in characters\n\n"
        f"{_table('quantile', lengths)}\n## Sources\n\n- train: `{names[0]}`\n- evaluation: `{names[1]}`\n"
    )


def _table(head: str, rows: Iterable[tuple[str, ...]]) -> str:
    lines = [(head, "training", "evaluation"), ("---", "---:", "---:"), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
