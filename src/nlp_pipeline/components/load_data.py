"""`load_data`: labelled text from a file or URL to checked, split Parquet datasets."""

from typing import Any, Iterator

from kfp import dsl

from nlp_pipeline import packages
from nlp_pipeline.components import load_data_fetch, load_data_rows, volume
from nlp_pipeline.components.labels import label_order
from nlp_pipeline.components.load_data_fetch import fetch_source, file_sha256
from nlp_pipeline.components.load_data_rows import read_rows
from nlp_pipeline.components.volume import put_on_volume, run_folder


def good_rows(
    source: dict[str, str], columns: tuple[str, str], exclude: dict[bytes, str], dropped: dict[str, list[int]]
) -> Iterator[tuple[str, str, bytes]]:
    """Reads a source's rows and leaves out those that can't be used, noting their lines.

    Args:
        source: `path` of the local file, and `name`, which tells its format.
        columns: The names of the text's and the label's column.
        exclude: Digests of texts to leave out: those of the evaluation set.
        dropped: Gets the lines of the rows left out: `bad` lack a text or a label, `leaked` stand in `exclude`.

    Yields:
        Text, label and the text's 128-bit digest. Two texts are the same where they are alike but for blanks around
        them.
    """
    from hashlib import blake2b

    for line, text, label in read_rows(source["path"], source["name"], *columns):
        if text is None or label is None:
            dropped["bad"].append(line)
            continue
        digest = blake2b(text.strip().encode(), digest_size=16).digest()
        if digest in exclude:
            dropped["leaked"].append(line)
        else:
            yield text, label, digest


def write_rows(
    source: dict[str, str],
    target: str,
    columns: tuple[str, str],
    max_bad_share: float,
    exclude: dict[bytes, str],
) -> tuple[dict[str, Any], list[bytes], dict[bytes, str]]:
    """Streams a source's good rows into a Parquet file with the string columns `text` and `label`.

    Args:
        source: `path` of the local file, `name` that tells its format, `shown` as errors name it.
        target: The Parquet file to write.
        columns: The names of the text's and the label's column in the source.
        max_bad_share: The share of rows, from 0 to 1, that may lack a text or a label.
        exclude: Digests of texts to leave out: those of the evaluation set.

    Returns:
        Counts (`rows`, `bad`, `leaked`, `duplicates`, `conflicts`), the class balance as `labels` (name to rows, in
        the labels' order) and the texts' `lengths` in characters; the written rows' digests in order; and each
        digest's first label.

    Raises:
        ValueError: Too many bad rows, no good row, or more than a thousand classes.
    """
    import array

    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([("text", pyarrow.string()), ("label", pyarrow.string())])
    dropped: dict[str, list[int]] = {"bad": [], "leaked": []}
    conflicts = 0
    labels: dict[str, int] = {}
    lengths = array.array("Q")
    digests: list[bytes] = []
    first_label: dict[bytes, str] = {}
    batch: tuple[list[str], list[str]] = ([], [])
    with pyarrow.parquet.ParquetWriter(target, schema, compression="zstd") as writer:
        for text, label, digest in good_rows(source, columns, exclude, dropped):
            conflicts += first_label.setdefault(digest, label) != label
            labels[label] = labels.get(label, 0) + 1
            if len(labels) > 1000:
                raise ValueError(f"{source['shown']}: column {columns[1]!r} has over 1000 classes: is it the label?")
            lengths.append(len(text))
            digests.append(digest)
            batch[0].append(text)
            batch[1].append(label)
            if len(batch[0]) == 4096:
                writer.write_batch(pyarrow.record_batch(list(batch), schema=schema))
                batch = ([], [])
        writer.write_batch(pyarrow.record_batch(list(batch), schema=schema))
    require_rows(source["shown"], len(digests), dropped, max_bad_share)
    counts = {
        "rows": len(digests),
        "bad": len(dropped["bad"]),
        "leaked": len(dropped["leaked"]),
        "duplicates": len(digests) - len(first_label),
        "conflicts": conflicts,
        "labels": {label: labels[label] for label in label_order(list(labels))},
        "lengths": lengths,
    }
    return counts, digests, first_label


def require_rows(shown: str, kept: int, dropped: dict[str, list[int]], max_bad_share: float) -> None:
    """Makes sure that a source has rows, and few bad ones.

    Args:
        shown: The source as errors name it.
        kept: How many rows are good.
        dropped: The lines of those that are not, as `good_rows` notes them.
        max_bad_share: The share of rows, from 0 to 1, that may lack a text or a label.

    Raises:
        ValueError: It has none, or too many bad ones; the message names the first lines.
    """
    bad = len(dropped["bad"])
    total = kept + bad + len(dropped["leaked"])
    if total == 0:
        raise ValueError(f"{shown} has no rows")
    if bad > max_bad_share * total:
        raise ValueError(
            f"{shown}: {bad} of {total} rows lack a text or a label, or have cells too many, the first at line "
            f"{', '.join(map(str, dropped['bad'][:5]))}; max_bad_share allows {max_bad_share:.2%}"
        )
    if kept == 0:
        raise ValueError(f"{shown}: none of its {total} rows is left: each is bad, or its text is evaluated on too")


def choose_evaluation(first_label: dict[bytes, str], share: float, seed: int) -> set[bytes]:
    """Chooses the texts to evaluate on: a seeded random share of each class, at least one text of each.

    Texts are chosen, not rows, so that a text that stands twice does not come into both sets. A class with one text
    stays in training.

    Args:
        first_label: Each text's digest and label, in the source's order.
        share: The share of each class, between 0 and 1.
        seed: The same seed chooses the same texts from the same source.

    Returns:
        The digests of the chosen texts.
    """
    import random

    by_label: dict[str, list[bytes]] = {}
    for digest, label in first_label.items():
        by_label.setdefault(label, []).append(digest)
    chosen: set[bytes] = set()
    for label in sorted(by_label):
        digests = by_label[label]
        count = min(max(1, round(share * len(digests))), len(digests) - 1)
        chosen.update(random.Random(f"{seed}/{label}").sample(digests, count))  # noqa: S311, rows, not secrets
    return chosen


def split_rows(rows: str, digests: list[bytes], chosen: set[bytes], train: str, evaluation: str) -> None:
    """Streams a Parquet file's rows into two: those whose text was chosen, and the others.

    Args:
        rows: The Parquet file.
        digests: The digest of each row's text, in the file's order.
        chosen: The digests of the texts to evaluate on.
        train: The Parquet file to write the others to.
        evaluation: The Parquet file to write the chosen to.
    """
    import pyarrow
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(rows)
    at = 0
    with (
        pyarrow.parquet.ParquetWriter(train, file.schema_arrow, compression="zstd") as to_train,
        pyarrow.parquet.ParquetWriter(evaluation, file.schema_arrow, compression="zstd") as to_evaluation,
    ):
        for batch in file.iter_batches(batch_size=4096):
            is_chosen = [digest in chosen for digest in digests[at : at + batch.num_rows]]
            at += batch.num_rows
            to_evaluation.write_batch(batch.filter(pyarrow.array(is_chosen)))
            to_train.write_batch(batch.filter(pyarrow.array([not one for one in is_chosen])))


def count_rows(path: str) -> dict[str, Any]:
    """Returns `rows`, `labels` (name to rows, in the labels' order) and `lengths` of a Parquet file of rows."""
    import array

    import pyarrow.parquet

    labels: dict[str, int] = {}
    lengths = array.array("Q")
    for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=4096):
        lengths.extend(map(len, batch.column("text").to_pylist()))
        for label in batch.column("label").to_pylist():
            labels[label] = labels.get(label, 0) + 1
    return {
        "rows": len(lengths),
        "labels": {label: labels[label] for label in label_order(list(labels))},
        "lengths": lengths,
    }


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
        if not 0 < evaluation_share < 1:
            raise ValueError(f"evaluation_share is {evaluation_share}: give a share between 0 and 1, such as 0.2")
        with tempfile.TemporaryDirectory(dir=os.path.dirname(targets[0])) as folder:
            rows = os.path.join(folder, "rows.parquet")
            both, digests, first_label = write_rows(train_source, rows, columns, max_bad_share, {})
            chosen = choose_evaluation(first_label, evaluation_share, seed)
            split_rows(rows, digests, chosen, *targets)
        train, evaluation = both | count_rows(targets[0]), count_rows(targets[1])
    shown = ", ".join(map(repr, train["labels"]))
    if len(train["labels"]) < 2:
        raise ValueError(f"{train_source['shown']} has one class only, {shown}: a classifier needs two or more")
    if evaluation["rows"] == 0:
        raise ValueError(f"{train_source['shown']} is too small to split: no class has two different texts")
    unknown = [label for label in evaluation["labels"] if label not in train["labels"]]
    if unknown:
        raise ValueError(
            f"evaluation has {len(unknown)} label(s) that training lacks: {', '.join(map(repr, unknown[:5]))}; "
            f"training has {shown}"
        )
    return {"train": train, "evaluation": evaluation}


def summarise(counted: dict[str, dict[str, Any]], sources: dict[str, str]) -> str:
    """Renders what was loaded as Markdown: rows, what was dropped and why, class balance, lengths.

    Args:
        counted: For `train` and `evaluation`, what `write_rows` counted.
        sources: For each set, the source as given.

    Returns:
        The Markdown text.
    """
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
        shown = label.replace("|", "\\|").replace("\n", " ")
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


@dsl.component(
    base_image=packages.BASE_IMAGE,
    packages_to_install=packages.LOAD_DATA,
    additional_funcs=[
        *volume.HELPERS,
        *load_data_fetch.HELPERS,
        *load_data_rows.HELPERS,
        label_order,
        good_rows,
        write_rows,
        require_rows,
        choose_evaluation,
        split_rows,
        count_rows,
        load_both,
        summarise,
    ],
)
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
        train_data: Path or URL (file, http, https, s3) of CSV, TSV, JSONL or Parquet, plain or gzipped.
        evaluation_data: The same for evaluation; empty to split a share off the training data.
        text_column: Name of the text's column.
        label_column: Name of the label's column.
        evaluation_share: Share of each class to split off where there is no evaluation_data.
        max_bad_share: Share of rows, from 0 to 1, that may lack a text or a label before the step fails.
        seed: Seed of the split.
        volume_path: Where the volume is mounted.
        model_name: Name of the model, a DNS-1035 label.
        run_id: The pipeline run's id.
        train: Rows to train on: string columns text and label.
        evaluation: Rows to evaluate on: the same columns.
        summary: What was loaded, what was dropped and why.
    """
    import os
    import tempfile

    folder = run_folder(volume_path, model_name, run_id)
    given = {"train": train_data, "evaluation": evaluation_data or f"{evaluation_share:.0%} of each class of training"}
    with tempfile.TemporaryDirectory() as downloads:
        sources: dict[str, dict[str, str] | None] = {"train": None, "evaluation": None}
        for part, given_source in (("train", train_data), ("evaluation", evaluation_data)):
            if given_source:
                os.mkdir(os.path.join(downloads, part))
                path, name = fetch_source(given_source, os.path.join(downloads, part))
                shown = f"{part}_data {name!r}"
                sources[part] = {
                    "path": path,
                    "name": name,
                    "shown": shown,
                    "sha256": file_sha256(path),
                }
        if sources["train"] is None:
            raise ValueError("train_data is empty: give the path or URL of a CSV, TSV, JSONL or Parquet file")
        counted = load_both(
            sources["train"],
            sources["evaluation"],
            (train.path, evaluation.path),
            (text_column, label_column),
            max_bad_share,
            evaluation_share,
            seed,
        )
    for part, artifact in (("train", train), ("evaluation", evaluation)):
        source = sources[part] or sources["train"]
        artifact.metadata.update(
            {key: value for key, value in counted[part].items() if key != "lengths"},
            label_names=list(counted["train"]["labels"]),
            source=given[part],
            source_sha256=source["sha256"],
        )
        put_on_volume(artifact.path, os.path.join(folder, "datasets", f"{part}.parquet"))
    train.metadata["run_dir"] = folder
    text = summarise(counted, given)
    with open(summary.path, "w", encoding="utf-8") as file:
        file.write(text)
    put_on_volume(summary.path, os.path.join(folder, "datasets", "summary.md"))
    print(text)
