"""Deployments that fail: what they say, what is put back, and that those who ask do not notice."""

import re
from typing import Any

import pytest

from nlp_pipeline.deploy import transaction
from tests.deploy.scene import FAILURES, NAME, Scene, edit, meanwhile
from tests.fakes.kubernetes.emulator import Fate

Json = dict[str, Any]
STOP = "serving.kserve.io/stop"
REASONS = {
    "wrong": r"the served model gives the offline model's label on 0\.0000 of 6 rows; min_agreement is 0\.97: "
    r"try precision=fp32",
    "ModelLoadFailed": r"the model can't be loaded: (ModelLoadFailed: no such file: model\.onnx \(exit code 1\)|"
    r"pod tiny-predictor-\S+, kserve-container: CrashLoopBackOff: no such file: model\.onnx)",
    "InvalidSpec": r"the model can't be loaded: InvalidPredictorSpec: no such volume",
    "never ready": r"InferenceService team/tiny was not ready after 1 s; its conditions, pods and newest events "
    r"stand above",
    "no way": r"http\S+/v1/models/tiny:predict answered 503 \(Host: \S+\), though it is ready: no way to the model",
}
BACK = f"the former release {'a' * 16} has been put back and serves"


def pods(scene: Scene) -> int:
    """Returns how many pods there are."""
    from kubernetes import client

    scene.cluster.tick(NAME, 4)
    return len(client.CoreV1Api().list_namespaced_pod("team").items)


def others(scene: Scene) -> Json:
    """Returns what is on the live object that is not this project's own note."""
    metadata = scene.live["metadata"]
    kept = {key: value for key, value in metadata["annotations"].items() if not key.startswith("nlp-pipeline/")}
    # Without the tag, the revision could not be waited for before it has traffic.
    del kept["serving.kserve.io/enable-tag-routing"]
    return {"labels": metadata.get("labels", {}), "annotations": kept, "spec": scene.live["spec"]}


def foreign(scene: Scene, fate: Fate, **annotations: str) -> Json:
    """Puts an InferenceService there as the pipeline's first version made them; returns it as it stands there."""
    scene.cluster.fates[""] = fate
    spec = {"predictor": {"serviceAccountName": "sa", "pytorch": {"storageUri": "pvc://old/model", "args": ["--a"]}}}
    metadata = {"name": NAME, "labels": {"team": "search"}, "annotations": {"example.com/a": "b", **annotations}}
    scene.cluster.add({"kind": "InferenceService", "metadata": metadata, "spec": spec})
    scene.cluster.tick(NAME, 6)
    metadata = scene.live["metadata"]
    return {"labels": metadata["labels"], "annotations": metadata["annotations"], "spec": scene.live["spec"]}


@pytest.mark.parametrize("kind", FAILURES)
def test_the_former_release_is_put_back(scene: Scene, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    scene.deploy("a")
    before = len(scene.cluster.answered)
    with scene.users() as statuses:
        done = scene.fails("b", kind, route_seconds=0.3)
    assert (done.outcome, done.timed_out) == ("rolled back", kind == "never ready")
    assert re.fullmatch(f"{REASONS[kind]}; {BACK}", done.reason)
    # On Standard ready pods get requests at once.
    if scene.mode == "Knative" or kind not in ("wrong", "no way"):
        assert scene.answered(before) == {"a"} and set(statuses) == {200}
    assert done.service and done.service.release == "a" * 16
    assert scene.is_settled("a") and scene.formers() == []
    output = capsys.readouterr().out
    assert f"failed: {done.reason.removesuffix(f'; {BACK}')}" in output
    if kind in ("never ready", "ModelLoadFailed", "InvalidSpec"):
        assert "  condition Ready: " in output and "  pod tiny-predictor-" in output
        assert ("  event tiny" in output) == (kind != "never ready")


def test_after_a_rollback_all_goes_on_as_if_nothing_had_been(scene: Scene) -> None:
    scene.deploy("a")
    scene.deploy("b")
    for letter, kind in (("c", "wrong"), ("d", "ModelLoadFailed")):
        assert scene.fails(letter, kind).outcome == "rolled back"
        assert scene.is_settled("b") and scene.formers() == ["a"]
    assert scene.deploy("b").outcome == "unchanged"
    assert scene.deploy("e").outcome == "deployed"
    assert scene.is_settled("e") and scene.formers() == ["b", "a"]


@pytest.mark.parametrize("kind", ["wrong", "ModelLoadFailed"])
def test_the_former_release_does_not_come_back_either(scene: Scene, kind: str) -> None:
    scene.deploy("a")
    # Its files are gone since, say; the pods that run have read them.
    scene.cluster.fates["a" * 16] = Fate(failure="ModelLoadFailed", message="gone")
    before = len(scene.cluster.answered)
    with scene.users() as statuses:
        done = scene.fails("b", kind)
    if scene.mode == "Standard" and kind == "ModelLoadFailed":
        # The former pods were never ended, and are those of the former release.
        assert done.outcome == "rolled back" and done.reason.endswith(BACK)
    else:
        undone = r"and it could not be undone: the model can't be loaded: ModelLoadFailed: gone \(exit code 1\)"
        undone = undone if scene.mode == "Knative" else r"and it could not be undone: .* CrashLoopBackOff: gone"
        assert done.outcome == "failed" and re.fullmatch(f"{REASONS[kind]}; {undone}", done.reason)
    # The pods of the former revision go on; on Standard they do where the new ones never were ready.
    if scene.mode == "Knative" or kind == "ModelLoadFailed":
        assert scene.answered(before) == {"a"} and set(statuses) == {200}
    assert scene.deploy("c").outcome == "deployed"
    assert scene.is_settled("c") and scene.formers() == ["a"]


@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("first_failure", ["stop", "delete"])
def test_a_first_deployment_fails(scene: Scene, kind: str, first_failure: str) -> None:
    done = scene.fails("a", kind, first_failure=first_failure, route_seconds=0.3)
    if first_failure == "stop":
        sentence = "there was none before, and it has been stopped: the object is there, without pods"
        assert done.outcome == "stopped" and scene.live["metadata"]["annotations"][STOP] == "true"
        assert pods(scene) == 0
    else:
        sentence = r"there was none before, and it has been deleted \(first_failure=delete\)"
        assert done.outcome == "deleted" and done.service is None and not scene.is_there
    assert re.fullmatch(f"{REASONS[kind]}; {sentence}", done.reason)
    for letter in ("a", "b"):
        scene.cluster.fates[letter * 16] = Fate(backend=scene.good)
    assert scene.deploy("a" if kind == "wrong" else "b").outcome == "deployed"
    assert scene.is_settled("a" if kind == "wrong" else "b") and scene.formers() == []


def test_a_stopped_one_is_started_again_before_its_controller_has_seen_the_stop(scene: Scene) -> None:
    scene.cluster.lag = 5
    assert scene.fails("a", "wrong").outcome == "stopped"
    before = len(scene.cluster.answered)
    assert scene.deploy("b").outcome == "deployed"
    assert scene.answered(before) == {"b"}


@pytest.mark.parametrize("kind", ["wrong", "ModelLoadFailed"])
def test_a_former_one_that_was_stopped_is_stopped_again(scene: Scene, kind: str) -> None:
    scene.deploy("a")
    edit(scene, lambda live: live["metadata"]["annotations"].update({STOP: "true"}))
    scene.cluster.tick(NAME, 4)
    done = scene.fails("b", kind)
    assert done.outcome == "rolled back"
    assert done.reason.endswith(f"; the former release {'a' * 16} has been put back; it was stopped before too")
    assert scene.service.release == "a" * 16 and scene.live["metadata"]["annotations"][STOP] == "true"
    assert pods(scene) == 0 and "canaryTrafficPercent" not in scene.live["spec"]["predictor"]


@pytest.mark.parametrize("kind", ["wrong", "ModelLoadFailed"])
def test_a_former_one_that_never_was_ready(scene: Scene, kind: str) -> None:
    before = foreign(scene, Fate(failure="ModelLoadFailed"))
    done = scene.fails("b", kind)
    assert done.outcome == "rolled back"
    assert done.reason.endswith("; what stood there before has been put back; it was not ready before either")
    assert others(scene) == before
    # What was found wrong does not go on answering in its place.
    scene.cluster.tick(NAME, 8)
    assert scene.ask() in (404, 503)


def test_a_former_one_whose_last_change_was_not_ready(knative: Scene) -> None:
    """The revision before that change has the traffic, and keeps it."""
    knative.deploy("a")
    knative.cluster.fates["a" * 16] = Fate(failure="ModelLoadFailed")
    edit(knative, lambda live: live["spec"]["predictor"].update(maxReplicas=9))
    knative.cluster.tick(NAME, 6)
    before = len(knative.cluster.answered)
    with knative.users() as statuses:
        done = knative.fails("b", "wrong")
    assert done.outcome == "rolled back"
    assert "it was not ready before either, and so gets no traffic: canaryTrafficPercent stays 0" in done.reason
    assert knative.shares() == {"a": 20}
    assert knative.answered(before) == {"a"} and set(statuses) == {200}
    assert knative.live["spec"]["predictor"]["maxReplicas"] == 9
    assert knative.deploy("c").outcome == "deployed"
    assert knative.is_settled("c") and knative.formers() == ["a"]


def test_a_former_one_that_gets_ready_only_when_it_is_put_back(scene: Scene) -> None:
    scene.deploy("a")
    scene.cluster.fates["a" * 16] = Fate(failure="never ready")
    edit(scene, lambda live: live["spec"]["predictor"].update(maxReplicas=9))
    scene.cluster.tick(NAME, 6)
    scene.cluster.fates["a" * 16] = Fate(backend=scene.good)
    done = scene.fails("b", "ModelLoadFailed")
    assert done.outcome == "rolled back" and done.reason.endswith(BACK)
    assert scene.is_settled("a") and scene.live["spec"]["predictor"]["maxReplicas"] == 9


def test_one_that_this_project_did_not_make_is_updated(scene: Scene) -> None:
    foreign(scene, Fate(backend=scene.good))
    with scene.users() as statuses:
        assert scene.deploy("b").outcome == "deployed"
    assert set(statuses) == {200}
    assert scene.is_settled("b") and scene.formers() == [""]
    predictor = scene.live["spec"]["predictor"]
    assert "pytorch" not in predictor and "serviceAccountName" not in predictor
    assert scene.live["metadata"]["annotations"]["example.com/a"] == "b"


@pytest.mark.parametrize("kind", FAILURES)
def test_one_that_this_project_did_not_make_is_put_back_as_it_was(scene: Scene, kind: str) -> None:
    before = foreign(scene, Fate(backend=scene.good))
    with scene.users() as statuses:
        done = scene.fails("b", kind, route_seconds=0.3)
    assert done.outcome == "rolled back"
    assert re.fullmatch(f"{REASONS[kind]}; what stood there before has been put back and serves", done.reason)
    if scene.mode == "Knative" or kind not in ("wrong", "no way"):
        assert set(statuses) == {200}
    assert others(scene) == before
    assert scene.shares() == {"": 20}
    assert scene.deploy("c").outcome == "deployed" and scene.formers() == [""]


def test_a_canary_by_hand_gets_its_share_back(knative: Scene) -> None:
    foreign(knative, Fate(backend=knative.good))
    edit(knative, lambda live: live["spec"]["predictor"].update(canaryTrafficPercent=20, maxReplicas=2))
    status = knative.cluster.tick(NAME, 6)["status"]["components"]["predictor"]
    assert [one["percent"] for one in status["traffic"]] == [20, 80]
    done = knative.fails("b", "wrong")
    assert done.reason.endswith("; what stood there before has been put back and serves")
    assert knative.live["spec"]["predictor"]["canaryTrafficPercent"] == 20
    traffic = knative.cluster.tick(NAME, 4)["status"]["components"]["predictor"]["traffic"]
    assert [(one["revisionName"][-1], one["percent"]) for one in traffic] == [("4", 20), ("1", 80)]


def test_a_canary_that_begins_to_fail_is_rolled_back(knative: Scene) -> None:
    knative.deploy("a")
    fate = Fate(backend=knative.good)
    before = len(knative.cluster.answered)

    def is_canary() -> bool:
        return knative.live["spec"]["predictor"].get("canaryTrafficPercent") == 10 and "b" in knative.answered(before)

    def spoil() -> None:
        fate.unready_answers = 10**9

    with pytest.MonkeyPatch.context() as patch, meanwhile(patch, is_canary, spoil):
        done = knative.deploy("b", fate, canary_percent=10, canary_minutes=60)
    assert done.outcome == "rolled back"
    assert "no way to the model" in done.reason and done.reason.endswith(BACK)
    assert knative.is_settled("a")


def test_the_last_look_by_the_address_of_everyone_fails(knative: Scene) -> None:
    """All was right by the tag; it has the traffic; and then it does not answer."""
    knative.deploy("a")
    fate = Fate(backend=knative.good)

    def has_all() -> bool:
        return knative.service.release == "b" * 16 and "canaryTrafficPercent" not in knative.live["spec"]["predictor"]

    def spoil() -> None:
        fate.unready_answers = 10**9

    with pytest.MonkeyPatch.context() as patch, meanwhile(patch, has_all, spoil):
        done = knative.deploy("b", fate, route_seconds=0.5)
    assert done.outcome == "rolled back" and done.reason.endswith(BACK)
    assert knative.is_settled("a") and knative.formers() == []


def test_a_mistake_of_ours_is_undone_too(knative: Scene) -> None:
    knative.deploy("a")
    with pytest.MonkeyPatch.context() as patch:

        def check_answers(*_: Any) -> None:
            patch.undo()
            raise KeyError("url")

        patch.setattr(transaction, "check_answers", check_answers)
        done = knative.deploy("b")
    assert (done.outcome, done.reason) == ("rolled back", f"KeyError: 'url'; {BACK}")
    assert knative.is_settled("a")
