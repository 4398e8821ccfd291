"""A deployment's way through the cluster: send the object, wait for its own pods, ask them, give them the traffic.

Hermetic helpers, inlined into the step as `additional_funcs`. `settings` are the step's parameters, and besides:
`poll_seconds` between two looks, `route_seconds` within which a ready service must answer, `labels` in the order of
their ids, `headers` to sign in with.
"""

from typing import Any, Callable

from nlp_pipeline.components.agreement import compare_answers, require_agreement
from nlp_pipeline.components.deploy_model_cluster import call, describe, read_service
from nlp_pipeline.components.deploy_model_object import mark_of, matches, mode_of, successor
from nlp_pipeline.serving.client import ask


def title(service: dict[str, Any]) -> str:
    """Returns how messages name an InferenceService."""
    return f"InferenceService {service['metadata']['namespace']}/{service['metadata']['name']}"


def typed(body: dict[str, Any]) -> Any:
    """Returns an InferenceService as the kserve SDK's model, which its client takes."""
    import kserve
    from kubernetes import client

    kinds = {name: key for key, name in client.V1ObjectMeta.attribute_map.items()}
    metadata = client.V1ObjectMeta(**{kinds[name]: value for name, value in body["metadata"].items()})
    return kserve.V1beta1InferenceService(
        api_version=body["apiVersion"], kind=body["kind"], metadata=metadata, spec=body["spec"]
    )


def write(
    client: Any, wanted: dict[str, Any], change: Callable[..., Any], poll_seconds: float, **named: Any
) -> dict[str, Any]:
    """Creates or replaces an InferenceService; conflicts, which each write of its status makes, are tried again.

    Args:
        client: A `KServeClient`.
        wanted: The object that is meant.
        change: Gives what is to be sent, of the live object, or of None where there is none.
        poll_seconds: Seconds between two tries.
        **named: What else the API is given, as in dry_run="All".

    Returns:
        The object as the server keeps it.

    Raises:
        RuntimeError: There were conflicts for two minutes.
    """
    import time

    name, namespace = wanted["metadata"]["name"], wanted["metadata"]["namespace"]
    until = time.monotonic() + 120
    while time.monotonic() < until:
        live = read_service(client, name, namespace)
        body, doing = change(live), f"{'dry run of' if named else 'writing'} {title(wanted)}"
        if named:  # of which the SDK's own calls know nothing
            api, place = client.api_instance, ["serving.kserve.io", "v1beta1", namespace, "inferenceservices"]
            create, new = api.create_namespaced_custom_object, [*place, body]
            replace, changed = api.replace_namespaced_custom_object, [*place, name, body]
        else:
            create, new = client.create, [typed(body), namespace]
            replace, changed = client.replace, [name, typed(body), namespace]
        if live is None:
            made = call(doing, create, *new, expected=(409,), **named)
        else:
            made = call(doing, replace, *changed, expected=(404, 409), **named)
        if made not in (404, 409):
            return dict(made)
        time.sleep(min(poll_seconds, 0.5))
    raise RuntimeError(f"{title(wanted)} could not be changed for two minutes: something else keeps changing it")


def rehearse(client: Any, wanted: dict[str, Any], formers: Any, poll_seconds: float) -> dict[str, Any]:
    """Lets the server check what `send` would send (a dry run), and returns what it would make of it."""
    return write(client, wanted, lambda live: successor(live, wanted, formers(live)), poll_seconds, dry_run="All")


def send(client: Any, wanted: dict[str, Any], formers: Any, poll_seconds: float) -> dict[str, Any]:
    """Puts an object into the live one's place, and returns it as the server keeps it, to be known again by.

    Args:
        client: A `KServeClient`.
        wanted: The object.
        formers: Gives what it can go back to, of the live object.
        poll_seconds: Seconds between two tries.
    """
    made = write(client, wanted, lambda live: successor(live, wanted, formers(live)), poll_seconds)
    made["spec"]["predictor"].pop("canaryTrafficPercent", None)
    return {**wanted, "spec": made["spec"]}


def own(live: dict[str, Any] | None, wanted: dict[str, Any]) -> dict[str, Any]:
    """Returns a live InferenceService that must still be the one that was sent.

    Raises:
        RuntimeError: It was deleted, or another deployment or someone's edit has taken its place.
    """
    if live is None:
        raise RuntimeError(f"{title(wanted)} has been deleted meanwhile")
    if not matches(live, wanted):
        raise RuntimeError(f"another deployment has taken the place of this one in {title(wanted)} meanwhile")
    return live


def read_own(client: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    """Returns the live InferenceService; see `own`."""
    return own(read_service(client, wanted["metadata"]["name"], wanted["metadata"]["namespace"]), wanted)


def set_share(client: Any, wanted: dict[str, Any], percent: int | None, poll_seconds: float) -> None:
    """Gives the newest revision a share of the traffic.

    Args:
        client: A `KServeClient`.
        wanted: The object that was sent.
        percent: The share; None for all of it, which also ends the deployment.
        poll_seconds: Seconds between two tries.
    """

    def change(live: dict[str, Any] | None) -> dict[str, Any]:
        body = own(live, wanted)
        body["spec"]["predictor"].pop("canaryTrafficPercent", None)
        if percent is not None:
            body["spec"]["predictor"]["canaryTrafficPercent"] = percent
        return body

    write(client, wanted, change, poll_seconds)


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
        if not is_pod_of(pod, service):
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


def is_pod_of(pod: Any, service: dict[str, Any]) -> bool:
    """Tells whether a pod was made for an object as this run sent it: KServe copies its annotations to the pods.

    The same request of another run may have been edited since. A former object is put back with its own run's id, so
    that pods of it that still run are its own.
    """
    of_pod = {"metadata": {"annotations": pod.metadata.annotations}}
    return all(mark_of(of_pod, name) == mark_of(service, name) for name in ("applied", "run-id"))


def own_pods(service: dict[str, Any]) -> tuple[list[bool], list[bool]]:
    """Returns, of the pods of this very object and of the others of its name, whether each is ready."""
    ours: list[bool] = []
    others: list[bool] = []
    for pod in list_pods(service):
        ready = any(one.type == "Ready" and one.status == "True" for one in pod.status.conditions or [])
        (ours if is_pod_of(pod, service) else others).append(ready)
    return ours, others


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
        ours, others = own_pods(service)
        return bool(ours), ready and any(ours) and not any(others)
    predictor = status.get("components", {}).get("predictor", {})
    newest = predictor.get("latestCreatedRevision", "")
    # What was stopped and started by hand since has counted its revisions anew.
    begun = "canaryTrafficPercent" in service["spec"]["predictor"]
    is_new = newest not in ("", mark_of(service, "replaces") if begun else "")
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
        # Right after a change, the status may still be that of the former model, its failure too; on Standard also
        # while the former pods are on their way out.
        failure, patience = load_failure(service), 0 if is_new and mode_of(service) == "Knative" else 8
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


def check_way(service: dict[str, Any], settings: dict[str, Any]) -> None:
    """Makes sure that a live InferenceService can be asked from here: in a pod, through a gateway, or by its name.

    Raises:
        ValueError: Its name is not known here.
    """
    import os
    import socket
    from urllib.parse import urlsplit

    host = urlsplit(service.get("status", {}).get("url", "")).hostname
    if settings["gateway"] or not host or os.path.isdir("/var/run/secrets/kubernetes.io"):
        return
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        raise ValueError(
            f"{host}, the name of {title(service)}, is not known here: set gateway=http://... to the address of the "
            "ingress gateway, which goes by the host name"
        ) from None


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
                until = time.monotonic() + settings["route_seconds"]
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
        rows: `text`, and `label` and `predicted` of each; without these, any of the model's labels is right; where it
            is empty, nothing is asked.

    Returns:
        `p50_ms` and, where rows are labelled, `rows`, `agreement`, `accuracy`, `offline_accuracy`.

    Raises:
        ValueError: It does not say what the offline model says.
        ConnectionError, RuntimeError: See `ask_rows`.
    """
    if not rows:
        return {}
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


def share_of_newest(service: dict[str, Any]) -> int:
    """Returns the newest revision's share of the traffic in percent; all of it on Standard, which has no shares."""
    if mode_of(service) == "Standard":
        return 100
    predictor = service.get("status", {}).get("components", {}).get("predictor", {})
    newest = predictor.get("latestCreatedRevision")
    return sum(one.get("percent", 0) for one in predictor.get("traffic", []) if one.get("revisionName") == newest)


def wait_for_share(client: Any, wanted: dict[str, Any], percent: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Waits until the newest revision has its share of the traffic, and returns the live object.

    Raises:
        TimeoutError: It did not get it in time.
    """
    import time

    until = time.monotonic() + settings["route_seconds"]
    while True:
        service = read_own(client, wanted)
        share = share_of_newest(service)
        if share == percent or mode_of(service) == "Standard":
            return service
        if time.monotonic() > until:
            raise TimeoutError(f"{title(wanted)}: its newest revision has {share}% of the traffic, not {percent}%")
        time.sleep(settings["poll_seconds"])


def watch_canary(client: Any, wanted: dict[str, Any], settings: dict[str, Any], texts: list[str]) -> None:
    """Gives the newest revision its canary share for its time, and asks it and the whole service all along.

    Raises:
        RuntimeError, ConnectionError, TimeoutError: It failed in that time.
    """
    import time

    percent, minutes = settings["canary_percent"], settings["canary_minutes"]
    # It has answered already: where it does not any more, those who ask it shall not bear that for long.
    impatient = {**settings, "route_seconds": settings["route_seconds"] / 10}
    set_share(client, wanted, percent, settings["poll_seconds"])
    service = wait_for_share(client, wanted, percent, settings)
    print(f"{percent}% of the traffic go to it for {minutes:g} minutes", flush=True)
    until = time.monotonic() + 60 * minutes
    asked = 0
    while time.monotonic() < until:
        for newest in (True, False):
            ask_rows(service, newest, impatient, [texts[asked % len(texts)]])
        asked += 1
        time.sleep(min(max(0.0, until - time.monotonic()), settings["poll_seconds"]))
        service = read_own(client, wanted)
        if failure := load_failure(service):
            raise RuntimeError(f"it failed with {percent}% of the traffic: {failure}")
