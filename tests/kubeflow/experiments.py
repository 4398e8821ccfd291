"""Experiments, after server/experiment_server.go."""

from typing import Any

from tests.kubeflow.asked import Asked
from tests.kubeflow.errors import already_exists, as_internal, context, invalid
from tests.kubeflow.listing import Listing
from tests.kubeflow.store import Access, Store, public

Json = dict[str, Any]
FIELDS = {
    "experiment_id": "experiment_id",
    "name": "display_name",
    "display_name": "display_name",
    "last_run_created_at": "last_run_created_at",
    "namespace": "namespace",
    "storage_state": "storage_state",
}


class Experiments:
    """The experiment service."""

    def __init__(self, store: Store, access: Access) -> None:
        self._store, self._access = store, access
        self._listing = Listing("Experiment", "experiments", "experiment_id", FIELDS, lambda text: store.fold(text))
        if not access.multi_user:
            self.make("Default", "All runs created without specifying an experiment will be grouped here.", "")

    def make(self, name: str, description: str, namespace: str) -> Json:
        """Makes an experiment, unasked."""
        if self._store.named(self._store.experiments, name, "display_name", namespace=namespace):
            raise already_exists(f"Failed to create a new experiment. The name {name} already exists. "
                                 "Please specify a new name")  # fmt: skip
        key = self._store.new_id()
        self._store.experiments[key] = {
            "experiment_id": key,
            "display_name": name,
            "description": description,
            "created_at": self._store.clock.tick(),
            "last_run_created_at": 0,
            "namespace": namespace,
            "storage_state": "AVAILABLE",
        }
        return self._store.experiments[key]

    def create(self, asked: Asked) -> Json:
        with context("Failed to create a experiment"):
            name, namespace = asked.body.get("display_name", ""), asked.body.get("namespace", "")
            with (
                context("[ExperimentServer]: Failed to create a experiment due to conversion error"),
                as_internal("Failed to convert API experiment to model experiment"),
            ):
                if not name:
                    raise invalid("Experiment must have a non-empty name")
                if len(name.encode()) > 128:
                    raise invalid("Experiment.Name length cannot exceed 128")
            namespace = self._access.namespace(namespace)
            with context("Failed to authorize the request"):
                self._check(asked.user, "create", namespace)
            return public(self.make(name, asked.body.get("description", ""), namespace))

    def get(self, asked: Asked) -> Json:
        with context("Failed to fetch experiment"):
            return public(self._find(asked, "get"))

    def list_some(self, asked: Asked) -> Json:
        with context("Failed to create list options"):
            self._listing.check(asked.query)
        namespace = self._access.namespace(asked.query.get("namespace", ""))
        with context("List experiments failed"), context("Failed to authorize with API"):
            self._check(asked.user, "list", namespace)
        found = [one for one in self._store.experiments.values() if one["namespace"] == namespace]
        return self._listing.page(found, asked.query)

    def delete(self, asked: Asked) -> Json:
        with context("Failed to delete experiment"):
            del self._store.experiments[self._find(asked, "delete")["experiment_id"]]
        return {}

    def archive(self, asked: Asked) -> Json:
        with context("Failed to archive experiment"):
            found = self._find(asked, "archive")
            found["storage_state"] = "ARCHIVED"
        for run in self._store.runs.values():
            if run["experiment_id"] == found["experiment_id"]:
                run["storage_state"] = "ARCHIVED"
        return {}

    def unarchive(self, asked: Asked) -> Json:
        with context("Failed to unarchive experiment"):
            self._find(asked, "unarchive")["storage_state"] = "AVAILABLE"
        return {}

    def of(self, key: str, title: str) -> Json:
        """Returns the experiment that a run or a recurring run is to be in.

        Raises:
            Refused: There is none, or none was given where there are several users.
        """
        with context(f"Failed to create a {title} due to invalid experimentId and namespace combination"):
            if not key and self._access.multi_user:
                raise invalid("Experiment id can not be empty in multi-user mode")
            if not key:
                return self._store.named(self._store.experiments, "Default", "display_name") or self.make(
                    "Default", "", ""
                )
            with (
                context(f"Failed to fetch namespace for experiment {key}"),
                context(f"Failed to fetch namespace from experiment {key}"),
            ):
                return self._store.find(self._store.experiments, "Experiment", key)

    def _find(self, asked: Asked, verb: str) -> Json:
        with context("Failed to authorize the request"):
            found = self._store.find(self._store.experiments, "Experiment", asked.path[0])
            self._check(asked.user, verb, found["namespace"])
        return found

    def _check(self, user: str, verb: str, namespace: str) -> None:
        if self._access.multi_user and not namespace:
            raise invalid("An experiment cannot have an empty namespace in multi-user mode")
        with context("Failed to authorize with API"):
            self._access.check(user, verb, "experiments", namespace)
