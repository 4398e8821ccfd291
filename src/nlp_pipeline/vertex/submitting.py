"""`--submit` on Vertex AI: a run that carries the whole pipeline with it, and is made once.

The run is built by `google.cloud.aiplatform.PipelineJob`, and sent by the service client beneath it. Its own `submit`
would make a bucket that is misspelt, ask who owns one that is not through an API which users seldom may call, and log
to stdout; and it sends once only, so that a lost answer would leave it open whether the run is there.
"""

import re
import tempfile
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nlp_pipeline.errors import UsageError
from nlp_pipeline.platforms.calls import NotFoundError
from nlp_pipeline.platforms.waiting import NoRunError
from nlp_pipeline.settings import Settings
from nlp_pipeline.vertex.connection import Connection, bucket_of

# What a run carries to be found again by; the console filters by them, too.
VERSION, EXPERIMENT = "nlp-pipeline-version", "nlp-pipeline-experiment"
CONSOLE = "https://console.cloud.google.com/vertex-ai"


def check_parameters(values: dict[str, Any]) -> None:
    """Makes sure that a run on Vertex AI can begin with these parameters.

    Raises:
        UsageError: It can't.
    """
    from nlp_pipeline.pipeline.parameters import check_ranges, pipeline_parameters, refuse_passwords

    refuse_passwords(values)
    defaults = {name: one.default for name, one in pipeline_parameters("vertex").items()}
    # Some make sense only together. Where the run is, Vertex AI itself puts in.
    known = {name: one for name, one in defaults.items() if one is not None and name not in ("project", "location")}
    check_ranges(known | values, "vertex")
    if "train_data" not in values:
        raise UsageError("train_data is not set: --set train_data=gs://bucket/reviews.csv")
    for name in ("train_data", "evaluation_data"):
        source = str(values.get(name, ""))
        if source and "://" not in source and not source.startswith("/gcs/"):
            raise UsageError(
                f"{name}={source}: steps on Vertex AI don't see the files of this machine; give gs://bucket/file, or "
                "another URL"
            )


def with_place(values: dict[str, Any], settings: Settings, project: str) -> dict[str, Any]:
    """Returns a run's parameters with those that the settings tell, where the user did not set them.

    Args:
        values: The parameters that the user set.
        settings: The settings.
        project: The project.
    """
    from nlp_pipeline.pipeline.parameters import pipeline_parameters

    told = {"project": project, "location": settings.region, "job_service_account": settings.service_account}
    known = pipeline_parameters("vertex")
    return {**{name: value for name, value in told.items() if value and name in known}, **values}


def labels_of(version: str, experiment: str) -> dict[str, str]:
    """Returns the labels of a run."""
    return {VERSION: version, EXPERIMENT: experiment}


def check_bucket(connection: Connection) -> None:
    """Makes sure that the bucket is there: a run would find out only when its first step has ended.

    Raises:
        UsageError: It is not there.
        PipelineError: Google can't be reached, or fails.
    """
    name = bucket_of(connection.settings).removeprefix("gs://").partition("/")[0]
    try:
        connection.ask(f"looking for bucket {name}", "storage", f"/storage/v1/b/{quote(name)}", fields="name")
    except NotFoundError:
        make = f"gcloud storage buckets create gs://{name} --project {connection.project}"
        raise UsageError(f"there is no bucket {name}: {make} --location {connection.region}") from None
    except UsageError as error:
        # Who may write there need not be allowed to read what the bucket itself is.
        if ": 403:" not in str(error):
            raise


def build_run(connection: Connection, ir: str, values: dict[str, Any], labels: dict[str, str], run_id: str) -> Any:
    """Returns a run that has not been sent.

    Args:
        connection: The connection.
        ir: The pipeline's IR.
        values: Its parameters.
        labels: Its labels.
        run_id: Its id and display name.

    Raises:
        UsageError: A setting or a parameter can't be as it is.
    """
    from google.cloud import aiplatform, aiplatform_v1

    settings = connection.settings
    place = {"project": connection.project, "location": connection.region, "credentials": connection.credentials}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        path.write_text(ir, encoding="utf-8")
        try:
            aiplatform.init(**place, api_endpoint=connection.address("aiplatform"), api_transport="rest")
            job = aiplatform.PipelineJob(
                display_name=run_id,
                template_path=str(path),
                job_id=run_id,
                pipeline_root=bucket_of(settings),
                parameter_values=values,
                **place,
            )
        except ValueError as error:
            raise UsageError(f"Vertex AI can't run this: {' '.join(str(error).split())[:400]}") from None
    return aiplatform_v1.PipelineJob(
        display_name=run_id,
        pipeline_spec=job.pipeline_spec,
        runtime_config=job.runtime_config,
        labels=labels,
        service_account=settings.service_account,
    )


def start_run(connection: Connection, ir: str, version: str, values: dict[str, Any]) -> Any:
    """Starts a run.

    Args:
        connection: The connection.
        ir: The pipeline's IR.
        version: The name of this version of it.
        values: Its parameters.

    Returns:
        The run.

    Raises:
        PipelineError: Google refuses or fails.
    """
    # Its own id, by which it is found again where the answer is lost.
    run_id = f"{version}-{uuid.uuid4().hex[:8]}"
    labels = labels_of(version, connection.settings.experiment)
    run = build_run(connection, ir, with_place(values, connection.settings, connection.project), labels, run_id)

    def find() -> Any:
        try:
            return get_run(connection, run_id)
        except NoRunError:
            return None

    service = connection.pipelines
    request = {"parent": connection.parent, "pipeline_job": run, "pipeline_job_id": run_id}
    return connection.make("starting the run", service.create_pipeline_job, find, unique=True, request=request)


def get_run(connection: Connection, run_id: str, repeat: bool = True) -> Any:
    """Returns what the API says of a run.

    Args:
        connection: The connection.
        run_id: Its id.
        repeat: Whether to ask again where that fails.

    Raises:
        NoRunError: There is no such run.
    """
    missing = NoRunError(f"there is no run {run_id} in {connection.region}: --runs lists them")
    if not re.fullmatch(r"[A-Za-z][-A-Za-z0-9]{0,127}", run_id):
        raise missing
    name = f"{connection.parent}/pipelineJobs/{run_id}"
    try:
        return connection.call("reading the run", connection.pipelines.get_pipeline_job, repeat, name=name)
    except NotFoundError:
        raise missing from None


def run_url(connection: Connection, run_id: str) -> str:
    """Returns the address at which the console shows a run."""
    return f"{CONSOLE}/locations/{connection.region}/pipelines/runs/{run_id}?project={connection.project}"
