"""`--doctor`: whether all is there that a run on Kubeflow needs, a line each; nothing is changed."""

import base64
import contextlib
import importlib.metadata
import json
import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.kubeflow.artifacts import AlteredError, open_store, parse_root, possible_roots
from nlp_pipeline.kubeflow.connection import Connection
from nlp_pipeline.kubeflow.doctor_cluster import ClusterDoctor
from nlp_pipeline.kubeflow.http import explain, http_client
from nlp_pipeline.platforms.calls import NotFoundError
from nlp_pipeline.platforms.doctor import Check
from nlp_pipeline.settings import PREFIX, Settings

# What the pipeline needs of Kubeflow Pipelines: names of claims and Secrets as parameters.
LEAST = (2, 5)
# From then on a Secret that a step would read need not exist.
OPTIONAL_SECRETS = (2, 15)
# Where Kubeflow Pipelines runs its pods where there is but one user.
ONE_USER = "kubeflow"
MAX_SKEW = 60


def doctor(settings: Settings, values: dict[str, Any]) -> list[Check]:
    """Checks what a run on Kubeflow needs. Nothing is changed, and no failure keeps it from the other checks.

    Raises:
        UsageError: A parameter is not in its range.
    """
    from nlp_pipeline.pipeline.parameters import check_ranges, pipeline_parameters

    check_ranges(values)
    defaults = {name: parameter.default for name, parameter in pipeline_parameters().items()}
    found = Doctor(settings, defaults | values, namespace=settings.namespace)
    found.check_server()
    found.check_sign_in()
    found.check_cluster()
    found.check_namespace()
    found.check_version()
    found.check_clock()
    found.check_volume()
    found.check_serving()
    found.check_object_store()
    found.check_image_name()
    return found.checks


@dataclass
class Doctor(ClusterDoctor):
    """The checks of Kubeflow Pipelines, of the object store, of the clock, and of the image's name.

    Attributes:
        connection: The connection to Kubeflow Pipelines; None where there is none.
        skew: Seconds by which the server's clock is ahead of this machine's; None where it does not tell.
    """

    connection: Connection | None = None
    skew: float | None = None

    def check_server(self) -> None:
        """Looks whether a server answers at the host, whatever it answers, and what its clock says."""
        host = self.settings.host
        if not host:
            self.add("server", False, "no host is set", f"set {PREFIX}HOST, as in https://kubeflow.example.com")
            return
        if not re.fullmatch(r"https?://[^@\s]+", host):
            self.add("server", False, "the host is no address", "write it as in https://kubeflow.example.com")
            return
        try:
            with http_client(self.settings, host) as client:
                begun = time.time()
                answer = client.get(host)
        except (httpx.HTTPError, httpx.InvalidURL, UsageError) as error:
            failed = error if isinstance(error, UsageError) else explain(host, error)
            remedy = "" if isinstance(failed, UsageError) else "is --host right, and the server up?"
            self.add("server", False, str(failed), remedy)
            return
        with contextlib.suppress(KeyError, ValueError, TypeError):
            # The header has whole seconds.
            server_time = parsedate_to_datetime(answer.headers["date"]).timestamp() + 0.5
            self.skew = server_time - (begun + time.time()) / 2
        warning = ", and whether it is the right one is not verified (--insecure)" if self.settings.insecure else ""
        self.add("server", True, f"{urlsplit(host).hostname} answers{warning}")

    def check_sign_in(self) -> None:
        """Looks whether Kubeflow Pipelines lets the user in."""
        if not self.checks[-1].ok:
            self.add("sign-in", None, "the server does not answer")
            return
        try:
            self.connection = Connection(self.settings)
        except PipelineError as error:
            self.add("sign-in", False, str(error))
            return
        self.add("sign-in", True, f"Kubeflow Pipelines answers {self.connection.sign_in.how}")
        self.namespace = self.settings.namespace or ("" if self.connection.multi_user else ONE_USER)

    def check_namespace(self) -> None:
        """Looks whether the user may see the namespace, and whether the experiment takes runs."""
        connection, namespace = self.connection, self.settings.namespace
        if connection is None:
            for name in ("namespace", "experiment"):
                self.add(name, None, "not signed in")
            return
        if connection.multi_user and not namespace:
            remedy = f"give --namespace NAME, or set {PREFIX}NAMESPACE: the dashboard shows it at its top"
            self.add("namespace", False, "this Kubeflow has several users, and no namespace is set", remedy)
            self.add("experiment", None, "the namespace is not known")
            return
        try:
            listing = connection.experiments.experiment_service_list_experiments
            experiments = list(connection.list_all("listing experiments", listing, "experiments", namespace=namespace))
        except PipelineError as error:
            remedy = "ask the profile's owner to add you as a contributor" if ": 403:" in str(error) else ""
            self.add("namespace", False, f"{namespace or 'Kubeflow'}: {error}", remedy)
            self.add("experiment", None, "the namespace's experiments can't be listed")
            return
        shown = f"{namespace} may be used" if connection.multi_user else "there is but one user, and none is needed"
        self.add("namespace", True, shown)
        name = self.settings.experiment.casefold()
        same = (experiment for experiment in experiments if (experiment.display_name or "").casefold() == name)
        self._check_experiment(next(same, None), connection.multi_user)

    def _check_experiment(self, experiment: Any, multi_user: bool) -> None:
        name = self.settings.experiment
        there = f"{name} is there" if experiment else f"{name} would be made"
        if experiment and str(experiment.storage_state) == "ARCHIVED":
            remedy = "restore it in the dashboard, or give --experiment NAME"
            self.add("experiment", False, f"{name} is archived, and takes no runs", remedy)
        elif not multi_user:
            self.add("experiment", True, there)
        else:
            needed = ["runs"] if experiment else ["runs", "experiments"]
            allowed, why = self.may_make(needed, self._signed_in_as())
            remedy = f"ask the owner of profile {self.settings.namespace} for the role kubeflow-edit"
            self.add("experiment", allowed, f"{there}; {why}", remedy if allowed is False else "")

    def _signed_in_as(self) -> str:
        """Returns whom Kubeflow knows the user as; empty where the sign-in does not tell."""
        header = self.connection.sign_in.headers.get("Authorization", "") if self.connection else ""
        if not header:
            return self.settings.username if self.settings.password.get_secret_value() else ""
        try:
            claims = header.removeprefix("Bearer ").split(".")[1]
            return str(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["sub"])
        except (ValueError, LookupError, TypeError):
            return ""

    def check_version(self) -> None:
        """Looks whether the server knows what the pipeline needs."""
        if self.connection is None:
            self.add("version", None, "not signed in")
            return
        health = self.connection.health
        tag = str(health.get("tag_name") or health.get("apiServerTagName") or "")
        match = re.match(r"v?(\d+)\.(\d+)", tag)
        version = (int(match[1]), int(match[2])) if match else None
        self.needs_secrets = version is not None and version < OPTIONAL_SECRETS
        shown = f"Kubeflow Pipelines {tag}, kfp {importlib.metadata.version('kfp')}"
        if version is None:
            commit = str(health.get("commit_sha", ""))[:12]
            what = f"the server tells {tag or 'nothing'!r}" + (f", commit {commit}" if commit else "")
            self.add("version", None, f"{what} for its version; Kubeflow Pipelines 2.5 or later is needed")
        elif version < LEAST:
            remedy = (
                "have it upgraded to 2.5 or later: older ones take no parameter for the names of claims and Secrets"
            )
            self.add("version", False, shown, remedy)
        else:
            older = "; before 2.15 a Secret must exist even where none is needed" * self.needs_secrets
            self.add("version", True, shown + older)

    def check_clock(self) -> None:
        """Looks whether this machine and the server agree on the time: tokens and signatures are for a time."""
        if self.skew is None:
            why = "the server tells no time" if self.checks[0].ok else "the server does not answer"
            self.add("clock", None, why, required=False)
        elif abs(self.skew) > MAX_SKEW:
            direction = "behind" if self.skew > 0 else "ahead of"
            detail = f"this machine's clock is {abs(self.skew):.0f} s {direction} the server's"
            self.add("clock", False, detail, "sudo timedatectl set-ntp true", required=False)
        else:
            self.add("clock", True, "within a minute of the server's", required=False)

    def check_object_store(self) -> None:
        """Looks whether the object store of the runs' artifacts can be read from here."""
        if not self.settings.s3_endpoint:
            why = f"{PREFIX}S3_ENDPOINT is not set; only --download needs it"
            self.add("object store", None, why, required=False)
            return
        several = self.connection is None or self.connection.multi_user
        failure = ""
        for root in possible_roots(None, self.settings.namespace if several else ""):
            bucket, prefix = parse_root(root)
            try:
                store = open_store(self.settings)
                listing = store.client.list_objects
                store.call(f"listing {root}", lambda: next(iter(listing(bucket, prefix=prefix)), None))  # noqa: B023
            except (PipelineError, AlteredError) as error:
                failure = failure or str(error)
                if not isinstance(error, (UsageError, NotFoundError)):
                    break
            else:
                self.add("object store", True, f"{store.address} shows {root}", required=False)
                return
        self.add("object store", False, failure, required=False)

    def check_image_name(self) -> None:
        """Looks at the image's name; that it can be pulled is known on the nodes alone."""
        from nlp_pipeline.pipeline.compiling import check_image

        image = self.settings.image
        if not image:
            self.add("image", True, "none is set: each step installs its packages when it starts", required=False)
            return
        try:
            check_image(image)
        except UsageError as error:
            self.add("image", False, str(error))
            return
        last = image.rpartition("/")[2]
        if "@" not in last and (last.partition(":")[2] or "latest") == "latest":
            detail = f"{image} is whatever is newest when a pod starts, so that a run can't be repeated"
            self.add("image", False, detail, "give it a tag of its own", required=False)
        else:
            self.add("image", True, f"{image} is a sound name; whether nodes can pull it shows only there")
