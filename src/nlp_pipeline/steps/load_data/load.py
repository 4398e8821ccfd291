"""Loads labelled text, checks it, splits it and writes it as Parquet."""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nlp_pipeline.errors import UsageError
from nlp_pipeline.labels import label_order
from nlp_pipeline.steps.load_data.datasets import write_datasets
from nlp_pipeline.steps.load_data.fetch import fetch_source
from nlp_pipeline.steps.load_data.settings import LoadSettings
from nlp_pipeline.steps.load_data.summary import summarise
from nlp_pipeline.volume import Run


def load_datasets(settings: LoadSettings, run: Run, train: str, evaluation: str, summary: str) -> list[dict[str, Any]]:
    """Writes rows to train on and to evaluate on, and a summary; copies of them go to the run's folder.

    Args:
        settings: Where labelled text lies, and how it is read and split.
        run: The run.
        train: The Parquet file of the rows to train on, to be written: string columns `text` and `label`.
        evaluation: That of the rows to evaluate on.
        summary: The Markdown file: what was loaded, what was dropped and why.

    Returns:
        Of the rows to train on, and of those to evaluate on: `rows`, `source`, `source_sha256`, `run_dir` (empty where
        there is no volume); and `bad`, `leaked`, `duplicates` and `conflicts` where they have a source of their own.

    Raises:
        UsageError: There is no such source, or its rows can't be trained and evaluated on.
        PipelineError: A download failed for good.
    """
    run.prepare_folder()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as threads:
        sources = [
            fetch_source(address.strip(), Path(folder, str(number)))
            for number, address in enumerate((settings.train_data, settings.evaluation_data))
            if address.strip()
        ]
        sha256s = threads.map(hash_file, [source.path for source in sources])  # while the rows are read
        datasets = write_datasets(sources, settings, [Path(train), Path(evaluation)], Path(folder, "rows"))
    names = [source.name for source in sources]
    if len(names) == 1:
        names.append(f"{settings.evaluation_share:.1%} of each class of training")
    require_classes(names[0], *(dataset.labels for dataset in datasets))
    text = summarise(datasets, names)
    print(text)
    Path(summary).write_text(text, encoding="utf-8")
    run.keep(train, "datasets/train.parquet")
    run.keep(evaluation, "datasets/evaluation.parquet")
    run.keep(summary, "datasets/summary.md")
    return [
        {**dataset.counts, "source": name, "source_sha256": sha256, "run_dir": str(run.folder or "")}
        for dataset, name, sha256 in zip(datasets, names, [*sha256s] * 2, strict=False)  # one may stand for both
    ]


def hash_file(path: Path) -> str:
    """Returns the SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_classes(name: str, train: Counter[str], evaluation: Counter[str]) -> None:
    """Makes sure that there are classes to tell apart, and that all that is evaluated was trained.

    Args:
        name: The training source as errors show it.
        train: How many rows to train on each label has.
        evaluation: The same of the rows to evaluate on.

    Raises:
        UsageError: There are too few, or evaluation has labels that training lacks.
    """
    if len(train) < 2:
        raise UsageError(f"{name!r} has one class only, {shown(train)}: a classifier needs two or more")
    if not evaluation:
        raise UsageError(f"{name!r} is too small to split: no class has two different texts; set evaluation_data")
    if unknown := evaluation.keys() - train.keys():
        raise UsageError(
            f"evaluation has {len(unknown)} label(s) that training lacks: {shown(unknown)}; training has "
            f"{shown(train)}: rename or remove them"
        )


def shown(labels: Iterable[str]) -> str:
    """Returns the first labels, as errors show them."""
    labels = label_order(labels)
    return ", ".join(repr(label[:50]) for label in labels[:20]) + (", ..." if len(labels) > 20 else "")
