"""Recurring runs, after server/job_server.go and `toModelJob`; they can't be changed, only enabled and disabled."""

from collections.abc import Callable
from typing import Any

from tests.kubeflow.asked import Asked
from tests.kubeflow.cron import problem
from tests.kubeflow.errors import as_internal, context, invalid
from tests.kubeflow.experiments import Experiments
from tests.kubeflow.listing import Listing
from tests.kubeflow.pipelines import Pipelines
from tests.kubeflow.runs import Runs, in_scope, source_of
from tests.kubeflow.store import Access, Store, public, seconds

Json = dict[str, Any]
FIELDS = {"recurring_run_id": "recurring_run_id", "name": "display_name", "display_name": "display_name",
          "updated_at": "updated_at"}  # fmt: skip
CONVERT: dict[str, Callable[[Any], Any]] = {"start_time": seconds, "end_time": seconds}


class RecurringRuns:
    """The recurring run service."""

    def __init__(
        self, store: Store, access: Access, experiments: Experiments, pipelines: Pipelines, runs: Runs
    ) -> None:
        self._store, self._access, self._runs = store, access, runs
        self._experiments, self._pipelines = experiments, pipelines
        fold = lambda text: store.fold(text)  # noqa: E731  # tests may change how names compare
        self._listing = Listing("Job", "recurringRuns", "recurring_run_id", FIELDS, fold)

    def create(self, asked: Asked) -> Json:
        with context("Failed to create a recurring run"):
            with context("Failed to create a recurring run due to conversion error"):
                trigger = self._convert(asked.body)
            experiment = self._experiments.of(asked.body.get("experiment_id", ""), "recurring run")
            told_namespace = asked.body.get("namespace", "")
            if told_namespace and told_namespace != experiment["namespace"]:
                raise invalid(f"Experiment {experiment['experiment_id']} belongs to namespace "
                              f"'{experiment['namespace']}' instead of '{told_namespace}'")  # fmt: skip
            with context("Failed to create a recurring run due to authorization error. Check if you have write "
                         f"permission to namespace {experiment['namespace']}"):  # fmt: skip
                self._check(asked.user, "create", experiment["namespace"])
            return public(self._make(asked.body, experiment, trigger))

    def get(self, asked: Asked) -> Json:
        with context("Failed to fetch a recurring run"):
            return public(self._find(asked, "get"))

    def list_some(self, asked: Asked) -> Json:
        with context("Failed to list recurring runs due to error parsing the listing options"):
            self._listing.check(asked.query)
        with context("Failed to list jobs"):
            records = self._store.recurring_runs
            found = in_scope(asked, self._store, self._access, records, "recurring runs", self._check)
        return self._listing.page(found, asked.query)

    def delete(self, asked: Asked) -> Json:
        with context("Failed to delete a recurring run"):
            del self._store.recurring_runs[self._find(asked, "delete")["recurring_run_id"]]
        return {}

    def enable(self, asked: Asked) -> Json:
        with context("Failed to enable a recurring run"):
            return self._switch(self._find(asked, "enable"), True)

    def disable(self, asked: Asked) -> Json:
        with context("Failed to disable a recurring run"):
            return self._switch(self._find(asked, "disable"), False)

    def fire(self, key: str) -> Json:
        """Makes the run whose time has come, if the schedule is enabled."""
        found = self._store.recurring_runs[key]
        if found["mode"] != "ENABLE":
            return {}
        found["_fired"] += 1
        told: Json = {
            **{"display_name": f"{found['display_name']}-{key[:5]}-{found['_fired']}", "recurring_run_id": key},
            **{name: found[name] for name in ("pipeline_spec", "pipeline_version_reference") if name in found},
            **{name: found[name] for name in ("runtime_config", "service_account")},
        }
        return public(self._runs.make(told, self._store.experiments[found["experiment_id"]]))

    def _convert(self, told: Json) -> Json:
        """Returns the trigger, as it is stored; raises `Refused` for what is wrong in itself."""
        if not told.get("display_name"):
            with as_internal("Failed to convert a API recurring run to its internal representation"):
                raise invalid("Recurring run's name cannot be empty")
        concurrent = int(told.get("max_concurrency", 0))
        if not 1 <= concurrent <= 10:
            raise invalid(
                f"Max concurrency of a recurring run must be at least 1 and at most 10. Received {concurrent}"
            )
        trigger = told.get("trigger", {})
        if "cron_schedule" in trigger:
            wrong = problem(trigger["cron_schedule"].get("cron", ""))
            if wrong:
                raise invalid("Schedule cron is not a supported format(https://godoc.org/github.com/robfig/cron). "
                              f"Error: {wrong}")  # fmt: skip
        elif "periodic_schedule" in trigger:
            interval = int(trigger["periodic_schedule"].get("interval_second", 0))
            if interval < 1:
                raise invalid(f"Found invalid period schedule interval {interval}. Set at interval to least 1 second")
        return {
            name: {key: CONVERT.get(key, str)(one) for key, one in schedule.items()}
            for name, schedule in trigger.items()
        }

    def _make(self, told: Json, experiment: Json, trigger: Json) -> Json:
        failed = "Failed to create a recurring run with an invalid pipeline spec manifest"
        reference = told.get("pipeline_version_reference", {})
        newest = bool(reference) and not reference.get("pipeline_version_id")
        source, template = source_of(told, self._pipelines, failed)
        if newest:  # each run takes the newest version that there is then
            source["pipeline_version_reference"].pop("pipeline_version_id")
        config = told.get("runtime_config", {})
        with context("Failed to create a recurring run during scheduled workflow creation"):
            template.check(config.get("parameters", {}))
        key, now = self._store.new_id(), self._store.clock.tick()
        enabled = told.get("mode") == "ENABLE"
        self._store.recurring_runs[key] = {
            "recurring_run_id": key,
            "display_name": told["display_name"],
            "description": told.get("description", ""),
            **source,
            "runtime_config": {key: config[key] for key in ("parameters", "pipeline_root") if config.get(key)},
            "service_account": told.get("service_account") or self._access.runner,
            "max_concurrency": str(told["max_concurrency"]),
            "trigger": trigger,
            "mode": "ENABLE" if enabled else "DISABLE",
            "created_at": now,
            "updated_at": now,
            "status": "ENABLED" if enabled else "DISABLED",
            "no_catchup": told.get("no_catchup", False),
            # Where there is a single user, the server's own namespace comes back.
            "namespace": experiment["namespace"] or self._access.system,
            "experiment_id": experiment["experiment_id"],
            "_namespace": experiment["namespace"],
            "_fired": 0,
        }
        return self._store.recurring_runs[key]

    def _switch(self, found: Json, on: bool) -> Json:
        found |= {"mode": "ENABLE" if on else "DISABLE", "status": "ENABLED" if on else "DISABLED"}
        found["updated_at"] = self._store.clock.tick()
        return {}

    def _find(self, asked: Asked, verb: str) -> Json:
        with context("Failed to authorize the request"):
            found = self._store.find(self._store.recurring_runs, "Job", asked.path[0])
            self._check(asked.user, verb, found["_namespace"])
        return found

    def _check(self, user: str, verb: str, namespace: str) -> None:
        if self._access.multi_user and not namespace:
            raise invalid("a recurring run cannot have an empty namespace in multi-user mode")
        with context("failed to authorize with API"):
            self._access.check(user, verb, "jobs", namespace)
