"""A run's `task_details`, as the API tells them: nodes of an Argo workflow, not the pipeline's tasks alone.

A container task `train-model` comes as three nodes, `train-model-driver`, `train-model` and `executor`; a condition as
`condition-1`; the whole as `root-driver`, `root` and the workflow's own name. Nodes come in the order of ids that mean
nothing. What waits has no node yet; what a condition leaves out never gets one, only the condition itself is SKIPPED;
what follows on a failure is there without a state (Argo's "Omitted").

After backend/src/v2/compiler/argocompiler and `toModelTasks` of server/api_converter.go.
"""

import dataclasses
import hashlib
from typing import Any

Json = dict[str, Any]
NEVER = "1970-01-01T00:00:00Z"
GOING = ("PENDING", "RUNNING", "CANCELING")


@dataclasses.dataclass(frozen=True)
class Fate:
    """What becomes of a run; time passes only when it is read by its id.

    Attributes:
        ends: Its last state, SUCCEEDED, FAILED or CANCELED; None if it never ends.
        pending: How many reads it stays PENDING for; after that, each read ends a task.
        at_once: Whether the first read ends them all.
        failing: The name of the task that fails, and the run with it.
        skipped: Names of the conditions that aren't fulfilled.
        cached: Names of the tasks that are answered from the cache: their executor is SKIPPED.
        terminated: What a run becomes after CANCELING: on Argo it is FAILED.
    """

    ends: str | None = "SUCCEEDED"
    pending: int = 0
    at_once: bool = False
    failing: str = ""
    skipped: tuple[str, ...] = ()
    cached: tuple[str, ...] = ()
    terminated: str = "FAILED"


def advance(run: Json, now: str) -> None:
    """Lets a run go on by one step."""
    fate: Fate = run["_fate"]
    if run["state"] not in GOING or run.get("_killed"):
        return
    run["_reads"] += 1
    tasks = _tasks(run["_pipeline"], run["_pipeline"]["root"]["dag"])
    names = [name for name, conditions in tasks.items() if not set(conditions) & set(fate.skipped)]
    ends = "FAILED" if fate.failing else fate.ends
    last = names.index(fate.failing) if fate.failing else len(names) - (ends != "SUCCEEDED")
    done = len(names) if fate.at_once else max(run["_reads"] - fate.pending - 1, 0)
    if run["state"] == "CANCELING":
        run["_canceling"] = run.get("_canceling", -1) + 1  # the first read still finds it being canceled
        state = fate.terminated if run["_canceling"] else "CANCELING"
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
        run["run_details"] = {"task_details": _nodes(run, tasks, names, min(done, last), now)}


def pod_of(run: Json, task: str) -> str:
    """Returns the name of a task's pod, which isn't told: of the executor's node, with the template's name in it."""
    return f"{run['_workflow']}-system-container-impl-{_number(run, f'{task}/executor')}"


def _tasks(pipeline: Json, dag: Json, within: tuple[str, ...] = ()) -> dict[str, tuple[str, ...]]:
    """Returns the container tasks in an order in which they may run, each with the conditions around it."""
    result: dict[str, tuple[str, ...]] = {}
    waiting, done = dict(sorted(dag["tasks"].items())), set[str]()
    while waiting:
        name = next(name for name, task in waiting.items() if done.issuperset(task.get("dependentTasks", [])))
        component = pipeline["components"][waiting.pop(name)["componentRef"]["name"]]
        result |= _tasks(pipeline, component["dag"], (*within, name)) if "dag" in component else {name: within}
        done.add(name)
    return result


def _nodes(run: Json, tasks: dict[str, tuple[str, ...]], names: list[str], done: int, now: str) -> list[Json]:
    """Returns a run's nodes, when so many of the tasks with these names have ended well."""
    fate, ended = run["_fate"], run["state"] not in GOING
    states = dict.fromkeys(names[:done], "SUCCEEDED")
    states |= dict.fromkeys(names[done : done + 1], "FAILED" if ended else "RUNNING")
    states |= dict.fromkeys(names[done + 1 :] if ended else [], "")
    nodes = [("root-driver", "root-driver", "SUCCEEDED"), ("root", "root", run["state"])]
    nodes.append(("", run["_workflow"], run["state"]))
    for condition in dict.fromkeys(condition for conditions in tasks.values() for condition in conditions):
        inner = {states.get(name) for name in names if condition in tasks[name]}
        state = next((state for state in ("FAILED", "RUNNING") if state in inner), "SUCCEEDED")
        if condition in fate.skipped and ended:
            nodes.append((condition, condition, "SKIPPED"))
        elif inner - {None, ""}:
            nodes.append((condition, condition, "RUNNING" if None in inner else state))
    for name, state in states.items():
        nodes += [(f"{name}-driver", f"{name}-driver", "SUCCEEDED" if state else ""), (name, name, state)]
        if state:
            is_cached = name in fate.cached and state == "SUCCEEDED"
            nodes.append((f"{name}/executor", "executor", "SKIPPED" if is_cached else state))
    nodes.sort(key=lambda node: _number(run, node[0]))
    return [
        {
            "run_id": run["run_id"],
            "task_id": _number(run, key),
            "display_name": name,
            "create_time": run["created_at"],
            "start_time": run["created_at"],
            "end_time": NEVER if state == "RUNNING" else now,
            "state": state,
            "child_tasks": [{"pod_name": f"{run['_workflow']}-{_number(run, f'{key}/executor')}"}] * (key in states),
        }
        for key, name, state in nodes
    ]


def _number(run: Json, key: str) -> str:
    return str(int(hashlib.sha256(f"{run['_workflow']}{key}".encode()).hexdigest()[:8], 16))
