"""Reads rows of CSV, TSV, JSONL and Parquet files, plain or packed, one row at a time."""

import codecs
import contextlib
import csv
import io
import json
import re
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, TypeVar

import pyarrow
import pyarrow.parquet

from nlp_pipeline.errors import UsageError

# How files begin that are often taken for rows: Excel sheets, new (a zip file) and old, web pages, PDF.
NO_ROWS = re.compile(rb"(?i)[\s\xef\xbb\xbf]*(PK\x03|\xd0\xcf|<!doc|<html|%PDF)")
# How the names of files of rows end.
FORM = re.compile(r"(?i)\.(csv|tsv|jsonl|ndjson|parquet)(\.(gz|zst|zip))?\Z")
# How packed files begin, and what pyarrow calls their compression.
PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd"}
# A row: the line on which it begins (its number in a Parquet file, from 1), and its cells in some columns.
Row = tuple[int, Sequence[Any]]
T = TypeVar("T")
# A text's label; or its labels, each once and sorted.
Label = str | tuple[str, ...]


class Source:
    """A file of rows; its name, which may be shown and kept, ends in its form: csv, tsv, jsonl or parquet."""

    def __init__(self, path: Path, name: str) -> None:
        match = FORM.search(name)
        if match is None:
            raise UsageError(f"{name!r}: its name must end in .csv, .tsv, .jsonl, .parquet, or so and .gz, .zst, .zip")
        self.path, self.name, self.form = path, name, match[1].lower().replace("ndjson", "jsonl")
        self.notes = Counter[str]()  # what was done in reading it, and how often

    def open(self) -> Any:
        """Opens it to read its bytes; what is packed is unpacked, whatever its name says."""
        with self.path.open("rb") as file:
            start = file.read(2)
        if start in PACKED:
            return pyarrow.input_stream(self.path, PACKED[start])
        if start != b"PK" or not zipfile.is_zipfile(self.path):
            return self.path.open("rb")
        archive = zipfile.ZipFile(self.path)
        names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX")]
        if len(names) != 1:
            raise ValueError(f"is a zip of {len(names)} files, {listed(names)}: pack one; save Excel as CSV")
        return archive.open(names[0])


def read_rows(
    source: Source, columns: Sequence[str], separator: str = ""
) -> Iterator[tuple[int, str | None, Label | None]]:
    """Yields a file's rows as text, one at a time; None where the text or the label is missing or blank.

    A list of labels, or with a separator any label, becomes a tuple; the empty list is not missing.
    """
    return clean_rows(
        source, columns, lambda line, cells: _clean_row(line, cells[0], cells[1], separator, source.notes)
    )


def clean_rows(source: Source, columns: Sequence[str], clean: Callable[[int, Sequence[Any]], T]) -> Iterator[T]:
    """Yields what is made of a file's rows, one at a time; a UsageError says of what is wrong with it where it is."""
    line = 0
    try:
        with source.open() as file:
            if not (head := file.read(99)):
                raise ValueError("is empty")
        if NO_ROWS.match(head):
            raise ValueError("is Excel, a part of a zip, HTML or PDF: save it as CSV")
        for line, cells in READERS[source.form](source, columns):
            yield clean(line, cells)
    except UnicodeDecodeError as error:  # text is decoded some lines ahead
        place = f"in line {_line_of(source)}" if error.encoding == "utf-8" else f"shortly after line {line}"
        byte = f"byte {error.object[error.start]:#04x}, {place}"
        reason = f"is not {error.encoding} ({byte}): convert it, as by iconv -f cp1252 -t utf-8"
    except (EOFError, OSError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        reason = f"can't be unpacked ({error}): make it anew"
    except ValueError as error:
        reason = str(error)
    else:
        return
    raise UsageError(f"{source.name!r} {reason}")


def _line_of(source: Source) -> int:
    """Returns the number of the first line that is not UTF-8."""
    with io.BufferedReader(source.open()) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 0


def _clean_row(
    line: int, text: Any, label: Any, separator: str, notes: Counter[str]
) -> tuple[int, str | None, Label | None]:
    try:
        if separator and isinstance(label, str) and label.strip():
            label = label.split(separator)
        if isinstance(label, list):
            return line, clean_text(text), tuple(sorted({clean for item in label if (clean := _clean_label(item))}))
        row = line, clean_text(text), _clean_label(label)
        if separator and row[2]:
            return line, row[1], (row[2],)
    except (TypeError, ValueError):  # a TypeError where it is a list, which has no hash
        raise ValueError(
            f"has in line {line} the text {repr(text)[:50]} and the label {repr(label)[:50]}: a text must be a string, "
            "a label a string, an integer or a list of them"
        ) from None
    if row[2] and isinstance(label, str) and row[2] != label:
        notes["labels stripped or brought to NFC"] += 1
    return row


def clean_text(value: Any) -> str | None:
    """Returns a cell's text as it stands; None where it is missing or blank.

    A lone surrogate, which JSON can express and UTF-8 can not, becomes U+FFFD.
    """
    if not isinstance(value, str):
        if value is None or value != value:  # NaN is how pandas writes a missing value
            return None
        if isinstance(value, list | dict | bytes):
            raise ValueError
    text = str(value)
    if not text or text.isspace():
        return None
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@lru_cache(maxsize=4096, typed=True)
def _clean_label(value: Any) -> str | None:
    """Returns a label as text, without blanks around it and in Unicode's NFC; None where it is missing."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | Decimal) and value % 1 == 0:  # so pandas writes integers where some are missing
        value = int(value)
    text = clean_text(value)
    if text is not None and not isinstance(value, str | int):
        raise ValueError
    return text and unicodedata.normalize("NFC", text.strip())


def listed(names: Sequence[str]) -> str:
    """Returns the first of some names, as messages show them."""
    return ", ".join(repr(name[:50]) for name in names[:20]) + (", ..." if len(names) > 20 else "")


def find_columns(names: Sequence[str], columns: Sequence[str]) -> list[int]:
    """Returns where the columns stand, each of which must be there once."""
    for column in columns:
        if names.count(column) != 1:
            problem = "more than one" if column in names else "no"
            raise ValueError(
                f"has {problem} column {column!r}; its columns are {listed(names) or 'none'}: set text_column and "
                "label_column"
            )
    return [names.index(column) for column in columns]


def open_text(source: Source) -> IO[str]:
    """Opens a file in the encoding that its byte-order mark tells, or zeros between letters; UTF-8 by default."""
    with source.open() as file:
        head = file.read(1 << 16)
    zeros = {head[:1]: "utf-16-be", head[1:2]: "utf-16-le"}
    encoding = "utf-16" if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else zeros.get(b"\0", "utf-8-sig")
    # Where lines end in line feeds, a carriage return within one is none.
    return io.TextIOWrapper(io.BufferedReader(source.open(), 1 << 20), encoding, newline="\n" if b"\n" in head else "")


def _names(cells: Sequence[str]) -> list[str]:
    """Returns a header's names, bare of blanks, quotes and the byte-order mark of a file put behind another."""
    return [cell.strip().strip('\ufeff"') for cell in cells]


def read_header(reader: Iterator[list[str]]) -> list[str]:
    """Returns the names of the first row that is not blank, nor Excel's line that names the delimiter."""
    rows = filter(any, map(_names, reader))
    return next((names for names in rows if not names[0].startswith("sep=")), [])


def find_delimiter(source: Source, columns: Sequence[str]) -> str:
    """Returns what stands between a CSV file's cells: that of the usual ones by which its header has the columns."""
    for delimiter in ",;\t|":
        with open_text(source) as file, contextlib.suppress(csv.Error):
            if {*columns} <= {*read_header(csv.reader(file, delimiter=delimiter))}:
                if delimiter == ",":
                    break
                source.notes[f"lines with {delimiter!r} between the cells"] = sum(1 for _ in file)
                return delimiter
    return ","


def _quoting(source: Source) -> Any:
    """Tells whether quotes in a TSV file enclose cells, as in CSV, or are text, as in GLUE's and SNLI's files.

    They are text where more rows are whole so: what only seems a quote left open takes rows into its cell.
    """
    whole: dict[int, int] = {}
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):
        widths: list[int] = []
        with open_text(source) as file, contextlib.suppress(csv.Error, UnicodeDecodeError):  # reading will say it
            widths.extend(map(len, csv.reader(file, "excel-tab", quoting=quoting, strict=True)))
        whole[quoting] = widths.count(next(filter(None, widths), 0))  # as the header
    best = max(whole, key=lambda way: whole[way])
    source.notes["lines read with quotes " + ("as text" if best else "around cells")] = whole[best]
    return best


def _read_delimited(source: Source, columns: Sequence[str]) -> Iterator[Row]:
    """Reads a CSV or TSV file (RFC 4180: quoted cells may hold line breaks).

    A row with fewer or more cells than the header gives None for all: which cell is which can't be known.
    """
    csv.field_size_limit(1 << 24)  # what is longer is an open quote, with all rows behind it
    delimiter = find_delimiter(source, columns) if source.form == "csv" else "\t"
    quoting: Any = _quoting(source) if source.form == "tsv" else csv.QUOTE_MINIMAL
    start = 1
    with open_text(source) as file:
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
        try:
            header = read_header(reader)
            places = find_columns(header, columns)
            start = reader.line_num + 1
            for cells in reader:
                names = _names(cells)
                if {*columns} <= {*names}:  # of a file put behind another
                    places = find_columns(header := names, columns)
                    source.notes["headers dropped"] += 1
                elif len(cells) == len(header):
                    yield start, [cells[at] for at in places]
                elif cells:
                    yield start, [None] * len(columns)
                start = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(
                f"has a row at line {start} that can't be read ({error}): is a quote left open there?"
            ) from None


def _read_json(source: Source, columns: Sequence[str]) -> Iterator[Row]:
    """Reads a JSON Lines file; blank lines are passed over. A row may lack a key, if another row has it."""
    keys: dict[str, None] = {}
    with open_text(source) as file:
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            try:
                row = json.loads(line.lstrip("\ufeff"))
            except (ValueError, RecursionError) as error:  # a plain ValueError is an integer too long
                raise ValueError(f"has in line {number} no JSON ({error}): each line must be one object") from None
            if not isinstance(row, dict):
                raise ValueError(f"has in line {number} a JSON {type(row).__name__}: each line must be one object")
            keys.update(dict.fromkeys(row))
            yield number, [*map(row.get, columns)]
    find_columns(list(keys), columns)


def _read_parquet(source: Source, columns: Sequence[str]) -> Iterator[Row]:
    """Reads a Parquet file, a batch in memory at a time; the last column may be a ClassLabel of Hugging Face's."""
    with source.open() as opened:
        # It is read from its end: a packed one, which is rare, must be unpacked first.
        content = opened if isinstance(opened, io.BufferedReader) else io.BytesIO(opened.read())
        try:
            # Bit by bit: by default a whole row group, which may be the whole file, is taken into memory.
            file = pyarrow.parquet.ParquetFile(content, pre_buffer=False, buffer_size=1 << 20)
            find_columns(file.schema_arrow.names, columns)
            label_of: dict[Any, str | None] = {}
            with contextlib.suppress(AttributeError, TypeError, KeyError, ValueError):  # it is none
                feature = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"][columns[-1]]
                names = feature.get("feature", feature)["names"]
                label_of = {None: None, -1: None, **dict(enumerate(names)), **dict(zip(names, names, strict=True))}
            number = 0
            for batch in file.iter_batches(512, columns=columns):
                for *texts, label in zip(*(batch[column].to_pylist() for column in columns), strict=True):
                    number += 1
                    try:
                        if label_of:
                            label = [label_of[at] for at in label] if isinstance(label, list) else label_of[label]
                    except KeyError as error:
                        raise ValueError(f"has in line {number} the label {error}, not of its ClassLabel") from None
                    yield number, (*texts, label)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"is a broken Parquet file ({reason}): write it anew") from None


READERS = {"csv": _read_delimited, "tsv": _read_delimited, "jsonl": _read_json, "parquet": _read_parquet}
