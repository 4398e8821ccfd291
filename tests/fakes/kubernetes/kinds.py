"""The kinds of objects that the API server knows, and how it says no."""

from typing import Any

Json = dict[str, Any]
GROUP = "serving.kserve.io"
# Plural: kind, group, version.
KINDS = {
    "inferenceservices": ("InferenceService", GROUP, "v1beta1"),
    "servingruntimes": ("ServingRuntime", GROUP, "v1alpha1"),
    "clusterservingruntimes": ("ClusterServingRuntime", GROUP, "v1alpha1"),
    "namespaces": ("Namespace", "", "v1"),
    "pods": ("Pod", "", "v1"),
    "events": ("Event", "", "v1"),
    "serviceaccounts": ("ServiceAccount", "", "v1"),
    "secrets": ("Secret", "", "v1"),
    "persistentvolumeclaims": ("PersistentVolumeClaim", "", "v1"),
    "selfsubjectaccessreviews": ("SelfSubjectAccessReview", "authorization.k8s.io", "v1"),
    "selfsubjectreviews": ("SelfSubjectReview", "authentication.k8s.io", "v1"),
}
REVIEWS = {"selfsubjectaccessreviews", "selfsubjectreviews"}
OF_CLUSTER = {"clusterservingruntimes", "namespaces", *REVIEWS}


class Refusal(Exception):  # noqa: N818
    """A request that is not served.

    Args:
        code: HTTP status.
        reason: The reason in the `Status` object that is the answer.
        message: Its message.
    """

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message

    def status(self) -> Json:
        """Returns the `Status` object."""
        told = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message}
        return {**told, "reason": self.reason, "code": self.code}


def api_version(plural: str) -> str:
    """Returns group and version as objects tell them."""
    _, group, version = KINDS[plural]
    return f"{group}/{version}".lstrip("/")


def named(plural: str, name: str = "") -> str:
    """Returns how messages name a kind of objects, or one."""
    return f"{plural}.{KINDS[plural][1]}".rstrip(".") + (f' "{name}"' if name else "")
