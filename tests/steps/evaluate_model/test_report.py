import html.parser
from typing import Any

import pytest

from nlp_pipeline.steps.evaluate_model.report import render_report
from nlp_pipeline.volume import Run

TRAINED: dict[str, Any] = {
    "train_loss": 0.2,
    "steps": 400,
    "device": "cuda",
    "reason": "it computes in bfloat16",
    "resumed_from_step": 0,
    "loss_curve": [[100, 0.8], [200, 0.4], [300, 0.3], [400, 0.2]],
}
HOSTILE = [
    "<script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "</style><img src=x onerror=alert(1)>",
    "{{ run }} {% raw %}",
    "שלום & 👩‍💻",
    "L" * 999,
]


class Page(html.parser.HTMLParser):
    """A page's tags, the cells of its tables, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text, self.in_table = "", False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.in_table = self.in_table or tag == "table"
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.in_table = self.in_table and tag != "table"

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.in_table and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def result_of(labels: list[str], confusion: list[list[int]]) -> dict[str, Any]:
    """Returns a result of the shape that compute_metrics gives; the figures are made up."""
    return {
        "rows": sum(map(sum, confusion)), "accuracy": 0.75, "macro_f1": 0.7, "log_loss": 0.5,
        "expected_calibration_error": 0.025, "majority_accuracy": 0.6,
        "majority_macro_f1": 0.3, "majority_log_loss": 0.69,
        "per_class": [
            {"label": label, "precision": 0.5, "recall": 0.5, "f1": at / len(labels), "support": sum(confusion[at])}
            for at, label in enumerate(labels)
        ],
        "confusion": confusion, "champion": {},
        "calibration": [
            {"confidence": 0.7, "accuracy": 0.6, "rows": 10},
            {"confidence": 0.9, "accuracy": 0.95, "rows": 40},
        ],
    }  # fmt: skip


def render(confusion: list[list[int]], labels: list[str] | None = None, text: str = "so so", **changes: Any) -> str:
    """Renders the report of rows that a confusion matrix counts, with the given training or figures."""
    labels = labels or [f"class-{at}" for at in range(len(confusion))]
    rows = [
        (f"{text} {number}", labels[true], labels[predicted], 0.5 + (true + number) / 10000)
        for true, counts in enumerate(confusion)
        for predicted, count in enumerate(counts)
        for number in range(count)
    ]
    result = result_of(labels, confusion)
    result |= {name: value for name, value in changes.items() if name in result}
    trained = TRAINED | {name: value for name, value in changes.items() if name not in result}
    columns = dict(zip(("text", "label", "predicted", "score"), map(list, zip(*rows, strict=True)), strict=True))
    columns["champion"] = [labels[-1] if result["champion"] else None] * len(rows)
    return render_report(Run(model_name="films", run_id="run-1", volume_path=""), result, trained, columns)


def many(count: int) -> list[list[int]]:
    """Returns a matrix in which every class is taken for the one before it, the first most often."""
    matrix = [[0] * count for _ in range(count)]
    for at in range(count):
        matrix[at][at] = 3
        matrix[at][at - 1] += (31 if at == 1 else 1) * (at > 0)
    return matrix


TWO = [[30, 20], [1, 1949]]
INTERVAL = [0.75, 0.7, 0.8]
CHAMPION = {
    "digest": "0123456789abcdef",
    "metric": "accuracy",
    "rows": 108,
    "seen": 3,
    "unknown": 2,
    "new": HOSTILE[:1],
    "gone": [],
    "problem": "",
    "figures": {"accuracy": {"challenger": INTERVAL, "champion": INTERVAL, "difference": [0.0, -0.1, 0.1]}},
    "data": {"labels": 0.3, "lengths": 0.0, "moved": ["the labels moved: population stability index 0.30"]},
}
EVERY = [[3] * len(HOSTILE) for _ in HOSTILE]


def test_page_stands_alone() -> None:
    page = render(EVERY, HOSTILE, HOSTILE[0], reason=HOSTILE[0], champion=CHAMPION)
    parsed = Page(page)
    assert not {tag for tag, _ in parsed.tags} & {"script", "link", "img", "iframe", "object", "base", "form"}
    for _, attributes in parsed.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "href", "srcdoc")]
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert "http://" not in page and "https://" not in page
    assert "nan" not in page
    page.encode()


def test_doubtful_values_are_named_with_their_counts() -> None:
    page = render(TWO, ["<b>", "<B>"], "NaN", rows=2000)
    assert "<p>Warning: labels look alike: &#39;&lt;B&gt;&#39; (1,950), &#39;&lt;b&gt;&#39; (50)\n" in page
    assert "Warning: labels may stand for a missing one: &#39;NaN&#39; (50)\n" in render(TWO, ["NaN", "b"])
    assert "Warning" not in render(TWO)


def test_hostile_names_and_texts_are_shown_as_text() -> None:
    page = render(EVERY, HOSTILE, HOSTILE[0])
    cells = {cell for row in Page(page).rows for cell in row}
    assert {*HOSTILE[:5], "L" * 600 + "…", f"{HOSTILE[0]} 2"} <= cells
    # A long name does not stretch the matrix; one that runs from right to left does not turn what stands beside it.
    assert Page(page).rows[5][-1] == "L" * 37 + "..."
    assert f'<td dir="auto">{HOSTILE[4].replace("&", "&amp;")}' in page
    assert "L" * 601 not in page and "x" * 601 not in render(TWO, text="x" * 9999)


def test_headline_figures_stand_beside_their_baselines() -> None:
    parsed = Page(render(TWO))
    assert parsed.rows[:5] == [
        ["", "Model", "Baseline", ""],
        ["Accuracy", "0.7500", "0.6000", ""],
        ["Macro F1", "0.7000", "0.3000", ""],
        ["Log Loss", "0.5000", "0.6900", ""],
        ["Calibration Error", "0.0250"],
    ]
    assert "on 2,000 rows of 2 classes" in parsed.text


def test_a_figure_no_better_than_its_baseline_is_told() -> None:
    assert render(TWO, accuracy=0.6).count("no better") == render(TWO, log_loss=0.7).count("no better") == 1


def test_confusion_matrix_has_counts_and_shares_of_the_true_class() -> None:
    matrix = Page(render(many(30))).rows[5:]
    assert matrix[0] == ["", *(f"class-{at}" for at in range(30))]
    assert matrix[1][:2] == ["class-0", "3100%"]
    assert matrix[2][:3] == ["class-1", "3191%", "39%"]
    assert not any(matrix[1][2:])


@pytest.mark.parametrize("classes", [31, 1000])
def test_many_classes_get_the_most_confused_pairs_and_the_weakest_classes(classes: int) -> None:
    page = render(many(classes))
    rows = Page(page).rows
    assert "Confusion matrix" not in page and f"of {classes - 1:,} pairs" in page
    assert rows[5:7] == [["True", "Predicted", "Rows"], ["class-1", "class-0", "31"]]
    assert [len(row) for row in rows].count(3) == 21
    assert [row[0] for row in rows if len(row) == 5] == ["Class", *(f"class-{at}" for at in range(30))]
    assert len(page) < 50_000


def test_points_lie_where_their_values_are() -> None:
    page = Page(render(TWO, loss_curve=[[100, 0.799], [200, 0.4], [399, 0.2]]))
    first, second = page.all("circle")[:2]
    places = [float(circle[key] or 0) for circle in (first, second) for key in ("cx", "cy")]
    assert places == pytest.approx([400 * 0.7, 240 - 240 * 0.6, 400 * 0.9, 240 - 240 * 0.95])
    assert float(first["r"] or 0) < float(second["r"] or 0)
    drawn = [float(value) for value in (page.all("polyline")[1]["points"] or "").replace(",", " ").split()]
    assert drawn == pytest.approx([100, 0.3, 200, 120, 399, 180])
    assert "360.0000,240.0000" in render(TWO, loss_curve=[[9, 0.0]])


def test_mistakes_are_at_most_twenty_the_surest_first() -> None:
    rows = Page(render([[5, 30], [1, 5]], text="x" * 700)).rows
    mistakes = rows[rows.index(["Text", "True", "Predicted", "Score"]) + 1 :]
    assert [row[3] for row in mistakes] == [f"0.{5029 - at}" for at in range(20)]
    assert mistakes[0][:3] == ["x" * 600 + "…", "class-0", "class-1"]
    assert "Of 31" in render([[5, 30], [1, 5]]) and "Of 0" in render([[5, 0], [0, 5]])


def test_how_it_was_trained() -> None:
    text = Page(render(TWO, steps=4000)).text
    assert "train loss: 0.2000steps: 4,000device: cudareason: it computes in bfloat16resumed from step: 0" in text


def test_a_comparison_with_the_champion() -> None:
    page = Page(render(TWO, champion=CHAMPION))
    assert ["Accuracy", *["0.7500 (0.7000 to 0.8000)"] * 2, "0.0000 (-0.1000 to 0.1000)"] in page.rows
    # The release always says class-1: right on 20 rows of class-0, the model on 30.
    assert ["class-0", "50", "0.6000", "0.0000"] in page.rows
    assert "As good as the champion, release 0123456789abcdef: accuracy +0.0000" in page.text
    assert "Left out: 3 rows that the release was trained on, 2 of classes that it does not know" in page.text
    assert "data, the labels moved: population stability index 0.30" in page.text
    assert "Rows that the model has right, and the release wrong: 30" in page.text
    assert "Rows that the release has right, and the model wrong: 1" in page.text
    failed = render(TWO, champion=CHAMPION | {"figures": {}, "problem": "it is gone"})
    assert "No comparison with the champion, release 0123456789abcdef: it is gone" in Page(failed).text


def test_a_comparison_on_many_classes_shows_some_of_them_and_no_matrices() -> None:
    page = Page(render(many(40), champion=CHAMPION))
    slices = [row[0] for row in page.rows if len(row) == 4 and row[0].startswith("class-")]
    assert len(slices) == 30 and any(row[0] == "7 to 8 characters" for row in page.rows)
    assert "Confusion matrix of the" not in page.text
