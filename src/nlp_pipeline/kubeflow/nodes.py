"""Whether a node could take the pods of a run: its labels, taints, and what it has in all, taken or not."""

from collections import Counter
from typing import Any

from nlp_pipeline.deploy.cluster import api, call
from nlp_pipeline.pipeline.pods import requests_of
from nlp_pipeline.platforms.doctor import Finding

# With another effect, a taint only makes a node less liked.
REPELLING = ("NoSchedule", "NoExecute")
# Some label their nodes; what cluster-autoscaler writes down instead is a ConfigMap.
AUTOSCALER_LABELS = {
    "karpenter.sh/nodepool": "Karpenter",
    "eks.amazonaws.com/compute-type": "EKS Auto Mode",
    "cloud.google.com/gke-provisioning": "GKE's autoscaler",
}
STATUS = "cluster-autoscaler-status"


def check_nodes(values: dict[str, Any]) -> Finding:
    """Looks for a node for each pod of a run, by all parameters; what other pods ask for there is not counted.

    Returns:
        `ok` is False where there is none for a pod: the run can't go well. It is None where an autoscaler may add one.

    Raises:
        UsageError: The nodes may not be listed.
        PipelineError: The cluster can't be reached, or fails.
    """
    nodes = call("listing the nodes", api("CoreV1Api").list_node).items
    for what, requests in requests_of(values).items():
        obstacles = [find_obstacle(node, requests, values["node_selector"], values["tolerations"]) for node in nodes]
        if all(obstacles):
            why = ", ".join(f"{count} {reason}" for reason, count in Counter(obstacles).items())
            detail = f"no node could take {what}, which asks for {describe(requests)}: of {len(nodes)}, {why or 'none'}"
            if scaler := find_autoscaler(nodes):
                return Finding(None, f"{detail}; whether {scaler} will add one is not known")
            return Finding(False, detail, "ask for less, or for other nodes; or let an autoscaler add one")
    asked = "; ".join(f"{what} asks for {describe(requests)}" for what, requests in requests_of(values).items())
    return Finding(True, f"each pod has a node large enough for it; what is free there is not known: {asked}")


def find_autoscaler(nodes: list[Any]) -> str:
    """Returns what adds nodes to the cluster, as far as it can be seen; empty where nothing does."""
    labels = {key for node in nodes for key in node.metadata.labels or {}}
    for label, name in AUTOSCALER_LABELS.items():
        if label in labels:
            return name
    read = api("CoreV1Api").read_namespaced_config_map
    status = call("looking for an autoscaler", read, STATUS, "kube-system", expected=(403, 404))
    return "" if status in (403, 404) else "cluster-autoscaler"


def describe(requests: dict[str, str]) -> str:
    """Returns requests in words."""
    return ", ".join(f"{name.rpartition('/')[2]} {amount}" for name, amount in requests.items())


def find_obstacle(node: Any, requests: dict[str, str], selector: dict[str, str], tolerations: list[Any]) -> str:
    """Returns why a node can't take a pod, as "lack the label pool=gpu"; empty where it could."""
    from kubernetes.utils.quantity import parse_quantity

    labels, allocatable = node.metadata.labels or {}, (node.status and node.status.allocatable) or {}
    for key, value in selector.items():
        if labels.get(key) != value:
            return f"without the label {key}={value}"
    for taint in (node.spec and node.spec.taints) or []:
        if taint.effect in REPELLING and not any(is_tolerated(taint, item) for item in tolerations):
            return f"with the taint {taint.key}{f'={taint.value}' if taint.value else ''}:{taint.effect}"
    for name, amount in requests.items():
        if parse_quantity(allocatable.get(name, "0")) < parse_quantity(amount):
            return f"with less {name.rpartition('/')[2]}"
    return ""


def is_tolerated(taint: Any, toleration: dict[str, str]) -> bool:
    """Says whether a toleration is one of a taint, as Kubernetes has it: what it leaves out fits all."""
    if toleration.get("effect", taint.effect) not in ("", taint.effect):
        return False
    if toleration.get("key", "") not in ("", taint.key):
        return False
    return toleration.get("operator") == "Exists" or toleration.get("value", "") == (taint.value or "")
