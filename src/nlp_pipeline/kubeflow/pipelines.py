"""`--upload` and `--submit`: a version of the pipeline for each content, an experiment, a run; each made once."""

import json
import sys
import tempfile
import uuid
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nlp_pipeline.deploy import cluster
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.kubeflow.connection import Connection, check_names, connect, pod_namespace
from nlp_pipeline.kubeflow.costs import describe_costs
from nlp_pipeline.kubeflow.nodes import check_nodes, describe
from nlp_pipeline.local import local_volume
from nlp_pipeline.pipeline.compiling import compile_pipeline, version_name
from nlp_pipeline.pipeline.parameters import PIPELINES, check_run, find_pipeline, with_defaults
from nlp_pipeline.pipeline.pods import requests_of
from nlp_pipeline.settings import Settings
from nlp_pipeline.steps.load_data.settings import split_addresses
from nlp_pipeline.volume import VOLUME_PATH

CPU_INDEX = "PIP_EXTRA_INDEX_URL"
CUDA = "no GPU is asked for, and pip's torch has gigabytes of CUDA packages"


@dataclass(frozen=True)
class Version:
    """A version of the pipeline in Kubeflow; its name ends in the digest of its content."""

    name: str
    is_new: bool
    reference: Any  # KFP's own, for runs


def pipeline_of(settings: Settings) -> str:
    """Returns the key in PIPELINES of the pipeline that the settings name."""
    return find_pipeline("kubeflow", settings.pipeline)


def check_parameters(settings: Settings, values: dict[str, Any]) -> None:
    """Makes sure that a run on Kubeflow can begin with these parameters; raises UsageError where it can't."""
    # What is deployed comes into the namespace of the run, where a parameter names no other.
    values = {**values, "namespace": values.get("namespace") or settings.namespace or pod_namespace()}
    check_run(values, pipeline_of(settings), "/", f"a path on the volume, {VOLUME_PATH}/reviews.csv")
    check_names(settings)
    if not settings.image and (needing := find_need_of_image(values)):
        raise UsageError(f"{needing} needs steps in an image of ours: build one, and give --image")


def find_need_of_image(values: dict[str, Any]) -> str:
    """Returns a parameter, with its value, that works only in an image of ours; empty where there is none."""
    most = {"train_nodes": 1, "train_gpus": 1, "pod_gpus": 0}
    needing = [name for name in most if int(values.get(name, 0)) > most[name]]
    needing += ["model_registry"] if values.get("model_registry") else []
    for name in ("train_data", "evaluation_data", "data"):
        addresses = split_addresses(values.get(name) or "")  # the doctor takes what is not set yet as None
        needing += [name] if any(address.lower().startswith("hf://") for address in addresses) else []
    return f"{needing[0]}={values[needing[0]]}" if needing else ""


def compiled(settings: Settings) -> str:
    """Returns the pipeline's IR with the settings' image and user."""
    return compile_pipeline(settings.image or None, pipeline_of(settings), settings.run_as_user)


def submit(settings: Settings, values: dict[str, Any], dry_run: bool) -> dict[str, Any]:
    """Runs the pipeline; for a dry run Kubeflow is not asked.

    Returns:
        `run_id`, `name`, `url` (the dashboard's), `version`, and `new_version` (whether that was uploaded now). Of a
        dry run what would be sent: `host`, `namespace`, `pipeline`, `version`, `experiment`, `image` and `parameters`;
        and what `describe_pods` returns.

    Raises:
        UsageError: A parameter or a setting is wrong, or the user may not do that.
        UnansweredError: No answer came, and whether the run was started is not known.
        PipelineError: Kubeflow can't be reached, or fails.
    """
    check_parameters(settings, values)
    ir = compiled(settings)
    if dry_run:
        sent = {"host": settings.host, "namespace": settings.namespace, **describe_version(settings, ir)}
        about = {"experiment": settings.experiment, "image": settings.image, "parameters": values}
        return {**sent, **about, **describe_pods(settings, values)}
    connection = connect(settings)
    version = upload_version(connection, ir)
    print(f"version {version.name}, {'uploaded' if version.is_new else 'which is there already'}", file=sys.stderr)
    run = start_run(connection, version, get_experiment(connection, settings.experiment), values)
    about = {"run_id": run.run_id, "name": run.display_name, "url": connection.run_url(run.run_id)}
    return {**about, "version": version.name, "new_version": version.is_new}


def describe_version(settings: Settings, ir: str) -> dict[str, str]:
    """Returns the names of the pipeline that the settings name, and of its version with this content."""
    name = PIPELINES[pipeline_of(settings)].name
    return {"pipeline": name, "version": version_name(ir, name)}


def describe_pods(settings: Settings, values: dict[str, Any]) -> dict[str, Any]:
    """Returns what a dry run says of a run's pods, by the parameters that the user set.

    The cluster is asked where there is a kubeconfig.

    Returns:
        `requests` (of a node, by what a pod does); `costs` (what `describe_costs` returns; of the pipeline that
        trains); `nodes` (whether each pod has one, or why that is not known); and `packages` (where they are larger
        than needed).
    """
    complete = with_defaults(values, pipeline_of(settings))
    about: dict[str, Any] = {"requests": {what: describe(asked) for what, asked in requests_of(complete).items()}}
    if "train_gpus" in complete:
        about["costs"] = describe_costs(complete, local_volume())
    try:
        cluster.connect()
        about["nodes"] = check_nodes(complete).detail
    except PipelineError as error:
        about["nodes"] = f"not known: {error}"
    if not settings.image and complete.get("train_gpus") == "0":
        config = complete["environment_config"]
        about["packages"] = f"{CUDA}, unless ConfigMap {config} has {CPU_INDEX}, or --image is given"
    return about


def upload(settings: Settings, dry_run: bool) -> dict[str, Any]:
    """Uploads the pipeline, where this content of it is not there yet.

    Returns:
        `pipeline_id`, `version_id`, `version` (its name), and `new_version` (whether it was uploaded now); of a dry
        run, for which no one is asked, `host`, `pipeline` and `version`.

    Raises:
        UsageError: A setting is wrong, or the user may not do that.
        PipelineError: Kubeflow can't be reached, or fails.
    """
    ir = compiled(settings)
    if dry_run:
        return {"host": settings.host, **describe_version(settings, ir)}
    version = upload_version(connect(settings), ir)
    ids = {"pipeline_id": version.reference.pipeline_id, "version_id": version.reference.pipeline_version_id}
    return {**ids, "version": version.name, "new_version": version.is_new}


def upload_version(connection: Connection, ir: str) -> Version:
    """Uploads a version of the pipeline, where this content is not there yet."""
    import kfp_server_api  # type: ignore[import-untyped]

    pipeline_name, name = describe_version(connection.settings, ir).values()
    names = {"display_name": pipeline_name, "name": pipeline_name}
    # Not by an upload, which would call the first version like the pipeline.
    pipeline = connection.ensure("pipelines", kfp_server_api.V2beta1Pipeline(**names))
    find = partial(connection.find, "pipeline_versions", name, pipeline_id=pipeline.pipeline_id)
    version = find()
    if is_new := version is None:
        names = {"name": name, "display_name": name, "pipelineid": pipeline.pipeline_id}
        method = connection.uploads.upload_pipeline_version
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{name}.yaml"
            file.write_text(ir, encoding="utf-8")
            version = connection.create(f"uploading version {name}", method, find, str(file), unique=True, **names)
    reference = kfp_server_api.V2beta1PipelineVersionReference(pipeline.pipeline_id, version.pipeline_version_id)
    return Version(name, is_new, reference)


def get_experiment(connection: Connection, name: str) -> str:
    """Returns the id of an experiment, which is made where there is none; raises UsageError where it is archived."""
    import kfp_server_api

    experiment = connection.ensure("experiments", kfp_server_api.V2beta1Experiment(display_name=name))
    if experiment.storage_state == "ARCHIVED":
        raise UsageError(f"experiment {name!r} is archived: restore it in the dashboard, or give another --experiment")
    return str(experiment.experiment_id)


def start_run(connection: Connection, version: Version, experiment_id: str, values: dict[str, Any]) -> Any:
    """Starts a run, as the settings' service account."""
    import kfp_server_api

    # Its own name, by which it is found again where the answer is lost.
    name = f"{version.name} {uuid.uuid4().hex[:8]}"
    body = kfp_server_api.V2beta1Run(
        display_name=name,
        experiment_id=experiment_id,
        pipeline_version_reference=version.reference,
        runtime_config=kfp_server_api.V2beta1RuntimeConfig(parameters=values),
        service_account=connection.settings.service_account or None,
    )
    of_name = {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]}
    # The server takes the filter apart a second time.
    query = {"experiment_id": experiment_id, "namespace": connection.namespace, "filter": quote(json.dumps(of_name))}
    find = partial(connection.find, "runs", name, **query)
    return connection.create("starting the run", connection.runs.run_service_create_run, find, body)
