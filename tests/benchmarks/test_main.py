import json
import sys
import types
from pathlib import Path

import pytest

from benchmarks import __main__ as bench
from benchmarks.measure import Figure
from benchmarks.results import QUICK


@pytest.fixture
def topics(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, Path]]:
    """Two topics, the first of which fails; gives what they were asked."""
    asked: list[tuple[bool, Path]] = []

    def fail(quick: bool, folder: Path) -> list[Figure]:
        asked.append((quick, folder))
        raise OSError("no such thing")

    def succeed(quick: bool, folder: Path) -> list[Figure]:
        asked.append((quick, folder))
        (folder / "written").touch()
        return [Figure("speed", "rows/s", {"ours": [4.0] * 3, "theirs": [2.0] * 3}, targets={"theirs": 1.5})]

    for name, measure in (("failing", fail), ("fine", succeed)):
        module = types.ModuleType(f"benchmarks.{name}")
        vars(module)["measure"] = measure
        monkeypatch.setitem(sys.modules, f"benchmarks.{name}", module)
    monkeypatch.setattr(bench, "TOPICS", ["failing", "fine"])
    return asked


def test_a_topic_that_fails_is_told_and_the_next_is_measured(
    topics: list[tuple[bool, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "results.json"
    assert bench.main(["--output", str(output)]) == 1
    told = capsys.readouterr()
    assert "error: failing failed: no such thing" in told.err
    assert "2.00\n    1.5: met" in told.out
    found = json.loads(output.read_text(encoding="utf-8"))
    assert list(found["topics"]) == ["fine"]
    assert found["topics"]["fine"]["figures"][0]["met"] is True
    assert [quick for quick, _ in topics] == [False, False]
    assert not any(folder.exists() for _, folder in topics)


def test_only_some_the_quick_way_with_their_files_kept(topics: list[tuple[bool, Path]], tmp_path: Path) -> None:
    output, kept = tmp_path / "results.json", tmp_path / "kept"
    command = ["--quick", "--only", "fine", "--folder", str(kept), "--output", str(output)]
    assert bench.main(command) == 0
    assert [quick for quick, _ in topics] == [True]
    assert [path.name for path in kept.glob("fine-*/*")] == ["written"]
    assert json.loads(output.read_text(encoding="utf-8"))["quick"] is True


def test_what_is_measured_by_default() -> None:
    parser = bench.make_parser()
    assert bench.chosen_topics(parser.parse_args([])) == bench.TOPICS
    assert "profile" not in bench.chosen_topics(parser.parse_args(["--quick"]))
    assert bench.chosen_topics(parser.parse_args(["--profile"])) == ["profile"]
    assert QUICK.parent.parent.name == "build"  # where nothing is committed
