"""What `--deploy --release` names, where KServe reads it, and the labelled rows that its endpoint is asked for."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from nlp_pipeline.errors import UsageError
from nlp_pipeline.release import verify

URI = re.compile(r"(pvc|s3)://(?P<place>.+)/(?P<model_name>[^/]+)/releases/(?P<digest>[0-9a-f]{16})/?")
# Where there are no labelled rows to ask for.
ANY_TEXT = {"text": ["a text"]}


def find_record(release: str, values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], Path | None]:
    """Finds out what a release is.

    Args:
        release: A folder, or pvc://claim/model/releases/digest, or s3://bucket/folder/model/releases/digest.
        values: The parameters that the user set.

    Returns:
        Its record, as far as it can be read from here; the parameters with those that the release tells; its folder,
        where it has one here.

    Raises:
        UsageError: It is none, or where KServe shall read it is not told.
        ValueError, RuntimeError: It is spoilt, or the object store does not give it.
    """
    if "://" not in release:
        record = vars(verify(Path(release)))
        if not values.get("model_store") and "volume_claim" not in values:
            raise UsageError(
                f"--release {release} is a folder here: say where KServe reads it, with --set volume_claim=NAME where "
                "it lies on that claim, or --set model_store=s3://bucket to upload it there"
            )
        return record, {"model_name": record["model_name"], **values}, Path(release)
    match = URI.fullmatch(release)
    if match is None:
        raise UsageError(
            f"--release {release} is no release: give its folder, pvc://claim/model/releases/digest, or "
            "s3://bucket/folder/model/releases/digest"
        )
    if values.get("serving_runtime") == "huggingface":
        raise UsageError("serving_runtime=huggingface needs --release DIR: the server is set as its tokenizer wants it")
    told = {"model_name": match["model_name"]}
    if release.startswith("s3://"):
        told["model_store"] = f"s3://{match['place']}"
    else:
        told |= {"model_store": "", "volume_claim": match["place"]}
    for name, value in told.items():
        if str(values.get(name, value)).rstrip("/") != value:
            raise UsageError(f"--set {name}={values[name]} contradicts --release {release}: leave it out")
    record = {"digest": match["digest"], "model_name": match["model_name"], "labels": []}
    if release.startswith("s3://"):
        record = read_stored_record(release.rstrip("/"), record)
    return record, {**values, **told}, None


def read_stored_record(release: str, expected: dict[str, Any]) -> dict[str, Any]:
    """Returns the record of a release in an object store.

    Args:
        release: s3://bucket/folder/model/releases/digest.
        expected: The digest and model_name that the record must have.

    Raises:
        UsageError: There is none, or it is another release's.
        PipelineError: The object store can't be reached or refuses.
    """
    from functools import partial

    from nlp_pipeline.components.deploy_model_storage import read_object
    from nlp_pipeline.storage import s3_call, s3_client, s3_endpoint

    endpoint = s3_endpoint()
    bucket, _, key = f"{release}/release.json".removeprefix("s3://").partition("/")
    read = partial(read_object, s3_client(), bucket, key)
    content = s3_call(read, f"{release}/release.json at {endpoint}", "read")
    try:
        record: dict[str, Any] = json.loads(content)
        labels, _ = record["labels"], float(record["metrics"]["accuracy"])
        of_texts = isinstance(labels, list) and all(isinstance(one, str) for one in labels)
        if labels and of_texts and all(record[name] == expected[name] for name in ("digest", "model_name")):
            return record
    except (ValueError, LookupError, TypeError):
        pass
    raise UsageError(f"--release {release} has no sound release.json: was its upload finished?")


def find_rows(rows: Path | None, folder: Path | None, record: dict[str, Any], count: int) -> dict[str, list[str]]:
    """Returns what the endpoint is asked for: labelled rows where there are some.

    Args:
        rows: A run's predictions.parquet that the user names.
        folder: The release's folder, beside which its run's folder may lie.
        record: The release's record.
        count: How many rows.

    Raises:
        UsageError: The user names a file that has none.
    """
    import pyarrow

    from nlp_pipeline.components.agreement import spread_rows

    if rows is None and folder is not None:
        of_model = folder.resolve().parent.parent
        beside = of_model / "runs" / str(record.get("run_id")) / "datasets" / "predictions.parquet"
        rows = beside if beside.is_file() else None
    if rows is None:
        print("no labelled rows to ask for: it is only seen whether it answers (--rows FILE)", file=sys.stderr)
        return ANY_TEXT
    if not rows.is_file():
        raise UsageError(f"--rows {rows}: there is no such file; give a run's datasets/predictions.parquet")
    try:
        columns = spread_rows(str(rows), count)
        if not all(isinstance(one, str) for column in columns.values() for one in column):
            raise ValueError("text, label and predicted must all be strings")
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"--rows {rows} can't be read: give a run's datasets/predictions.parquet ({reason})") from None
    return columns


def check_credentials(uri: str) -> None:
    """Makes sure that there are credentials to upload a release.

    Raises:
        UsageError: There are none.
    """
    missing = [name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if not os.environ.get(name)]
    if missing:
        raise UsageError(
            f"{' and '.join(missing)} must be set in the environment to upload to {uri}, and AWS_ENDPOINT_URL where "
            "the object store is not Amazon's"
        )
