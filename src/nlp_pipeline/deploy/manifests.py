"""`--manifests`: what a namespace needs before the pipeline runs in it, as YAML for `kubectl apply -f -`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nlp_pipeline import __version__
from nlp_pipeline.deploy.access import role_objects
from nlp_pipeline.deploy.inference_service import GROUP, Json
from nlp_pipeline.deploy.kserve_sdk import import_kserve
from nlp_pipeline.deploy.settings import RUNTIME, DeploySettings
from nlp_pipeline.errors import UsageError

RUNTIME_IMAGE = f"{RUNTIME}:{__version__}"
# What Kubeflow runs the steps of a profile's namespace as.
STEPS_ACCOUNT = "default-editor"
CLAIM_SIZE = "20Gi"
PLACEHOLDER = "REPLACE-ME"


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What is to run in a namespace.

    Attributes:
        settings: Where and how models are served.
        deploys: Whether they are.
        reads_s3: Whether the steps read data from a bucket.
        secret: The name of the Secret with the bucket's credentials.
        secret_keys: Its keys.
        runtime_image: The image of the project's TorchServe runtime.
        steps_account: The service account that the steps run as: its name, or namespace/name.
    """

    settings: DeploySettings
    deploys: bool
    reads_s3: bool
    secret: str
    secret_keys: Sequence[str]
    runtime_image: str = RUNTIME_IMAGE
    steps_account: str = STEPS_ACCOUNT


def manifests(needs: Needs) -> str:
    """Returns what a namespace needs, as YAML documents with a comment each.

    Raises:
        UsageError: A namespace must be known and is not, the account is no name, or kserve is not installed.
    """
    import yaml

    settings, namespace = needs.settings, needs.settings.namespace
    documents = [(CLAIM, claim_object(settings.volume_claim, namespace))]
    if needs.deploys:
        account_namespace, account = account_parts(needs.steps_account, namespace)
        if not namespace:
            raise UsageError("--manifests needs a namespace, as a RoleBinding names it: add --set namespace=NAME")
        documents += zip((ROLE, BINDING), role_objects(namespace, account, account_namespace), strict=True)
        if settings.serving_runtime == "torchserve":
            documents.append((RUNTIME_COMMENT, runtime_object(needs.runtime_image, namespace)))
    if settings.model_store or needs.reads_s3:
        documents.append((SECRET, secret_object(needs.secret, needs.secret_keys, namespace)))
    if needs.deploys and settings.model_store:
        documents.append((ACCOUNT, account_object(settings.serving_account, needs.secret, namespace)))
    return "---\n".join(
        f"# {comment}\n{yaml.safe_dump(document, sort_keys=False, width=120)}" for comment, document in documents
    )


def account_parts(account: str, namespace: str) -> tuple[str, str]:
    """Returns the namespace and the name of the service account that the steps run as.

    Args:
        account: Its name, or namespace/name.
        namespace: The namespace where the former is all that is given.

    Raises:
        UsageError: It is neither.
    """
    word = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
    if not re.fullmatch(rf"({word}/)?{word}(\.{word})*", account):
        raise UsageError(f"--steps-account {account!r} is no service account: write NAME, or NAMESPACE/NAME")
    where, _, name = account.rpartition("/")
    return where or namespace, name


def metadata(name: str, namespace: str) -> Json:
    """Returns an object's metadata; without a namespace, `kubectl -n` decides."""
    return {"name": name, **({"namespace": namespace} if namespace else {})}


CLAIM = f"""\
The volume of the steps, of notebooks and of the server. Its storage class must offer ReadWriteMany: name one as
# storageClassName where the cluster's default does not; ReadWriteOnce will do where all pods are on one node.
# Change the size ({CLAIM_SIZE}) to what your data, models and releases need."""


def claim_object(name: str, namespace: str) -> Json:
    """Returns the PersistentVolumeClaim that the steps mount."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(name, namespace),
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": CLAIM_SIZE}}},
    }


ROLE = "What the step deploy_model does in this namespace."
BINDING = "Allows it to the service account that the steps run as; --steps-account names another."
RUNTIME_COMMENT = """\
What serves the archives. The image is built from the Dockerfile's target torchserve; --runtime-image names yours.
# Only an InferenceService that names this runtime gets it."""


def runtime_object(image: str, namespace: str) -> Json:
    """Returns the project's ServingRuntime, made from the kserve SDK's models.

    KServe puts an InferenceService's name in the place of `{{.Name}}`, which is also the model's name.

    Args:
        image: The image, from the Dockerfile's target torchserve.
        namespace: The namespace.

    Raises:
        UsageError: kserve is not installed.
    """
    import_kserve()
    import kserve
    from kubernetes import client

    from nlp_pipeline.serving.runtime import PORTS, READY

    resources = {"cpu": "1", "memory": "2Gi"}
    container = client.V1Container(
        name="kserve-container",
        image=image,
        ports=[client.V1ContainerPort(container_port=PORTS["PORT_INFERENCE"], protocol="TCP")],
        resources=client.V1ResourceRequirements(requests=resources, limits=resources),
        # By a command: no address that can be asked tells whether the model is loaded; see serving/runtime.py.
        readiness_probe=client.V1Probe(
            _exec=client.V1ExecAction(command=[*READY, "{{.Name}}"]),
            period_seconds=5,
            timeout_seconds=5,
            failure_threshold=3,
        ),
        security_context=client.V1SecurityContext(
            run_as_user=1000,
            run_as_non_root=True,
            privileged=False,
            allow_privilege_escalation=False,
            capabilities=client.V1Capabilities(drop=["ALL"]),
        ),
    )
    runtime = kserve.V1alpha1ServingRuntime(
        api_version="serving.kserve.io/v1alpha1",
        kind="ServingRuntime",
        metadata=client.V1ObjectMeta(**metadata(RUNTIME, namespace)),
        spec=kserve.V1alpha1ServingRuntimeSpec(
            annotations={
                "prometheus.kserve.io/port": str(PORTS["PORT_METRICS"]),
                "prometheus.kserve.io/path": "/metrics",
            },
            supported_model_formats=[
                kserve.V1alpha1SupportedModelFormat(name="pytorch", version="1", auto_select=False)
            ],
            protocol_versions=["v1"],
            containers=[container],
        ),
    )
    found: Json = client.ApiClient().sanitize_for_serialization(runtime)
    return found


SECRET = f"""\
The bucket's credentials. Put yours in the places of {PLACEHOLDER} (better, in a file that no repository holds), and
# the same address into the annotations, which KServe reads: host and port alone, and "1" for https."""


def secret_object(name: str, keys: Sequence[str], namespace: str) -> Json:
    """Returns the template of the Secret with the S3 credentials: the steps read its keys, KServe its annotations."""
    region = "us-east-1"
    values = {"AWS_ENDPOINT_URL": f"http://{PLACEHOLDER}:9000", "AWS_REGION": region}
    annotations = {"s3-endpoint": f"{PLACEHOLDER}:9000", "s3-usehttps": "0", "s3-region": region}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            **metadata(name, namespace),
            "annotations": {f"{GROUP}/{key}": value for key, value in annotations.items()},
        },
        "type": "Opaque",
        "stringData": {key: values.get(key, PLACEHOLDER) for key in keys},
    }


ACCOUNT = "What the serving pods run as: KServe finds the bucket's credentials in its Secrets."


def account_object(name: str, secret: str, namespace: str) -> Json:
    """Returns the service account of the serving pods."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(name, namespace),
        "secrets": [{"name": secret}],
    }
