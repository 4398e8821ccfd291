"""The InferenceService of a release, and what is noted on it so that a deployment can be undone and taken up again.

What stands on the object (label and annotations, as KServe copies both to the serving pods):

    nlp-pipeline/release    label: the release's digest
    nlp-pipeline/run-id     the pipeline run that deployed it
    nlp-pipeline/accuracy   as it was evaluated
    nlp-pipeline/labels     the labels in the order of their ids, as JSON; left out where they are very many
    nlp-pipeline/applied    digest of what was asked for, by which the same deployment is known again
    nlp-pipeline/replaces   the Knative revision that was the newest before
    nlp-pipeline/former     the objects before this one, newest first, as JSON; while it is put back, itself before them
    canaryTrafficPercent    in the spec while the deployment has not ended. KServe obeys it on Knative and ignores it on
                            Standard; an annotation can't serve, as changing one makes a new revision

Hermetic helpers, inlined into the step as `additional_funcs`.
"""

from typing import Any


def lower_cased(folder: str) -> bool:
    """Tells whether a saved tokenizer lower-cases, by its normalizers or its configuration.

    Args:
        folder: A folder with tokenizer.json, as save_pretrained writes it.
    """
    import json
    import os

    with open(os.path.join(folder, "tokenizer.json"), encoding="utf-8") as file:
        normalizer = json.load(file).get("normalizer") or {}
    for one in [normalizer, *normalizer.get("normalizers", [])]:
        if one.get("type") == "Lowercase" or (one.get("type") == "BertNormalizer" and one.get("lowercase")):
            return True
    path = os.path.join(folder, "tokenizer_config.json")
    if not os.path.exists(path):
        return False
    with open(path, encoding="utf-8") as file:
        return bool(json.load(file).get("do_lower_case"))


def huggingface_args(name: str, max_length: int, lower: bool) -> list[str]:
    """Returns the arguments of KServe's Hugging Face server for a text classifier.

    Args:
        name: The model's name in its address.
        max_length: Tokens at which a text is cut.
        lower: Whether texts are lower-cased, which is the server's default.
    """
    args = [f"--model_name={name}", "--backend=huggingface", "--task=sequence_classification"]
    args += ["--return_probabilities", f"--max_length={max_length}"]
    return args if lower else [*args, "--disable_lower_case"]


def service_spec(settings: dict[str, Any], storage_uri: str, args: list[str]) -> Any:
    """Returns the spec of an InferenceService.

    Args:
        settings: The step's parameters, and `runtime`, the name of the ServingRuntime.
        storage_uri: Where KServe finds the release: pvc://claim/path or s3://bucket/path.
        args: Arguments of the server.

    Returns:
        A `kserve.V1beta1InferenceServiceSpec`.
    """
    import kserve
    from kubernetes import client

    torchserve = settings["serving_runtime"] == "torchserve"
    resources = {"cpu": settings["serving_cpu"], "memory": settings["serving_memory"]}
    if settings["serving_gpus"]:
        resources["nvidia.com/gpu"] = str(settings["serving_gpus"])
    model = kserve.V1beta1ModelSpec(
        model_format=kserve.V1beta1ModelFormat(name="pytorch" if torchserve else "huggingface"),
        runtime=settings["runtime"],
        protocol_version="v1",
        storage_uri=storage_uri if torchserve else f"{storage_uri}/huggingface",
        args=args or None,
        resources=client.V1ResourceRequirements(requests=resources, limits=resources),
    )
    predictor = kserve.V1beta1PredictorSpec(
        model=model,
        min_replicas=settings["min_replicas"],
        max_replicas=settings["max_replicas"] or None,
        scale_metric=settings["scale_metric"] or None,
        scale_target=settings["scale_target"] or None,
        service_account_name=settings["service_account"] or None,
    )
    return kserve.V1beta1InferenceServiceSpec(predictor=predictor)


def service_object(settings: dict[str, Any], record: dict[str, Any], storage_uri: str, args: list[str]) -> Any:
    """Returns the InferenceService that serves a release.

    Args:
        settings: The step's parameters, and `runtime`, the name of the ServingRuntime.
        record: The release's release.json.
        storage_uri: Where KServe finds the release.
        args: Arguments of the server.

    Returns:
        The object as Kubernetes reads it (a dict), made from the kserve SDK's models.
    """
    import hashlib
    import json

    import kserve
    from kubernetes import client

    annotations = {
        # By its tag, the newest revision can be asked before it gets traffic.
        "serving.kserve.io/enable-tag-routing": "true",
        "sidecar.istio.io/inject": "true" if settings["istio_sidecar"] else "false",
    }
    if settings["deployment_mode"]:
        annotations["serving.kserve.io/deploymentMode"] = settings["deployment_mode"]
    labels = {
        "app.kubernetes.io/managed-by": "nlp-pipeline",
        "nlp-pipeline/release": record["digest"],
        # Istio reads the label in newer versions, the annotation in older ones.
        "sidecar.istio.io/inject": annotations["sidecar.istio.io/inject"],
    }
    service = kserve.V1beta1InferenceService(
        api_version="serving.kserve.io/v1beta1",
        kind="InferenceService",
        metadata=client.V1ObjectMeta(
            name=settings["model_name"], namespace=settings["namespace"], labels=labels, annotations=annotations
        ),
        spec=service_spec(settings, storage_uri, args),
    )
    body: dict[str, Any] = client.ApiClient().sanitize_for_serialization(service)
    applied = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
    label_names = json.dumps(record["labels"])
    annotations = {
        "nlp-pipeline/run-id": settings["run_id"],
        "nlp-pipeline/accuracy": f"{record.get('metrics', {}).get('accuracy', float('nan')):.4f}",
        "nlp-pipeline/applied": applied,
    }
    if len(label_names) < 20_000:  # all annotations together may have 256 KiB, those of the former objects too
        annotations["nlp-pipeline/labels"] = label_names
    body["metadata"]["annotations"].update(annotations)
    return body


def mark_of(service: dict[str, Any] | None, name: str) -> str:
    """Returns one of our annotations of an InferenceService; empty where there is none."""
    return str(((service or {}).get("metadata", {}).get("annotations") or {}).get(f"nlp-pipeline/{name}", ""))


def release_of(service: dict[str, Any] | None) -> str:
    """Returns the digest of the release that an InferenceService serves; empty where it was not made by us."""
    return str(((service or {}).get("metadata", {}).get("labels") or {}).get("nlp-pipeline/release", ""))


def is_stopped(service: dict[str, Any]) -> bool:
    """Tells whether an InferenceService is stopped: it is there, without pods."""
    annotations = service["metadata"].get("annotations") or {}
    return str(annotations.get("serving.kserve.io/stop", "")).lower() == "true"


def is_unfinished(service: dict[str, Any] | None) -> bool:
    """Tells whether a deployment of ours was begun and has not ended: its release has not been found good."""
    predictor = (service or {}).get("spec", {}).get("predictor", {})
    ours = mark_of(service, "applied") or mark_of(service, "former")
    return bool(ours) and "canaryTrafficPercent" in predictor


def covers(live: Any, wanted: Any) -> bool:
    """Tells whether all that is wanted is so in the live object, which has defaults besides."""
    from kubernetes.utils import parse_quantity

    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(key in live and covers(live[key], one) for key, one in wanted.items())
    if isinstance(wanted, list):
        return isinstance(live, list) and len(live) == len(wanted) and all(map(covers, live, wanted))
    if live == wanted:
        return True
    try:
        # KServe's webhook writes quantities in their shortest form: 500m for 0.5.
        return bool(parse_quantity(live) == parse_quantity(wanted))
    except (ValueError, TypeError):
        return False


def matches(live: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Tells whether an InferenceService is what was sent.

    It must carry the mark of the same request, as a field that is not asked for any more would pass unseen else, and
    still be as it was asked for, as someone may have edited it since.
    """
    return mark_of(live, "applied") == mark_of(wanted, "applied") and covers(live["spec"], wanted["spec"])


def is_same(live: dict[str, Any] | None, wanted: dict[str, Any]) -> bool:
    """Tells whether an InferenceService is what is wanted already, and not stopped."""
    return live is not None and not is_stopped(live) and matches(live, wanted)


def former_of(live: dict[str, Any]) -> dict[str, Any]:
    """Returns what is kept of an InferenceService to put it back."""
    import copy

    metadata = live["metadata"]
    not_kept = ("nlp-pipeline/former", "nlp-pipeline/replaces", "kubectl.kubernetes.io/last-applied-configuration")
    annotations = metadata.get("annotations") or {}
    spec, status = copy.deepcopy(live["spec"]), live.get("status", {})
    if is_unfinished(live):  # else the share is someone's own
        spec["predictor"].pop("canaryTrafficPercent", None)
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions") or [])
    return {
        "labels": metadata.get("labels") or {},
        "annotations": {key: value for key, value in annotations.items() if key not in not_kept},
        "spec": spec,
        "ready": ready,
        # On Knative, a revision before the newest one may have the traffic.
        "serves": ready or bool(status.get("components", {}).get("predictor", {}).get("traffic")),
    }


def formers_of(service: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Returns the former objects that are noted on an InferenceService, newest first."""
    import json

    found: list[dict[str, Any]] = json.loads(mark_of(service, "former") or "[]")
    if service and found and not is_unfinished(service) and matches(service, restored(found[0], "", "")):
        return found[1:]  # it was put back, and has the traffic
    return found


def formers_after(live: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Returns what a deployment can go back to once it has taken the live object's place, newest first, three at most.

    A release whose deployment has not ended was never found good: what stood before it stays the one to go back to.
    """
    if live is None or is_unfinished(live):
        return formers_of(live)
    return [former_of(live), *formers_of(live)][:3]


def kept_metadata(live: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Returns metadata for the object that takes a live one's place: others' labels, annotations and marks are kept.

    Args:
        live: The live object's metadata.
        wanted: The metadata of the object to be.
    """
    # The latter ones `service_object` sets, or the server by what it is sent.
    dropped = ["serving.kserve.io/stop", "kubectl.kubernetes.io/last-applied-configuration"]
    dropped += ["app.kubernetes.io/managed-by", "sidecar.istio.io/inject", "modelFormat"]
    merged: dict[str, Any] = {"resourceVersion": live["resourceVersion"]}
    for kind in ("labels", "annotations"):
        foreign = {
            key: value
            for key, value in (live.get(kind) or {}).items()
            if not key.startswith("nlp-pipeline/") and key not in dropped
        }
        merged[kind] = {**foreign, **(wanted.get(kind) or {})}
    return {**merged, **{key: live[key] for key in ("finalizers", "ownerReferences") if key in live}}


def successor(live: dict[str, Any] | None, wanted: dict[str, Any], formers: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns what is to be sent so that a wanted object takes the place of the live one.

    Args:
        live: The InferenceService as it is; None where there is none.
        wanted: The object to be.
        formers: What it can go back to.

    Returns:
        The wanted object with its notes and, as the mark of a deployment that has not ended, its share of the traffic:
        none where something serves already.
    """
    import copy
    import json

    body = copy.deepcopy(wanted)
    metadata = body["metadata"]
    serving = live is not None and not is_stopped(live)
    if live is not None:
        metadata.update(kept_metadata(live["metadata"], metadata))
        predictor = live.get("status", {}).get("components", {}).get("predictor", {})
        # What was stopped begins to count its revisions anew.
        replaces = predictor.get("latestCreatedRevision", "") if serving else ""
        metadata["annotations"]["nlp-pipeline/replaces"] = replaces
    if formers:
        metadata["annotations"]["nlp-pipeline/former"] = json.dumps(formers, separators=(",", ":"))
    body["spec"]["predictor"]["canaryTrafficPercent"] = 0 if serving else 100
    return body


def mode_of(service: dict[str, Any]) -> str:
    """Returns the deployment mode, "Knative" or "Standard"; KServe writes it down where it is not Knative."""
    annotations = service["metadata"].get("annotations") or {}
    mode = service.get("status", {}).get("deploymentMode") or annotations.get("serving.kserve.io/deploymentMode", "")
    return "Standard" if mode in ("Standard", "RawDeployment") else "Knative"


def restored(former: dict[str, Any], name: str, namespace: str) -> dict[str, Any]:
    """Returns the object that a former one was, to be put back."""
    import copy

    kept = copy.deepcopy(former)
    kept["spec"]["predictor"].pop("canaryTrafficPercent", None)
    metadata = {"name": name, "namespace": namespace, "labels": kept["labels"], "annotations": kept["annotations"]}
    # Without the tag, its revision could not be asked before it gets the traffic back.
    metadata["annotations"]["serving.kserve.io/enable-tag-routing"] = "true"
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": metadata,
        "spec": kept["spec"],
    }
