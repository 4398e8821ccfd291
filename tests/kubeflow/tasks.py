"""A run's `task_details`, as the API tells them: nodes of an Argo workflow, not the pipeline's tasks alone.

A container task `train-model` comes as three nodes, `train-model-driver`, `train-model` and `executor`; a condition as
`condition-1-driver` and `condition-1`; the whole as `root-driver`, `root` and the workflow's own name. Nodes come in
the order of ids that mean nothing. What waits has no node yet; what a condition leaves out never gets one, only the
condition itself is SKIPPED; what follows on a failure is there without a state (Argo's "Omitted").

After backend/src/v2/compiler/argocompiler and `toModelTasks` of server/api_converter.go.
"""

import dataclasses
import hashlib
import uuid
from typing import Any

Json = dict[str, Any]
OMITTED = ""


@dataclasses.dataclass(frozen=True)
class Fate:
    """What becomes of a run; time passes only when it is read by its id.

    Attributes:
        ends: Its last state, SUCCEEDED, FAILED or CANCELED; None if it never ends.
        pending: How many reads it stays PENDING for; after that, each read ends a task.
        reads: How many reads it is RUNNING for instead of one for each task.
        failing: The name of the task that fails, and the run with it.
        reason: Why; KFP on Argo tells no reason, so that this is empty unless a test wants it.
        skipped: Names of the conditions that aren't fulfilled.
        cached: Names of the tasks that are answered from the cache: their executor is SKIPPED.
        terminated: What a run becomes after CANCELING: on Argo it is FAILED.
    """

    ends: str | None = "SUCCEEDED"
    pending: int = 0
    reads: int | None = None
    failing: str = ""
    reason: str = ""
    skipped: tuple[str, ...] = ()
    cached: tuple[str, ...] = ()
    terminated: str = "FAILED"


@dataclasses.dataclass
class Progress:
    """How far a run has come.

    Attributes:
        done: How many container tasks have ended well.
        state: The run's state.
    """

    done: int
    state: str


def leaves(pipeline: Json, fate: Fate) -> list[str]:
    """Returns the names of the container tasks that run, in the order in which they do."""
    found: list[str] = []

    def collect(dag: Json) -> None:
        for name in ordered(dag):
            inner = component(pipeline, dag["tasks"][name]).get("dag")
            if inner is None:
                found.append(name)
            elif name not in fate.skipped:
                collect(inner)

    collect(pipeline["root"]["dag"])
    return found


def details(pipeline: Json, fate: Fate, progress: Progress, run: Json) -> list[Json]:
    """Returns a run's `task_details`.

    Args:
        pipeline: The pipeline's spec.
        fate: What becomes of it.
        progress: How far it has come.
        run: The run's record.
    """
    if progress.state == "PENDING":
        return []
    ended = progress.state not in ("RUNNING", "CANCELING")
    left = progress.done
    nodes: list[tuple[str, str, str]] = []
    below: dict[str, str] = {}

    def walk(dag: Json, path: str) -> str:
        nonlocal left
        states: dict[str, str] = {}
        for name in ordered(dag):
            needs = [states.get(one) for one in dag["tasks"][name].get("dependentTasks", [])]
            here = f"{path}/{name}"
            inner = component(pipeline, dag["tasks"][name]).get("dag")
            if "FAILED" in needs or OMITTED in needs:
                states[name] = OMITTED
            elif left < 0 or None in needs:
                continue
            elif inner is None:
                left -= 1
                states[name] = "SUCCEEDED" if left >= 0 else "FAILED" if ended else "RUNNING"
                skipped = name in fate.cached and states[name] == "SUCCEEDED"
                nodes.append((f"{here}/executor", "executor", "SKIPPED" if skipped else states[name]))
                below[here] = f"{here}/executor"
            else:
                states[name] = "SKIPPED" if name in fate.skipped else walk(inner, here)
            nodes.append((f"{here}-driver", f"{name}-driver", "SUCCEEDED" if states[name] else OMITTED))
            nodes.append((here, name, states[name]))
        whole = set(states.values()) | ({"RUNNING"} if len(states) < len(dag["tasks"]) else set())
        return next((one for one in ("FAILED", "RUNNING") if one in whole), "SUCCEEDED")

    state = walk(pipeline["root"]["dag"], "root")
    workflow = run["_workflow"]
    nodes += [("root-driver", "root-driver", "SUCCEEDED"), ("root", "root", state), ("", workflow, state)]
    nodes.sort(key=lambda node: _hash(workflow, node[0]))
    return [_detail(run, fate, *node, below.get(node[0], "")) for node in nodes]


def pod_of(run: Json, task: str) -> str:
    """Returns the name of a task's pod, which isn't told: of the executor's node, with the template's name in it."""
    path = next(path for path in _paths(run["_pipeline"]) if path.rpartition("/")[2] == task)
    return f"{run['_workflow']}-system-container-impl-{_hash(run['_workflow'], f'{path}/executor')}"


def _paths(pipeline: Json) -> list[str]:
    def walk(dag: Json, path: str) -> list[str]:
        found = []
        for name, task in dag["tasks"].items():
            inner = component(pipeline, task).get("dag")
            found += walk(inner, f"{path}/{name}") if inner else [f"{path}/{name}"]
        return found

    return walk(pipeline["root"]["dag"], "root")


def _detail(run: Json, fate: Fate, path: str, name: str, state: str, below: str) -> Json:
    found = {
        "run_id": run["run_id"],
        "task_id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{run['run_id']}{path}")),
        "display_name": name,
        "create_time": run["created_at"],
        "start_time": run["created_at"],
        "end_time": 0 if state == "RUNNING" else run["_now"],
        "state": state,
        "child_tasks": [{"pod_name": f"{run['_workflow']}-{_hash(run['_workflow'], below)}"}] if below else [],
    }
    if name == fate.failing and fate.reason:
        found["error"] = {"code": 13, "message": fate.reason}
    return found


def ordered(dag: Json) -> list[str]:
    """Returns the names of a graph's tasks, each after those that it depends on."""
    found: list[str] = []
    while len(found) < len(dag["tasks"]):
        ready = [
            name
            for name, task in sorted(dag["tasks"].items())
            if name not in found and set(task.get("dependentTasks", [])) <= set(found)
        ]
        found.append(ready[0])
    return found


def component(pipeline: Json, task: Json) -> Json:
    """Returns the component of a task."""
    found: Json = pipeline["components"][task["componentRef"]["name"]]
    return found


def _hash(workflow: str, path: str) -> str:
    return str(int(hashlib.sha256(f"{workflow}{path}".encode()).hexdigest()[:8], 16))
