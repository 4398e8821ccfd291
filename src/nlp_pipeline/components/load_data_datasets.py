"""How `load_data` writes datasets: the rows that are good, and a split that keeps each text on one side.

Hermetic helpers, inlined into the step as `additional_funcs`.
"""

from typing import Any, Iterator

from nlp_pipeline.components.labels import label_order
from nlp_pipeline.components.load_data_rows import read_rows


def good_rows(
    source: dict[str, str], columns: tuple[str, str], exclude: dict[bytes, str], dropped: dict[str, list[int]]
) -> Iterator[tuple[str, str, bytes]]:
    """Reads a source's rows and leaves out those that can't be used, noting their lines.

    Args:
        source: `path` of the local file, and `name`, as errors show it, which tells its format.
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
        source: As `good_rows` takes it.
        target: The Parquet file to write.
        columns: The names of the text's and the label's column in the source.
        max_bad_share: The share of rows, from 0 to 1, that may lack a text or a label.
        exclude: Digests of texts to leave out: those of the evaluation set.

    Returns:
        Counts (`rows`, `bad`, `leaked`, `duplicates`, `conflicts`), the class balance as `labels` (name to rows, in
        the labels' order) and the texts' `lengths` in characters; the written rows' digests in order; and each
        digest's label, "" where its text stands with several.

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
    label_of: dict[bytes, str] = {}
    batch: tuple[list[str], list[str]] = ([], [])
    size = 0
    with pyarrow.parquet.ParquetWriter(target, schema, compression="zstd") as writer:
        for text, label, digest in good_rows(source, columns, exclude, dropped):
            if label_of.setdefault(digest, label) != label:
                conflicts += 1
                label_of[digest] = ""
            labels[label] = labels.get(label, 0) + 1
            if len(labels) > 1000:
                raise ValueError(f"{source['name']!r}: column {columns[1]!r} has over 1000 classes: is it the label?")
            lengths.append(len(text))
            digests.append(digest)
            batch[0].append(text)
            batch[1].append(label)
            size += len(text)
            if len(batch[0]) == 4096 or size > 1 << 24:
                writer.write_batch(pyarrow.record_batch(list(batch), schema=schema))
                batch, size = ([], []), 0
        writer.write_batch(pyarrow.record_batch(list(batch), schema=schema))
    require_rows(source["name"], len(digests), dropped, max_bad_share)
    counts = {
        "rows": len(digests),
        "bad": len(dropped["bad"]),
        "leaked": len(dropped["leaked"]),
        "duplicates": len(digests) - len(label_of),
        "conflicts": conflicts,
        "labels": {label: labels[label] for label in label_order(list(labels))},
        "lengths": lengths,
    }
    return counts, digests, label_of


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


def choose_evaluation(label_of: dict[bytes, str], share: float, seed: int) -> set[bytes]:
    """Chooses the texts to evaluate on: a seeded random share of each class, at least one text of each.

    Texts are chosen, not rows, so that a text that stands twice does not come into both sets. A class with one text
    stays in training, and so does a text with several labels: no answer to it would be right.

    Args:
        label_of: Each text's digest and label, "" where it has several, in the source's order.
        share: The share of each class, between 0 and 1.
        seed: The same seed chooses the same texts from the same source.

    Returns:
        The digests of the chosen texts.
    """
    import random

    by_label: dict[str, list[bytes]] = {}
    for digest, label in label_of.items():
        if label:
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
        # write_rows keeps its row groups small.
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            is_chosen = [digest in chosen for digest in digests[at : at + table.num_rows]]
            at += table.num_rows
            to_evaluation.write_table(table.filter(pyarrow.array(is_chosen, pyarrow.bool_())))
            to_train.write_table(table.filter(pyarrow.array([not one for one in is_chosen], pyarrow.bool_())))


def count_rows(path: str) -> dict[str, Any]:
    """Returns `rows`, `labels` (name to rows, in the labels' order) and `lengths` of a Parquet file of rows."""
    import array

    import pyarrow.parquet

    labels: dict[str, int] = {}
    lengths = array.array("Q")
    file = pyarrow.parquet.ParquetFile(path)
    for group in range(file.num_row_groups):
        table = file.read_row_group(group)
        lengths.extend(map(len, table["text"].to_pylist()))
        for label in table["label"].to_pylist():
            labels[label] = labels.get(label, 0) + 1
    return {
        "rows": len(lengths),
        "labels": {label: labels[label] for label in label_order(list(labels))},
        "lengths": lengths,
    }


HELPERS = [label_order, good_rows, write_rows, require_rows, choose_evaluation, split_rows, count_rows]
