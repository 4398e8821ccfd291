"""What deploying needs to be allowed in a namespace, and the Role that allows it."""

from typing import Any

from nlp_pipeline.deploy.cluster import ForbiddenError, api_client, call, own_namespace
from nlp_pipeline.deploy.inference_service import GROUP, Json

# API group, resource, verbs.
ACCESS = (
    (GROUP, "inferenceservices", ["get", "create", "update", "delete"]),
    (GROUP, "servingruntimes", ["get"]),
    ("", "pods", ["list"]),
    ("", "events", ["list"]),
    ("", "persistentvolumeclaims", ["get"]),
    ("", "serviceaccounts", ["get"]),
)
RBAC = "rbac.authorization.k8s.io"


def role_objects(namespace: str, account: str, account_namespace: str) -> list[Json]:
    """Returns the Role, and the RoleBinding that gives it to a service account, as Kubernetes objects.

    Args:
        namespace: Where models are served.
        account: The service account that the pipeline's steps run as.
        account_namespace: The account's namespace.
    """
    rules = [{"apiGroups": [group], "resources": [name], "verbs": verbs} for group, name, verbs in ACCESS]
    metadata = {"name": "nlp-pipeline-deploy", "namespace": namespace}
    binding = {
        "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": metadata["name"]},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": account_namespace}],
    }
    return [
        {"apiVersion": f"{RBAC}/v1", "kind": kind, "metadata": metadata, **more}
        for kind, more in (("Role", {"rules": rules}), ("RoleBinding", binding))
    ]


def own_account() -> tuple[str, str]:
    """Returns the namespace and the name of the service account that asks, Kubeflow's own where it can't be known."""
    from kubernetes import client
    from kubernetes.client.exceptions import ApiException

    try:
        review = client.AuthenticationV1Api(api_client()).create_self_subject_review(client.V1SelfSubjectReview())
        kind, _, account = str(review.status.user_info.username).partition("serviceaccount:")
        if kind == "system:" and ":" in account:
            namespace, _, name = account.partition(":")
            return namespace, name
    except ApiException:  # Kubernetes before 1.28, or not allowed
        pass
    return own_namespace(), "default-editor"


def refuse_access(namespace: str, problem: str) -> ForbiddenError:
    """Prints the Role and the RoleBinding that are missing, and returns the error to raise.

    Args:
        namespace: Where models are served.
        problem: What is not allowed.
    """
    import yaml

    account_namespace, account = own_account()
    print("apply this with kubectl, as someone who may:\n", flush=True)
    print(yaml.safe_dump_all(role_objects(namespace, account, account_namespace), sort_keys=False), flush=True)
    return ForbiddenError(f"{problem}; the Role and RoleBinding that allow it stand above: kubectl apply -f -")


def missing_access(namespace: str) -> list[str]:
    """Returns what this account may not do in a namespace of what deploying needs, as in "create inferenceservices"."""
    from kubernetes import client

    ask = client.AuthorizationV1Api(api_client()).create_self_subject_access_review

    def is_denied(**attributes: Any) -> bool:
        spec = client.V1SelfSubjectAccessReviewSpec(resource_attributes=client.V1ResourceAttributes(**attributes))
        answer = call("asking what is allowed", ask, client.V1SelfSubjectAccessReview(spec=spec), expected=(403,))
        # Where even asking is forbidden, the calls themselves will say.
        return answer != 403 and not answer.status.allowed

    return [
        f"{verb} {resource}"
        for group, resource, verbs in ACCESS
        for verb in verbs
        if is_denied(namespace=namespace, group=group, resource=resource, verb=verb)
    ]


def check_access(namespace: str) -> None:
    """Makes sure that this account may do in a namespace what deploying needs.

    Raises:
        ForbiddenError: It may not; the Role and RoleBinding that are missing have been printed.
    """
    if missing := missing_access(namespace):
        raise refuse_access(namespace, f"namespace {namespace}: may not {', '.join(missing)}")
