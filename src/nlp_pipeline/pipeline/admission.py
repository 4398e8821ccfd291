"""What Kubernetes and KFP would refuse only when a pod is made, or a run begins: refused before anything is sent."""

import re
from typing import Any

from nlp_pipeline.deploy.settings import DNS_NAME
from nlp_pipeline.errors import UsageError

# Kubernetes' own, "Labels and Selectors": 63 characters, after a DNS name of at most 253 and a slash in keys.
WORD = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
LABEL_VALUE = f"({WORD})?"
# Kubernetes' own, "Taints and Tolerations".
OPERATORS = ("Exists", "Equal")
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
TOLERATION = {"key", "operator", "value", "effect", "tolerationSeconds"}
SHARED_MEMORY = "shm"  # the training pod's own volume
# Volumes that a step's pod has besides the claim and the ConfigMap: KFP 2.17's argocompiler/container.go, Argo's.
VOLUMES = {
    *("kfp-launcher", "kfp-launcher-token", "ca-bundle", "gcs-scratch", "s3-scratch", "minio-scratch"),
    *("dot-local-scratch", "dot-cache-scratch", "dot-config-scratch"),
    *("var-run-argo", "tmp-dir-argo", "argo-staging", SHARED_MEMORY),
}
# What training and evaluation ask for at least; see pods.py.
TRAINING_MEMORY = "2Gi"


def check_pods(values: dict[str, Any]) -> None:
    """Raises UsageError where Kubernetes would not take the pods that steps and serving have with these parameters."""
    check_placement(values)
    claim, config = values["volume_claim"], values["environment_config"]
    if claim == config:
        raise UsageError(f"volume_claim and environment_config are both {claim!r}: KFP names a pod's volumes by them")
    for name, value in (("volume_claim", claim), ("environment_config", config)):
        if value in VOLUMES:
            raise UsageError(f"{name} is {value!r}, as KFP names a volume of its own in each pod: give it another name")
    if "train_memory" in values:
        from kubernetes.utils.quantity import parse_quantity

        if parse_quantity(limit := values["train_memory"]) < parse_quantity(TRAINING_MEMORY):
            raise UsageError(f"train_memory is {limit}: it must be {TRAINING_MEMORY} or more, which training asks for")


def check_placement(values: dict[str, Any]) -> None:
    """Raises UsageError where node_selector or tolerations, if given, are not what Kubernetes takes."""
    for key, value in values.get("node_selector", {}).items():
        if not is_label_key(key):
            raise UsageError(f"node_selector has the key {key!r}: it must be a label's, as in kubernetes.io/os")
        if not re.fullmatch(LABEL_VALUE, value, re.ASCII):
            raise UsageError(
                f"node_selector has {key}={value!r}: a label's value has at most 63 letters, digits, '-', '_' and '.'"
            )
    for item in values.get("tolerations", []):
        if problem := find_problem(item):
            raise UsageError(f"tolerations has {item}: {problem}")


def is_label_key(key: str) -> bool:
    """Says whether a label, or a taint, may have a key."""
    prefix, slash, name = key.rpartition("/")
    is_prefixed = re.fullmatch(DNS_NAME, prefix, re.ASCII) is not None
    return re.fullmatch(WORD, name, re.ASCII) is not None and (is_prefixed or not slash)


def find_problem(toleration: dict[str, Any]) -> str:
    """Returns what is wrong with a toleration; empty where Kubernetes takes it."""
    key, operator, value = (toleration.get(name, "") for name in ("key", "operator", "value"))
    effect, seconds = toleration.get("effect", ""), toleration.get("tolerationSeconds")
    if unknown := toleration.keys() - TOLERATION:
        return f"{', '.join(sorted(unknown))} is no field of a toleration; those are {', '.join(sorted(TOLERATION))}"
    if not all(isinstance(text, str) for text in (key, operator, value, effect)):
        return "key, operator, value and effect must be texts"
    if operator not in OPERATORS:
        return f"operator must be {' or '.join(OPERATORS)}"
    if not key and operator != "Exists":
        return "without a key, operator must be Exists"
    if key and not is_label_key(key):
        return "key must be a taint's, as in nvidia.com/gpu"
    if value and operator == "Exists":
        return "with operator Exists, value must be left out"
    if not re.fullmatch(LABEL_VALUE, value, re.ASCII):
        return "value must have at most 63 letters, digits, '-', '_' and '.'"
    if effect and effect not in EFFECTS:
        return f"effect must be {', '.join(EFFECTS)}, or left out"
    if seconds is not None and (effect != "NoExecute" or type(seconds) is not int):
        return "tolerationSeconds must be an integer, and goes with effect NoExecute"
    return ""
