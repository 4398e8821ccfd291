"""What deploying needs to be allowed in a namespace, and the Role that allows it."""

from collections.abc import Iterator
from contextlib import contextmanager

from nlp_pipeline.deploy.cluster import ForbiddenError, api, call, own_namespace
from nlp_pipeline.deploy.inference_service import GROUP, Json

# The verbs by API group and resource.
ACCESS = {
    (GROUP, "inferenceservices"): ["get", "create", "update", "delete"],
    (GROUP, "servingruntimes"): ["get"],
    ("", "pods"): ["list"],
    ("", "events"): ["list"],
    ("", "persistentvolumeclaims"): ["get"],
    ("", "serviceaccounts"): ["get"],
}
RBAC = "rbac.authorization.k8s.io"


def role_objects(namespace: str, account: str, account_namespace: str) -> list[Json]:
    """Returns the Role, and the RoleBinding that gives it to a service account, as Kubernetes objects.

    Args:
        namespace: Where models are served.
        account: The service account that the pipeline's steps run as.
        account_namespace: The account's namespace.
    """
    rules = [{"apiGroups": [group], "resources": [name], "verbs": verbs} for (group, name), verbs in ACCESS.items()]
    name = "nlp-pipeline-deploy"
    binding = {
        "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": account_namespace}],
    }
    return [
        {"apiVersion": f"{RBAC}/v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, **content}
        for kind, content in (("Role", {"rules": rules}), ("RoleBinding", binding))
    ]


@contextmanager
def explained_access(namespace: str) -> Iterator[None]:
    """Prints, where something is forbidden, the Role and the RoleBinding that allow it in a namespace."""
    import yaml

    try:
        yield
    except ForbiddenError as error:
        print("apply this with kubectl, as someone who may:\n", flush=True)
        print(yaml.safe_dump_all(role_objects(namespace, *own_account()), sort_keys=False), flush=True)
        raise ForbiddenError(
            f"{error}; the Role and RoleBinding that allow it stand above: kubectl apply -f -"
        ) from None


def own_account() -> tuple[str, str]:
    """Returns the name and namespace of the service account that asks, Kubeflow's own where it can't be known."""
    from kubernetes import client

    ask = api("AuthenticationV1Api").create_self_subject_review
    # Kubernetes before 1.28 does not know the question, and it may be forbidden.
    review = call("asking who asks", ask, client.V1SelfSubjectReview(), expected=(403, 404))
    user = "" if review in (403, 404) else review.status.user_info.username
    kind, _, account = user.rpartition("serviceaccount:")
    namespace, _, name = account.partition(":")
    return (name, namespace) if kind == "system:" else ("default-editor", own_namespace())


def check_access(namespace: str) -> None:
    """Makes sure that this account may do in a namespace what deploying needs.

    Raises:
        ForbiddenError: It may not.
    """
    from kubernetes import client

    missing = []
    for (group, resource), verbs in ACCESS.items():
        for verb in verbs:
            what = client.V1ResourceAttributes(namespace=namespace, group=group, resource=resource, verb=verb)
            spec = client.V1SelfSubjectAccessReviewSpec(resource_attributes=what)
            ask = api("AuthorizationV1Api").create_self_subject_access_review
            answer = call("asking what is allowed", ask, client.V1SelfSubjectAccessReview(spec=spec), expected=(403,))
            # Where even asking is forbidden, the calls themselves will say.
            if answer != 403 and not answer.status.allowed:
                missing.append(f"{verb} {resource}")
    if missing:
        raise ForbiddenError(f"namespace {namespace}: may not {', '.join(missing)}")
