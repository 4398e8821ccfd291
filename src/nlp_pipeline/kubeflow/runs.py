"""`--runs` and `--wait`: the recent runs of a namespace, and following one until it ends."""

import datetime
import json
import re
from functools import partial
from itertools import combinations, islice
from typing import Any

from nlp_pipeline.errors import UsageError
from nlp_pipeline.kubeflow.connection import Connection, connect
from nlp_pipeline.kubeflow.workflow import Workflow
from nlp_pipeline.local import STEPS
from nlp_pipeline.platforms import waiting
from nlp_pipeline.platforms.calls import NotFoundError
from nlp_pipeline.platforms.waiting import ENDED, LOG_LINES, NoRunError, Progress, seconds_between
from nlp_pipeline.settings import Settings

ALL_STEPS = (*STEPS, "deploy_model", "notify")
# Nodes that are no steps, but hold some.
GROUP = re.compile(r"root|(condition|condition-branches|for-loop|exit-handler)-\d+")
# As many as the server gives at once.
PAGE = 200
NOT_ARCHIVED = {"key": "storage_state", "operation": "NOT_EQUALS", "string_value": "ARCHIVED"}


def runs(settings: Settings, count: int, only: Any = None) -> list[dict[str, Any]]:
    """Returns so many runs that were made last in the user's namespace.

    `only` is a predicate of the API's filters; without one, it is those that are not archived.

    Returns:
        Newest first, each with `id`, `name`, `state` (as KFP calls it), `created` (ISO 8601, UTC), `seconds` (None
        while it is not over), `experiment_id`, and `version_id` (of the pipeline; None where it has none).
    """
    connection = connect(settings)
    query = {"sort_by": "created_at desc", "filter": json.dumps({"predicates": [only or NOT_ARCHIVED]})}
    listed = connection.list_all("runs", namespace=connection.namespace, page_size=min(count, PAGE), **query)
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


def retry(settings: Settings, run_id: str, dry_run: bool) -> dict[str, Any]:
    """Lets a run that failed, or was canceled, go on by KFP's own retry: what has succeeded is not run again."""
    connection = connect(settings)
    run = get_run(connection, run_id)
    if run.state not in ("FAILED", "CANCELED"):
        raise UsageError(f"run {run_id} is {run.state}: only one that failed or was canceled can go on by --retry")
    if not dry_run:
        connection.call(f"retrying run {run_id}", connection.runs.run_service_retry_run, run_id, repeat=False)
    facts = {"run_id": run_id, "name": run.display_name, "url": connection.run_url(run_id)}
    return {**facts, "action": "retried", "dry_run": dry_run}


def wait(settings: Settings, run_id: str, timeout: float | None) -> dict[str, Any]:
    """Follows a run until it ends; see `platforms.waiting.follow`."""
    connection = connect(settings)
    # Where there is but one user, runs are where Kubeflow Pipelines is.
    workflow = Workflow(run_id, connection.namespace or "kubeflow")

    def read() -> Progress:
        run = get_run(connection, run_id, repeat=False)
        workflow.read([run.state, [task.state for task in _task_details(run)]])
        return read_progress(run, workflow)

    url = connection.run_url(run_id)
    return waiting.follow(read, partial(_end_of_log, connection, workflow), run_id, url, timeout, "Kubeflow")


def _task_details(run: Any) -> list[Any]:
    return (run.run_details and run.run_details.task_details) or []


def read_progress(run: Any, workflow: Workflow) -> Progress:
    """Reads how far a run is, from its Workflow's nodes, or else from the API's task details, which are such nodes too.

    They come in no order: a step is the node of its name, others (`<step>-driver`, `executor`, `root`) are Argo's own.
    """
    state = run.state or "PENDING"
    going = [item.state for item in run.state_history or [] if item.state not in ENDED]
    if state in ENDED and going[-1:] == ["CANCELING"]:  # after a retry, it may have been canceled earlier
        state = "CANCELED"
    nodes: dict[str, Any] = {node.display_name: node for node in workflow.nodes or _task_details(run)}
    tasks = _find_tasks(nodes)
    is_ours = {_step_of(task) for task in tasks} <= set(ALL_STEPS)
    progress = Progress(
        run_id=run.run_id,
        name=run.display_name,
        state=state,
        seconds=seconds_between(run.created_at, run.finished_at) or 0.0,
        all_steps=ALL_STEPS if is_ours else tuple(map(_step_of, tasks)),
    )
    for task in sorted(tasks, key=lambda task: progress.all_steps.index(_step_of(task))):
        node, step = nodes.get(task) or nodes[f"{task}-driver"], _step_of(task)
        progress.steps[step] = (node.state, seconds_between(node.start_time or node.create_time, node.end_time))
        progress.jobs[step] = workflow.pods_of(task) or _guess_pods(nodes, task)
    # The first condition is the gate's; what stands behind it has no nodes where it is skipped.
    condition = next((node for name, node in sorted(nodes.items()) if name.startswith("condition-")), None)
    if is_ours and condition is not None and condition.state in ENDED:
        progress.gate_passed = condition.state != "SKIPPED"
    _explain(progress, workflow)
    return progress


def _step_of(task: str) -> str:
    return task.replace("-", "_")  # KFP writes a function's name otherwise


def _find_tasks(nodes: dict[str, Any]) -> list[str]:
    """Returns the tasks that have begun, in that order: what has a driver, and is no group."""
    drivers = {name.removesuffix("-driver"): node for name, node in nodes.items() if name.endswith("-driver")}
    begun = [
        task
        for task, driver in drivers.items()
        if not GROUP.fullmatch(task) and (driver.state == "FAILED" or (task in nodes and nodes[task].state))
    ]
    return sorted(begun, key=lambda task: drivers[task].start_time or drivers[task].create_time)


def _guess_pods(nodes: dict[str, Any], task: str) -> list[str]:
    """Returns names that the pod of a task may have, where the API tells no more than its nodes' names and children.

    Argo numbers nodes by a hash of their path. On stock KFP 2.17 each node has attempts; before, a task's child is it.
    """
    numbers, workflow = [], ""
    for child in (nodes[task].child_tasks or []) if task in nodes else []:
        workflow, _, number = (child.pod_name or "").rpartition("-")
        numbers.append(number)
    # KFP numbers groups by their depth, too.
    groups = [name for name in nodes if GROUP.fullmatch(name) and name != "root"]
    paths = [f".{name}(0)" for name in sorted(groups, key=lambda name: int(name.rpartition("-")[2]))]
    for path in ("", *paths, *map("".join, combinations(paths, 2))):
        numbers.append(str(_hash(f"{workflow}(0).root(0){path}.{task}(0).executor(0)")))
    templates = ("-system-container-impl", "-retry-system-container-impl", "")
    return [f"{workflow}{template}-{number}" for number in numbers for template in templates] if workflow else []


def _hash(text: str) -> int:
    """Returns the FNV-1a hash, of 32 bits."""
    value = 0x811C9DC5
    for byte in text.encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


def _explain(progress: Progress, workflow: Workflow) -> None:
    """Adds what the cluster says of the run."""
    progress.errors = {_step_of(task): message for task, message in workflow.errors().items()}
    progress.notes = list(workflow.notes)
    if progress.state in ENDED:
        return
    for task, reason in workflow.hold_ups.items():
        progress.notes.append(f"{'the run' if task == 'root' else _step_of(task)} is held up: {reason}")
    if what := workflow.lost():
        progress.lost = f"{what}, though Kubeflow still calls the run {progress.state}, and may do so for good"
    if not workflow.name:
        kubectl = f"kubectl -n {workflow.namespace}"
        pods = f"{kubectl} get pods -l pipeline/runid={progress.run_id}"
        progress.look = f"to look for the reason: {pods}; {kubectl} get events --sort-by=.lastTimestamp"


def _end_of_log(connection: Connection, workflow: Workflow, progress: Progress, step: str) -> str:
    """Returns the last lines that a step printed, where Kubeflow's user interface or the cluster still has them."""
    for pod in progress.jobs[step]:
        query = {"podname": pod, "podnamespace": workflow.namespace, "runid": progress.run_id}
        if lines := connection.read_text("/k8s/pod/logs", query).rstrip().splitlines():
            return "\n".join(lines[-LOG_LINES:])
    return workflow.end_of_log(progress.jobs[step])
