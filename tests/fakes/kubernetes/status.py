"""What KServe's controller tells in the status, after pkg/apis/serving/v1beta1/inference_service_status.go."""

import copy
from typing import Any

from tests.fakes.kubernetes.children import Deployment, KnativeService, Revision
from tests.fakes.kubernetes.conditions import Conditions

Json = dict[str, Any]


def tell_knative(component: Json, knative: KnativeService, conditions: Conditions) -> None:
    """After `PropagateStatus`."""
    created, ready = knative.latest_created.name, knative.latest_ready
    component["latestCreatedRevision"] = created
    for target in knative.traffic:
        if target["revisionName"] != ready or not target["latestRevision"]:
            continue
        if component.get("latestRolledoutRevision", "") != ready:
            if target["percent"] == 100:
                component["previousRolledoutRevision"] = component.get("latestRolledoutRevision", "")
                component["latestRolledoutRevision"] = ready
        elif ready == created and target["percent"] < 100:
            of_revision = sum(one["percent"] for one in knative.traffic if one["revisionName"] == ready)
            if of_revision == 100 and component.get("previousRolledoutRevision"):
                component["latestRolledoutRevision"] = component["previousRolledoutRevision"]
    component["latestReadyRevision"] = ready
    component["traffic"] = copy.deepcopy(knative.traffic)
    if knative.conditions.status("Ready") == "True":
        component["url"] = f"http://{knative.name}.{knative.namespace}.example.com"
        component["address"] = {"url": f"http://{knative.name}.{knative.namespace}.svc.cluster.local"}
    for key in [key for key, value in component.items() if value in ("", [])]:
        del component[key]
    knative.conditions.copy_to(conditions, "Ready", "PredictorReady")
    knative.conditions.copy_to(conditions, "RoutesReady", "PredictorRouteReady")
    knative.conditions.copy_to(conditions, "ConfigurationsReady", "PredictorConfigurationReady")


def tell_deployment(component: Json, deployment: Deployment, conditions: Conditions, url: str) -> None:
    """After `PropagateRawStatus`: Available=True is not downgraded while new pods are on their way."""
    if deployment.complete:
        message = f'ReplicaSet "{deployment.sets[-1].name}" has successfully progressed.'
        conditions.mark("PredictorReady", "True", "NewReplicaSetAvailable", message)
    elif deployment.available:
        message = "Deployment has minimum availability."
        conditions.mark("PredictorReady", "True", "MinimumReplicasAvailable", message)
    else:
        message = "Deployment does not have minimum availability."
        conditions.mark("PredictorReady", "False", "MinimumReplicasUnavailable", message)
    if deployment.available:
        component["url"] = url


def tell_aggregate(conditions: Conditions, kind: str, of_predictor: str) -> None:
    """After `PropagateCrossComponentStatus`."""
    status = conditions.status(of_predictor)
    conditions.mark(kind, status, "" if status == "True" else f"{of_predictor} not ready")


def tell_model(model: Json, revisions: list[Revision], loaded: bool) -> None:
    """After `PropagateModelStatus`; a `lastFailureInfo` stays even when a later model is loaded."""
    ready = sum(one.replicas for one in revisions if one.ready)
    model["copies"] = {"failedCopies": 0, **({"totalCopies": ready} if ready else {})}
    states = model.setdefault("states", {"activeModelState": ""})
    if loaded:
        states.update(activeModelState="Loaded", targetModelState="Loaded")
        model["transitionStatus"] = "UpToDate"
    elif revisions[0].failed:
        states["targetModelState"] = "FailedToLoad"
        model["transitionStatus"] = "BlockedByFailedLoad"
        message = revisions[0].fate.message
        model["lastFailureInfo"] = {"reason": "ModelLoadFailed", "message": message, "exitCode": 1}
    else:
        states["targetModelState"] = "Pending"
        model["transitionStatus"] = "InProgress"
