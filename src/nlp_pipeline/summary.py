"""What a local run ends with: a table of its steps, where everything lies, and what to do next."""

import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def main_figures(result: dict[str, Any]) -> dict[str, str]:
    """Returns the figure to show of each step.

    Args:
        result: What `run_locally` returned.
    """
    data, training, metrics, validation = (result[key] for key in ("data", "training", "metrics", "validation"))
    return {
        "load_data": f"{data['train']:,} rows to train on, {data['evaluation']:,} to evaluate on",
        "train_model": f"{training['samples_per_second']:.0f} samples/s, {training['dtype']} on {training['device']}",
        "evaluate_model": f"accuracy {metrics['accuracy']:.3f} (majority class {metrics['majority_accuracy']:.3f})",
        "gate": "passed",
        "archive_model": f"archive of {result['archive_bytes'] / 1e6:.1f} MB in {result['precision']}",
        "validate_archive": f"{validation['agreement']:.1%} as offline, {validation['p50_ms']:.1f} ms at the median, "
        f"{validation['requests_per_second']:.0f} requests/s",
        "serve": f"{len(result['predictions'])} predictions",
    }


def print_summary(result: dict[str, Any]) -> None:
    """Prints what a local run gave.

    Args:
        result: What `run_locally` returned.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120  # a file or a pipe has no width that lines had to be broken to
    predictions = Table("label", "score", "text", box=None, pad_edge=False, header_style="bold")
    for one in result["predictions"]:
        text = one["text"] if len(one["text"]) <= 80 else f"{one['text'][:79]}…"
        # Text, not str: in a str, rich takes what stands in square brackets for markup.
        predictions.add_row(Text(one["label"]), f"{one['score']:.3f}", Text(" ".join(text.split())))
    steps = Table("step", "seconds", "", box=None, pad_edge=False, header_style="bold")
    steps.columns[1].justify = "right"
    for step, figure in main_figures(result).items():
        steps.add_row(step, f"{result['seconds'][step]:.1f}", figure)
    steps.add_row("all", f"{result['seconds']['total']:.1f}", "")
    for table in (predictions, steps):
        console.print()
        console.print(table)
    console.print()
    release = shortest(result["release"])
    for name in ("report", "release", "datasets"):
        console.print(f"{name:<9} {shortest(result[name])}", soft_wrap=True, markup=False)
    # Without --release, they take the release that was validated last in outputs/volume.
    where = "" if release.startswith("outputs/volume/") else f" --release {shlex.quote(release)}"
    console.print(
        "\nnext:\n"
        f"  python pipeline_v2.py --serve{where:<26}keep serving this release\n"
        f'  python pipeline_v2.py --predict "your own text"{where:<8}ask it\n'
        "  python pipeline_v2.py --local --set train_data=my.csv  train on your own rows\n"
        "  python pipeline_v2.py --compile                        the file for the Kubeflow dashboard\n"
        f"  python pipeline_v2.py --deploy --release {shlex.quote(release)} --set model_store=s3://BUCKET\n"
        "                                                         serve it with KServe, by your kubeconfig",
        soft_wrap=True,
        markup=False,
    )


def shortest(path: str) -> str:
    """Returns a path relative to the working folder where it lies below it."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path
