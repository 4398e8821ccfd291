"""`--runs` and `--wait`: the recent runs of a namespace, and following one until it ends."""

import datetime
import json
from functools import partial
from itertools import islice
from typing import Any

from nlp_pipeline.kubeflow.connection import Connection, connect
from nlp_pipeline.local import STEPS
from nlp_pipeline.platforms import waiting
from nlp_pipeline.platforms.calls import NotFoundError
from nlp_pipeline.platforms.waiting import ENDED, LOG_LINES, NoRunError, Progress, seconds_between
from nlp_pipeline.settings import Settings

ALL_STEPS = (*STEPS, "deploy_model")
# As many as the server gives at once.
PAGE = 200
NOT_ARCHIVED = {"key": "storage_state", "operation": "NOT_EQUALS", "string_value": "ARCHIVED"}


def runs(settings: Settings, count: int, only: Any = None) -> list[dict[str, Any]]:
    """Returns so many runs that were made last in the user's namespace, newest first; `only` is a filter of the API's.

    `created` is of ISO 8601, in UTC; `seconds` is None while a run is not over.
    """
    connection = connect(settings)
    listed = connection.list_all(
        "listing runs",
        connection.runs.run_service_list_runs,
        "runs",
        namespace=connection.namespace,
        sort_by="created_at desc",
        filter=json.dumps({"predicates": [only or NOT_ARCHIVED]}),
        page_size=min(count, PAGE),
    )
    return [
        {
            "id": run.run_id,
            "name": run.display_name or "",
            "state": run.state or "",
            "created": run.created_at.astimezone(datetime.UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds_between(run.created_at, run.finished_at) or 0) if run.state in ENDED else None,
            "experiment_id": run.experiment_id,
            "version_id": run.pipeline_version_reference and run.pipeline_version_reference.pipeline_version_id,
        }
        for run in islice(listed, count)
    ]


def get_run(connection: Connection, run_id: str, repeat: bool = True) -> Any:
    """Returns what the API says of a run; raises NoRunError where there is none."""
    try:
        return connection.call(f"reading run {run_id}", connection.runs.run_service_get_run, run_id, repeat=repeat)
    except NotFoundError:
        raise NoRunError(f"there is no run {run_id}: --runs lists them") from None


def wait(settings: Settings, run_id: str, timeout: float | None) -> dict[str, Any]:
    """Follows a run until it ends; see `platforms.waiting.follow`."""
    connection = connect(settings)
    return waiting.follow(
        lambda: read_progress(get_run(connection, run_id, repeat=False)),
        partial(_end_of_log, connection),
        run_id,
        connection.run_url(run_id),
        timeout,
        "Kubeflow",
    )


def read_progress(run: Any) -> Progress:
    """Reads how far a run is.

    Its task details are nodes of Argo's workflow, in no order: a step is the node of its name, others
    (`<step>-driver`, `executor`, `root`) are Argo's own.
    """
    state = run.state or "PENDING"
    if state in ENDED and any(item.state == "CANCELING" for item in run.state_history or []):
        state = "CANCELED"
    nodes = {node.display_name: node for node in (run.run_details and run.run_details.task_details) or []}
    progress = Progress(
        run_id=run.run_id,
        name=run.display_name,
        state=state,
        seconds=seconds_between(run.created_at, run.finished_at) or 0.0,
        all_steps=ALL_STEPS,
    )
    for step in ALL_STEPS:
        if (node := nodes.get(step.replace("_", "-"))) is not None and node.state:
            progress.steps[step] = (node.state, seconds_between(node.start_time or node.create_time, node.end_time))
            progress.jobs[step] = [child.pod_name for child in node.child_tasks or [] if child.pod_name]
    # The first condition is the gate's; what stands behind it has no nodes where it is skipped.
    if (gate := nodes.get("condition-1")) is not None and gate.state in ENDED:
        progress.gate_passed = gate.state != "SKIPPED"
    return progress


def _end_of_log(connection: Connection, progress: Progress, step: str) -> str:
    """Returns the last lines that a step printed, where Kubeflow's user interface still has them."""
    for node in progress.jobs[step]:
        workflow, _, number = node.rpartition("-")
        # Older versions of Argo call the pod by the node's own id, as in nlp-pipeline-x7k2f-1793831555.
        for pod in (f"{workflow}-system-container-impl-{number}", node):
            query = {"podname": pod, "podnamespace": connection.namespace or "kubeflow", "runid": progress.run_id}
            if lines := connection.read_text("/k8s/pod/logs", query).rstrip().splitlines():
                return "\n".join(lines[-LOG_LINES:])
    return ""
