"""Formats with habits of their own, and labels that look alike: read rightly or refused, saying what was assumed."""

import datetime
import gzip
import json
import math
import zipfile
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from nlp_pipeline.labels import doubtful_values
from nlp_pipeline.steps.load_data.rows import Source, read_rows
from tests.steps.load_data.test_load import Loaded, refused
from tests.steps.load_data.test_rows import problem

Pairs = list[tuple[str | None, Any]]
COLUMNS = ("text", "label")


def read(folder: Path, content: str | bytes, name: str) -> tuple[Pairs, Source]:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    source = Source(path, name)
    return [(text, label) for _, text, label in read_rows(source, COLUMNS)], source


PLAIN = [(f"film {number}", "pos") for number in range(5)]
PLAIN_LINES = "".join(f"{text}\t{label}\n" for text, label in PLAIN)


@pytest.mark.parametrize(
    ("lines", "rows"),
    [
        ('"I loved it\tpos\nmiddle row\tneg\nthey said so"\tneg\n',
         [('"I loved it', "pos"), ("middle row", "neg"), ('they said so"', "neg")]),
        ('"Alien" is its name\tpos\n', [('"Alien" is its name', "pos")]),
        ('a 5" disc\tpos\n"so so\tneg\n', [('a 5" disc', "pos"), ('"so so', "neg")]),
        ('"one\tpos\nno label\ntwo"\tneg\n', [('"one', "pos"), (None, None), ('two"', "neg")]),
    ],
)  # fmt: skip
def test_quotes_that_are_text_in_tsv(tmp_path: Path, lines: str, rows: Pairs) -> None:
    found, source = read(tmp_path, f"text\tlabel\n{PLAIN_LINES}{lines}", "x.tsv")
    assert found == PLAIN + rows
    assert "lines read with quotes as text" in source.notes


@pytest.mark.parametrize(
    ("lines", "rows"),
    [
        ('"two\n\nparagraphs\nand ""more"""\t"neg"\n', [('two\n\nparagraphs\nand "more"', "neg")]),
        ('"a\ttab"\tpos\nsay "no"\tneg\n', [("a\ttab", "pos"), ('say "no"', "neg")]),
        ('"a ""b"""\tpos\ntoo few\n', [('a "b"', "pos"), (None, None)]),
    ],
)
def test_quotes_that_enclose_cells_in_tsv(tmp_path: Path, lines: str, rows: Pairs) -> None:
    found, source = read(tmp_path, f'"text"\t"label"\n{PLAIN_LINES}{lines}', "x.tsv")
    assert found == PLAIN + rows
    assert "lines read with quotes around cells" in source.notes


def test_tsv_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    content = b"text\tlabel\n" + b'"a"\tpos\n' * 5000 + b"\xe4\tneg\n"
    message = problem(tmp_path, content, "x.tsv")
    assert message.endswith("is not utf-8 (byte 0xe4, in line 5002): convert it, as by iconv -f cp1252 -t utf-8")


@pytest.mark.parametrize(
    ("name", "head", "again"),
    [
        ("x.csv", "text,label", "text,label"),
        ("x.csv", '\ufeff"text","label"', '\ufeff"text","label"'),
        ("x.csv", "text,label", ' text , "label"'),
        ("x.tsv", "text\tlabel", '"text"\t"label"'),
        ("x.csv", "text,label", "text,label\n\ntext,label"),
    ],
)
def test_a_header_again_is_dropped_and_counted(tmp_path: Path, name: str, head: str, again: str) -> None:
    separator = "," if name == "x.csv" else "\t"
    content = f"{head}\ngood{separator}pos\n{again}\nbad{separator}neg\n"
    found, source = read(tmp_path, content, name)
    assert found == [("good", "pos"), ("bad", "neg")]
    assert source.notes["headers dropped"] == again.count("label")


def test_a_header_again_with_other_columns(tmp_path: Path) -> None:
    found, _ = read(tmp_path, "id,text,label\n1,good,pos\nlabel,text\nneg,bad\n", "x.csv")
    assert found == [("good", "pos"), ("bad", "neg")]


def test_json_lines_put_one_behind_the_other(tmp_path: Path) -> None:
    line = json.dumps({"text": "a", "label": "b"}) + "\n"
    assert read(tmp_path, f"\ufeff{line}\ufeff{line}", "x.jsonl")[0] == [("a", "b")] * 2


@pytest.mark.parametrize(
    ("metadata", "labels", "result"),
    [
        ('{"info": {"features": {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}}}', [1, -1], ["b", None]),
        ('{"info": {"features": {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}}}', ["b", "a"], ["b", "a"]),
        ('{"info": {"features": {"label": {"dtype": "int64", "_type": "Value"}}}}', [1, -1], ["1", "-1"]),
        ('{"info": null}', [1, 0], ["1", "0"]),
        ("{", [1, 0], ["1", "0"]),
    ],
)
def test_metadata_of_any_kind(tmp_path: Path, metadata: str, labels: list[Any], result: list[str | None]) -> None:
    table = pyarrow.table({"text": ["x", "y"], "label": labels}, metadata={"huggingface": metadata})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    assert [label for _, label in read(tmp_path, (tmp_path / "x.parquet").read_bytes(), "x.parquet")[0]] == result


def test_a_number_without_a_class(tmp_path: Path) -> None:
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": {"names": ["a", "b"]}}}})}
    table = pyarrow.table({"text": ["x", "y"], "label": [1, 2]}).replace_schema_metadata(metadata)
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    message = problem(tmp_path, (tmp_path / "x.parquet").read_bytes(), "x.parquet")
    assert message == "'x.parquet' has in line 2 the label 2, not of its ClassLabel"


@pytest.mark.parametrize(
    ("form", "start"),
    [
        ("csv", b"PK\x03\x04"),
        ("csv.gz", b"\xd0\xcf\x11\xe0"),
        ("tsv", b"%PDF-1.7"),
        ("jsonl", b"\n<HTML>"),
        ("csv", b"\xef\xbb\xbf<!DOCTYPE html>"),
    ],
)
def test_what_is_no_file_of_rows(tmp_path: Path, form: str, start: bytes) -> None:
    content = start + b"\x14\0\xff"
    message = problem(tmp_path, gzip.compress(content) if form == "csv.gz" else content, f"x.{form}")
    assert message.startswith(f"'x.{form}' is Excel, a part of a zip, HTML or PDF: save it as CSV")


def test_a_zip_of_several_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "packed", "w") as archive:
        for name in ("[Content_Types].xml", "xl/workbook.xml"):
            archive.writestr(name, "")
    message = problem(tmp_path, (tmp_path / "packed").read_bytes(), "x.csv")
    assert "is a zip of 2 files, '[Content_Types].xml', 'xl/workbook.xml': pack one; save Excel as CSV" in message


@pytest.mark.parametrize(
    "content",
    [
        "text;label\ngood, very;1,0\n",
        "\ufeffsep=;\r\ntext;label\r\ngood, very;1,0\r\n",
        "id|text|label\n1|good, very|1,0\n",
        "text\tlabel\ngood, very\t1,0\n",
        '\n"text";"label"\n"good, very";"1,0"\n',
    ],
)
def test_other_delimiters_in_csv(tmp_path: Path, content: str) -> None:
    assert read(tmp_path, content, "x.csv")[0] == [("good, very", "1,0")]
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        assert read(tmp_path, content.removeprefix("\ufeff").encode(encoding), "x.csv")[0] == [("good, very", "1,0")]


def test_the_delimiter_stands_in_the_notes(tmp_path: Path) -> None:
    assert read(tmp_path, "text;label\na;b\nc;d\n", "x.csv")[1].notes == {"lines with ';' between the cells": 2}
    assert read(tmp_path, "text,label\na;b,c\n", "x.csv")[1].notes == {}


def test_a_carriage_return_without_quotes_is_refused(tmp_path: Path) -> None:
    message = problem(tmp_path, "text;label\r\na;b\nc\rd;e\n", "x.csv")
    assert "has a row at line 3 that can't be read (new-line character seen in unquoted field" in message


@pytest.mark.parametrize(
    ("labels", "result"),
    [
        (pyarrow.array([1, None, 0], pyarrow.int8()), ["1", None, "0"]),
        (pyarrow.array([1.0, math.nan, -0.0], pyarrow.float16()), ["1", None, "0"]),
        (pyarrow.array([Decimal("1.00"), None, Decimal("-2.00")]), ["1", None, "-2"]),
        (pyarrow.array([True, None, False]), ["true", None, "false"]),
        (pyarrow.array(["a", None, " b "], pyarrow.string_view()), ["a", None, "b"]),
        (pyarrow.array([7, None, 7]).dictionary_encode(), ["7", None, "7"]),
    ],
    ids=str,
)
def test_types_of_parquet(tmp_path: Path, labels: Any, result: list[str | None]) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x", "y", "z"], "label": labels}), tmp_path / "x.parquet")
    assert [label for _, label in read(tmp_path, (tmp_path / "x.parquet").read_bytes(), "x.parquet")[0]] == result


def test_types_that_are_no_label(tmp_path: Path) -> None:
    for label in (Decimal("0.5"), b"a", datetime.date(2026, 1, 1)):
        pyarrow.parquet.write_table(pyarrow.table({"text": ["x"], "label": [label]}), tmp_path / "x.parquet")
        message = problem(tmp_path, (tmp_path / "x.parquet").read_bytes(), "x.parquet")
        assert "has in line 1 the text 'x' and the label " in message


def test_labels_that_look_alike_and_those_that_do_not() -> None:
    for labels, named in (
        (("1", "0", "1.0"), "'1' (1), '1.0' (1)"),
        (("1,0", "1", "0"), "'1' (1), '1,0' (1)"),
        (("True", "true", "x"), "'True' (1), 'true' (1)"),
        (("pos", "neg", "ne\u00adg"), "'neg' (1), 'ne\\xadg' (1)"),
        (("so so", "so\u00a0so", "so  so"), "'so  so' (1), 'so so' (1), 'so\\xa0so' (1)"),
        (("\u2764", "\u2764\ufe0f", "x"), "'\u2764' (1), '\u2764\ufe0f' (1)"),
        (("\uff21", "A", "b"), "'A' (1), '\uff21' (1)"),
    ):
        assert doubtful_values(Counter(labels), Counter()) == [f"labels look alike: {named}"]
    for label in ("NaN", "#N/A", "<NA>", "NULL", "None", "n/a"):
        doubts = doubtful_values(Counter([label, "a"]), Counter())
        assert doubts == [f"labels may stand for a missing one: {label!r} (1)"]
    assert doubtful_values(Counter(["-1", "1", "C", "C++", "é", "e", "1.5"]), Counter()) == []


def test_doubtful_labels_are_kept_merged_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = ["A<b>", "so so", "a<b>", "so  so", "nan"]
    rows = [{"text": f"{label}: film {at}", "label": label} for at in range(5) for label in labels]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"train_data": f"{tmp_path}/x.jsonl", "max_bad_share": 0.6}
    kept = Loaded(tmp_path, **data)
    assert {label for _, label in kept.train_rows} == {*labels}
    printed = capsys.readouterr().out
    for doubt in (
        "labels look alike: 'A&lt;b&gt;' (5), 'a&lt;b&gt;' (5)",
        "labels look alike: 'so  so' (5), 'so so' (5)",
        "labels may stand for a missing one: 'nan' (5)",
    ):
        line = f"\n- Warning: {doubt}: set doubtful_values\n"
        assert line in kept.summary and line in printed
    merged = Loaded(tmp_path, **data, doubtful_values="merge")
    assert {label for _, label in merged.train_rows + merged.evaluation_rows} == {"A<b>", "so so"}
    assert (merged.train["rows"] + merged.evaluation["rows"], merged.train["bad"]) == (20, 5)
    assert "Warning" not in merged.summary
    message = refused(tmp_path, **data, doubtful_values="refuse")
    assert "'so so' (5); labels may stand for a missing one: 'nan' (5): correct them, or set doubtful_values" in message


def test_texts_that_stand_for_a_missing_one(tmp_path: Path) -> None:
    rows = [f"{label} film {number},{label}\n" for number in range(20) for label in ("good", "bad")]
    (tmp_path / "x.csv").write_text("text,label\n" + "".join([*rows, "NaN,good\n", "NaN,bad\n", "null,bad\n"]))
    loaded = Loaded(tmp_path, train_data=f"{tmp_path}/x.csv")
    assert "- Warning: texts may stand for a missing one: 'NaN' (2), 'null' (1): set doubtful_values" in loaded.summary
    merged = Loaded(tmp_path, train_data=f"{tmp_path}/x.csv", doubtful_values="merge", max_bad_share=0.1)
    assert merged.train["bad"] == 3 and "Warning" not in merged.summary


@pytest.mark.parametrize(
    ("labels", "kept"),
    [
        (("caf\u00e9", "cafe\u0301", "bar"), {"caf\u00e9", "bar"}),
        (("\u212b", "\u00c5 ", "\t"), {"\u00c5"}),
        (("x\u0323\u0307", "x\u0307\u0323", "y\u3000"), {"\u1e8b\u0323", "y"}),
    ],
)  # fmt: skip
def test_labels_that_are_the_same_are_merged_and_counted(
    tmp_path: Path, labels: tuple[str, ...], kept: set[str]
) -> None:
    content = "".join(json.dumps({"text": "a", "label": label}) + "\n" for label in labels * 2)
    found, source = read(tmp_path, content, "x.jsonl")
    assert {label for _, label in found if label is not None} == kept
    assert source.notes["labels stripped or brought to NFC"] == sum(
        label not in (None, raw) for (_, label), raw in zip(found, labels * 2, strict=True)
    )


def test_what_was_assumed_stands_in_the_summary(tmp_path: Path) -> None:
    rows = "".join(f'film {number}\tgood\n"film" of {number}\tbad \n' for number in range(5))
    (tmp_path / "x.tsv").write_text(f"text\tlabel\n{rows}text\tlabel\n{rows.replace('film', 'play')}")
    loaded = Loaded(tmp_path, train_data=f"{tmp_path}/x.tsv")
    assert loaded.train["rows"] + loaded.evaluation["rows"] == 20
    for line in (
        "22 lines read with quotes as text",
        "1 headers dropped",
        "10 labels stripped or brought to NFC",
    ):
        assert f"- {tmp_path}/x.tsv: {line}\n" in loaded.summary
