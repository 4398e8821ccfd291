"""The pods of an InferenceService: whose they are, whether they are ready, and why one can't run."""

from typing import Any

from nlp_pipeline.deploy.cluster import api, call, one_line
from nlp_pipeline.deploy.inference_service import GROUP, NOTES, InferenceService

# For how many more looks a reason why a pod can't run is borne: a registry may be slow to answer; what is wrong in a
# specification stays wrong.
PATIENCE = {
    "CrashLoopBackOff": 0,
    "InvalidImageName": 0,
    "CreateContainerConfigError": 8,
    "ImagePullBackOff": 30,
    "ErrImagePull": 30,
}


def list_pods(service: InferenceService) -> list[Any]:
    """Returns the pods of an InferenceService's name, a former object's too, that are not on their way out."""
    read, selector = api("CoreV1Api").list_namespaced_pod, f"{GROUP}/inferenceservice={service.name}"
    found = call("listing pods", read, service.namespace, label_selector=selector)
    return [pod for pod in found.items if not pod.metadata.deletion_timestamp]


def is_pod_of(pod: Any, service: InferenceService) -> bool:
    """Says whether a pod was made for an object as this run sent it: KServe copies its annotations to the pods.

    The same request of another run may have been edited since. A former object is put back with its own run's id, so
    that pods of it that still run are its own.
    """
    notes = pod.metadata.annotations or {}
    return all(notes.get(f"{NOTES}{name}", "") == service.note(name) for name in ("applied", "run-id"))


def readiness(service: InferenceService) -> dict[bool, set[bool]]:
    """Returns whether pods are ready: those of this very object (True), and the others of its name (False)."""
    found: dict[bool, set[bool]] = {True: set(), False: set()}
    for pod in list_pods(service):
        conditions = pod.status.conditions or []
        is_ready = any(item.type == "Ready" and item.status == "True" for item in conditions)
        found[is_pod_of(pod, service)].add(is_ready)
    return found


def containers_of(pod: Any) -> list[Any]:
    """Returns the statuses of a pod's containers, in the order in which they start."""
    return [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]


def pod_failure(service: InferenceService) -> tuple[str, int]:
    """Returns why a pod of this very object can't run, and for how many more looks it is to be borne.

    KServe reports it only where the pod is the first of its name: not, on Standard, while former pods serve.
    """
    for pod in list_pods(service):
        for container in containers_of(pod) if is_pod_of(pod, service) else []:
            waiting, last = container.state.waiting, container.last_state and container.last_state.terminated
            reason = waiting.reason if waiting else ""
            if reason in PATIENCE and (reason != "CrashLoopBackOff" or container.restart_count >= 3):
                message = (last and last.message) or waiting.message or ""
                line = f"pod {pod.metadata.name}, {container.name}: {reason}: {one_line(message)}"
                return line, PATIENCE[reason]
    return "", 0


def describe(service: InferenceService) -> str:
    """Returns the conditions of an InferenceService, the states of its pods and the newest events, a line each."""
    lines = [
        f"condition {item['type']}: {item['status']} {item.get('reason', '')} {item.get('message', '')}"
        for item in service.status.get("conditions") or []
    ]
    for pod in list_pods(service):
        states = [(item.name, item.state.waiting or item.state.terminated) for item in containers_of(pod)]
        shown = [f"{name}: {state.reason or ''} {state.message or ''}" for name, state in states if state]
        lines.append(f"pod {pod.metadata.name}: {pod.status.phase} {'; '.join(shown)}")
    read = api("CoreV1Api").list_namespaced_event
    events = call("listing events", read, service.namespace, expected=(403,))
    found = [] if events == 403 else sorted(events.items, key=lambda item: str(item.last_timestamp or item.event_time))
    of_service = [item for item in found if (item.involved_object.name or "").startswith(service.name)]
    lines += [f"event {item.involved_object.name}: {item.reason} {item.message or ''}" for item in of_service[-5:]]
    return "\n".join(f"  {one_line(line)}" for line in lines)
