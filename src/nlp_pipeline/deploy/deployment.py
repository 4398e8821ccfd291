"""From a release to a live InferenceService: what the step `deploy_model` and `--deploy` do alike."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from nlp_pipeline.deploy import cluster
from nlp_pipeline.deploy.endpoint import Rows
from nlp_pipeline.deploy.inference_service import MODE, NOTES, REGISTRY_URL, SIDECAR, TAGGED, InferenceService, make
from nlp_pipeline.deploy.settings import DeploySettings, Target
from nlp_pipeline.deploy.transaction import Outcome, deploy
from nlp_pipeline.deploy.upload import upload
from nlp_pipeline.errors import UsageError
from nlp_pipeline.installed import import_installed
from nlp_pipeline.release import Release, verify
from nlp_pipeline.serving.agreement import SERVED, AgreementLimits, spread_rows
from nlp_pipeline.volume import Run, digest_of


def deploy_published(
    run: Run, digest: str, settings: DeploySettings, limits: AgreementLimits, predictions: str, endpoint_rows: int
) -> Outcome:
    """Deploys a release that a run has published on the volume.

    The endpoint is asked for `endpoint_rows` rows, spread evenly, or for all for 0: of those that the archive has
    answered where it was validated, or of the offline model's predictions where another server takes the model.
    """
    release, folder = _published(run, digest)
    target = Target(settings=settings, limits=limits, run=run)
    if settings.takes_archive and run.folder and (served := run.folder / SERVED).is_file():
        predictions = str(served)
    return deploy_release(release, folder, target, spread_rows(predictions, endpoint_rows))


def register_published(run: Run, digest: str, settings: DeploySettings) -> None:
    """Registers a release that a run has published on the volume, and does not deploy."""
    store(*_published(run, digest), Target(settings=settings, run=run))


def _published(run: Run, digest: str) -> tuple[Release, Path]:
    # What KServe will read, not the copy of it that came as an artifact.
    folder = Path(run.volume_path, run.model_name, "releases", digest)
    return verify(folder), folder


def store(release: Release, folder: Path | None, target: Target) -> Target:
    """Sends a release to where KServe reads it, and registers it, as far as the settings say so.

    Returns the target with what a registry knows it by.
    """
    uri = target.uri_of(release)
    if folder and target.settings.model_store:
        upload(folder, release, uri)
    if address := target.settings.model_registry:
        return replace(target, registered=registry().register(address, release, uri))
    return target


def registry() -> Any:
    """Returns the module that asks a model registry."""
    return import_installed("deploy.registry", "model_registry")


def deploy_release(release: Release, folder: Path | None, target: Target, rows: Rows) -> Outcome:
    """Deploys a release; for the arguments see `prepare`, and `transaction.deploy` for the rows."""
    desired, target = prepare(release, folder, target)
    target = store(release, folder, target)
    if target.registered:
        desired = service_for(release, folder, target)
    print(f"release {release.digest} at {target.uri_of(release)}", flush=True)
    outcome = deploy_and_follow(desired, target, rows)
    if not outcome.reason:
        print(f"{outcome.outcome}: {outcome.endpoint['url']}", flush=True)
    return outcome


def deploy_and_follow(desired: InferenceService, target: Target, rows: Rows) -> Outcome:
    """Does what `transaction.deploy` does, and tells a model registry."""
    outcome = deploy(desired, target, rows)
    # What served before may be in a registry though this release is not.
    former = outcome.service.formers[0].annotations if outcome.service and outcome.service.formers else {}
    if address := target.settings.model_registry or former.get(REGISTRY_URL):
        try:
            registry().follow(address, outcome.service, desired if outcome.reason else None)
        except UsageError as error:
            print(f"note: {address} does not know what serves now: {error}", flush=True)
    return outcome


def prepare(release: Release, folder: Path | None, target: Target) -> tuple[InferenceService, Target]:
    """Makes sure that a release, with its folder where it has one here, can be deployed; changes nothing.

    Returns its InferenceService, and the target with what was found out.
    """
    target = connect(target)
    cluster.check_access(target.namespace)
    cluster.check_place(target.settings, target.namespace)
    runtime = cluster.choose_runtime(target.settings, target.namespace)
    print(f"runtime {runtime} (serving_runtime={target.settings.serving_runtime})", flush=True)
    target = replace(target, runtime=runtime, labels=release.labels)
    return service_for(release, folder, target), target


def connect(target: Target) -> Target:
    """Connects to a cluster with KServe, and returns the target with the namespace to deploy in."""
    cluster.connect()
    namespace = target.settings.namespace or cluster.own_namespace()
    if not namespace:
        raise UsageError("the kubeconfig's context names no namespace: set namespace")
    cluster.check_kserve()
    return replace(target, namespace=namespace)


def server_args(release: Release, folder: Path | None) -> list[str]:
    """Returns the arguments of Hugging Face's server of a release."""
    if folder is None:
        raise UsageError("serving_runtime=huggingface needs --release DIR: its tokenizer is read")
    for name, problem in {"thresholds": "gives a text one label", "long_texts": "cuts long texts"}.items():
        if name in release.parameters:
            raise UsageError(f"serving_runtime=huggingface {problem}, this release does not: take onnx or torchserve")
    normalizer = json.dumps(json.loads((folder / "huggingface" / "tokenizer.json").read_bytes()).get("normalizer"))
    is_lower_cased = '"Lowercase"' in normalizer or '"lowercase": true' in normalizer
    return [
        f"--model_name={release.model_name}",
        "--backend=huggingface",
        "--task=sequence_classification",
        "--return_probabilities",
        f"--max_length={release.parameters['max_length']}",
        # Lower case is the server's default.
        *([] if is_lower_cased else ["--disable_lower_case"]),
    ]


def service_for(release: Release, folder: Path | None, target: Target) -> InferenceService:
    """Returns the InferenceService that serves a release."""
    settings = target.settings
    sidecar = {SIDECAR: str(settings.istio_sidecar).lower()}
    mode = {MODE: settings.deployment_mode} if settings.deployment_mode else {}
    # Istio reads the label in newer versions, the annotation in older ones.
    labels = {"app.kubernetes.io/managed-by": "nlp-pipeline", f"{NOTES}release": release.digest} | sidecar
    annotations = TAGGED | sidecar | mode
    if target.registered:
        annotations |= {REGISTRY_URL: settings.model_registry}
    spec = spec_for(release, folder, target)
    service = make(target.name, target.namespace, labels | target.registered, annotations, spec)
    service.annotations[f"{NOTES}applied"] = digest_of(service.body)
    service.annotations[f"{NOTES}again"] = target.run.run_id
    service.annotations[f"{NOTES}accuracy"] = f"{release.metrics.get('accuracy', float('nan')):.4f}"
    noted = json.dumps(release.labels)
    # All annotations together may have 256 KiB, and the former objects' are among them.
    if len(noted) < 20_000:
        service.annotations[f"{NOTES}labels"] = noted
    return service


def resources_of(settings: DeploySettings) -> tuple[dict[str, str], dict[str, str]]:
    """Returns what a serving pod asks of its node, and what it uses at most."""
    from kubernetes.utils.quantity import parse_quantity as parse

    limits = {"cpu": settings.serving_cpu, "memory": settings.serving_memory}
    if settings.serving_gpus:
        limits["nvidia.com/gpu"] = str(settings.serving_gpus)
    # Little must be free, so that a new pod starts beside the old one on a small node too; but what pods are scaled by
    # is measured by its share of the request.
    little = {"cpu": "250m", "memory": "2Gi"}
    requests = {
        name: value if name == settings.scale_metric else min(value, little.get(name, value), key=parse)
        for name, value in limits.items()
    }
    return requests, limits


def spec_for(release: Release, folder: Path | None, target: Target) -> Any:
    """Returns the spec of an InferenceService that serves a release, by the kserve SDK's typed models."""
    import kserve
    from kubernetes import client

    settings, uri = target.settings, target.uri_of(release)
    requests, limits = resources_of(settings)
    model = kserve.V1beta1ModelSpec(
        model_format=kserve.V1beta1ModelFormat(name="pytorch" if settings.takes_archive else "huggingface"),
        runtime=target.runtime,
        protocol_version="v1",
        storage_uri=uri if settings.takes_archive else f"{uri}/huggingface",
        args=None if settings.takes_archive else server_args(release, folder),
        resources=client.V1ResourceRequirements(requests=requests, limits=limits),
    )
    predictor = kserve.V1beta1PredictorSpec(
        model=model,
        min_replicas=settings.min_replicas,
        max_replicas=settings.max_replicas or None,
        scale_metric=settings.scale_metric or None,
        scale_target=settings.scale_target or None,
        service_account_name=settings.serving_account or None,
        node_selector=settings.node_selector or None,
        tolerations=settings.tolerations or None,
    )
    return client.ApiClient().sanitize_for_serialization(kserve.V1beta1InferenceServiceSpec(predictor=predictor))
