"""The step's talk with the cluster: each call's errors in one line, and what is refused before anything is sent.

Hermetic helpers, inlined into the step as `additional_funcs`.
"""

from typing import Any, Callable

from nlp_pipeline.components.deploy_model_access import needed_access, role_objects


def connect() -> Any:
    """Returns a `kserve.KServeClient`: of the pod's own cluster, or of the kubeconfig's current context.

    Raises:
        ValueError: There is neither.
    """
    import os

    from kserve import KServeClient
    from kserve.utils import utils
    from kubernetes.config.config_exception import ConfigException

    try:
        # The SDK takes the place of the kubeconfig from the environment when it is imported, not when it is used.
        return KServeClient(config_file=None if utils.is_running_in_k8s() else os.environ.get("KUBECONFIG"))
    except (ConfigException, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"no cluster: this is no pod of one, and there is no kubeconfig of use ({reason})") from None


def own_namespace() -> str:
    """Returns the namespace of this pod, or of the kubeconfig's current context; empty where it names none."""
    import os

    from kubernetes import config

    path = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    _, current = config.list_kube_config_contexts(os.environ.get("KUBECONFIG"))
    return str(current["context"].get("namespace", ""))


def call(doing: str, function: Callable[..., Any], *values: Any, expected: tuple[int, ...] = (), **named: Any) -> Any:
    """Calls the Kubernetes API; what may pass by itself (overload, a broken connection) is tried again.

    Args:
        doing: What is done, for messages, as in "reading InferenceService x".
        function: A method of `KServeClient` or of a client of `kubernetes`.
        *values: Its arguments.
        expected: Statuses that are an answer, not an error.
        **named: Its named arguments.

    Returns:
        What the method returned; for an expected status, the status.

    Raises:
        PermissionError: 403: this account may not do that.
        ValueError: The server does not take the object (400, 422, or the 403 of a webhook), or the credentials (401).
        RuntimeError: Any other status, or the API can't be reached.
    """
    import json
    import time

    import urllib3
    from kubernetes.client.exceptions import ApiException

    for wait in (0.5, 1, 2, 4, None):
        try:
            return function(*values, **named)
        except (RuntimeError, ApiException, urllib3.exceptions.HTTPError) as error:
            # The kserve SDK wraps what the kubernetes client raises.
            cause = error if isinstance(error, ApiException) else error.__context__
            if not isinstance(cause, ApiException):
                if wait is None or not isinstance(error, urllib3.exceptions.HTTPError):
                    raise RuntimeError(
                        f"{doing}: the cluster can't be reached: {' '.join(str(error).split())}"
                    ) from None
            elif cause.status in expected:
                return cause.status
            elif wait is None or cause.status not in (0, 429, 500, 502, 503, 504):
                try:
                    message = json.loads(cause.body)["message"]
                except (ValueError, TypeError, LookupError):
                    message = cause.body or cause.reason
                kinds = {400: ValueError, 401: ValueError, 403: PermissionError, 422: ValueError}
                kind = ValueError if str(message).startswith("admission webhook") else kinds.get(cause.status)
                line = f"{doing}: {cause.status}: {' '.join(str(message).split())}"
                raise (kind or RuntimeError)(line) from None
            time.sleep(wait)
    raise AssertionError("unreachable")


def read_service(client: Any, name: str, namespace: str) -> dict[str, Any] | None:
    """Returns an InferenceService as it is in the cluster; None where there is none."""
    found = call(f"reading InferenceService {namespace}/{name}", client.get, name, namespace, expected=(404,))
    return None if found == 404 else dict(found)


def check_kserve() -> None:
    """Makes sure that the cluster knows InferenceServices.

    Raises:
        LookupError: It does not.
    """
    from kubernetes import client

    found = call(
        "looking for KServe",
        client.CustomObjectsApi().get_api_resources,
        "serving.kserve.io",
        "v1beta1",
        expected=(404,),
    )
    if found == 404:
        raise LookupError(
            "KServe is not installed in this cluster (it has no serving.kserve.io/v1beta1): ask its administrator, or "
            "set deploy=false to end at the validated release"
        )


def own_account() -> tuple[str, str]:
    """Returns the namespace and the name of the service account that asks, Kubeflow's own where it can't be told."""
    from kubernetes import client
    from kubernetes.client.exceptions import ApiException

    try:
        review = client.AuthenticationV1Api().create_self_subject_review(client.V1SelfSubjectReview())
        kind, _, account = str(review.status.user_info.username).partition("serviceaccount:")
        if kind == "system:" and ":" in account:
            namespace, _, name = account.partition(":")
            return namespace, name
    except ApiException:  # Kubernetes before 1.28, or not allowed
        pass
    return own_namespace(), "default-editor"


def refuse_access(namespace: str, problem: str) -> PermissionError:
    """Prints the Role and the RoleBinding that are missing, and returns the error to raise.

    Args:
        namespace: Where models are served.
        problem: What is not allowed.
    """
    import yaml

    account_namespace, account = own_account()
    print("apply this with kubectl, as someone who may:\n", flush=True)
    print(yaml.safe_dump_all(role_objects(namespace, account, account_namespace), sort_keys=False), flush=True)
    return PermissionError(f"{problem}; the Role and RoleBinding that allow it stand above: kubectl apply -f -")


def check_access(namespace: str) -> None:
    """Makes sure that this account may do in a namespace what deploying needs.

    Raises:
        PermissionError: It may not; the Role and RoleBinding that are missing have been printed.
    """
    from kubernetes import client

    missing = []
    api = client.AuthorizationV1Api()
    for group, resource, verbs in needed_access():
        for verb in verbs:
            attributes = client.V1ResourceAttributes(namespace=namespace, group=group, resource=resource, verb=verb)
            review = client.V1SelfSubjectAccessReview(
                spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
            )
            answer = call("asking what is allowed", api.create_self_subject_access_review, review, expected=(403,))
            # Where even asking is forbidden, the calls themselves will tell.
            if answer != 403 and not answer.status.allowed:
                missing.append(f"{verb} {resource}")
    if missing:
        raise refuse_access(namespace, f"namespace {namespace}: may not {', '.join(missing)}")


def choose_runtime(client: Any, settings: dict[str, Any]) -> str:
    """Returns the name of the ServingRuntime to use, and prints why.

    Args:
        client: A `KServeClient`.
        settings: The step's parameters.

    Raises:
        LookupError: It is not installed.
    """
    ours, group = "nlp-pipeline-torchserve", ("serving.kserve.io", "v1alpha1")
    kserves = {"torchserve": "kserve-torchserve", "huggingface": "kserve-huggingfaceserver"}[
        settings["serving_runtime"]
    ]
    if settings["runtime_name"]:
        wanted = [settings["runtime_name"]]
    else:
        wanted = [ours, kserves] if settings["serving_runtime"] == "torchserve" else [kserves]
    api = client.api_instance
    for name in wanted:
        doing = f"looking for ServingRuntime {name}"
        space = (*group, settings["namespace"], "servingruntimes", name)
        if call(doing, api.get_namespaced_custom_object, *space, expected=(404,)) != 404:
            print(f"runtime {name}, which is installed in namespace {settings['namespace']}", flush=True)
            return str(name)
        # A cluster's runtimes may be hidden from an account of a namespace; KServe says later where one is missing.
        found = call(doing, api.get_cluster_custom_object, *group, "clusterservingruntimes", name, expected=(403, 404))
        if found == 403 and name == ours:  # which is never installed for the cluster
            continue
        if found != 404:
            where = "which may be installed for the cluster" if found == 403 else "which is installed for the cluster"
            print(f"runtime {name}, {where}", flush=True)
            return str(name)
    raise LookupError(
        f"ServingRuntime {wanted[-1]} is neither in namespace {settings['namespace']} nor in the cluster: install the "
        f"project's own, {ours}, with python pipeline_v2.py --manifests --set namespace={settings['namespace']} | "
        "kubectl apply -f -"
    )


def check_place(settings: dict[str, Any]) -> None:
    """Makes sure that the claim and the service account that the serving pods need are in the namespace.

    Args:
        settings: The step's parameters.

    Raises:
        LookupError: One is not.
    """
    from kubernetes import client

    core, namespace = client.CoreV1Api(), settings["namespace"]
    checks = []
    if not settings["model_store"]:
        read_claim = core.read_namespaced_persistent_volume_claim
        checks.append(("PersistentVolumeClaim", settings["volume_claim"], read_claim, "volume_claim"))
    if settings["service_account"]:
        account = settings["service_account"]
        checks.append(("ServiceAccount", account, core.read_namespaced_service_account, "service_account"))
    store = f" --set model_store={settings['model_store']}" if settings["model_store"] else ""
    for kind, name, read, parameter in checks:
        if call(f"looking for {kind} {name}", read, name, namespace, expected=(404,)) == 404:
            raise LookupError(
                f"{parameter}={name}: namespace {namespace} has no such {kind}, and serving pods need it there: "
                f"python pipeline_v2.py --manifests --set namespace={namespace}{store} | kubectl apply -f -"
            )


def describe(service: dict[str, Any] | None, name: str, namespace: str) -> str:
    """Returns the conditions of an InferenceService, the states of its pods and the newest events, a line each."""
    from kubernetes import client

    core = client.CoreV1Api()
    lines = []
    for one in (service or {}).get("status", {}).get("conditions") or []:
        why = " ".join(f"{one.get('reason', '')} {one.get('message', '')}".split())
        lines.append(f"  condition {one['type']}: {one['status']} {why}".rstrip())
    selector = f"serving.kserve.io/inferenceservice={name}"
    pods = call("listing pods", core.list_namespaced_pod, namespace, label_selector=selector)
    for pod in pods.items:
        states = []
        statuses = [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]
        for container in statuses:
            state = container.state.waiting or container.state.terminated
            if state:
                states.append(f"{container.name}: {state.reason or ''} {state.message or ''}".strip())
        lines.append(f"  pod {pod.metadata.name}: {pod.status.phase} {'; '.join(states)}".rstrip())
    events = call("listing events", core.list_namespaced_event, namespace, expected=(403,))
    found = [] if events == 403 else events.items
    of_service = [one for one in found if (one.involved_object.name or "").startswith(name)]
    for event in sorted(of_service, key=lambda one: str(one.last_timestamp or one.event_time))[-5:]:
        lines.append(f"  event {event.involved_object.name}: {event.reason} {' '.join((event.message or '').split())}")
    return "\n".join(lines)
