"""Whatever rows pandas, pyarrow and datasets write come back equal: property tests of hypothesis."""

import csv
import unicodedata
from collections.abc import Callable
from pathlib import Path

import datasets
import pandas
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlp_pipeline.steps.load_data.rows import Source, read_rows

Rows = list[tuple[str, str]]
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def frame(rows: Rows) -> pandas.DataFrame:
    return pandas.DataFrame(rows, columns=["text", "label"])


def with_csv(rows: Rows, path: Path, delimiter: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([("text", "label"), *rows])


def with_pandas_csv(rows: Rows, path: Path, encoding: str = "utf-8") -> None:
    # It leaves a lone carriage return without quotes, as it is in its own line end no part.
    frame(rows).to_csv(path, index=False, lineterminator="\r\n", encoding=encoding)


def with_pyarrow_parquet(rows: Rows, path: Path) -> None:
    texts, labels = (pyarrow.array(column, pyarrow.large_string()) for column in zip(*rows, strict=True))
    pyarrow.parquet.write_table(pyarrow.table({"label": labels.dictionary_encode(), "text": texts}), path)


def with_datasets(rows: Rows, path: Path) -> None:
    names = sorted({label for _, label in rows})
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    columns = {"text": [text for text, _ in rows], "label": [names.index(label) for _, label in rows]}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(path)


WRITERS: dict[str, tuple[str, Callable[[Rows, Path], None]]] = {
    "csv": ("x.csv", lambda rows, path: with_csv(rows, path, ",")),
    "tsv": ("x.tsv", lambda rows, path: with_csv(rows, path, "\t")),
    "semicolons": ("x.csv", lambda rows, path: with_csv(rows, path, ";")),
    "pandas": ("x.csv", with_pandas_csv),
    "pandas utf-16": ("x.csv", lambda rows, path: with_pandas_csv(rows, path, "utf-16")),
    "pandas json": ("x.jsonl", lambda rows, path: frame(rows).to_json(path, orient="records", lines=True)),
    "pandas parquet": ("x.parquet", lambda rows, path: frame(rows).to_parquet(path)),
    "pyarrow": ("x.csv", lambda rows, path: pyarrow.csv.write_csv(pyarrow.Table.from_pandas(frame(rows)), path)),
    "pyarrow parquet": ("x.parquet", with_pyarrow_parquet),
    "datasets": ("x.parquet", with_datasets),
    "datasets json": ("x.jsonl", lambda rows, path: datasets.Dataset.from_pandas(frame(rows)).to_json(path)),
}


@pytest.mark.parametrize("writer", WRITERS)
@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=1, max_size=8))
def test_rows_come_back(tmp_path_factory: pytest.TempPathFactory, writer: str, rows: Rows) -> None:
    name, write = WRITERS[writer]
    if name.startswith("x.tsv"):
        # A cell with tabs and line breaks in quotes could as well be rows whose quotes are text.
        rows = [(text.replace("\t", " "), label.replace("\t", " ")) for text, label in rows]
    # A row that is the header again is none.
    rows = [row for row in rows if {cell.strip().strip('\ufeff"') for cell in row} != {"text", "label"}] or [("a", "b")]
    path = tmp_path_factory.getbasetemp() / name
    write(rows, path)
    expected = [
        (text if text.strip() else None, unicodedata.normalize("NFC", label.strip()) or None) for text, label in rows
    ]
    assert [(text, label) for _, text, label in read_rows(Source(path, name), ("text", "label"))] == expected
