"""What deploying needs to be allowed in a namespace."""

from collections.abc import Iterator
from contextlib import contextmanager

from nlp_pipeline.deploy.cluster import ForbiddenError, api, apply_manifests, call, own_namespace
from nlp_pipeline.deploy.inference_service import GROUP

# The verbs by API group and resource; `--manifests` prints the Role that allows them.
ACCESS = {
    (GROUP, "inferenceservices"): ["get", "create", "update", "delete"],
    (GROUP, "servingruntimes"): ["get"],
    ("", "pods"): ["list"],
    ("", "events"): ["list"],
    ("", "persistentvolumeclaims"): ["get"],
    ("", "serviceaccounts"): ["get"],
}


@contextmanager
def explained_access(namespace: str) -> Iterator[None]:
    """Adds to the error, where something is forbidden, the command that allows it to this account."""
    try:
        yield
    except ForbiddenError as error:
        remedy = apply_manifests(namespace, f" --steps-account {_own_account()}")
        raise ForbiddenError(f"{error}; someone who may can allow it: {remedy}") from None


def _own_account() -> str:
    """Returns the namespace and the name of the account that asks; Kubeflow's own where it is no service account."""
    ask = api("AuthenticationV1Api").create_self_subject_review
    # Kubernetes before 1.28 does not know the question, and it may be forbidden.
    review = call("asking who asks", ask, {}, expected=(403, 404))
    user = "" if review in (403, 404) else review.status.user_info.username
    kind, _, account = user.partition("serviceaccount:")
    return account.replace(":", "/") if kind == "system:" else f"{own_namespace()}/default-editor"


def check_access(namespace: str) -> None:
    """Raises a ForbiddenError where this account may not do in a namespace what deploying needs."""
    ask, missing = api("AuthorizationV1Api").create_self_subject_access_review, []
    for (group, resource), verbs in ACCESS.items():
        for verb in verbs:
            attributes = {"namespace": namespace, "group": group, "resource": resource, "verb": verb}
            review = {"spec": {"resourceAttributes": attributes}}
            answer = call("asking what is allowed", ask, review, expected=(403,))
            # Where even asking is forbidden, the calls themselves will say.
            if answer != 403 and not answer.status.allowed:
                missing.append(f"{verb} {resource}")
    if missing:
        raise ForbiddenError(f"namespace {namespace}: may not {', '.join(missing)}")
