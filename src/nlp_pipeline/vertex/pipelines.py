"""`--submit` on Vertex AI: a run that carries the whole pipeline with it.

It is sent by the service client, not by `google.cloud.aiplatform.PipelineJob`, which would make a bucket that is
misspelt, log to stdout, and send once only, so that a lost answer would leave it open whether the run is there.
"""

import re
import uuid
from typing import Any

from nlp_pipeline.errors import UsageError
from nlp_pipeline.pipeline.compiling import compile_pipeline, version_name
from nlp_pipeline.pipeline.parameters import check_run
from nlp_pipeline.platforms.calls import NotFoundError, make_once
from nlp_pipeline.platforms.waiting import NoRunError
from nlp_pipeline.settings import Settings
from nlp_pipeline.vertex.connection import Connection, bucket_of, check_region, check_settings, connect

# What a run carries to be found again by; the console filters by them, too.
VERSION, EXPERIMENT = "nlp-pipeline-version", "nlp-pipeline-experiment"


def check_parameters(values: dict[str, Any]) -> None:
    """Raises UsageError where a run on Vertex AI can't begin with these parameters."""
    check_run(values, "vertex", "/gcs/", "gs://bucket/reviews.csv")


def with_place(values: dict[str, Any], settings: Settings, project: str) -> dict[str, Any]:
    """Returns a run's parameters with those that the settings have, where the user did not set them."""
    place = {"project": project, "location": settings.region, "job_service_account": settings.service_account}
    return {**{name: value for name, value in place.items() if value}, **values}


def build_run(connection: Connection, ir: str, values: dict[str, Any], labels: dict[str, str], name: str = "") -> Any:
    """Returns a run, not sent yet, of a pipeline's IR with the parameters that the user set.

    Its labels are these besides those that every run has; its display name is by default the pipeline's version.

    Raises:
        UsageError: Vertex AI is not in the region, or there is no bucket.
    """
    import yaml
    from google.cloud import aiplatform_v1

    check_region(connection.region)
    settings, version = connection.settings, version_name(ir)
    return aiplatform_v1.PipelineJob(
        display_name=name or version,
        pipeline_spec=yaml.load(ir, getattr(yaml, "CSafeLoader", yaml.SafeLoader)),  # noqa: S506, it is a safe one
        runtime_config={
            "gcs_output_directory": bucket_of(settings),
            "parameter_values": with_place(values, settings, connection.project),
        },
        labels={VERSION: version, EXPERIMENT: settings.experiment, **labels},
        service_account=settings.service_account,
    )


def submit(settings: Settings, values: dict[str, Any], dry_run: bool) -> dict[str, Any]:
    """Runs the pipeline.

    Returns:
        `run_id`, `name`, `url` (the console's) and `version`. Of a dry run, which asks no one, what would be sent:
        `project`, `region`, `experiment`, `service_account`, `image`, `bucket`, `version` and `parameters`.

    Raises:
        UsageError: A parameter or a setting is wrong, there is no such bucket, or the user may not do that.
        UnansweredError: No answer came, and whether the run was started is not known.
        PipelineError: Google can't be reached, or fails.
    """
    check_parameters(values)
    check_settings(settings)
    bucket, ir = bucket_of(settings), compile_pipeline(settings.image or None, "vertex")
    version = version_name(ir)
    if dry_run:
        names = ("project", "region", "experiment", "service_account", "image")
        shown = {name: getattr(settings, name) for name in names}
        parameters = with_place(values, settings, settings.project)
        return {**shown, "bucket": bucket, "version": version, "parameters": parameters}
    connection = connect(settings)
    connection.check_bucket()
    # Its own id, by which it is found again where the answer is lost.
    run_id = f"{version}-{uuid.uuid4().hex[:8]}"
    run = build_run(connection, ir, values, {}, run_id)
    request = {"parent": connection.parent, "pipeline_job": run, "pipeline_job_id": run_id}
    doing, create = "starting the run", connection.service("Pipeline").create_pipeline_job

    def find() -> Any:
        try:
            return get_run(connection, run_id)
        except NoRunError:
            return None

    make_once(doing, lambda: connection.call(doing, create, repeat=False, request=request), find, unique=True)
    return {"run_id": run_id, "name": run_id, "url": run_url(connection, run_id), "version": version}


def upload(settings: Settings, dry_run: bool) -> dict[str, Any]:
    """Refuses, and says what to do instead."""
    raise UsageError(
        "--upload: Vertex AI keeps no pipelines, each run carries its own: --submit it, or give the console the file "
        "that --compile --platform vertex writes"
    )


def get_run(connection: Connection, run_id: str, repeat: bool = True) -> Any:
    """Returns what the API says of a run; raises NoRunError where there is none."""
    missing = NoRunError(f"there is no run {run_id} in {connection.region}: --runs lists them")
    if not re.fullmatch(r"[A-Za-z][-A-Za-z0-9]{0,127}", run_id):
        raise missing
    name, get = f"{connection.parent}/pipelineJobs/{run_id}", connection.service("Pipeline").get_pipeline_job
    try:
        return connection.call("reading the run", get, repeat, name=name)
    except NotFoundError:
        raise missing from None


def run_url(connection: Connection, run_id: str) -> str:
    """Returns the address at which the console shows a run."""
    runs = f"https://console.cloud.google.com/vertex-ai/locations/{connection.region}/pipelines/runs"
    return f"{runs}/{run_id}?project={connection.project}"
