"""`load_data`: labelled text from a file or URL to checked, split Parquet datasets."""

from typing import Any

from kfp import dsl

from nlp_pipeline.components.load_data_datasets import choose_evaluation, split_rows, write_rows
from nlp_pipeline.components.load_data_fetch import fetch_source, file_sha256
from nlp_pipeline.components.ranges import check_parameters
from nlp_pipeline.components.volume import put_on_volume, run_folder


def load_both(
    train_source: dict[str, str],
    evaluation_source: dict[str, str] | None,
    targets: tuple[str, str],
    columns: tuple[str, str],
    max_bad_share: float,
    evaluation_share: float,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Writes both datasets, from two sources or by splitting one, and checks that they fit each other.

    Args:
        train_source: As `write_rows` takes it.
        evaluation_source: The same, or None: then a share of the training source is split off.
        targets: The Parquet files to write: training, evaluation.
        columns: The names of the text's and the label's column.
        max_bad_share: The share of a source's rows that may lack a text or a label.
        evaluation_share: The share to split off, between 0 and 1.
        seed: The split's seed.

    Returns:
        What was counted, as `write_rows` tells it, for `train` and `evaluation`.

    Raises:
        ValueError: The rows can't be trained and evaluated on.
    """
    import os
    import tempfile

    if evaluation_source is not None:
        evaluation, _, in_evaluation = write_rows(evaluation_source, targets[1], columns, max_bad_share, {})
        train, _, _ = write_rows(train_source, targets[0], columns, max_bad_share, in_evaluation)
    else:
        with tempfile.TemporaryDirectory(dir=os.path.dirname(targets[0])) as folder:
            rows = os.path.join(folder, "rows.parquet")
            both, hashes, label_of = write_rows(train_source, rows, columns, max_bad_share, {}, "lz4")
            chosen = choose_evaluation(label_of, evaluation_share, seed)
            is_chosen = [text_hash in chosen for text_hash in hashes]
            train, evaluation = split_rows(rows, both["lengths"], is_chosen, *targets)
        train = both | train
    require_classes(train_source["name"], list(train["labels"]), list(evaluation["labels"]))
    return {"train": train, "evaluation": evaluation}


def require_classes(name: str, train: list[str], evaluation: list[str]) -> None:
    """Makes sure that there are classes to tell apart, and that all that is evaluated was trained.

    Args:
        name: The training source as errors show it.
        train: The labels of the training rows.
        evaluation: The labels of the evaluation rows.

    Raises:
        ValueError: There are too few, or evaluation has labels that training lacks.
    """
    shown = ", ".join(repr(label[:50]) for label in train[:20]) + (", ..." if len(train) > 20 else "")
    if len(train) < 2:
        raise ValueError(f"{name!r} has one class only, {shown}: a classifier needs two or more")
    if not evaluation:
        raise ValueError(f"{name!r} is too small to split: no class has two different texts; set evaluation_data")
    unknown = [repr(label[:50]) for label in evaluation if label not in train]
    if unknown:
        raise ValueError(
            f"evaluation has {len(unknown)} label(s) that training lacks: {', '.join(unknown[:5])}; training has "
            f"{shown}: rename or remove them"
        )


def summarise(counted: dict[str, dict[str, Any]], sources: dict[str, str]) -> str:
    """Renders what was loaded as Markdown: rows, what was dropped and why, class balance, lengths.

    Args:
        counted: For `train` and `evaluation`, what `write_rows` counted.
        sources: For each set, its source.

    Returns:
        The Markdown text.
    """
    import html

    lines = ["# Data", "", "| | training | evaluation |", "| --- | ---: | ---: |"]
    for key, what in {
        "rows": "rows kept",
        "bad": "dropped: no text, no label, or cells too many",
        "leaked": "dropped: text stands in evaluation too",
        "duplicates": "kept, though the text stood before",
        "conflicts": "kept, though the text stood before with another label",
    }.items():
        cells = [f"{counted[part][key]:,}" if key in counted[part] else "" for part in ("train", "evaluation")]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    lines += ["", "## Classes", "", "| label | training | evaluation |", "| --- | ---: | ---: |"]
    for label in counted["train"]["labels"]:
        shown = html.escape(" ".join(label.split())[:100]).replace("|", "&#124;")
        cells = [
            f"{count:,} ({count / part['rows']:.1%})"
            for part in counted.values()
            for count in [part["labels"].get(label, 0)]
        ]
        lines.append(f"| {shown} | {' | '.join(cells)} |")
    lines += ["", "## Length in characters", "", "| quantile | training | evaluation |", "| --- | ---: | ---: |"]
    ordered = [sorted(part["lengths"]) for part in counted.values()]
    for quantile in (0, 0.25, 0.5, 0.75, 0.95, 1):
        cells = [f"{lengths[round(quantile * (len(lengths) - 1))]:,}" for lengths in ordered]
        lines.append(f"| {quantile:.0%} | {' | '.join(cells)} |")
    lines += ["", "## Sources", ""] + [f"- {part}: `{source}`" for part, source in sources.items()]
    return "\n".join(lines) + "\n"


def load_data(
    train_data: str,
    evaluation_data: str,
    text_column: str,
    label_column: str,
    evaluation_share: float,
    max_bad_share: float,
    seed: int,
    volume_path: str,
    model_name: str,
    run_id: str,
    train: dsl.Output[dsl.Dataset],
    evaluation: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    """Loads labelled text, checks it and hands it on as Parquet.

    Args:
        train_data: Path or URL (file, http, https, s3, gs) of CSV, TSV, JSONL or Parquet, plain or gzipped.
        evaluation_data: The same for evaluation; empty to split a share off the training data.
        text_column: Name of the text's column.
        label_column: Name of the label's column.
        evaluation_share: Share of each class to split off where there is no evaluation_data.
        max_bad_share: Share of rows, from 0 to 1, that may lack a text or a label before the step fails.
        seed: Seed of the split.
        volume_path: Where the volume is mounted; empty where there is none.
        model_name: Name of the model, a DNS-1035 label.
        run_id: The pipeline run's id.
        train: Rows to train on: string columns text and label.
        evaluation: Rows to evaluate on: the same columns.
        summary: What was loaded, what was dropped and why.
    """
    import os
    import tempfile
    from concurrent.futures import Future, ThreadPoolExecutor

    folder = run_folder(volume_path, model_name, run_id)
    check_parameters(train_data=train_data, text_column=text_column, label_column=label_column)
    check_parameters(max_bad_share=max_bad_share, evaluation_share=evaluation_share)
    with tempfile.TemporaryDirectory() as downloads, ThreadPoolExecutor(1) as thread:
        sources: dict[str, dict[str, str]] = {}
        sums: dict[str, Future[str]] = {}  # made while the rows are read
        for part, source in {"train": train_data, "evaluation": evaluation_data}.items():
            if source.strip():
                os.mkdir(os.path.join(downloads, part))
                path, name = fetch_source(source.strip(), os.path.join(downloads, part))
                sources[part] = {"path": path, "name": name}
                sums[part] = thread.submit(file_sha256, path)
        counted = load_both(
            sources["train"],
            sources.get("evaluation"),
            (train.path, evaluation.path),
            (text_column, label_column),
            max_bad_share,
            evaluation_share,
            seed,
        )
    sources.setdefault("evaluation", {"name": f"{evaluation_share:.1%} of each class of training"})
    sums.setdefault("evaluation", sums["train"])
    for part, artifact in (("train", train), ("evaluation", evaluation)):
        artifact.metadata.update(
            {key: value for key, value in counted[part].items() if key != "lengths"},
            label_names=list(counted["train"]["labels"]),
            source=sources[part]["name"],
            source_sha256=sums[part].result(),
        )
        put_on_volume(artifact.path, folder, f"datasets/{part}.parquet")
    train.metadata["run_dir"] = folder
    text = summarise(counted, {part: source["name"] for part, source in sources.items()})
    with open(summary.path, "w", encoding="utf-8") as file:
        file.write(text)
    put_on_volume(summary.path, folder, "datasets/summary.md")
    print(text)
