"""`--doctor`: whether all is there that a run on Kubeflow needs, a line each; nothing is changed."""

import base64
import contextlib
import importlib.metadata
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import httpx

from nlp_pipeline.deploy import cluster
from nlp_pipeline.deploy.cluster import NotThereError, api, apply_manifests, call, missing_access
from nlp_pipeline.deploy.settings import DeploySettings
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.kubeflow.artifacts import open_store, parse_root, possible_roots
from nlp_pipeline.kubeflow.connection import Connection
from nlp_pipeline.kubeflow.http import explain, http_client, read_host
from nlp_pipeline.kubeflow.pipelines import find_experiment
from nlp_pipeline.platforms.calls import NotFoundError
from nlp_pipeline.platforms.doctor import Check, Findings
from nlp_pipeline.settings import PREFIX, Settings

# What the pipeline needs of Kubeflow Pipelines: names of claims and Secrets as parameters.
LEAST = (2, 5)
# From then on a Secret that a step would read need not exist.
OPTIONAL_SECRETS = (2, 15)
# Where Kubeflow Pipelines runs its pods where there is but one user.
ONE_USER = "kubeflow"
MAX_SKEW = 60
LATER = "whether you may make runs there shows when one is made"
SHARED = "ReadWriteMany"
# Without these a run can do.
OPTIONAL = ("Kubernetes", "clock", "access mode", "object store")
# Where an error says that it is not as it should be; elsewhere, that it can't be known.
TOLD_BY_ERRORS = ("server", "sign-in", "object store", "image")


class UnknownError(PipelineError):
    """Something can't be known, and why."""


def doctor(settings: Settings, values: dict[str, Any]) -> list[Check]:
    """Checks what a run on Kubeflow needs. Nothing is changed, and no failure keeps it from the other checks."""
    from nlp_pipeline.pipeline.parameters import check_ranges, pipeline_parameters

    check_ranges(values)
    defaults = {name: parameter.default for name, parameter in pipeline_parameters().items()}
    return Doctor(settings, defaults | values, namespace=settings.namespace).examine()


@dataclass
class Doctor(Findings):
    """The checks. Each adds its lines, or raises why they can't be known.

    Attributes:
        connection: The connection to Kubeflow Pipelines; None where there is none.
        skew: Seconds by which the server's clock is ahead of this machine's; None where it does not tell.
        namespace: The namespace that the run's pods are in; empty where it is not known.
        needs_secrets: Whether the Secrets that steps name must exist.
        account: Whom Kubernetes knows the user as; empty where it does not tell.
    """

    connection: Connection | None = None
    skew: float | None = None
    namespace: str = ""
    needs_secrets: bool = False
    account: str = ""

    def examine(self) -> list[Check]:
        """Does all checks, in the order in which they depend on each other."""
        self._look(self._check_server, "server")
        self._look(self._check_sign_in, "sign-in")
        self._look(self._check_cluster, "Kubernetes")
        self._look(self._check_namespace, "namespace", "experiment")
        self._look(self._check_version, "version")
        self._look(self._check_clock, "clock")
        self._look(self._check_claim, "claim", "access mode")
        if self.needs_secrets:
            self._look(self._check_secrets, "Secrets")
        if self.values["deploy"]:
            self._look(self._check_kserve, "KServe")
            self._look(self._check_right, "right to deploy")
            self._look(self._check_runtime, "runtime")
            self._look(self._check_serving_pods, "serving pods")
        else:
            self.add("KServe", None, "not needed with deploy=false", required=False)
        self._look(self._check_object_store, "object store")
        self._look(self._check_image, "image")
        return self.checks

    def _look(self, check: Callable[[], None], *names: str) -> None:
        """Does a check of some names; an error is about those that it has added no line for."""
        try:
            check()
        except PipelineError as error:
            is_known = isinstance(error, NotThereError) or names[0] in TOLD_BY_ERRORS
            ok = False if is_known and not isinstance(error, UnknownError) else None
            for name in names:
                if name not in {check.name for check in self.checks}:
                    self.add(name, ok, str(error), required=name not in OPTIONAL)

    def _is_well(self, name: str) -> bool:
        return any(check.ok for check in self.checks if check.name == name)

    def _signed_in(self) -> Connection:
        if self.connection is None:
            raise UnknownError("not signed in")
        return self.connection

    def _known(self, namespace: str) -> str:
        """Returns a namespace that Kubernetes can be asked about."""
        if not self._is_well("Kubernetes"):
            raise UnknownError("Kubernetes can't be asked")
        if not namespace:
            raise UnknownError("the namespace is not known")
        return namespace

    # Kubeflow Pipelines

    def _check_server(self) -> None:
        host = read_host(self.settings.host)
        try:
            with http_client(self.settings, host) as client:
                begun = time.time()
                answer = client.get(host)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            self.add("server", False, str(explain(host, error)), "is --host right, and the server up?")
            return
        with contextlib.suppress(KeyError, ValueError, TypeError):
            # The header has whole seconds.
            server_time = parsedate_to_datetime(answer.headers["date"]).timestamp() + 0.5
            self.skew = server_time - (begun + time.time()) / 2
        warning = ", and whether it is the right one is not verified (--insecure)" if self.settings.insecure else ""
        self.add("server", True, f"{urlsplit(host).hostname} answers{warning}")

    def _check_sign_in(self) -> None:
        if not self._is_well("server"):
            raise UnknownError("the server does not answer")
        self.connection = Connection(self.settings)
        self.add("sign-in", True, f"Kubeflow Pipelines answers {self.connection.sign_in.how}")
        self.namespace = self.settings.namespace or ("" if self.connection.multi_user else ONE_USER)

    def _check_namespace(self) -> None:
        connection, namespace = self._signed_in(), self.settings.namespace
        if connection.multi_user and not namespace:
            remedy = f"give --namespace NAME, or set {PREFIX}NAMESPACE: the dashboard shows it at its top"
            self.add("namespace", False, "this Kubeflow has several users, and no namespace is set", remedy)
            raise UnknownError("the namespace is not known")
        try:
            experiment = find_experiment(connection, self.settings.experiment, fold=str.casefold)
        except PipelineError as error:
            remedy = "ask the profile's owner to add you as a contributor" if ": 403:" in str(error) else ""
            self.add("namespace", False, f"{namespace or 'Kubeflow'}: {error}", remedy)
            raise UnknownError("the namespace's experiments can't be listed") from None
        alone = "there is but one user, and none is needed"
        self.add("namespace", True, f"{namespace} may be used" if connection.multi_user else alone)
        self._check_experiment(experiment, connection)

    def _check_experiment(self, experiment: Any, connection: Connection) -> None:
        name, user = self.settings.experiment, self._signed_in_as(connection)
        there = f"{name} is there" if experiment else f"{name} would be made"
        if experiment and str(experiment.storage_state) == "ARCHIVED":
            remedy = "restore it in the dashboard, or give --experiment NAME"
            self.add("experiment", False, f"{name} is archived, and takes no runs", remedy)
        elif not connection.multi_user:
            self.add("experiment", True, there)
        elif not user or user != self.account:
            others = f"you sign in as {user}, and Kubernetes knows you as {self.account}: "
            self.add("experiment", None, f"{there}; {others if user and self.account else ''}{LATER}")
        elif denied := [kind for kind in ("runs", "experiments")[: 1 if experiment else 2] if not self._may_make(kind)]:
            remedy = f"ask the owner of profile {self.namespace} for the role kubeflow-edit"
            may_not = f"{user} may not create {denied[0]} in namespace {self.namespace}"
            self.add("experiment", False, f"{there}; {may_not}", remedy)
        else:
            self.add("experiment", True, f"{there}; {user} may make runs there")

    def _signed_in_as(self, connection: Connection) -> str:
        """Returns whom Kubeflow knows the user as; empty where the sign-in does not tell."""
        header = connection.sign_in.headers.get("Authorization", "")
        if not header:
            return self.settings.username if self.settings.password.get_secret_value() else ""
        try:
            claims = header.removeprefix("Bearer ").split(".")[1]
            return str(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["sub"])
        except (ValueError, LookupError, TypeError):
            return ""

    def _may_make(self, resource: str) -> bool:
        """Asks Kubernetes, as Kubeflow Pipelines does, which itself tells only when something is made."""
        attributes = {"group": "pipelines.kubeflow.org", "resource": resource, "verb": "create"}
        review = {"spec": {"resourceAttributes": {**attributes, "namespace": self.namespace}}}
        ask = api("AuthorizationV1Api").create_self_subject_access_review
        return bool(call("asking what is allowed", ask, review).status.allowed)

    def _check_version(self) -> None:
        health = self._signed_in().health
        tag = str(health.get("tag_name") or health.get("apiServerTagName") or "")
        match = re.match(r"v?(\d+)\.(\d+)", tag)
        if not match:
            commit = f", commit {str(health['commit_sha'])[:12]}" if "commit_sha" in health else ""
            needed = "Kubeflow Pipelines 2.5 or later is needed"
            raise UnknownError(f"the server tells {tag or 'nothing'!r}{commit} for its version; {needed}")
        version = int(match[1]), int(match[2])
        self.needs_secrets = version < OPTIONAL_SECRETS
        older = "; before 2.15 a Secret must exist even where none is needed" * self.needs_secrets
        remedy = "have it upgraded to 2.5 or later: older ones take no parameter for the names of claims and Secrets"
        detail = f"Kubeflow Pipelines {tag}, kfp {importlib.metadata.version('kfp')}{older}"
        self.add("version", version >= LEAST, detail, remedy if version < LEAST else "")

    def _check_clock(self) -> None:
        if self.skew is None:
            raise UnknownError(f"the server {'tells no time' if self._is_well('server') else 'does not answer'}")
        if abs(self.skew) > MAX_SKEW:
            direction = "behind" if self.skew > 0 else "ahead of"
            detail = f"this machine's clock is {abs(self.skew):.0f} s {direction} the server's"
            self.add("clock", False, detail, "sudo timedatectl set-ntp true", required=False)
        else:
            self.add("clock", True, "within a minute of the server's", required=False)

    # The cluster, where there is a kubeconfig, or this is a pod

    def _check_cluster(self) -> None:
        cluster.connect()
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        reviews = api("AuthenticationV1Api")
        where = reviews.api_client.configuration.host
        try:
            review = reviews.create_self_subject_review({}, _request_timeout=10)
            self.account = review.status.user_info.username or ""
        except ApiException as error:
            if error.status == 401:
                refused = f"{where} refuses the kubeconfig's credentials"
                self.add("Kubernetes", False, refused, "kubectl auth whoami, and sign in anew", required=False)
                return
            # Kubernetes before 1.28 does not know the question, and it may be forbidden.
        except HTTPError as error:
            raise UnknownError(f"{where} can't be reached ({getattr(error, 'reason', error)})") from None
        known = f"{where} answers{f', as {self.account}' if self.account else ''}"
        detail = f"{known}; whether it is the cluster of this Kubeflow is for you to know"
        self.add("Kubernetes", True, detail, required=False)

    def _check_claim(self) -> None:
        name, namespace = self.values["volume_claim"], self._known(self.namespace)
        read = api("CoreV1Api").read_namespaced_persistent_volume_claim
        claim = call(f"looking for claim {name}", read, name, namespace, expected=(404,))
        if claim == 404:
            remedy = apply_manifests(namespace, f" --set volume_claim={name}")
            self.add("claim", False, f"namespace {namespace} has no PersistentVolumeClaim {name}", remedy)
            raise UnknownError("there is no claim")
        phase = (claim.status and claim.status.phase) or "of unknown phase"
        if claim.metadata.deletion_timestamp or phase == "Lost":
            what = "is being deleted" if claim.metadata.deletion_timestamp else "has lost its volume"
            remedy = "wait until it is gone, and make another of its name"
            self.add("claim", False, f"{namespace}/{name} {what}", remedy)
        else:
            self.add("claim", True, f"{namespace}/{name} is {phase}")
        modes = (claim.spec and claim.spec.access_modes) or []
        writable = any(mode.startswith("ReadWrite") for mode in modes)
        another = f"use a claim of a storage class that has {SHARED}"
        if SHARED in modes:
            self.add("access mode", True, SHARED, required=False)
        elif modes:
            why = "steps and serving pods must all run on one node" if writable else "steps can't write"
            self.add("access mode", False, f"{', '.join(modes)}: {why}", another, required=not writable)
        else:
            raise UnknownError("the claim tells none")

    def _check_secrets(self) -> None:
        from nlp_pipeline.pipeline.kubeflow import HUB_KEYS, S3_KEYS

        namespace = self._known(self.namespace)
        for parameter, keys in (("s3_secret", S3_KEYS), ("hub_secret", HUB_KEYS)):
            name = self.values[parameter]
            read = api("CoreV1Api").read_namespaced_secret
            secret = call(f"looking for Secret {name}", read, name, namespace, expected=(404,))
            lacking = [key for key in keys if secret == 404 or key not in (secret.data or {})]
            if lacking:
                what = "is not there" if secret == 404 else f"lacks {', '.join(lacking)}"
                literals = " ".join(f"--from-literal={key}=" for key in keys)
                create = f"kubectl -n {namespace} create secret generic {name} {literals}"
                remedy = f"{create} (empty where it is not needed)"
                self.add("Secrets", False, f"Secret {namespace}/{name} {what}", remedy)
                return
        self.add("Secrets", True, f"{self.values['s3_secret']} and {self.values['hub_secret']} are there")

    # What the deployment needs

    @cached_property
    def _deploy_settings(self) -> DeploySettings:
        return DeploySettings(**{item.name: self.values[item.name] for item in fields(DeploySettings)})

    @property
    def _serving_namespace(self) -> str:
        return self.values["namespace"] or self.namespace

    def _check_kserve(self) -> None:
        self._known(self._serving_namespace)
        cluster.check_kserve()
        self.add("KServe", True, "it knows InferenceServices (serving.kserve.io/v1beta1)")

    def _check_right(self) -> None:
        namespace = self._known(self._serving_namespace)
        steps = f"system:serviceaccount:{self.namespace}:{self.settings.service_account or 'default-editor'}"
        refused = missing_access(namespace)
        if self.account and self.account != steps:
            ask = f"kubectl auth can-i create inferenceservices -n {namespace} --as={steps}"
            may = f"{self.account} may{' not' if refused else ''}"
            raise UnknownError(f"{may}; the steps run as {steps}, of which it is not known: {ask}")
        if refused:
            self.add("right to deploy", False, refused, apply_manifests(namespace))
        else:
            self.add("right to deploy", True, f"{self.account or 'this account'} may, in namespace {namespace}")

    def _check_runtime(self) -> None:
        namespace = self._known(self._serving_namespace)
        if not self._is_well("KServe"):
            raise UnknownError("KServe is not known to be there")
        self.add("runtime", True, ", ".join(cluster.choose_runtime(self._deploy_settings, namespace)))

    def _check_serving_pods(self) -> None:
        account = self._deploy_settings.serving_account
        if not account and self._serving_namespace == self.namespace:
            return
        namespace = self._known(self._serving_namespace)
        cluster.check_place(self._deploy_settings, namespace)
        claim = [] if self.values["model_store"] else [f"claim {self.values['volume_claim']}"]
        needed = [*claim, *([f"service account {account}"] if account else [])]
        there = f"{' and '.join(needed)} {'are' if len(needed) > 1 else 'is'} in namespace {namespace}"
        self.add("serving pods", True, there)

    # The rest

    def _check_object_store(self) -> None:
        if not self.settings.s3_endpoint:
            raise UnknownError(f"{PREFIX}S3_ENDPOINT is not set; only --download needs it")
        store = open_store(self.settings)
        several = self.connection is None or self.connection.multi_user
        failures = []
        for root in possible_roots(None, self.settings.namespace if several else ""):
            try:
                store.list(*parse_root(root), recursive=False)
            except (NotFoundError, UsageError) as error:
                failures.append(error)  # a user may be allowed the namespace's own root alone
            else:
                self.add("object store", True, f"{store.address} shows {root}", required=False)
                return
        raise failures[0]

    def _check_image(self) -> None:
        from nlp_pipeline.pipeline.compiling import check_image

        image = self.settings.image
        if not image:
            self.add("image", True, "none is set: each step installs its packages when it starts", required=False)
            return
        check_image(image)
        last = image.rpartition("/")[2]
        if "@" not in last and (last.partition(":")[2] or "latest") == "latest":
            detail = f"{image} is whatever is newest when a pod starts, so that a run can't be repeated"
            self.add("image", False, detail, "give it a tag of its own", required=False)
        else:
            self.add("image", True, f"{image} is a sound name; whether nodes can pull it shows only there")
