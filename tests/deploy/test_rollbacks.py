"""Deployments that fail: what they say, what is put back, and that those who ask do not notice."""

import re
from typing import Any

import pytest

from nlp_pipeline.deploy import transaction
from tests.deploy.scene import FAILURES, NAME, Scene, predict
from tests.fakes.kubernetes.emulator import Fate

REASONS = {
    "wrong": r"6 of 6 answers differ from those before it was deployed; by min_agreement=0\.97 and "
    r"chance 1 may",
    "ModelLoadFailed": r"the model can't be loaded: (ModelLoadFailed: no such file: model\.onnx|"
    r"pod tiny-predictor-\S+, kserve-container: CrashLoopBackOff: no such file: model\.onnx)",
    "InvalidSpec": r"the model can't be loaded: InvalidPredictorSpec: no such volume",
    "never ready": r"InferenceService team/tiny was not ready after 60 s: see above",
    "no way": r"http\S+/v1/models/tiny:predict answered 503 \(Host: \S+\), though it is ready: no way to the model",
}
BACK = f"the former release {'a' * 16} has been put back and serves"


def pods(scene: Scene) -> int:
    """Returns how many pods there are."""
    from kubernetes import client

    scene.cluster.after(NAME, 4)
    return len(client.CoreV1Api().list_namespaced_pod("team").items)


@pytest.mark.parametrize("kind", FAILURES)
def test_the_former_release_is_put_back(scene: Scene, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    scene.deploy("a")
    before = len(scene.cluster.answered)
    with scene.users() as statuses:
        outcome = scene.fails("b", kind)
    assert (outcome.outcome, outcome.timed_out) == ("rolled back", kind == "never ready")
    assert re.fullmatch(f"{REASONS[kind]}; {BACK}", outcome.reason)
    # Standard has no way to ask new pods before users do.
    if scene.mode == "Knative" or kind not in ("wrong", "no way"):
        assert scene.answered(before) == {"a"} and set(statuses) == {200}
    assert scene.is_settled("a") and scene.formers() == []
    output = capsys.readouterr().out
    assert f"failed: {outcome.reason.removesuffix(f'; {BACK}')}" in output
    if kind in ("never ready", "ModelLoadFailed", "InvalidSpec"):
        assert "  condition Ready: " in output and "  pod tiny-predictor-" in output
        assert ("  event tiny" in output) == (kind != "never ready")


def test_a_release_goes_from_one_runtime_to_another_and_back(scene: Scene) -> None:
    """The runtime is a part of the spec as any other, of which a failure puts the former back."""

    def runtime() -> str:
        return str(scene.service.predictor["model"]["runtime"])

    assert scene.deploy("a").endpoint["runtime"] == "kserve-torchserve"
    scene.cluster.add({"kind": "ServingRuntime", "metadata": {"name": "nlp-pipeline-onnx"}, "spec": {}})
    assert scene.fails("b", "ModelLoadFailed").outcome == "rolled back"
    assert runtime() == "kserve-torchserve" and scene.is_settled("a")
    outcome = scene.deploy("a")
    assert (outcome.outcome, outcome.endpoint["runtime"]) == ("deployed", "nlp-pipeline-onnx")
    assert scene.deploy("a").outcome == "unchanged" and scene.is_settled("a")
    former = scene.service.formers[0].restore(NAME, "team")
    assert former.predictor["model"]["runtime"] == "kserve-torchserve"
    assert scene.deploy("a", serving_runtime="torchserve").endpoint["runtime"] == "kserve-torchserve"


def test_after_a_rollback_all_goes_on_as_if_nothing_had_been(scene: Scene) -> None:
    scene.deploy("a")
    scene.deploy("b")
    for letter, kind in (("c", "wrong"), ("d", "ModelLoadFailed")):
        assert scene.fails(letter, kind).outcome == "rolled back"
        assert scene.is_settled("b") and scene.formers() == ["a"]
    assert scene.deploy("b").outcome == "unchanged" and scene.deploy("e").outcome == "deployed"
    assert scene.is_settled("e") and scene.formers() == ["b", "a"]


@pytest.mark.parametrize("kind", ["wrong", "ModelLoadFailed"])
def test_the_former_release_does_not_come_back_either(scene: Scene, kind: str) -> None:
    scene.deploy("a")
    # Its files are gone since, say; the pods that run have read them.
    scene.cluster.fates["a" * 16] = Fate(failure="ModelLoadFailed", message="gone")
    before = len(scene.cluster.answered)
    with scene.users() as statuses:
        outcome = scene.fails("b", kind)
    if scene.mode == "Standard" and kind == "ModelLoadFailed":
        # The former pods were never ended, and are those of the former release.
        assert outcome.outcome == "rolled back" and outcome.reason.endswith(BACK)
    else:
        undone = r"and it could not be undone: the model can't be loaded: (ModelLoad|pod \S+, \S+: Crash)\S+: gone.*"
        assert outcome.outcome == "failed" and re.fullmatch(f"{REASONS[kind]}; {undone}", outcome.reason)
    # The pods of the former revision go on; on Standard they do where the new ones never were ready.
    if scene.mode == "Knative" or kind == "ModelLoadFailed":
        assert scene.answered(before) == {"a"} and set(statuses) == {200}
    assert scene.deploy("c").outcome == "deployed" and scene.is_settled("c") and scene.formers() == ["a"]


@pytest.mark.parametrize(
    ("kind", "first_failure"),
    [("wrong", "stop"), ("InvalidSpec", "stop"), ("never ready", "stop"), ("wrong", "delete")],
)
def test_a_first_deployment_fails(scene: Scene, kind: str, first_failure: str) -> None:
    # Started again before its controller has seen the stop, it would be judged by what was stopped.
    scene.cluster.lag = 3
    outcome = scene.fails("a", kind, first_failure=first_failure)
    if first_failure == "stop":
        sentence = "there was none before, and it has been stopped"
        assert outcome.outcome == "stopped" and scene.service.is_stopped and pods(scene) == 0
    else:
        sentence = "there was none before, and it has been deleted"
        assert (outcome.outcome, outcome.service, scene.is_there) == ("deleted", None, False)
    assert re.fullmatch(f"{REASONS[kind]}; {sentence}", outcome.reason)
    before = len(scene.cluster.answered)
    assert scene.deploy("b").outcome == "deployed" and scene.answered(before) == {"b"}
    assert scene.is_settled("b") and scene.formers() == []


def test_a_former_one_that_was_stopped_is_stopped_again(scene: Scene) -> None:
    scene.deploy("a")
    scene.stop()
    outcome = scene.fails("b", "wrong")
    assert outcome.outcome == "rolled back"
    assert outcome.reason.endswith(f"; the former release {'a' * 16} has been put back; it did not serve before either")
    assert scene.service.release == "a" * 16 and scene.service.is_stopped
    assert pods(scene) == 0 and scene.percent is None


def test_a_former_one_that_never_was_ready(scene: Scene) -> None:
    before = scene.add_foreign(Fate(failure="ModelLoadFailed"))
    outcome = scene.fails("b", "wrong")
    assert outcome.outcome == "rolled back" and scene.others() == before
    assert outcome.reason.endswith("; what stood there before has been put back; it did not serve before either")
    # What was found wrong does not go on answering in its place.
    scene.cluster.after(NAME, 8)
    assert scene.ask() in (404, 503)


def test_a_former_one_whose_last_change_was_not_ready(knative: Scene) -> None:
    """The revision before that change has the traffic, and keeps it."""
    knative.deploy("a")
    knative.cluster.fates["a" * 16] = Fate(failure="ModelLoadFailed")
    knative.edit(lambda live: live["spec"]["predictor"].update(maxReplicas=9))
    knative.cluster.after(NAME, 6)
    before = len(knative.cluster.answered)
    with knative.users() as statuses:
        outcome = knative.fails("b", "wrong")
    assert outcome.outcome == "rolled back"
    assert "it did not serve before either (" in outcome.reason
    assert knative.shares() == {"a": 20} and knative.answered(before) == {"a"} and set(statuses) == {200}
    assert knative.live["spec"]["predictor"]["maxReplicas"] == 9
    assert knative.deploy("c").outcome == "deployed" and knative.is_settled("c") and knative.formers() == ["a"]


def test_one_that_this_project_did_not_make_is_updated(scene: Scene) -> None:
    scene.add_foreign(Fate(backend=predict))
    with scene.users() as statuses:
        assert scene.deploy("b").outcome == "deployed"
    assert set(statuses) == {200} and scene.is_settled("b") and scene.formers() == [""]
    assert "serviceAccountName" not in scene.service.predictor and scene.service.annotations["example.com/a"] == "b"


def test_one_that_this_project_did_not_make_is_put_back_as_it_was(scene: Scene) -> None:
    before = scene.add_foreign(Fate(backend=predict))
    with scene.users() as statuses:
        outcome = scene.fails("b", "InvalidSpec")
    assert outcome.outcome == "rolled back" and set(statuses) == {200}
    assert outcome.reason.endswith("; what stood there before has been put back and serves")
    assert scene.others() == before and scene.shares() == {"": 20}
    assert scene.deploy("c").outcome == "deployed" and scene.formers() == [""]


def test_a_canary_by_hand_gets_its_share_back(knative: Scene) -> None:
    knative.add_foreign(Fate(backend=predict))
    knative.edit(lambda live: live["spec"]["predictor"].update(canaryTrafficPercent=20, maxReplicas=2))
    former = [
        item["percent"] for item in knative.cluster.after(NAME, 6)["status"]["components"]["predictor"]["traffic"]
    ]
    outcome = knative.fails("b", "wrong")
    assert former == [20, 80] and outcome.reason.endswith(" has been put back and serves")
    traffic = knative.cluster.after(NAME, 4)["status"]["components"]["predictor"]["traffic"]
    assert [item["percent"] for item in traffic] == [20, 80]
    assert knative.percent == 20


@pytest.mark.parametrize("moment", ["a tenth", "all"])
def test_it_begins_to_fail_with_a_share_of_the_traffic(knative: Scene, moment: str) -> None:
    """A canary; and the last look by the address of everyone, when all was right by the tag."""
    knative.deploy("a")
    fate, before = Fate(backend=predict), len(knative.cluster.answered)

    def has_share() -> bool:
        if moment == "a tenth":
            return knative.percent == 10 and "b" in knative.answered(before)
        return knative.service.release == "b" * 16 and knative.percent is None

    canary = {"canary_percent": 10, "canary_minutes": 60} if moment == "a tenth" else {}
    with knative.meanwhile(has_share, lambda: setattr(fate, "unready_answers", 10**9)):
        outcome = knative.deploy("b", fate, **canary)
    assert (
        outcome.outcome == "rolled back" and "no way to the model" in outcome.reason and outcome.reason.endswith(BACK)
    )
    assert knative.is_settled("a") and knative.formers() == []


def test_a_mistake_of_ours_is_undone_too(knative: Scene) -> None:
    knative.deploy("a")
    with pytest.MonkeyPatch.context() as patch:

        def check_answers(*_: Any) -> None:
            patch.undo()
            raise KeyError("url")

        patch.setattr(transaction, "check_answers", check_answers)
        outcome = knative.deploy("b")
    assert (outcome.outcome, outcome.reason) == ("rolled back", f"KeyError: 'url'; {BACK}")
    assert knative.is_settled("a")
