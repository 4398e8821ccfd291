"""Which number format an archive gets: the fastest that costs no more accuracy than allowed, measured and reported."""

import time
import types
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from nlp_pipeline.parameters import SHARE, Settings, one_of, parameter
from nlp_pipeline.serving.agreement import compare_answers
from nlp_pipeline.volume import Run

# Where the report of `evaluate_model` takes the section on the number format; a text in it can't look so, since "<" is
# escaped.
MARKER = "<!-- archive_model -->"
HEAD = "<!DOCTYPE html><style>body { font: 15px system-ui } th, td { padding: 4px; text-align: start }</style>\n"


@dataclass(frozen=True, kw_only=True)
class ArchiveSettings(Settings):
    """How the archive's number format is chosen."""

    precision: str = parameter(
        "auto",
        "Weights in int8, fp32, or auto for the fastest that is good enough.",
        one_of("auto", "int8", "fp32"),
    )
    max_quantisation_drop: float = parameter(0.005, "By how much int8 may lower the accuracy, as a fraction.", SHARE)


def candidates(precision: str, serving_gpus: int) -> tuple[list[str], str]:
    """Returns the number formats to try, and where there is no choice the reason."""
    if precision != "auto":
        return [precision], f"precision={precision} was asked for"
    if serving_gpus:
        return ["fp32"], "a GPU serves, and int8 is for CPUs"
    return ["int8", "fp32"], ""


def try_archive(folder: Path, rows: dict[str, list[str]]) -> dict[str, Any]:
    """Asks the archive's handler, in the folder that is to be packed, as TorchServe would, and times it."""
    from nlp_pipeline.serving.handler import TextClassificationHandler

    handler = TextClassificationHandler()
    handler.initialize(types.SimpleNamespace(system_properties={"model_dir": folder}))
    labels: list[str] = []
    began = time.perf_counter()
    for start in range(0, len(rows["text"]), 64):
        labels += [answer["label"] for answer in handler.classify(rows["text"][start : start + 64])]
    seconds = time.perf_counter() - began
    compared = compare_answers(labels, rows["predicted"], rows["label"])
    return {
        **compared,
        "drop": compared["offline_accuracy"] - compared["accuracy"],
        "texts_per_second": len(labels) / seconds,
        "megabytes": (folder / "model.onnx").stat().st_size / 1e6,
    }


def choose_precision(trials: dict[str, dict[str, Any]], max_drop: float, min_agreement: float) -> tuple[str, str]:
    """Chooses, by what `try_archive` returned, the fastest format that answers as the offline model; or else fp32.

    Returns the number format, and the reason as a sentence.
    """
    reasons = ""
    for name, trial in sorted(trials.items(), key=lambda item: -item[1]["texts_per_second"]):
        drop, agreement = trial["drop"], trial["agreement"]
        # Differences of decimal fractions are not exact.
        if name == "fp32" or (drop <= max_drop + 1e-9 and agreement >= min_agreement):
            break
        reasons += (
            f"{name} is faster, but drops by {100 * drop:.2f} points (at most {100 * max_drop:.2f}) and agrees on "
            f"{agreement:.1%} of the rows (at least {min_agreement:.1%}); "
        )
    return name, f"{reasons}{name} does {trial['texts_per_second']:.0f} texts/s with a drop of {100 * drop:.2f} points"


def write_report(precision: dict[str, Any], page: Path, run: Run) -> None:
    """Writes what was `chosen`, the `reason` and the `tried` as a page, and into the report in the run's folder."""
    section = render_section(precision)
    if run.folder and (report := run.folder / "report.html").is_file():
        page.write_text(report.read_text(encoding="utf-8").replace(MARKER, section), encoding="utf-8")
        run.keep(page, report.name)
    page.write_text(HEAD + section, encoding="utf-8")


def render_section(precision: dict[str, Any]) -> str:
    """Returns the page's section, in HTML."""
    tried = precision["tried"]
    rows = "".join(
        f"<tr><th>{name}<td>{trial['accuracy']:.4f}<td>{100 * trial['drop']:+.2f}<td>{trial['agreement']:.4f}"
        f"<td>{trial['texts_per_second']:.0f}<td>{trial['megabytes']:.1f}\n"
        for name, trial in tried.items()
    )
    return (
        f"<section>\n<h2>Number format of the archive: {precision['chosen']}</h2>\n"
        f"<p>On {tried[precision['chosen']]['rows']:,} evaluation rows: {escape(precision['reason'])}.\n"
        "<table><tr><th>Number format<th>Accuracy<th>Drop, points<th>Agreement<th>Texts/s<th>MB\n"
        f"{rows}</table>\n</section>\n"
    )
