"""Standard with KServe 0.20: a new release runs beside the live one, and is asked before anyone else asks it."""

import re
from typing import Any

import pytest

from nlp_pipeline.deploy.endpoint import address_of
from nlp_pipeline.deploy.inference_service import InferenceService
from tests.deploy.scene import FAILURES, NAME, POD_FAILURES, Scene, predict, predict_wrongly
from tests.fakes.kubernetes.emulator import Fate

Json = dict[str, Any]
BESIDE = "tiny-next-predictor"
REASONS = {
    "wrong": r"6 of 6 answers differ from those before it was deployed; .*",
    "ModelLoadFailed": r"the model can't be loaded: pod \S+, \S+: CrashLoopBackOff: no such file: model\.onnx",
    "never ready": r"InferenceService team/tiny was not ready after 60 s: see above",
    "no way": rf"http://{BESIDE}\.team/v1/models/tiny:predict answered 503, though it is ready: no way to the model",
    "unpullable": r"the model can't be loaded: pod \S+, \S+: ImagePullBackOff: manifest unknown",
    "unschedulable": r"the model can't be loaded: pod \S+: Unschedulable: 0/1 nodes are available: 1 Insufficient cpu",
    "forbidden": r"the model can't be loaded: FailedCreate: violates PodSecurity .*",
}
REMOVED = "; it has been removed; what served before was not touched"


def pod_names(scene: Scene) -> list[str]:
    from kubernetes import client

    scene.cluster.after(NAME, 4)
    return [pod.metadata.name for pod in client.CoreV1Api().list_namespaced_pod("team").items]


def templates(scene: Scene) -> list[Json]:
    """Returns what the pods are made of that everyone's requests go to."""
    return [one.template for world in scene.cluster.worlds.values() for one in world.sets]


def test_a_release_is_asked_before_it_gets_traffic(dark: Scene) -> None:
    assert dark.deploy("a").outcome == "deployed"
    before, sent = len(dark.cluster.answered), len(dark.sent)
    with dark.users() as statuses:
        assert dark.deploy("b").outcome == "deployed"
    assert set(statuses) == {200} and dark.is_settled("b") and dark.formers() == ["a"]
    answers = [(host, status) for host, release, status in dark.cluster.answered[before:] if release[0] == "b"]
    assert answers[:6] == [(BESIDE, 200)] * 6 and {host for host, _ in answers[6:]} == {dark.host}
    beside, promoted, ended = dark.sent[sent:]
    # The live one's pods are touched by nothing but the release that was found good.
    assert beside["metadata"]["labels"]["nlp-pipeline/release"] == "a" * 16
    assert "canary" not in promoted["spec"] and "canary" not in ended["spec"]
    (canary,) = beside["spec"]["canary"]
    predictor = canary["predictor"]
    assert (canary["trafficPercent"], predictor["name"], predictor["minReplicas"]) == (0, "next", 1)
    assert predictor["annotations"]["serving.kserve.io/autoscalerClass"] == "none" and "maxReplicas" not in predictor
    assert predictor["model"]["storageUri"].endswith("b" * 16)
    assert len(pod_names(dark)) == 1


@pytest.mark.parametrize("kind", [kind for kind in {**FAILURES, **POD_FAILURES} if kind != "InvalidSpec"])
def test_one_that_fails_is_removed_and_nothing_else_touched(dark: Scene, kind: str) -> None:
    dark.deploy("a")
    spec, made, before = dark.live["spec"], templates(dark), len(dark.cluster.answered)
    waited = len(dark.clock.waits)
    with dark.users() as statuses:
        outcome = dark.fails("b", kind, deploy_timeout=60 if kind == "never ready" else 900)
    assert (outcome.outcome, outcome.timed_out) == ("rolled back", kind == "never ready")
    assert re.fullmatch(f"{REASONS[kind]}{REMOVED}", outcome.reason), outcome.reason
    assert outcome.endpoint["release"] == "a" * 16
    assert set(statuses) == {200} and dark.answered(before) == {"a"}
    assert dark.live["spec"] == spec and templates(dark) == made and dark.is_settled("a")
    assert pod_names(dark) == ["tiny-predictor-00001-0"]
    if kind in ("unpullable", "forbidden", "ModelLoadFailed"):
        assert sum(dark.clock.waits[waited:]) < 60
    if kind == "unschedulable":
        assert 300 <= sum(dark.clock.waits[waited:]) < 330


def test_a_first_deployment_without_pods_fails_early(dark: Scene) -> None:
    outcome = dark.fails("a", "forbidden", deploy_timeout=900)
    assert outcome.outcome == "stopped"
    assert re.fullmatch(f"{REASONS['forbidden']}; there was none before, .*", outcome.reason)
    assert sum(dark.clock.waits) < 120


def test_killed_while_it_runs_beside(dark: Scene) -> None:
    dark.deploy("a")
    with dark.killed(lambda: bool(dark.service.canary)):
        dark.deploy("b")
    assert dark.service.canary and dark.service.release == "a" * 16
    # The same takes it up, another one its place, and the live one's removes it.
    assert dark.deploy("b").outcome == "deployed" and dark.is_settled("b") and dark.formers() == ["a"]
    with dark.killed(lambda: bool(dark.service.canary)):
        dark.deploy("c")
    assert dark.deploy("d").outcome == "deployed" and dark.is_settled("d") and dark.formers() == ["b", "a"]
    with dark.killed(lambda: bool(dark.service.canary)):
        dark.deploy("e")
    assert dark.deploy("d").outcome == "unchanged" and not dark.service.canary and len(pod_names(dark)) == 1


def test_killed_while_it_takes_the_place(dark: Scene) -> None:
    dark.deploy("a")
    with dark.killed(lambda: dark.service.release == "b" * 16):
        dark.deploy("b")
    with dark.users() as statuses:
        assert dark.deploy("c").outcome == "deployed"
    assert dark.is_settled("c") and set(statuses) == {200}


def test_it_fails_when_it_has_taken_the_place(dark: Scene) -> None:
    dark.deploy("a")
    fate = Fate(backend=predict)
    with dark.meanwhile(lambda: dark.service.release == "b" * 16, lambda: setattr(fate, "backend", predict_wrongly)):
        outcome = dark.deploy("b", fate)
    assert outcome.outcome == "rolled back" and outcome.reason.endswith("has been put back and serves")
    assert dark.is_settled("a")


def test_others_change_it_meanwhile(dark: Scene) -> None:
    dark.deploy("a")

    def take(live: Json) -> None:
        live["spec"]["canary"][0]["predictor"]["annotations"]["nlp-pipeline/applied"] = "another's"

    with dark.meanwhile(lambda: bool(dark.service.canary), lambda: dark.edit(take)):
        outcome = dark.deploy("b")
    assert outcome.reason.startswith("another deployment has taken the place of this one") and dark.service.canary
    with dark.meanwhile(lambda: bool(dark.service.canary), lambda: dark.cluster.remove("inferenceservices", NAME)):
        outcome = dark.deploy("b")
    assert (outcome.outcome, outcome.service) == ("failed", None)


def test_where_it_can_not_run_beside(dark: Scene) -> None:
    """What is inherited and not to be had; no pods at all; an older KServe."""
    dark.add_foreign(Fate(backend=predict))
    assert dark.deploy("a").outcome == "deployed" and not any("canary" in body["spec"] for body in dark.sent)
    dark.stop()
    assert dark.deploy("b").outcome == "deployed" and not any("canary" in body["spec"] for body in dark.sent)
    dark.cluster.has_canary = False
    assert dark.deploy("c").outcome == "deployed" and not any("canary" in body["spec"] for body in dark.sent)


def test_a_canary_of_someone_else_stays_while_ours_is_asked(dark: Scene) -> None:
    dark.deploy("a")
    theirs = {"trafficPercent": 0, "predictor": {"name": "theirs", "minReplicas": 1}}
    dark.edit(lambda live: live["spec"].update(canary=[theirs]))
    assert dark.fails("b", "wrong").outcome == "rolled back"
    assert dark.live["spec"]["canary"] == [theirs]


def test_from_a_pod_its_service_is_asked() -> None:
    canary = [{"trafficPercent": 0, "predictor": {"name": "next"}}]
    body = {"metadata": {"name": NAME, "namespace": "team"}, "spec": {"predictor": {}, "canary": canary}}
    url, headers = address_of(InferenceService(body), True, "http://istio-ingressgateway.istio-system")
    assert (url, headers) == (f"http://{BESIDE}.team/v1/models/tiny:predict", {})


def test_what_is_written_for_standard_only(scene: Scene) -> None:
    """A pod that is taken out of its Service still gets requests; Knative, which refuses the field, waits by itself."""
    scene.deploy("a")
    predictor = scene.live["spec"]["predictor"]
    is_standard = scene.mode == "Standard"
    assert predictor["model"].get("lifecycle") == (
        {"preStop": {"exec": {"command": ["sleep", "5"]}}} if is_standard else None
    )
    assert predictor.get("annotations") == ({"serving.kserve.io/autoscalerClass": "none"} if is_standard else None)
    scene.deploy("a", max_replicas=3)
    assert not scene.live["spec"]["predictor"].get("annotations")
