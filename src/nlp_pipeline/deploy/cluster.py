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
    except Exception as error:  # noqa: BLE001  a kubeconfig can be wrong in any way
        reason = one_line(error)
        raise UsageError(f"no cluster: this is no pod of one, and there is no kubeconfig of use ({reason})") from None
    api.cache_clear()


@cache
def api(kind: str) -> Any:
    """Returns a client of `kubernetes`, as CoreV1Api is one, for all calls: a new one would connect anew."""
    from kubernetes import client

    return getattr(client, kind)()


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
        status = error.status if isinstance(error, ApiException) else 0
        return isinstance(error, (ApiException, HTTPError)) and status in TRANSIENT and status not in expected

    try:
        return retrying(is_transient, doing)(function)(*values, **named)
    except HTTPError as error:
        raise PipelineError(f"{doing}: the cluster can't be reached: {one_line(error)}") from None
    except ApiException as error:
        if error.status in expected:
            return error.status
        try:
            message = str(json.loads(error.body)["message"])
        except (ValueError, TypeError, LookupError):
            message = error.body or error.reason
        # A webhook's refusal is a 403 too, which has nothing to do with what the account may do.
        forbidden = error.status == 403 and not message.startswith("admission webhook")
        usage = UsageError if error.status in (400, 401, 403, 422) else PipelineError
        kind = ForbiddenError if forbidden else usage
        raise kind(f"{doing}: {error.status}: {one_line(message)}") from None


def one_line(text: object) -> str:
    """Returns a text, or an error's message, in one line."""
    return " ".join(str(text).split())


def call_services(doing: str, verb: str, namespace: str, *values: Any, **named: Any) -> Any:
    """Calls the API of InferenceServices: get, create, replace or delete; see `call`."""
    function = getattr(api("CustomObjectsApi"), f"{verb}_namespaced_custom_object")
    return call(doing, function, GROUP, "v1beta1", namespace, "inferenceservices", *values, **named)


def read_service(name: str, namespace: str) -> InferenceService | None:
    """Returns an InferenceService as it is in the cluster; None where there is none."""
    body = call_services(f"reading InferenceService {namespace}/{name}", "get", namespace, name, expected=(404,))
    return None if body == 404 else InferenceService(body)


def write_service(
    wanted: InferenceService, change: Callable[[InferenceService | None], Json], **options: str
) -> InferenceService:
    """Creates or replaces an InferenceService; conflicts, which each write of its status makes, are tried again.

    Args:
        wanted: The object that is meant.
        change: Gives what is to be sent, of the live object, or of None where there is none.
        **options: Of the API; `dry_run="All"` lets the server only check it.

    Returns:
        The object as the server keeps it.

    Raises:
        PipelineError: There were conflicts for two minutes.
    """
    import tenacity

    doing = f"{'dry run of' if options else 'writing'} {wanted}"

    def write() -> Any:
        live = read_service(wanted.name, wanted.namespace)
        verb, place = ("create", ()) if live is None else ("replace", (wanted.name,))
        return call_services(doing, verb, wanted.namespace, *place, change(live), expected=(404, 409), **options)

    conflicts = tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda answer: answer in (404, 409)),
        stop=tenacity.stop_after_delay(120),
        wait=tenacity.wait_fixed(0.2),
        retry_error_callback=lambda _: None,
    )
    body = conflicts(write)
    if body is None:
        raise PipelineError(f"{wanted} could not be changed for two minutes: something else keeps changing it")
    return InferenceService(body)


def delete_service(service: InferenceService) -> None:
    """Deletes an InferenceService, if it is there."""
    call_services(f"deleting {service}", "delete", service.namespace, service.name, expected=(404,))


def check_kserve() -> None:
    """Makes sure that the cluster knows InferenceServices."""
    known = api("CustomObjectsApi").get_api_resources
    if call("looking for KServe", known, GROUP, "v1beta1", expected=(404,)) == 404:
        raise NotThereError(
            "KServe is not installed in this cluster (it has no serving.kserve.io/v1beta1): ask its administrator, or "
            "set deploy=false to end at the validated release"
        )


def choose_runtime(settings: DeploySettings, namespace: str) -> tuple[str, str]:
    """Returns the name of the ServingRuntime to use, and where it is installed, the end of a sentence."""
    names = [STOCK_RUNTIMES[settings.serving_runtime]]
    if settings.runtime_name:
        names = [settings.runtime_name]
    elif settings.serving_runtime == "torchserve":
        names.insert(0, RUNTIME)
    custom, kind = api("CustomObjectsApi"), (GROUP, "v1alpha1")
    for name in names:
        doing = f"looking for ServingRuntime {name}"
        own = custom.get_namespaced_custom_object, *kind, namespace, "servingruntimes", name
        if call(doing, *own, expected=(404,)) != 404:
            return name, f"which is installed in namespace {namespace}"
        # A cluster's runtimes may be hidden from an account of a namespace; KServe says later where one is missing.
        shared = custom.get_cluster_custom_object, *kind, "clusterservingruntimes", name
        found = call(doing, *shared, expected=(403, 404))
        if found != 404 and name != RUNTIME:  # ours is never installed for the cluster
            return name, f"which {'may be' if found == 403 else 'is'} installed for the cluster"
    raise NotThereError(
        f"ServingRuntime {names[-1]} is neither in namespace {namespace} nor in the cluster: install the project's "
        f"own, {RUNTIME}, with {apply_manifests(namespace)}"
    )


def check_place(settings: DeploySettings, namespace: str) -> None:
    """Makes sure that the claim and the service account that the serving pods need are in the namespace."""
    read, store = api("CoreV1Api"), settings.model_store
    claim, account = "" if store else settings.volume_claim, settings.serving_account
    for kind, name, function, parameter in (
        ("PersistentVolumeClaim", claim, read.read_namespaced_persistent_volume_claim, "volume_claim"),
        ("ServiceAccount", account, read.read_namespaced_service_account, "service_account"),
    ):
        if name and call(f"looking for {kind} {name}", function, name, namespace, expected=(404,)) == 404:
            raise NotThereError(
                f"{parameter}={name}: namespace {namespace} has no such {kind}, and serving pods need it there: "
                + apply_manifests(namespace, f" --set model_store={store}" if store else "")
            )


def apply_manifests(namespace: str, more: str = "") -> str:
    """Returns the command that makes what a namespace needs."""
    return f"python pipeline_v2.py --manifests --set namespace={namespace}{more} | kubectl apply -f -"
