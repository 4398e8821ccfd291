"""`--doctor` on Vertex AI: whether all is there that a run needs, a line each; nothing is changed."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import quote

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.pipeline.compiling import check_vertex_installed
from nlp_pipeline.platforms import doctor as platforms
from nlp_pipeline.platforms.calls import NotFoundError
from nlp_pipeline.platforms.doctor import Finding
from nlp_pipeline.settings import PREFIX, Settings
from nlp_pipeline.vertex.connection import Connection, check_region, find_credentials
from nlp_pipeline.vertex.pipelines import check_parameters

# What a run can't do without; the first of them is Vertex AI's own.
APIS = ("aiplatform", "storage", "artifactregistry", "iam", "compute")
# What the user needs who starts runs and schedules.
RIGHTS = (
    *("aiplatform.pipelineJobs.create", "aiplatform.pipelineJobs.get", "aiplatform.pipelineJobs.list"),
    *("aiplatform.schedules.create", "aiplatform.schedules.list"),
)
WRITING = ("storage.objects.create", "storage.objects.get", "storage.objects.list", "storage.objects.delete")
# Multi-regions, by how the names of the regions in them begin.
MULTI_REGIONS = {"US": "us-", "EU": "europe-", "ASIA": "asia-"}
# Machines of these families share one quota for CPUs; each other family has its own.
COMMON_FAMILIES = ("n1", "e2")
REGISTRY = re.compile(
    r"(?P<place>[a-z0-9-]+)-docker\.pkg\.dev/(?P<project>[^/]+)/(?P<repository>[^/]+)/(?P<image>[^:@]+)"
    r"(?::(?P<tag>[^@]+))?(?:@(?P<digest>sha256:[0-9a-f]+))?"
)


def doctor(settings: Settings, values: dict[str, Any]) -> list[Finding]:
    """Checks what a run on Vertex AI needs."""
    check_vertex_installed()
    return Doctor(settings, values).examine()


class Doctor(platforms.Doctor):
    """The checks, and what one of them finds out for those that follow."""

    platform = "vertex"
    certain = ("credentials", "region", "parameters")
    connection: Connection | None = None  # None where no one is signed in, or no project known
    number = ""  # the project's; empty where it is not known

    def plan(self) -> Iterator[tuple[str, Callable[[], Finding]]]:
        """Yields the checks by name."""
        yield "credentials", self._check_credentials
        yield "project", self._check_project
        yield "APIs", self._check_apis
        yield "region", self._check_region
        yield "right to run", self._check_rights
        yield "bucket", self._check_bucket
        yield "right to write", self._check_writing
        yield "service account", self._check_account
        for metric, count in needed_quotas(self.values):
            yield f"quota {metric.replace('_', ' ')}", partial(self._check_quota, metric, count)
        yield "parameters", self._check_parameters
        yield "image", self._check_image
        yield "serving image", self._check_serving_image

    @property
    def google(self) -> Connection:
        """The connection, which a check needs."""
        if self.connection is None:
            raise PipelineError("not signed in, or the project is not known")
        return self.connection

    @property
    def who(self) -> str:
        """Who is signed in, for messages."""
        return self.google.who or "this user"

    def _lacking(self, service: str, path: str, rights: tuple[str, ...]) -> list[str]:
        body = {"permissions": list(rights)}
        answer = self.google.ask("asking what is allowed", service, f"{path}:testIamPermissions", body)
        return [right for right in rights if right not in answer.get("permissions", [])]

    def _check_credentials(self) -> Finding:
        from google.auth.transport.requests import Request

        project = self.settings.project or find_credentials()[1]
        connection = Connection(self.settings.model_copy(update={"project": project or "not-set"}))
        connection.call("asking for a token", lambda timeout: connection.credentials.refresh(Request()))
        self.connection = connection if project else None
        who = f"as {connection.who}" if connection.who else "those of gcloud auth application-default login"
        return Finding(True, who)

    def _check_project(self) -> Finding:
        if self.connection is None and self.result("credentials"):
            return Finding(False, "no project is set", f"give --project NAME, or set {PREFIX}PROJECT")
        name = self.google.project
        answer = self.google.ask("reading the project", "cloudresourcemanager", f"/v3/projects/{name}")
        self.number = str(answer["name"]).rpartition("/")[2]
        return Finding(True, f"{name} is there, number {self.number}")

    def _check_apis(self) -> Finding:
        place, hosts = f"projects/{self.google.project}/services", [f"{api}.googleapis.com" for api in APIS]
        names = [f"{place}/{host}" for host in hosts]
        answer = self.google.ask("asking for the APIs", "serviceusage", f"/v1/{place}:batchGet", names=names)
        enabled = {api["name"].rpartition("/")[2] for api in answer.get("services", []) if api["state"] == "ENABLED"}
        if missing := [host for host in hosts if host not in enabled]:
            enable = f"gcloud services enable {' '.join(missing)} --project {self.google.project}"
            return Finding(False, f"not enabled: {', '.join(missing)}", enable)
        return Finding(True, f"enabled: {', '.join(APIS)}")

    def _check_region(self) -> Finding:
        check_region(self.settings.region)
        return Finding(True, f"Vertex AI is in {self.settings.region}")

    def _check_rights(self) -> Finding:
        project = self.google.project
        if missing := self._lacking("cloudresourcemanager", f"/v3/projects/{project}", RIGHTS):
            remedy = f"ask an owner of project {project} for the role roles/aiplatform.user"
            return Finding(False, f"{self.who} lacks {', '.join(missing)}", remedy)
        return Finding(True, f"{self.who} may start runs and schedules")

    def _check_bucket(self) -> Finding:
        google, region = self.google, self.google.region
        if not self.settings.bucket:
            return Finding(False, "no bucket is set", f"give --bucket gs://NAME, or set {PREFIX}BUCKET")
        bucket = google.bucket
        try:
            google.call(f"looking for bucket {bucket.name}", bucket.reload, retry=None)
        except NotFoundError as error:
            place = f"--project {google.project} --location {region}"
            return Finding(False, str(error), f"gcloud storage buckets create gs://{bucket.name} {place}")
        location = str(bucket.location)
        places = f"gs://{bucket.name} is in {location}, and runs are in {region}"
        if location.lower() == region or region.startswith(MULTI_REGIONS.get(location, "nowhere")):
            return Finding(True, places)
        far = "what runs read and write crosses regions, which costs time and money"
        return Finding(False, f"{places}: {far}", required=False)

    def _check_writing(self) -> Finding:
        bucket, account = self.google.bucket, self.settings.service_account or "the project's default account"
        ask = bucket.test_iam_permissions
        allowed = self.google.call("asking what is allowed", ask, permissions=WRITING, retry=None)
        missing = [right for right in WRITING if right not in allowed]
        if self.who != account:  # the runs' own account is another, mostly
            may = f"{self.who} may{' not' if missing else ''}"
            return Finding(None, f"{may}; runs run as {account}, of which it is not known")
        if missing:
            remedy = f"grant it roles/storage.objectAdmin on gs://{bucket.name}"
            return Finding(False, f"{account} lacks {', '.join(missing)}", remedy)
        return Finding(True, f"{account}, which runs run as, may")

    def _check_account(self) -> Finding:
        account, note = self.settings.service_account, ""
        if not account:
            if self.connection and not self.number:
                raise PipelineError("the project's number is not known")
            account, note = f"{self.number}-compute@developer.gserviceaccount.com", ", the project's default"
        path = f"/v1/projects/-/serviceAccounts/{quote(account, safe='@')}"
        try:
            if self.google.ask("looking for the service account", "iam", path).get("disabled"):
                return Finding(False, f"{account} is disabled", f"gcloud iam service-accounts enable {account}")
        except NotFoundError:
            return Finding(False, f"{account} is not there", "give another with --service-account")
        except UsageError:  # who may not see it may be allowed to let runs run as it
            pass
        if self._lacking("iam", path, ("iam.serviceAccounts.actAs",)):
            grant = f"gcloud iam service-accounts add-iam-policy-binding {account} --role=roles/iam.serviceAccountUser"
            return Finding(False, f"{self.who} may not let runs run as {account}", f"{grant} --member=user:YOU")
        return Finding(True, f"runs may run as {account}{note}")

    def _check_quota(self, metric: str, count: int) -> Finding:
        google, api = self.google, "aiplatform.googleapis.com"
        path = f"/v1beta1/projects/{google.project}/services/{api}/consumerQuotaMetrics/{api}%2Fcustom_model_{metric}"
        try:
            answer = google.ask(f"asking for quota {metric}", "serviceusage", path)
        except NotFoundError as error:
            return Finding(None, str(error))
        limits = {
            bucket.get("dimensions", {}).get("region", ""): int(bucket["effectiveLimit"])
            for limit in answer.get("consumerQuotaLimits", [])
            for bucket in limit.get("quotaBuckets", [])
            if "effectiveLimit" in bucket
        }
        limit = limits.get(google.region, limits.get(""))
        if limit is None:
            return Finding(None, f"Google tells no limit for {google.region}")
        if 0 <= limit < count:
            remedy = f"ask for more: https://console.cloud.google.com/iam-admin/quotas?project={google.project}"
            return Finding(False, f"{limit} in {google.region}, and a run needs {count}", remedy)
        total = "no limit" if limit < 0 else str(limit)
        return Finding(True, f"{total} in {google.region}, a run needs {count}; what is in use is not told")

    def _check_parameters(self) -> Finding:
        if "train_data" not in self.chosen:
            return Finding(None, "a run needs --set train_data=gs://bucket/reviews.csv as well")
        check_parameters(self.chosen)
        return Finding(True, f"{len(self.chosen)} set, {len(self.values) - len(self.chosen)} by default")

    def _check_image(self) -> Finding:
        if image := self.settings.image:
            return self._find_image(image)
        return Finding(True, "none is set: steps install their packages when they start, which takes minutes")

    def _check_serving_image(self) -> Finding:
        if not self.values["deploy"]:
            return Finding(None, "not needed with deploy=false")
        if image := self.values["serving_image"]:
            return self._find_image(image)
        remedy = "build the Dockerfile's target torchserve, push it, and --set serving_image=NAME"
        return Finding(False, "deploy is true, and serving_image is not set", remedy)

    def _find_image(self, image: str) -> Finding:
        parts = REGISTRY.fullmatch(image)
        if parts is None:
            return Finding(None, f"{image}: not in Artifact Registry; whether it can be pulled shows in a run")
        repository = f"projects/{parts['project']}/locations/{parts['place']}/repositories/{parts['repository']}"
        version = f"versions/{parts['digest']}" if parts["digest"] else f"tags/{parts['tag'] or 'latest'}"
        path = f"/v1/{repository}/packages/{quote(parts['image'], safe='')}/{version}"
        try:
            self.google.ask(f"looking for {image}", "artifactregistry", path)
        except NotFoundError as error:
            return Finding(False, str(error), f"docker push {image}")
        return Finding(True, f"{image} is there")


def needed_quotas(values: dict[str, Any]) -> list[tuple[str, int]]:
    """Returns which quotas a run needs, each with how much of it; those of custom jobs and of endpoints."""
    needed = []
    for use, prefix, machines in (("training", "train", 1), ("serving", "serving", int(values["min_replicas"]))):
        if use == "serving" and not values["deploy"]:
            continue
        if family := re.fullmatch(r"([a-z0-9]+)-[a-z]+-([0-9]+)", values[f"{prefix}_machine_type"]):
            own = "" if family[1] in COMMON_FAMILIES else f"{family[1]}_"
            needed.append((f"{use}_{own}cpus", machines * int(family[2])))
        if count := int(values[f"{prefix}_gpus"]):
            kind = values[f"{prefix}_accelerator"].lower().replace("_tesla_", "_")
            needed.append((f"{use}_{kind}_gpus", machines * count))
    return needed
