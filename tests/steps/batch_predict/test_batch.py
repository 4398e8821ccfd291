"""All rows of a file, as `--batch` classifies them."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from nlp_pipeline.cli import main
from nlp_pipeline.serving.archived import load_archived
from tests.conftest import make_rows
from tests.fakes.s3 import forget_environment, s3_server
from tests.serving.conftest import made_release

# Rows as they come: a label of their own, a blank text, half a surrogate pair, a number, a list, other cells than there
# should be.
TEXTS: list[Any] = [text for text, _ in make_rows(20, seed=5)]
TEXTS[3:8] = ["", "  ", "caf\u00e9 \u4f60\u597d", 'a "quoted", cell', "a line\nand another"]
BLANK = {3, 4}


@pytest.fixture(scope="module")
def release(model: Path) -> Path:
    return made_release(model, "int8")


def write_rows(path: Path, texts: list[Any]) -> Path:
    """Writes texts, each with its number and a label, in the format of the file's name."""
    if path.suffix == ".parquet":
        columns = {"id": range(len(texts)), "text": texts, "label": ["x"] * len(texts)}
        pyarrow.parquet.write_table(pyarrow.table({name: [*values] for name, values in columns.items()}), path)
    elif path.suffix == ".jsonl":
        rows = [{"id": at, "text": text, "label": "x"} for at, text in enumerate(texts)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([("id", "text", "label"), *((at, text, "x") for at, text in enumerate(texts))])
    return path


def batch(data: Path, to: Path, release: Path, *options: str, code: int = 0) -> None:
    command = ["--batch", "--data", str(data), "--to", str(to), "--release", str(release)]
    assert main([*command, "--set", "shard_rows=6", *options]) == code


def read_parts(folder: Path) -> list[dict[str, Any]]:
    """Returns the rows of all parts, in order."""
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("part-*")):
        if path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                rows += csv.DictReader(file)
        else:
            rows += pyarrow.parquet.read_table(path).to_pylist()
    return rows


@pytest.mark.parametrize(
    ("form", "to"),
    [("csv", "scored"), ("tsv", "scored.csv"), ("jsonl", "scored"), ("jsonl", "scored.csv"), ("parquet", "scored")],
)
def test_each_row_comes_out_in_its_place_with_what_the_server_says(
    form: str, to: str, release: Path, tmp_path: Path
) -> None:
    batch(write_rows(tmp_path / f"new.{form}", TEXTS), tmp_path / to, release)
    rows = read_parts(tmp_path / to)
    assert [str(row["id"]) for row in rows] == [str(at) for at in range(len(TEXTS))]
    assert [row["text"] for row in rows] == TEXTS and {row["input_label"] for row in rows} == {"x"}
    assert {at for at, row in enumerate(rows) if row["reason"]} == BLANK
    answers = load_archived(release, "tiny").classify([text for at, text in enumerate(TEXTS) if at not in BLANK])
    answered = [(row["label"], float(row["score"])) for at, row in enumerate(rows) if at not in BLANK]
    assert answered == [(answer["label"], answer["score"]) for answer in answers]
    assert {row["release"] for row in rows} == {release.name}
    manifest = json.loads((tmp_path / to / "_manifest.json").read_text())
    assert (manifest["rows"], manifest["without_label"]) == (20, {"no text": 2})
    assert [shard["rows"] for shard in manifest["shards"]] == [6, 6, 6, 2]
    if to == "scored":
        assert pyarrow.parquet.read_table(tmp_path / to).num_rows == 20  # which passes over the plan and the manifest


def test_what_is_no_text_keeps_its_place(release: Path, tmp_path: Path) -> None:
    (tmp_path / "new.jsonl").write_text(
        '{"text": "good", "n": 1, "m": 1, "o": {"a": "\\ud800"}}\n\n{"text": "", "n": 2.5, "p": true}\n{"n": 3}\n'
        '{"text": 7, "m": "x", "o": [1]}\n{"text": "\\ud800 half"}\n{"text": null}\n'
    )
    batch(tmp_path / "new.jsonl", tmp_path / "scored", release)
    rows = read_parts(tmp_path / "scored")
    assert [row["reason"] for row in rows] == [None, "no text", "no text", None, None, "no text"]
    assert [row["label"] is None for row in rows] == [False, True, True, False, False, True]
    assert [row["n"] for row in rows] == [1, 2.5, 3, None, None, None]
    assert [row["m"] for row in rows] == ["1", None, None, "x", None, None]
    assert [row["o"] for row in rows[:4]] == ['{"a": "?"}', None, None, "[1]"] and rows[1]["p"] is True
    (tmp_path / "new.csv").write_text("text,n\ngood,1\ngood,1,2\n\nbad\ngood,2\n")
    batch(tmp_path / "new.csv", tmp_path / "of_csv", release)
    reasons = [row["reason"] for row in read_parts(tmp_path / "of_csv")]
    assert reasons == [None, *["cells too many or too few"] * 2, None]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_of_no_rows_comes_a_part_without_rows(form: str, release: Path, tmp_path: Path) -> None:
    batch(write_rows(tmp_path / f"new.{form}", []), tmp_path / "scored", release)
    assert pyarrow.parquet.read_table(tmp_path / "scored").num_rows == 0


def test_several_labels_are_lists(model_of_several: Path, tmp_path: Path) -> None:
    release = made_release(model_of_several, "int8")
    data = write_rows(tmp_path / "new.csv", TEXTS)
    answers = load_archived(release, "tiny").classify(TEXTS[8:])
    for to in ("scored", "scored.csv"):
        batch(data, tmp_path / to, release)
        rows = read_parts(tmp_path / to)
        assert not rows[3]["labels"] and rows[3]["reason"] == "no text"
        labels = [json.loads(row["labels"]) if to == "scored.csv" else row["labels"] for row in rows[8:]]
        assert labels == [[item["label"] for item in answer["labels"]] for answer in answers] and any(labels)


def test_it_goes_on_where_it_was(release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, to = write_rows(tmp_path / "new.csv", TEXTS), tmp_path / "scored"
    batch(data, to, release)
    manifest, kept = (to / "_manifest.json").read_text(), (to / "part-00000.parquet").stat().st_mtime_ns
    for name in ("_manifest.json", "part-00002.parquet"):
        (to / name).unlink()
    (to / ".incoming-killed").mkdir()
    capsys.readouterr()
    batch(data, to, release, "--json")
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads((to / "_manifest.json").read_text()) == json.loads(manifest)
    assert "4 shards, 3 of them done before" in err and err.count(" rows, ") == 1
    assert (to / "part-00000.parquet").stat().st_mtime_ns == kept
    assert [row["text"] for row in read_parts(to)] == TEXTS and not (to / ".incoming-killed").exists()


def test_several_files_with_the_same_columns(release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "new").mkdir()
    for name, texts in (("a", TEXTS[:8]), ("b", []), ("c", TEXTS[8:])):
        write_rows(tmp_path / "new" / f"{name}.csv", texts)
    batch(tmp_path / "new", tmp_path / "scored", release)
    assert [row["text"] for row in read_parts(tmp_path / "scored")] == TEXTS
    manifest = json.loads((tmp_path / "scored" / "_manifest.json").read_text())
    assert [shard["rows"] for shard in manifest["shards"]] == [6, 2, 0, 6, 6]
    assert [file["rows"] for file in manifest["files"]] == [8, 0, 12]
    write_rows(tmp_path / "new" / "d.parquet", TEXTS)
    batch(tmp_path / "new", tmp_path / "others", release, code=2)
    assert "d.parquet' has other columns than " in capsys.readouterr().err


def test_what_can_not_be_done_is_one_line(
    model: Path, release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, to, new = write_rows(tmp_path / "new.csv", TEXTS), tmp_path / "scored", tmp_path / "new"
    batch(data, to, release)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    (tmp_path / "list.jsonl").write_text('{"text": "a"}\n{"text": ["a"]}\n')
    (tmp_path / "open.csv").write_text('text\ngood\n"bad\n')
    (tmp_path / "empty.jsonl").write_text("\n")
    lines: dict[str, tuple[Path, Any, Path, Any]] = {
        "holds results of another release": (data, to, made_release(model, "fp32"), ()),
        "holds results of another data": (write_rows(tmp_path / "o.csv", ["a"]), to, release, ()),
        "holds results of another shard_rows, 6, not 7": (data, to, release, ("--set", "shard_rows=7")),
        "is not empty, and holds no results": (data, tmp_path / "full", release, ()),
        "can't be made (Not a directory)": (data, data / "scored", release, ()),
        "results can't go to gs://": (data, "gs://bucket/scored", release, ()),
        "is no release": (data, new, tmp_path / "none", ()),
        "has no column 'review'": (data, new, release, ("--set", "text_column=review")),
        "has no column 'text'": (tmp_path / "empty.jsonl", new, release, ()),
        "has a row at line 3 that can't be read": (tmp_path / "open.csv", new, release, ()),
        "has in line 2 the text ['a']: a text must be a string": (tmp_path / "list.jsonl", new, release, ()),
        "shard_rows is 0: it must be 1 or more": (data, to, release, ("--set", "shard_rows=0")),
    }
    for line, (source, target, folder, options) in lines.items():
        capsys.readouterr()
        batch(source, target, folder, *options, code=2)
        err = capsys.readouterr().err
        assert line in err and err.startswith("error: ") and err.count("\n") == 1, err


def test_from_an_object_store_into_an_object_store(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forget_environment(monkeypatch)
    (tmp_path / "s3").mkdir()
    with s3_server(tmp_path / "s3") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        content = write_rows(tmp_path / "new.csv", TEXTS).read_bytes()
        server.put("bucket", "in/new.csv", content)
        command = ["--batch", "--data", "s3://bucket/in/", "--to", "s3://bucket/out/scored", "--release", str(release)]
        assert main([*command, "--set", "shard_rows=6"]) == 0
        server.client.remove_object("bucket", "out/scored/part-00002.parquet")
        assert main([*command, "--set", "shard_rows=6"]) == 0
        assert "4 shards, 3 of them done before" in capsys.readouterr().err
        for item in server.client.list_objects("bucket", "out/scored/"):
            name = str(item.object_name).rpartition("/")[2]
            server.client.fget_object("bucket", item.object_name, str(tmp_path / "scored" / name))
        server.put("bucket", "other/mine.txt", b"x")
        command[4] = "s3://bucket/other"
        assert main(command) == 2
        assert "s3://bucket/other is not empty" in capsys.readouterr().err
    assert [row["text"] for row in read_parts(tmp_path / "scored")] == TEXTS
    assert (tmp_path / "scored" / "_manifest.json").exists()
