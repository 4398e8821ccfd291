"""A deployment's way through the cluster: send the object, wait for its own pods, ask them, give them the traffic.

Hermetic helpers, inlined into the step as `additional_funcs`. `settings` are the step's parameters, and besides:
`poll_seconds` between two looks, `route_seconds` within which a ready service must answer, `labels` in the order of
their ids, `headers` to sign in with.
"""

from typing import Any

from nlp_pipeline.components.agreement import compare_answers, require_agreement
from nlp_pipeline.components.deploy_model_cluster import call, describe, read_service
from nlp_pipeline.components.deploy_model_object import mark_of, mode_of, successor
from nlp_pipeline.serving.client import ask


def typed(body: dict[str, Any]) -> Any:
    """Returns an InferenceService as the kserve SDK's model, which its client takes."""
    import kserve
    from kubernetes import client

    metadata = body["metadata"]
    return kserve.V1beta1InferenceService(
        api_version=body["apiVersion"],
        kind=body["kind"],
        metadata=client.V1ObjectMeta(
            name=metadata["name"],
            namespace=metadata["namespace"],
            labels=metadata.get("labels"),
            annotations=metadata.get("annotations"),
            resource_version=metadata.get("resourceVersion"),
            finalizers=metadata.get("finalizers"),
            owner_references=metadata.get("ownerReferences"),
        ),
        spec=body["spec"],
    )


def title(service: dict[str, Any]) -> str:
    """Returns how messages name an InferenceService."""
    return f"InferenceService {service['metadata']['namespace']}/{service['metadata']['name']}"


def rehearse(client: Any, wanted: dict[str, Any], formers: Any, poll_seconds: float) -> dict[str, Any]:
    """Lets the server check what `send` would send (a dry run), and returns what it would make of it.

    Raises:
        ValueError: The server does not take it.
    """
    api, metadata = client.api_instance, wanted["metadata"]
    place = ["serving.kserve.io", "v1beta1", metadata["namespace"], "inferenceservices"]
    doing, made = f"dry run of {title(wanted)}", None
    while made in (None, 404, 409):
        live = read_service(client, metadata["name"], metadata["namespace"])
        body = successor(live, wanted, formers(live))
        named: dict[str, Any] = {"dry_run": "All", "expected": (404, 409)}
        if live is None:
            made = call(doing, api.create_namespaced_custom_object, *place, body, dry_run="All", expected=(409,))
        else:
            made = call(doing, api.replace_namespaced_custom_object, *place, metadata["name"], body, **named)
    return dict(made or {})


def send(client: Any, wanted: dict[str, Any], formers: Any, poll_seconds: float) -> None:
    """Creates or replaces an InferenceService; conflicts, which each write of its status makes, are tried again.

    Args:
        client: A `KServeClient`.
        wanted: The object.
        formers: Gives what it can go back to, of the object that is live.
        poll_seconds: Seconds between two tries.

    Raises:
        RuntimeError: There were conflicts for two minutes.
    """
    import time

    name, namespace = wanted["metadata"]["name"], wanted["metadata"]["namespace"]
    until = time.monotonic() + 120
    while time.monotonic() < until:
        live = read_service(client, name, namespace)
        body = typed(successor(live, wanted, formers(live)))
        if live is None:
            answer = call(f"creating {title(wanted)}", client.create, body, namespace, expected=(409,))
        else:
            answer = call(f"replacing {title(wanted)}", client.replace, name, body, namespace, expected=(404, 409))
        if answer not in (404, 409):
            return
        time.sleep(min(poll_seconds, 0.5))
    raise RuntimeError(f"{title(wanted)} could not be changed for two minutes: something else keeps changing it")


def read_own(client: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    """Returns a live InferenceService that must still be the one that was sent.

    Raises:
        RuntimeError: It was deleted, or another deployment has taken its place.
    """
    service = read_service(client, wanted["metadata"]["name"], wanted["metadata"]["namespace"])
    if service is None:
        raise RuntimeError(f"{title(wanted)} has been deleted meanwhile")
    if mark_of(service, "applied") != mark_of(wanted, "applied"):
        raise RuntimeError(f"another deployment has taken the place of this one in {title(wanted)} meanwhile")
    return service


def set_share(client: Any, wanted: dict[str, Any], percent: int | None, poll_seconds: float) -> None:
    """Gives the newest revision a share of the traffic.

    Args:
        client: A `KServeClient`.
        wanted: The object that was sent.
        percent: The share; None for all of it, which also ends the deployment.
        poll_seconds: Seconds between two tries.

    Raises:
        RuntimeError: It is not the live one any more, or there were conflicts for two minutes.
    """
    import time

    until = time.monotonic() + 120
    while time.monotonic() < until:
        live = read_own(client, wanted)
        if percent is None:
            live["spec"]["predictor"].pop("canaryTrafficPercent", None)
        else:
            live["spec"]["predictor"]["canaryTrafficPercent"] = percent
        metadata, doing = live["metadata"], f"giving {title(wanted)} its traffic"
        answer = call(doing, client.replace, metadata["name"], typed(live), metadata["namespace"], expected=(409,))
        if answer != 409:
            return
        time.sleep(min(poll_seconds, 0.5))
    raise RuntimeError(f"{title(wanted)} could not be changed for two minutes: something else keeps changing it")


def load_failure(service: dict[str, Any]) -> str:
    """Returns the server's reason and message of a model that can't be loaded; empty where KServe tells of none."""
    model = service.get("status", {}).get("modelStatus", {})
    if model.get("transitionStatus") not in ("BlockedByFailedLoad", "InvalidSpec"):
        return ""
    info = model.get("lastFailureInfo", {})
    said = f"{info.get('reason', model['transitionStatus'])}: {info.get('message', 'no message')}"
    code = f" (exit code {info['exitCode']})" if info.get("exitCode") else ""
    return " ".join(f"{said}{code}".split())


def pod_failure(service: dict[str, Any]) -> tuple[str, int]:
    """Returns why a pod of this very object can't run, and for how many more looks it is to be borne.

    KServe tells of it only where the pod is the first of its name: not, on Standard, while former pods serve.
    """
    # A registry may be slow to answer; what is wrong in a specification stays wrong.
    patience = {"CrashLoopBackOff": 0, "InvalidImageName": 0, "CreateContainerConfigError": 8}
    patience |= {"ImagePullBackOff": 30, "ErrImagePull": 30}
    for pod in list_pods(service):
        if pod_mark(pod) != mark_of(service, "applied"):
            continue
        for one in [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]:
            waiting, ended = one.state.waiting, one.last_state and one.last_state.terminated
            if not waiting or waiting.reason not in patience:
                continue
            if waiting.reason == "CrashLoopBackOff" and one.restart_count < 3:
                continue
            message = (ended.message if ended else "") or waiting.message or ""
            told = f"pod {pod.metadata.name}, {one.name}: {waiting.reason}: {' '.join(message.split())}"
            return told, patience[waiting.reason]
    return "", 0


def list_pods(service: dict[str, Any]) -> list[Any]:
    """Returns the pods of an InferenceService's name that are not on their way out."""
    from kubernetes import client

    metadata = service["metadata"]
    selector = f"serving.kserve.io/inferenceservice={metadata['name']}"
    read = client.CoreV1Api().list_namespaced_pod
    found = call("listing pods", read, metadata["namespace"], label_selector=selector)
    return [pod for pod in found.items if not pod.metadata.deletion_timestamp]


def pod_mark(pod: Any) -> str:
    """Returns which object a pod was made for: KServe copies its annotations to the pods."""
    return str((pod.metadata.annotations or {}).get("nlp-pipeline/applied", ""))


def own_pods(service: dict[str, Any]) -> tuple[list[bool], list[bool]]:
    """Returns, of the pods of this very object and of the others of its name, whether each is ready."""
    own: list[bool] = []
    others: list[bool] = []
    for pod in list_pods(service):
        ready = any(one.type == "Ready" and one.status == "True" for one in pod.status.conditions or [])
        (own if pod_mark(pod) == mark_of(service, "applied") else others).append(ready)
    return own, others


def progress_of(service: dict[str, Any]) -> tuple[bool, bool]:
    """Tells how far KServe is with the newest object: whether its status is about it, and whether it is ready.

    Neither observedGeneration nor the condition Ready can tell. The first is copied from the child (the Knative Service
    or the Deployment, which counts by itself: inference_service_status.go, PropagateStatus and PropagateRawStatus); the
    second stays True while the former pods serve. So on Knative the newest revision must be another than the one noted
    before, ready, and have its tag; on Standard the ready pods must be this object's, all of them.
    """
    status = service.get("status", {})
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions") or [])
    if mode_of(service) == "Standard":
        own, others = own_pods(service)
        return bool(own), ready and any(own) and not any(others)
    predictor = status.get("components", {}).get("predictor", {})
    newest = predictor.get("latestCreatedRevision", "")
    is_new = newest not in ("", mark_of(service, "replaces"))
    tagged = [one for one in predictor.get("traffic", []) if one.get("tag") == "latest"]
    ready = ready and predictor.get("latestReadyRevision") == newest
    return is_new, is_new and ready and any(one.get("revisionName") == newest for one in tagged)


def wait_until_ready(client: Any, wanted: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Waits until the pods of an object that was sent are ready.

    Args:
        client: A `KServeClient`.
        wanted: The object that was sent.
        settings: See the module.

    Returns:
        The live object.

    Raises:
        RuntimeError: Its model can't be loaded; or it is not the live one any more.
        TimeoutError: The time is over; conditions, pods and events have been printed.
    """
    import time

    until = time.monotonic() + settings["deploy_timeout"]
    failures = 0
    while True:
        service = read_own(client, wanted)
        is_new, is_ready = progress_of(service)
        if is_ready:
            return service
        # Right after a change, the status may still be that of the former model, its failure too.
        failure, patience = load_failure(service), 0 if is_new else 8
        if not failure:
            failure, patience = pod_failure(service)
        failures = failures + 1 if failure else 0
        if failures > patience:
            print(describe(service, wanted["metadata"]["name"], wanted["metadata"]["namespace"]), flush=True)
            raise RuntimeError(f"the model can't be loaded: {failure}")
        if time.monotonic() > until:
            print(describe(service, wanted["metadata"]["name"], wanted["metadata"]["namespace"]), flush=True)
            raise TimeoutError(
                f"{title(wanted)} was not ready after {settings['deploy_timeout']} s; its conditions, pods and newest "
                "events stand above"
            )
        time.sleep(settings["poll_seconds"])


def endpoint_of(service: dict[str, Any], newest: bool, gateway: str) -> tuple[str, dict[str, str]]:
    """Returns where a live InferenceService is asked.

    Args:
        service: The live object.
        newest: Whether the newest revision is meant, whatever its share of the traffic.
        gateway: Address of an ingress gateway that routes by Host header; empty to ask the service itself, by its name
            in the cluster from a pod, by its outer name from elsewhere.

    Returns:
        The address of its `:predict`, and the headers that it needs.
    """
    import os
    from urllib.parse import urlsplit

    status, name = service["status"], service["metadata"]["name"]
    predictor = status.get("components", {}).get("predictor", {})
    inside = not gateway and os.path.isdir("/var/run/secrets/kubernetes.io")
    tags = [one["url"] for one in predictor.get("traffic", []) if one.get("tag") == "latest" and one.get("url")]
    if newest and tags and mode_of(service) == "Knative":
        # Knative makes a service for each tag, named <tag>-<service>, in the cluster too.
        url = predictor["address"]["url"].replace("://", "://latest-", 1) if inside else tags[0]
    else:
        url = status.get("address", {}).get("url") if inside else None
        url = url or status.get("url") or predictor["url"]
    headers = {}
    if gateway:
        url, headers = gateway, {"Host": urlsplit(url).netloc}
    return f"{url.rstrip('/')}/v1/models/{name}:predict", headers


def ask_rows(service: dict[str, Any], newest: bool, settings: dict[str, Any], texts: list[str]) -> dict[str, Any]:
    """Asks a live InferenceService for texts, one by one; while its route comes up, each is asked again.

    Args:
        service: The live object.
        newest: Whether the newest revision is meant.
        settings: See the module.
        texts: The texts.

    Returns:
        `labels` in the texts' order, and `p50_ms`, the median of the requests' milliseconds.

    Raises:
        ConnectionError: There was no way to it for `route_seconds`.
        RuntimeError: It answers with something else than predictions.
    """
    import time

    import httpx

    url, headers = endpoint_of(service, newest, settings["gateway"])
    until = time.monotonic() + settings["route_seconds"]
    labels: list[str] = []
    seconds: list[float] = []
    with httpx.Client(timeout=60, headers={**headers, **settings["headers"]}) as client:
        while len(labels) < len(texts):
            began = time.perf_counter()
            try:
                labels.append(str(ask(client, url, [texts[len(labels)]], settings["labels"])[0]["label"]))
                seconds.append(time.perf_counter() - began)
            except ConnectionError as error:
                if time.monotonic() > until:
                    host = f" (Host: {headers['Host']})" if headers else ""
                    raise ConnectionError(f"{error}{host}, though it is ready: no way to the model") from None
                time.sleep(min(settings["poll_seconds"], 1))
    return {"labels": labels, "p50_ms": 1000 * sorted(seconds)[len(seconds) // 2]}


def check_answers(
    service: dict[str, Any], newest: bool, settings: dict[str, Any], rows: dict[str, list[str]]
) -> dict[str, float]:
    """Asks a live InferenceService for labelled rows and holds its answers against the offline model's.

    Args:
        service: The live object.
        newest: Whether the newest revision is meant.
        settings: See the module.
        rows: `text`, and `label` and `predicted` of each; without these, any of the model's labels is right.

    Returns:
        `p50_ms` and, where rows are labelled, `rows`, `agreement`, `accuracy`, `offline_accuracy`.

    Raises:
        ValueError: It does not say what the offline model says.
        ConnectionError, RuntimeError: See `ask_rows`.
    """
    answers = ask_rows(service, newest, settings, rows["text"])
    if "predicted" not in rows:
        strange = sorted(set(answers["labels"]) - set(settings["labels"]))
        if strange and settings["labels"]:
            raise ValueError(f"it answers with {strange[0]!r}, and the model's labels are {settings['labels']}")
        return {"p50_ms": answers["p50_ms"]}
    compared = compare_answers(answers["labels"], rows["predicted"], rows["label"])
    print(", ".join(f"{key} {value:.4g}" for key, value in {**compared, "p50_ms": answers["p50_ms"]}.items()))
    require_agreement(compared, settings["min_agreement"], settings["max_accuracy_drop"])
    return {**compared, "p50_ms": answers["p50_ms"]}


def wait_for_share(client: Any, wanted: dict[str, Any], percent: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Waits until the newest revision has its share of the traffic, and returns the live object.

    Raises:
        TimeoutError: It did not get it in time.
    """
    import time

    until = time.monotonic() + settings["route_seconds"]
    while True:
        service = read_own(client, wanted)
        predictor = service.get("status", {}).get("components", {}).get("predictor", {})
        newest = predictor.get("latestCreatedRevision")
        shares = [one.get("percent", 0) for one in predictor.get("traffic", []) if one.get("revisionName") == newest]
        if mode_of(service) == "Standard" or sum(shares) == percent:
            return service
        if time.monotonic() > until:
            raise TimeoutError(
                f"{title(wanted)}: its newest revision has {sum(shares)}% of the traffic, not {percent}%"
            )
        time.sleep(settings["poll_seconds"])


def watch_canary(client: Any, wanted: dict[str, Any], settings: dict[str, Any], texts: list[str]) -> None:
    """Gives the newest revision its canary share for its time, and asks it and the whole service all along.

    Raises:
        RuntimeError, ConnectionError, TimeoutError: It failed in that time.
    """
    import time

    percent, minutes = settings["canary_percent"], settings["canary_minutes"]
    set_share(client, wanted, percent, settings["poll_seconds"])
    service = wait_for_share(client, wanted, percent, settings)
    print(f"{percent}% of the traffic go to it for {minutes:g} minutes", flush=True)
    until = time.monotonic() + 60 * minutes
    asked = 0
    while time.monotonic() < until:
        for newest in (True, False):
            ask_rows(service, newest, settings, [texts[asked % len(texts)]])
        asked += 1
        time.sleep(min(max(0.0, until - time.monotonic()), settings["poll_seconds"]))
        service = read_own(client, wanted)
        if failure := load_failure(service):
            raise RuntimeError(f"it failed with {percent}% of the traffic: {failure}")


HELPERS = [
    ask,
    typed,
    title,
    rehearse,
    send,
    read_own,
    set_share,
    load_failure,
    pod_failure,
    list_pods,
    pod_mark,
    own_pods,
    progress_of,
    wait_until_ready,
    endpoint_of,
    ask_rows,
    check_answers,
    wait_for_share,
    watch_canary,
]
