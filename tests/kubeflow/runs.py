"""Runs, after server/run_server.go; each read of one by its id lets it go on."""

from typing import Any

from tests.kubeflow.asked import Asked
from tests.kubeflow.errors import as_internal, context, invalid
from tests.kubeflow.experiments import Experiments
from tests.kubeflow.listing import Listing
from tests.kubeflow.pipelines import Pipelines
from tests.kubeflow.spec import of_struct
from tests.kubeflow.store import Access, Store, public
from tests.kubeflow.tasks import Fate, Progress, details, leaves

Json = dict[str, Any]
GOING = ("PENDING", "RUNNING", "PAUSED")
FIELDS = {
    **{"name": "display_name", "display_name": "display_name", "finished_at": "finished_at"},
    **{"scheduled_at": "scheduled_at", "storage_state": "storage_state", "namespace": "_namespace", "state": "state"},
    **{"experiment_id": "experiment_id", "recurring_run_id": "recurring_run_id"},
}


class Runs:
    """The run service.

    Attributes:
        fate: What becomes of runs that are made from now on.
    """

    def __init__(self, store: Store, access: Access, experiments: Experiments, pipelines: Pipelines) -> None:
        self._store, self._access = store, access
        self._experiments, self._pipelines = experiments, pipelines
        self._listing = Listing("Run", "runs", "run_id", FIELDS, lambda text: store.fold(text))
        self.fate = Fate()

    def create(self, asked: Asked) -> Json:
        told = asked.body
        with context("Failed to create a new run"):
            if not told.get("display_name"):
                with as_internal("Failed to convert a API run detail to its internal representation"):
                    raise invalid("Run name cannot be empty")
            experiment = self._experiments.of(told.get("experiment_id", ""), "run")
            with context("Failed to create a run due to authorization error. Check if you have write permissions to "
                         f"namespace {experiment['namespace']}"):  # fmt: skip
                self._check(asked.user, "create", experiment["namespace"])
            return public(self.make(told, experiment))

    def make(self, told: Json, experiment: Json) -> Json:
        """Makes a run in an experiment."""
        source, template = source_of(told, self._pipelines, "Failed to create a run due to error fetching manifest")
        config = told.get("runtime_config", {})
        with context("Failed to generate the ExecutionSpec"), context("invalid pipeline job inputs"):
            template.check(config.get("parameters", {}))
        key, now = self._store.new_id(), self._store.clock.tick()
        self._store.runs[key] = {
            "run_id": key,
            "experiment_id": experiment["experiment_id"],
            "recurring_run_id": told.get("recurring_run_id", ""),
            "display_name": told["display_name"],
            "description": told.get("description", ""),
            "service_account": told.get("service_account") or self._access.runner,
            "runtime_config": {key: config[key] for key in ("parameters", "pipeline_root") if config.get(key)},
            "storage_state": "AVAILABLE",
            "state": "PENDING",
            "state_history": [{"update_time": now, "state": "PENDING"}],
            "created_at": now,
            "scheduled_at": now,
            "finished_at": 0,
            "run_details": {},
            **source,
            "_namespace": experiment["namespace"],
            "_pipeline": template.pipeline,
            "_workflow": f"{template.name[:20]}-{key[:5]}",
            "_fate": self.fate,
            "_reads": 0,
            "_now": now,
        }
        experiment["last_run_created_at"] = now
        return self._store.runs[key]

    def get(self, asked: Asked) -> Json:
        with context("Failed to get a run"):
            run = self._find(asked, "get")
        self.advance(run)
        return public(run)

    def list_some(self, asked: Asked) -> Json:
        with context("Failed to create list options"):
            self._listing.check(asked.query)
        with context("Failed to list runs"):
            found = in_scope(asked, self._store, self._access, self._store.runs, "runs", self._check)
        return self._listing.page(found, asked.query)

    def terminate(self, asked: Asked) -> Json:
        key = asked.path[0]
        with context("Failed to terminate a run"):
            run = self._find(asked, "terminate")
            with context(f"Failed to terminate run {key}"):
                if run["state"] not in GOING:
                    raise invalid(f"Failed to terminate a run {key}. Row not found")
                run["state"] = "CANCELING"
        return {}

    def archive(self, asked: Asked) -> Json:
        with context("Failed to archive a run"):
            self._find(asked, "archive")["storage_state"] = "ARCHIVED"
        return {}

    def unarchive(self, asked: Asked) -> Json:
        with context("Failed to unarchive a run"):
            self._find(asked, "unarchive")["storage_state"] = "AVAILABLE"
        return {}

    def delete(self, asked: Asked) -> Json:
        with context("Failed to delete a run"):
            del self._store.runs[self._find(asked, "delete")["run_id"]]
        return {}

    def advance(self, run: Json) -> None:
        """Lets a run go on by one step."""
        fate: Fate = run["_fate"]
        if run["state"] not in (*GOING, "CANCELING"):
            return
        run["_reads"] += 1
        run["_now"] = self._store.clock.tick()
        names = leaves(run["_pipeline"], fate)
        spent = max(run["_reads"] - fate.pending - 1, 0)
        at = spent if fate.reads is None else spent * len(names) // fate.reads
        last = len(names) - (fate.ends != "SUCCEEDED")
        if fate.failing:
            last = names.index(fate.failing)
        done, state = min(at, last), "RUNNING"
        ends = "FAILED" if fate.failing else fate.ends
        if run["state"] == "CANCELING":
            # The first read still finds it being canceled.
            run["_canceling"] = run.get("_canceling", -1) + 1
            state = fate.terminated if run["_canceling"] else "CANCELING"
            done = min(at, len(names) - 1)
        elif run["_reads"] <= fate.pending:
            state = "PENDING"
        elif ends and at >= last + (ends != "SUCCEEDED"):
            state = ends
        self._become(run, fate, state, done)

    def _become(self, run: Json, fate: Fate, state: str, done: int) -> None:
        found = details(run["_pipeline"], fate, Progress(done, state), run)
        run["run_details"] = {"task_details": found} if found else {}
        if state != run["state_history"][-1]["state"]:
            status = {"update_time": run["_now"], "state": state}
            if state == "FAILED" and fate.reason:
                status["error"] = run["error"] = {"code": 13, "message": fate.reason}
            run["state_history"].append(status)
        run["state"] = state
        if state not in (*GOING, "CANCELING"):
            run["finished_at"] = run["_now"]

    def _find(self, asked: Asked, verb: str) -> Json:
        key = asked.path[0]
        if self._access.multi_user:
            with context("Failed to authorize the request"), context(f"Failed to authorize with the run ID {key}"):
                found = self._store.find(self._store.runs, "Run", key)
                self._check(asked.user, verb, found["_namespace"])
        return self._store.find(self._store.runs, "Run", key)

    def _check(self, user: str, verb: str, namespace: str) -> None:
        if self._access.multi_user and not namespace:
            raise invalid("A run cannot have an empty namespace in multi-user mode")
        with context(f"Failed to access run . Check if you have access to namespace {namespace}"):
            self._access.check(user, verb, "runs", namespace)


def source_of(told: Json, pipelines: Pipelines, failed: str) -> tuple[Json, Any]:
    """Returns what a run is told to be made from, as it is told of it later, and the template."""
    reference = told.get("pipeline_version_reference", {})
    if reference:
        version = pipelines.referred(reference, failed)
        found = {key: version[key] for key in ("pipeline_id", "pipeline_version_id")}
        return {"pipeline_version_reference": found}, version["_template"]
    with as_internal(failed):
        if not told.get("pipeline_spec"):
            raise invalid("Failed to fetch a template with an empty pipeline spec manifest")
        template = of_struct(told["pipeline_spec"])
    return {"pipeline_spec": template.json}, template


def in_scope(
    asked: Asked, store: Store, access: Access, records: dict[str, Json], plural: str, check: Any
) -> list[Json]:
    """Returns those runs or recurring runs of the experiment or the namespace that is asked for."""
    experiment = asked.query.get("experiment_id", "")
    namespace = access.namespace(asked.query.get("namespace", ""))
    if experiment:
        with context(f"Failed to list {plural} due to error fetching namespace for experiment {experiment}. Try "
                     "filtering based on namespace"):  # fmt: skip
            namespace = store.find(store.experiments, "Experiment", experiment)["namespace"]
    with context(f"Failed to list {plural} due to authorization error. Check if you have permission to access "
                 f"namespace {namespace}"):  # fmt: skip
        check(asked.user, "list", namespace)
    if experiment:
        return [one for one in records.values() if one["experiment_id"] == experiment]
    return [one for one in records.values() if not access.multi_user or one["_namespace"] == namespace]
