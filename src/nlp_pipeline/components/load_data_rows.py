"""How `load_data` reads rows: CSV, TSV, JSONL and Parquet, plain or gzipped, one row at a time.

Hermetic helpers, inlined into the step as `additional_funcs`.
"""

from typing import IO, Any, Iterator


def format_of_name(name: str) -> tuple[str, bool]:
    """Tells a file's format by the end of its name.

    Args:
        name: The file's name, path or URL, as in `reviews.csv.gz`.

    Returns:
        The format ("csv", "tsv", "jsonl" or "parquet"), and whether the file is gzipped.

    Raises:
        ValueError: The end tells no known format.
    """
    import re

    forms = {"csv": "csv", "tsv": "tsv", "jsonl": "jsonl", "ndjson": "jsonl", "parquet": "parquet"}
    match = re.search(r"\.([a-z]+)(\.gz)?\Z", name.lower())
    if not match or match[1] not in forms:
        raise ValueError(f"{name!r}: its name must end in .csv, .tsv, .jsonl or .parquet, or in one of these and .gz")
    return forms[match[1]], match[2] is not None


def check_content(path: str, name: str) -> None:
    """Makes sure that a file's first bytes are what its name says.

    Args:
        path: The file.
        name: The name that tells its format.

    Raises:
        ValueError: They are not, or the file is empty.
    """
    import gzip

    form, named_gzip = format_of_name(name)
    with open(path, "rb") as file:
        head = file.read(4096)
    gzipped = head.startswith(b"\x1f\x8b")
    if head and named_gzip != gzipped:
        advice = "add .gz to its name" if gzipped else "drop the .gz from its name"
        raise ValueError(f"{name!r} is not what its name says: it is {'' if gzipped else 'not '}gzipped; {advice}")
    if gzipped:
        with gzip.open(path, "rb") as unpacked:
            head = unpacked.read(4096)
    if not head:
        raise ValueError(f"{name!r} is empty")
    found = kind_of(head)
    # What JSON Lines looks like depends on the first row; the rows themselves are checked as they are read.
    if found != form and (found != "text" or form == "parquet"):
        raise ValueError(f"{name!r} is not what its name says: it looks like {found}; name it by what it holds")


def kind_of(head: bytes) -> str:
    """Tells by its first bytes what a file is.

    Args:
        head: The first bytes, unpacked where the file is gzipped.

    Returns:
        "parquet", "jsonl", the name of something that holds no rows, or "text" where it may be any text.
    """
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for kind, magics in {
        "parquet": (b"PAR1",),
        "jsonl": (b'{"', b"{ ", b"{}"),
        "a zip file or an Excel sheet": (b"PK\x03\x04",),
        "an HTML page, maybe of a sign-in": (b"<!doctype html", b"<html"),
        "a PDF": (b"%pdf-",),
    }.items():
        if start.startswith(magics) or start[:20].lower().startswith(magics):
            return kind
    return "text"


def read_rows(
    path: str, name: str, text_column: str, label_column: str
) -> Iterator[tuple[int, str | None, str | None]]:
    """Reads a file's rows, one at a time.

    Args:
        path: The file.
        name: The name that tells its format, as in `reviews.csv.gz`.
        text_column: The column (or JSON key) of the text.
        label_column: The column (or JSON key) of the label.

    Yields:
        The line on which the row begins (the row's number in a Parquet file, from 1), its text and its label; None
        where the one or the other is missing or blank.

    Raises:
        ValueError: The file is empty or is not what its name says, or a column is not there.
    """
    import gzip
    import zlib

    form, gzipped = format_of_name(name)
    try:
        check_content(path, name)
        if form == "parquet":
            raw = parquet_cells(path, gzipped, name, text_column, label_column)
        elif form == "jsonl":
            raw = jsonl_cells(path, gzipped, name, text_column, label_column)
        else:
            raw = delimited_cells(path, gzipped, name, "," if form == "csv" else "\t", text_column, label_column)
        names: dict[str, str | None] = {}  # labels are few: what each is called need not be found out for every row
        for line, text, label in raw:
            if type(label) is int:  # JSON's and Parquet's most usual label
                yield line, clean_text(text, name, line), str(label)
                continue
            if not isinstance(label, str):
                yield line, clean_text(text, name, line), label_name(label, name, line)
                continue
            if label not in names:
                if len(names) == 4096:  # these are no labels
                    names.clear()
                names[label] = label_name(label, name, line)
            yield line, clean_text(text, name, line), names[label]
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{name!r} is a broken gzip file ({error}): make it anew") from None


def clean_text(value: Any, name: str, line: int) -> str | None:
    """Returns a cell's text as it stands; None where it is missing or blank.

    A lone surrogate, which JSON can express and UTF-8 can not, becomes U+FFFD.

    Raises:
        ValueError: The cell holds a list or an object.
    """
    if isinstance(value, str):
        text = value
    elif value is None or value != value:  # NaN is how pandas writes a missing value
        return None
    elif isinstance(value, (list, dict, bytes)):
        raise ValueError(
            f"{name!r}, line {line}: the text is a {type(value).__name__}, it must be a string: convert it"
        )
    else:
        text = str(value)
    if not text or text.isspace():
        return None
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def label_name(value: Any, name: str, line: int) -> str | None:
    """Returns a label as text: integers without a fraction, strings without blanks around them; None where missing.

    Raises:
        ValueError: The cell holds a list, an object or a fraction.
    """
    if value is None or value != value:  # NaN is how pandas writes a missing value
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(f"{name!r}, line {line}: the label is {value}: a class is a string or an integer")
    if isinstance(value, (int, float)):
        return str(int(value))
    if isinstance(value, str):
        return clean_text(value.strip(), name, line)
    raise ValueError(f"{name!r}, line {line}: the label is a {type(value).__name__}: a class is a string or an integer")


def find_columns(columns: list[str], wanted: list[str], name: str) -> list[int]:
    """Returns where the wanted columns stand.

    Raises:
        ValueError: They are the same, or one is not there or stands twice; the message lists the columns there are.
    """
    if wanted[0] == wanted[1]:
        raise ValueError(f"text_column and label_column are both {wanted[0]!r}: each needs a column of its own")
    for column in wanted:
        if columns.count(column) != 1:
            problem = "has no column" if column not in columns else "has more than one column"
            shown = ", ".join(repr(known[:50]) for known in columns[:20]) + (", ..." if len(columns) > 20 else "")
            raise ValueError(
                f"{name!r} {problem} {column!r}; its columns are {shown or 'none'}: set text_column and label_column"
            )
    return [columns.index(column) for column in wanted]


def open_text(path: str, gzipped: bool) -> IO[str]:
    """Opens a text file in the encoding that its byte-order mark tells; UTF-8 where there is none."""
    import codecs
    import gzip
    import io

    def binary() -> Any:
        return gzip.open(path, "rb") if gzipped else open(path, "rb")

    with binary() as file:
        head = file.read(4)
    encoding = "utf-8-sig"
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        encoding = "utf-32"
    elif head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    return io.TextIOWrapper(io.BufferedReader(binary(), 1 << 20), encoding=encoding, newline="")


def wrong_encoding(error: UnicodeDecodeError, name: str, line: int) -> str:
    """Says which byte can't be decoded, and after which line: text is decoded some lines ahead."""
    byte = error.object[error.start]
    return f"{name!r} is not {error.encoding} (byte {byte:#04x}, shortly after line {line}): convert it to UTF-8"


def delimited_cells(
    path: str, gzipped: bool, name: str, delimiter: str, text_column: str, label_column: str
) -> Iterator[tuple[int, str | None, str | None]]:
    """Yields line, text and label of a CSV or TSV file's rows (RFC 4180: quoted cells may hold line breaks).

    A row with fewer or more cells than the header gives None for both: which cell is which can't be known.

    Raises:
        ValueError: A column is missing, a quote is left open, or the file is not UTF-8.
    """
    import csv

    csv.field_size_limit(1 << 24)  # what is longer is an open quote, with all rows behind it
    start = 1
    with open_text(path, gzipped) as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = [column.strip() for column in next(filter(any, reader), [])]
            if not header:
                raise ValueError(f"{name!r} is empty: its first row must name the columns")
            other = next((mark for mark in "\t;," if len(header) == 1 and mark in header[0]), None)
            if other:
                raise ValueError(f"{name!r}: its columns are separated by {other!r}, not by {delimiter!r}; convert it")
            text_at, label_at = find_columns(header, [text_column, label_column], name)
            start = reader.line_num + 1
            for cells in reader:
                if len(cells) == len(header):
                    yield start, cells[text_at], cells[label_at]
                elif cells:
                    yield start, None, None
                start = reader.line_num + 1
        except UnicodeDecodeError as error:
            raise ValueError(wrong_encoding(error, name, start)) from None
        except csv.Error as error:
            raise ValueError(
                f"{name!r}: the row that begins at line {start} can't be read ({error}): is a quote left open there?"
            ) from None


def jsonl_cells(
    path: str, gzipped: bool, name: str, text_column: str, label_column: str
) -> Iterator[tuple[int, Any, Any]]:
    """Yields line, text and label of a JSON Lines file's rows; blank lines are passed over.

    Raises:
        ValueError: A line is no JSON object, no row has the columns, or the file is not UTF-8.
    """
    import json

    number = 0
    checked = False
    decode = json.JSONDecoder().decode
    with open_text(path, gzipped) as file:
        keys: dict[str, None] = {}
        try:
            for number, line in enumerate(file, 1):
                if line.isspace():
                    continue
                try:
                    row = decode(line)
                except (ValueError, RecursionError) as error:  # a plain ValueError is an integer too long
                    raise ValueError(
                        f"{name!r}, line {number} is no JSON ({error}): each line must be one object"
                    ) from None
                if not isinstance(row, dict):
                    raise ValueError(
                        f"{name!r}, line {number} is a JSON {type(row).__name__}: each line must be one object"
                    )
                # A row may lack a key that others have; a key that none of the first rows has is a wrong name.
                if number <= 1000:
                    keys.update(dict.fromkeys(row))
                elif not checked:
                    find_columns(list(keys), [text_column, label_column], name)
                    checked = True
                yield number, row.get(text_column), row.get(label_column)
            if keys:
                find_columns(list(keys), [text_column, label_column], name)
        except UnicodeDecodeError as error:
            raise ValueError(wrong_encoding(error, name, number)) from None


def parquet_cells(
    path: str, gzipped: bool, name: str, text_column: str, label_column: str
) -> Iterator[tuple[int, Any, Any]]:
    """Yields number, text and label of a Parquet file's rows, a batch in memory at a time.

    Raises:
        ValueError: A column is missing, or the file is broken.
    """
    import gzip
    import shutil
    import tempfile

    import pyarrow
    import pyarrow.parquet

    # Parquet is read from its end: a gzipped one must be unpacked to a file first.
    with tempfile.TemporaryFile() as unpacked:
        if gzipped:
            with gzip.open(path, "rb") as packed:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
            unpacked.seek(0)
        try:
            # The parameter's type in the stubs leaves out plain file objects, which are documented to work.
            # Read bit by bit: by default a whole row group, which may be the whole file, is taken into memory.
            opened = unpacked if gzipped else path
            file = pyarrow.parquet.ParquetFile(opened, pre_buffer=False, buffer_size=1 << 20)
            find_columns(list(file.schema_arrow.names), [text_column, label_column], name)
            number = 0
            for batch in file.iter_batches(batch_size=512, columns=[text_column, label_column]):
                texts = batch.column(text_column).to_pylist()
                labels = batch.column(label_column).to_pylist()
                for text, label in zip(texts, labels, strict=True):
                    number += 1
                    yield number, text, label
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{name!r} is a broken Parquet file ({reason}): write it anew") from None
