"""What KServe's controller and what stands below it make of an InferenceService: pods, routes, and its status.

One reconciliation a tick. The rules are those of components/predictor.go, reconcilers/knative/ksvc_reconciler.go and
inference_service_status.go of KServe, and of Knative's configuration.go; for Standard, what a real KServe 0.20 did.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.fakes.httpd import Request, Response
from tests.fakes.kubernetes.admission import MODE

Json = dict[str, Any]
RELEASE = "nlp-pipeline/release"
IMAGE = "example.com/predictor:1"
# What is not copied to pods, so that a change of it makes no new ones.
NOT_COPIED = ("modelFormat", "kubectl.kubernetes.io/last-applied-configuration")


@dataclass
class Fate:
    """What becomes of each new set of pods of a release."""

    ready_after: int = 2  # ticks from its start until it is ready, or fails to load
    # ModelLoadFailed: the container crashes. InvalidSpec: the controller makes no pods of the object. never ready: the
    # pods run, and don't get ready. unpullable: there is no such image. unschedulable: no node has room. forbidden: Pod
    # Security admits no pod.
    failure: (
        Literal["ModelLoadFailed", "InvalidSpec", "never ready", "unpullable", "unschedulable", "forbidden"] | None
    ) = None
    message: str = "the model could not be loaded"  # the server's or the controller's reason of the failure
    backend: Callable[[Request], Response] | None = None  # what answers for it; without one the gateway answers 503
    unready_answers: int = 0  # how many requests the gateway refuses though the pods are ready
    unready_status: int = 503  # with which status: 503 or 404


@dataclass(eq=False)
class Revision:
    """A set of equal pods: a Knative revision, a Deployment's ReplicaSet."""

    name: str
    template: Json
    fate: Fate
    app: str
    replicas: int = 1
    age: int = 0
    refused: int = 0

    @property
    def release(self) -> str:
        return str(self.template["labels"].get(RELEASE, ""))

    @property
    def ready(self) -> bool:
        return self.fate.failure is None and self.age >= self.fate.ready_after

    @property
    def failed(self) -> bool:
        return self.fate.failure == "ModelLoadFailed" and self.age >= self.fate.ready_after


@dataclass
class World:
    """What has been made of one InferenceService."""

    service: Json  # as it is stored
    fate_of: Callable[[str], Fate]  # what becomes of a release
    lag: int = 0  # for how many ticks its change is not noticed
    sets: list[Revision] = field(default_factory=list)  # on Knative all there have been, on Standard those with pods
    made: int = 0  # how many there have been
    latest_ready: Revision | None = None  # on Knative the newest that got ready
    traffic: list[Json] = field(default_factory=list)  # on Knative who gets it
    beside: dict[str, Revision] = field(default_factory=dict)  # on Standard, by the name in `spec.canary`
    events: dict[tuple[str, str], str] = field(default_factory=dict)  # what has been told of its failures

    @property
    def name(self) -> str:
        return f"{self.service['metadata']['name']}-predictor"

    @property
    def namespace(self) -> str:
        return str(self.service["metadata"]["namespace"])

    def tick(self, mode: str) -> Json:
        """Lets time pass, and returns the status thereafter."""
        for one in [*self.sets, *self.beside.values()]:
            one.age += 1
        metadata: Json = self.service["metadata"]
        status: Json = copy.deepcopy(self.service.get("status", {}))
        if self.lag:
            self.lag -= 1
            return status
        mode = status.setdefault("deploymentMode", metadata.get("annotations", {}).get(MODE, mode))
        fate = self.fate_of(metadata.get("labels", {}).get(RELEASE, ""))
        if fate.failure == "InvalidSpec":  # the conditions, Ready too, stay what they were
            failure = {"reason": "InvalidPredictorSpec", "message": fate.message}
            status.setdefault("modelStatus", {}).update(transitionStatus="InvalidSpec", lastFailureInfo=failure)
            status.setdefault("conditions", conditions(("Unknown", "")))
            self.events[metadata["name"], "InternalError"] = fate.message
            return status
        if metadata.get("annotations", {}).get("serving.kserve.io/stop") == "true":
            self.sets, self.made, self.latest_ready, self.traffic, self.beside = [], 0, None, [], {}
            stopped = conditions(("False", "Stopped"))
            return {"deploymentMode": mode, "modelStatus": {"transitionStatus": ""}, "conditions": stopped}
        if mode == "Knative" and "lifecycle" in self.service["spec"]["predictor"].get("model", {}):
            message = "must not set the field(s): spec.template.spec.containers[0].lifecycle"
            return status | {"conditions": conditions(("False", "ReconcileFailed"), message)}
        self._update_pods(mode)
        return self._knative(status) if mode == "Knative" else self._standard(status)

    def _template(self, predictor: Json, mode: str) -> Json:
        spec = copy.deepcopy(predictor)
        for key in ["canaryTrafficPercent", *(["minReplicas", "maxReplicas"] if mode == "Standard" else [])]:
            spec.pop(key, None)
        metadata = self.service["metadata"]
        annotations = {key: value for key, value in metadata.get("annotations", {}).items() if key not in NOT_COPIED}
        labels = dict(metadata.get("labels", {}))
        return {
            "labels": labels | spec.pop("labels", {}),
            "annotations": annotations | spec.pop("annotations", {}),
            "spec": spec,
        }

    def _update_beside(self) -> None:
        """After `reconcileCanaryDeployments`: what is left out is inherited from the predictor."""
        spec, former = self.service["spec"], self.beside
        self.beside = {}
        for canary in spec.get("canary", []):
            name = canary["predictor"]["name"]
            app = f"{self.service['metadata']['name']}-{name}-predictor"
            template = self._template(merged(spec["predictor"], canary["predictor"]), "Standard")
            known = former.get(name)
            if known is None or known.template != template:
                self.made += 1
                fate = self.fate_of(template["labels"].get(RELEASE, ""))
                known = Revision(f"{app}-{self.made:05d}", template, fate, f"isvc.{app}")
            self.beside[name] = known

    def _update_pods(self, mode: str) -> None:
        template = self._template(self.service["spec"]["predictor"], mode)
        if mode == "Standard":
            self._update_beside()
        if self.sets and self.sets[-1].template == template:
            return
        # A ReplicaSet that still has pods of that very template is taken up again.
        known = [one for one in self.sets if one.template == template and mode == "Standard"]
        if not known:
            self.made += 1
            fate = self.fate_of(template["labels"].get(RELEASE, ""))
            known = [Revision(f"{self.name}-{self.made:05d}", template, fate, f"isvc.{self.name}")]
        if mode == "Standard":
            self.sets = [one for one in self.sets if one.ready and one not in known]
        self.sets += known
        self.sets[-1].replicas = max(1, self.service["spec"]["predictor"].get("minReplicas", 1))

    def running(self) -> list[Revision]:
        """Returns what has pods: on Knative what is routed to, what is starting, and the newest; the oldest first."""
        if self.service.get("status", {}).get("deploymentMode") == "Standard":
            return [*self.sets, *self.beside.values()]
        routed = [one["revisionName"] for one in self.traffic]
        newer = self.sets.index(self.latest_ready) + 1 if self.latest_ready else 0
        return [one for at, one in enumerate(self.sets) if one.name in routed or at >= newer]

    def _standard(self, status: Json) -> Json:
        """After `PropagateRawStatus`: Available is not downgraded while new pods are on their way."""
        newest, available = self.sets[-1], any(one.ready for one in self.sets)
        if newest.ready:
            self.sets = [newest]
        reason = "NewReplicaSetAvailable" if newest.ready else f"MinimumReplicas{'A' if available else 'Una'}vailable"
        status["conditions"] = conditions((str(available), reason))
        if newest.fate.failure == "forbidden":
            status["conditions"] = conditions(("False", "FailedCreate"), newest.fate.message)
        # Of what runs beside, the status has no more than this.
        status["canaryStatuses"] = [
            {"name": name, "ready": one.ready, "trafficPercent": 0} for name, one in self.beside.items()
        ]
        # KServe looks at the first pod of the name, which may be a former one's.
        self._tell_model(status, self.sets[0], available)
        if available:
            self._publish(status, f"{self.service['metadata']['name']}-{self.namespace}", self.name)
            status["components"] = {"predictor": {"url": f"http://{self.name}-{self.namespace}.example.com"}}
        # A count of its own, ahead of the InferenceService's, as an autoscaler has set its replicas since.
        return status | {"observedGeneration": 4 + self.made}

    def _knative(self, status: Json) -> Json:
        component, newest = status.setdefault("components", {}).setdefault("predictor", {}), self.sets[-1]
        # Never back to an older one; one that has been replaced already may still get ready first.
        at = self.sets.index(self.latest_ready) if self.latest_ready else -1
        self.latest_ready = next((one for one in reversed(self.sets[at + 1 :]) if one.ready), self.latest_ready)
        component["latestCreatedRevision"] = newest.name
        if self.latest_ready:
            rolled_out = component.get("latestRolledoutRevision", "")
            self.traffic = [self._resolved(target) for target in desired_traffic(self.service, rolled_out)]
            self._tell_rollout(component, self.latest_ready.name, rolled_out)
            inside, outside = f"{self.name}.{self.namespace}.svc.cluster.local", f"{self.name}.{self.namespace}"
            component |= {"url": f"http://{outside}.example.com", "address": {"url": f"http://{inside}"}}
            component |= {"latestReadyRevision": self.latest_ready.name, "traffic": copy.deepcopy(self.traffic)}
            self._publish(
                status, f"{self.service['metadata']['name']}.{self.namespace}", self.name[: -len("-predictor")]
            )
        is_ready = newest is self.latest_ready
        state = ("False", "RevisionFailed") if newest.failed else ("True" if is_ready else "Unknown", "")
        status["conditions"] = conditions(state)
        self._tell_model(status, newest, is_ready)
        return status | {"observedGeneration": self.made}

    def _tell_rollout(self, component: Json, ready: str, rolled_out: str) -> None:
        """After `PropagateStatus`: which revision was the last one with all of the traffic."""
        percent = self.traffic[0]["percent"]
        if rolled_out != ready and percent == 100:
            component |= {"previousRolledoutRevision": rolled_out, "latestRolledoutRevision": ready}
        elif rolled_out == ready == component["latestCreatedRevision"] and percent < 100:
            component["latestRolledoutRevision"] = component.get("previousRolledoutRevision") or rolled_out

    def _resolved(self, target: Json) -> Json:
        assert self.latest_ready
        found = {**target, "url": f"http://{target['tag']}-{self.name}.{self.namespace}.example.com"}
        return {**found, "revisionName": self.latest_ready.name} if target["latestRevision"] else found

    def _publish(self, status: Json, outside: str, inside: str) -> None:
        status["url"] = f"http://{outside}.example.com"
        status["address"] = {"url": f"http://{inside}.{self.namespace}.svc.cluster.local"}

    def _tell_model(self, status: Json, seen: Revision, loaded: bool) -> None:
        """After `PropagateModelStatus`; a `lastFailureInfo` stays even when a later model is loaded."""
        model = status.setdefault("modelStatus", {})
        model["transitionStatus"] = "UpToDate" if loaded else "BlockedByFailedLoad" if seen.failed else "InProgress"
        if not loaded and seen.failed:
            failure = {"reason": "ModelLoadFailed", "message": seen.fate.message, "exitCode": 1}
            model["lastFailureInfo"] = failure
        for one in self.running():
            if one.fate.failure == "forbidden":
                self.events[one.name, "FailedCreate"] = one.fate.message
            if one.failed:
                self.events[self.pods_of(one)[0]["metadata"]["name"], "BackOff"] = (
                    "Back-off restarting failed container"
                )

    def pods(self) -> list[Json]:
        return [pod for one in self.running() for pod in self.pods_of(one)]

    def pods_of(self, revision: Revision) -> list[Json]:
        state: Json = {"running": {}}
        if revision.fate.failure == "forbidden":
            return []
        if revision.fate.failure == "unpullable":
            reason = "ErrImagePull" if revision.age < 6 else "ImagePullBackOff"
            state = {"waiting": {"reason": reason, "message": revision.fate.message}}
        if revision.failed:
            state = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container"}}
        container = {
            "name": "kserve-container",
            "image": IMAGE,
            "imageID": IMAGE,
            "ready": revision.ready,
            "restartCount": 3 if revision.failed else 0,
            "state": state,
            "lastState": {"terminated": {"exitCode": 1, "message": revision.fate.message}} if revision.failed else {},
        }
        name = self.service["metadata"]["name"]
        labels = {**revision.template["labels"], "serving.kserve.io/inferenceservice": name, "app": revision.app}
        annotations = revision.template["annotations"]
        metadata = {"namespace": self.namespace, "labels": labels, "annotations": annotations}
        status = {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": str(revision.ready)}],
            "containerStatuses": [container],
        }
        if revision.fate.failure == "unschedulable":
            unscheduled = {"reason": "Unschedulable", "message": revision.fate.message}
            status = {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", **unscheduled}]}
        numbers = range(revision.replicas)
        spec = {"containers": [{"name": "kserve-container", "image": IMAGE}]}
        return [
            {"metadata": {"name": f"{revision.name}-{number}", **metadata}, "spec": spec, "status": status}
            for number in numbers
        ]

    def routes(self) -> dict[str, list[tuple[Revision, int]]]:
        """Returns what answers under each host name outside the cluster, and to how many percent of the requests."""
        status, found = self.service.get("status", {}), {}
        by_name = {one.name: one for one in self.sets}
        targets = [(by_name[one["revisionName"]], one["percent"]) for one in self.traffic]
        for one in self.traffic:
            found[f"{one['tag']}-{self.name}.{self.namespace}.example.com"] = [(by_name[one["revisionName"]], 100)]
        if not self.traffic:
            targets = [(one, 1) for one in self.sets if one.ready]
        return {status["url"].removeprefix("http://"): targets, **found} if "url" in status and targets else found


def merged(stable: Json, canary: Json) -> Json:
    """Returns what a canary's predictor is, as mergo merges it: what is empty is left out."""
    both = copy.deepcopy(stable)
    for key, value in canary.items():
        if isinstance(value, dict):
            both[key] = merged(both.get(key, {}), value)
        elif value or key not in both:
            both[key] = value
    return both


def conditions(ready: tuple[str, str], message: str = "") -> list[Json]:
    """Returns the conditions of a status, of which Ready is like PredictorReady."""
    kinds = {"IngressReady": ready, "PredictorReady": ready, "Ready": ready}
    kinds["Stopped"] = (str(ready[1] == "Stopped"), "")
    return [
        {"type": kind, "status": status, "reason": reason, "message": message}
        for kind, (status, reason) in kinds.items()
    ]


def desired_traffic(service: Json, rolled_out: str) -> list[Json]:
    """Returns the desired traffic of a Knative Service, as `createKnativeService`; our objects ask for tags."""
    percent = service["spec"]["predictor"].get("canaryTrafficPercent")
    split = percent is not None and rolled_out != ""
    latest = {"latestRevision": True, "percent": percent if split else 100, "tag": "latest"}
    if not split or percent == 100:
        return [latest]
    return [latest, {"revisionName": rolled_out, "latestRevision": False, "percent": 100 - percent, "tag": "prev"}]
