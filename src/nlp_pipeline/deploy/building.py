"""The InferenceService that serves a release, made from the kserve SDK's typed models."""

import hashlib
import json
import math
from pathlib import Path

from nlp_pipeline.deploy.inference_service import GROUP, MODE, NOTES, SIDECAR, TAGGED, InferenceService, Json
from nlp_pipeline.deploy.target import Target
from nlp_pipeline.errors import UsageError
from nlp_pipeline.release import Release

# All annotations together may have 256 KiB, and the former objects' are among them.
LONGEST_LABELS = 20_000


def service_for(release: Release, target: Target, uri: str, args: list[str]) -> InferenceService:
    """Returns the InferenceService that serves a release.

    Args:
        release: The release.
        target: Where and how it is served.
        uri: Where KServe reads it: pvc://claim/path or s3://bucket/path.
        args: Arguments of the server.
    """
    import kserve
    from kubernetes import client

    settings = target.settings
    sidecar = {SIDECAR: str(settings.istio_sidecar).lower()}
    mode = {MODE: settings.deployment_mode} if settings.deployment_mode else {}
    service = kserve.V1beta1InferenceService(
        api_version=f"{GROUP}/v1beta1",
        kind="InferenceService",
        metadata=client.V1ObjectMeta(
            name=target.name,
            namespace=target.namespace,
            # Istio reads the label in newer versions, the annotation in older ones.
            labels={"app.kubernetes.io/managed-by": "nlp-pipeline", f"{NOTES}release": release.digest} | sidecar,
            annotations=TAGGED | sidecar | mode,
        ),
        spec=kserve.V1beta1InferenceServiceSpec(
            predictor=kserve.V1beta1PredictorSpec(
                model=model_spec(target, uri, args),
                min_replicas=settings.min_replicas,
                max_replicas=settings.max_replicas or None,
                scale_metric=settings.scale_metric or None,
                scale_target=settings.scale_target or None,
                service_account_name=settings.serving_account or None,
            )
        ),
    )
    body: Json = client.ApiClient().sanitize_for_serialization(service)
    annotations = body["metadata"]["annotations"]
    annotations[f"{NOTES}applied"] = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
    annotations[f"{NOTES}run-id"] = target.run.run_id
    annotations[f"{NOTES}accuracy"] = f"{release.metrics.get('accuracy', math.nan):.4f}"
    labels = json.dumps(release.labels)
    if len(labels) < LONGEST_LABELS:
        annotations[f"{NOTES}labels"] = labels
    return InferenceService(body)


def model_spec(target: Target, uri: str, args: list[str]) -> object:
    """Returns a `kserve.V1beta1ModelSpec`; for its arguments see `service_for`."""
    import kserve
    from kubernetes import client

    settings = target.settings
    resources = {"cpu": settings.serving_cpu, "memory": settings.serving_memory}
    if settings.serving_gpus:
        resources["nvidia.com/gpu"] = str(settings.serving_gpus)
    is_torchserve = settings.serving_runtime == "torchserve"
    return kserve.V1beta1ModelSpec(
        model_format=kserve.V1beta1ModelFormat(name="pytorch" if is_torchserve else "huggingface"),
        runtime=target.runtime,
        protocol_version="v1",
        storage_uri=uri if is_torchserve else f"{uri}/huggingface",
        args=args or None,
        resources=client.V1ResourceRequirements(requests=resources, limits=resources),
    )


def server_args(release: Release, folder: Path | None, serving_runtime: str) -> list[str]:
    """Returns the arguments of the server of a release: none of TorchServe, which is configured in the release.

    Args:
        release: The release.
        folder: Its folder; None where it has none here.
        serving_runtime: What serves.
    """
    if serving_runtime == "torchserve":
        return []
    if folder is None:
        raise UsageError("serving_runtime=huggingface needs --release DIR: the server is set as its tokenizer wants it")
    return [
        f"--model_name={release.model_name}",
        "--backend=huggingface",
        "--task=sequence_classification",
        "--return_probabilities",
        f"--max_length={release.parameters['max_length']}",
        # Lower case is the server's default.
        *([] if is_lower_cased(folder / "huggingface") else ["--disable_lower_case"]),
    ]


def is_lower_cased(folder: Path) -> bool:
    """Says whether a saved tokenizer lower-cases, by its normalizers or its configuration."""
    normalizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")).get("normalizer") or {}
    for item in [normalizer, *normalizer.get("normalizers", [])]:
        if item.get("type") == "Lowercase" or (item.get("type") == "BertNormalizer" and item.get("lowercase")):
            return True
    path = folder / "tokenizer_config.json"
    return path.exists() and bool(json.loads(path.read_text(encoding="utf-8")).get("do_lower_case"))
