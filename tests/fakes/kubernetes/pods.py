"""Pods and events as a kubelet would tell them."""

import hashlib
from datetime import UTC, datetime
from typing import Any

from tests.fakes.kubernetes.children import Revision

Json = dict[str, Any]
IMAGE = "example.com/predictor:1"


class Pods:
    """Makes the pods of revisions, and keeps events, which outlive what they tell of."""

    def __init__(self) -> None:
        self.events: list[Json] = []

    def tell_failure(self, service: Json, revision: Revision) -> None:
        """Adds the event of a container that crashes again and again."""
        for pod in pods_of(service, revision):
            name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
            text = f"Back-off restarting failed container kserve-container in pod {name}_{namespace}({uid(name)})"
            self.tell(pod, "Pod", "BackOff", text)

    def tell(self, about: Json, kind: str, reason: str, message: str) -> None:
        """Adds a warning, or counts it once more."""
        name, namespace = about["metadata"]["name"], about["metadata"]["namespace"]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for event in self.events:
            if (event["involvedObject"]["name"], event["reason"], event["message"]) == (name, reason, message):
                event.update(count=event["count"] + 1, lastTimestamp=now)
                return
        self.events.append(
            {
                "metadata": {"name": f"{name}.{len(self.events):016x}", "namespace": namespace},
                "involvedObject": {"kind": kind, "name": name, "namespace": namespace},
                "type": "Warning",
                "reason": reason,
                "message": message,
                "count": 1,
                "firstTimestamp": now,
                "lastTimestamp": now,
            }
        )


def uid(text: str) -> str:
    """Returns an identifier that is always the same for the same text."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return "-".join((digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32]))


def pods_of(service: Json, revision: Revision) -> list[Json]:
    """Returns the pods of a revision of an InferenceService."""
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    labels = {
        **revision.template["labels"],
        "serving.kserve.io/inferenceservice": name,
        "component": "predictor",
        **revision.labels,
    }
    pods = []
    for number in range(revision.replicas):
        pod_name = f"{revision.name}-{uid(revision.name + revision.created)[:8]}-{number}"
        pods.append(
            {
                "metadata": {
                    "name": pod_name,
                    "namespace": namespace,
                    "uid": uid(pod_name),
                    "labels": labels,
                    "annotations": revision.template["annotations"],
                    "creationTimestamp": revision.created,
                },
                "spec": {"containers": [{"name": "kserve-container", "image": IMAGE}]},
                "status": {
                    "phase": "Running",
                    "conditions": [{"type": "Ready", "status": str(revision.ready)}],
                    "containerStatuses": [_container(revision, pod_name)],
                },
            }
        )
    return pods


def _container(revision: Revision, pod_name: str) -> Json:
    status: Json = {
        "name": "kserve-container",
        "image": IMAGE,
        "imageID": IMAGE,
        "ready": revision.ready,
        "restartCount": 3 if revision.failed else 0,
        "state": {"running": {"startedAt": revision.created}},
        "lastState": {},
    }
    if revision.failed:
        text = f"back-off 40s restarting failed container=kserve-container pod={pod_name}"
        status["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": text}}
        status["lastState"] = {"terminated": {"reason": "Error", "exitCode": 1, "message": revision.fate.message}}
    return status
