import hashlib
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer

from nlp_pipeline.errors import UsageError
from nlp_pipeline.steps.load_data import datasets
from nlp_pipeline.steps.load_data.load import load_datasets
from nlp_pipeline.steps.load_data.settings import LoadSettings
from nlp_pipeline.steps.parquet import read_batches
from nlp_pipeline.volume import Run
from tests.conftest import make_rows
from tests.messages import one_line

Pairs = list[tuple[str, Any]]


def write(path: Path, rows: Sequence[tuple[str | None, Any]]) -> str:
    """Writes rows as JSON Lines."""
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return str(path)


def pairs(path: Path) -> Pairs:
    table = pyarrow.parquet.read_table(path)
    assert [(field.name, str(field.type)) for field in table.schema] in (
        [("text", "string"), ("label", "string")],
        [("text", "string"), ("label", "list<element: string>")],
    )
    return list(zip(table["text"].to_pylist(), table["label"].to_pylist(), strict=True))


class Loaded:
    """What a run of the step left behind, in a folder that holds its outputs and its volume."""

    def __init__(self, folder: Path, **parameters: Any) -> None:
        (folder / "volume").mkdir(exist_ok=True)
        run = Run(volume_path=str(folder / "volume"), model_name="model", run_id="run")
        outputs = [folder / name for name in ("train.out", "evaluation.out", "summary.out")]
        options = LoadSettings(**{"max_bad_share": 0.0, "seed": 1} | parameters)
        self.train, self.evaluation = load_datasets(options, run, *map(str, outputs))
        self.train_rows, self.evaluation_rows = pairs(outputs[0]), pairs(outputs[1])
        self.summary = outputs[2].read_text(encoding="utf-8")


def refused(folder: Path, **parameters: Any) -> str:
    """Returns the one line with which the step refuses its data."""
    with pytest.raises(UsageError) as caught:
        Loaded(folder, **parameters)
    return one_line(caught, UsageError)


BLANKS = st.sampled_from(["", "", " ", "\n", "\u2003"])
TEXTS = st.sampled_from([f"text {number}" for number in range(12)]) | st.text(min_size=1, max_size=3)
CELLS = st.none() | BLANKS | st.tuples(BLANKS, TEXTS, BLANKS).map("".join)
LABELS = st.none() | BLANKS | st.tuples(BLANKS, st.sampled_from(["9", "10", "a", "B"]), BLANKS).map("".join)
ROWS = st.lists(st.tuples(CELLS, LABELS), min_size=1, max_size=40)
Cells = list[tuple[str | None, str | None]]


def good_rows(cells: Cells) -> tuple[Pairs, dict[str, int]]:
    """Returns the rows that are kept, and what is to be counted, row by row."""
    good = [(text, label.strip()) for text, label in cells if text and text.strip() and label and label.strip()]
    before: dict[str, set[str]] = {}
    duplicates = conflicts = 0
    for text, label in good:
        labels = before.setdefault(text.strip(), set())
        duplicates += bool(labels)
        conflicts += bool(labels - {label})
        labels.add(label)
    return good, {"bad": len(cells) - len(good), "leaked": 0, "duplicates": duplicates, "conflicts": conflicts}


@settings(max_examples=30, deadline=None)
@given(cells=ROWS, share=st.floats(0.01, 0.99), seed=st.integers(0, 2**32 - 1))
def test_any_split(tmp_path_factory: pytest.TempPathFactory, cells: Cells, share: float, seed: int) -> None:
    folder = tmp_path_factory.getbasetemp()
    rows, counts = good_rows(cells)
    labels_of: dict[str, set[str]] = {}
    for text, label in rows:
        labels_of.setdefault(text.strip(), set()).add(label)
    names = {label for _, label in rows}
    texts_of = {name: [text for text, labels in labels_of.items() if labels == {name}] for name in names}
    parameters = {"train_data": write(folder / "x.jsonl", cells), "evaluation_share": share, "seed": seed}
    if len(names) < 2 or all(len(texts) < 2 for texts in texts_of.values()):
        refused(folder, **parameters, max_bad_share=1.0)
        return
    loaded = Loaded(folder, **parameters, max_bad_share=1.0)
    assert Counter(loaded.train_rows + loaded.evaluation_rows) == Counter(rows)
    assert loaded.train_rows == [row for row in rows if row in loaded.train_rows]
    assert {text.strip() for text, _ in loaded.train_rows}.isdisjoint(
        text.strip() for text, _ in loaded.evaluation_rows
    )
    assert {label for _, label in loaded.train_rows} == names
    for name, texts in texts_of.items():
        chosen = {text.strip() for text, label in loaded.evaluation_rows if label == name}
        assert chosen <= set(texts)
        assert len(chosen) == (min(max(1, round(share * len(texts))), len(texts) - 1) if texts else 0)
    assert (loaded.train["rows"], loaded.evaluation["rows"]) == (len(loaded.train_rows), len(loaded.evaluation_rows))
    assert counts.items() <= loaded.train.items()


def test_two_sources(tmp_path: Path) -> None:
    train = [
        ("a", "1"), ("b", "0"), (" a ", "1"), ("b", "1"), ("e", "0"), ("", "1"), ("f", ""), ("e ", "1"), ("g", "0"),
    ]  # fmt: skip
    evaluation = [("e", "1"), ("h", "0"), ("e", "1"), (" ", "0")]
    sources = [write(tmp_path / "train.jsonl", train), write(tmp_path / "test.jsonl", evaluation)]
    loaded = Loaded(tmp_path, train_data=sources[0], evaluation_data=sources[1], max_bad_share=0.25)
    assert loaded.train_rows == [("a", "1"), ("b", "0"), (" a ", "1"), ("b", "1"), ("g", "0")]
    assert loaded.evaluation_rows == [("e", "1"), ("h", "0"), ("e", "1")]
    run_dir = tmp_path / "volume" / "model" / "runs" / "run"
    sha256s = [hashlib.sha256(Path(source).read_bytes()).hexdigest() for source in sources]
    assert loaded.train == {
        "rows": 5, "bad": 2, "leaked": 2, "duplicates": 2, "conflicts": 1,
        "source": sources[0], "source_sha256": sha256s[0],
    }  # fmt: skip
    assert loaded.evaluation == {
        "rows": 3, "bad": 1, "leaked": 0, "duplicates": 1, "conflicts": 0,
        "source": sources[1], "source_sha256": sha256s[1],
    }  # fmt: skip
    assert pairs(run_dir / "datasets" / "train.parquet") == loaded.train_rows
    assert pairs(run_dir / "datasets" / "evaluation.parquet") == loaded.evaluation_rows
    assert (run_dir / "datasets" / "summary.md").read_text() == loaded.summary
    for line in (
        "| rows kept | 5 | 3 |",
        "| dropped: no text, no label, or cells too many | 2 | 1 |",
        "| dropped: text stands in evaluation too | 2 | 0 |",
        "| kept, though the text stood before | 2 | 1 |",
        "| kept, though the text stood before with another label | 1 | 0 |",
        "| 0 | 2 (40.0%) | 1 (33.3%) |",
        "| 100% | 3 | 1 |",
        f"- train: `{sources[0]}`",
    ):
        assert f"{line}\n" in loaded.summary


def test_many_files(tmp_path: Path) -> None:
    """They are as one file would be: a text that stands in two of them stands twice, and is never in both sets."""
    rows = [*make_rows(200, classes=4), ("here and there", "0"), ("both", "1")]
    (tmp_path / "parts").mkdir()
    write(tmp_path / "parts" / "1.jsonl", rows[:90])
    others = [*rows[90:], (" here and there", "0"), ("both", "2"), ("", "3")]
    cells = {"label": [label for _, label in others], "text": [text for text, _ in others]}
    pyarrow.parquet.write_table(pyarrow.table(cells), tmp_path / "parts" / "2.parquet")
    loaded = Loaded(tmp_path, train_data=f"{tmp_path}/parts/*", max_bad_share=0.5)
    whole = [*rows[:90], *others[:-1]]
    assert sorted(loaded.train_rows + loaded.evaluation_rows) == sorted(whole)
    assert loaded.train_rows == [row for row in whole if row in loaded.train_rows]
    assert Counter(label for _, label in loaded.evaluation_rows)["3"] == 10
    sums = [hashlib.sha256((tmp_path / "parts" / name).read_bytes()).hexdigest() for name in ("1.jsonl", "2.parquet")]
    lines = f"{sums[0]}  {tmp_path}/parts/1.jsonl\n{sums[1]}  {tmp_path}/parts/2.parquet\n"
    assert loaded.train == {
        "rows": len(loaded.train_rows), "bad": 1, "leaked": 0, "duplicates": 2, "conflicts": 1,
        "source": f"{tmp_path}/parts/1.jsonl and 1 more, to {tmp_path}/parts/2.parquet",
        "source_sha256": hashlib.sha256(lines.encode()).hexdigest(),
    }  # fmt: skip
    refusal = refused(
        tmp_path, train_data=json.dumps([f"{tmp_path}/parts/{name}" for name in ("1.jsonl", "2.parquet")])
    )
    assert f"1 lack a text or a label, or have cells too many (lines [{tmp_path}/parts/2.parquet:115];" in refusal


def test_many_rows_become_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_rows(300, classes=3)
    source = write(tmp_path / "x.jsonl", rows)
    whole = Loaded(tmp_path, train_data=source)
    assert (tmp_path / "train.out").is_file()
    monkeypatch.setattr(datasets, "BATCH_ROWS", 20)
    monkeypatch.setattr(datasets, "PART", 6)
    (tmp_path / "parts").mkdir()
    parts = Loaded(tmp_path / "parts", train_data=source)
    assert sorted(parts.train_rows + parts.evaluation_rows) == sorted(rows) and parts.train["rows"] == 240
    names = ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    for folder in (tmp_path / "parts" / "train.out", tmp_path / "parts/volume/model/runs/run/datasets/train.parquet"):
        assert sorted(path.name for path in folder.iterdir()) == names and pairs(folder) == parts.train_rows
        read = [pair for batch in read_batches(folder) for pair in zip(batch["text"], batch["label"], strict=True)]
        assert read == parts.train_rows
    assert parts.summary == whole.summary


def test_a_split(tmp_path: Path) -> None:
    rows = make_rows(10_000, classes=5)  # more than a row group
    source = write(tmp_path / "x.jsonl", rows)
    loaded = Loaded(tmp_path, train_data=source)
    assert sorted(loaded.train_rows + loaded.evaluation_rows) == sorted(rows)
    assert Counter(label for _, label in loaded.evaluation_rows) == {str(label): 400 for label in range(5)}
    assert loaded.evaluation["source_sha256"] == loaded.train["source_sha256"]
    assert loaded.evaluation["source"] == "20.0% of each class of training"
    again, other = Loaded(tmp_path, train_data=source), Loaded(tmp_path, train_data=source, seed=2)
    assert again.evaluation_rows == loaded.evaluation_rows
    assert other.evaluation_rows != loaded.evaluation_rows


def test_long_texts_do_not_wait_in_memory(tmp_path: Path) -> None:
    rows = [(f"{number}" + "x" * 4_000_000, str(number % 2)) for number in range(7)]
    evaluation = write(tmp_path / "y.jsonl", [("a", "0"), ("b", "1")])
    Loaded(tmp_path, train_data=write(tmp_path / "x.jsonl", rows), evaluation_data=evaluation)
    file = pyarrow.parquet.ParquetFile(tmp_path / "train.out")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [5, 2]


def test_columns_are_parameters(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("id\tstars\treview\n" + "".join(f"1\t{n % 2}\ttext {n}\n" for n in range(10)))
    columns = {"text_column": "review", "label_column": "stars"}
    loaded = Loaded(tmp_path, train_data=f" file://{tmp_path}/x.tsv\n", evaluation_data=" ", **columns)
    assert Counter(label for _, label in loaded.train_rows) == {"0": 4, "1": 4}
    with pytest.raises(UsageError, match="text_column and label_column are both 'stars'"):
        LoadSettings(train_data="x.csv", text_column="stars", label_column="stars")


def test_the_summary_can_be_broken_by_no_label(tmp_path: Path) -> None:
    labels = ["a|b\n\r|c", "<b>", "d" * 10_000]
    loaded = Loaded(tmp_path, train_data=write(tmp_path / "x.jsonl", [(f"{n}", labels[n % 3]) for n in range(12)]))
    for line in loaded.summary.splitlines():
        assert line.count("|") in (0, 4) and len(line) < 200
    assert "| a&#124;b &#124;c | 3 (33.3%) | 1 (33.3%) |" in loaded.summary
    assert "| &lt;b&gt; |" in loaded.summary


def test_a_thousand_classes_with_long_names(tmp_path: Path) -> None:
    """What becomes an artifact's metadata stays small: Kubernetes has little room for it."""
    rows = [(f"text {number}", f"{number % 1000:0>40}") for number in range(3000)]
    loaded = Loaded(tmp_path, train_data=write(tmp_path / "x.jsonl", rows))
    assert len(json.dumps([loaded.train, loaded.evaluation])) < 2000
    assert len(loaded.summary) < 10_000
    assert f"| {99:0>40} | 2 (0.1%) | 1 (0.1%) |\n| ... and 900 more |  |  |\n" in loaded.summary


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("text,label\n", "'{}': 0 of its 0 rows can be used: 0 lack a text or a label, or have cells too many (lines"),
        ("text,label\na,1\n" + ",0\n" * 9, "(lines [3, 4, 5, 6, 7]; max_bad_share allows 0.00%)"),
        ("text,label\na,1\nb,1\n", "'{}' has too few classes ('1')"),
        ("text,label\na,1\na,0\n", "'{}' is too small to split"),
        (
            "text,label\n" + "".join(f"a{n},b{n}\n" for n in range(1001)),
            "over 1000 classes, such as 'b999': is label_col",
        ),
    ],
)
def test_data_to_refuse(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "x.csv").write_text(content)
    assert says.format(tmp_path / "x.csv") in refused(tmp_path, train_data=f"{tmp_path}/x.csv")


def test_evaluation_to_refuse(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [("a", "1"), ("b", "0")])
    assert "the texts of 2 stand in the evaluation data" in refused(tmp_path, train_data=train, evaluation_data=train)
    strange = write(tmp_path / "strange.jsonl", [("c", "1"), ("d", "positive")])
    message = refused(tmp_path, train_data=train, evaluation_data=strange)
    assert "evaluation has 1 label(s) that training lacks: 'positive'; training has '0', '1'" in message
    many = write(tmp_path / "many.jsonl", [(f"{number}", f"{number}" * 9999) for number in range(900)])
    assert len(refused(tmp_path, train_data=train, evaluation_data=many)) < 3000


def test_no_secret_of_a_url_is_kept(
    tmp_path: Path, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    httpserver.expect_request("/x.jsonl").respond_with_data(Path(write(tmp_path / "x", make_rows(100))).read_bytes())
    url = httpserver.url_for("/x.jsonl")
    loaded = Loaded(tmp_path, train_data=url.replace("://", "://me:hunter2@") + "?signature=hunter2")
    assert loaded.train["source"] == url
    assert f"- train: `{url}`" in loaded.summary
    assert "hunter2" not in f"{loaded.train}{loaded.evaluation}{loaded.summary}{capsys.readouterr()}"


CHILD = """
import re, sys
from pathlib import Path
from nlp_pipeline.steps.load_data.load import load_datasets
from nlp_pipeline.steps.load_data.settings import LoadSettings
from nlp_pipeline.volume import Run

outputs = [sys.argv[1] + name for name in (".train", ".evaluation", ".summary")]
load_datasets(LoadSettings(train_data=sys.argv[1]), Run(volume_path="", model_name="model", run_id="run"), *outputs)
# Not getrusage: what it says of a child is no less than its parent had.
print(re.search("VmHWM:\\s*([0-9]+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_memory_of_many_rows(tmp_path: Path, form: str) -> None:
    filler = "".join(random.Random(0).choices("abcdefghij ", k=1 << 20))
    peaks = []
    for count in (40_000, 80_000):
        table = pyarrow.table({
            "text": [f"{number:07} {filler[number : number + 692]}" for number in range(count)],
            "label": [number % 2 for number in range(count)],
        })  # fmt: skip
        path = tmp_path / f"{count}.{form}"
        if form == "csv":
            pyarrow.csv.write_csv(table, path)
        else:  # one row group, as pyarrow and pandas write it
            pyarrow.parquet.write_table(table, path)
        child = [sys.executable, "-c", CHILD, str(path)]
        done = subprocess.run(child, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    # In MiB; 650,000 rows of 700 characters shall take less than 1 GiB.
    assert peaks[1] + (650_000 - 80_000) * max(0, peaks[1] - peaks[0]) / 40_000 < 1000
