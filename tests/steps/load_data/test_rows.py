import codecs
import csv
import gzip
import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlp_pipeline.errors import UsageError
from nlp_pipeline.steps.load_data.rows import Source, read_rows
from tests.messages import one_line

Rows = list[tuple[int, str | None, Any]]
ROWS = [("a good film", "1"), ('say "no", \tplease', "0"), ("two\nlines\r\nor three", "1"), ("ünï𝄞\u2028\x85", "0")]


def encode(rows: list[tuple[str, str]], form: str) -> bytes:
    """Writes rows by other means than the project's own."""
    if form == "parquet":
        return parquet(text=[text for text, _ in rows], label=[label for _, label in rows])
    if form == "jsonl":
        return "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows).encode()
    out = io.StringIO(newline="")
    csv.writer(out, delimiter={"csv": ",", "tsv": "\t"}[form]).writerows([("text", "label"), *rows])
    return out.getvalue().encode()


def parquet(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def read(folder: Path, content: bytes | str, name: str = "x.csv", columns: tuple[str, str] = ("text", "label")) -> Rows:
    path = folder / "source"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_rows(Source(path, name), columns))


def pack(content: bytes, packing: str) -> bytes:
    if packing == "zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("__MACOSX/._x", b"")
            archive.writestr("folder/x", content)
        return buffer.getvalue()
    return gzip.compress(content) if packing == "gz" else pyarrow.compress(content, "zstd", asbytes=True)


def pairs(rows: Rows) -> list[tuple[str | None, str | None]]:
    return [(text, label) for _, text, label in rows]


def problem(folder: Path, content: bytes | str, name: str = "x.csv", **options: Any) -> str:
    """Returns the one line that says what is wrong with a file."""
    with pytest.raises(UsageError) as caught:
        read(folder, content, name, **options)
    message = one_line(caught, UsageError)
    assert message.startswith(f"'{name}'") and len(message) < 2000
    return message


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
def test_every_form_plain_and_packed(tmp_path: Path, form: str) -> None:
    content = encode(ROWS, form)
    for packed in (content, *(pack(content, packing) for packing in ("gz", "zst", "zip"))):
        assert pairs(read(tmp_path, packed, f"a.b/X.{form.upper()}")) == ROWS
        for packing in ("gz", "zst", "zip"):  # whatever its name says
            assert pairs(read(tmp_path, packed, f"x.{form}.{packing}")) == ROWS


@pytest.mark.parametrize("name", ["csv", "x.json", "x.zip", "x.csv.gz.gz", "x.csv\n"])
def test_a_name_that_tells_no_form(name: str) -> None:
    with pytest.raises(UsageError, match="its name must end in") as caught:
        Source(Path("x"), name)
    assert repr(name) in one_line(caught, UsageError)


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_byte_order_marks(tmp_path: Path, form: str) -> None:
    for encoding, mark in (("utf-8-sig", b""), ("utf-16", b""), ("utf-16-be", codecs.BOM_UTF16_BE)):
        content = mark + encode(ROWS, form).decode().encode(encoding)
        assert pairs(read(tmp_path, content, f"x.{form}")) == ROWS


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_and_line_numbers(tmp_path: Path, end: str) -> None:
    lines = ["", '"text",label,other', 'a,1,"', '"', "", '"b', "", 'c",0,', "d,1,"]
    assert read(tmp_path, end.join(lines)) == [(3, "a", "1"), (6, f"b{end}{end}c", "0"), (9, "d", "1")]
    objects = ["", '{"text": "a", "label": 1}', "  ", '{"text": "b\\n\\nc", "label": 0}']
    assert read(tmp_path, end.join(objects), "x.ndjson") == [(2, "a", "1"), (4, "b\n\nc", "0")]


def test_rows_with_cells_too_few_or_too_many(tmp_path: Path) -> None:
    content = "text,label\na,1\nb\nc,1,2\n,\n"
    assert read(tmp_path, content) == [(2, "a", "1"), (3, None, None), (4, None, None), (5, None, None)]


def test_values_of_json(tmp_path: Path) -> None:
    texts = {
        "a": "a", " a\n": " a\n", 1: "1", 1.5: "1.5", "\u3000": None, None: None, math.nan: None, "\0": "\0",
        "a\ud800b \ud83d\ude00": "a\ufffdb \U0001f600",
    }  # fmt: skip
    lines = "\n".join(json.dumps({"text": value, "label": "x"}) for value in texts)
    assert [text for _, text, _ in read(tmp_path, lines, "x.jsonl")] == list(texts.values())
    labels = [("a", "a"), (" a b ", "a b"), (1, "1"), (-0.0, "0"), (True, "true"), (1.0, "1"), (False, "false"),
              (" ", None), (None, None), (math.nan, None), (10**20, "1" + "0" * 20), ("\udfff", "\ufffd")]  # fmt: skip
    lines = "\n".join(json.dumps({"text": "a", "label": value}) for value, _ in labels)
    assert [label for _, _, label in read(tmp_path, lines, "x.jsonl")] == [label for _, label in labels]


def test_a_missing_key_is_a_missing_cell(tmp_path: Path) -> None:
    lines = '{"label": 1}\n{"text": "a"}\n{}\n'
    assert read(tmp_path, lines, "x.jsonl") == [(1, None, "1"), (2, "a", None), (3, None, None)]


@pytest.mark.parametrize(("text", "label"), [(["a"], 1), ("a", [[1]]), ("a", {"b": 1}), ("a", 0.5), ("a", math.inf)])
def test_cells_of_a_wrong_type(tmp_path: Path, text: Any, label: Any) -> None:
    row = json.dumps({"text": text, "label": label})
    message = problem(tmp_path, '{"text": "a", "label": 1}\n' + row, "x.jsonl")
    assert f"has in line 2 the text {text!r} and the label {label!r}: a text must be" in message


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
def test_a_missing_column(tmp_path: Path, form: str) -> None:
    for columns in (("review", "label"), ("text", "review")):
        message = problem(tmp_path, encode(ROWS, form), f"x.{form}", columns=columns)
        assert "has no column 'review'; its columns are 'text', 'label': set text_column and" in message


def test_columns_of_a_header(tmp_path: Path) -> None:
    assert read(tmp_path, " text ,b,label\nx,,1\n") == [(2, "x", "1")]
    assert "has more than one column 'text'" in problem(tmp_path, "text,b,text\n")
    message = problem(tmp_path, ",".join(["d" * 1000, *(f"c{number}" for number in range(1, 1000))]))
    assert "'c19', ...: set" in message and "d" * 51 not in message


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        ("", "x.csv", "is empty"),
        ("\n\r\n,\n", "x.csv", "has no column 'text'; its columns are none"),
        (gzip.compress(b"", mtime=0), "x.csv.gz", "is empty"),
        (gzip.compress(b"text,label\na,1\n", mtime=0), "x.parquet.gz", "is a broken Parquet file"),
        (parquet(text=["a"], label=["b"]), "x.csv", "is not utf-8"),
        ("text:label\na:1\n", "x.csv", "has no column 'text'; its columns are 'text:label'"),
        ("text,label\na,1\n", "x.jsonl", "has in line 1 no JSON"),
        ('[{"text": "a", "label": 1}]', "x.jsonl", "has in line 1 a JSON list"),
        ('{"text": "a", "label": 1}\n{"text":', "x.jsonl", "has in line 2 no JSON"),
        ('{"a": ' + "[" * 100_000, "x.jsonl", "has in line 1 no JSON"),
        ('{"text": "a", "label": ' + "1" * 5000 + "}", "x.jsonl", "has in line 1 no JSON"),
        ('text,label\na,1\n"b,0\nc,1\n', "x.csv", "has a row at line 3 that can't be read"),
        (b"text,label\na,1\n\xe4,0\n", "x.csv", "is not utf-8 (byte 0xe4, in line 3)"),
        (codecs.BOM_UTF16_LE + b"t\0e\0x\0t", "x.csv", "is not utf-16-le (byte 0x74, "),
        (b"text,label\na,\xf0\x9f", "x.csv", "is not utf-8 (byte 0xf0"),
        (parquet(text=pyarrow.array([b"\xff"]).view(pyarrow.string()), label=["1"]), "x.parquet", "is a broken Parq"),
    ],
)
def test_a_file_that_is_not_what_its_name_says(tmp_path: Path, content: bytes | str, name: str, says: str) -> None:
    assert says in problem(tmp_path, content, name)


def test_a_quote_left_open_does_not_fill_the_memory(tmp_path: Path) -> None:
    content = b'text,label\na,1\n"' + b"some text,1\n" * 2_000_000
    assert "has a row at line 3 that can't be read (field larger than" in problem(tmp_path, content)


@pytest.mark.parametrize(("form", "packing"), [("csv", "gz"), ("parquet", "gz"), ("csv", "zst"), ("parquet", "zip")])
def test_a_broken_packed_file(tmp_path: Path, form: str, packing: str) -> None:
    rows = [(f"{number * 7919:x} text {number}", "1") for number in range(20_000)]
    packed = pack(encode(rows, form), packing)
    spoilt, cut = packed[:100] + b"\xff" * 50 + packed[150:], [packed[:-1000], packed[:5]]
    for broken in {"zip": [spoilt], "zst": cut, "gz": [spoilt, *cut]}[packing]:
        assert "can't be unpacked (" in problem(tmp_path, broken, f"x.{form}.{packing}")


def test_a_broken_parquet_file(tmp_path: Path) -> None:
    content = encode([(f"text {number}", "1") for number in range(3000)], "parquet")
    for broken in (content[:-1], content[:100] + content[-100:], content[:4] + b"\xff" * 200 + content[204:]):
        assert "is a broken Parquet file" in problem(tmp_path, broken, "x.parquet")


@settings(max_examples=50, deadline=None)
@given(content=st.binary(max_size=200), name=st.sampled_from(["x.csv", "x.tsv", "x.jsonl", "x.parquet"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str) -> None:
    head = {"x.parquet": b"PAR1", "x.jsonl": b""}.get(name, b"text,label\n")
    try:
        read(tmp_path_factory.getbasetemp(), head + content, name)
    except UsageError as error:
        assert str(error).startswith(f"'{name}'") and "\n" not in str(error)
