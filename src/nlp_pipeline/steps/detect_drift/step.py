"""The step: finds the release, compares, leaves a report, and starts a training where it is to."""

import html
import json
from pathlib import Path
from typing import Any

from nlp_pipeline.steps.detect_drift.detection import FIGURES, describe, detect_drift, rounded
from nlp_pipeline.steps.detect_drift.retraining import start_run_of
from nlp_pipeline.steps.detect_drift.settings import DriftSettings
from nlp_pipeline.steps.releases import find_release
from nlp_pipeline.volume import Run


def check_drift(
    settings: DriftSettings, columns: tuple[str, str], separator: str, run: Run, drift: str, report: str
) -> dict[str, Any]:
    """Compares texts with a release's training data; where they have moved, a run of the schedule `retrain` is started.

    `drift` becomes JSON of all that `detect_drift` returns, `report` a page in Markdown; copies go to the run's folder.

    Returns:
        1 or 0 for whether they have `moved`; each index, by what it is of; and the id of the run that was `started`,
        now or before, where there is one.
    """
    folder = find_release(settings.release, run)
    result = detect_drift(folder, settings.data, columns, separator, settings.threshold)
    print(describe(result), flush=True)
    Path(drift).write_text(json.dumps(result, indent=1), encoding="utf-8")
    Path(report).write_text(write_report(result), encoding="utf-8")
    run.keep(drift, "drift.json")
    run.keep(report, "drift.md")
    figures = {figure["what"]: figure["index"] for figure in result["figures"] if figure["index"] is not None}
    started = {}
    if result["moved"] and settings.retrain:
        started["started"] = start_run_of(settings.retrain, run.run_id)
    return {"moved": int(result["moved"]), **figures, **started}


def write_report(result: dict[str, Any]) -> str:
    """Returns a page in Markdown on what `detect_drift` has returned."""
    lines = [["what", "formerly", "now", "index", "by chance up to", "verdict"], ["---"] * len(FIGURES)]
    lines += [[rounded(figure)[name] or "" for name in FIGURES] for figure in result["figures"]]
    table = "\n".join(f"| {' | '.join(map(escape, line))} |" for line in lines)
    return f"# {escape(result['model_name'])}: has the data moved?\n\n{escape(describe(result))}\n\n{table}\n"


def escape(text: str) -> str:
    """Returns a text as Markdown shows it, in a table too."""
    return html.escape(" ".join(text.split())).replace("|", "&#124;")
