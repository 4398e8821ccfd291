"""Deployments that go well: what is sent, who answers at which time, and what is noted for the next one."""

from typing import Any

import pytest

from tests.deploy.scene import NAME, STOP, Scene, predict, predict_wrongly
from tests.fakes.kubernetes.emulator import Fate

Json = dict[str, Any]


def test_a_first_deployment_and_the_same_again(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = scene.deploy("a")
    assert (outcome.outcome, outcome.reason, outcome.timed_out) == ("deployed", "", False)
    assert scene.is_settled("a") and scene.formers() == []
    assert "InferenceService team/tiny has been created; waiting for its pods" in capsys.readouterr().out
    sent, before, metadata = len(scene.cluster.sent), len(scene.cluster.answered), scene.live["metadata"]
    outcome = scene.deploy("a", run_id="another run")
    assert (outcome.outcome, outcome.reason, outcome.figures["rows"]) == ("unchanged", "", 6)
    assert (len(scene.cluster.sent), scene.live["metadata"]) == (sent, metadata)
    assert [host for host, _, _ in scene.cluster.answered[before:]] == [scene.host] * 6
    assert f"is release {'a' * 16} already; nothing is changed" in capsys.readouterr().out
    # It is left as it is also where it answers wrongly by now.
    scene.cluster.fates["a" * 16].backend = predict_wrongly
    outcome = scene.deploy("a")
    assert outcome.outcome == "failed" and outcome.reason.endswith("; nothing is changed")
    assert len(scene.cluster.sent) == sent


def test_updates(scene: Scene) -> None:
    scene.deploy("a")
    before = len(scene.cluster.answered)
    with scene.users() as statuses:
        assert scene.deploy("b").outcome == "deployed"
    assert set(statuses) == {200} and len(statuses) > 3
    assert scene.answered(before) == {"a", "b"}
    assert scene.is_settled("b") and scene.formers() == ["a"]
    # Three former ones are kept, and conflicts are tried again.
    scene.cluster.conflicts = 3
    for letter in "cde":
        assert scene.deploy(letter).outcome == "deployed"
    assert scene.cluster.conflicts == 0 and scene.is_settled("e") and scene.formers() == ["d", "c", "b"]


def test_no_one_gets_an_answer_of_a_release_before_it_was_found_good(knative: Scene) -> None:
    """On Knative the newest revision is asked by its tag; the traffic follows when its answers were right."""
    knative.deploy("a")
    before = len(knative.cluster.answered)
    with knative.users() as statuses:
        assert knative.deploy("b", Fate(backend=predict, unready_answers=9)).outcome == "deployed"
    assert set(statuses) == {200}
    answers = [(host, status) for host, release, status in knative.cluster.answered[before:] if release[0] == "b"]
    tag = "latest-tiny-predictor.team.example.com"
    assert answers[:15] == [(tag, 503)] * 9 + [(tag, 200)] * 6
    assert {host for host, _ in answers[15:]} == {knative.host} and knative.shares() == {"b": 20}


@pytest.mark.parametrize("scene", ["Standard"], indirect=True)
def test_ready_and_not_reachable_for_a_while(scene: Scene) -> None:
    assert scene.deploy("a", Fate(backend=predict, unready_answers=4, unready_status=404)).outcome == "deployed"
    assert [answer for _, _, answer in scene.cluster.answered if answer != 200] == [404] * 4


def test_neither_ready_nor_a_failure_of_the_one_before_is_believed(scene: Scene) -> None:
    with scene.killed(lambda: scene.is_there):
        scene.fails("a", "ModelLoadFailed")
    assert scene.cluster.after(NAME, 6)["status"]["modelStatus"]["transitionStatus"] == "BlockedByFailedLoad"
    scene.cluster.lag = 5
    assert scene.deploy("b").outcome == "deployed" and scene.formers() == []
    scene.cluster.lag, before = 12, len(scene.cluster.answered)
    assert scene.deploy("c").outcome == "deployed"
    # Nor was the former one asked in the new one's place.
    assert {release[:1] for _, release, _ in scene.cluster.answered[before:]} == {"c"} and scene.is_settled("c")


def test_another_setting_or_someones_edit_is_no_longer_the_same(scene: Scene) -> None:
    scene.deploy("a")
    assert scene.deploy("a", max_replicas=3).outcome == "deployed"
    assert scene.live["spec"]["predictor"]["maxReplicas"] == 3 and scene.formers() == ["a"]
    # The pods of an edited object carry the same mark: they must not be asked in the new pods' place.
    scene.cluster.fates["a" * 16] = Fate(backend=predict_wrongly)
    scene.edit(lambda live: live["spec"]["predictor"]["model"].update(storageUri="pvc://data/other"))
    scene.cluster.after(NAME, 8)
    scene.cluster.fates["a" * 16] = Fate(backend=predict)
    assert scene.deploy("a", run_id="later", max_replicas=3).outcome == "deployed"
    assert scene.live["spec"]["predictor"]["model"]["storageUri"] == f"pvc://data/tiny/releases/{'a' * 16}"
    assert scene.is_settled("a")


def test_what_others_wrote_on_the_object_stays(scene: Scene) -> None:
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "00000000-0000-0000-0000-000000000000"}

    def mark(live: Json) -> None:
        live["metadata"]["labels"]["example.com/visibility"] = "local"
        live["metadata"]["annotations"]["example.com/owner"] = "search team"
        live["metadata"] |= {"finalizers": ["example.com/watched"], "ownerReferences": [owner]}

    scene.deploy("a")
    scene.edit(mark)
    for deployed, outcome in ((scene.deploy("b"), "deployed"), (scene.fails("c", "wrong"), "rolled back")):
        metadata = scene.live["metadata"]
        assert deployed.outcome == outcome and metadata["labels"]["example.com/visibility"] == "local"
        assert metadata["annotations"]["example.com/owner"] == "search team"
        assert metadata["finalizers"] == ["example.com/watched"] and metadata["ownerReferences"] == [owner]


def test_a_canary_gets_its_share_for_its_time(knative: Scene) -> None:
    # The first one has nothing to share with.
    assert knative.deploy("a", canary_percent=10, canary_minutes=60).outcome == "deployed"
    assert sum(knative.clock.waits) < 60
    before = len(knative.cluster.answered)
    assert knative.deploy("b", canary_percent=25, canary_minutes=0.5).outcome == "deployed"
    assert 30 <= sum(knative.clock.waits) < 90
    percents = [body["spec"]["predictor"].get("canaryTrafficPercent") for body in knative.sent]
    assert percents == [100, None, 0, 25, None]
    # Of four requests one, and never two in a row.
    letters = "".join(release[0] for host, release, _ in knative.cluster.answered[before:] if host == knative.host)
    canary = letters.rstrip("b")
    assert canary.count("b") >= 3 and "bb" not in canary and abs(4 * canary.count("b") - len(canary)) <= 4
    assert knative.is_settled("b")


def test_one_that_was_stopped(knative: Scene) -> None:
    knative.deploy("a")
    knative.deploy("b")
    knative.stop()
    knative.edit(lambda live: live["metadata"]["annotations"].pop(STOP))
    # Its revisions are counted anew: the newest has the name of the one that was replaced once.
    assert knative.deploy("b").outcome == "unchanged"
    knative.stop()
    # A canary has nothing to share with.
    assert knative.deploy("c", canary_percent=10, canary_minutes=60).outcome == "deployed"
    assert knative.is_settled("c") and knative.formers() == ["b", "a"]


def test_a_manual_rollback_by_traffic_is_respected(knative: Scene) -> None:
    """KServe's own way back is canaryTrafficPercent=0: what was taken out of the traffic is not what to go back to."""
    knative.deploy("a")
    knative.deploy("b")
    knative.edit(lambda live: live["spec"]["predictor"].update(canaryTrafficPercent=0))
    assert knative.shares() == {"a": 20}
    with knative.users():
        outcome = knative.fails("c", "wrong")
    assert outcome.outcome == "rolled back" and f"the former release {'a' * 16} " in outcome.reason
    assert knative.is_settled("a")
