"""What KServe's controller makes of an InferenceService: a Knative Service or a Deployment, with sets of pods."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.fakes.kubernetes.behaviour import Fate
from tests.fakes.kubernetes.conditions import Conditions

Json = dict[str, Any]


@dataclass
class Revision:
    """A set of equal pods: a Knative revision, a Deployment's ReplicaSet."""

    name: str
    release: str
    template: Json
    replicas: int
    fate: Fate
    labels: dict[str, str]
    created: str
    age: int = 0
    refused: int = 0

    @property
    def ready(self) -> bool:
        """Whether its pods answer."""
        return self.fate.failure is None and self.age >= self.fate.ready_after

    @property
    def failed(self) -> bool:
        """Whether its pods crash."""
        return self.fate.failure == "ModelLoadFailed" and self.age >= self.fate.ready_after


Start = Callable[[str, Json, dict[str, str]], Revision]
"""Makes the pods of a name, a template, and labels of their own."""


class KnativeService:
    """A Knative Service with its Configuration, its Revisions and its Route.

    Args:
        name: Of the component, as in `reviews-predictor`.
        namespace: Where it is.
        start: Makes the pods of a revision.
    """

    def __init__(self, name: str, namespace: str, start: Start) -> None:
        self.name, self.namespace, self._start = name, namespace, start
        self.generation = 0
        self.revisions: list[Revision] = []
        self.traffic: list[Json] = []
        self.conditions = Conditions([], "ConfigurationsReady", "RoutesReady")
        self._wanted: list[Json] = []
        self._latest_ready: Revision | None = None

    @property
    def latest_created(self) -> Revision:
        """The newest revision."""
        return self.revisions[-1]

    @property
    def latest_ready(self) -> str:
        """The name of the newest revision that got ready; empty before there was one."""
        return self._latest_ready.name if self._latest_ready else ""

    def apply(self, template: Json, traffic: list[Json]) -> None:
        """Takes what is wanted; a template that differs from the newest revision's makes a new one."""
        new_template = not self.revisions or self.latest_created.template != template
        if new_template or self._wanted != traffic:
            self.generation += 1
        if new_template:
            name = f"{self.name}-{len(self.revisions) + 1:05d}"
            self.revisions.append(self._start(name, template, {"serving.knative.dev/revision": name, "app": name}))
        self._wanted = traffic

    def observe(self) -> None:
        """Does what Knative's controllers do: finds out which revision is ready, routes, tells conditions."""
        newest = self.latest_created
        # Never back to an older one, as `findAndSetLatestReadyRevision` of Knative's configuration.go; a revision that
        # a newer one has already replaced may still get ready first, and is then the latest ready one for a while.
        self._latest_ready = next(
            (one for one in reversed(self.revisions) if one is self._latest_ready or one.ready), None
        )
        if newest.failed:
            text = f'Revision "{newest.name}" failed with message: {newest.fate.message}.'
            self.conditions.mark("ConfigurationsReady", "False", "RevisionFailed", text)
        else:
            self.conditions.mark("ConfigurationsReady", "True" if newest is self._latest_ready else "Unknown")
        if self._latest_ready:
            self.traffic = [self._resolved(target) for target in self._wanted]
            self.conditions.mark("RoutesReady", "True")
        else:
            status = "False" if newest.failed else "Unknown"
            what = "does not have any ready" if newest.failed else "is waiting for a"
            self.conditions.mark(
                "RoutesReady", status, "RevisionMissing", f'Configuration "{self.name}" {what} Revision'
            )

    def running(self) -> list[Revision]:
        """Returns the revisions that have pods: what is routed to, what is starting, and the newest."""
        routed = {target["revisionName"] for target in self.traffic}
        newer = self.revisions.index(self._latest_ready) + 1 if self._latest_ready else 0
        return [one for at, one in enumerate(self.revisions) if one.name in routed or at >= newer]

    def routes(self) -> dict[str, list[tuple[Revision, int]]]:
        """Returns what answers under each name, a tag before it or not, and for how many percent of the requests."""
        by_name = {one.name: one for one in self.revisions}
        routes: dict[str, list[tuple[Revision, int]]] = {}
        for target in self.traffic:
            revision = by_name[target["revisionName"]]
            routes.setdefault(self.name, []).append((revision, target["percent"]))
            if "tag" in target:
                routes[f"{target['tag']}-{self.name}"] = [(revision, 100)]
        return routes

    def _resolved(self, target: Json) -> Json:
        found = dict(target)
        if target["latestRevision"]:
            found["revisionName"] = self.latest_ready
        if "tag" in target:
            found["url"] = f"http://{target['tag']}-{self.name}.{self.namespace}.example.com"
        return found


class Deployment:
    """A Deployment that updates rolling, with as many pods too many and none too few.

    Args:
        name: Of the component, as in `reviews-predictor`.
        start: Makes the pods of a ReplicaSet.
    """

    def __init__(self, name: str, start: Start) -> None:
        self.name, self._start = name, start
        # Its own count, ahead of the InferenceService's, as an autoscaler has set its replicas since.
        self.generation = 4
        self.sets: list[Revision] = []
        self._made = 0

    def apply(self, template: Json) -> None:
        """Takes what is wanted; a ReplicaSet that still has pods of that very template is taken up again."""
        if self.sets and self.sets[-1].template == template:
            return
        known = next((one for one in self.sets if one.template == template), None)
        if known is None:
            self._made += 1
            labels = {"app": f"isvc.{self.name}", "pod-template-hash": f"{self._made:010x}"}
            known = self._start(f"{self.name}-{self._made:010x}", template, labels)
        self.sets = [one for one in self.sets if one is not known and one.ready] + [known]
        self.generation += 1

    def observe(self) -> None:
        """Ends the pods of former ReplicaSets once the new ones are ready."""
        if self.sets[-1].ready:
            del self.sets[:-1]

    def running(self) -> list[Revision]:
        """Returns the ReplicaSets that have pods, the oldest first."""
        return self.sets

    @property
    def available(self) -> bool:
        """Whether enough pods answer, new or old."""
        return any(one.ready for one in self.sets)

    @property
    def complete(self) -> bool:
        """Whether the pods are those wanted."""
        return self.sets[-1].ready

    def routes(self) -> dict[str, list[tuple[Revision, int]]]:
        """Returns what answers under its name: each ready pod in turn."""
        ready = [one for one in self.sets if one.ready]
        return {self.name: [(one, 100 // len(ready)) for one in ready]} if ready else {}
