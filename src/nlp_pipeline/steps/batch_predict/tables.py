"""Rows with all of their columns, as Arrow tables of so many rows, whatever the format of their file."""

import csv
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import IO, Any

import pyarrow
import pyarrow.parquet

from nlp_pipeline.errors import UsageError
from nlp_pipeline.serving.model import valid_unicode
from nlp_pipeline.steps.load_data.rows import (
    Source,
    clean_rows,
    clean_text,
    find_delimiter,
    open_text,
    read_header,
)

BATCH = 1000  # rows that are read at once
INT64 = range(-(2**63), 2**63)


def count_rows(source: Source, text_column: str) -> int:
    """Returns how many rows a file has; all of it is read. A UsageError where it can't be, or a text is none."""
    return sum(clean_rows(source, [text_column], check_text))


def check_text(line: int, cells: Sequence[Any]) -> int:
    """Returns 1; a ValueError where a cell can be no text."""
    try:
        clean_text(cells[0])
    except ValueError:
        raise ValueError(f"has in line {line} the text {repr(cells[0])[:50]}: a text must be a string") from None
    return 1


def find_schema(source: Source, text_column: str) -> pyarrow.Schema:
    """Returns the columns of a file, with their types.

    The cells of CSV and TSV are strings. In JSON Lines a column is of strings where its values are not all numbers, or
    all booleans: what is no string is in JSON then.
    """
    if source.form == "parquet":
        with source.open() as file:
            return open_parquet(file).schema_arrow.remove_metadata()
    if source.form != "jsonl":
        with open_text(source) as file:
            delimiter = find_delimiter(source, [text_column]) if source.form == "csv" else "\t"
            names = read_header(csv.reader(file, delimiter=delimiter))
        if len({*names}) < len(names):
            raise UsageError(f"{source.name!r} has two columns of the same name among {names}: rename one")
        return pyarrow.schema([(name, pyarrow.string()) for name in names])
    kinds: dict[str, set[str]] = {}
    with open_text(source) as file:
        for line in file:
            if not line.isspace():
                for name, value in json.loads(line.lstrip("\ufeff")).items():
                    kinds.setdefault(name, set()).add(kind_of(value))
    return pyarrow.schema([(name, type_of(kinds[name])) for name in kinds])


def kind_of(value: Any) -> str:
    """Returns what a value of JSON is, as `type_of` tells kinds apart."""
    if isinstance(value, bool) or value is None:
        return type(value).__name__
    if isinstance(value, int):
        return "int" if value in INT64 else "other"
    return "float" if isinstance(value, float) else "other"


def type_of(kinds: set[str]) -> pyarrow.DataType:
    """Returns the type of a column by the kinds of its values."""
    kinds = kinds - {"NoneType"}
    if kinds == {"bool"}:
        return pyarrow.bool_()
    if kinds and kinds <= {"int", "float"}:
        return pyarrow.float64() if "float" in kinds else pyarrow.int64()
    return pyarrow.string()


def open_parquet(file: Any) -> pyarrow.parquet.ParquetFile:
    """Opens a Parquet file; a packed one is unpacked into memory, as it is read from its end."""
    content = file if isinstance(file, io.BufferedReader) else io.BytesIO(file.read())
    return pyarrow.parquet.ParquetFile(content, pre_buffer=False, buffer_size=1 << 20)


def read_tables(source: Source, schema: pyarrow.Schema, rows: int) -> Iterator[pyarrow.Table]:
    """Yields a file's rows in tables of so many, the last one of what is left; of a file without rows, an empty one."""
    held, number = schema.empty_table(), 0
    for batch in read_batches(source, schema):
        held = pyarrow.concat_tables([held, pyarrow.Table.from_batches([batch])])
        while held.num_rows >= rows:
            yield held.slice(0, rows)
            held, number = held.slice(rows), number + 1
    if held.num_rows or not number:
        yield held


def read_batches(source: Source, schema: pyarrow.Schema) -> Iterator[pyarrow.RecordBatch]:
    """Yields a file's rows, some at a time."""
    if source.form == "parquet":
        try:
            with source.open() as file:
                for batch in open_parquet(file).iter_batches(BATCH):
                    yield batch.replace_schema_metadata(None)
        except (pyarrow.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(f"{source.name!r} is a broken Parquet file ({reason}): write it anew") from None
        return
    cells = clean_rows(source, schema.names, lambda line, cells: cells)
    while rows := list(itertools.islice(cells, BATCH)):
        columns = zip(*rows, strict=True)
        yield pyarrow.record_batch(
            [make_array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
        )


def make_array(values: Sequence[Any], kind: pyarrow.DataType) -> pyarrow.Array:
    """Returns a column of values of CSV or JSON."""
    if pyarrow.types.is_string(kind):
        values = [value if value is None else as_text(value) for value in values]
    return pyarrow.array(values, kind)


def as_text(value: Any) -> str:
    """Returns a value as text: a string as it is, what else JSON has as JSON."""
    return valid_unicode(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def write_csv(table: pyarrow.Table, target: IO[str]) -> None:
    """Writes a table as CSV: what is missing as an empty cell, a list in JSON."""
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(table.column_names)
    for batch in table.to_batches(BATCH):
        columns = [["" if value is None else as_text(value) for value in column.to_pylist()] for column in batch]
        writer.writerows(zip(*columns, strict=True))
