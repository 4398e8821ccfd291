"""Rows with several labels: how they are written, what is refused, and a split that keeps each label in both parts."""

from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from tests.steps.load_data.test_load import Loaded, Pairs, refused, write

ROWS = [("a", ["x", "y"]), ("b", []), ("c", ["y"]), ("d", ["x"]), ("e", ["y", "x", "y"]), ("f", ["z"]), ("g", ["z"])]


def load(folder: Path, train: str | Path, **parameters: Any) -> tuple[Pairs, Loaded]:
    """Runs the step; returns all rows, sorted, and what else it left."""
    loaded = Loaded(folder, train_data=str(train), **parameters)
    rows = sorted(loaded.train_rows + loaded.evaluation_rows)
    assert all(isinstance(labels, list) for _, labels in rows)
    return rows, loaded


EXPECTED = [(text, sorted({*labels})) for text, labels in ROWS]


def test_lists_of_json_and_parquet(tmp_path: Path) -> None:
    rows, loaded = load(tmp_path, write(tmp_path / "rows.jsonl", ROWS))
    assert rows == EXPECTED
    assert "- 1.14 labels a text at the mean; 1 rows have none" in loaded.summary
    # One text of x and one of z is evaluated; of y alone, and of none, there is just one.
    assert loaded.train["rows"] == 5
    texts, labels = zip(*ROWS, strict=True)
    pyarrow.parquet.write_table(pyarrow.table({"text": texts, "label": labels}), tmp_path / "rows.parquet")
    assert load(tmp_path, tmp_path / "rows.parquet")[0] == EXPECTED


def test_lists_of_hugging_faces_class_labels(tmp_path: Path) -> None:
    names = ["x", "y", "z"]
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.List(datasets.ClassLabel(names=names))}
    )
    columns = {"text": [text for text, _ in ROWS], "label": [[names.index(label) for label in row] for _, row in ROWS]}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "rows.parquet")
    assert load(tmp_path, tmp_path / "rows.parquet")[0] == EXPECTED


def test_a_separator(tmp_path: Path) -> None:
    cells = [(text, "|".join(labels) or "|") for text, labels in ROWS]
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"{text}, {cell} \n" for text, cell in cells))
    assert load(tmp_path, tmp_path / "rows.csv", label_separator="|")[0] == EXPECTED
    mixed = write(tmp_path / "rows.jsonl", [("a", "x| y"), ("b", ["x|y"]), ("c", 3), ("d", "y"), ("e", "y")])
    assert load(tmp_path, mixed, label_separator="|")[0][:3] == [("a", ["x", "y"]), ("b", ["x|y"]), ("c", ["3"])]
    # An empty cell is a label that is missing.
    (tmp_path / "rows.csv").write_text("text,label\na,x\nb,\nc,x|y\nd,y\n")
    _, loaded = load(tmp_path, tmp_path / "rows.csv", label_separator="|", max_bad_share=0.5)
    assert loaded.train["bad"] == 1


@pytest.mark.parametrize(
    ("rows", "separator", "message"),
    [
        ([("a", "x,y"), ("b", "x"), ("c", "x"), ("d", "x,y")], "|", "no row of several labels by label_separator='|'"),
        ([("a", []), ("b", [None]), ("c", ["", " "])], "", "too few classes (): a classifier needs two or more"),
    ],
    ids=["another separator", "no labels"],
)
def test_what_is_hardly_meant(tmp_path: Path, rows: Any, separator: str, message: str) -> None:
    data = write(tmp_path / "rows.jsonl", rows)
    assert refused(tmp_path, train_data=data, label_separator=separator).endswith(f"rows.jsonl' has {message}")


@pytest.mark.parametrize(("first", "second"), [(["x"], "y"), ("x", ["y"])])
def test_some_lists_and_some_not(tmp_path: Path, first: Any, second: Any) -> None:
    message = refused(tmp_path, train_data=write(tmp_path / "rows.jsonl", [("a", first), ("b", second)]))
    assert "rows.jsonl' has in line 2 the label " in message
    assert message.endswith("make all of them lists, or set label_separator")


def test_labels_that_look_alike_are_merged(tmp_path: Path) -> None:
    rows = [("a", ["Spam", "nan"]), ("b", ["spam", "x"]), ("c", ["nan"]), ("d", ["x"]), ("e", ["SPAM"])]
    path = write(tmp_path / "rows.jsonl", [*rows, ("f", ["x"])])
    merged, loaded = load(tmp_path, path, doubtful_values="merge", max_bad_share=0.5)
    assert merged == [("a", ["Spam"]), ("b", ["Spam", "x"]), ("d", ["x"]), ("e", ["Spam"]), ("f", ["x"])]
    assert loaded.train["bad"] == 1
    assert "Warning: labels look alike: 'SPAM' (1), 'Spam' (1), 'spam' (1)" in load(tmp_path, path)[1].summary


def evaluated(folder: Path, rows: list[tuple[str, Any]], share: float, seed: int) -> Pairs:
    """Returns the rows that are split off to evaluate on."""
    return load(folder, write(folder / "rows.jsonl", rows), evaluation_share=share, seed=seed)[1].evaluation_rows


def test_the_split_keeps_each_label_in_both_parts(tmp_path: Path) -> None:
    rows: list[tuple[str, Any]] = [(f"{at}", ["common", "rare"] if at % 20 == 0 else ["common"]) for at in range(400)]
    rows += [(f"{at}", []) for at in range(400, 500)] + [("501", ["once", "rare"])]
    rows += [("500", ["common"]), ("500", []), ("500", ["common"])]
    chosen = evaluated(tmp_path, rows, 0.2, seed=1)
    counts = [sum(label in labels for _, labels in chosen) for label in ("common", "rare", "once")]
    assert counts == [80, 4, 0]
    assert sum(labels == [] for _, labels in chosen) == 20 and "500" not in dict(chosen)


def test_no_label_is_evaluated_that_is_not_trained(tmp_path: Path) -> None:
    # Each text has a label of its own kind besides, so that all texts of "both" may be chosen.
    rows = [("0", ["both", "a"]), ("1", ["both", "b"]), ("2", ["a"]), ("3", ["b"]), ("4", ["a"]), ("5", ["b"])]
    for seed in range(20):
        chosen = evaluated(tmp_path, rows, 0.9, seed)
        trained = {label for text, labels in rows for label in labels if text not in dict(chosen)}
        assert {label for _, labels in chosen for label in labels} <= trained
