"""`deploy_model`: a release becomes a live InferenceService that has been asked, or nothing changes."""

from pathlib import Path
from typing import Any

from kfp import dsl

from nlp_pipeline.components.agreement import spread_rows
from nlp_pipeline.components.deploy_model_cluster import (
    check_access,
    check_kserve,
    check_place,
    choose_runtime,
    connect,
    own_namespace,
    refuse_access,
)
from nlp_pipeline.components.deploy_model_object import huggingface_args, lower_cased, mode_of, service_object
from nlp_pipeline.components.deploy_model_storage import release_uri, upload_release
from nlp_pipeline.components.deploy_model_transaction import deploy_service
from nlp_pipeline.components.ranges import check_parameters
from nlp_pipeline.components.volume import put_on_volume, run_folder
from nlp_pipeline.release import verify


def check_settings(settings: dict[str, Any]) -> None:
    """Makes sure that the parameters are in their ranges, and make sense together.

    Args:
        settings: The step's parameters.

    Raises:
        ValueError: They do not.
    """
    check_parameters(**settings)
    least, most = settings["min_replicas"], settings["max_replicas"]
    if 0 < most < least:
        raise ValueError(f"min_replicas is {least} and max_replicas {most}: the first must not be the greater one")
    if settings["scale_target"] and not settings["scale_metric"]:
        raise ValueError(f"scale_target is {settings['scale_target']}: of what? set scale_metric too")


def ready_cluster(settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Connects to the cluster and makes sure that it and the namespace can serve the model.

    Args:
        settings: The step's parameters.

    Returns:
        A `KServeClient`; the settings with the `namespace`, `runtime` and `service_account` that are taken.

    Raises:
        ValueError: There is no cluster, or no namespace is named.
        PermissionError: This account may not deploy there.
        LookupError: KServe, the runtime, the claim or the service account is not there.
    """
    client = connect()
    namespace = settings["namespace"] or own_namespace()
    if not namespace:
        raise ValueError("namespace is empty, and the kubeconfig's context names none: set namespace")
    account = settings["service_account"] or ("nlp-pipeline-serving" if settings["model_store"] else "")
    settings = {**settings, "namespace": namespace, "service_account": account}
    check_kserve()
    check_access(namespace)
    try:
        check_place(settings)
        return client, {**settings, "runtime": choose_runtime(client, settings)}
    except PermissionError as error:
        raise refuse_access(namespace, str(error)) from None


def deploy_release(release: str, settings: dict[str, Any], rows: dict[str, list[str]]) -> dict[str, Any]:
    """Deploys a release.

    Args:
        release: The release's folder.
        settings: The step's parameters; see deploy_model_rollout.py for what else is needed.
        rows: What the endpoint must answer: see `check_answers`.

    Returns:
        What `deploy_service` returned, and `settings` as they were taken.

    Raises:
        ValueError, PermissionError, LookupError, RuntimeError: It was refused before anything was changed.
    """
    check_settings(settings)
    record = vars(verify(Path(release)))
    name = settings["model_name"]
    if record["model_name"] != name:
        raise ValueError(
            f"model_name is {name!r}, and the release's model is {record['model_name']!r}: the InferenceService, "
            "TorchServe's model and the archive must have one name"
        )
    args = []
    if settings["serving_runtime"] == "huggingface":
        folder = f"{release}/huggingface"
        args = huggingface_args(name, record["parameters"]["max_length"], lower_cased(folder))
    uri, bucket, prefix = release_uri(name, record["digest"], settings["model_store"], settings["volume_claim"])
    client, settings = ready_cluster(settings)
    if bucket:
        upload_release(release, bucket, prefix)
    print(f"release {record['digest']}, which KServe reads at {uri}", flush=True)
    settings = {**settings, "labels": record["labels"]}
    wanted = service_object(settings, record, uri, args)
    return {**deploy_service(client, wanted, settings, rows), "settings": settings}


def endpoint_facts(done: dict[str, Any]) -> dict[str, Any]:
    """Returns what is told of an endpoint: its addresses, and what serves there.

    Args:
        done: What `deploy_release` returned, or the like.
    """
    service = done["service"] or {"metadata": {}}
    status, metadata = service.get("status", {}), service["metadata"]
    predictor = status.get("components", {}).get("predictor", {})
    model = service.get("spec", {}).get("predictor", {}).get("model", {})
    return {
        "outcome": done["outcome"],
        "name": metadata.get("name", ""),
        "namespace": metadata.get("namespace", ""),
        "url": status.get("url", ""),
        "in_cluster_url": status.get("address", {}).get("url", ""),
        "revision": predictor.get("latestReadyRevision", ""),
        "release": (metadata.get("labels") or {}).get("nlp-pipeline/release", ""),
        "runtime": model.get("runtime", ""),
        "storage_uri": model.get("storageUri", ""),
        "deployment_mode": mode_of(service),
    }


def deploy_model(
    release: dsl.Input[dsl.Model],
    predictions: dsl.Input[dsl.Dataset],
    namespace: str,
    serving_runtime: str,
    runtime_name: str,
    model_store: str,
    volume_claim: str,
    service_account: str,
    deployment_mode: str,
    min_replicas: int,
    max_replicas: int,
    scale_metric: str,
    scale_target: int,
    serving_cpu: str,
    serving_memory: str,
    serving_gpus: int,
    istio_sidecar: bool,
    canary_percent: int,
    canary_minutes: float,
    deploy_timeout: int,
    endpoint_rows: int,
    min_agreement: float,
    max_accuracy_drop: float,
    first_failure: str,
    gateway: str,
    volume_path: str,
    model_name: str,
    run_id: str,
    endpoint: dsl.Output[dsl.Artifact],
    deployment: dsl.Output[dsl.Metrics],
) -> None:
    """Creates or updates the InferenceService of a release, asks it, and gives it the traffic; or puts back what was.

    Args:
        release: The release that was validated.
        predictions: What the offline model said: Parquet with text, label and predicted label.
        namespace: Namespace of the InferenceService; empty for the pod's own.
        serving_runtime: What serves: torchserve or huggingface.
        runtime_name: Name of the ServingRuntime; empty for the usual one.
        model_store: Where KServe reads the model: empty for the volume, or s3://bucket/folder.
        volume_claim: The volume's claim.
        service_account: Service account of the serving pods; may be empty.
        deployment_mode: Knative, Standard, or empty for the cluster's default.
        min_replicas: Least number of serving pods.
        max_replicas: Greatest number of serving pods; 0 for no limit.
        scale_metric: concurrency, rps, cpu or memory; empty for KServe's own choice.
        scale_target: Value of the metric for each pod; 0 for KServe's own choice.
        serving_cpu: CPUs of a serving pod.
        serving_memory: Memory of a serving pod.
        serving_gpus: GPUs of a serving pod.
        istio_sidecar: Whether serving pods get an Istio sidecar.
        canary_percent: Share of the traffic that the release gets first, in percent; 0 for none.
        canary_minutes: How long it has that share.
        deploy_timeout: Seconds within which it must be ready.
        endpoint_rows: Ask for so many rows, spread evenly.
        min_agreement: Least share of rows on which it must give the offline model's label.
        max_accuracy_drop: By how much its accuracy may be lower, as a fraction.
        first_failure: What becomes of a first deployment that fails: stop or delete.
        gateway: Address of an ingress gateway to ask through; empty to ask the endpoint itself.
        volume_path: Where the volume is mounted.
        model_name: Name of the model, of the archive and of the InferenceService: a DNS-1035 label.
        run_id: The pipeline run's id.
        endpoint: url, in_cluster_url, revision, release, runtime, namespace and more, as JSON and as metadata.
        deployment: Seconds until ready, median latency in milliseconds, agreement and accuracy.
    """
    import json
    import os

    # All of this step's parameters, by their names.
    settings: dict[str, Any] = {name: value for name, value in locals().items() if isinstance(value, (str, int, float))}
    settings |= {"poll_seconds": 2.0, "route_seconds": 120.0, "headers": {}, "labels": []}
    folder = run_folder(volume_path, model_name, run_id)
    rows = spread_rows(predictions.path, endpoint_rows)
    # What KServe will read, not the copy of it that came as an artifact.
    published = os.path.join(volume_path, model_name, "releases", str(release.metadata["digest"]))
    done = deploy_release(published, settings, rows)
    endpoint.metadata.update(endpoint_facts(done))
    deployment.metadata.update(done["facts"])
    for artifact, name in ((endpoint, "endpoint.json"), (deployment, "deployment.json")):
        with open(artifact.path, "w", encoding="utf-8") as file:
            json.dump(artifact.metadata, file, indent=1)
        put_on_volume(artifact.path, folder, name)
    if done["outcome"] not in ("deployed", "unchanged"):
        raise RuntimeError(f"{done['outcome']}: {done['reason']}")
    print(f"{done['outcome']}: {endpoint.metadata['url']}", flush=True)
