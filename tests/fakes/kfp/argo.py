"""A run's Workflow: its nodes as Argo has them, and as the API tells them in `task_details`.

A container task `train-model` comes as three nodes, `train-model-driver`, `train-model` and `executor`; a condition as
`condition-1` with a driver of its own, and so does an exit handler, whose exit task stands below its `onExit`; the
whole as `root-driver`, `root` and the workflow's own name. On stock KFP 2.17 each is there twice, itself and its
attempt, as in `train-model(0)`. Nodes come in the order of ids that mean nothing. What waits has no node yet; what a
condition leaves out never gets one, only the condition itself is SKIPPED; what follows on a failure is there without a
state (Argo's "Omitted"). The API tells no names of pods and no messages, and nothing new once Argo has compressed the
nodes.

After backend/src/v2/compiler/argocompiler and `toModelTasks` of server/api_converter.go, and what a cluster did.
"""

import base64
import dataclasses
import datetime
import gzip
import json
from typing import Any

Json = dict[str, Any]
NEVER = "1970-01-01T00:00:00Z"
GOING = ("PENDING", "RUNNING", "CANCELING")
# What stands in the place of a group for an exit task.
ON_EXIT = "exit-handler-1.onExit"


@dataclasses.dataclass(frozen=True)
class Fate:
    """What becomes of a run; time passes only when it is read by its id, and each read ends a task."""

    ends: str | None = "SUCCEEDED"  # its last state, or FAILED or CANCELED; None if it never ends
    pending: int = 0  # how many reads it stays PENDING for
    at_once: bool = False  # whether the first read ends all tasks
    failing: str = ""  # the task that fails, and the run with it
    skipped: tuple[str, ...] = ()  # conditions that aren't fulfilled
    cached: tuple[str, ...] = ()  # tasks that are answered from the cache: their executor is SKIPPED
    outgrown: int = 10**6  # after how many reads Argo compresses the nodes
    # What Argo says of pods that wait, by their tasks or drivers, as in "train-model-driver"; and of one that fails.
    waiting: dict[str, str] = dataclasses.field(default_factory=dict)
    error: str = "main: Error (exit code 1)"


def advance(run: Json, now: str) -> None:
    fate: Fate = run["_fate"]
    if run["state"] not in GOING or run.get("_killed"):
        return
    run["_reads"] += 1
    tasks = _tasks(run["_pipeline"], run["_pipeline"]["root"]["dag"])
    names = [name for name, groups in tasks.items() if not set(groups) & set(fate.skipped) and ON_EXIT not in groups]
    ends = "FAILED" if fate.failing else fate.ends
    last = names.index(fate.failing) if fate.failing else len(names) - (ends != "SUCCEEDED")
    done = len(names) if fate.at_once else max(run["_reads"] - fate.pending - 1, 0)
    if run["state"] == "CANCELING":
        run["_canceling"] = run.get("_canceling", -1) + 1  # the first read still finds it being canceled
        state = "FAILED" if run["_canceling"] else "CANCELING"  # as Argo calls it
    elif run["_reads"] <= fate.pending:
        state = "PENDING"
    else:
        state = ends if ends and done >= last + (ends != "SUCCEEDED") else "RUNNING"
    if state != run["state"]:
        run["state"] = state
        run["state_history"].append({"update_time": now, "state": state})
    if state not in GOING:
        run["finished_at"] = now
    if state != "PENDING":
        run["_nodes"] = _nodes(run, tasks, names, min(done, last), now)
        if run["_reads"] <= fate.outgrown:
            run["run_details"] = {"task_details": [_detail(run, node) for node in run["_nodes"].values()]}


def pod_of(run: Json, task: str) -> str:
    """Returns the name of a task's pod, which isn't told: of the executor's node, with the template's name in it."""
    path = _path(run, task, _tasks(run["_pipeline"], run["_pipeline"]["root"]["dag"])[task])
    return f"{run['_workflow']}-{_template(run, task)}-{_number(f'{path}(0).executor(0)')}"


def _template(run: Json, task: str) -> str:
    dags = [run["_pipeline"]["root"], *run["_pipeline"]["components"].values()]
    has_retries = any("retryPolicy" in dag.get("dag", {}).get("tasks", {}).get(task, {}) for dag in dags)
    return f"{'retry-' * has_retries}system-container-impl"


def workflow_of(run: Json) -> Json:
    phases = {"PENDING": "", "SUCCEEDED": "Succeeded", "FAILED": "Failed", "CANCELED": "Failed"}
    status: Json = {"phase": phases.get(run["state"], "Running"), "nodes": run.get("_nodes", {})}
    if run["_reads"] > run["_fate"].outgrown:
        packed = gzip.compress(json.dumps(status.pop("nodes")).encode())
        status["compressedNodes"] = base64.b64encode(packed).decode()
    labels = {"pipeline/runid": run["run_id"]}
    return {"kind": "Workflow", "metadata": {"name": run["_workflow"], "labels": labels}, "status": status}


def _tasks(pipeline: Json, dag: Json, within: tuple[str, ...] = ()) -> dict[str, tuple[str, ...]]:
    """Returns the container tasks in an order in which they may run, each with the groups around it."""
    result: dict[str, tuple[str, ...]] = {}
    waiting, done = dict(sorted(dag["tasks"].items())), set[str]()
    while waiting:
        name = next(name for name, task in waiting.items() if done.issuperset(task.get("dependentTasks", [])))
        task = waiting.pop(name)
        component = pipeline["components"][task["componentRef"]["name"]]
        groups = (ON_EXIT,) if "strategy" in task.get("triggerPolicy", {}) else within
        result |= _tasks(pipeline, component["dag"], (*within, name)) if "dag" in component else {name: groups}
        done.add(name)
    return result


def _nodes(run: Json, tasks: dict[str, tuple[str, ...]], names: list[str], done: int, now: str) -> Json:
    """Returns a run's nodes by their ids, when so many of the tasks with these names have ended well."""
    fate, ended, workflow = run["_fate"], run["state"] not in GOING, run["_workflow"]
    states = dict.fromkeys(names[:done], "SUCCEEDED")
    states |= dict.fromkeys(names[done : done + 1], "FAILED" if ended else "RUNNING")
    states |= dict.fromkeys(names[done + 1 :] if ended else [], "")
    if run["state"] in ("SUCCEEDED", "FAILED"):
        states |= {name: "SUCCEEDED" for name, groups in tasks.items() if ON_EXIT in groups}
    nodes = [(f"{workflow}(0).root-driver", "SUCCEEDED"), (f"{workflow}(0).root", run["state"])]
    nodes.append((workflow, run["state"]))
    nested = dict.fromkeys(groups[: at + 1] for groups in tasks.values() for at in range(len(groups)))
    for *around, group in nested:
        inner = {states.get(name) for name in names if group in tasks[name]}
        state = next((state for state in ("FAILED", "RUNNING") if state in inner), "SUCCEEDED")
        path = _path(run, group, tuple(around))
        if group == ON_EXIT:
            nodes += [(path, "SUCCEEDED")] * (states.get(names[0]) is not None and ended)
        elif group in fate.skipped and ended:
            nodes += [(f"{path}-driver", "SUCCEEDED"), (path, "SKIPPED")]
        elif inner - {None, ""}:
            nodes += [(f"{path}-driver", "SUCCEEDED"), (path, "RUNNING" if None in inner else state)]
    for name, state in states.items():
        path = _path(run, name, tasks[name])
        waits = state == "RUNNING" and f"{name}-driver" in fate.waiting
        nodes.append((f"{path}-driver", "PENDING" if waits else "SUCCEEDED" if state else ""))
        if not waits:
            nodes.append((path, state))
        if state and not waits:
            is_cached = name in fate.cached and state == "SUCCEEDED"
            waits = state == "RUNNING" and name in fate.waiting
            nodes.append((f"{path}(0).executor", "SKIPPED" if is_cached else "PENDING" if waits else state))
    made = [node for place, (path, state) in enumerate(nodes) for node in _attempts(run, path, state, place, now)]
    return {node["id"]: node for node in sorted(made, key=lambda node: str(node["id"]))}


def _attempts(run: Json, path: str, state: str, place: int, now: str) -> list[Json]:
    """Returns a node and, below it, its only attempt; what was left out has none."""
    fate, name = run["_fate"], path.rpartition(".")[2]
    task = path.split(".")[-2].removesuffix("(0)") if name == "executor" else name
    is_pod = name == "executor" or name.endswith("-driver")
    started = datetime.datetime.fromisoformat(run["created_at"]) + datetime.timedelta(seconds=place)
    result = []
    for attempt in ("", "(0)") if state not in ("", "SKIPPED") or is_pod else ("",):
        node = {
            "id": _id(run, path + attempt),
            "name": path + attempt,
            "displayName": name + attempt,
            "type": ("Pod" if is_pod else "DAG") if attempt else "Retry",
            "phase": {"": "Omitted", "CANCELING": "Running"}.get(state, state.capitalize()),
            "startedAt": started.isoformat().replace("+00:00", "Z"),
            "finishedAt": None if state in (*GOING, "") else now,
            "children": [_id(run, f"{path}(0)")] if not attempt else [_id(run, f"{path}(0).executor")],
        }
        if attempt and is_pod:
            messages = {"PENDING": fate.waiting.get(task, ""), "FAILED": fate.error}
            node["templateName"] = _template(run, task) if name == "executor" else "system-container-driver"
            node["message"] = messages.get(state, "")
        elif state == "PENDING":  # only a pod is
            node["phase"] = "Running"
        result.append(node)
    return result


def _detail(run: Json, node: Json) -> Json:
    """Returns what the API tells of a node."""
    return {
        "run_id": run["run_id"],
        "task_id": node["id"],
        "display_name": node["displayName"],
        "create_time": run["created_at"],
        "start_time": node["startedAt"],
        "end_time": node["finishedAt"] or NEVER,
        "state": "" if node["phase"] == "Omitted" else node["phase"].upper(),
        "child_tasks": [{"pod_name": child} for child in node["children"]],
    }


def _path(run: Json, name: str, within: tuple[str, ...] = ()) -> str:
    """Returns the name of a task's node: a path of attempts."""
    return ".".join([f"{run['_workflow']}(0)", "root(0)", *(f"{condition}(0)" for condition in within), name])


def _id(run: Json, path: str) -> str:
    return f"{run['_workflow']}-{_number(path)}"


def _number(path: str) -> int:
    """Returns the FNV-1a hash, of 32 bits."""
    value = 2166136261
    for byte in path.encode():
        value = ((value ^ byte) * 16777619) % 2**32
    return value
