"""How an InferenceService is sent, waited for, and given the traffic; and why its pods can't run."""

from collections.abc import Callable
from typing import Any

from nlp_pipeline.deploy.cluster import ROUTE_SECONDS, api, call, one_line, poll, read_service, write_service
from nlp_pipeline.deploy.inference_service import (
    GROUP,
    NEXT,
    NOTES,
    SHARE,
    STOP,
    Former,
    InferenceService,
    Json,
    successor,
)
from nlp_pipeline.errors import PipelineError, TimedOutError

# For how many more looks, of 2 s each, a failure that KServe reported at the first one may be the former object's.
PATIENCE = 8
# For how many more looks a reason why a pod can't run is borne: an image is pulled a second time; for a node that an
# autoscaler adds there are five minutes; what is wrong in a specification stays wrong.
PODS_PATIENCE = {
    "CrashLoopBackOff": 0,
    "InvalidImageName": 0,
    "CreateContainerConfigError": 8,
    "ImagePullBackOff": 8,
    "ErrImagePull": 8,
    "Unschedulable": 150,
}
# Why KServe or Kubernetes makes no pods, by the condition PredictorReady and by events.
NO_PODS = ("ReconcileFailed", "FailedCreate", "InternalError")


def send(desired: InferenceService, formers: list[Former] | None = None, **options: str) -> InferenceService:
    """Puts an object into the live one's place; see `successor`.

    Returns the object as the server keeps it, without its share of the traffic.
    """
    sent = write_service(desired, lambda live: successor(live, desired, formers), **options)
    sent.predictor.pop(SHARE, None)
    return sent


def read_own(desired: InferenceService, is_beside: bool = False) -> InferenceService:
    """Returns the live InferenceService, which must still be the one that was sent, or have that beside it."""
    live = read_service(desired.name, desired.namespace)
    if live is None:
        raise PipelineError(f"{desired} has been deleted meanwhile")
    applied = live.canary.get("annotations", {}).get(f"{NOTES}applied")
    if applied != desired.note("applied") if is_beside else not live.matches(desired):
        raise PipelineError(f"another deployment has taken the place of this one in {desired}")
    return live


def _edit_own(desired: InferenceService, edit: Callable[[InferenceService], None]) -> None:
    def change(_: InferenceService | None) -> Json:
        own = read_own(desired)
        edit(own)
        return own.body

    write_service(desired, change)


def set_share(desired: InferenceService, percent: int | None) -> None:
    """Gives the newest revision a share of the traffic; None for all of it, which also ends the deployment."""

    def edit(own: InferenceService) -> None:
        own.predictor.pop(SHARE, None)
        if percent is not None:
            own.predictor[SHARE] = percent

    _edit_own(desired, edit)


def stop(service: InferenceService) -> None:
    """Stops an InferenceService (the object stays, its pods go) and waits until KServe has seen it."""
    _edit_own(service, lambda own: own.annotations.update({STOP: "true"}))
    # Started again before it was seen, it would be judged by the status of what was to be stopped.
    poll(lambda: None if read_own(service).component else True, ROUTE_SECONDS)


def load_failure(service: InferenceService) -> str:
    """Returns KServe's reason and message why a model can't be loaded, or has no pods; empty where it reports none.

    On Standard it looks at the first pod of the name, which may be a former one's on its way out: there our own pods
    tell whether it could be loaded.
    """
    for item in service.status.get("conditions") or []:
        if item["type"] == "PredictorReady" and item.get("reason") in NO_PODS:
            return one_line(f"{item['reason']}: {item.get('message', 'no message')}")
    model = service.status.get("modelStatus", {})
    if model.get("transitionStatus") not in ("InvalidSpec", "" if service.is_standard else "BlockedByFailedLoad"):
        return ""
    info = model.get("lastFailureInfo", {})
    return one_line(f"{info.get('reason', model['transitionStatus'])}: {info.get('message', 'no message')}")


def list_pods(service: InferenceService) -> list[Any]:
    """Returns the pods of an InferenceService's name, a former object's too, that are not on their way out."""
    read, selector = api("CoreV1Api").list_namespaced_pod, f"{GROUP}/inferenceservice={service.name}"
    pods = call("listing pods", read, service.namespace, label_selector=selector).items
    return [pod for pod in pods if not pod.metadata.deletion_timestamp]


def list_events(service: InferenceService) -> list[Any]:
    """Returns the events of all that has an InferenceService's name, the newest last."""
    events = call("listing events", api("CoreV1Api").list_namespaced_event, service.namespace).items
    events = [item for item in events if (item.involved_object.name or "").startswith(service.name)]
    return sorted(events, key=lambda item: str(item.last_timestamp or item.event_time))


def creation_failure(service: InferenceService) -> str:
    """Returns why no pods are made beside the live ones; empty where no event tells. KServe's status has nothing."""
    for event in reversed(list_events(service)):
        name = event.involved_object.name
        if event.reason in NO_PODS and (name == service.name or f"-{NEXT}-predictor" in name):
            return one_line(f"{event.reason}: {event.message}")
    return ""


def _is_own(pod: Any, marks: list[str]) -> bool:
    """Says whether a pod was made for an object as it was sent: KServe copies its annotations to the pods."""
    notes = pod.metadata.annotations or {}
    return [notes.get(f"{NOTES}{name}", "") for name in ("applied", "again")] == marks


def _containers(pod: Any) -> list[Any]:
    """Returns the statuses of a pod's containers, in the order in which they start."""
    return [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]


def pod_failure(pods: list[Any]) -> tuple[str, int]:
    """Returns why one of these pods can't run, and for how many more looks it is to be borne."""
    for pod in pods:
        for item in pod.status.conditions or []:
            if item.reason in PODS_PATIENCE:
                return f"pod {pod.metadata.name}: {item.reason}: {one_line(item.message)}", PODS_PATIENCE[item.reason]
        for container in _containers(pod):
            waiting, last = container.state.waiting, container.last_state and container.last_state.terminated
            reason = waiting.reason if waiting else ""
            # A crash may have been an accident; it has crashed again.
            if reason in PODS_PATIENCE and (reason != "CrashLoopBackOff" or container.restart_count >= 1):
                message = (last and last.message) or waiting.message or ""
                line = f"pod {pod.metadata.name}, {container.name}: {reason}: {one_line(message)}"
                return line, PODS_PATIENCE[reason]
    return "", 0


def describe(service: InferenceService) -> str:
    """Returns the conditions of an InferenceService, the states of its pods and the newest events, a line each."""
    lines = [
        f"condition {item['type']}: {item['status']} {item.get('reason', '')} {item.get('message', '')}"
        for item in service.status.get("conditions") or []
    ]
    for pod in list_pods(service):
        states = [(item.name, item.state.waiting or item.state.terminated) for item in _containers(pod)]
        reasons = [f"{name}: {state.reason or ''} {state.message or ''}" for name, state in states if state]
        lines.append(f"pod {pod.metadata.name}: {pod.status.phase} {'; '.join(reasons)}")
    events = list_events(service)[-5:]
    lines += [f"event {item.involved_object.name}: {item.reason} {item.message or ''}" for item in events]
    return "\n".join(f"  {one_line(line)}" for line in lines)


def _is_ready(service: InferenceService, pods: list[Any]) -> bool:
    """Says whether the newest object is ready, with its pods on Standard.

    Neither observedGeneration nor the condition Ready can say. The first is copied from the child (the Knative Service
    or the Deployment, which counts by itself: inference_service_status.go, PropagateStatus and PropagateRawStatus); the
    second stays True while the former pods serve. So on Knative the newest revision must be another than the one noted
    before, ready, and have its tag; on Standard the ready pods must be this object's, all of them.
    """
    if service.is_standard:
        return service.is_ready and _are_ready(pods, service.marks)
    component = service.component
    newest = component.get("latestCreatedRevision", "")
    # What was stopped and started by hand since has counted its revisions anew.
    is_new = newest not in ("", service.note("replaces") if SHARE in service.predictor else "")
    tagged = [item.get("revisionName") for item in component.get("traffic", []) if item.get("tag") == "latest"]
    return is_new and service.is_ready and component.get("latestReadyRevision") == newest and newest in tagged


def _are_ready(pods: list[Any], marks: list[str]) -> bool:
    """Says whether pods are ready, and those that are have these marks."""
    ready = [
        pod
        for pod in pods
        if any(item.type == "Ready" and item.status == "True" for item in pod.status.conditions or [])
    ]
    return bool(ready) and all(_is_own(pod, marks) for pod in ready)


def wait_until_ready(desired: InferenceService, seconds: int, is_beside: bool = False) -> InferenceService:
    """Waits until the pods of an object that was sent are ready, for so many seconds, and returns the live object.

    It may run beside the live one. Where its model can't be loaded, or the time is over, conditions, pods and events
    are printed.
    """
    failures, service, former_failure = 0, desired, None

    def look() -> InferenceService | None:
        nonlocal failures, service, former_failure
        service = read_own(desired, is_beside)
        marks = [desired.note("applied"), ""] if is_beside else service.marks
        app = f"isvc.{service.name}-{NEXT}-predictor"
        pods = [pod for pod in list_pods(service) if ((pod.metadata.labels or {}).get("app") == app) == is_beside]
        if _are_ready(pods, marks) if is_beside else _is_ready(service, pods):
            return service
        own = [pod for pod in pods if _is_own(pod, marks)]
        failure, patience = load_failure(service), 0
        if is_beside:
            failure = "" if own else creation_failure(service)
        if former_failure is None:
            former_failure = failure
        if not failure:
            failure, patience = pod_failure(own)
        elif failure == former_failure or failure.startswith("InternalError"):  # a conflict passes, say
            patience = PATIENCE
        failures = failures + 1 if failure else 0
        if failures > patience:
            print(describe(service), flush=True)
            raise PipelineError(f"the model can't be loaded: {failure}")
        return None

    ready = poll(look, seconds)
    if ready is None:
        print(describe(service), flush=True)
        raise TimedOutError(f"{desired} was not ready after {seconds} s: see above")
    return ready


def give_share(desired: InferenceService, percent: int | None) -> InferenceService:
    """Does what `set_share` does, waits until the newest revision has its share, and returns the live object."""
    set_share(desired, percent)
    share = 100 if percent is None else percent

    def look() -> InferenceService | None:
        service = read_own(desired)
        newest, traffic = service.component.get("latestCreatedRevision"), service.component.get("traffic", [])
        reached = sum(item.get("percent", 0) for item in traffic if item.get("revisionName") == newest)
        return service if service.is_standard or reached == share else None

    service = poll(look, ROUTE_SECONDS)
    if service is None:
        raise TimedOutError(f"{desired}: its newest revision did not get {share}% of the traffic")
    return service
