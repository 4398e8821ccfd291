"""What `batch_predict` can be told."""

from dataclasses import dataclass

from nlp_pipeline.parameters import POSITIVE, REQUIRED, Settings, matches, parameter
from nlp_pipeline.steps.load_data.settings import DATA

# As many as the budget of a workflow holds: tests/pipeline/test_batch.py computes them.
MOST_PODS = 11


@dataclass(frozen=True, kw_only=True)
class BatchSettings(Settings):
    """Which texts are classified by what, and where to."""

    data: str = parameter(
        REQUIRED,
        "Rows to classify, with or without labels: a path or URL, a folder, a pattern, or a JSON list of them.",
        DATA,
    )
    to: str = parameter(
        REQUIRED,
        "Folder for the results, on the volume or s3://bucket/folder; where its name ends in .csv they are CSV, else "
        "Parquet.",
        (lambda value: value.strip("/") != "", "a folder, or s3://bucket/folder"),
    )
    release: str = parameter(
        "live",
        "Release that classifies, on the volume: live (what serves), release (validated last), or a digest.",
        matches("live|release|[0-9a-f]{16}", "live, release, or a release's digest of 16 digits"),
    )
    shard_rows: int = parameter(10_000, "Rows of a file of results; what is lost at most where a pod ends.", POSITIVE)
    pods: int = parameter(
        4,
        "Pods that classify at the same time; each is a part of the workflow, whose size is limited.",
        (lambda value: 1 <= value <= MOST_PODS, f"from 1 to {MOST_PODS}"),
    )
