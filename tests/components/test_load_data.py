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
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kfp import compiler, components, dsl, local
from pytest_httpserver import HTTPServer

from nlp_pipeline.components.labels import label_order
from nlp_pipeline.components.load_data import load_both, load_data, require_classes, summarise
from nlp_pipeline.components.load_data_datasets import choose_evaluation, require_rows, split_rows, write_rows
from nlp_pipeline.local import for_this_machine
from tests.conftest import make_rows

Pairs = list[tuple[str, str]]
PARAMETERS: dict[str, Any] = {
    "evaluation_data": "",
    "text_column": "text",
    "label_column": "label",
    "evaluation_share": 0.2,
    "max_bad_share": 0.0,
    "seed": 1,
    "model_name": "model",
    "run_id": "run",
}


def write(path: Path, rows: Sequence[tuple[str | None, str | None]]) -> str:
    """Writes rows as JSON Lines."""
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return str(path)


def pairs(path: Path | str) -> Pairs:
    table = pyarrow.parquet.read_table(path)
    assert [(field.name, str(field.type)) for field in table.schema] == [("text", "string"), ("label", "string")]
    return list(zip(table["text"].to_pylist(), table["label"].to_pylist(), strict=True))


def load_step(folder: Path, **parameters: Any) -> dict[str, Any]:
    """Runs the step, with its outputs and its volume in a folder, and returns its artifacts."""
    (folder / "volume").mkdir(exist_ok=True)
    outputs = {
        "train": dsl.Dataset(uri=str(folder / "train.out")),
        "evaluation": dsl.Dataset(uri=str(folder / "evaluation.out")),
        "summary": dsl.Markdown(uri=str(folder / "summary.out")),
    }
    load_data(**PARAMETERS | {"volume_path": str(folder / "volume")} | parameters, **outputs)
    return outputs


class Loaded:
    """What a run of the step left behind."""

    def __init__(self, folder: Path, **parameters: Any) -> None:
        outputs = load_step(folder, **parameters)
        self.train, self.evaluation = outputs["train"].metadata, outputs["evaluation"].metadata
        self.train_rows, self.evaluation_rows = pairs(folder / "train.out"), pairs(folder / "evaluation.out")
        self.summary = (folder / "summary.out").read_text(encoding="utf-8")


def refused(folder: Path, **parameters: Any) -> str:
    """Returns the one line with which the step refuses its data."""
    with pytest.raises(ValueError, match=r"^[^\n]+\Z") as caught:
        Loaded(folder, **parameters)
    assert type(caught.value) is ValueError
    return str(caught.value)


# The split


LABELS = st.sampled_from("abc")
TEXTS = st.sampled_from([f"text {number}" for number in range(12)]) | st.text(min_size=1, max_size=3)


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(TEXTS.filter(str.strip), LABELS), min_size=1, max_size=40),
    share=st.floats(0.01, 0.99),
    seed=st.integers(),
)
def test_any_split(tmp_path_factory: pytest.TempPathFactory, rows: Pairs, share: float, seed: int) -> None:
    folder = tmp_path_factory.getbasetemp()
    source = {"path": write(folder / "x", rows), "name": "x.jsonl"}
    targets = (str(folder / "train"), str(folder / "evaluation"))
    labels_of: dict[str, set[str]] = {}
    for text, label in rows:
        labels_of.setdefault(text.strip(), set()).add(label)
    texts_of = {label: [text for text, labels in labels_of.items() if labels == {label}] for label in "abc"}
    try:
        counted = load_both(source, None, targets, ("text", "label"), 0, share, seed)
    except ValueError as error:
        few = len({label for _, label in rows}) < 2 or all(len(texts) < 2 for texts in texts_of.values())
        assert few, error
        return
    train, evaluation = pairs(targets[0]), pairs(targets[1])
    assert Counter(train + evaluation) == Counter(rows)
    assert train == [row for row in rows if row in train]
    assert {text.strip() for text, _ in train}.isdisjoint(text.strip() for text, _ in evaluation)
    assert {label for _, label in train} == {label for _, label in rows}
    for label, texts in texts_of.items():
        chosen = {text.strip() for text, other in evaluation if other == label}
        assert chosen <= set(texts)
        assert len(chosen) == (min(max(1, round(share * len(texts))), len(texts) - 1) if texts else 0)
    assert (counted["train"]["rows"], counted["evaluation"]["rows"]) == (len(train), len(evaluation))
    assert counted["train"]["labels"] == Counter(label for _, label in train)
    assert counted["train"]["duplicates"] == len(rows) - len(labels_of)


@settings(deadline=None)
@given(
    train=st.lists(st.tuples(TEXTS.filter(str.strip), LABELS), min_size=1, max_size=20),
    evaluation=st.lists(st.tuples(TEXTS.filter(str.strip), LABELS), min_size=1, max_size=10),
)
def test_any_two_sources(tmp_path_factory: pytest.TempPathFactory, train: Pairs, evaluation: Pairs) -> None:
    folder = tmp_path_factory.getbasetemp()
    sources = [
        {"path": write(folder / name, rows), "name": f"{name}.jsonl"}
        for name, rows in (("x", train), ("y", evaluation))
    ]
    targets = (str(folder / "train"), str(folder / "evaluation"))
    held_out = {text.strip() for text, _ in evaluation}
    kept = [row for row in train if row[0].strip() not in held_out]
    try:
        counted = load_both(sources[0], sources[1], targets, ("text", "label"), 0, 0.2, 1)
    except ValueError:
        labels = {label for _, label in kept}
        assert len(labels) < 2 or not {label for _, label in evaluation} <= labels
        return
    assert pairs(targets[0]) == kept
    assert pairs(targets[1]) == evaluation
    assert counted["train"]["leaked"] == len(train) - len(kept)


def test_the_split_depends_on_the_seed_only() -> None:
    label_of = {number: "ab"[number % 2] for number in range(200)}
    chosen = choose_evaluation(label_of, 0.2, 1)
    assert choose_evaluation(dict(label_of), 0.2, 1) == chosen
    assert choose_evaluation(label_of, 0.2, 2) != chosen
    assert Counter(label_of[text] for text in chosen) == {"a": 20, "b": 20}


def test_classes_are_split_each_by_itself() -> None:
    sizes = {"many": 100, "few": 3, "two": 2, "one": 1, "": 50}
    label_of = {hash((label, number)): label for label, size in sizes.items() for number in range(size)}
    chosen = Counter(label_of[text] for text in choose_evaluation(label_of, 0.3, 1))
    assert chosen == {"many": 30, "few": 1, "two": 1}
    assert choose_evaluation(label_of, 0.999, 1).isdisjoint({hash(("one", 0))})


# What is counted in one pass


BLANKS = st.sampled_from(["", "", " ", "\n", "\u2003"])
CELLS = st.none() | BLANKS | st.tuples(BLANKS, TEXTS, BLANKS).map("".join)
NAMES = st.none() | BLANKS | st.tuples(BLANKS, st.sampled_from(["9", "10", "a", "B"]), BLANKS).map("".join)


def require_recount(folder: Path, cells: list[tuple[str | None, str | None]], held_out: set[str]) -> None:
    """Makes sure that what is written and counted of some rows is what a recount finds, row by row."""
    source = {"path": write(folder / "x", cells), "name": "x.jsonl"}
    exclude = {hash(text): "" for text in held_out}
    good = [(text, label.strip()) for text, label in cells if text and text.strip() and label and label.strip()]
    kept = [(text, label) for text, label in good if text.strip() not in held_out]
    if not kept:
        with pytest.raises(ValueError, match=f"'x.jsonl': none of its {len(cells)} rows is left: "):
            write_rows(source, str(folder / "y"), ("text", "label"), 1.0, exclude)
        return
    labels_of: dict[str, set[str]] = {}
    duplicates = conflicts = 0
    for text, label in kept:
        before = labels_of.setdefault(text.strip(), set())
        duplicates += bool(before)
        conflicts += bool(before - {label})
        before.add(label)
    counted, hashes, label_of = write_rows(source, str(folder / "y"), ("text", "label"), 1.0, exclude)
    assert pairs(folder / "y") == kept
    assert hashes == [hash(text.strip()) for text, _ in kept]
    assert list(label_of.items()) == [
        (hash(text), min(labels) if len(labels) == 1 else "") for text, labels in labels_of.items()
    ]
    assert list(counted.pop("lengths")) == [len(text) for text, _ in kept]
    balance = Counter(label for _, label in kept)
    assert list(counted["labels"]) == label_order(list(balance))
    assert counted == {
        "rows": len(kept),
        "bad": len(cells) - len(good),
        "leaked": len(good) - len(kept),
        "duplicates": duplicates,
        "conflicts": conflicts,
        "labels": balance,
    }


@settings(max_examples=150, deadline=None)
@given(
    cells=st.lists(st.tuples(CELLS, NAMES), min_size=1, max_size=40),
    held_out=st.sets(TEXTS.map(str.strip).filter(bool), max_size=4),
)
def test_what_is_counted_is_what_a_recount_finds(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str | None, str | None]], held_out: set[str]
) -> None:
    require_recount(tmp_path_factory.getbasetemp(), cells, held_out)


def test_a_recount_of_several_batches_of_rows(tmp_path: Path) -> None:
    rng = random.Random(0)
    texts = ["", " ", *(f"{blank}text {number}" for number in range(5000) for blank in ("", " "))]
    cells = [(rng.choice(texts), rng.choice([*"abcd", "", " a"])) for _ in range(15_000)]
    require_recount(tmp_path, [*cells, (None, "a"), ("text", None)], {f"text {number}" for number in range(100)})


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(TEXTS, LABELS, st.booleans()), min_size=1, max_size=60),
    group=st.integers(1, 20),
)
def test_a_split_is_counted_as_a_recount_finds(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, bool]], group: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    texts, labels, chosen = map(list, zip(*rows, strict=True))
    table = pyarrow.table({"text": texts, "label": labels})
    pyarrow.parquet.write_table(table, folder / "rows", row_group_size=group)
    targets = [str(folder / name) for name in ("train", "evaluation")]
    counted = split_rows(str(folder / "rows"), [len(text) for text in texts], chosen, *targets)
    for found, target, here in zip(counted, targets, (False, True), strict=True):
        expected = [(text, label) for text, label, is_chosen in rows if is_chosen == here]
        assert pairs(target) == expected
        assert list(found["lengths"]) == [len(text) for text, _ in expected]
        assert (found["rows"], found["labels"]) == (len(expected), Counter(label for _, label in expected))


# The checks


def test_require_rows() -> None:
    require_rows("x", 99, {"bad": [5], "leaked": []}, 0.01)
    require_rows("x", 1, {"bad": [], "leaked": [2, 3]}, 0)
    with pytest.raises(ValueError, match="'x' has no rows"):
        require_rows("x", 0, {"bad": [], "leaked": []}, 1)
    with pytest.raises(ValueError, match=r"7 of 100 rows .* line 2, 3, 4, 5, 6; max_bad_share allows 6\.90%"):
        require_rows("x", 90, {"bad": list(range(2, 9)), "leaked": [1, 2, 3]}, 0.069)
    with pytest.raises(ValueError, match=r"none of its 3 rows is left: 1 lack .* 2 stand in the evaluation"):
        require_rows("x", 0, {"bad": [1], "leaked": [2, 3]}, 1)


def test_require_classes() -> None:
    require_classes("x", ["a", "b"], ["a"])
    with pytest.raises(ValueError, match="'x' has one class only, 'a': a classifier needs two"):
        require_classes("x", ["a"], ["a"])
    with pytest.raises(ValueError, match="too small to split"):
        require_classes("x", ["a", "b"], [])
    with pytest.raises(ValueError, match=r"2 label\(s\) that training lacks: 'c', 'd'; training has 'a', 'b'"):
        require_classes("x", ["a", "b"], ["a", "c", "d"])
    with pytest.raises(ValueError, match="lacks") as caught:
        require_classes("x", [f"{number:09}" * 999 for number in range(900)], ["b" * 10_000] * 900)
    assert len(str(caught.value)) < 2000


def test_the_summary_can_be_broken_by_no_label() -> None:
    labels = ["a|b\n\r|c", "<b>", "d" * 10_000]
    part = {"rows": 4, "labels": dict.fromkeys(labels, 1), "lengths": [3, 1, 2, 100], "bad": 1}
    text = summarise({"train": part, "evaluation": part}, {"train": "x.csv", "evaluation": "y.csv"})
    for line in text.splitlines():
        assert line.count("|") in (0, 4)
        assert len(line) < 200
    assert "| a&#124;b &#124;c | 1 (25.0%) | 1 (25.0%) |" in text
    assert "| &lt;b&gt; |" in text
    assert "| 0% | 1 | 1 |" in text
    assert "| 50% | 3 | 3 |" in text
    assert "| 100% | 100 | 100 |" in text


# The step


def test_two_sources(tmp_path: Path) -> None:
    train = [
        ("a", "1"),
        ("b", "0"),
        (" a ", "1"),
        ("b", "1"),
        ("e", "0"),
        ("", "1"),
        ("f", ""),
        ("e ", "1"),
        ("g", "0"),
    ]
    evaluation = [("e", "1"), ("h", "0"), ("e", "1"), (" ", "0")]
    sources = {
        "train_data": write(tmp_path / "train.jsonl", train),
        "evaluation_data": write(tmp_path / "test.jsonl", evaluation),
    }
    loaded = Loaded(tmp_path, **sources, max_bad_share=0.25)
    assert loaded.train_rows == [("a", "1"), ("b", "0"), (" a ", "1"), ("b", "1"), ("g", "0")]
    assert loaded.evaluation_rows == [("e", "1"), ("h", "0"), ("e", "1")]
    run_dir = tmp_path / "volume" / "model" / "runs" / "run"
    assert loaded.train == {
        "rows": 5, "bad": 2, "leaked": 2, "duplicates": 2, "conflicts": 1, "labels": {"0": 2, "1": 3},
        "label_names": ["0", "1"], "source": sources["train_data"], "run_dir": str(run_dir),
        "source_sha256": hashlib.sha256(Path(sources["train_data"]).read_bytes()).hexdigest(),
    }  # fmt: skip
    assert loaded.evaluation == {
        "rows": 3, "bad": 1, "leaked": 0, "duplicates": 1, "conflicts": 0, "labels": {"0": 1, "1": 2},
        "label_names": ["0", "1"], "source": sources["evaluation_data"],
        "source_sha256": hashlib.sha256(Path(sources["evaluation_data"]).read_bytes()).hexdigest(),
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
        f"- train: `{sources['train_data']}`",
    ):
        assert f"{line}\n" in loaded.summary


def test_a_split(tmp_path: Path) -> None:
    rows = make_rows(1000, classes=5)
    source = write(tmp_path / "x.jsonl", rows)
    loaded = Loaded(tmp_path, train_data=source)
    assert loaded.evaluation["labels"] == {str(label): 40 for label in range(5)}
    assert loaded.train["labels"] == {str(label): 160 for label in range(5)}
    assert sorted(loaded.train_rows + loaded.evaluation_rows) == sorted(rows)
    assert loaded.evaluation["source_sha256"] == loaded.train["source_sha256"]
    assert loaded.evaluation["source"] == "20.0% of each class of training"
    again, other = Loaded(tmp_path, train_data=source), Loaded(tmp_path, train_data=source, seed=2)
    assert again.evaluation_rows == loaded.evaluation_rows
    assert other.evaluation_rows != loaded.evaluation_rows


def test_more_rows_than_a_row_group(tmp_path: Path) -> None:
    rows = [(f"text {number}", str(number % 2)) for number in range(10_000)]
    loaded = Loaded(tmp_path, train_data=write(tmp_path / "x.jsonl", rows))
    assert (loaded.train["rows"], loaded.evaluation["rows"]) == (8000, 2000)
    assert sorted(loaded.train_rows + loaded.evaluation_rows) == sorted(rows)


def test_long_texts_do_not_wait_in_memory(tmp_path: Path) -> None:
    rows = [(f"{number}" + "x" * 2_000_000, str(number % 2)) for number in range(24)]
    Loaded(
        tmp_path,
        train_data=write(tmp_path / "x.jsonl", rows[:12]),
        evaluation_data=write(tmp_path / "y.jsonl", rows[12:]),
    )
    file = pyarrow.parquet.ParquetFile(tmp_path / "train.out")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [9, 3]


def test_a_label_that_only_ambiguous_texts_have(tmp_path: Path) -> None:
    rows = [("a", "0"), ("b", "0"), ("c", "0"), ("c", "1"), ("c", "0")]
    for seed in range(10):
        loaded = Loaded(tmp_path, train_data=write(tmp_path / "x.jsonl", rows), evaluation_share=0.9, seed=seed)
        assert rows[2:] == loaded.train_rows[1:]
        assert loaded.train["conflicts"] == 2


def test_columns_are_parameters(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("id\tstars\treview\n" + "".join(f"1\t{n % 2}\ttext {n}\n" for n in range(10)))
    loaded = Loaded(
        tmp_path,
        train_data=f" file://{tmp_path}/x.tsv\n",
        evaluation_data=" ",
        text_column="review",
        label_column="stars",
    )
    assert loaded.train["labels"] == {"0": 4, "1": 4}
    message = refused(tmp_path, train_data=f"{tmp_path}/x.tsv")
    assert "has no column 'text'; its columns are 'id', 'stars', 'review'" in message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ("text,label\n", "has no rows"),
        (
            "text,label\na,1\n,0\nb,0\n",
            "1 of 3 rows lack a text or a label, or have cells too many, the first at line 3",
        ),
        ("text,label\na,1\nb,1\n", "has one class only, '1'"),
        ("text,label\na,1\nb,0\n", "too small to split"),
        ("text,label\na,1\na,0\n", "too small to split"),
        ("text,label\n" + "".join(f"a{n},b{n}\n" for n in range(1001)), "column 'label' has over 1000 classes"),
    ],
)
def test_data_to_refuse(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "x.csv").write_text(content)
    message = refused(tmp_path, train_data=f"{tmp_path}/x.csv")
    assert says in message
    assert f"'{tmp_path}/x.csv'" in message


def test_evaluation_to_refuse(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [("a", "1"), ("b", "0")])
    assert "none of its 2 rows is left" in refused(tmp_path, train_data=train, evaluation_data=train)
    strange = write(tmp_path / "strange.jsonl", [("c", "1"), ("d", "positive")])
    message = refused(tmp_path, train_data=train, evaluation_data=strange)
    assert "evaluation has 1 label(s) that training lacks: 'positive'; training has '0', '1'" in message
    empty = write(tmp_path / "empty.jsonl", [])
    assert refused(tmp_path, train_data=train, evaluation_data=empty).startswith(f"'{empty}' is empty")


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("evaluation_share", 0.0),
        ("evaluation_share", 1.0),
        ("evaluation_share", float("nan")),
        ("max_bad_share", -0.1),
        ("max_bad_share", 1.1),
        ("max_bad_share", float("nan")),
        ("train_data", " "),
    ],
)
def test_parameters_to_refuse(tmp_path: Path, parameter: str, value: Any) -> None:
    message = refused(tmp_path, **{"train_data": "https://not.used/x.csv", parameter: value})
    assert message.startswith(f"{parameter} is {value!r}: it must be ")


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


@pytest.mark.slow
def test_in_the_local_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step's source holds all that it needs: it runs in a process of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "volume").mkdir()
    compiler.Compiler().compile(load_data, "load_data.yaml")
    step = components.load_component_from_text(for_this_machine(Path("load_data.yaml").read_text()))
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "root"))
    train_data = write(tmp_path / "x.jsonl", make_rows(100))
    task = step(**PARAMETERS | {"volume_path": str(tmp_path / "volume"), "train_data": train_data})
    assert [task.outputs[name].metadata["rows"] for name in ("train", "evaluation")] == [80, 20]
    assert len(pairs(task.outputs["train"].path)) == 80
    assert "| rows kept | 80 | 20 |" in Path(task.outputs["summary"].path).read_text()


CHILD = """
import re, sys, time
from pathlib import Path
from tests.components.test_load_data import load_step

folder, source = Path(sys.argv[1]), sys.argv[2]
folder.mkdir()
began = time.process_time()
load_step(folder, train_data=source)
seconds = time.process_time() - began
# Not getrusage: what it tells of a child is no less than its parent had.
peak = re.search("VmHWM:\\s*([0-9]+) kB", Path("/proc/self/status").read_text())
print(seconds, int(peak[1]) / 1024)
"""


def cost(folder: Path, form: str, count: int) -> tuple[float, float]:
    """Returns the CPU seconds and the peak MiB that it takes to load so many rows of 700 characters."""
    rng = random.Random(0)
    filler = "".join(rng.choices("abcdefghij ", k=1 << 20))
    texts = [f"{number:07} {filler[at : at + 692]}" for number in range(count) for at in [rng.randrange(1 << 19)]]
    path = folder / f"{count}.{form}"
    if form == "csv":
        path.write_text("text,label\n" + "".join(f"{text},{number % 2}\n" for number, text in enumerate(texts)))
    else:  # one row group, as pyarrow and pandas write it
        pyarrow.parquet.write_table(pyarrow.table({"text": texts, "label": [n % 2 for n in range(count)]}), path)
    del texts
    child = [sys.executable, "-c", CHILD, str(folder / str(count)), str(path)]
    done = subprocess.run(child, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    seconds, peak = map(float, done.stdout.split()[-2:])
    return seconds, peak


@pytest.mark.slow
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_memory_and_time_of_many_rows(tmp_path: Path, form: str) -> None:
    seconds, peak = cost(tmp_path, form, 65_000)
    seconds_of_twice, peak_of_twice = cost(tmp_path, form, 130_000)
    assert seconds_of_twice < 3 * seconds  # linear: twice; quadratic: four times
    assert peak_of_twice + (650_000 - 130_000) * max(0, peak_of_twice - peak) / 65_000 < 1000
