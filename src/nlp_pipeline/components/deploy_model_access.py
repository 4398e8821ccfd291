"""What deploying needs to be allowed, and the Role that allows it.

Hermetic helpers: `deploy_model` inlines them as `additional_funcs`, and `--manifests` prints the objects.
"""

from typing import Any


def needed_access() -> list[tuple[str, str, list[str]]]:
    """Returns what the step does in the namespace: API group, resource, verbs."""
    return [
        ("serving.kserve.io", "inferenceservices", ["get", "create", "update", "delete"]),
        ("serving.kserve.io", "servingruntimes", ["get"]),
        ("", "pods", ["list"]),
        ("", "events", ["list"]),
        ("", "persistentvolumeclaims", ["get"]),
        ("", "serviceaccounts", ["get"]),
    ]


def role_objects(namespace: str, account: str, account_namespace: str) -> list[dict[str, Any]]:
    """Returns the Role, and the RoleBinding that gives it to a service account, as Kubernetes objects.

    Args:
        namespace: Where models are served.
        account: The service account that the pipeline's steps run as.
        account_namespace: The account's namespace.
    """
    rules = [{"apiGroups": [group], "resources": [name], "verbs": verbs} for group, name, verbs in needed_access()]
    metadata = {"name": "nlp-pipeline-deploy", "namespace": namespace}
    rbac = "rbac.authorization.k8s.io"
    role = {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": metadata, "rules": rules}
    binding = {
        "apiVersion": f"{rbac}/v1",
        "kind": "RoleBinding",
        "metadata": metadata,
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": metadata["name"]},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": account_namespace}],
    }
    return [role, binding]
