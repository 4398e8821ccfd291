"""What KServe's controller does about InferenceServices: one reconciliation a tick, and a tick at each read of one.

After `Reconcile` in pkg/controller/v1beta1/inferenceservice/controller.go and `Reconcile` in components/predictor.go.
"""

import copy
import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tests.fakes.kubernetes.behaviour import Behaviour, Fate
from tests.fakes.kubernetes.children import Deployment, KnativeService, Revision, Start
from tests.fakes.kubernetes.conditions import Conditions
from tests.fakes.kubernetes.kinds import GROUP
from tests.fakes.kubernetes.pods import Pods
from tests.fakes.kubernetes.status import tell_aggregate, tell_deployment, tell_knative, tell_model

__all__ = ["Controller", "Fate"]

Json = dict[str, Any]
MODE = f"{GROUP}/deploymentMode"
RELEASE = "nlp-pipeline/release"
# What KServe does not copy to revisions and pods (pkg/constants: ServiceAnnotationDisallowedList), and what of the
# annotations goes to the Knative Service itself (ksvc_reconciler.go: managedKsvcAnnotations).
NOT_COPIED = {
    "autoscaling.knative.dev/min-scale",
    "autoscaling.knative.dev/max-scale",
    "internal.serving.kserve.io/storage-initializer-sourceuri",
    "kubectl.kubernetes.io/last-applied-configuration",
    "modelFormat",
    "serving.knative.dev/rollout-duration",
}


@dataclasses.dataclass
class World:
    """What has been made of one InferenceService."""

    service: Json
    behind: int
    child: KnativeService | Deployment | None = None
    published: bool = False
    seen_failed: set[str] = dataclasses.field(default_factory=set)


class InvalidSpecError(Exception):
    """The controller can make no pods of the object: reason and message for the status, text for the event."""


class Controller:
    """Makes pods and routes of InferenceServices, and tells it in their status.

    Args:
        mode: The cluster's default: Knative or Standard.
        behaviour: What becomes of releases, and after how long.
        find_runtime: Returns whether a runtime is the whole cluster's, and its spec, by namespace and name.
    """

    def __init__(
        self, mode: str, behaviour: Behaviour, find_runtime: Callable[[str, str], tuple[bool, Json] | None]
    ) -> None:
        self._mode, self._behaviour, self._find_runtime = mode, behaviour, find_runtime
        self.worlds: dict[str, World] = {}
        self.pods = Pods()

    def changed(self, service: Json) -> None:
        """Hears of an object that was created or replaced, and is going to notice after some ticks."""
        world = self.worlds.setdefault(service["metadata"]["uid"], World(service, 0))
        world.service, world.behind = service, self._behaviour.lag

    def deleted(self, service: Json) -> None:
        """Takes all down that was made of an object."""
        del self.worlds[service["metadata"]["uid"]]

    def tick(self, service: Json) -> Json:
        """Lets time pass for one object, and returns its status thereafter."""
        world = self.worlds[service["metadata"]["uid"]]
        for revision in world.child.running() if world.child else []:
            revision.age += 1
        status: Json = copy.deepcopy(service.get("status", {}))
        if world.behind:
            world.behind -= 1
            return status
        conditions = Conditions(status.get("conditions", []), "PredictorReady", "IngressReady")
        status["deploymentMode"] = self.mode(service)
        status.setdefault("modelStatus", {"transitionStatus": ""})
        try:
            self._check(service, status)
            conditions = self._reconcile(world, status, conditions)
        except InvalidSpecError as error:
            # The other conditions, Ready too, stay what they were.
            reason, message, text = error.args
            model = status["modelStatus"]
            model["transitionStatus"] = "InvalidSpec"
            model.setdefault("states", {"activeModelState": ""})["targetModelState"] = "FailedToLoad"
            model["lastFailureInfo"] = {"reason": reason, "message": message}
            self.pods.tell(service, "InferenceService", "InternalError", text)
        status["conditions"] = conditions.as_list(now())
        return status

    def mode(self, service: Json) -> str:
        """Returns the deployment mode of an object: as once told in its status, as annotated, the cluster's."""
        annotated = service["metadata"].get("annotations", {}).get(MODE, self._mode)
        return str(service.get("status", {}).get("deploymentMode") or annotated)

    def _fate(self, release: str) -> Fate:
        return self._behaviour.fates.get(release, self._behaviour.default_fate)

    def _start(self, service: Json) -> Start:
        def start(name: str, template: Json, labels: dict[str, str]) -> Revision:
            release = template["labels"].get(RELEASE, "")
            replicas = max(1, service["spec"]["predictor"].get("minReplicas", 1))
            return Revision(name, release, template, replicas, self._fate(release), labels, now())

        return start

    def _check(self, service: Json, status: Json) -> None:
        """After `reconcileModel` in components/predictor.go."""
        fate = self._fate(service["metadata"].get("labels", {}).get(RELEASE, ""))
        if fate.failure == "InvalidSpec":
            raise InvalidSpecError("InvalidPredictorSpec", fate.message, fate.message)
        model = service["spec"]["predictor"].get("model", {})
        name = model.get("runtime")
        if not name:
            return
        found = self._find_runtime(service["metadata"]["namespace"], name)
        if found is None:
            text = f"No ServingRuntimes or ClusterServingRuntimes with the name: {name}"
            raise InvalidSpecError("RuntimeNotRecognized", "Waiting for runtime to become available", text)
        of_cluster, spec = found
        protocol = model.get("protocolVersion")
        for wrong, reason, what in (
            (spec.get("disabled"), "RuntimeDisabled", "is disabled"),
            (
                protocol and protocol not in spec.get("protocolVersions", [protocol]),
                "NoSupportingRuntime",
                "does not support specified protocol version",
            ),
            (
                model["modelFormat"]["name"] not in [one["name"] for one in spec.get("supportedModelFormats", [])],
                "NoSupportingRuntime",
                "does not support specified framework/version",
            ),
        ):
            if wrong:
                raise InvalidSpecError(reason, f"Specified runtime {what}", f"specified runtime {name} {what}")
        status.pop("servingRuntimeName", None)
        status.pop("clusterServingRuntimeName", None)
        status["clusterServingRuntimeName" if of_cluster else "servingRuntimeName"] = name

    def _reconcile(self, world: World, status: Json, conditions: Conditions) -> Conditions:
        metadata = world.service["metadata"]
        if metadata.get("annotations", {}).get(f"{GROUP}/stop", "").lower() == "true":
            return self._stop(world, status, conditions)
        name, namespace = f"{metadata['name']}-predictor", metadata["namespace"]
        start = self._start(world.service)
        component = status.setdefault("components", {}).setdefault("predictor", {})
        if status["deploymentMode"] == "Knative":
            knative = world.child if isinstance(world.child, KnativeService) else KnativeService(name, namespace, start)
            world.child = knative
            knative.apply(template(world.service), traffic(world.service, component.get("latestRolledoutRevision", "")))
            knative.observe()
            tell_knative(component, knative, conditions)
            status["observedGeneration"] = knative.generation
            of_newest = [knative.latest_created]
            loaded = knative.latest_created.name == knative.latest_ready
        else:
            deployment = world.child if isinstance(world.child, Deployment) else Deployment(name, start)
            world.child = deployment
            deployment.apply(template(world.service, "minReplicas", "maxReplicas"))
            deployment.observe()
            tell_deployment(component, deployment, conditions, f"http://{name}-{namespace}.example.com")
            status["observedGeneration"] = deployment.generation
            of_newest, loaded = deployment.running(), True
        tell_model(status["modelStatus"], of_newest, loaded and conditions.status("Ready") == "True")
        conditions.mark("Stopped", "False")
        if status["deploymentMode"] == "Knative":
            tell_aggregate(conditions, "RoutesReady", "PredictorRouteReady")
            tell_aggregate(conditions, "LatestDeploymentReady", "PredictorConfigurationReady")
        self._publish(world, status, conditions, component)
        for revision in world.child.running():
            if revision.failed and revision.name not in world.seen_failed:
                world.seen_failed.add(revision.name)
                self.pods.tell_failure(world.service, revision)
        return conditions

    def _stop(self, world: World, status: Json, conditions: Conditions) -> Conditions:
        """Ends pods and routes and empties the status, the rolled-out revisions in it too (components/predictor.go)."""
        world.child, world.published = None, False
        world.seen_failed.clear()
        if conditions.status("Stopped") != "True":
            mode = status["deploymentMode"]
            status.clear()
            status.update({"deploymentMode": mode, "modelStatus": {"transitionStatus": ""}})
            conditions = Conditions([], "PredictorReady", "IngressReady")
            conditions.mark("PredictorReady", "False", "Stopped")
            conditions.mark("Stopped", "True")
            conditions.mark("IngressReady", "False", "Stopped")
        return conditions

    def _publish(self, world: World, status: Json, conditions: Conditions, component: Json) -> None:
        """After `Reconcile` in reconcilers/ingress/ingress_reconciler.go and kube_ingress_reconciler.go."""
        name, namespace = world.service["metadata"]["name"], world.service["metadata"]["namespace"]
        knative = status["deploymentMode"] == "Knative"
        predictor = conditions.status("PredictorReady")
        if predictor != "True":
            unknown = knative and predictor == "Unknown"
            reason = "Predictor ingress not created"
            conditions.mark("IngressReady", "Unknown" if unknown else "False", reason)
        if predictor == "True" or (knative and "url" in component):
            world.published = True
            conditions.mark("IngressReady", "True")
            host, inside = (f"{name}.{namespace}", name) if knative else (f"{name}-{namespace}", f"{name}-predictor")
            status["url"] = f"http://{host}.example.com"
            status["address"] = {"url": f"http://{inside}.{namespace}.svc.cluster.local"}


def now() -> str:
    """Returns the time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def template(service: Json, *of_autoscaler: str) -> Json:
    """Returns what a change of makes new pods: labels, annotations, and the spec but for `canaryTrafficPercent`."""
    predictor = copy.deepcopy(service["spec"]["predictor"])
    for key in ("canaryTrafficPercent", *of_autoscaler):
        predictor.pop(key, None)
    annotations = service["metadata"].get("annotations", {})
    return {
        "labels": dict(service["metadata"].get("labels", {})),
        "annotations": {key: value for key, value in annotations.items() if key not in NOT_COPIED},
        "spec": predictor,
    }


def traffic(service: Json, rolled_out: str) -> list[Json]:
    """Returns the wanted traffic, as `createKnativeService` in reconcilers/knative/ksvc_reconciler.go."""
    percent = service["spec"]["predictor"].get("canaryTrafficPercent")
    split = percent is not None and rolled_out != ""
    latest: Json = {"latestRevision": True, "percent": percent if split else 100}
    if service["metadata"].get("annotations", {}).get(f"{GROUP}/enable-tag-routing") == "true":
        latest["tag"] = "latest"
    if not split or percent == 100:
        return [latest]
    return [latest, {"revisionName": rolled_out, "latestRevision": False, "percent": 100 - percent, "tag": "prev"}]
