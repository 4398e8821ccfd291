"""A run's `task_details`, as the API tells them: nodes of an Argo workflow, not the pipeline's tasks alone.

A container task `train-model` comes as three nodes, `train-model-driver`, `train-model` and `executor`; a condition as
`condition-1-driver` and `condition-1`; the whole as `root-driver`, `root` and the workflow's own name. Nodes come in
the order of ids that mean nothing. What waits has no node yet; what a condition leaves out never gets one, only the
condition itself is SKIPPED; what follows on a failure is there without a state (Argo's "Omitted").

After backend/src/v2/compiler/argocompiler and `toModelTasks` of server/api_converter.go.
"""

import dataclasses
import hashlib
from typing import Any

Json = dict[str, Any]
OMITTED = ""
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


def advance(run: Json, now: int) -> None:
    """Lets a run go on by one step."""
    fate: Fate = run["_fate"]
    if run["state"] not in GOING:
        return
    run["_reads"] += 1
    names = _leaves(run["_pipeline"], fate)
    last = names.index(fate.failing) if fate.failing else len(names) - (fate.ends != "SUCCEEDED")
    done = len(names) if fate.at_once else max(run["_reads"] - fate.pending - 1, 0)
    ends = "FAILED" if fate.failing else fate.ends
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
    found = _details(run, min(done, last), now)
    run["run_details"] = {"task_details": found} if found else {}


def pod_of(run: Json, task: str) -> str:
    """Returns the name of a task's pod, which isn't told: of the executor's node, with the template's name in it."""
    path = next(path for path in _paths(run["_pipeline"], run["_pipeline"]["root"]) if path.endswith(f"/{task}"))
    return f"{run['_workflow']}-system-container-impl-{_number(run, f'{path}/executor')}"


def _component(pipeline: Json, task: Json) -> Json:
    found: Json = pipeline["components"][task["componentRef"]["name"]]
    return found


def _paths(pipeline: Json, component: Json, path: str = "root") -> list[str]:
    if "dag" not in component:
        return [path]
    tasks = component["dag"]["tasks"].items()
    return [found for name, task in tasks for found in _paths(pipeline, _component(pipeline, task), f"{path}/{name}")]


def _ordered(dag: Json) -> list[str]:
    """Returns the names of a graph's tasks, each after those that it depends on."""
    found: list[str] = []
    while len(found) < len(dag["tasks"]):
        found.append(
            next(
                name
                for name, task in sorted(dag["tasks"].items())
                if name not in found and set(task.get("dependentTasks", [])) <= set(found)
            )
        )
    return found


def _leaves(pipeline: Json, fate: Fate) -> list[str]:
    """Returns the names of the container tasks that run, in the order in which they do."""

    def collect(dag: Json) -> list[str]:
        found = []
        for name in _ordered(dag):
            inner = _component(pipeline, dag["tasks"][name]).get("dag")
            found += [name] if inner is None else collect(inner) if name not in fate.skipped else []
        return found

    return collect(pipeline["root"]["dag"])


def _details(run: Json, done: int, now: int) -> list[Json]:
    """Returns a run's `task_details`, when so many container tasks have ended well."""
    fate, ended, left = run["_fate"], run["state"] not in GOING, done
    if run["state"] == "PENDING":
        return []
    nodes: list[tuple[str, str, str]] = []

    def walk(dag: Json, path: str) -> str:
        nonlocal left
        states: dict[str, str] = {}
        for name in _ordered(dag):
            needs = [states.get(task) for task in dag["tasks"][name].get("dependentTasks", [])]
            here = f"{path}/{name}"
            inner = _component(run["_pipeline"], dag["tasks"][name]).get("dag")
            if "FAILED" in needs or OMITTED in needs:
                states[name] = OMITTED
            elif left < 0 or None in needs:
                continue
            elif inner is None:
                left -= 1
                states[name] = "SUCCEEDED" if left >= 0 else "FAILED" if ended else "RUNNING"
                skipped = name in fate.cached and states[name] == "SUCCEEDED"
                nodes.append((f"{here}/executor", "executor", "SKIPPED" if skipped else states[name]))
            else:
                states[name] = "SKIPPED" if name in fate.skipped else walk(inner, here)
            nodes.append((f"{here}-driver", f"{name}-driver", "SUCCEEDED" if states[name] else OMITTED))
            nodes.append((here, name, states[name]))
        whole = set(states.values()) | ({"RUNNING"} if len(states) < len(dag["tasks"]) else set())
        return next((state for state in ("FAILED", "RUNNING") if state in whole), "SUCCEEDED")

    state = walk(run["_pipeline"]["root"]["dag"], "root")
    nodes += [("root-driver", "root-driver", "SUCCEEDED"), ("root", "root", state), ("", run["_workflow"], state)]
    executors = {path for path, name, _ in nodes if name == "executor"}
    nodes.sort(key=lambda node: _number(run, node[0]))
    return [
        {
            "run_id": run["run_id"],
            "task_id": _number(run, path),
            "display_name": name,
            "create_time": run["created_at"],
            "start_time": run["created_at"],
            "end_time": 0 if state == "RUNNING" else now,
            "state": state,
            "child_tasks": [{"pod_name": f"{run['_workflow']}-{_number(run, f'{path}/executor')}"}]
            if f"{path}/executor" in executors
            else [],
        }
        for path, name, state in nodes
    ]


def _number(run: Json, path: str) -> str:
    return str(int(hashlib.sha256(f"{run['_workflow']}{path}".encode()).hexdigest()[:8], 16))
