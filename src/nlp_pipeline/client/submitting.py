"""`--submit` and `--upload`: a version of the pipeline for each content, an experiment, a run; each made once."""

import hashlib
import json
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nlp_pipeline.client.calls import ConflictError
from nlp_pipeline.client.connection import Connection
from nlp_pipeline.errors import UsageError


@dataclass(frozen=True)
class Version:
    """A version of the pipeline in Kubeflow.

    Attributes:
        pipeline_id: The pipeline's id.
        version_id: The version's id.
        name: The version's name, which ends in the digest of its content.
        is_new: Whether it was uploaded now.
    """

    pipeline_id: str
    version_id: str
    name: str
    is_new: bool


def version_name(ir: str, pipeline_name: str) -> str:
    """Returns the name of the version with this content."""
    return f"{pipeline_name}-{hashlib.sha256(ir.encode()).hexdigest()[:12]}"


def find_pipeline(connection: Connection, name: str) -> Any:
    """Returns the pipeline of a name in the user's namespace; None where there is none."""
    listed = connection.every(
        "listing pipelines",
        connection.pipelines.pipeline_service_list_pipelines,
        "pipelines",
        namespace=connection.namespace,
    )
    # A server before 2.5 has no names apart from display names.
    return next((one for one in listed if name in (one.name, one.display_name)), None)


def find_version(connection: Connection, pipeline_id: str, name: str) -> Any:
    """Returns the version of a name; None where there is none."""
    listed = connection.every(
        "listing versions",
        connection.pipelines.pipeline_service_list_pipeline_versions,
        "pipeline_versions",
        pipeline_id=pipeline_id,
    )
    return next((one for one in listed if name in (one.name, one.display_name)), None)


def upload(connection: Connection, ir: str, pipeline_name: str) -> Version:
    """Uploads the pipeline, where this content of it is not there yet.

    Args:
        connection: The connection.
        ir: The pipeline's IR.
        pipeline_name: The pipeline's name.

    Raises:
        PipelineError: Kubeflow refuses or fails.
    """
    import kfp_server_api  # type: ignore[import-untyped]

    name = version_name(ir, pipeline_name)
    pipeline = find_pipeline(connection, pipeline_name)
    if pipeline is None:
        # Not by an upload, which would call the first version like the pipeline.
        body = kfp_server_api.V2beta1Pipeline(
            display_name=pipeline_name, name=pipeline_name, namespace=connection.namespace or None
        )
        pipeline = connection.create(
            f"making pipeline {pipeline_name}",
            connection.pipelines.pipeline_service_create_pipeline,
            lambda: find_pipeline(connection, pipeline_name),
            body,
            unique=True,
        )
    found = find_version(connection, pipeline.pipeline_id, name)
    if found is not None:
        return Version(pipeline.pipeline_id, found.pipeline_version_id, name, is_new=False)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.yaml"
        file.write_text(ir, encoding="utf-8")
        made = connection.create(
            f"uploading version {name}",
            connection.uploads.upload_pipeline_version,
            lambda: find_version(connection, pipeline.pipeline_id, name),
            str(file),
            unique=True,
            name=name,
            display_name=name,
            pipelineid=pipeline.pipeline_id,
        )
    return Version(pipeline.pipeline_id, made.pipeline_version_id, name, is_new=True)


def find_experiment(connection: Connection, name: str, fold: Callable[[str], str] = str) -> Any:
    """Returns the experiment of a name in the user's namespace, an archived one too; None where there is none."""
    listed = connection.every(
        "listing experiments",
        connection.experiments.experiment_service_list_experiments,
        "experiments",
        namespace=connection.namespace,
    )
    return next((one for one in listed if fold(one.display_name) == fold(name)), None)


def get_experiment(connection: Connection, name: str) -> str:
    """Returns the id of an experiment, which is made where there is none.

    Raises:
        UsageError: It is archived.
        PipelineError: Kubeflow refuses or fails.
    """
    import kfp_server_api

    found = find_experiment(connection, name)
    if found is None:
        body = kfp_server_api.V2beta1Experiment(display_name=name, namespace=connection.namespace or None)
        try:
            found = connection.create(
                f"making experiment {name}",
                connection.experiments.experiment_service_create_experiment,
                lambda: find_experiment(connection, name),
                body,
                unique=True,
            )
        except ConflictError:
            # MySQL has no regard to case.
            other = find_experiment(connection, name, fold=str.casefold)
            if other is None:
                raise
            raise UsageError(
                f"experiment {name!r}: this server takes {other.display_name!r}, which is there, for the same name: "
                "give that as --experiment"
            ) from None
    if found.storage_state == "ARCHIVED":
        raise UsageError(f"experiment {name!r} is archived: restore it in the dashboard, or give another --experiment")
    return str(found.experiment_id)


def check_parameters(values: dict[str, Any]) -> None:
    """Makes sure that a run on Kubeflow can begin with these parameters.

    Raises:
        UsageError: It can't.
    """
    from nlp_pipeline.pipeline.kubeflow import VOLUME_PATH
    from nlp_pipeline.pipeline.parameters import check_ranges, refuse_passwords

    refuse_passwords(values)
    check_ranges(values)
    if "train_data" not in values:
        raise UsageError("train_data is not set: --set train_data=URL, or a path on the volume")
    for name in ("train_data", "evaluation_data"):
        source = str(values.get(name, ""))
        if source and "://" not in source and not source.startswith("/"):
            raise UsageError(
                f"{name}={source}: pods don't see the files of this machine; give a URL, or a path on the volume, as "
                f"in {VOLUME_PATH}/reviews.csv"
            )


def find_run(connection: Connection, experiment_id: str, name: str) -> Any:
    """Returns the run of a name, among an experiment's newest; None where there is none."""
    # The filter is quoted: the server takes it apart a second time.
    only = json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})
    found = connection.call(
        "looking for the run",
        connection.runs.run_service_list_runs,
        experiment_id=experiment_id,
        namespace=connection.namespace,
        sort_by="created_at desc",
        filter=quote(only),
    )
    return next((one for one in found.runs or [] if one.display_name == name), None)


def start_run(
    connection: Connection, version: Version, experiment_id: str, values: dict[str, Any], service_account: str
) -> Any:
    """Starts a run of a version.

    Args:
        connection: The connection.
        version: The version.
        experiment_id: The experiment's id.
        values: The parameters that the user set.
        service_account: What the run's pods run as; empty for the server's default.

    Returns:
        The run.
    """
    import kfp_server_api

    # Its own name, by which it is found again where the answer is lost.
    name = f"{version.name} {uuid.uuid4().hex[:8]}"
    body = kfp_server_api.V2beta1Run(
        display_name=name,
        experiment_id=experiment_id,
        pipeline_version_reference=kfp_server_api.V2beta1PipelineVersionReference(
            pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id
        ),
        runtime_config=kfp_server_api.V2beta1RuntimeConfig(parameters=values),
        service_account=service_account or None,
    )
    find = partial(find_run, connection, experiment_id, name)
    return connection.create("starting the run", connection.runs.run_service_create_run, find, body)


def run_url(connection: Connection, run_id: str) -> str:
    """Returns the address at which the dashboard shows a run."""
    if connection.multi_user:
        root = connection.host.removesuffix("/pipeline")
        return f"{root}/_/pipeline/?ns={connection.namespace}#/runs/details/{run_id}"
    return f"{connection.url}/#/runs/details/{run_id}"
