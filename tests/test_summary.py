import io
from contextlib import redirect_stdout
from typing import Any

from nlp_pipeline.summary import print_summary

RESULT: dict[str, Any] = {
    "data": {"train": 1000, "evaluation": 100},
    "training": {"samples_per_second": 12.3, "dtype": "float32", "device": "cpu"},
    "metrics": {"accuracy": 0.9, "majority_accuracy": 0.5},
    "archive_bytes": 18_000_000,
    "precision": "int8",
    "validation": {"agreement": 0.99, "p50_ms": 6.1, "requests_per_second": 180.0},
    "predictions": [{"label": "[/neg]", "score": 0.9, "text": "see [/url] and [red]x[/red]\n" + "y" * 100}],
    "seconds": dict.fromkeys(
        ("load_data", "train_model", "evaluate_model", "gate", "archive_model", "validate_archive", "serve", "total"),
        1.0,
    ),
    "report": "/v/m/runs/1/report.html",
    "release": "/my volume/m/releases/abc",
    "datasets": "/v/m/runs/1/datasets",
}


def test_what_stands_in_square_brackets_is_shown_as_it_is() -> None:
    shown = io.StringIO()
    with redirect_stdout(shown):
        print_summary(RESULT)
    assert "[/neg]" in shown.getvalue() and "see [/url] and [red]x[/red] yyy" in shown.getvalue()
    assert "/v/m/runs/1/report.html" in shown.getvalue()


def test_the_next_commands_name_a_release_that_they_would_not_find() -> None:
    shown = io.StringIO()
    with redirect_stdout(shown):
        print_summary(RESULT)
    assert "--serve --release '/my volume/m/releases/abc'" in shown.getvalue()
    shown = io.StringIO()
    with redirect_stdout(shown):
        print_summary({**RESULT, "release": "outputs/volume/m/releases/abc"})
    assert "--serve --release" not in shown.getvalue()
    assert "--deploy --release outputs/volume/m/releases/abc --set model_store=" in shown.getvalue()
