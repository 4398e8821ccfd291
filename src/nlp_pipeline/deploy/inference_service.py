"""The InferenceService: what is read off one, and what is noted on it for undoing and resuming a deployment.

What we note on the object (a label and annotations; KServe copies both to the serving pods, so that a change of one
makes new pods: nothing is noted that differs where the request is the same):

    nlp-pipeline/release    label: the release's digest
    nlp-pipeline/accuracy   as it was evaluated
    nlp-pipeline/labels     the labels in the order of their ids, as JSON; left out where they are very many
    nlp-pipeline/applied    digest of what was asked for, by which the same deployment is known again
    nlp-pipeline/again      the run that asked for it again, where someone had edited it since: tells its pods apart
    nlp-pipeline/replaces   the Knative revision that was the newest before
    nlp-pipeline/rolled-back  on what was rolled back to: one that was interrupted is known again by it
    nlp-pipeline/former     the objects before this one, newest first, as JSON; first itself while it is put back
    canaryTrafficPercent    in the spec while the deployment has not ended. KServe obeys it on Knative and ignores it on
                            Standard; an annotation can't serve, as changing one makes a new revision
"""

import json
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

Json = dict[str, Any]

GROUP = "serving.kserve.io"
NOTES = "nlp-pipeline/"
STOP = f"{GROUP}/stop"
MODE = f"{GROUP}/deploymentMode"
# By its tag, the newest revision can be asked before it gets traffic.
TAGGED = {f"{GROUP}/enable-tag-routing": "true"}
SIDECAR = "sidecar.istio.io/inject"
AUTOSCALER = f"{GROUP}/autoscalerClass"
SHARE = "canaryTrafficPercent"
# What the new release is called while it runs beside the old one.
NEXT = "next"
# By these labels and this annotation a Kubeflow Model Registry's controller, where it is installed, knows what serves.
REGISTRY = "modelregistry.kubeflow.org/"
MODEL_ID, VERSION_ID, REGISTRY_URL = f"{REGISTRY}registered-model-id", f"{REGISTRY}model-version-id", f"{REGISTRY}url"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
# About what is live now, and so not kept in a former object.
PASSING = (f"{NOTES}former", f"{NOTES}replaces", LAST_APPLIED)
# Set anew with each release, by us or by the server; what others wrote stays.
OURS = ("app.kubernetes.io/managed-by", SIDECAR, MODEL_ID, VERSION_ID, REGISTRY_URL)
RENEWED = (STOP, LAST_APPLIED, "modelFormat", *OURS)
KEPT_FORMERS = 3


@dataclass(frozen=True)
class Former:
    """An InferenceService as it was, to be put back."""

    labels: dict[str, str]
    annotations: dict[str, str]
    spec: Json
    ready: bool
    serves: bool  # whether it got traffic: on Knative, a revision before the newest one may have it

    def restore(self, name: str, namespace: str) -> "InferenceService":
        """Returns the object to send so that it is there again."""
        spec = deepcopy(self.spec)
        spec["predictor"].pop(SHARE, None)
        # Without the tag, its revision could not be asked before it gets the traffic back.
        return make(name, namespace, self.labels, self.annotations | TAGGED, spec)


class InferenceService:
    """An InferenceService, live or to be sent, and what is read off it."""

    def __init__(self, body: Json) -> None:
        self.body, metadata = body, body["metadata"]
        self.name, self.namespace = str(metadata["name"]), str(metadata["namespace"])
        self.labels: dict[str, str] = metadata.get("labels") or {}
        self.annotations: dict[str, str] = metadata.get("annotations") or {}
        self.predictor: Json = body["spec"].get("predictor", {})
        self.status: Json = body.get("status", {})
        # What is said of the predictor; on Knative also the revisions and their traffic.
        self.component: Json = self.status.get("components", {}).get("predictor", {})
        self.release = self.labels.get(f"{NOTES}release", "")  # its digest; empty where it was not made by us
        # KServe writes the mode down where it is not Knative.
        mode = self.status.get("deploymentMode") or self.annotations.get(MODE, "")
        self.is_standard = mode in ("Standard", "RawDeployment")
        conditions = self.status.get("conditions") or []
        # On an update, it is ready also while only the former pods are.
        self.is_ready = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
        self.is_stopped = self.annotations.get(STOP, "").lower() == "true"  # it is there without pods
        canaries = [item["predictor"] for item in body["spec"].get("canary", [])]
        # What runs beside it to be asked.
        self.canary: Json = next((item for item in canaries if item["name"] == NEXT), {})

    def __str__(self) -> str:
        return f"InferenceService {self.namespace}/{self.name}"

    @property
    def marks(self) -> list[str]:
        """The notes by which its pods are known: KServe copies them there."""
        return [self.note("applied"), self.note("again")]

    def note(self, name: str) -> str:
        """Returns one of our annotations; empty where there is none."""
        return self.annotations.get(f"{NOTES}{name}", "")

    @property
    def is_unfinished(self) -> bool:
        """Whether a deployment of ours was begun and has not ended: its release has not been found good."""
        return bool(self.note("applied") or self.note("former")) and SHARE in self.predictor

    def matches(self, desired: "InferenceService") -> bool:
        """Says whether it is what was sent.

        It must carry the mark of the same request, as a field that is not asked for any more would pass unseen else,
        and still be as it was asked for, as someone may have edited it since.
        """
        return self.note("applied") == desired.note("applied") and covers(self.body["spec"], desired.body["spec"])

    def serves(self, desired: "InferenceService") -> bool:
        """Says whether it is what is desired already, and not stopped."""
        return not self.is_stopped and self.matches(desired)

    def to_former(self) -> Former:
        """Returns what is kept of it to put it back."""
        spec = beside(self)["spec"]
        if self.is_unfinished:  # else the share is someone's own
            del spec["predictor"][SHARE]
        annotations = {key: value for key, value in self.annotations.items() if key not in PASSING}
        is_serving = self.is_ready or bool(self.component.get("traffic"))
        return Former(self.labels, annotations, spec, self.is_ready, is_serving)

    @property
    def formers(self) -> list[Former]:
        """The former objects that are noted on it, newest first."""
        formers = [Former(**item) for item in json.loads(self.note("former") or "[]")]
        if formers and not self.is_unfinished and self.matches(formers[0].restore("", "")):
            return formers[1:]  # it was put back, and has the traffic
        return formers


def make(
    name: str, namespace: str, labels: dict[str, str], annotations: dict[str, str], spec: Json
) -> InferenceService:
    """Returns an InferenceService of its parts."""
    metadata = {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations}
    return InferenceService(
        {"apiVersion": f"{GROUP}/v1beta1", "kind": "InferenceService", "metadata": metadata, "spec": spec}
    )


def covers(live: Any, desired: Any) -> bool:
    """Says whether all that is desired is so in the live object, which has defaults besides."""
    from kubernetes.utils import parse_quantity

    if isinstance(desired, dict):
        return isinstance(live, dict) and all(
            key in live and covers(live[key], value) for key, value in desired.items()
        )
    if isinstance(desired, list):
        return isinstance(live, list) and len(live) == len(desired) and all(map(covers, live, desired))
    try:
        # KServe's webhook writes quantities in their shortest form: 500m for 0.5.
        return bool(live == desired or parse_quantity(live) == parse_quantity(desired))
    except (ValueError, TypeError):
        return False


def beside(live: InferenceService, predictor: Json | None = None) -> Json:
    """Returns a live object's body with another canary of ours, or without one; those of others stay."""
    body = deepcopy(live.body)
    canaries = [item for item in body["spec"].pop("canary", []) if item["predictor"]["name"] != NEXT]
    if predictor:
        canaries.append({"trafficPercent": 0, "predictor": predictor})
    if canaries:
        body["spec"]["canary"] = canaries
    return body


def successor(live: InferenceService | None, desired: InferenceService, formers: list[Former] | None = None) -> Json:
    """Returns what to send so that a desired object takes the place of the live one, and can go back to the formers.

    These are by default the live one and its own; but a release whose deployment has not ended was never found good.
    As the mark of a deployment that has not ended it has its share of the traffic: none where something serves already.
    """
    if formers is None and live is not None:
        formers = live.formers if live.is_unfinished else [live.to_former(), *live.formers][:KEPT_FORMERS]
    body = deepcopy(desired.body)
    metadata = body["metadata"]
    is_serving = live is not None and not live.is_stopped
    if live is not None:
        for kind, theirs in (("labels", live.labels), ("annotations", live.annotations)):
            foreign = {key: theirs[key] for key in theirs if not key.startswith(NOTES) and key not in RENEWED}
            metadata[kind] = foreign | metadata[kind]
        # What was stopped begins to count its revisions anew.
        if is_serving and (newest := live.component.get("latestCreatedRevision")):
            metadata["annotations"][f"{NOTES}replaces"] = newest
        body["metadata"] = live.body["metadata"] | metadata
    if live is None or live.note("applied") != desired.note("applied"):
        metadata["annotations"].pop(f"{NOTES}again", None)
    if formers:
        noted = json.dumps([asdict(former) for former in formers], separators=(",", ":"))
        metadata["annotations"][f"{NOTES}former"] = noted
    body["spec"]["predictor"][SHARE] = 0 if is_serving else 100
    return body
