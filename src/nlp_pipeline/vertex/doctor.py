"""`--doctor` on Vertex AI: whether all is there that a run needs, a line each; nothing is changed."""

import difflib
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.pipeline.compiling import check_compiled, check_vertex_installed, compiled_path
from nlp_pipeline.pipeline.parameters import pipeline_parameters
from nlp_pipeline.platforms.calls import NotFoundError
from nlp_pipeline.platforms.doctor import Check, Findings
from nlp_pipeline.settings import PREFIX, Settings
from nlp_pipeline.vertex.connection import Connection, find_credentials
from nlp_pipeline.vertex.pipelines import check_parameters

NOT_SIGNED_IN = "not signed in, or the project is not known"
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


def doctor(settings: Settings, values: dict[str, Any]) -> list[Check]:
    """Checks what a run on Vertex AI needs. Nothing is changed, and no failure keeps it from the other checks.

    Args:
        settings: The settings.
        values: The pipeline's parameters that the user set.

    Returns:
        The checks, in the order in which they depend on each other.
    """
    check_vertex_installed()
    defaults = {name: parameter.default for name, parameter in pipeline_parameters("vertex").items()}
    found = Findings(settings, defaults | values)
    connection = sign_in(found)
    if connection is None:
        for name in ("APIs", "region", "right to run", "bucket", "bucket's region", "right to write"):
            found.add(name, None, NOT_SIGNED_IN, required=name != "bucket's region")
        for name in ("service account", "quota"):
            found.add(name, None, NOT_SIGNED_IN)
    else:
        number = check_project(found, connection)
        check_apis(found, connection)
        check_region(found, connection)
        check_rights(found, connection)
        check_bucket(found, connection)
        check_account(found, connection, number)
        check_quotas(found, connection)
    check_values(found, values)
    check_compiled_file(found)
    check_images(found, connection)
    return found.checks


def answered(ask: Callable[..., Any], *values: Any, **named: Any) -> tuple[bool | None, Any]:
    """Asks something.

    Returns:
        True and the answer; or, with what went wrong, False where it is not there, and None where that can't be known.
    """
    try:
        return True, ask(*values, **named)
    except NotFoundError as error:
        return False, str(error)
    except PipelineError as error:
        return None, str(error)


def lacking(connection: Connection, service: str, path: str, rights: tuple[str, ...], **query: Any) -> tuple[Any, Any]:
    """Asks which of some rights the user lacks; returns what `answered` does."""
    ok, answer = answered(connection.ask, "asking what is allowed", service, path, **query)
    return ok, [right for right in rights if right not in answer.get("permissions", [])] if ok else answer


def sign_in(found: Findings) -> Connection | None:
    """Looks whether there are credentials for which Google gives a token, and a project; returns the connection."""
    from google.auth.transport.requests import Request

    settings = found.settings
    try:
        credentials, project = find_credentials()
        project = settings.project or project
        # That no project is known is the next check's.
        connection = Connection(settings.model_copy(update={"project": project or "not-set"}))
        connection.call("asking for a token", lambda timeout: credentials.refresh(Request()))
    except PipelineError as error:
        found.add("credentials", False, str(error))
        found.add("project", None, "not signed in")
        return None
    shown = f"as {connection.who}" if connection.who else "those of gcloud auth application-default login"
    found.add("credentials", True, shown)
    if not project:
        found.add("project", False, "no project is set", f"give --project NAME, or set {PREFIX}PROJECT")
        return None
    return connection


def check_project(found: Findings, connection: Connection) -> str:
    """Looks whether the project is there; returns its number, empty where it is not known."""
    name = connection.project
    ok, answer = answered(connection.ask, "reading the project", "cloudresourcemanager", f"/v3/projects/{name}")
    if not ok:
        found.add("project", ok, answer)
        return ""
    if (state := answer.get("state", "ACTIVE")) != "ACTIVE":
        found.add("project", False, f"{name} is {state.lower().replace('_', ' ')}")
        return ""
    number = str(answer["name"]).rpartition("/")[2]
    found.add("project", True, f"{name} is there, number {number}")
    return number


def check_apis(found: Findings, connection: Connection) -> None:
    """Looks whether the APIs that a run needs are enabled."""
    names = [f"projects/{connection.project}/services/{api}.googleapis.com" for api in APIS]
    path = f"/v1/projects/{connection.project}/services:batchGet"
    ok, answer = answered(connection.ask, "asking which APIs are enabled", "serviceusage", path, names=names)
    if not ok:
        found.add("APIs", None, answer)
        return
    enabled = {one["name"].rpartition("/")[2] for one in answer.get("services", []) if one.get("state") == "ENABLED"}
    missing = [f"{api}.googleapis.com" for api in APIS if f"{api}.googleapis.com" not in enabled]
    detail = f"not enabled: {', '.join(missing)}" if missing else f"enabled: {', '.join(APIS)}"
    remedy = f"gcloud services enable {' '.join(missing)} --project {connection.project}" if missing else ""
    found.add("APIs", not missing, detail, remedy)


def check_region(found: Findings, connection: Connection) -> None:
    """Looks whether Vertex AI answers in the region."""
    from google.cloud.aiplatform.constants.base import SUPPORTED_REGIONS

    region = connection.region
    if region not in SUPPORTED_REGIONS:
        near = difflib.get_close_matches(region, SUPPORTED_REGIONS, n=1)
        found.add("region", False, f"Vertex AI is not in {region}", f"did you mean {near[0]}?" if near else "")
        return
    listing = connection.service("Pipeline").list_pipeline_jobs
    request = {"parent": connection.parent, "page_size": 1}
    ok, answer = answered(connection.call, "listing runs", listing, request=request)
    ok = ok or (True if ": 403:" in str(answer) else ok)  # it answers, and the rights are the next check's
    found.add("region", ok, f"Vertex AI answers in {region}" if ok else answer)


def check_rights(found: Findings, connection: Connection) -> None:
    """Looks whether the user may start runs and schedules."""
    path = f"/v3/projects/{connection.project}:testIamPermissions"
    ok, missing = lacking(connection, "cloudresourcemanager", path, RIGHTS, body={"permissions": list(RIGHTS)})
    who = connection.who or "this user"
    if not ok:
        found.add("right to run", None, missing)
    elif missing:
        remedy = f"ask an owner of project {connection.project} for the role roles/aiplatform.user"
        found.add("right to run", False, f"{who} lacks {', '.join(missing)}", remedy)
    else:
        found.add("right to run", True, f"{who} may start runs and schedules")


def check_bucket(found: Findings, connection: Connection) -> None:
    """Looks for the bucket, where it is, and whether the user may write there."""
    region = connection.region
    if not found.settings.bucket:
        found.add("bucket", False, "no bucket is set", f"give --bucket gs://NAME, or set {PREFIX}BUCKET")
        found.add("bucket's region", None, "no bucket is set", required=False)
        found.add("right to write", None, "no bucket is set")
        return
    name = found.settings.bucket.removeprefix("gs://").partition("/")[0]
    path = f"/storage/v1/b/{quote(name)}"
    ok, answer = answered(connection.ask, f"looking for bucket {name}", "storage", path)
    make = f"gcloud storage buckets create gs://{name} --project {connection.project} --location {region}"
    found.add("bucket", ok, f"gs://{name} is there" if ok else answer, make if ok is False else "")
    if ok:
        location = str(answer.get("location", ""))
        near = location.lower() == region or region.startswith(MULTI_REGIONS.get(location, "nowhere"))
        far = "" if near else ": what runs read and write crosses regions, which costs time and money"
        found.add("bucket's region", near, f"{location}, and runs are in {region}{far}", required=False)
    else:
        found.add("bucket's region", None, "the bucket can't be read", required=False)
    if ok is False:
        found.add("right to write", None, "there is no bucket")
    else:
        check_writing(found, connection, name)


def check_writing(found: Findings, connection: Connection, bucket: str) -> None:
    """Looks whether the user may write to the bucket; the runs' own account is another, mostly."""
    path = f"/storage/v1/b/{quote(bucket)}/iam/testPermissions"
    ok, missing = lacking(connection, "storage", path, WRITING, permissions=list(WRITING))
    who, account = connection.who or "this user", found.settings.service_account
    if not ok:
        found.add("right to write", None, missing)
    elif who == account:
        detail = f"{who} lacks {', '.join(missing)}" if missing else f"{who}, which runs run as, may"
        found.add("right to write", not missing, detail, f"grant it roles/storage.objectAdmin on gs://{bucket}")
    else:
        may = f"{who} may{' not' if missing else ''}"
        account = account or "the project's default account"
        found.add("right to write", None, f"{may}; runs run as {account}, of which it is not known")


def check_account(found: Findings, connection: Connection, number: str) -> None:
    """Looks for the service account that runs run as, and whether the user may let them."""
    name, given = "service account", found.settings.service_account
    if not (given or number):
        found.add(name, None, "the project's number is not known")
        return
    account = given or f"{number}-compute@developer.gserviceaccount.com"
    shown = account if given else f"{account}, the project's default"
    path = f"/v1/projects/-/serviceAccounts/{quote(account, safe='@')}"
    ok, answer = answered(connection.ask, "looking for the service account", "iam", path)
    if ok is False:
        found.add(name, False, f"{account} is not there", "give another with --service-account")
        return
    if ok and answer.get("disabled"):
        found.add(name, False, f"{account} is disabled", f"gcloud iam service-accounts enable {account}")
        return
    right = "iam.serviceAccounts.actAs"
    body = {"permissions": [right]}
    may, missing = lacking(connection, "iam", f"{path}:testIamPermissions", (right,), body=body)
    if not may:
        found.add(name, None, f"{shown} {'is' if ok else 'may be'} there; {missing}")
    elif missing:
        grant = f"gcloud iam service-accounts add-iam-policy-binding {account} --role=roles/iam.serviceAccountUser"
        who = connection.who or "this user"
        found.add(name, False, f"{who} may not let runs run as {account}", f"{grant} --member=user:YOU")
    else:
        found.add(name, True, f"runs may run as {shown}")


def needed_quotas(values: dict[str, Any]) -> list[tuple[str, int]]:
    """Returns which quotas a run needs, each with how much of it."""
    uses = [("training", "train", 1)]
    if values.get("deploy"):
        uses.append(("serving", "serving", max(1, int(values.get("min_replicas") or 1))))
    needed = []
    for use, prefix, machines in uses:
        if family := re.fullmatch(r"([a-z0-9]+)-[a-z]+-([0-9]+)", str(values.get(f"{prefix}_machine_type"))):
            own = "" if family[1] in COMMON_FAMILIES else f"{family[1]}_"
            needed.append((f"custom_model_{use}_{own}cpus", machines * int(family[2])))
        kind, count = str(values.get(f"{prefix}_accelerator") or ""), int(values.get(f"{prefix}_gpus") or 0)
        if kind and count:
            needed.append((f"custom_model_{use}_{kind.lower().replace('_tesla_', '_')}_gpus", machines * count))
    return needed


def check_quotas(found: Findings, connection: Connection) -> None:
    """Looks whether the project's quotas are as large as what one run needs; what others use of them is not known."""
    for metric, count in needed_quotas(found.values):
        name = f"quota {metric.removeprefix('custom_model_').replace('_', ' ')}"
        limit, why = limit_of(connection, metric)
        if limit is None:
            found.add(name, None, f"not known: {why}", required=False)
        elif 0 <= limit < count:
            remedy = f"ask for more: https://console.cloud.google.com/iam-admin/quotas?project={connection.project}"
            found.add(name, False, f"{limit} in {connection.region}, and a run needs {count}", remedy)
        else:
            shown = "no limit" if limit < 0 else str(limit)
            found.add(name, True, f"{shown} in {connection.region}, a run needs {count}; what is in use is not told")


def limit_of(connection: Connection, metric: str) -> tuple[int | None, str]:
    """Returns a quota's limit in the region, -1 where there is none; or None, and why it is not known."""
    service = "aiplatform.googleapis.com"
    path = f"/v1beta1/projects/{connection.project}/services/{service}/consumerQuotaMetrics/{service}%2F{metric}"
    ok, answer = answered(connection.ask, f"asking for quota {metric}", "serviceusage", path)
    if not ok:
        return None, answer
    buckets = [bucket for limit in answer.get("consumerQuotaLimits", []) for bucket in limit.get("quotaBuckets", [])]
    by_region = {bucket.get("dimensions", {}).get("region", ""): bucket for bucket in buckets}
    bucket = by_region.get(connection.region) or by_region.get("") or {}
    if "effectiveLimit" not in bucket:
        return None, f"Google tells no limit for {connection.region}"
    return int(bucket["effectiveLimit"]), ""


def check_values(found: Findings, given: dict[str, Any]) -> None:
    """Looks whether a run can begin with the parameters."""
    if "train_data" not in given:
        found.add("parameters", None, "a run needs --set train_data=gs://bucket/reviews.csv as well")
        return
    try:
        check_parameters(given)
    except UsageError as error:
        found.add("parameters", False, str(error))
    else:
        found.add("parameters", True, f"{len(given)} set, {len(found.values) - len(given)} by default")


def check_compiled_file(found: Findings) -> None:
    """Looks whether the compiled file, which the console takes, is that of the code; --submit compiles anew."""
    path = compiled_path("vertex")
    if not path.is_file():
        found.add("compiled file", None, f"{path} is not here; --submit does without", required=False)
        return
    stale = check_compiled(path, None, "vertex")
    detail = f"{path} is {'stale' if stale else 'current'}"
    found.add("compiled file", not stale, detail, "--compile writes it anew" if stale else "", required=False)


def check_images(found: Findings, connection: Connection | None) -> None:
    """Looks for the image of the steps, and for the one that serves."""
    if image := found.settings.image:
        check_image(found, connection, "image", image)
    else:
        found.add("image", True, "none is set: steps install their packages when they start, which takes minutes")
    if not found.values.get("deploy"):
        found.add("serving image", None, "not needed with deploy=false", required=False)
    elif image := str(found.values.get("serving_image") or ""):
        check_image(found, connection, "serving image", image)
    else:
        remedy = "build the Dockerfile's target torchserve, push it, and --set serving_image=NAME"
        found.add("serving image", False, "deploy is true, and serving_image is not set", remedy)


def check_image(found: Findings, connection: Connection | None, name: str, image: str) -> None:
    """Looks for an image, where its registry is Google's."""
    parts = REGISTRY.fullmatch(image)
    if connection is None or parts is None:
        why = "not signed in" if parts else "not in Artifact Registry; whether it can be pulled shows in a run"
        found.add(name, None, f"{image}: {why}")
        return
    repository = f"projects/{parts['project']}/locations/{parts['place']}/repositories/{parts['repository']}"
    version = f"versions/{parts['digest']}" if parts["digest"] else f"tags/{parts['tag'] or 'latest'}"
    path = f"/v1/{repository}/packages/{quote(parts['image'], safe='')}/{version}"
    ok, answer = answered(connection.ask, f"looking for {image}", "artifactregistry", path)
    found.add(name, ok, f"{image} is there" if ok else answer, f"docker push {image}" if ok is False else "")
