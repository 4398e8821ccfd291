"""The doctor's checks of who asks, of the project, of its APIs, of the region, and of what may be done there."""

import difflib
from typing import Any

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.settings import PREFIX
from nlp_pipeline.vertex.connection import Connection, check_installed, find_credentials
from nlp_pipeline.vertex.doctor_findings import NOT_SIGNED_IN, Findings, answered

# What a run can't do without; the first of them is Vertex AI's own.
APIS = ("aiplatform", "storage", "artifactregistry", "iam", "compute")
# What the user needs who starts runs and schedules.
RIGHTS = (
    *("aiplatform.pipelineJobs.create", "aiplatform.pipelineJobs.get", "aiplatform.pipelineJobs.list"),
    *("aiplatform.schedules.create", "aiplatform.schedules.list"),
)


def check_credentials(found: Findings) -> None:
    """Looks whether there are credentials for which Google gives a token."""
    from google.auth.transport.requests import Request

    try:
        check_installed()
        credentials, project = find_credentials()
    except UsageError as error:
        found.add("credentials", False, str(error))
        return
    settings = found.settings
    # That no project is known is told by the next check.
    known = settings.model_copy(update={"project": settings.project or project or "not-set"})
    try:
        connection = Connection(known)
        connection.call("asking for a token", lambda timeout: credentials.refresh(Request()))
    except PipelineError as error:
        found.add("credentials", False, str(error))
        return
    if settings.project or project:
        found.connection = connection
    shown = f"as {connection.who}" if connection.who else "those of gcloud auth application-default login"
    found.add("credentials", True, shown)


def check_project(found: Findings) -> None:
    """Looks whether the project is there."""
    connection = found.connection
    if connection is None:
        signed_in = found.checks[-1].ok
        remedy = f"give --project NAME, or set {PREFIX}PROJECT" if signed_in else ""
        found.add(
            "project", False if signed_in else None, "no project is set" if signed_in else "not signed in", remedy
        )
        return
    name = connection.project
    ok, told = answered(connection.ask, "reading the project", "cloudresourcemanager", f"/v3/projects/{name}")
    if ok and told.get("state", "ACTIVE") != "ACTIVE":
        found.add("project", False, f"{name} is {told['state'].lower().replace('_', ' ')}")
        return
    if ok:
        found.number = str(told["name"]).rpartition("/")[2]
    found.add("project", ok, f"{name} is there, number {found.number}" if ok else told)


def check_apis(found: Findings) -> None:
    """Looks whether the APIs that a run needs are enabled."""
    connection = found.connection
    if connection is None:
        found.add("APIs", None, NOT_SIGNED_IN)
        return
    names = [f"projects/{connection.project}/services/{api}.googleapis.com" for api in APIS]
    path = f"/v1/projects/{connection.project}/services:batchGet"
    ok, told = answered(connection.ask, "asking which APIs are enabled", "serviceusage", path, names=names)
    if not ok:
        found.add("APIs", None, told)
        return
    enabled = {one["name"].rpartition("/")[2] for one in told.get("services", []) if one.get("state") == "ENABLED"}
    missing = [f"{api}.googleapis.com" for api in APIS if f"{api}.googleapis.com" not in enabled]
    if missing:
        remedy = f"gcloud services enable {' '.join(missing)} --project {connection.project}"
        found.add("APIs", False, f"not enabled: {', '.join(missing)}", remedy)
    else:
        found.add("APIs", True, f"enabled: {', '.join(APIS)}")


def check_region(found: Findings) -> None:
    """Looks whether Vertex AI answers in the region."""
    connection = found.connection
    if connection is None:
        found.add("region", None, NOT_SIGNED_IN)
        return
    from google.cloud.aiplatform.constants.base import SUPPORTED_REGIONS

    region = connection.region
    if region not in SUPPORTED_REGIONS:
        near = difflib.get_close_matches(region, SUPPORTED_REGIONS, n=1)
        found.add("region", False, f"Vertex AI is not in {region}", f"did you mean {near[0]}?" if near else "")
        return
    request = {"parent": connection.parent, "page_size": 1}

    def ask() -> Any:
        return connection.call("listing runs", connection.pipelines.list_pipeline_jobs, request=request)

    ok, told = answered(ask)
    refused = ok is None and ": 403:" in told  # it answers, and the rights are the next check's
    detail = f"Vertex AI answers in {region}"
    found.add("region", True if refused else ok, detail if ok or refused else told)


def check_rights(found: Findings) -> None:
    """Looks whether the user may start runs and schedules."""
    connection = found.connection
    if connection is None:
        found.add("right to run", None, NOT_SIGNED_IN)
        return
    path = f"/v3/projects/{connection.project}:testIamPermissions"
    body = {"permissions": list(RIGHTS)}
    ok, told = answered(connection.ask, "asking what is allowed", "cloudresourcemanager", path, body=body)
    if not ok:
        found.add("right to run", None, told)
        return
    missing = [one for one in RIGHTS if one not in told.get("permissions", [])]
    who = connection.who or "this user"
    if missing:
        remedy = f"ask an owner of project {connection.project} for the role roles/aiplatform.user"
        found.add("right to run", False, f"{who} lacks {', '.join(missing)}", remedy)
    else:
        found.add("right to run", True, f"{who} may start runs and schedules")
