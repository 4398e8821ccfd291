"""`--doctor`: whether all is there that a run on Kubeflow needs, a line each; nothing is changed."""

import importlib.metadata
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

from nlp_pipeline.deploy import cluster
from nlp_pipeline.deploy.cluster import ACCESS, api, apply_manifests, call
from nlp_pipeline.deploy.settings import DeploySettings
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.kubeflow.accounts import ONE_USER, steps_account
from nlp_pipeline.kubeflow.connection import Connection
from nlp_pipeline.kubeflow.nodes import check_nodes
from nlp_pipeline.kubeflow.pipelines import CPU_INDEX, CUDA, find_need_of_image, pipeline_of
from nlp_pipeline.pipeline.parameters import check_ranges
from nlp_pipeline.pipeline.pods import SECRETS
from nlp_pipeline.platforms import doctor as platforms
from nlp_pipeline.platforms.doctor import Finding
from nlp_pipeline.settings import PREFIX, Settings
from nlp_pipeline.train_job.access import ACCESS as TRAIN_JOB_ACCESS
from nlp_pipeline.train_job.access import find_runtime

# What the pipeline needs of Kubeflow Pipelines: names of claims and Secrets as parameters.
LEAST = (2, 5)
# From then on a Secret that a step would read need not exist.
OPTIONAL_SECRETS = (2, 15)
SHARED = "ReadWriteMany"


def doctor(settings: Settings, values: dict[str, Any]) -> list[Finding]:
    """Checks what a run on Kubeflow needs."""
    check_ranges({**values, "namespace": values.get("namespace") or settings.namespace}, pipeline_of(settings))
    return Doctor(settings, values).examine()


class Doctor(platforms.Doctor):
    """The checks, and what one of them finds out for those that follow."""

    platform = "kubeflow"
    optional = ("Kubernetes",)
    certain = ("sign-in",)
    connection: Connection | None = None
    namespace = ""  # of the run's pods; empty where it is not known
    needs_secrets = False  # whether the Secrets that steps name must exist
    account = ""  # whom Kubernetes knows the user as; empty where it does not tell
    claim: Any = None  # the volume's; None where it is not there, or not known

    def plan(self) -> Iterator[tuple[str, Callable[[], Finding]]]:
        """Yields the checks by name."""
        yield "sign-in", self._check_sign_in
        yield "Kubernetes", self._check_cluster
        yield "namespace", self._check_namespace
        yield "version", self._check_version
        yield "claim", self._check_claim
        yield "access mode", self._check_access_mode
        if self.needs_secrets:
            yield "Secrets", self._check_secrets
        if self.values.get("train_nodes", 1) > 1:
            yield "training runtime", self._check_training_runtime
            train = " --set train_nodes=2"
            yield "right to train", lambda: self._find_refusals(self._known(self.namespace), TRAIN_JOB_ACCESS, train)
        if "deploy" in self.values:
            yield "KServe", self._check_kserve
        if self.values.get("deploy"):
            yield "right to deploy", lambda: self._find_refusals(self._known(self._serving_namespace), ACCESS)
            yield "runtime", self._check_runtime
            if self._deploy_settings.serving_account or self._serving_namespace != self.namespace:
                yield "serving pods", self._check_serving_pods
        yield "nodes", self._check_nodes
        yield "image", self._check_image

    @property
    def _signed_in(self) -> Connection:
        if self.connection is None:
            raise PipelineError("not signed in")
        return self.connection

    def _known(self, namespace: str) -> str:
        """Returns a namespace that Kubernetes can be asked about."""
        if not self.result("Kubernetes"):
            raise PipelineError("Kubernetes can't be asked")
        if not namespace:
            raise PipelineError("the namespace is not known")
        return namespace

    # Kubeflow Pipelines

    def _check_sign_in(self) -> Finding:
        self.connection = Connection(self.settings)
        self.namespace = self.connection.namespace or ("" if self.connection.multi_user else ONE_USER)
        warning = ", and whether it is the right server is not verified (--insecure)" if self.settings.insecure else ""
        return Finding(True, f"Kubeflow Pipelines answers {self.connection.sign_in.how}{warning}")

    def _check_namespace(self) -> Finding:
        connection = self._signed_in
        namespace = connection.namespace
        if connection.multi_user and not namespace:
            remedy = f"give --namespace NAME, or set {PREFIX}NAMESPACE: the dashboard shows it at its top"
            return Finding(False, "this Kubeflow has several users, and no namespace is set", remedy)
        name = self.settings.experiment
        try:
            experiment = connection.find("experiments", name, namespace=namespace)
        except PipelineError as error:
            remedy = "ask the profile's owner to add you as a contributor" if ": 403:" in str(error) else ""
            return Finding(False, f"{namespace or 'Kubeflow'}: {error}", remedy)
        if experiment and str(experiment.storage_state) == "ARCHIVED":
            remedy = "restore it in the dashboard, or give --experiment NAME"
            return Finding(False, f"experiment {name} is archived, and takes no runs", remedy)
        usable = f"{namespace} may be used" if connection.multi_user else "there is but one user, and none is needed"
        return Finding(True, f"{usable}; experiment {name} {'is there' if experiment else 'would be made'}")

    def _check_version(self) -> Finding:
        health = self._signed_in.health
        tag = str(health.get("tag_name") or health.get("apiServerTagName") or "")
        match = re.match(r"v?(\d+)\.(\d+)", tag)
        if not match:
            commit = f", commit {str(health['commit_sha'])[:12]}" if "commit_sha" in health else ""
            needed = "Kubeflow Pipelines 2.5 or later is needed"
            return Finding(None, f"the server tells {tag or 'nothing'!r}{commit} for its version; {needed}")
        version = int(match[1]), int(match[2])
        self.needs_secrets = version < OPTIONAL_SECRETS
        older = "; before 2.15 a Secret must exist even where none is needed" * self.needs_secrets
        remedy = "have it upgraded to 2.5 or later: older ones take no parameter for the names of claims and Secrets"
        detail = f"Kubeflow Pipelines {tag}, kfp {importlib.metadata.version('kfp')}{older}"
        return Finding(version >= LEAST, detail, remedy)

    # The cluster, where there is a kubeconfig, or this is a pod

    def _check_cluster(self) -> Finding:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        cluster.connect()
        reviews = api("AuthenticationV1Api")
        where = reviews.api_client.configuration.host
        try:
            review = reviews.create_self_subject_review({}, _request_timeout=10)
            self.account = review.status.user_info.username or ""
        except ApiException as error:
            # Kubernetes before 1.28 does not know the question, and it may be forbidden.
            if error.status == 401:
                refused = f"{where} refuses the kubeconfig's credentials"
                return Finding(False, refused, "kubectl auth whoami, and sign in anew")
        except HTTPError as error:
            return Finding(None, f"{where} can't be reached ({getattr(error, 'reason', error)})")
        known = f"{where} answers{f', as {self.account}' if self.account else ''}"
        return Finding(True, f"{known}; whether it is the cluster of this Kubeflow is for you to know")

    def _check_claim(self) -> Finding:
        name, namespace = self.values["volume_claim"], self._known(self.namespace)
        read = api("CoreV1Api").read_namespaced_persistent_volume_claim
        claim = call(f"looking for claim {name}", read, name, namespace, expected=(404,))
        if claim == 404:
            remedy = apply_manifests(namespace, f" --set volume_claim={name}")
            return Finding(False, f"namespace {namespace} has no PersistentVolumeClaim {name}", remedy)
        self.claim = claim
        phase = (claim.status and claim.status.phase) or "of unknown phase"
        if claim.metadata.deletion_timestamp or phase == "Lost":
            what = "is being deleted" if claim.metadata.deletion_timestamp else "has lost its volume"
            return Finding(False, f"{namespace}/{name} {what}", "wait until it is gone, and make another of its name")
        return Finding(True, f"{namespace}/{name} is {phase}")

    def _check_access_mode(self) -> Finding:
        self._known(self.namespace)
        modes = (self.claim and self.claim.spec and self.claim.spec.access_modes) or []
        if not modes:
            return Finding(None, "the claim tells none" if self.claim else "there is no claim", required=False)
        if SHARED in modes:
            return Finding(True, SHARED, required=False)
        writable = any(mode.startswith("ReadWrite") for mode in modes)
        why = "steps and serving pods must all run on one node" if writable else "steps can't write"
        another = f"use a claim of a storage class that has {SHARED}"
        return Finding(False, f"{', '.join(modes)}: {why}", another, required=not writable)

    def _check_secrets(self) -> Finding:
        namespace, read = self._known(self.namespace), api("CoreV1Api").read_namespaced_secret
        names = {parameter: self.values[parameter] for parameter in SECRETS if parameter in self.values}
        for parameter, name in names.items():
            _, keys = SECRETS[parameter]
            secret = call(f"looking for Secret {name}", read, name, namespace, expected=(404,))
            if lacking := [key for key in keys if secret == 404 or key not in (secret.data or {})]:
                what = "is not there" if secret == 404 else f"lacks {', '.join(lacking)}"
                literals = " ".join(f"--from-literal={key}=" for key in keys)
                create = f"kubectl -n {namespace} create secret generic {name} {literals}"
                return Finding(False, f"Secret {namespace}/{name} {what}", f"{create} (empty where it is not needed)")
        return Finding(True, f"{', '.join(names.values())} are there")

    # What the training on several nodes needs

    def _check_training_runtime(self) -> Finding:
        kind, name = find_runtime(self.values["train_runtime"], self._known(self.namespace))
        return Finding(True, f"{kind} {name}")

    def _find_refusals(self, namespace: str, access: dict[tuple[str, str], list[str]], more: str = "") -> Finding:
        """Looks for what the steps' account may not do in a namespace; `more` is what `--manifests` must be given."""
        steps = steps_account(self.settings, self._signed_in.multi_user, self.namespace)
        try:
            refused = ", ".join(steps.refusals(namespace, self.account == steps.username, access))
        except UsageError as error:
            group, resource = next(iter(access))
            ask = f"kubectl auth can-i create {resource}.{group} -n {namespace} --as={steps.username}"
            return Finding(None, f"of {steps}, which the steps run as, it is not known ({error}): {ask}")
        if refused:
            remedy = apply_manifests(namespace, f"{more} --steps-account {steps}")
            return Finding(False, f"{steps}, which the steps run as, may not {refused} in {namespace}", remedy)
        return Finding(True, f"{steps}, which the steps run as, may in namespace {namespace}")

    # What the deployment needs

    @cached_property
    def _deploy_settings(self) -> DeploySettings:
        return DeploySettings.of(self.values)

    @property
    def _serving_namespace(self) -> str:
        return self.values["namespace"] or self.namespace

    def _check_kserve(self) -> Finding:
        if not self.values["deploy"]:
            return Finding(None, "not needed with deploy=false")
        self._known(self._serving_namespace)
        cluster.check_kserve()
        return Finding(True, "it knows InferenceServices (serving.kserve.io/v1beta1)")

    def _check_runtime(self) -> Finding:
        namespace = self._known(self._serving_namespace)
        if not self.result("KServe"):
            return Finding(None, "KServe is not known to be there")
        return Finding(True, cluster.choose_runtime(self._deploy_settings, namespace))

    def _check_serving_pods(self) -> Finding:
        namespace = self._known(self._serving_namespace)
        cluster.check_place(self._deploy_settings, namespace)
        return Finding(True, f"what they need is in namespace {namespace}")

    def _check_nodes(self) -> Finding:
        self._known(self.namespace)
        return check_nodes(self.values)

    def _check_image(self) -> Finding:
        if image := self.settings.image:
            return Finding(True, f"{image}; whether nodes can pull it shows only there")
        if needing := find_need_of_image(self.values):
            return Finding(False, f"none is set, and {needing} needs one", "build one, and give --image")
        installs = "none is set: each step installs its packages when it starts"
        if self.values.get("train_gpus") != "0":
            return Finding(True, installs)
        name = self.values["environment_config"]
        try:
            read = api("CoreV1Api").read_namespaced_config_map
            config = call(f"looking for ConfigMap {name}", read, name, self._known(self.namespace), expected=(404,))
        except PipelineError as error:
            return Finding(None, f"{installs}; {CUDA}, unless ConfigMap {name} has {CPU_INDEX} ({error})")
        if config == 404 or not {CPU_INDEX, "PIP_INDEX_URL"} & set(config.data or {}):
            remedy = f"name torch's CPU index as {CPU_INDEX} in ConfigMap {self.namespace}/{name}, or give --image"
            return Finding(False, f"{installs}; {CUDA}", remedy, required=False)
        return Finding(True, f"{installs}, from the index that ConfigMap {self.namespace}/{name} names")
