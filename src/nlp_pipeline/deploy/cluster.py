"""Calls of the cluster: errors of one line, retries, and what is looked for before anything is sent."""

import json
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from nlp_pipeline.deploy.inference_service import GROUP, InferenceService, Json
from nlp_pipeline.deploy.settings import ONNX_RUNTIME, RUNTIME, DeploySettings
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.storage import retrying

T = TypeVar("T")
POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
# The verbs that deploying needs, by API group and resource; `--manifests` prints the Role that allows them.
ACCESS = {
    (GROUP, "inferenceservices"): ["get", "create", "update", "delete"],
    (GROUP, "servingruntimes"): ["get"],
    ("", "pods"): ["list"],
    ("", "events"): ["list"],
    ("", "persistentvolumeclaims"): ["get"],
    ("", "serviceaccounts"): ["get"],
}
# What serves, the likeliest first; the project's own are never installed for the cluster, KServe's may be.
RUNTIMES = {
    "auto": (ONNX_RUNTIME, RUNTIME, "kserve-torchserve"),
    "onnx": (ONNX_RUNTIME,),
    "torchserve": (RUNTIME, "kserve-torchserve"),
    "huggingface": ("kserve-huggingfaceserver",),
}
# Within these seconds a ready service must answer, and its newest revision get its share of the traffic.
ROUTE_SECONDS = 120


class NotThereError(UsageError):
    """The cluster or the namespace lacks something."""


def connect() -> None:
    """Finds the cluster that all calls go to: the pod's own, or that of the kubeconfig's current context."""
    from kubernetes import config

    try:
        if POD_NAMESPACE.exists():
            config.load_incluster_config()
        else:
            # Its own default is the place that the environment named when the library was imported.
            config.load_kube_config(os.environ.get("KUBECONFIG"))
    except Exception as error:  # noqa: BLE001  a kubeconfig can be wrong in any way
        raise UsageError(f"no cluster: this is no pod, and there is no kubeconfig of use ({one_line(error)})") from None
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
    """Calls a method of a client of `kubernetes`; what may pass by itself is tried again.

    Messages say what it was doing, as in "reading InferenceService x". Statuses that are expected are an answer, not an
    error: they are returned.

    Raises:
        UsageError: The server does not take the object (400, 422), the credentials (401), or either (403).
        PipelineError: Any other status that is not expected, or the cluster can't be reached.
    """
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        return retrying(doing)(function)(*values, **named)
    except HTTPError as error:
        raise PipelineError(f"{doing}: the cluster can't be reached: {one_line(error)}") from None
    except ApiException as error:
        if error.status in expected:
            return error.status
        try:
            message = str(json.loads(error.body)["message"])
        except (ValueError, TypeError, LookupError):
            message = error.body or error.reason
        kind = UsageError if error.status in (400, 401, 403, 422) else PipelineError
        raise kind(f"{doing}: {error.status}: {one_line(message)}") from None


def one_line(text: object) -> str:
    """Returns a text, or an error's message, in one line."""
    return " ".join(str(text).split())


def poll(look: Callable[[], T | None], seconds: float, every: float = 2) -> T | None:
    """Looks again and again until there is something to return; returns None when the time is over."""
    end = time.monotonic() + seconds
    while (result := look()) is None and time.monotonic() < end:
        time.sleep(every)
    return result


def _call_services(doing: str, verb: str, namespace: str, *values: Any, **named: Any) -> Any:
    function = getattr(api("CustomObjectsApi"), f"{verb}_namespaced_custom_object")
    return call(doing, function, GROUP, "v1beta1", namespace, "inferenceservices", *values, **named)


def read_service(name: str, namespace: str) -> InferenceService | None:
    """Returns an InferenceService as it is in the cluster; None where there is none."""
    body = _call_services(f"reading InferenceService {namespace}/{name}", "get", namespace, name, expected=(404,))
    return None if body == 404 else InferenceService(body)


def write_service(
    desired: InferenceService, change: Callable[[InferenceService | None], Json], **options: str
) -> InferenceService:
    """Creates or replaces an InferenceService, and returns it as the server keeps it.

    Conflicts, which each write of its status makes, are tried again: `change` gives what is to be sent, of the live
    object, or of None where there is none. The option `dry_run="All"` lets the server only check it.
    """
    doing = f"{'dry run of' if options else 'writing'} {desired}"

    def write() -> Any:
        live = read_service(desired.name, desired.namespace)
        verb, place = ("create", ()) if live is None else ("replace", (desired.name,))
        body = _call_services(doing, verb, desired.namespace, *place, change(live), expected=(404, 409), **options)
        return None if body in (404, 409) else body

    body = poll(write, 120, 0.2)
    if body is None:
        raise PipelineError(f"{desired}: something else kept changing it for two minutes")
    return InferenceService(body)


def delete_service(service: InferenceService) -> None:
    """Deletes an InferenceService, if it is there."""
    _call_services(f"deleting {service}", "delete", service.namespace, service.name, expected=(404,))


def check_kserve() -> None:
    """Makes sure that the cluster knows InferenceServices."""
    ask = api("CustomObjectsApi").get_api_resources
    if call("looking for KServe", ask, GROUP, "v1beta1", expected=(404,)) == 404:
        raise NotThereError("KServe is not installed in this cluster: install it, or set deploy=false")


def choose_runtime(settings: DeploySettings, namespace: str) -> str:
    """Returns the name of the ServingRuntime to use."""
    custom, kind = api("CustomObjectsApi"), (GROUP, "v1alpha1")
    for name in (settings.runtime_name,) if settings.runtime_name else RUNTIMES[settings.serving_runtime]:
        doing, read = f"looking for ServingRuntime {name}", custom.get_namespaced_custom_object
        if call(doing, read, *kind, namespace, "servingruntimes", name, expected=(404,)) != 404:
            return name
    # A cluster's runtimes may be hidden from an account of a namespace; KServe says later where one is missing.
    read = custom.get_cluster_custom_object
    if call(doing, read, *kind, "clusterservingruntimes", name, expected=(403, 404)) == 404:
        raise NotThereError(
            f"namespace {namespace} has no ServingRuntime {name}, nor has the cluster: {apply_manifests(namespace)} "
            f"makes {ONNX_RUNTIME}"
        )
    return name


def check_place(settings: DeploySettings, namespace: str) -> None:
    """Makes sure that the claim and the service account that the serving pods need are in the namespace."""
    core, store = api("CoreV1Api"), settings.model_store
    claim, account = "" if store else settings.volume_claim, settings.serving_account
    for kind, name, read, parameter in (
        ("PersistentVolumeClaim", claim, core.read_namespaced_persistent_volume_claim, "volume_claim"),
        ("ServiceAccount", account, core.read_namespaced_service_account, "service_account"),
    ):
        if name and call(f"looking for {kind} {name}", read, name, namespace, expected=(404,)) == 404:
            raise NotThereError(
                f"{parameter}={name}: namespace {namespace} has no such {kind}: "
                + apply_manifests(namespace, f" --set model_store={store}" if store else "")
            )


def may(**attributes: str) -> bool:
    """Says whether this account may do something, by namespace, verb, resource, and its group or subresource.

    Where even asking is forbidden, it is taken to be allowed: the calls themselves will say.
    """
    ask = api("AuthorizationV1Api").create_self_subject_access_review
    answer = call("asking what is allowed", ask, {"spec": {"resourceAttributes": attributes}}, expected=(403,))
    return bool(answer == 403 or answer.status.allowed)


def check_access(namespace: str) -> None:
    """Raises a UsageError where access is missing, with the command that allows it to this account."""
    asked = [(verb, resource, group) for (group, resource), verbs in ACCESS.items() for verb in verbs]
    missing = [
        f"{verb} {resource}"
        for verb, resource, group in asked
        if not may(namespace=namespace, verb=verb, resource=resource, group=group)
    ]
    if missing:
        ask = api("AuthenticationV1Api").create_self_subject_review
        # Kubernetes before 1.28 does not know the question, and it may be forbidden.
        review = call("asking who asks", ask, {}, expected=(403, 404))
        user = "" if review in (403, 404) else review.status.user_info.username
        account = user.removeprefix("system:serviceaccount:").replace(":", "/")
        # A person's account tells nothing of the steps', which is Kubeflow's own by default.
        remedy = apply_manifests(namespace, f" --steps-account {account}" if "/" in account else "")
        raise UsageError(f"namespace {namespace}: may not {', '.join(missing)}; to allow it: {remedy}")


def apply_manifests(namespace: str, more: str = "") -> str:
    """Returns the command that makes what a namespace needs."""
    return f"python pipeline_v2.py --manifests --set namespace={namespace}{more} | kubectl apply -f -"
