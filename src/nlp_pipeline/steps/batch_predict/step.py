"""The steps: the first plans, several pods classify, the last makes sure that nothing is missing."""

import json
from pathlib import Path
from typing import Any

from nlp_pipeline.errors import PipelineError
from nlp_pipeline.steps.batch_predict.destination import open_destination
from nlp_pipeline.steps.batch_predict.prediction import finish, plan_shards, predict_shards, read_plan
from nlp_pipeline.steps.batch_predict.settings import BatchSettings
from nlp_pipeline.steps.releases import find_release
from nlp_pipeline.volume import Run


def plan(settings: BatchSettings, text_column: str, run: Run) -> list[str]:
    """Writes the plan; returns what each pod is given: its number of how many, as in `1/4`."""
    planned = plan_shards(settings, text_column, find_release(settings.release, run))
    pods = min(settings.pods, len(planned.shards(settings.to)))
    print(
        f"{planned.rows:,} rows of {len(planned.files)} files: {len(planned.shards(settings.to))} shards, {pods} pods",
        flush=True,
    )
    return [f"{number}/{pods}" for number in range(1, pods + 1)]


def predict(to: str, share: str, run: Run) -> None:
    """Classifies the shards of a pod."""
    planned = read_plan(open_destination(to))
    if planned is None or run.model_folder is None:
        raise PipelineError(f"{to} has no plan any more, or there is no volume: start the run anew")
    pod, _, pods = share.partition("/")
    folder = run.model_folder / "releases" / planned.release
    predict_shards(planned, to, folder, int(pod) - 1, int(pods))


def complete(to: str, run: Run, results: str) -> dict[str, Any]:
    """Makes sure that all is there, and writes the manifest, also to `results`; returns its figures."""
    planned = read_plan(open_destination(to))
    if planned is None:
        raise PipelineError(f"{to} has no plan any more: start the run anew")
    manifest = finish(planned, to)
    Path(results).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    run.keep(results, "batch.json")
    counts = {"rows": manifest["rows"], "shards": len(manifest["shards"])}
    print(f"{to}: {counts['rows']:,} rows, {sum(manifest['without_label'].values()):,} without a label", flush=True)
    return {**counts, "without_label": sum(manifest["without_label"].values()), "release": manifest["release"]}
