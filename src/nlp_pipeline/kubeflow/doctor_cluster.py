"""The doctor's checks that ask Kubernetes, where there is a kubeconfig, or this is a pod."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from nlp_pipeline.deploy.settings import DeploySettings
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.platforms.doctor import Findings

LATER = "whether you may make runs there shows when one is made"
SHARED = "ReadWriteMany"


@dataclass
class ClusterDoctor(Findings):
    """The checks of the cluster.

    Attributes:
        namespace: The namespace that the run's pods are in; empty where it is not known.
        needs_secrets: Whether the Secrets that steps name must exist.
        has_cluster: Whether Kubernetes can be asked.
        account: Whom Kubernetes knows the user as; empty where it does not tell.
    """

    namespace: str = ""
    needs_secrets: bool = False
    has_cluster: bool = False
    account: str = ""

    @cached_property
    def deploy_settings(self) -> DeploySettings:
        """The settings of the deployment."""
        return DeploySettings(**{item.name: self.values[item.name] for item in fields(DeploySettings)})

    def check_cluster(self) -> None:
        """Looks whether Kubernetes can be asked from here."""
        from nlp_pipeline.deploy.cluster import api, connect

        try:
            connect()
        except UsageError as error:
            self.add("Kubernetes", None, str(error), required=False)
            return
        from kubernetes import client
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        reviews = api("AuthenticationV1Api")
        where = reviews.api_client.configuration.host
        try:
            review = reviews.create_self_subject_review(client.V1SelfSubjectReview(), _request_timeout=10)
            self.account = review.status.user_info.username or ""
        except ApiException as error:
            if error.status == 401:
                refused = f"{where} refuses the kubeconfig's credentials"
                self.add("Kubernetes", False, refused, "kubectl auth whoami, and sign in anew", required=False)
                return
            # Kubernetes before 1.28 does not know the question, and it may be forbidden.
        except HTTPError as error:
            why = f"{where} can't be reached ({getattr(error, 'reason', error)})"
            self.add("Kubernetes", None, why, required=False)
            return
        self.has_cluster = True
        known = f", as {self.account}" if self.account else ""
        detail = f"{where} answers{known}; whether it is the cluster of this Kubeflow is for you to know"
        self.add("Kubernetes", True, detail, required=False)

    def _why_unknown(self, namespace: str) -> str:
        """Returns why nothing of a namespace can be known; empty where it can."""
        return ("" if self.has_cluster else "Kubernetes can't be asked") or (
            "" if namespace else "the namespace is not known"
        )

    def check_volume(self) -> None:
        """Looks for the claim of the run's volume, its access mode, and the Secrets where they must exist."""
        if why := self._why_unknown(self.namespace):
            for name in ("claim", "access mode", *(["Secrets"] if self.needs_secrets else [])):
                self.add(name, None, why, required=name != "access mode")
            return
        from nlp_pipeline.deploy.cluster import api, apply_manifests, call

        name, namespace = self.values["volume_claim"], self.namespace
        read, doing = api("CoreV1Api").read_namespaced_persistent_volume_claim, f"looking for claim {name}"
        ok, claim = answered(call, doing, read, name, namespace, expected=(404,))
        if not ok:
            self.add("claim", None, claim)
            self.add("access mode", None, "the claim can't be read", required=False)
        elif claim == 404:
            remedy = apply_manifests(namespace, f" --set volume_claim={name}")
            self.add("claim", False, f"namespace {namespace} has no PersistentVolumeClaim {name}", remedy)
            self.add("access mode", None, "there is no claim", required=False)
        else:
            self._check_claim(claim)
        if self.needs_secrets:
            self._check_secrets()

    def _check_claim(self, claim: Any) -> None:
        name = f"{self.namespace}/{claim.metadata.name}"
        phase = (claim.status and claim.status.phase) or "of unknown phase"
        if claim.metadata.deletion_timestamp or phase == "Lost":
            what = "is being deleted" if claim.metadata.deletion_timestamp else "has lost its volume"
            self.add("claim", False, f"{name} {what}", "wait until it is gone, and make another of its name")
        else:
            self.add("claim", True, f"{name} is {phase}")
        modes = (claim.spec and claim.spec.access_modes) or []
        shown, another = ", ".join(modes), f"use a claim of a storage class that has {SHARED}"
        if SHARED in modes:
            self.add("access mode", True, SHARED, required=False)
        elif any(mode.startswith("ReadWrite") for mode in modes):
            detail = f"{shown}: steps and serving pods must all run on one node"
            self.add("access mode", False, detail, another, required=False)
        elif modes:
            self.add("access mode", False, f"{shown}: steps can't write", another)
        else:
            self.add("access mode", None, "the claim tells none", required=False)

    def _check_secrets(self) -> None:
        """Looks for the Secrets that steps name, with all of their keys: before KFP 2.15 pods don't start without."""
        from nlp_pipeline.deploy.cluster import api, call
        from nlp_pipeline.pipeline.kubeflow import HUB_KEYS, S3_KEYS

        read, namespace = api("CoreV1Api").read_namespaced_secret, self.namespace
        for parameter, keys in (("s3_secret", S3_KEYS), ("hub_secret", HUB_KEYS)):
            name = self.values[parameter]
            ok, secret = answered(call, f"looking for Secret {name}", read, name, namespace, expected=(404,))
            if not ok:
                self.add("Secrets", None, secret)
                return
            missing = keys if secret == 404 else tuple(key for key in keys if key not in (secret.data or {}))
            if missing:
                what = "is not there" if secret == 404 else f"lacks {', '.join(missing)}"
                literals = " ".join(f"--from-literal={key}=" for key in keys)
                create = f"kubectl -n {namespace} create secret generic {name} {literals}"
                remedy = f"{create} (empty where it is not needed)"
                self.add("Secrets", False, f"Secret {namespace}/{name} {what}", remedy)
                return
        self.add("Secrets", True, f"{self.values['s3_secret']} and {self.values['hub_secret']} are there")

    def check_serving(self) -> None:
        """Looks for what the deployment needs: KServe, the right to deploy, a runtime, the serving pods' account."""
        if not self.values["deploy"]:
            self.add("KServe", None, "not needed with deploy=false", required=False)
            return
        namespace = self.values["namespace"] or self.namespace
        if why := self._why_unknown(namespace):
            for name in ("KServe", "right to deploy", "runtime"):
                self.add(name, None, why)
            return
        from nlp_pipeline.deploy.cluster import check_kserve, check_place, choose_runtime

        ok, error = answered(check_kserve)
        self.add("KServe", ok, error or "it knows InferenceServices (serving.kserve.io/v1beta1)")
        self._check_right(namespace)
        if ok:
            ok, runtime = answered(choose_runtime, self.deploy_settings, namespace)
            self.add("runtime", ok, ", ".join(runtime) if ok else runtime)
        else:
            self.add("runtime", None, "KServe is not there" if ok is False else "KServe can't be asked for")
        account = self.deploy_settings.serving_account
        if account or namespace != self.namespace:
            ok, error = answered(check_place, self.deploy_settings, namespace)
            claim = [] if self.values["model_store"] else [f"claim {self.values['volume_claim']}"]
            needed = [*claim, *([f"service account {account}"] if account else [])]
            there = f"{' and '.join(needed)} {'are' if len(needed) > 1 else 'is'} in namespace {namespace}"
            self.add("serving pods", ok, error or there)

    def _check_right(self, namespace: str) -> None:
        """Looks whether the steps' account may deploy; of another account than the one that asks that is not known."""
        from nlp_pipeline.deploy.access import check_access
        from nlp_pipeline.deploy.cluster import apply_manifests

        steps = f"system:serviceaccount:{self.namespace}:{self.settings.service_account or 'default-editor'}"
        ok, error = answered(check_access, namespace, forbidden=False)
        if ok is None:
            self.add("right to deploy", None, error)
        elif self.account and self.account != steps:
            ask = f"kubectl auth can-i create inferenceservices -n {namespace} --as={steps}"
            may = f"{self.account} may{'' if ok else ' not'}"
            self.add("right to deploy", None, f"{may}; the steps run as {steps}, of which it is not known: {ask}")
        elif ok:
            self.add("right to deploy", True, f"{self.account or 'this account'} may, in namespace {namespace}")
        else:
            self.add("right to deploy", False, error, apply_manifests(namespace))

    def may_make(self, resources: list[str], user: str) -> tuple[bool | None, str]:
        """Tells whether a user of Kubeflow may make runs, and why that is known; it tells only when one is made.

        Kubeflow Pipelines asks Kubernetes for it. So can the user, if both know the user by the same name.

        Args:
            resources: What is to be made: "runs", "experiments".
            user: Whom Kubeflow knows the user as; empty where that is not known.
        """
        if not (self.has_cluster and user and self.account):
            return None, LATER
        if user != self.account:
            return None, f"you sign in as {user}, and Kubernetes knows you as {self.account}: {LATER}"
        from kubernetes import client

        from nlp_pipeline.deploy.cluster import api, call

        ask = api("AuthorizationV1Api").create_self_subject_access_review
        for resource in resources:
            attributes = client.V1ResourceAttributes(
                namespace=self.namespace, group="pipelines.kubeflow.org", resource=resource, verb="create"
            )
            spec = client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
            review = client.V1SelfSubjectAccessReview(spec=spec)
            ok, answer = answered(call, "asking what is allowed", ask, review)
            if not ok:
                return None, LATER
            if not answer.status.allowed:
                return False, f"{user} may not create {resource} in namespace {self.namespace}"
        return True, f"{user} may make runs there"


def answered(
    function: Callable[..., Any], *values: Any, forbidden: bool | None = None, **named: Any
) -> tuple[bool | None, Any]:
    """Asks the cluster something; `forbidden` is what it means that something is not allowed.

    Returns:
        True and the answer; or, with what went wrong, False where something is not there, and None where that can't
        be known.
    """
    from nlp_pipeline.deploy.cluster import ForbiddenError, NotThereError

    try:
        return True, function(*values, **named)
    except NotThereError as error:
        return False, str(error)
    except ForbiddenError as error:
        return forbidden, str(error)
    except PipelineError as error:
        return None, str(error)
