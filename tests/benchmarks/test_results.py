import dataclasses
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chart import chart
from benchmarks.measure import Figure, record
from benchmarks.results import RESULTS, describe, write
from benchmarks.table import show, summary, table
from nlp_pipeline import docs

FIGURES = [
    Figure(
        "reviews, 32 clients: requests/s",
        "requests/s",
        {"ours": [200.0, 204.0, 202.0], "eager fp32": [50.0, 50.0, 50.0]},
        targets={"eager fp32": 4.0},
    ),
    Figure("p50", "ms", {"ours": [6.0, 9.0, 6.0], "a < b": [24.0, 24.0, 24.0]}, False, {"a < b": 3.0}),
    Figure("accuracy lost", "points", {"ours": [0.75]}, False, limit=0.5, exact=True),
    Figure("unseen", "ms", {"ours": [1.0]}, False),
    Figure("seen", "MB", {"ours": [1234.5], "eager fp32": [2469.0]}, False, exact=True, shown=True),
]


def results(**topics: list[Figure]) -> dict[str, Any]:
    found = topics or {"serving": FIGURES}
    records = {topic: [record(one) for one in figures] for topic, figures in found.items()}
    return describe(records, dict.fromkeys(found, 1.0), quick=False)


def test_the_table_has_medians_ratios_and_verdicts() -> None:
    lines = table(results()).splitlines()
    assert lines[-4:] == [
        "| reviews, 32 clients: requests/s | 202 | eager fp32 50 | 4.04 (4.00 to 4.08) | 4: met |",
        "| p50 | 6 ms | a < b 24 ms | too noisy | 3: unclear |",
        "| accuracy lost | 0.75 points |  |  | at most 0.5 points: **missed** |",
        "| seen | 1,234 MB | eager fp32 2,469 MB | 2.00 |  |",
    ]


def test_figures_with_a_column_are_compared_with_a_row_for_each_server() -> None:
    rates = {"ours": [200.0] * 3, "peer": [50.0] * 3, "other": [40.0] * 3}
    missing: dict[str, Any] = {"exact": True, "details": {"missing": {"gone": "it ended | with status 1"}}}
    figures = [
        Figure("requests/s", "requests/s", rates, targets={"peer": 3.0, "other": 6.0}, column="per second"),
        Figure("memory", "MB", {"ours": [100.0], "peer": [300.0]}, False, limit=200.0, column="MB", **missing),
    ]
    lines = table(results(peers=figures)).splitlines()[4:]
    assert lines == [
        "| server | per second | MB |",
        "| --- | --- | --- |",
        "| ours | 200 | 100 |",
        "| peer | 50 | 300 |",
        "| other | 40 |  |",
        "| gone | could not be measured: it ended   with status 1 |",
        "",
        "| what | ours | against | times better | target |",
        "| --- | --- | --- | --- | --- |",
        "| requests/s | 200 requests/s | peer 50 requests/s<br>other 40 requests/s | 4.00<br>5.00 | "
        "3 against peer, 6 against other: **missed** |",
        "| memory | 100 MB |  |  | at most 200 MB: met |",
    ]


def test_the_summary_names_the_processor_and_the_best_peer() -> None:
    rates = {"ours": [200.0, 200.0, 202.0], "former pipeline": [20.0] * 3, "peer": [50.0] * 3}
    figure = Figure("32 clients: requests/s", "requests/s", rates, targets={"former pipeline": 8.0, "peer": 3.0})
    figure = dataclasses.replace(figure, column="rate")
    text = summary(results(peers=[figure]))
    assert text.endswith(": 32 clients: requests/s 200, the best other 50 (peer), 4.00 (4.00 to 4.04) times better.")
    assert f" processors of {results()['machine']['cpu']} (" in text
    assert summary(results()) == "Not measured yet."


def test_the_text_tells_no_refused_ratio() -> None:
    text = show("serving", [record(one) for one in FIGURES])
    assert re.search(r"eager fp32 +50 requests/s, ±0% +4\.04 \(4\.00 to 4\.08\)\n    4: met\n", text)
    assert "too noisy: the rounds' ratios lie between 2.67 and 4.00" in text
    assert "at most 0.5 points: **missed**" in text


def test_the_chart_has_a_bar_where_a_ratio_may_be_told() -> None:
    picture = ElementTree.fromstring(chart(results()))
    names = [one.text for one in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert "reviews, 32 clients: requests/s" in names
    assert "4.04" in names
    assert "too noisy to tell" in names
    assert "accuracy lost" not in names
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}rect"))) == 1
    assert "prefers-color-scheme: dark" in chart(results())


def test_results_name_the_machine_but_not_which(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write(results(), path)
    text = path.read_text(encoding="utf-8")
    assert json.loads(text)["machine"]["cpus"] >= 1
    assert not re.search(r'"[^"]*(/(home|tmp|root|work|usr)/)', text)
    assert (tmp_path / "results.svg").is_file()


def test_topics_of_the_same_machine_stay_others_go(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write(results(serving=FIGURES), path)
    write(results(training=FIGURES), path)
    assert list(json.loads(path.read_text())["topics"]) == ["serving", "training"]
    other = results(data=FIGURES)
    other["machine"] = {**other["machine"], "cpus": 999}
    write(other, path)
    assert list(json.loads(path.read_text())["topics"]) == ["data"]


def test_the_table_is_that_of_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (docs.ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    write(results(), tmp_path / "benchmarks" / "results.json")
    assert docs.performance() == table(results())
    assert "| reviews, 32 clients: requests/s | 202 |" in docs.generate(page)


def test_what_is_committed_belongs_together() -> None:
    committed = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert RESULTS.with_name("chart.svg").read_text(encoding="utf-8") == chart(committed)
    assert table(committed) in (docs.ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert committed["quick"] is False
    for topic in committed["topics"].values():
        for one in topic["figures"]:
            assert one["met"] is not None or not one["targets"] or any("refused" in r for r in one["ratios"].values())
