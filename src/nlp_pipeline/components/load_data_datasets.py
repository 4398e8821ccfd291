"""How `load_data` writes datasets: the rows that are good, and a split that keeps each text on one side.

Hermetic helpers, inlined into the step as `additional_funcs`.
"""

from typing import Any, Iterator, Mapping, Sequence

from nlp_pipeline.components.labels import label_order
from nlp_pipeline.components.load_data_rows import read_rows


def good_batches(
    source: dict[str, str], columns: tuple[str, str], exclude: dict[int, str], dropped: dict[str, list[int]]
) -> Iterator[tuple[list[str], list[str], list[int]]]:
    """Reads a source's rows and leaves out those that can't be used, noting their lines.

    Args:
        source: `path` of the local file, and `name`, as errors show it, which tells its format.
        columns: The names of the text's and the label's column.
        exclude: Hashes of texts to leave out: those of the evaluation set.
        dropped: Gets the lines of the rows left out: `bad` lack a text or a label, `leaked` stand in `exclude`.

    Yields:
        The next rows, few enough for memory: texts, labels and the texts' hashes. Two texts are the same where they
        are alike but for blanks around them. Python's hash has 64 bits: that among a million texts two that differ
        pass as the same happens once in 37 million times.
    """
    texts: list[str] = []
    labels: list[str] = []
    hashes: list[int] = []
    size = 0
    for line, text, label in read_rows(source["path"], source["name"], *columns):
        if text is None or label is None:
            dropped["bad"].append(line)
            continue
        text_hash = hash(text.strip())
        if text_hash in exclude:
            dropped["leaked"].append(line)
            continue
        texts.append(text)
        labels.append(label)
        hashes.append(text_hash)
        size += len(text)
        if len(texts) == 4096 or size > 1 << 24:
            yield texts, labels, hashes
            texts, labels, hashes, size = [], [], [], 0
    yield texts, labels, hashes


def one_ahead(items: Iterator[Any]) -> Iterator[Any]:
    """Yields items, none of them None, while a thread makes the next one: pyarrow works without Python's lock."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def write_rows(
    source: dict[str, str],
    target: str,
    columns: tuple[str, str],
    max_bad_share: float,
    exclude: dict[int, str],
    compression: str = "zstd",
) -> tuple[dict[str, Any], list[int], dict[int, str]]:
    """Streams a source's good rows into a Parquet file with the string columns `text` and `label`.

    Args:
        source: As `good_batches` takes it.
        target: The Parquet file to write.
        columns: The names of the text's and the label's column in the source.
        max_bad_share: The share of rows, from 0 to 1, that may lack a text or a label.
        exclude: Hashes of texts to leave out: those of the evaluation set.
        compression: The Parquet file's, as pyarrow names it.

    Returns:
        Counts (`rows`, `bad`, `leaked`, `duplicates`, `conflicts`), the class balance as `labels` (name to rows, in
        the labels' order) and the texts' `lengths` in characters; the written rows' hashes in order; and each
        hash's label, "" where its text stands with several.

    Raises:
        ValueError: Too many bad rows, no good row, or more than a thousand classes.
    """
    import array
    from collections import Counter

    import pyarrow

    dropped: dict[str, list[int]] = {"bad": [], "leaked": []}
    conflicts = 0
    counted: Counter[str] = Counter()
    lengths = array.array("Q")
    hashes: list[int] = []
    label_of: dict[int, str] = {}
    with parquet_writer(target, compression) as writer:
        for texts, labels, new in one_ahead(good_batches(source, columns, exclude, dropped)):
            counted.update(labels)
            if len(counted) > 1000:
                raise ValueError(f"{source['name']!r}: column {columns[1]!r} has over 1000 classes: is it the label?")
            for text_hash, label in zip(new, labels, strict=True):
                if label_of.setdefault(text_hash, label) != label:
                    conflicts += 1
                    label_of[text_hash] = ""
            hashes += new
            lengths.extend(map(len, texts))
            writer.write_batch(pyarrow.record_batch([texts, labels], schema=writer.schema))
    require_rows(source["name"], len(hashes), dropped, max_bad_share)
    counts = {
        "rows": len(hashes),
        "bad": len(dropped["bad"]),
        "leaked": len(dropped["leaked"]),
        "duplicates": len(hashes) - len(label_of),
        "conflicts": conflicts,
        "labels": in_order(counted),
        "lengths": lengths,
    }
    return counts, hashes, label_of


def require_rows(name: str, kept: int, dropped: dict[str, list[int]], max_bad_share: float) -> None:
    """Makes sure that a source has rows, and few bad ones.

    Args:
        name: The source as errors show it.
        kept: How many rows are good.
        dropped: The lines of those that are not, as `good_rows` notes them.
        max_bad_share: The share of rows, from 0 to 1, that may lack a text or a label.

    Raises:
        ValueError: It has none, or too many bad ones; the message names the first lines.
    """
    bad = len(dropped["bad"])
    total = kept + bad + len(dropped["leaked"])
    if total == 0:
        raise ValueError(f"{name!r} has no rows: give a file with some")
    if bad > max_bad_share * total:
        raise ValueError(
            f"{name!r}: {bad} of {total} rows lack a text or a label, or have cells too many, the first at line "
            f"{', '.join(map(str, dropped['bad'][:5]))}; max_bad_share allows {max_bad_share:.2%}: mend the rows"
        )
    if kept == 0:
        raise ValueError(
            f"{name!r}: none of its {total} rows is left: {bad} lack a text or a label, the texts of "
            f"{len(dropped['leaked'])} stand in the evaluation data too"
        )


def choose_evaluation(label_of: dict[int, str], share: float, seed: int) -> set[int]:
    """Chooses the texts to evaluate on: a seeded random share of each class, at least one text of each.

    Texts are chosen, not rows, so that a text that stands twice does not come into both sets. A class with one text
    stays in training, and so does a text with several labels: no answer to it would be right.

    Args:
        label_of: Each text's hash and label, "" where it has several, in the source's order.
        share: The share of each class, between 0 and 1.
        seed: The same seed chooses the same texts from the same source.

    Returns:
        The hashes of the chosen texts.
    """
    import random

    by_label: dict[str, list[int]] = {}
    for text_hash, label in label_of.items():
        if label:
            by_label.setdefault(label, []).append(text_hash)
    chosen: set[int] = set()
    for label in sorted(by_label):
        hashes = by_label[label]
        count = min(max(1, round(share * len(hashes))), len(hashes) - 1)
        chosen.update(random.Random(f"{seed}/{label}").sample(hashes, count))  # noqa: S311, rows, not secrets
    return chosen


def split_rows(
    rows: str, lengths: Sequence[int], is_chosen: list[bool], train: str, evaluation: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Streams a Parquet file's rows into two: the chosen ones and the others.

    Args:
        rows: The Parquet file.
        lengths: Each row's length, in the file's order.
        is_chosen: Whether each row is to evaluate on.
        train: The Parquet file to write the others to.
        evaluation: The Parquet file to write the chosen to.

    Returns:
        For training and for evaluation, what was written: `rows`, `labels` and `lengths`, as `write_rows` tells them.
    """
    import array
    from collections import Counter
    from itertools import compress

    import pyarrow
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(rows)
    is_other = [not one for one in is_chosen]

    def halves() -> Iterator[tuple[Any, Any]]:
        at = 0
        # write_rows keeps its row groups small.
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            here = slice(at, at + table.num_rows)
            at += table.num_rows
            yield (
                table.filter(pyarrow.array(is_other[here], pyarrow.bool_())),
                table.filter(pyarrow.array(is_chosen[here], pyarrow.bool_())),
            )

    counted: list[Counter[str]] = [Counter(), Counter()]
    with (
        parquet_writer(train, "zstd") as to_train,
        parquet_writer(evaluation, "zstd") as to_evaluation,
    ):
        for tables in one_ahead(halves()):
            for table, writer, labels in zip(tables, (to_train, to_evaluation), counted, strict=True):
                writer.write_table(table)
                labels.update(table["label"].to_pylist())
    of_train, of_evaluation = (
        {"rows": labels.total(), "labels": in_order(labels), "lengths": array.array("Q", compress(lengths, which))}
        for labels, which in zip(counted, (is_other, is_chosen), strict=True)
    )
    return of_train, of_evaluation


def parquet_writer(path: str, compression: str) -> Any:
    """Opens a Parquet file for rows of the string columns `text` and `label`, to be closed with `with`."""
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([("text", pyarrow.string()), ("label", pyarrow.string())])
    # Texts seldom repeat: a dictionary of them, or the first and last in order, would cost time and bring nothing.
    return pyarrow.parquet.ParquetWriter(
        path, schema, compression=compression, use_dictionary=["label"], write_statistics=False
    )


def in_order(labels: Mapping[str, int]) -> dict[str, int]:
    """Returns how many rows each label has, in the labels' order."""
    return {label: labels[label] for label in label_order(list(labels))}
