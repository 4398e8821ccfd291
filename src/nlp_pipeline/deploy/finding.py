"""What `--deploy --release` names, and the labelled rows that its endpoint is asked for."""

import re
import sys
from pathlib import Path
from typing import Any

from nlp_pipeline.deploy.cluster import one_line
from nlp_pipeline.deploy.endpoint import ANY_TEXT, Rows
from nlp_pipeline.deploy.upload import StoredRelease
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.release import Release, verify
from nlp_pipeline.serving.agreement import spread_rows
from nlp_pipeline.storage import s3_client

URI = re.compile(r"(?P<kind>pvc|s3)://(?P<place>.+)/(?P<model_name>[^/]+)/releases/(?P<digest>[0-9a-f]{16})/?")


def find_release(release: str, values: dict[str, Any]) -> tuple[Release, dict[str, Any], Path | None]:
    """Finds out what a release is.

    Args:
        release: A folder, or pvc://claim/model/releases/digest, or s3://bucket/folder/model/releases/digest.
        values: The parameters that the user set.

    Returns:
        Its record, as far as it can be read from here; the parameters with those that the release tells; its folder,
        where it has one here.
    """
    if "://" not in release:
        folder = Path(release)
        record = verify(folder)
        if not values.get("model_store") and "volume_claim" not in values:
            raise UsageError(
                f"--release {release} is a folder here: say where KServe reads it, with --set volume_claim=NAME where "
                "it lies on that claim, or --set model_store=s3://bucket to upload it there"
            )
        return record, _combine(values, {"model_name": record.model_name}, release), folder
    match = URI.fullmatch(release)
    if match is None:
        raise UsageError(
            f"--release {release} is no release: give its folder, pvc://claim/model/releases/digest, or "
            "s3://bucket/folder/model/releases/digest"
        )
    named = {"model_name": match["model_name"], "model_store": "", "volume_claim": match["place"]}
    if match["kind"] == "s3":
        named = {"model_name": match["model_name"], "model_store": f"s3://{match['place']}"}
    values = _combine(values, named, release)
    record = Release(digest=match["digest"], model_name=match["model_name"])
    if match["kind"] == "s3":
        stored = StoredRelease(release.rstrip("/"), s3_client()).record()
        if stored is None or (stored.digest, stored.model_name) != (record.digest, record.model_name):
            raise UsageError(f"--release {release} has no sound release.json: was its upload finished?")
        record = stored
    return record, values, None


def _combine(values: dict[str, Any], named: dict[str, str], release: str) -> dict[str, Any]:
    """Returns the parameters with those that a release tells, which must not contradict each other."""
    for name, value in named.items():
        if str(values.get(name, value)).rstrip("/") != value:
            raise UsageError(f"--set {name}={values[name]} contradicts --release {release}: leave it out")
    return {**values, **named}


def find_rows(rows: Path | None, folder: Path | None, release: Release, count: int) -> Rows:
    """Returns what the endpoint is asked for: labelled rows where there are some.

    Args:
        rows: A run's predictions.parquet that the user names.
        folder: The release's folder, beside which its run's folder may lie.
        release: The release.
        count: How many rows.
    """
    import pyarrow

    if rows is None and folder is not None:
        beside = folder.resolve().parents[1] / "runs" / release.run_id / "datasets" / "predictions.parquet"
        rows = beside if beside.is_file() else None
    if rows is None:
        print("no labelled rows to ask for: it is only seen whether it answers (--rows FILE)", file=sys.stderr)
        return ANY_TEXT
    try:
        columns = spread_rows(rows, count)
        if not all(isinstance(item, str) for column in columns.values() for item in column):
            raise ValueError("text, label and predicted must all be strings")
    except (OSError, ValueError, PipelineError, pyarrow.ArrowException) as error:
        reason = one_line(error)
        raise UsageError(f"--rows {rows} can't be read: give a run's datasets/predictions.parquet ({reason})") from None
    return columns
