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
    pods = call("listing pods", read, service.namespace, label_selector=selector).items
    return [pod for pod in pods if not pod.metadata.deletion_timestamp]


def _is_own(pod: Any, service: InferenceService) -> bool:
    """Says whether a pod was made for an object as this run sent it: KServe copies its annotations to the pods.

    The same request of another run may have been edited since. A former object is put back with its own run's id, so
    that pods of it that still run are its own.
    """
    notes = pod.metadata.annotations or {}
    return all(notes.get(f"{NOTES}{name}", "") == service.note(name) for name in ("applied", "run-id"))


def are_ready(service: InferenceService) -> bool:
    """Says whether the ready pods are this very object's, all of them."""
    own = [
        _is_own(pod, service)
        for pod in list_pods(service)
        for item in pod.status.conditions or []
        if item.type == "Ready" and item.status == "True"
    ]
    return bool(own) and all(own)


def _containers(pod: Any) -> list[Any]:
    """Returns the statuses of a pod's containers, in the order in which they start."""
    return [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]


def pod_failure(service: InferenceService) -> tuple[str, int]:
    """Returns why a pod of this very object can't run, and for how many more looks it is to be borne.

    KServe reports it only where the pod is the first of its name: not, on Standard, while former pods serve.
    """
    for pod in list_pods(service):
        for container in _containers(pod) if _is_own(pod, service) else []:
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
        states = [(item.name, item.state.waiting or item.state.terminated) for item in _containers(pod)]
        reasons = [f"{name}: {state.reason or ''} {state.message or ''}" for name, state in states if state]
        lines.append(f"pod {pod.metadata.name}: {pod.status.phase} {'; '.join(reasons)}")
    answer = call("listing events", api("CoreV1Api").list_namespaced_event, service.namespace, expected=(403,))
    events = [] if answer == 403 else answer.items
    events = [item for item in events if (item.involved_object.name or "").startswith(service.name)]
    events.sort(key=lambda item: str(item.last_timestamp or item.event_time))
    lines += [f"event {item.involved_object.name}: {item.reason} {item.message or ''}" for item in events[-5:]]
    return "\n".join(f"  {one_line(line)}" for line in lines)
