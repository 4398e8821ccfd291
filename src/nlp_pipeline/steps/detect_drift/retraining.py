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
# What a run has of the schedule.
COPIED = ("experiment_id", "pipeline_version_reference", "pipeline_spec", "runtime_config", "service_account")


def start_run_of(schedule: str, run_id: str) -> str:
    """Starts a run with the version and the parameters of a schedule, and returns its id.

    Args:
        schedule: The name of a recurring run in the pod's namespace, which may be paused; of several the newest counts.
        run_id: The id of the run that asks for it, which the new one's name has.

    Raises:
        UsageError: There is no such schedule, or the pod is not let in.
        PipelineError: The API can't be reached, or refuses.
    """
    health = call("GET", "/healthz")
    namespace = POD_NAMESPACE.read_text(encoding="utf-8").strip() if health.get("multi_user") else ""
    of_name = {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": schedule}]}
    # The server takes the filter apart a second time.
    query = {"namespace": namespace, "sort_by": "created_at desc", "filter": quote(json.dumps(of_name))}
    alike = call("GET", "/recurringruns", params=query).get("recurringRuns", [])
    schedules = [item for item in alike if item["display_name"] == schedule]  # the filter has no regard to case
    if not schedules:
        where = f" in namespace {namespace}" if namespace else ""
        raise UsageError(f"retrain={schedule}: there is no schedule of that name{where}; --schedules lists them")
    body = {name: schedules[0][name] for name in COPIED if name in schedules[0]}
    return str(call("POST", "/runs", json={"display_name": f"{schedule} {run_id[:8]}", **body})["run_id"])


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
        is_transient = lambda error: method == "GET" and isinstance(error, httpx.TransportError)  # noqa: E731
        answer = retrying(is_transient)(send)()
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
