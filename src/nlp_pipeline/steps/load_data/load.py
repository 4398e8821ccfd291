"""Loads labelled text, checks it, splits it and writes it as Parquet."""

import html
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nlp_pipeline.errors import UsageError
from nlp_pipeline.labels import doubtful_values, label_order
from nlp_pipeline.steps.load_data.datasets import QUANTILES, Dataset, write_datasets
from nlp_pipeline.steps.load_data.rows import listed
from nlp_pipeline.steps.load_data.settings import LoadSettings
from nlp_pipeline.volume import Run

MOST_LABELS = 100
COUNTS = {
    "rows": "rows kept",
    "bad": "dropped: no text, no label, or cells too many",
    "leaked": "dropped: text stands in evaluation too",
    "duplicates": "kept, though the text stood before",
    "conflicts": "kept, though the text stood before with another label",
}


def load_datasets(settings: LoadSettings, run: Run, train: str, evaluation: str, summary: str) -> list[dict[str, Any]]:
    """Writes rows to train on and to evaluate on, and a summary; copies of them go to the run's folder.

    `train` and `evaluation` become Parquet with the columns `text` and `label`, of strings or, where a text has several
    labels, of lists of them; `summary` Markdown.

    Returns:
        Of the rows to train on, and of those to evaluate on: `rows`, `source` and `source_sha256`; and what `Reader`
        counts where they have a source of their own: `bad`, `leaked`, `duplicates` and `conflicts`.

    Raises:
        UsageError: The rows can't be read, or a classifier can't be trained and evaluated on them.
    """
    run.prepare_folder()
    with tempfile.TemporaryDirectory() as folder:
        datasets, readers = write_datasets(settings, [Path(train), Path(evaluation)], Path(folder))
    names, digests = [reader.name for reader in readers], [reader.digest for reader in readers]
    if len(readers) == 1:
        names.append(f"{settings.evaluation_share:.1%} of each class of training")
        digests *= 2
    _require_classes(names[0], *(dataset.labels for dataset in datasets))
    notes = [f"{reader.name}: {count:,} {note}" for reader in readers for note, count in reader.notes.items()]
    first, second = datasets
    sizes = first.sizes + second.sizes
    if sizes.keys() != {1}:
        mean = (first.labels + second.labels).total() / sizes.total()
        notes.append(f"{mean:.2f} labels a text at the mean; {sizes[0]:,} rows have none")
    elif settings.label_separator:
        raise UsageError(f"{names[0]!r} has no row of several labels by label_separator={settings.label_separator!r}")
    doubts = doubtful_values(first.labels + second.labels, first.missing + second.missing)
    if doubts and settings.doubtful_values == "refuse":
        raise UsageError(f"{names[0]!r}: {'; '.join(doubts)}: correct them, or set doubtful_values to keep or merge")
    text = summarise(datasets, names, notes + [f"Warning: {doubt}: set doubtful_values" for doubt in doubts])
    print(text)
    Path(summary).write_text(text, encoding="utf-8")
    run.keep(train, "datasets/train.parquet")
    run.keep(evaluation, "datasets/evaluation.parquet")
    run.keep(summary, "datasets/summary.md")
    return [
        {**dataset.counts, "source": name, "source_sha256": digest}
        for dataset, name, digest in zip(datasets, names, digests, strict=True)
    ]


def _require_classes(name: str, train: Counter[str], evaluation: Counter[str]) -> None:
    trained = listed(label_order(train))
    if len(train) < 2:
        raise UsageError(f"{name!r} has too few classes ({trained}): a classifier needs two or more")
    if not evaluation:
        raise UsageError(f"{name!r} is too small to split: no class has two different texts; set evaluation_data")
    if unknown := evaluation.keys() - train.keys():
        raise UsageError(
            f"evaluation has {len(unknown)} label(s) that training lacks: {listed(label_order(unknown))}; training has "
            f"{trained}: rename or remove them"
        )


def summarise(datasets: list[Dataset], names: list[str], notes: list[str]) -> str:
    """Renders as Markdown what was loaded to train on and to evaluate on: rows, what was dropped, classes, lengths.

    `notes` say what was done in reading them, and what may be wrong.
    """
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
    lengths = [(f"{share:.0%}", *(f"{data.lengths[at]:,}" for data in datasets)) for at, share in enumerate(QUANTILES)]
    said = "".join(f"- {html.escape(note, False)}\n" for note in notes)
    return (
        f"# Data\n\n{_table('', counts)}\n## Classes\n\n{_table('label', classes)}\n## Length in characters\n\n"
        f"{_table('quantile', lengths)}\n## Sources\n\n- train: `{names[0]}`\n- evaluation: `{names[1]}`\n{said}"
    )


def _table(head: str, rows: Iterable[tuple[str, ...]]) -> str:
    lines = [(head, "training", "evaluation"), ("---", "---:", "---:"), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
