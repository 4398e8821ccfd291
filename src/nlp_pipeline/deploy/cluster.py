"""Calls of the cluster: errors of one line, retries, and what is looked for before anything is sent."""

import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from nlp_pipeline.deploy.inference_service import GROUP, InferenceService, Json
from nlp_pipeline.deploy.settings import RUNTIME, DeploySettings
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.storage import retrying

SERVICES = (GROUP, "v1beta1")
RUNTIMES = (GROUP, "v1alpha1")
POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
STOCK_RUNTIMES = {"torchserve": "kserve-torchserve", "huggingface": "kserve-huggingfaceserver"}
# What may pass by itself: no answer at all, too many requests, an overload.
TRANSIENT = (0, 429, 500, 502, 503, 504)


class ForbiddenError(UsageError):
    """This account may not do that."""


class NotThereError(UsageError):
    """The cluster or the namespace lacks something."""


def connect() -> None:
    """Finds the cluster that all calls go to: the pod's own, or that of the kubeconfig's current context.

    Raises:
        UsageError: There is neither.
    """
    from kubernetes import config

    try:
        if POD_NAMESPACE.exists():
            config.load_incluster_config()
        else:
            # Its own default is the place that the environment named when the library was imported.
            config.load_kube_config(os.environ.get("KUBECONFIG"))
        api_client.cache_clear()
    except Exception as error:  # noqa: BLE001  a kubeconfig can be wrong in any way
        reason = " ".join(str(error).split())
        raise UsageError(f"no cluster: this is no pod of one, and there is no kubeconfig of use ({reason})") from None


@cache
def api_client() -> Any:
    """Returns the `kubernetes.client.ApiClient` of all calls; each new one would read certificates and connect anew."""
    from kubernetes import client

    return client.ApiClient()


def custom_objects() -> Any:
    """Returns the API of KServe's objects."""
    from kubernetes import client

    return client.CustomObjectsApi(api_client())


def core_objects() -> Any:
    """Returns the API of Kubernetes' own objects."""
    from kubernetes import client

    return client.CoreV1Api(api_client())


def own_namespace() -> str:
    """Returns the namespace of this pod, or of the kubeconfig's current context; empty where it names none."""
    from kubernetes import config

    if POD_NAMESPACE.exists():
        return POD_NAMESPACE.read_text(encoding="utf-8").strip()
    _, current = config.list_kube_config_contexts(os.environ.get("KUBECONFIG"))
    return str(current["context"].get("namespace", ""))


def call(doing: str, function: Callable[..., Any], *values: Any, expected: tuple[int, ...] = (), **named: Any) -> Any:
    """Calls the Kubernetes API; what may pass by itself is tried again.

    Args:
        doing: What is done, for messages, as in "reading InferenceService x".
        function: A method of a client of `kubernetes`.
        *values: Its arguments.
        expected: Statuses that are an answer, not an error.
        **named: Its named arguments.

    Returns:
        What the method returned; for an expected status, the status.

    Raises:
        ForbiddenError: 403: this account may not do that.
        UsageError: The server does not take the object (400, 422, or the 403 of a webhook), or the credentials (401).
        PipelineError: Any other status, or the API can't be reached.
    """
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    def is_transient(error: BaseException) -> bool:
        if isinstance(error, ApiException):
            return error.status in TRANSIENT and error.status not in expected
        return isinstance(error, HTTPError)

    try:
        return retrying(is_transient, doing)(function)(*values, **named)
    except HTTPError as error:
        reason = " ".join(str(error).split())
        raise PipelineError(f"{doing}: the cluster can't be reached: {reason}") from None
    except ApiException as error:
        if error.status in expected:
            return error.status
        raise api_error(doing, error) from None


def api_error(doing: str, error: Any) -> PipelineError:
    """Returns the error to raise for an answer of the Kubernetes API, an `ApiException`."""
    try:
        message = str(json.loads(error.body)["message"])
    except (ValueError, TypeError, LookupError):
        message = str(error.body or error.reason)
    line = f"{doing}: {error.status}: {' '.join(message.split())}"
    if error.status == 403 and not message.startswith("admission webhook"):
        return ForbiddenError(line)
    return UsageError(line) if error.status in (400, 401, 403, 422) else PipelineError(line)


def read_service(name: str, namespace: str) -> InferenceService | None:
    """Returns an InferenceService as it is in the cluster; None where there is none."""
    doing, read = f"reading InferenceService {namespace}/{name}", custom_objects().get_namespaced_custom_object
    body = call(doing, read, *SERVICES, namespace, "inferenceservices", name, expected=(404,))
    return None if body == 404 else InferenceService(body)


def write_service(
    wanted: InferenceService, change: Callable[[InferenceService | None], Json], dry_run: bool = False
) -> InferenceService:
    """Creates or replaces an InferenceService; conflicts, which each write of its status makes, are tried again.

    Args:
        wanted: The object that is meant.
        change: Gives what is to be sent, of the live object, or of None where there is none.
        dry_run: Whether the server shall only check it.

    Returns:
        The object as the server keeps it.

    Raises:
        PipelineError: There were conflicts for two minutes.
    """
    import tenacity

    api, place = custom_objects(), (*SERVICES, wanted.namespace, "inferenceservices")
    doing = f"{'dry run of' if dry_run else 'writing'} {wanted}"
    named = {"dry_run": "All"} if dry_run else {}

    def write() -> Any:
        live = read_service(wanted.name, wanted.namespace)
        body = change(live)
        if live is None:
            return call(doing, api.create_namespaced_custom_object, *place, body, expected=(409,), **named)
        replace = api.replace_namespaced_custom_object
        return call(doing, replace, *place, wanted.name, body, expected=(404, 409), **named)

    def give_up(_: Any) -> None:
        raise PipelineError(f"{wanted} could not be changed for two minutes: something else keeps changing it")

    conflicts = tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda answer: answer in (404, 409)),
        stop=tenacity.stop_after_delay(120),
        wait=tenacity.wait_fixed(0.2),
        retry_error_callback=give_up,
    )
    return InferenceService(conflicts(write))


def delete_service(service: InferenceService) -> None:
    """Deletes an InferenceService, if it is there."""
    delete = custom_objects().delete_namespaced_custom_object
    place = (*SERVICES, service.namespace, "inferenceservices", service.name)
    call(f"deleting {service}", delete, *place, expected=(404,))


def check_kserve() -> None:
    """Makes sure that the cluster knows InferenceServices."""
    if call("looking for KServe", custom_objects().get_api_resources, *SERVICES, expected=(404,)) == 404:
        raise NotThereError(
            "KServe is not installed in this cluster (it has no serving.kserve.io/v1beta1): ask its administrator, or "
            "set deploy=false to end at the validated release"
        )


def choose_runtime(settings: DeploySettings, namespace: str) -> tuple[str, str]:
    """Returns the name of the ServingRuntime to use, and where it is installed, the end of a sentence."""
    stock = STOCK_RUNTIMES[settings.serving_runtime]
    names = [RUNTIME, stock] if settings.serving_runtime == "torchserve" else [stock]
    names = [settings.runtime_name] if settings.runtime_name else names
    api = custom_objects()
    for name in names:
        doing = f"looking for ServingRuntime {name}"
        place = (*RUNTIMES, namespace, "servingruntimes", name)
        if call(doing, api.get_namespaced_custom_object, *place, expected=(404,)) != 404:
            return name, f"which is installed in namespace {namespace}"
        if name == RUNTIME and name != settings.runtime_name:  # ours is never installed for the cluster
            continue
        # A cluster's runtimes may be hidden from an account of a namespace; KServe says later where one is missing.
        get = api.get_cluster_custom_object
        found = call(doing, get, *RUNTIMES, "clusterservingruntimes", name, expected=(403, 404))
        if found != 404:
            return name, f"which {'may be' if found == 403 else 'is'} installed for the cluster"
    raise NotThereError(
        f"ServingRuntime {names[-1]} is neither in namespace {namespace} nor in the cluster: install the project's "
        f"own, {RUNTIME}, with python pipeline_v2.py --manifests --set namespace={namespace} | kubectl apply -f -"
    )


def check_place(settings: DeploySettings, namespace: str) -> None:
    """Makes sure that the claim and the service account that the serving pods need are in the namespace."""
    core, store = core_objects(), settings.model_store
    claim, account = "" if store else settings.volume_claim, settings.serving_account
    for kind, name, read, parameter in (
        ("PersistentVolumeClaim", claim, core.read_namespaced_persistent_volume_claim, "volume_claim"),
        ("ServiceAccount", account, core.read_namespaced_service_account, "service_account"),
    ):
        if name and call(f"looking for {kind} {name}", read, name, namespace, expected=(404,)) == 404:
            more = f" --set model_store={store}" if store else ""
            raise NotThereError(
                f"{parameter}={name}: namespace {namespace} has no such {kind}, and serving pods need it there: "
                f"python pipeline_v2.py --manifests --set namespace={namespace}{more} | kubectl apply -f -"
            )
