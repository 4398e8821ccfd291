"""The doctor's checks that ask Kubernetes, where there is a kubeconfig, or this is a pod."""

import base64
import json
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from nlp_pipeline.client.doctor_findings import OPTIONAL_SECRETS, Findings
from nlp_pipeline.deploy.settings import DeploySettings
from nlp_pipeline.errors import PipelineError, UsageError

MANIFESTS = "python pipeline_v2.py --manifests {} | kubectl apply -f -"
LATER = "whether you may make runs there shows when one is made"
NO_CLUSTER = "Kubernetes can't be asked"
SHARED = "ReadWriteMany"


def manifests(found: Findings, namespace: str, *parameters: str) -> str:
    """Returns the command that makes what a namespace needs."""
    settings = [f"namespace={namespace}", *(f"{name}={found.values[name]}" for name in parameters)]
    return MANIFESTS.format(" ".join(f"--set {one}" for one in settings))


def check_cluster(found: Findings) -> None:
    """Looks whether Kubernetes can be asked from here."""
    from nlp_pipeline.deploy.cluster import connect

    try:
        connect()
    except UsageError as error:
        found.add("Kubernetes", None, str(error), required=False)
        return
    from kubernetes import client as kubernetes
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    where = kubernetes.ApiClient().configuration.host
    try:
        api, review = kubernetes.AuthenticationV1Api(), kubernetes.V1SelfSubjectReview()
        found.account = api.create_self_subject_review(review, _request_timeout=10).status.user_info.username or ""
    except ApiException as error:
        if error.status == 401:
            refused = f"{where} refuses the kubeconfig's credentials"
            found.add("Kubernetes", False, refused, "kubectl auth whoami, and sign in anew", required=False)
            return
        # Kubernetes before 1.28 does not know the question, and it may be forbidden.
    except HTTPError as error:
        found.add("Kubernetes", None, f"{where} can't be reached ({getattr(error, 'reason', error)})", required=False)
        return
    found.cluster = kubernetes.CustomObjectsApi()
    known = f", as {found.account}" if found.account else ""
    detail = f"{where} answers{known}; whether it is the cluster of this Kubeflow is for you to know"
    found.add("Kubernetes", True, detail, required=False)


def answered(
    function: Callable[..., Any], *values: Any, forbidden: bool | None = None, **named: Any
) -> tuple[bool | None, Any]:
    """Calls one of the deployment's helpers.

    Args:
        function: The helper.
        *values: Its arguments.
        forbidden: What it means that something is not allowed.
        **named: Its named arguments.

    Returns:
        True and what it returned; or, with what went wrong, False where something is not there, and None where that
        can't be known.
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


def deploy_settings(found: Findings) -> DeploySettings:
    """Returns the settings of the deployment."""
    return DeploySettings(**{item.name: found.values[item.name] for item in fields(DeploySettings)})


def check_volume(found: Findings) -> None:
    """Looks for the claim of the run's volume, its access mode, and the Secrets where they must exist."""
    secrets = found.version is not None and found.version < OPTIONAL_SECRETS
    names = ["claim", "access mode", *(["Secrets"] if secrets else [])]
    why = ("" if found.cluster else NO_CLUSTER) or ("" if found.namespace else "the namespace is not known")
    if why:
        for name in names:
            found.add(name, None, why, required=name != "access mode")
        return
    from kubernetes import client

    from nlp_pipeline.deploy.cluster import call

    claim, namespace = found.values["volume_claim"], found.namespace
    read, doing = client.CoreV1Api().read_namespaced_persistent_volume_claim, f"looking for claim {claim}"
    ok, volume = answered(call, doing, read, claim, namespace, expected=(404,))
    if not ok:
        found.add("claim", None, volume)
        found.add("access mode", None, "the claim can't be read", required=False)
    elif volume == 404:
        remedy = manifests(found, namespace, "volume_claim")
        found.add("claim", False, f"namespace {namespace} has no PersistentVolumeClaim {claim}", remedy)
        found.add("access mode", None, "there is no claim", required=False)
    else:
        check_claim(found, volume)
    if secrets:
        check_secrets(found)


def check_claim(found: Findings, volume: Any) -> None:
    """Looks at a claim that is there."""
    name = f"{found.namespace}/{volume.metadata.name}"
    phase = (volume.status and volume.status.phase) or "of unknown phase"
    if volume.metadata.deletion_timestamp or phase == "Lost":
        what = "is being deleted" if volume.metadata.deletion_timestamp else "has lost its volume"
        found.add("claim", False, f"{name} {what}", "wait until it is gone, and make another of its name")
    else:
        found.add("claim", True, f"{name} is {phase}")
    modes = (volume.spec and volume.spec.access_modes) or []
    if SHARED in modes:
        found.add("access mode", True, SHARED, required=False)
    elif any(mode.startswith("ReadWrite") for mode in modes):
        detail = f"{', '.join(modes)}: steps and serving pods must all run on one node"
        found.add("access mode", False, detail, f"use a claim of a storage class that has {SHARED}", required=False)
    elif modes:
        found.add("access mode", False, f"{', '.join(modes)}: steps can't write", f"use a claim with {SHARED}")
    else:
        found.add("access mode", None, "the claim tells none", required=False)


def check_secrets(found: Findings) -> None:
    """Looks for the Secrets that steps name, with all of their keys: before KFP 2.15 pods don't start without."""
    from kubernetes import client

    from nlp_pipeline.deploy.cluster import call
    from nlp_pipeline.pipeline.kubeflow import HUB_KEYS, S3_KEYS

    read, namespace = client.CoreV1Api().read_namespaced_secret, found.namespace
    for parameter, keys in (("s3_secret", S3_KEYS), ("hub_secret", HUB_KEYS)):
        name = found.values[parameter]
        ok, secret = answered(call, f"looking for Secret {name}", read, name, namespace, expected=(404,))
        if not ok:
            found.add("Secrets", None, secret)
            return
        missing = keys if secret == 404 else tuple(key for key in keys if key not in (secret.data or {}))
        if missing:
            what = "is not there" if secret == 404 else f"lacks {', '.join(missing)}"
            literals = " ".join(f"--from-literal={key}=" for key in keys)
            remedy = f"kubectl -n {namespace} create secret generic {name} {literals} (empty where it is not needed)"
            found.add("Secrets", False, f"Secret {namespace}/{name} {what}", remedy)
            return
    found.add("Secrets", True, f"{found.values['s3_secret']} and {found.values['hub_secret']} are there")


def check_serving(found: Findings) -> None:
    """Looks for what the deployment needs: KServe, the right to deploy, a runtime, and the serving pods' account."""
    names = ["KServe", "right to deploy", "runtime"]
    if not found.values["deploy"]:
        found.add("KServe", None, "not needed with deploy=false", required=False)
        return
    namespace = found.values["namespace"] or found.namespace
    why = ("" if found.cluster else NO_CLUSTER) or ("" if namespace else "the namespace is not known")
    if why:
        for name in names:
            found.add(name, None, why)
        return
    from nlp_pipeline.deploy.cluster import check_kserve

    ok, told = answered(check_kserve)
    found.add("KServe", ok, told or "it knows InferenceServices (serving.kserve.io/v1beta1)")
    check_right(found, namespace)
    if ok:
        check_runtime(found, namespace)
    else:
        found.add("runtime", None, "KServe is not there" if ok is False else "KServe can't be asked for")
    account = deploy_settings(found).serving_account
    if account or namespace != found.namespace:
        check_serving_place(found, namespace, account)


def check_right(found: Findings, namespace: str) -> None:
    """Looks whether the steps' account may deploy; of another account than the one that asks that is not known."""
    from nlp_pipeline.deploy.access import check_access

    account = f"system:serviceaccount:{found.namespace}:{found.settings.service_account or 'default-editor'}"
    ok, told = answered(check_access, namespace, forbidden=False)
    if ok is None:
        found.add("right to deploy", None, told)
    elif found.account and found.account != account:
        detail = f"{found.account} may{'' if ok else ' not'}; the steps run as {account}, of which it is not known"
        ask = f"kubectl auth can-i create inferenceservices -n {namespace} --as={account}"
        found.add("right to deploy", None, f"{detail}: {ask}")
    elif ok:
        found.add("right to deploy", True, f"{found.account or 'this account'} may, in namespace {namespace}")
    else:
        found.add("right to deploy", False, told, manifests(found, namespace))


def check_runtime(found: Findings, namespace: str) -> None:
    """Looks for the ServingRuntime."""
    from nlp_pipeline.deploy.cluster import choose_runtime

    ok, told = answered(choose_runtime, deploy_settings(found), namespace)
    found.add("runtime", ok, ", ".join(told) if ok else told)


def check_serving_place(found: Findings, namespace: str, account: str) -> None:
    """Looks for the claim and the service account of the serving pods."""
    from nlp_pipeline.deploy.cluster import check_place

    ok, told = answered(check_place, deploy_settings(found), namespace)
    claim = [] if found.values["model_store"] else [f"claim {found.values['volume_claim']}"]
    there = " and ".join([*claim, *([f"service account {account}"] if account else [])])
    found.add("serving pods", ok, told or f"{there} {'are' if claim and account else 'is'} in namespace {namespace}")


def may_make_runs(found: Findings, experiment_too: bool) -> tuple[bool | None, str]:
    """Tells whether the user may make runs, and why that is known; Kubeflow itself tells only when one is made.

    Kubeflow Pipelines asks Kubernetes for it. So can the user, if both know the user by the same name.

    Args:
        found: The findings.
        experiment_too: Whether the experiment is yet to be made.
    """
    user = signed_in_as(found)
    if found.cluster is None or not user or not found.account:
        return None, LATER
    if user != found.account:
        return None, f"you sign in as {user}, and Kubernetes knows you as {found.account}: {LATER}"
    from kubernetes import client

    from nlp_pipeline.deploy.cluster import call

    ask = client.AuthorizationV1Api().create_self_subject_access_review
    for resource in ["runs", *(["experiments"] if experiment_too else [])]:
        attributes = client.V1ResourceAttributes(
            namespace=found.namespace, group="pipelines.kubeflow.org", resource=resource, verb="create"
        )
        spec = client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
        ok, answer = answered(call, "asking what is allowed", ask, client.V1SelfSubjectAccessReview(spec=spec))
        if not ok:
            return None, LATER
        if not answer.status.allowed:
            return False, f"{user} may not create {resource} in namespace {found.namespace}"
    return True, f"{user} may make runs there"


def signed_in_as(found: Findings) -> str:
    """Returns whom Kubeflow knows the user as; empty where the sign-in does not tell."""
    header = found.connection.sign_in.headers.get("Authorization", "") if found.connection else ""
    if not header:
        given = found.settings.username
        return given if found.settings.password.get_secret_value() else ""
    try:
        claims = header.removeprefix("Bearer ").split(".")[1]
        return str(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["sub"])
    except (ValueError, LookupError, TypeError):
        return ""
