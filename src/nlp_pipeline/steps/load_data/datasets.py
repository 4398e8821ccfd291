"""Writes datasets: the rows that are good, and a split that keeps each text on one side."""

import itertools
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.compute
import pyarrow.parquet

from nlp_pipeline.errors import UsageError
from nlp_pipeline.labels import MISSING, appearance, count_labels, labels_of
from nlp_pipeline.steps.load_data.rows import Label, Source, read_rows
from nlp_pipeline.steps.load_data.settings import LoadSettings

MOST_CLASSES = 1000
# How many rows are read at a time, or fewer where they have so many characters.
BATCH_ROWS, BATCH_CHARACTERS = 4096, 1 << 24


@dataclass
class Dataset:
    """What was written to a Parquet file of the columns `text` and `label`, a string or a list of strings."""

    labels: Counter[str]  # how many rows each has
    missing: Counter[str]  # how many rows have a text that may stand for a missing one
    lengths: Any  # the texts' lengths in characters, a pyarrow.ChunkedArray
    counts: dict[str, int]  # `rows`, and what `Reader` counts of the source where one was read for this file
    sizes: Counter[int]  # how many rows have so many labels


class Reader:
    """Reads the good rows of a source, but those whose texts another has, and remembers their texts by their hashes.

    Two texts are the same where they are alike but for blanks around them. Python's hash has 64 bits: that among a
    million texts two that differ pass as the same happens once in 37 million times.
    """

    def __init__(self, source: Source, settings: LoadSettings, other: "Reader | None" = None) -> None:
        self.source, self.settings = source, settings
        self.held_out = other.label_of if other else {}
        # By what they look like, the labels that others become where they are merged: the first of their kind.
        self.spellings: dict[str, str] = other.spellings if other else {}
        # Rows that lack a text or a label; whose text is held out, stood before, stood before with another label.
        self.counts = {"bad": 0, "leaked": 0, "duplicates": 0, "conflicts": 0}
        self.hashes: list[int] = []  # of each good row's text, in order
        # Each text's label, or labels, by its hash, in order; "" where it stands with other ones too.
        self.label_of: dict[int, Label] = {}
        # Whether a row has a list of labels: the first row tells it of all.
        self.has_lists: bool | None = other.has_lists if other else None

    def tables(self) -> Iterator[pyarrow.Table]:
        """Yields the good rows, a few at a time; a UsageError where there are none, or too many bad ones."""
        counts = self.counts
        texts: list[str] = []
        labels: list[Label] = []
        bad_lines: list[int] = []
        size = 0
        columns = (self.settings.text_column, self.settings.label_column)
        for line, text, label in read_rows(self.source, columns, self.settings.label_separator):
            if label and self.settings.doubtful_values == "merge":
                label = self.merged(label)
                text = None if text and re.match(MISSING, text) else text
            if text is None or label is None:
                bad_lines.append(line)
                continue
            is_list = isinstance(label, tuple)
            if self.has_lists not in (None, is_list):
                raise UsageError(
                    f"{self.source.name!r} has in line {line} the label {repr(label)[:50]}, where others are "
                    f"{'no lists' if is_list else 'lists'}: make all of them lists, or set label_separator"
                )
            self.has_lists = is_list
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
                yield self.table(texts, labels)
                texts, labels, size = [], [], 0
        good, bad = len(self.hashes), len(bad_lines)
        counts["bad"], counts["duplicates"] = bad, good - len(self.label_of)
        total = good + bad + counts["leaked"]
        if not good or bad > self.settings.max_bad_share * total:
            raise UsageError(
                f"{self.source.name!r}: {good} of its {total} rows can be used: {bad} lack a text or a label, or have "
                f"cells too many (lines {bad_lines[:5]}; max_bad_share allows {self.settings.max_bad_share:.2%}), the "
                f"texts of {counts['leaked']} stand in the evaluation data too"
            )
        yield self.table(texts, labels)

    def merged(self, label: Label) -> Label | None:
        """Returns a label, or labels, in the first spelling that looks so; None where only missing ones are left."""
        if isinstance(label, tuple):
            return tuple(sorted({merged for part in label if isinstance(merged := self.merged(part), str)})) or None
        look = appearance(label)
        return self.spellings.setdefault(look, label) if look else None

    def table(self, texts: list[str], labels: list[Label]) -> pyarrow.Table:
        """Returns rows as they are written."""
        kind = pyarrow.list_(pyarrow.string()) if self.has_lists else pyarrow.string()
        return pyarrow.table([texts, labels], pyarrow.schema([("text", pyarrow.string()), ("label", kind)]))


def write_datasets(sources: list[Source], settings: LoadSettings, paths: list[Path], scratch: Path) -> list[Dataset]:
    """Writes the rows to train on and those to evaluate on, none of whose texts are trained on.

    Of each there is a path, and a source; or of one source a share is split off to evaluate on. `scratch` is a file to
    be written in between.
    """
    reader = Reader(sources[-1], settings)
    if len(sources) == 2:
        evaluation = _write(reader.tables(), paths[1], reader.counts)
        reader = Reader(sources[0], settings, reader)
        return [_write(reader.tables(), paths[0], reader.counts), evaluation]
    _write(reader.tables(), scratch, {})
    chosen = choose_evaluation(reader.label_of, settings.evaluation_share, settings.seed)
    is_chosen = pyarrow.array([text_hash in chosen for text_hash in reader.hashes], pyarrow.bool_())
    train = _write(_filtered(scratch, pyarrow.compute.invert(is_chosen)), paths[0], reader.counts)
    return [train, _write(_filtered(scratch, is_chosen), paths[1], {})]


def choose_evaluation(label_of: dict[int, Label], share: float, seed: int) -> set[int]:
    """Chooses the texts to evaluate on: a seeded random share of each class, at least one text of each.

    A text of several labels counts with the rarest of them; none of a label's texts is chosen where all would be.

    Texts are chosen, not rows, so that a text that stands twice does not come into both sets. A class with one text
    stays in training, and so does a text that stands with other labels too: no answer would be right. The same seed
    chooses the same texts from the same source. Texts stand for themselves by their hashes, as `Reader` has them.
    """
    several = {at: labels_of(label) for at, label in label_of.items() if label != ""}
    counts = count_labels(several.values())
    texts: dict[str, list[int]] = defaultdict(list)
    for text_hash, labels in several.items():
        texts[min(labels, key=lambda label: (counts[label], label), default="")].append(text_hash)
    chosen: set[int] = set()
    for label, hashes in texts.items():
        count = min(max(1, round(share * len(hashes))), len(hashes) - 1)
        chosen.update(random.Random(f"{seed}/{label}").sample(hashes, count))  # noqa: S311, rows, not secrets
    counts.subtract(label for text_hash in chosen for label in several[text_hash])
    lost = {label for label, count in counts.items() if not count}
    return {text_hash for text_hash in chosen if lost.isdisjoint(several[text_hash])}


def _filtered(path: Path, mask: Any) -> Iterator[pyarrow.Table]:
    """Yields those rows of a Parquet file that a mask has, a row group at a time."""
    file = pyarrow.parquet.ParquetFile(path)
    start = 0
    for group in range(file.num_row_groups):
        table = file.read_row_group(group)
        yield table.filter(mask[start : start + table.num_rows])
        start += table.num_rows


def _write(tables: Iterator[pyarrow.Table], path: Path, counts: dict[str, int]) -> Dataset:
    """Writes tables into a Parquet file, each as a row group; `counts` are complete when they are exhausted."""
    labels, missing, sizes = Counter[str](), Counter[str](), Counter[int]()
    lengths: list[Any] = []
    first = next(tables)
    with pyarrow.parquet.ParquetWriter(path, first.schema, compression="zstd") as writer:
        for table in itertools.chain([first], tables):
            writer.write_table(table)
            column = table["label"].to_pylist()
            labels.update(count_labels(column))
            sizes.update(len(labels_of(label)) for label in column)
            missing.update(
                table.filter(pyarrow.compute.match_substring_regex(table["text"], MISSING))["text"].to_pylist()
            )
            lengths += pyarrow.compute.utf8_length(table["text"]).chunks
            if len(labels) > MOST_CLASSES:
                label = max(labels)[:50]
                raise UsageError(f"there are over {MOST_CLASSES} classes, such as {label!r}: is label_column right?")
    counts = {"rows": sizes.total(), **counts}
    return Dataset(labels, missing, pyarrow.chunked_array(lengths, pyarrow.int32()), counts, sizes)
