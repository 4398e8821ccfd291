"""Starts a run of a schedule, by Kubeflow Pipelines' REST API, from within a pod."""

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nlp_pipeline.deploy.cluster import POD_NAMESPACE
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.storage import retrying

# Where pods find the API, and where those of a Kubeflow profile find their token for it; and variables with others.
HOST, HOST_VARIABLE = "http://ml-pipeline.kubeflow.svc.cluster.local:8888", "KF_PIPELINES_ENDPOINT"
TOKEN, TOKEN_VARIABLE = "/var/run/secrets/kubeflow/pipelines/token", "KF_PIPELINES_SA_TOKEN_PATH"
GOING = ("PENDING", "RUNNING", "PAUSED", "CANCELING")
# What a run has of the schedule.
COPIED = ("experiment_id", "pipeline_version_reference", "pipeline_spec", "runtime_config", "service_account")


def start_run_of(schedule: str, run_id: str) -> str:
    """Starts a run with the version and the parameters of a schedule, unless one goes on; returns the id of either.

    Args:
        schedule: The name of a recurring run in the pod's namespace, which may be paused; of several the newest counts.
        run_id: The id of the run that asks for it, of which the new one's name has the first eight digits.

    Raises:
        UsageError: There is no such schedule, or the pod is not let in.
        PipelineError: The API can't be reached, or refuses.
    """
    has_users = call("GET", "/healthz").get("multi_user")
    namespace = POD_NAMESPACE.read_text(encoding="utf-8").strip() if has_users else ""
    recurring, name = find_schedule(schedule, namespace), f"{schedule} as data moved "
    if going := find_unfinished(recurring, name, namespace):
        print(f"run {going} of {schedule!r} goes on: no other is started", flush=True)
        return going
    body = {key: recurring[key] for key in COPIED if key in recurring}
    started = str(call("POST", "/runs", json={"display_name": f"{name}{run_id[:8]}", **body})["run_id"])
    print(f"run {started} of {schedule!r} is started", flush=True)
    return started


def find_schedule(schedule: str, namespace: str) -> dict[str, Any]:
    """Returns the newest recurring run of a name, as the API has it."""
    of_name = {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": schedule}]}
    # The server takes the filter apart a second time, and has no regard to case.
    query = {"namespace": namespace, "sort_by": "created_at desc", "filter": quote(json.dumps(of_name))}
    for recurring in call("GET", "/recurringruns", params=query).get("recurringRuns", []):
        if recurring["display_name"] == schedule:
            return dict(recurring)
    where = f" in namespace {namespace}" if namespace else ""
    raise UsageError(f"retrain={schedule}: there is no schedule of that name{where}; --schedules lists them")


def find_unfinished(recurring: dict[str, Any], name: str, namespace: str) -> str:
    """Returns the id of a run that goes on, of a recurring run's own or whose name begins so; empty without one."""
    query = {"namespace": namespace, "experiment_id": recurring["experiment_id"], "sort_by": "created_at desc"}
    for run in call("GET", "/runs", params={**query, "page_size": 200}).get("runs", []):
        is_its = run.get("recurring_run_id") == recurring["recurring_run_id"] or run["display_name"].startswith(name)
        if is_its and run.get("state") in GOING:
            return str(run["run_id"])
    return ""


def call(method: str, path: str, **request: Any) -> dict[str, Any]:
    """Calls the API; what only reads is tried again where it fails for a moment."""
    import httpx

    host, token = os.environ.get(HOST_VARIABLE) or HOST, Path(os.environ.get(TOKEN_VARIABLE) or TOKEN)
    headers = {"Authorization": f"Bearer {token.read_text().strip()}"} if token.exists() else {}

    def send() -> httpx.Response:
        answer = httpx.request(method, f"{host}/apis/v2beta1{path}", headers=headers, timeout=60, **request)
        if answer.status_code in (429, 500, 502, 503, 504):
            raise httpx.NetworkError(f"it answered {answer.status_code}: {answer.text[:200]}")
        return answer

    try:
        answer = retrying()(send)() if method == "GET" else send()
    except httpx.HTTPError as error:
        raise PipelineError(f"retrain: {host} can't be asked ({error or type(error).__name__})") from None
    if answer.status_code in (401, 403):
        raise UsageError(
            f"retrain: Kubeflow Pipelines does not let this pod in ({answer.status_code}): in a Kubeflow profile it "
            "needs the PodDefault access-ml-pipeline; see docs/drift.md"
        )
    if not answer.is_success:
        raise PipelineError(f"retrain: {host}{path} answered {answer.status_code}: {answer.text[:200]}")
    result: dict[str, Any] = answer.json()
    return result
