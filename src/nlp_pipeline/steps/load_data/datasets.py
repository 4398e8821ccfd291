"""Writes datasets: the rows that are good, and a split that keeps each text on one side."""

import random
from collections import Counter, defaultdict
from collections.abc import Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow
import pyarrow.compute
import pyarrow.parquet

from nlp_pipeline.errors import UsageError
from nlp_pipeline.steps.load_data.rows import Source, read_rows
from nlp_pipeline.steps.load_data.settings import LoadSettings

T = TypeVar("T")

SCHEMA = pyarrow.schema([("text", pyarrow.string()), ("label", pyarrow.string())])
MOST_CLASSES = 1000
# How many rows are read at a time, or fewer where they have so many characters.
BATCH_ROWS, BATCH_CHARACTERS = 4096, 1 << 24


@dataclass
class Dataset:
    """What was written to a Parquet file of the string columns `text` and `label`.

    Attributes:
        labels: How many rows each label has.
        lengths: The texts' lengths in characters, a `pyarrow.ChunkedArray`.
        counts: `rows`, and what `Reader` counts of the source where one was read for this file.
    """

    labels: Counter[str]
    lengths: Any
    counts: dict[str, int]


class Reader:
    """Reads the good rows of a source, and remembers their texts.

    Two texts are the same where they are alike but for blanks around them. Python's hash has 64 bits: that among a
    million texts two that differ pass as the same happens once in 37 million times.

    Args:
        source: The source.
        settings: Its columns, and the share of rows that may be bad.
        held_out: The hashes of texts to leave out: those of the evaluation data.

    Attributes:
        counts: How many rows are `bad`, which lack a text or a label; are `leaked`, whose texts are held out;
            `duplicates`, whose texts stood before; and `conflicts`, where they had another label.
        hashes: The hash of each good row's text, in order.
        label_of: Each text's label by its hash, in order; "" where it stands with several.
    """

    def __init__(self, source: Source, settings: LoadSettings, held_out: Container[int] = ()) -> None:
        self.source, self.settings, self.held_out = source, settings, held_out
        self.counts = {"bad": 0, "leaked": 0, "duplicates": 0, "conflicts": 0}
        self.hashes: list[int] = []
        self.label_of: dict[int, str] = {}

    def tables(self) -> Iterator[pyarrow.Table]:
        """Yields the good rows, a few at a time.

        Raises:
            UsageError: There are too many bad rows, or no good ones.
        """
        name, counts, share = self.source.name, self.counts, self.settings.max_bad_share
        texts: list[str] = []
        labels: list[str] = []
        bad_lines: list[int] = []
        size = 0
        for line, text, label in read_rows(self.source, (self.settings.text_column, self.settings.label_column)):
            if text is None or label is None:
                bad_lines.append(line)
                continue
            text_hash = hash(text.strip())
            if text_hash in self.held_out:
                counts["leaked"] += 1
                continue
            self.hashes.append(text_hash)
            if self.label_of.setdefault(text_hash, label) != label:
                counts["conflicts"] += 1
                self.label_of[text_hash] = ""
            texts.append(text)
            labels.append(label)
            size += len(text)
            if len(texts) == BATCH_ROWS or size > BATCH_CHARACTERS:
                yield pyarrow.table([texts, labels], SCHEMA)
                texts, labels, size = [], [], 0
        kept, bad = len(self.hashes), len(bad_lines)
        counts["bad"], counts["duplicates"] = bad, kept - len(self.label_of)
        if bad > share * (total := kept + bad + counts["leaked"]):
            raise UsageError(
                f"{name!r}: {bad} of {total} rows lack a text or a label, or have cells too many, the first at line "
                f"{', '.join(map(str, bad_lines[:5]))}; max_bad_share allows {share:.2%}: repair the rows"
            )
        if not kept:
            raise UsageError(
                f"{name!r}: none of its {total} rows can be used: {bad} lack a text or a label, the texts of "
                f"{counts['leaked']} stand in the evaluation data too"
            )
        yield pyarrow.table([texts, labels], SCHEMA)


def write_datasets(sources: list[Source], settings: LoadSettings, paths: list[Path], scratch: Path) -> list[Dataset]:
    """Writes the rows to train on and those to evaluate on, none of whose texts are trained on.

    Args:
        sources: Of both; or one, of which a share is split off to evaluate on.
        settings: How they are read and split.
        paths: The Parquet files of the rows to train on, and to evaluate on.
        scratch: A file to be written in between.
    """
    reader = Reader(sources[-1], settings)
    if len(sources) == 2:
        evaluation = write(reader.tables(), paths[1], reader.counts)
        reader = Reader(sources[0], settings, reader.label_of)
        return [write(reader.tables(), paths[0], reader.counts), evaluation]
    write(reader.tables(), scratch, {}, "lz4")
    chosen = choose_evaluation(reader.label_of, settings.evaluation_share, settings.seed)
    is_chosen = [text_hash in chosen for text_hash in reader.hashes]
    train = write(filtered(scratch, [not one for one in is_chosen]), paths[0], reader.counts)
    return [train, write(filtered(scratch, is_chosen), paths[1], {})]


def choose_evaluation(label_of: dict[int, str], share: float, seed: int) -> set[int]:
    """Chooses the texts to evaluate on: a seeded random share of each class, at least one text of each.

    Texts are chosen, not rows, so that a text that stands twice does not come into both sets. A class with one text
    stays in training, and so does a text with several labels: no answer to it would be right.

    Args:
        label_of: As `Reader` has it.
        share: The share of each class, between 0 and 1.
        seed: The same seed chooses the same texts from the same source.

    Returns:
        The hashes of the chosen texts.
    """
    texts: dict[str, list[int]] = defaultdict(list)
    for text_hash, label in label_of.items():
        texts[label].append(text_hash)
    texts.pop("", None)
    chosen: set[int] = set()
    for label, hashes in texts.items():
        count = min(max(1, round(share * len(hashes))), len(hashes) - 1)
        chosen.update(random.Random(f"{seed}/{label}").sample(hashes, count))  # noqa: S311, rows, not secrets
    return chosen


def filtered(path: Path, mask: list[bool]) -> Iterator[pyarrow.Table]:
    """Yields those rows of a Parquet file that a mask has, a row group at a time."""
    file = pyarrow.parquet.ParquetFile(path)
    start = 0
    for group in range(file.num_row_groups):
        table = file.read_row_group(group)
        yield table.filter(pyarrow.array(mask[start : start + table.num_rows], pyarrow.bool_()))
        start += table.num_rows


def write(tables: Iterator[pyarrow.Table], path: Path, counts: dict[str, int], compression: str = "zstd") -> Dataset:
    """Writes tables into a Parquet file, each as a row group.

    Args:
        tables: The tables.
        path: The file.
        counts: What else is counted of the dataset.
        compression: The file's, as pyarrow names it.

    Raises:
        UsageError: There are too many classes.
    """
    labels: Counter[str] = Counter()
    lengths: list[Any] = []
    # Texts seldom repeat: a dictionary of them, or the first and last in order, would cost time and bring nothing.
    options = {"compression": compression, "use_dictionary": ["label"], "write_statistics": False}
    with pyarrow.parquet.ParquetWriter(path, SCHEMA, **options) as writer:
        for table in prefetch(tables):
            writer.write_table(table)
            labels.update(table["label"].to_pylist())
            lengths += pyarrow.compute.utf8_length(table["text"]).chunks
            if len(labels) > MOST_CLASSES:
                shown = max(labels)[:50]
                raise UsageError(f"there are over {MOST_CLASSES} classes, such as {shown!r}: is label_column right?")
    return Dataset(labels, pyarrow.chunked_array(lengths, pyarrow.int32()), {"rows": labels.total(), **counts})


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """Yields items, none of them None, while a thread makes the next one: pyarrow works without Python's lock."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item
