"""Which number format an archive gets: the fastest that answers as the offline model, measured and reported.

A format holds where the 95 % interval of its agreement with the offline model lies above `min_agreement` (of fewer than
1,000 texts: does not lie below), and that of its drop in accuracy does not lie above `max_quantisation_drop`.
"""

import time
import types
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from nlp_pipeline.serving.agreement import agreement_of, compare_answers, drop_interval, label_of, share_interval
from nlp_pipeline.steps.archive_model.packing import INT8
from nlp_pipeline.steps.archive_model.settings import ArchiveSettings
from nlp_pipeline.volume import Run

# Where the report of `evaluate_model` takes the section on the number format; a text in it can't look so, since "<" is
# escaped.
MARKER = "<!-- archive_model -->"
ENOUGH = 1000  # texts, to show that the agreement is high enough
HEAD = "<!DOCTYPE html><style>body { font: 15px system-ui } th, td { padding: 4px; text-align: start }</style>\n"


def ask_archive(folder: Path, texts: list[str]) -> tuple[list[Any], float]:
    """Returns the labels that an archive's handler gives, as TorchServe would ask it, and how many texts a second.

    It is asked in the folder that is to be packed.
    """
    from nlp_pipeline.serving.handler import TextClassificationHandler

    handler = TextClassificationHandler()
    handler.initialize(types.SimpleNamespace(system_properties={"model_dir": folder}))
    labels: list[Any] = []
    began = time.perf_counter()
    for start in range(0, len(texts), 64):
        labels += map(label_of, handler.classify(texts[start : start + 64]))
    return labels, len(labels) / (time.perf_counter() - began)


def compare(labels: list[Any], rows: dict[str, list[Any]], others: list[Any]) -> dict[str, Any]:
    """Holds an archive's labels of labelled rows, and of other texts, against the offline model's.

    Args:
        labels: The archive's, of the rows and then of the other texts.
        rows: The labelled rows: `text`, `label`, and `predicted` by the offline model.
        others: The labels of the other texts that the archive in fp32 gives.

    Returns:
        What `compare_answers` returns of the rows; the `drop` in accuracy, as a share, and its `drop_interval`; how
        many `texts` there are in all, their `agreement`, and its `agreement_interval`. The intervals are those of 95 %.
    """
    count = len(rows["text"])
    compared: dict[str, Any] = compare_answers(labels[:count], rows["predicted"], rows["label"])
    agreement = agreement_of(labels, rows["predicted"] + others)
    lost, won = compared["lost"], compared["won"]
    return {
        **compared,
        "drop": (lost - won) / count,
        "drop_interval": drop_interval(lost, won, count),
        "texts": len(labels),
        "agreement": agreement,
        "agreement_interval": share_interval(agreement, len(labels)),
    }


def holds(trial: dict[str, Any], max_drop: float, min_agreement: float) -> bool:
    """Says whether a number format answers as the offline model, as far as can be told."""
    low, high = trial["agreement_interval"]
    proven: float = low if trial["texts"] >= ENOUGH else high
    return proven >= min_agreement and bool(trial["drop_interval"][0] <= max_drop)


def describe(trial: dict[str, Any]) -> str:
    """Returns how a number format did, in words, with the 95 % intervals in brackets."""
    return (
        f"agrees on {between(trial, 'agreement')} % of {trial['texts']:,} texts, loses {between(trial, 'drop')} points "
        f"of accuracy on {trial['rows']:,} rows, does {trial['texts_per_second']:.0f} texts/s"
    )


def choose_precision(
    settings: ArchiveSettings, serving_gpus: int, min_agreement: float, attempt: Callable[[str], dict[str, Any]]
) -> dict[str, Any]:
    """Tries number formats, the fastest first, until one holds; returns which is `chosen`, the `reason`, all `tried`.

    `attempt` packs one and returns what `compare` says of it, and its speed. fp32, which the others are held against,
    is tried before them.
    """
    tried: dict[str, dict[str, Any]] = {}

    def run(name: str) -> dict[str, Any]:
        tried[name] = attempt(name)
        print(f"{name} {describe(tried[name])}", flush=True)
        return tried[name]

    reasons = []
    if settings.precision != "auto":
        reasons.append(f"precision={settings.precision} was asked for")
    elif serving_gpus:
        reasons.append("a GPU serves, and int8 is for CPUs")
    full, chosen = run("fp32"), "fp32"
    for name in INT8 if settings.precision == "int8" or not reasons else []:
        trial = run(name)
        if settings.precision == "auto" and trial["texts_per_second"] < full["texts_per_second"]:
            reasons.append(f"{name} is no faster than fp32")
            break
        good = holds(trial, settings.max_quantisation_drop, min_agreement)
        reasons.append(f"{name} {'holds' if good else 'does not hold'}: it {describe(trial)}")
        if good or settings.precision == "int8":
            chosen = name
        if good:
            break
    return {"chosen": chosen, "reason": "; ".join(reasons), "tried": tried}


def write_report(precision: dict[str, Any], page: Path, run: Run) -> None:
    """Writes what was `chosen`, the `reason` and the `tried` as a page, and into the report in the run's folder."""
    section = render_section(precision)
    if run.folder and (report := run.folder / "report.html").is_file():
        page.write_text(report.read_text(encoding="utf-8").replace(MARKER, section), encoding="utf-8")
        run.keep(page, report.name)
    page.write_text(HEAD + section, encoding="utf-8")


def render_section(precision: dict[str, Any]) -> str:
    """Returns the page's section, in HTML."""
    rows = "".join(
        f"<tr><th>{name}<td>{trial['accuracy']:.4f}<td>{between(trial, 'drop')}<td>{between(trial, 'agreement')}"
        f"<td>{trial['texts_per_second']:.0f}<td>{trial['megabytes']:.1f}\n"
        for name, trial in precision["tried"].items()
    )
    return (
        f"<section>\n<h2>Number format of the archive: {precision['chosen']}</h2>\n<p>{escape(precision['reason'])}.\n"
        "<table><tr><th>Number format<th>Accuracy<th>Drop, %<th>Agreement, %<th>Texts/s<th>MB\n"
        f"{rows}</table>\n</section>\n"
    )


def between(trial: dict[str, Any], name: str) -> str:
    """Returns a figure of a trial in per cent, and its interval in brackets."""
    low, high = trial[f"{name}_interval"]
    return f"{100 * trial[name]:.2f} ({100 * low:.2f} to {100 * high:.2f})"
