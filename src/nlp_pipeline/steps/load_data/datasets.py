"""Writes datasets: the rows that are good, and a split that keeps each text on one side.

What is asked of all texts at once, such as which stand twice, DuckDB answers by their hashes, in a fixed memory: what
has no room there it writes to disk.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import pyarrow
import pyarrow.parquet

from nlp_pipeline.errors import UsageError
from nlp_pipeline.labels import MISSING, appearance, labels_of
from nlp_pipeline.steps.load_data.fetch import fetch_source, list_sources
from nlp_pipeline.steps.load_data.rows import Label, read_rows
from nlp_pipeline.steps.load_data.settings import LoadSettings
from nlp_pipeline.volume import file_sha256

MOST_CLASSES = 1000
# How many rows are read at a time, or fewer where they have so many characters.
BATCH_ROWS, BATCH_CHARACTERS = 4096, 1 << 24
# How many batches are written to one file: a million rows.
PART = 256
MEMORY = "256MB"  # DuckDB's
# The rows of a file whose texts are not held out; whether the text stood before, and whether it did with another label.
COMPARE = """
    CREATE OR REPLACE TABLE rows AS
    SELECT file_row_number AS number, hash, label,
        row_number() OVER same > 1 AS again, min(label) OVER same < max(label) OVER same AS conflicts
    FROM read_parquet(?, file_row_number = true) ANTI JOIN held_out USING (hash)
    WINDOW same AS (PARTITION BY hash ORDER BY file_row_number)
"""
# The texts that stand with one label, or the same labels, only.
CLEAR = """
    CREATE TABLE texts AS
    SELECT hash, min(number) AS number, min(label) AS label FROM rows GROUP BY hash HAVING NOT bool_or(conflicts)
"""
CHOOSE = """
    INSERT INTO held_out SELECT hash FROM texts JOIN classes USING (label)
    QUALIFY row_number() OVER (PARTITION BY rarest ORDER BY hash(number, ?)) <= most
"""
# Of each row of a file, in order, whether its text is held out, or is not.
HELD_OUT = "SELECT hash {} (FROM held_out) FROM read_parquet(?, file_row_number = true) ORDER BY file_row_number"
# Of the texts' lengths in characters.
QUANTILES = [0, 0.25, 0.5, 0.75, 0.95, 1]


@dataclass
class Dataset:
    """What was written as Parquet of the columns `text` and `label`, a string or a list of strings."""

    labels: Counter[str]  # how many rows each has
    sizes: Counter[int]  # how many rows have so many labels
    missing: Counter[str]  # how many rows have a text that may stand for a missing one
    lengths: list[int]  # by QUANTILES
    counts: dict[str, int]  # `rows`, and what `Reader` counts of the source where one was read for this file


class Reader:
    """Reads the good rows of a source into a Parquet file, with hashes of their texts.

    Two texts are the same where they are alike but for blanks around them. Python's hash has 64 bits: that among
    ten million texts two that differ pass as the same happens once in 370,000 times.
    """

    def __init__(self, data: str, settings: LoadSettings, path: Path, other: "Reader | None" = None) -> None:
        self.addresses, self.settings, self.path = list_sources(data), settings, path
        # By what they look like, the labels that others become where they are merged: the first of their kind.
        self.spellings: dict[str, str] = other.spellings if other else {}
        # Whether a row has a list of labels: the first row tells it of all.
        self.has_lists: bool | None = other.has_lists if other else None
        self.digests: dict[str, str] = {}  # of the files, by their names
        self.notes = Counter[str]()  # what was done in reading them, and how often
        # Rows that lack a text or a label; whose text is held out, stood before, stood before with another label.
        self.counts = {"bad": 0, "leaked": 0, "duplicates": 0, "conflicts": 0}

    @property
    def name(self) -> str:
        """What the source is called."""
        first, *others = self.digests
        return f"{first} and {len(others)} more, to {others[-1]}" if others else first

    @property
    def digest(self) -> str:
        """The SHA-256 of the only file; of several, that of what `sha256sum` prints of them."""
        lines = [f"{digest}  {name}\n" for name, digest in self.digests.items()]
        return sha256("".join(lines).encode()).hexdigest() if len(lines) > 1 else self.digests[self.name]

    def read(self, database: Any) -> None:
        """Reads all rows; a UsageError where there is none to be used, or too many are bad."""
        bad_lines: list[str] = []
        _write(self.tables(bad_lines), self.path)
        database.execute(COMPARE, [str(self.path)])
        question = "SELECT count(*), count_if(again), count_if(conflicts) FROM rows"
        [(good, self.counts["duplicates"], self.counts["conflicts"])] = database.execute(question).fetchall()
        bad, rows = self.counts["bad"], pyarrow.parquet.read_metadata(self.path).num_rows
        self.counts["leaked"] = rows - good
        if not good or bad > self.settings.max_bad_share * (rows + bad):
            raise UsageError(
                f"{self.name!r}: {good} of its {rows + bad} rows can be used: {bad} lack a text or a label, or have "
                f"cells too many (lines [{', '.join(bad_lines)}]; max_bad_share allows "
                f"{self.settings.max_bad_share:.2%}), the texts of {rows - good} stand in the evaluation data too"
            )

    def tables(self, bad_lines: list[str]) -> Iterator[pyarrow.Table]:
        """Yields the good rows, a few at a time; notes where the first bad ones are."""
        texts: list[str] = []
        labels: list[Label] = []
        size = 0
        columns = (self.settings.text_column, self.settings.label_column)
        for address in self.addresses:  # one is on disk at a time, of those that are downloaded
            source = fetch_source(address, self.path.with_suffix(".download"))
            self.digests[source.name] = file_sha256(source.path)
            for line, text, label in read_rows(source, columns, self.settings.label_separator):
                if label and self.settings.doubtful_values == "merge":
                    label = self.merged(label)
                    text = None if text and re.match(MISSING, text) else text
                if text is None or label is None:
                    self.counts["bad"] += 1
                    if self.counts["bad"] <= 5:
                        bad_lines.append(f"{source.name}:{line}" if len(self.addresses) > 1 else str(line))
                    continue
                is_list = isinstance(label, tuple)
                if self.has_lists not in (None, is_list):
                    raise UsageError(
                        f"{source.name!r} has in line {line} the label {repr(label)[:50]}, where others are "
                        f"{'no lists' if is_list else 'lists'}: make all of them lists, or set label_separator"
                    )
                self.has_lists = is_list
                texts.append(text)
                labels.append(label)
                size += len(text)
                if len(texts) == BATCH_ROWS or size > BATCH_CHARACTERS:
                    yield self.table(texts, labels)
                    texts, labels, size = [], [], 0
            self.notes += source.notes
        yield self.table(texts, labels)

    def merged(self, label: Label) -> Label | None:
        """Returns a label, or labels, in the first spelling that looks so; None where only missing ones are left."""
        if isinstance(label, tuple):
            return tuple(sorted({merged for part in label if isinstance(merged := self.merged(part), str)})) or None
        look = appearance(label)
        return self.spellings.setdefault(look, label) if look else None

    def table(self, texts: list[str], labels: list[Label]) -> pyarrow.Table:
        """Returns rows, and hashes of their texts."""
        kind = pyarrow.list_(pyarrow.string()) if self.has_lists else pyarrow.string()
        schema = pyarrow.schema([("text", pyarrow.string()), ("label", kind), ("hash", pyarrow.int64())])
        return pyarrow.table([texts, labels, [hash(text.strip()) for text in texts]], schema)


def write_datasets(settings: LoadSettings, paths: list[Path], folder: Path) -> tuple[list[Dataset], list[Reader]]:
    """Writes the rows to train on and those to evaluate on, none of whose texts are trained on.

    Of each there is a path, and a source; or of one source a share is split off to evaluate on. The folder is for what
    is written in between. The sources' readers are returned too.
    """
    options: Any = {"memory_limit": MEMORY, "temp_directory": str(folder)}
    with duckdb.connect(folder / "database", config=options) as database:
        database.execute("CREATE TABLE held_out (hash BIGINT)")
        readers: list[Reader] = []
        if settings.evaluation_data.strip():
            readers.append(Reader(settings.evaluation_data, settings, folder / "evaluation"))
            readers[0].read(database)
            database.execute("INSERT INTO held_out SELECT DISTINCT hash FROM rows")
        train = Reader(settings.train_data, settings, folder / "train", *readers)
        train.read(database)
        readers.insert(0, train)
        if len(readers) == 1:
            choose_evaluation(database, settings.evaluation_share, settings.seed)
        datasets = []
        for path, reader, condition in zip(paths, (train, readers[-1]), ("NOT IN", "IN"), strict=True):
            mask = database.sql(HELD_OUT.format(condition), params=[str(reader.path)]).to_arrow_table()[0]
            tables = _filtered(reader.path, mask)
            parts = name_parts(path, pyarrow.parquet.read_metadata(reader.path).num_row_groups)
            for part in parts:
                part.parent.mkdir(exist_ok=True)
                _write(itertools.islice(tables, PART), part)
            datasets.append(_describe(database, parts, {} if path != paths[0] and reader is train else reader.counts))
    return datasets, readers


def choose_evaluation(database: Any, share: float, seed: int) -> None:
    """Chooses the texts to evaluate on: a seeded random share of each class, at least one text of each.

    A text of several labels counts with the rarest of them; none of a label's texts is chosen where all would be.

    Texts are chosen, not rows, so that a text that stands twice does not come into both sets. A class with one text
    stays in training, and so does a text that stands with other labels too: no answer would be right. The same seed
    chooses the same texts from the same source.
    """
    database.execute(CLEAR)
    texts, counts = _count(database.table("texts"))
    rarest = [min(labels_of(label), key=lambda part: (counts[part], part), default="") for label, _ in texts]
    sizes = Counter[str]()
    for name, (_, count) in zip(rarest, texts, strict=True):
        sizes[name] += count
    most = [min(max(1, round(share * sizes[name])), sizes[name] - 1) for name in rarest]
    database.register(
        "classes", pyarrow.table([[label for label, _ in texts], rarest, most], ["label", "rarest", "most"])
    )
    database.execute(CHOOSE, [seed])
    _, chosen = _count(database.table("texts").filter("hash IN (FROM held_out)"))
    if lost := [label for label in chosen if chosen[label] == counts[label]]:
        # Only where the label is a list.
        database.execute(
            "DELETE FROM held_out WHERE hash IN (SELECT hash FROM texts WHERE list_has_any(label, ?))", [lost]
        )


def name_parts(path: Path, groups: int) -> list[Path]:
    """Returns the files that so many row groups are written to: one or, where they are many, those of a folder."""
    count = -(-groups // PART)
    return [path] if count == 1 else [path / f"part-{number:05}.parquet" for number in range(count)]


def _describe(database: Any, parts: list[Path], counts: dict[str, int]) -> Dataset:
    rows = database.read_parquet(list(map(str, parts)))
    groups, labels = _count(rows)
    if len(labels) > MOST_CLASSES:
        label = max(labels)[:50]
        raise UsageError(f"there are over {MOST_CLASSES} classes, such as {label!r}: is label_column right?")
    sizes = Counter[int]()
    for label, count in groups:
        sizes[len(labels_of(label))] += count
    missing = rows.filter(f"regexp_matches(text, '{MISSING}')").aggregate("text, count(*)").fetchall()
    [(lengths,)] = rows.aggregate(f"quantile_disc(length(text), {QUANTILES})").fetchall()
    return Dataset(labels, sizes, Counter(dict(missing)), lengths, {"rows": sizes.total(), **counts})


def _count(texts: Any) -> tuple[list[tuple[Any, int]], Counter[str]]:
    """Returns how many texts have the same label, or labels; and how many have each."""
    groups = texts.aggregate("label, count(*)").fetchall()
    counts = Counter[str]()
    for label, count in groups:
        counts.update(dict.fromkeys(labels_of(label), count))
    return groups, counts


def _filtered(path: Path, mask: Any) -> Iterator[pyarrow.Table]:
    """Yields those rows of a Parquet file that a mask has, a row group at a time."""
    file = pyarrow.parquet.ParquetFile(path)
    start = 0
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=["text", "label"])
        yield table.filter(mask[start : start + table.num_rows])
        start += table.num_rows


def _write(tables: Iterator[pyarrow.Table], path: Path) -> None:
    """Writes tables into a Parquet file, each as a row group."""
    first = next(tables)
    with pyarrow.parquet.ParquetWriter(path, first.schema, compression="zstd") as writer:
        for table in itertools.chain([first], tables):
            writer.write_table(table)
