"""`--manifests`: what a namespace needs before the pipeline runs in it, as YAML for `kubectl apply -f -`."""

import re
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from nlp_pipeline import __version__
from nlp_pipeline.deploy.cluster import ACCESS
from nlp_pipeline.deploy.inference_service import GROUP, Json
from nlp_pipeline.deploy.settings import DNS_NAME, LABEL, ONNX_RUNTIME, RUNTIME, DeploySettings
from nlp_pipeline.errors import UsageError
from nlp_pipeline.serving.runtime import PORTS, READY
from nlp_pipeline.train_job.access import ACCESS as TRAIN_JOB_ACCESS

IMAGES = {"onnx": f"nlp-pipeline-server:{__version__}", "torchserve": f"{RUNTIME}:{__version__}"}
CLAIM_SIZE = "20Gi"
PLACEHOLDER = "REPLACE-ME"
RBAC = "rbac.authorization.k8s.io"
# The comment before each kind of object.
COMMENTS = {
    "PersistentVolumeClaim": f"""\
The volume of the steps, of notebooks and of the server. Its storage class must offer ReadWriteMany: name one as
# storageClassName where the cluster's default does not; ReadWriteOnce will do where all pods are on one node.
# Where the steps run in another namespace than the server, both claims must be of the same files (with a bucket as
# model_store, only the steps have one).
# Change the size ({CLAIM_SIZE}) to what your data, models and releases need.""",
    "Role": "What steps do in this namespace.",
    "RoleBinding": "Allows it to the service account that the steps run as; --steps-account names another.",
    "ServingRuntime": """\
What serves the archives. The image is built from the Dockerfile's target server (nlp-pipeline-onnx; --server-image
# names yours) or torchserve (nlp-pipeline-torchserve; --runtime-image).
# Only an InferenceService that names this runtime gets it.""",
    "Secret": f"""\
The bucket's credentials. Put yours in the places of {PLACEHOLDER} (better, in a file that no repository holds), and
# the same address into the annotations, which KServe reads: host and port alone, and "1" for https.""",
    "ServiceAccount": "What the serving pods run as: KServe finds the bucket's credentials in its Secrets.",
}


def manifests(
    values: dict[str, Any], secret_keys: Sequence[str], images: dict[str, str | None], steps_account: str
) -> str:
    """Returns what a namespace needs, as YAML documents with a comment each.

    Args:
        values: The pipeline's parameters, all of them.
        secret_keys: The keys of the Secret with the bucket's credentials.
        images: The images of the project's runtimes, by what `serving_runtime` calls them; None for those of IMAGES.
        steps_account: The service account that the steps run as: NAME, or NAMESPACE/NAME.

    Raises:
        UsageError: The account's name can't be one.
    """
    import yaml

    settings = DeploySettings.of(values)
    secret = values["s3_secret"]
    namespace, deploys = settings.namespace, values["deploy"]
    reads_s3 = any("s3://" in (values[name] or "") for name in ("train_data", "evaluation_data"))
    storage = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": CLAIM_SIZE}}}
    subject = _subject(steps_account, namespace)
    steps = subject["namespace"]  # which may not be the one that serves
    objects = [(steps, _object("v1", "PersistentVolumeClaim", settings.volume_claim, spec=storage))]
    if settings.model_store or reads_s3:
        objects.append((steps, _secret(secret, secret_keys)))
    objects += [(steps, item) for item in _permission("nlp-pipeline-notify", {("", "events"): ["create"]}, subject)]
    if values["train_nodes"] > 1:
        objects += [(steps, item) for item in _permission("nlp-pipeline-train-job", TRAIN_JOB_ACCESS, subject)]
    if deploys:
        if namespace != steps:  # which the serving pods read too
            objects += [(namespace, deepcopy(objects[1 if settings.model_store else 0][1]))]
        objects += [(namespace, item) for item in _permission("nlp-pipeline-deploy", ACCESS, subject)]
        for kind in _runtimes(settings.serving_runtime, images):
            objects.append((namespace, _serving_runtime(kind, images[kind] or IMAGES[kind])))
        if settings.model_store:
            account = _object("v1", "ServiceAccount", settings.serving_account, secrets=[{"name": secret}])
            objects.append((namespace, account))
    documents = []
    for place, item in objects:
        if place:  # else `kubectl -n` decides
            item["metadata"]["namespace"] = place
        text = yaml.safe_dump(item, sort_keys=False, width=120)
        documents.append(f"# {COMMENTS[item['kind']]}\n{text}")
    return "---\n".join(documents)


def _object(version: str, kind: str, name: str, **content: object) -> Json:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **content}


def _subject(account: str, namespace: str) -> Json:
    """Returns the service account that the steps run as, by its name or namespace/name, for a RoleBinding."""
    if not re.fullmatch(f"({LABEL}/)?{DNS_NAME}", account):
        raise UsageError(f"--steps-account {account!r} is no service account: write NAME, or NAMESPACE/NAME")
    where, _, name = account.rpartition("/")
    return {"kind": "ServiceAccount", "name": name, "namespace": where or namespace}


def _permission(name: str, access: dict[tuple[str, str], list[str]], subject: Json) -> list[Json]:
    """Returns a Role with the verbs by API group and resource, and its RoleBinding."""
    rules = [{"apiGroups": [group], "resources": [kind], "verbs": verbs} for (group, kind), verbs in access.items()]
    role = {"apiGroup": RBAC, "kind": "Role", "name": name}
    return [
        _object(f"{RBAC}/v1", "Role", name, rules=rules),
        _object(f"{RBAC}/v1", "RoleBinding", name, roleRef=role, subjects=[subject]),
    ]


def _runtimes(serving_runtime: str, images: dict[str, str | None]) -> list[str]:
    """Returns the runtimes that are needed: those whose images are given, or else the first that would be taken."""
    if serving_runtime != "auto":
        return [serving_runtime] if serving_runtime in IMAGES else []
    return [kind for kind in IMAGES if images[kind]] or ["onnx"]


def _serving_runtime(kind: str, image: str) -> Json:
    """Returns one of the project's ServingRuntimes: for our own server (onnx), or for TorchServe.

    KServe puts an InferenceService's name in the place of `{{.Name}}`, which is also the model's name.
    """
    resources = {"cpu": "1", "memory": "2Gi"}
    is_onnx = kind == "onnx"
    # TorchServe's by a command: no address that can be asked tells whether the model is loaded; see serving/runtime.py.
    by_command = {"exec": {"command": [*READY, "{{.Name}}"]}}
    by_http = {"httpGet": {"path": "/v2/models/{{.Name}}/ready", "port": PORTS["PORT_INFERENCE"]}}
    container = {
        "name": "kserve-container",
        "image": image,
        "ports": [{"containerPort": PORTS["PORT_INFERENCE"], "protocol": "TCP"}],
        "resources": {"requests": dict(resources), "limits": dict(resources)},
        "readinessProbe": {
            **(by_http if is_onnx else by_command),
            "periodSeconds": 1 if is_onnx else 5,
            "timeoutSeconds": 5,
            "failureThreshold": 10 if is_onnx else 3,
        },
        "securityContext": {
            "runAsUser": 1000,
            "runAsNonRoot": True,
            "privileged": False,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
            **({"readOnlyRootFilesystem": True} if is_onnx else {}),
        },
    }
    spec = {
        "annotations": {
            "prometheus.kserve.io/port": str(PORTS["PORT_INFERENCE" if is_onnx else "PORT_METRICS"]),
            "prometheus.kserve.io/path": "/metrics",
        },
        "supportedModelFormats": [{"name": "pytorch", "version": "1", "autoSelect": False}],
        "protocolVersions": ["v1", "v2", "grpc-v2"] if is_onnx else ["v1"],
        "containers": [container],
    }
    return _object(f"{GROUP}/v1alpha1", "ServingRuntime", ONNX_RUNTIME if is_onnx else RUNTIME, spec=spec)


def _secret(name: str, keys: Sequence[str]) -> Json:
    """Returns the template of the Secret with the S3 credentials: the steps read its keys, KServe its annotations."""
    region = "us-east-1"
    values = {"AWS_ENDPOINT_URL": f"http://{PLACEHOLDER}:9000", "AWS_REGION": region}
    data = {key: values.get(key, PLACEHOLDER) for key in keys}
    annotations = {"s3-endpoint": f"{PLACEHOLDER}:9000", "s3-usehttps": "0", "s3-region": region}
    secret = _object("v1", "Secret", name, type="Opaque", stringData=data)
    secret["metadata"]["annotations"] = {f"{GROUP}/{key}": value for key, value in annotations.items()}
    return secret
