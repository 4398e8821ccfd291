import html.parser
import math
from typing import Any

import pytest

from nlp_pipeline.components.evaluate_model_report import (
    format_number,
    format_share,
    nice_ticks,
    render_report,
    safe_text,
)

TRAINED: dict[str, Any] = {
    "train_loss": 0.2,
    "steps": 400,
    "samples_per_second": 41.27,
    "device": "cuda",
    "dtype": "bfloat16",
    "reason": "it computes in bfloat16",
    "rows": 8000,
    "parameters": 66955010,
    "resumed_from_step": 0,
    "loss_curve": [[100, 0.8], [200, 0.4], [300, 0.3], [400, 0.2]],
}


class Page(html.parser.HTMLParser):
    """A page's tags, cells and text; fails on a tag that is not closed where it should be."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "col"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"th", "td"} & set(self.open):
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def result_of(labels: list[str], confusion: list[list[int]]) -> dict[str, Any]:
    """Returns a result of the shape that compute_metrics gives, with the numbers that the page derives from it."""
    supports = [sum(counts) for counts in confusion]
    return {
        "rows": sum(supports),
        "accuracy": 0.75,
        "macro_f1": 0.7,
        "log_loss": 0.5,
        "expected_calibration_error": 0.025,
        "majority_label": labels[0],
        "majority_accuracy": 0.6,
        "majority_macro_f1": 0.3,
        "majority_log_loss": 0.69,
        "per_class": [
            {"label": label, "precision": 0.5, "recall": 0.5, "f1": at / len(labels), "support": supports[at]}
            for at, label in enumerate(labels)
        ],
        "confusion": confusion,
        "calibration": [
            {"confidence": 0.7, "accuracy": 0.6, "rows": 10},
            {"confidence": 0.9, "accuracy": 0.95, "rows": 40},
        ],
    }


def many(count: int) -> dict[str, Any]:
    """Returns a result of many classes of 100 rows each; class 1 is taken for class 0 most often, then 2, 3, ..."""
    confusion = [[0] * count for _ in range(count)]
    for at in range(count):
        confusion[at][at] = 100
    for at in range(1, count):
        confusion[at][0] = count - at
        confusion[at][at] -= count - at
    return result_of([f"class-{at}" for at in range(count)], confusion)


TWO = result_of(["bad", "good"], [[30, 20], [1, 1949]])
ROWS = [("fine", "good", "good", 0.99), ("so so", "good", "bad", 0.6), ("awful", "bad", "good", 0.9)]


def render(result: dict[str, Any] | None = None, rows: list[Any] | None = None, **trained: Any) -> str:
    return render_report("films", "run-1", result or TWO, TRAINED | trained, ROWS if rows is None else rows)


HOSTILE = [
    "<script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "a\x00b\x1f\x85",
    "\ud800 lone",
    "שלום & 👩‍💻",
    "L" * 999,
]


def hostile_page() -> str:
    confusion = [[3] * len(HOSTILE) for _ in HOSTILE]
    rows = [(f"text {label}", label, HOSTILE[at - 1], 0.5) for at, label in enumerate(HOSTILE)]
    return render_report(HOSTILE[0], HOSTILE[1], result_of(HOSTILE, confusion), TRAINED | {"reason": HOSTILE[0]}, rows)


@pytest.mark.parametrize("page", [render(), hostile_page(), render(many(14)), render(many(40))])
def test_page_stands_alone(page: str) -> None:
    parsed = Page(page)
    tags = {tag for tag, _ in parsed.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "base", "form"}
    for _, attributes in parsed.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "href", "srcdoc")]
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert "http://" not in page and "https://" not in page
    page.encode()


def test_hostile_names_and_texts_are_shown_as_text() -> None:
    page = hostile_page()
    parsed = Page(page)
    assert "<script" not in page
    cells = {cell for row in parsed.rows for cell in row}
    assert {"<script>alert(1)</script>", 'text " onmouseover="alert(1)', "a\ufffdb\ufffd\ufffd", "\ufffd lone"} <= cells
    assert "שלום & 👩‍💻" in cells
    assert not set(page) & {"\x00", "\x1f", "\x85", "\ud800"}
    assert 'title="' + "L" * 600 + '…"' in page and "L" * 601 not in page


def test_right_to_left_names_and_texts_are_isolated() -> None:
    parsed = Page(hostile_page())
    assert all(attributes.get("dir") == "auto" for attributes in parsed.all("td") if attributes.get("class") == "prose")
    assert len([one for one in parsed.all("bdi") if one.get("title") == "שלום & 👩‍💻"]) >= 4


def test_headline_numbers_stand_beside_their_baselines() -> None:
    text = Page(render()).text
    assert "Accuracy75.0%baseline 60.0%Macro F10.700baseline 0.300Log loss0.500baseline 0.690Calib" in text
    assert "0.0250 is perfect" in text
    assert "no better" not in text


@pytest.mark.parametrize(
    ("key", "value"), [("accuracy", 0.6), ("macro_f1", 0.2), ("log_loss", 0.7), ("log_loss", math.nan)]
)
def test_a_number_no_better_than_its_baseline_is_told(key: str, value: float) -> None:
    assert Page(render(TWO | {key: value})).text.count("no better") == 1


def test_confusion_matrix_has_counts_and_shares_of_the_true_class() -> None:
    parsed = Page(render())
    assert ["True", "bad", "3060.0%", "2040.0%"] in parsed.rows
    assert ["good", "1<0.1%", "1,949>99.9%"] in parsed.rows
    scopes = [one.get("scope") for one in parsed.all("th")][:6]
    assert scopes == ["colgroup", "col", "col", "rowgroup", "row", "row"]
    assert ["True", "a", "0\u2013", "0\u2013"] in Page(render(result_of(["a", "b"], [[0, 0], [1, 1]]))).rows


def test_twenty_classes_get_a_matrix_and_more_the_most_confused_pairs() -> None:
    assert "Confusion matrix" in render(many(20))
    page = render(many(21))
    assert "Confusion matrix" not in page
    parsed = Page(page)
    assert parsed.rows[1:4] == [
        ["class-1", "class-0", "20", "20.0%"],
        ["class-2", "class-0", "19", "19.0%"],
        ["class-3", "class-0", "18", "18.0%"],
    ]
    assert ["class-20", "class-0", "1", "1.0%"] in parsed.rows
    assert ["class-21", "class-0", "1", "1.0%"] not in Page(render(many(22))).rows
    perfect = result_of([f"class-{at}" for at in range(21)], [[int(at == to) for to in range(21)] for at in range(21)])
    assert "No class was taken for another" in render(perfect)


def test_classes_keep_their_order_up_to_thirty_and_are_the_weakest_beyond() -> None:
    def classes(count: int, order: int) -> list[str]:
        result = many(count)
        result["per_class"] = result["per_class"][::order]
        result["confusion"] = [counts[::order] for counts in result["confusion"][::order]]
        return [row[0] for row in Page(render(result)).rows if len(row) == 5 and row[0] != "Class"]

    assert classes(30, -1) == [f"class-{at}" for at in range(29, -1, -1)]
    assert classes(31, 1) == [f"class-{at}" for at in range(30)]
    assert classes(40, -1) == [f"class-{at}" for at in range(30)]
    assert "The 30 of 40 classes with the lowest F1" in render(many(40))


def test_a_class_that_never_occurs_has_no_values() -> None:
    rows = Page(render(result_of(["a", "never", "guessed"], [[3, 0, 1], [0, 0, 0], [0, 0, 0]]))).rows
    assert ["never", "n/a", "n/a", "n/a", "0"] in rows
    assert ["guessed", "0.500", "0.500", "0.667", "0"] in rows


def test_calibration_points_lie_where_their_values_are() -> None:
    page = render()
    circles = [one for one in Page(page).all("circle") if one["class"] == "dot"]
    places = [float(one[key] or 0) for one in circles for key in ("cx", "cy")]
    # The plot's left and bottom edges are at 56 and 258, its sides 390 and 246 long.
    assert places == pytest.approx([56 + 390 * 0.7, 258 - 246 * 0.6, 56 + 390 * 0.9, 258 - 246 * 0.95], abs=0.1)
    assert float(circles[0]["r"] or 0) < float(circles[1]["r"] or 0)
    labels = [one.get("aria-label") for one in Page(page).all("svg") if one.get("role") == "img"]
    assert labels[0] == "Share that is right at mean score: 0.60 at 0.70, 0.95 at 0.90"
    assert len(labels) == 2


def loss_lines(page: str) -> list[str | None]:
    """Returns the points of each line of the loss curve; the first line of a page is the calibration curve."""
    return [one["points"] for one in Page(page).all("polyline")][1:]


def test_loss_curve_runs_from_the_first_to_the_last_step() -> None:
    page = render()
    assert loss_lines(page) == ["153.5,12.0 251.0,135.0 348.5,165.8 446.0,196.5"]
    assert "0.800 at step 100 to 0.200 at step 400" in page
    assert "not finite" not in page


def test_losses_that_are_not_finite_leave_gaps() -> None:
    curve = [[1, 4.0], [2, math.nan], [3, 2.0], [4, 1.0], [5, math.inf], [6, 3.0]]
    page = render(loss_curve=curve)
    assert len(loss_lines(page)) == 3
    assert "2 of 6 values are not finite" in page
    assert len(Page(page).all("circle")) == len(TWO["calibration"]) + 2


@pytest.mark.parametrize(
    ("curve", "told"),
    [
        ([], "no finite loss was logged"),
        ([[1, math.nan]], "1 of 1 values are not finite"),
        ([[7, 0.5]], "<p>0.500 at step 7.</p>"),
        ([[1, 0.0], [2, 0.0]], "0.000 at step 1 to 0.000 at step 2"),
        ([[0, 0.3]], "0.300 at step 0"),
    ],
)
def test_loss_curves_of_few_values(curve: list[list[float]], told: str) -> None:
    page = render(loss_curve=curve)
    Page(page)
    assert told in page
    assert "nan" not in page[page.index("<h2>Training loss") :]


def mistakes(page: str) -> list[list[str]]:
    rows = Page(page).rows
    return rows[rows.index(["Score", "True", "Predicted", "Text"]) + 1 :]


def test_mistakes_are_the_wrong_rows_by_falling_score() -> None:
    assert mistakes(render()) == [["0.9000", "bad", "good", "awful"], ["0.6000", "good", "bad", "so so"]]


def test_mistakes_are_at_most_twenty_and_their_texts_cut() -> None:
    wrong = [("x" * 601, "good", "bad", at / 100) for at in range(50)] + [("odd", "good", "bad", math.nan)]
    page = render(rows=wrong)
    assert [row[0] for row in mistakes(page)] == [f"{at / 100:.4f}" for at in range(49, 29, -1)]
    assert "20 of 51 wrong rows" in page
    assert "x" * 600 + "…" in page and "x" * 601 not in page
    assert [row[0] for row in mistakes(render(rows=wrong[-2:]))] == ["0.4900", "n/a"]


def test_no_mistakes() -> None:
    assert "There are none: every row is right." in render(rows=ROWS[:1])
    assert "There are none" not in render()


def test_how_it_was_trained() -> None:
    text = Page(render(resumed_from_step=160, train_loss=math.nan)).text
    for told in (
        "Devicecuda",
        "bfloat16 (it computes in bfloat16)",
        "Rows8,000",
        "Parameters66,955,010",
        "Steps400, gone on from a checkpoint at step 160",
        "Samples a second41.3",
        "Loss at the endn/a",
    ):
        assert told in text
    assert "gone on" not in render()
    assert "Devicen/a" in Page(render_report("films", "run-1", TWO, {}, ROWS)).text


def test_one_row_is_told_in_the_singular() -> None:
    assert "on 1 row of 2 classes" in render(result_of(["a", "b"], [[1, 0], [0, 0]]))
    assert "on 2,000 rows of 2 classes" in render()


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.5, "0.500"), (-0.0001, "0.000"), (1234, "1,234.000"), (None, "n/a"), (math.inf, "n/a"), (math.nan, "n/a")],
)
def test_format_number(value: Any, shown: str) -> None:
    assert format_number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0.0%"), (0.0004, "&lt;0.1%"), (0.5, "50.0%"), (0.9996, "&gt;99.9%"), (1, "100.0%"), (math.nan, "n/a")],
)
def test_format_share(value: float, shown: str) -> None:
    assert format_share(value) == shown


def test_safe_text_keeps_line_breaks_and_tabs() -> None:
    assert safe_text("a\tb\nc<&\"'") == "a\tb\nc&lt;&amp;&quot;&#x27;"


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 0.8, [0, 0.2, 0.4, 0.6, 0.8]),
        (0, 437, [0, 100, 200, 300, 400, 500]),
        (2.01, 2.19, [2, 2.05, 2.1, 2.15, 2.2]),
    ],
)
def test_nice_ticks(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_nice_ticks_of_steps_are_whole() -> None:
    assert nice_ticks(0, 2, least_step=1.0) == [0, 1, 2]
