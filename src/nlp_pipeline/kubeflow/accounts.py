"""What the steps run as: in a Kubeflow of profiles the profile's own account, else Kubeflow Pipelines' own."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from nlp_pipeline.deploy.cluster import api, call
from nlp_pipeline.errors import PipelineError
from nlp_pipeline.kubeflow.connection import Connection
from nlp_pipeline.settings import Settings

# Where Kubeflow Pipelines runs its pods where there is but one user.
ONE_USER = "kubeflow"


@dataclass(frozen=True)
class Account:
    """A service account."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}".lstrip("/")

    @property
    def username(self) -> str:
        """What Kubernetes knows it as."""
        return f"system:serviceaccount:{self.namespace}:{self.name}"

    def refusals(self, namespace: str, is_own: bool, access: dict[tuple[str, str], list[str]]) -> Iterator[str]:
        """Yields what it may not do in a namespace, as "create inferenceservices", of verbs by API group and resource.

        Any account may ask that of itself, which `is_own` says it does.

        Raises:
            UsageError: Who asks may not ask that.
            PipelineError: The cluster can't be reached, or fails.
        """
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{self.namespace}", "system:authenticated"]
        who = {} if is_own else {"user": self.username, "groups": groups}
        reviews = api("AuthorizationV1Api")
        ask = reviews.create_self_subject_access_review if is_own else reviews.create_subject_access_review
        for (group, resource), verbs in access.items():
            for verb in verbs:
                whole, _, part = resource.partition("/")
                attributes = {"namespace": namespace, "group": group, "resource": whole, "verb": verb}
                attributes |= {"subresource": part} if part else {}
                spec = {**who, "resourceAttributes": attributes}
                if not call("asking what the steps may", ask, {"spec": spec}).status.allowed:
                    yield f"{verb} {resource}"


def steps_account(settings: Settings, multi_user: bool, namespace: str) -> Account:
    """Returns what the steps of a namespace run as."""
    own = "default-editor" if multi_user else "pipeline-runner"
    place = settings.namespace or (namespace if multi_user else ONE_USER)
    return Account(place, settings.service_account or own)


def find_steps_account(settings: Settings, namespace: str) -> Account:
    """Returns what the steps run as; where Kubeflow can't be asked which kind it is, says what is assumed."""
    try:
        return steps_account(settings, Connection(settings).multi_user, namespace)
    except PipelineError as error:
        account = steps_account(settings, namespace != ONE_USER, namespace)  # that namespace is no one's profile
        print(
            f"note: Kubeflow can't be asked whether it has profiles ({error}); the steps are taken to run as "
            f"{account}: --steps-account NAMESPACE/NAME names another, {ONE_USER}/pipeline-runner where Kubeflow "
            "Pipelines is alone",
            file=sys.stderr,
        )
        return account
