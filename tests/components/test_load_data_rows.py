import codecs
import csv
import gzip
import io
import json
import math
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlp_pipeline.components.load_data_rows import (
    clean_text,
    find_columns,
    format_of_name,
    kind_of,
    label_name,
    read_rows,
)

Rows = list[tuple[int, str | None, str | None]]
ROWS = [("a good film", "1"), ('say "no", \tplease', "0"), ("two\nlines\r\nor three", "1"), ("ünï𝄞\u2028\x85", "0")]


def encode(rows: list[tuple[str, str]], form: str) -> bytes:
    """Writes rows by other means than the project's own."""
    if form == "parquet":
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(
            pyarrow.table({"text": [t for t, _ in rows], "label": [y for _, y in rows]}), buffer
        )
        return buffer.getvalue()
    if form == "jsonl":
        return "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows).encode()
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter={"csv": ",", "tsv": "\t"}[form])
    writer.writerows([("text", "label"), *rows])
    return out.getvalue().encode()


def read(folder: Path, content: bytes | str, name: str = "x.csv", text: str = "text", label: str = "label") -> Rows:
    path = folder / "source"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_rows(str(path), name, text, label))


def problem(folder: Path, content: bytes | str, name: str = "x.csv") -> str:
    """Returns the one line that tells what is wrong with a file."""
    with pytest.raises(ValueError, match=f"'{name}'") as caught:
        read(folder, content, name)
    assert type(caught.value) is ValueError
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 2000
    return message


def whole(rows: Rows) -> list[tuple[str | None, str | None]]:
    return [(text, label) for _, text, label in rows]


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_plain_and_gzipped(tmp_path: Path, form: str) -> None:
    content = encode(ROWS, form)
    assert whole(read(tmp_path, content, f"X.{form.upper()}")) == ROWS
    assert whole(read(tmp_path, gzip.compress(content), f"a.b/x.{form}.gz")) == ROWS


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("x.csv", ("csv", False)),
        ("x.TSV.GZ", ("tsv", True)),
        ("a.csv/x.ndjson", ("jsonl", False)),
        (".parquet", ("parquet", False)),
    ],
)
def test_format_of_name(name: str, form: tuple[str, bool]) -> None:
    assert format_of_name(name) == form


@pytest.mark.parametrize("name", ["", "csv", "x", "x.gz", "x.json", "x.csv.zip", "x.csv.gz.gz", "x.csv\n", "x.csv/y"])
def test_a_name_that_tells_no_format(name: str) -> None:
    with pytest.raises(ValueError, match="its name must end in") as caught:
        format_of_name(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"PAR1\x15", "parquet"),
        (b'\xef\xbb\xbf \n{"text"', "jsonl"),
        (b"{ 'a'", "jsonl"),
        (b"PK\x03\x04\x00", "a zip file or an Excel sheet"),
        (b"\n<!DOCTYPE html>", "an HTML page, maybe of a sign-in"),
        (b"%PDF-1.7", "a PDF"),
        (b"text,label", "text"),
        (b"", "text"),
    ],
)
def test_kind_of(head: bytes, kind: str) -> None:
    assert kind_of(head) == kind


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_byte_order_marks(tmp_path: Path, form: str, encoding: str) -> None:
    content = encode(ROWS, form).decode().encode(encoding)
    assert whole(read(tmp_path, content, f"x.{form}")) == ROWS
    assert whole(read(tmp_path, gzip.compress(content), f"x.{form}.gz")) == ROWS


def test_utf_16_in_the_other_byte_order(tmp_path: Path) -> None:
    assert read(tmp_path, codecs.BOM_UTF16_BE + "text,label\nä,1\n".encode("utf-16-be")) == [(2, "ä", "1")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_and_line_numbers(tmp_path: Path, end: str) -> None:
    lines = ["", '"text",label,other', 'a,1,"', '"', "", '"b', "", 'c",0,', "d,1,"]
    assert read(tmp_path, end.join(lines)) == [(3, "a", "1"), (6, f"b{end}{end}c", "0"), (9, "d", "1")]
    objects = ["", '{"text": "a", "label": 1}', "  ", '{"text": "b\\n\\nc", "label": 0}']
    assert read(tmp_path, end.join(objects), "x.jsonl") == [(2, "a", "1"), (4, "b\n\nc", "0")]


def test_nul_bytes(tmp_path: Path) -> None:
    assert read(tmp_path, b"text,label\na\0b,1\0\n\0,\0\n") == [(2, "a\0b", "1\0"), (3, "\0", "\0")]
    assert read(tmp_path, '{"text": "a\\u0000b", "label": "\\u0000"}', "x.jsonl") == [(1, "a\0b", "\0")]
    assert "line 1 is no JSON" in problem(tmp_path, b'{"text": "a\0b", "label": 1}', "x.jsonl")


def test_lone_surrogates(tmp_path: Path) -> None:
    line = '{"text": "a\\ud800b \\ud83d\\ude00", "label": "\\udfff"}'
    assert read(tmp_path, line, "x.jsonl") == [(1, "a\ufffdb \U0001f600", "\ufffd")]


@pytest.mark.parametrize(
    ("content", "name", "byte"),
    [
        (b"text,label\na,1\n\xe4,0\n", "x.csv", "utf-8 (byte 0xe4, shortly after line "),
        (b'{"text": "\xff", "label": 1}', "x.jsonl", "utf-8 (byte 0xff, shortly after line "),
        (codecs.BOM_UTF16_LE + b"t\0e\0x\0t", "x.csv", "utf-16-le (byte 0x74, "),
        (b"text,label\na,\xf0\x9f", "x.csv", "utf-8 (byte 0xf0"),
    ],
)
def test_a_wrong_encoding(tmp_path: Path, content: bytes, name: str, byte: str) -> None:
    assert byte in problem(tmp_path, content, name)


def test_an_error_in_the_encoding_shows_about_where(tmp_path: Path) -> None:
    content = b"text,label\n" + b"some text,1\n" * 5000 + b"\xff,1\n"
    line = int(problem(tmp_path, content).partition("after line ")[2].split(")")[0])
    assert 4000 < line <= 5002


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.jsonl"])
def test_missing_and_blank_cells(tmp_path: Path, name: str) -> None:
    cells = [("a", "1"), ("", "1"), ("b", ""), (" \t\u00a0", "1"), ("c", "  "), (" d ", " 0 ")]
    content = encode(cells, name[2:])
    assert whole(read(tmp_path, content, name)) == [
        ("a", "1"), (None, "1"), ("b", None), (None, "1"), ("c", None), (" d ", "0"),
    ]  # fmt: skip


def test_rows_with_cells_too_few_or_too_many(tmp_path: Path) -> None:
    content = "text,label\na,1\nb\nc,1,2\n,\n"
    assert read(tmp_path, content) == [(2, "a", "1"), (3, None, None), (4, None, None), (5, None, None)]


def test_nulls_and_missing_keys(tmp_path: Path) -> None:
    lines = '{"text": null, "label": 1}\n{"label": 1}\n{"text": "a"}\n{"text": "b", "label": NaN}\n{}\n'
    assert read(tmp_path, lines, "x.jsonl") == [
        (1, None, "1"), (2, None, "1"), (3, "a", None), (4, "b", None), (5, None, None),
    ]  # fmt: skip


def test_parquet_types(tmp_path: Path) -> None:
    table = pyarrow.table(
        {
            "text": pyarrow.array(["a", None, "a", "b"]).dictionary_encode(),
            "label": pyarrow.array([1.0, 2.0, math.nan, None]),
            "other": [[1], [2], [3], [4]],
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "table")
    content = (tmp_path / "table").read_bytes()
    assert read(tmp_path, content, "x.parquet") == [(1, "a", "1"), (2, None, "2"), (3, "a", None), (4, "b", None)]


def test_parquet_of_many_batches(tmp_path: Path) -> None:
    rows = [(f"text {number}", str(number % 3)) for number in range(2000)]
    assert read(tmp_path, encode(rows, "parquet"), "x.parquet") == [
        (number, text, label) for number, (text, label) in enumerate(rows, 1)
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "a"), (" a\n", " a\n"), (1, "1"), (1.5, "1.5"), (True, "True"), ("", None), ("\u3000", None), (None, None),
     (math.nan, None), ("\x00", "\x00"), ("\ud800", "\ufffd")],
)  # fmt: skip
def test_clean_text(value: Any, text: str | None) -> None:
    assert clean_text(value, "x", 1) == text


@pytest.mark.parametrize(
    ("value", "label"),
    [("a", "a"), (" a b ", "a b"), (1, "1"), (1.0, "1"), (-0.0, "0"), (True, "true"), (False, "false"), (" ", None),
     (None, None), (math.nan, None), (10**20, "1" + "0" * 20)],
)  # fmt: skip
def test_label_name(value: Any, label: str | None) -> None:
    assert label_name(value, "x", 1) == label


@pytest.mark.parametrize("value", [[], {}, b"a"])
def test_cells_of_a_wrong_type(value: Any) -> None:
    for function in (clean_text, label_name):
        with pytest.raises(ValueError, match=f"'x', line 7: .* {type(value).__name__}"):
            function(value, "x", 7)


@pytest.mark.parametrize("value", [0.5, math.inf, -math.inf])
def test_a_label_that_is_a_measure(value: float) -> None:
    with pytest.raises(ValueError, match=f"'x', line 7: the label is {value}"):
        label_name(value, "x", 7)


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
def test_a_missing_column(tmp_path: Path, form: str) -> None:
    path = tmp_path / "source"
    path.write_bytes(encode(ROWS, form))
    for columns, missing in ((("review", "label"), "review"), (("text", "Label"), "Label")):
        with pytest.raises(ValueError, match=f"has no column '{missing}'; its columns are 'text', 'label'"):
            list(read_rows(str(path), f"x.{form}", *columns))
    with pytest.raises(ValueError, match="both 'text'"):
        list(read_rows(str(path), f"x.{form}", "text", "text"))


def test_a_missing_json_key_shows_before_all_of_a_long_file_is_read(tmp_path: Path) -> None:
    lines = '{"text": "a", "y": 1}\n' * 1500 + "no JSON\n"
    assert "has no column 'label'; its columns are 'text', 'y'" in problem(tmp_path, lines, "x.jsonl")


def test_columns() -> None:
    assert find_columns(["a", "b", "c"], ["c", "a"], "x") == [2, 0]
    with pytest.raises(ValueError, match="more than one column 'a'"):
        find_columns(["a", "b", "a"], ["a", "b"], "x")
    with pytest.raises(ValueError, match="its columns are none"):
        find_columns([], ["a", "b"], "x")
    with pytest.raises(ValueError, match=r"'c19', \.\.\.: set") as caught:
        find_columns(["d" * 1000, *(f"c{number}" for number in range(1, 1000))], ["a", "b"], "x")
    assert "'c20'" not in str(caught.value)
    assert "d" * 51 not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        ("", "x.csv", "is empty"),
        ("", "x.parquet", "is empty"),
        ("\ufeff", "x.csv", "is empty"),
        ("\n\r\n,\n", "x.csv", "is empty"),
        (gzip.compress(b""), "x.csv.gz", "is empty"),
        ("text,label\na,1\n", "x.csv.gz", "not gzipped; drop the .gz"),
        ("text,label\na,1\n", "x.parquet", "it looks like text"),
        (gzip.compress(b"text,label\na,1\n"), "x.csv", "it is gzipped; add .gz"),
        (gzip.compress(b"text,label\na,1\n"), "x.parquet.gz", "it looks like text"),
        (gzip.compress(gzip.compress(b"text,label\na,1\n")), "x.csv.gz", "is not utf-8 (byte 0x8b"),
        ('{"text": "a", "label": 1}', "x.csv", "it looks like jsonl"),
        ("PAR1...", "x.csv", "it looks like parquet"),
        ("<html><body>Sign in", "x.jsonl", "it looks like an HTML page"),
        (b"PK\x03\x04\0\0", "x.csv", "an Excel sheet"),
        ("text\tlabel\na\t1\n", "x.csv", "are separated by '\\t', not by ','"),
        ("text;label\na;1\n", "x.csv", "are separated by ';', not by ','"),
        ("text,label\na,1\n", "x.tsv", "are separated by ',', not by '\\t'"),
        ("text,label\na,1\n", "x.jsonl", "line 1 is no JSON"),
        ('[{"text": "a", "label": 1}]', "x.jsonl", "line 1 is a JSON list"),
        ('{"text": "a", "label": 1}\n3\n', "x.jsonl", "line 2 is a JSON int"),
        ('{"text": "a", "label": 1}\n{"text":', "x.jsonl", "line 2 is no JSON"),
        ('{"a": ' + "[" * 100_000, "x.jsonl", "line 1 is no JSON"),
        ('{"text": "a", "label": ' + "1" * 5000 + "}", "x.jsonl", "line 1 is no JSON"),
        ('{"text": ["a"], "label": 1}', "x.jsonl", "line 1: the text is a list"),
        ('{"text": "a", "label": {"b": 1}}', "x.jsonl", "line 1: the label is a dict"),
        ('text,label\na,1\n"b,0\nc,1\n', "x.csv", "begins at line 3 can't be read"),
        ('text,label\na,1\n"b"c,0\n', "x.csv", "begins at line 3 can't be read"),
        (b"PAR1" + b"\0" * 100, "x.parquet", "is a broken Parquet file"),
    ],
)
def test_a_file_that_is_not_what_its_name_says(tmp_path: Path, content: bytes | str, name: str, says: str) -> None:
    assert says in problem(tmp_path, content, name)


def test_a_quote_left_open_does_not_fill_the_memory(tmp_path: Path) -> None:
    content = b'text,label\na,1\n"' + b"some text,1\n" * 2_000_000
    assert "begins at line 3 can't be read (field larger than" in problem(tmp_path, content)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_broken_gzip_file(tmp_path: Path, form: str) -> None:
    rows = [(f"{number * 7919:x} text {number}", "1") for number in range(20_000)]
    packed = gzip.compress(encode(rows, form))
    name = f"x.{form}.gz"
    assert "is a broken gzip file" in problem(tmp_path, packed[:-1000], name)
    assert "is a broken gzip file" in problem(tmp_path, packed[:5], name)
    assert "is a broken gzip file" in problem(tmp_path, packed[:12] + b"\xff" * 50 + packed[62:], name)
    middle = len(packed) // 2
    assert problem(tmp_path, packed[:middle] + bytes(1000) + packed[middle + 1000 :], name)


def test_a_broken_parquet_file(tmp_path: Path) -> None:
    content = encode([(f"text {number}", "1") for number in range(3000)], "parquet")
    assert "is a broken Parquet file" in problem(tmp_path, content[:-1], "x.parquet")
    assert "is a broken Parquet file" in problem(tmp_path, content[:100] + content[-100:], "x.parquet")
    crushed = content[:4] + b"\xff" * 200 + content[204:]
    assert "is a broken Parquet file" in problem(tmp_path, crushed, "x.parquet")


def test_parquet_with_text_that_is_no_utf_8(tmp_path: Path) -> None:
    text = pyarrow.array([b"\xff"]).view(pyarrow.string())
    table = pyarrow.table({"text": text, "label": ["1"]})
    pyarrow.parquet.write_table(table, tmp_path / "table")
    assert "is a broken Parquet file" in problem(tmp_path, (tmp_path / "table").read_bytes(), "x.parquet")


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.mark.parametrize("name", ["x.csv", "x.tsv.gz", "x.jsonl", "x.jsonl.gz", "x.parquet"])
@settings(deadline=None)
@given(rows=st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=1, max_size=8))
def test_any_rows_come_back(tmp_path_factory: pytest.TempPathFactory, name: str, rows: list[tuple[str, str]]) -> None:
    content = encode(rows, name.split(".")[1])
    content = gzip.compress(content, 1) if name.endswith(".gz") else content
    expected = [(text if text.strip() else None, label.strip() or None) for text, label in rows]
    assert whole(read(tmp_path_factory.getbasetemp(), content, name)) == expected


@settings(deadline=None)
@given(content=st.binary(max_size=200), name=st.sampled_from(["x.csv", "x.tsv", "x.jsonl", "x.parquet"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str) -> None:
    head = {"x.parquet": b"PAR1", "x.jsonl": b""}.get(name, b"text,label\n")
    try:
        read(tmp_path_factory.getbasetemp(), head + content, name)
    except ValueError as error:
        assert type(error) is ValueError
        assert name in str(error)
        assert "\n" not in str(error)
