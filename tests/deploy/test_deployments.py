"""Deployments that go well: what is sent, who answers at which time, and what is noted for the next one."""

import time
from collections import Counter
from typing import Any

import pytest

from nlp_pipeline.deploy.transaction import deploy
from nlp_pipeline.errors import UsageError
from tests.deploy.scene import NAME, ROWS, Scene, edit, killed
from tests.fakes.kubernetes.emulator import Fate
from tests.fakes.kubernetes.gateway import forward
from tests.fakes.kubernetes.httpd import Answer, serving

Json = dict[str, Any]


def test_first_deployment(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    done = scene.deploy("a")
    assert (done.outcome, done.reason, done.timed_out) == ("deployed", "", False)
    facts = done.figures
    assert (facts["rows"], facts["agreement"], facts["accuracy"]) == (6, 1, 1)
    assert 0 < facts["seconds_to_ready"] < 10 and 0 < facts["p50_ms"] < 10_000
    assert scene.is_settled("a") and scene.formers() == []
    output = capsys.readouterr().out
    assert "InferenceService team/tiny has been created; waiting for its pods" in output and "agreement 1" in output


def test_update(scene: Scene) -> None:
    scene.deploy("a")
    before = len(scene.cluster.answered)
    with scene.users() as statuses:
        done = scene.deploy("b")
    assert done.outcome == "deployed"
    assert set(statuses) == {200} and len(statuses) > 3
    assert scene.answered(before) == {"a", "b"}
    assert scene.is_settled("b") and scene.formers() == ["a"]


def test_no_one_gets_an_answer_of_a_release_before_it_was_found_good(knative: Scene) -> None:
    """On Knative the newest revision is asked by its tag; the traffic follows when its answers were right."""
    knative.deploy("a")
    before = len(knative.cluster.answered)
    # So many requests are refused that there is time enough for users to be sent to the wrong pods.
    fate = Fate(backend=knative.good, unready_answers=9)
    with knative.users() as statuses:
        assert knative.deploy("b", fate).outcome == "deployed"
    assert set(statuses) == {200}
    answers = [(host, status) for host, release, status in knative.cluster.answered[before:] if release[0] == "b"]
    tag = "latest-tiny-predictor.team.example.com"
    assert answers[:15] == [(tag, 503)] * 9 + [(tag, 200)] * 6
    assert {host for host, _ in answers[15:]} == {knative.host}
    assert knative.shares() == {"b": 20}


@pytest.mark.parametrize("status", [503, 404])
def test_ready_and_not_reachable_for_a_while(scene: Scene, status: int) -> None:
    done = scene.deploy("a", Fate(backend=scene.good, unready_answers=4, unready_status=status))
    assert done.outcome == "deployed"
    refused = [answer for _, _, answer in scene.cluster.answered if answer != 200]
    assert refused == [status] * 4


def test_one_refused_request_late_is_asked_again(scene: Scene) -> None:
    """The time within which it must be reachable begins anew with each answer."""
    asked: list[float] = []

    def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        asked.append(time.monotonic())
        time.sleep(0.1)
        if len(asked) == 6:
            return 503, {}, b""
        return forward(scene.good, method, path, headers, body)

    with serving(answer) as backend:
        done = scene.deploy("a", Fate(backend=backend), route_seconds=0.4)
    assert done.outcome == "deployed" and asked[5] - asked[0] > 0.4


def test_a_failure_of_the_one_before_is_not_taken_for_its_own(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    with killed(monkeypatch, lambda: scene.is_there):
        scene.fails("a", "ModelLoadFailed")
    assert scene.cluster.tick(NAME, 6)["status"]["modelStatus"]["transitionStatus"] == "BlockedByFailedLoad"
    scene.cluster.lag = 5
    assert scene.deploy("b").outcome == "deployed"
    assert scene.is_settled("b") and scene.formers() == []


def test_a_ready_condition_of_the_former_generation_is_not_believed(scene: Scene) -> None:
    scene.deploy("a")
    scene.cluster.lag = 12
    before = len(scene.cluster.answered)
    assert scene.deploy("b").outcome == "deployed"
    # Neither was the former one asked in the new one's place.
    asked = [release[:1] for _, release, _ in scene.cluster.answered[before:]]
    assert set(asked) == {"b"}


@pytest.mark.parametrize("conflicts", [1, 25])
def test_conflicts_are_tried_again(scene: Scene, conflicts: int) -> None:
    scene.deploy("a")
    scene.cluster.conflicts = conflicts
    assert scene.deploy("b").outcome == "deployed"
    assert scene.cluster.conflicts == 0 and scene.is_settled("b")


@pytest.mark.parametrize(("failures", "status"), [(1, 503), (3, 500), (4, 429)])
def test_the_api_server_fails_for_a_moment(
    scene: Scene, failures: int, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, target = scene.wanted("a")
    scene.cluster.failures, scene.cluster.failure_status = failures, status
    with monkeypatch.context() as patch:
        patch.setattr("time.sleep", lambda seconds: None)
        assert deploy(wanted, target, ROWS).outcome == "deployed"
    assert scene.is_settled("a")


def test_the_same_again_sends_nothing_and_asks(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.deploy("a")
    scene.deploy("b")
    sent, generation, before = len(scene.cluster.sent), scene.live["metadata"], len(scene.cluster.answered)
    done = scene.deploy("b", run_id="another run")
    assert (done.outcome, done.reason, done.figures["rows"]) == ("unchanged", "", 6)
    assert (len(scene.cluster.sent), scene.live["metadata"]) == (sent, generation)
    assert [host for host, _, _ in scene.cluster.answered[before:]] == [scene.host] * 6
    assert f"is release {'b' * 16} already: nothing is changed, and it is asked again" in capsys.readouterr().out


def test_the_same_that_answers_wrongly_by_now_is_left_as_it_is(scene: Scene) -> None:
    scene.deploy("a")
    scene.deploy("b")
    sent = len(scene.cluster.sent)
    scene.cluster.fates["b" * 16].backend = scene.wrong
    done = scene.deploy("b")
    assert done.outcome == "failed" and done.reason.endswith("; nothing has been changed")
    assert len(scene.cluster.sent) == sent


def test_the_same_release_with_another_setting_is_sent(scene: Scene) -> None:
    scene.deploy("a")
    assert scene.deploy("a", max_replicas=3).outcome == "deployed"
    assert scene.live["spec"]["predictor"]["maxReplicas"] == 3
    assert scene.is_settled("a") and scene.formers() == ["a"]


def test_what_someone_edited_is_put_right(scene: Scene) -> None:
    """The pods of the edited object carry the same mark: they must not be asked in the new pods' place."""
    scene.deploy("a")
    scene.cluster.fates["a" * 16] = Fate(backend=scene.wrong)
    edit(scene, lambda live: live["spec"]["predictor"]["model"].update(storageUri="pvc://data/other"))
    scene.cluster.tick(NAME, 8)
    scene.cluster.fates["a" * 16] = Fate(backend=scene.good)
    assert scene.deploy("a", run_id="later").outcome == "deployed"
    assert scene.live["spec"]["predictor"]["model"]["storageUri"] == f"pvc://data/tiny/releases/{'a' * 16}"
    assert scene.is_settled("a")


def test_what_others_wrote_on_the_object_stays(scene: Scene) -> None:
    def mark(live: Json) -> None:
        live["metadata"]["labels"]["networking.knative.dev/visibility"] = "cluster-local"
        live["metadata"]["annotations"]["example.com/owner"] = "search team"
        live["metadata"]["finalizers"] = ["example.com/watched"]
        owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "00000000-0000-0000-0000-000000000000"}
        live["metadata"]["ownerReferences"] = [owner]

    scene.deploy("a")
    edit(scene, mark)
    for letter, outcome in (("b", "deployed"), ("c", "rolled back")):
        done = scene.fails(letter, "wrong") if letter == "c" else scene.deploy(letter)
        assert done.outcome == outcome
        metadata = scene.live["metadata"]
        assert metadata["labels"]["networking.knative.dev/visibility"] == "cluster-local"
        assert metadata["annotations"]["example.com/owner"] == "search team"
        assert metadata["finalizers"] == ["example.com/watched"] and metadata["ownerReferences"][0]["name"] == "x"


def test_three_former_ones_are_kept(scene: Scene) -> None:
    for letter in "abcdef":
        assert scene.deploy(letter).outcome == "deployed"
    assert scene.formers() == ["e", "d", "c"]
    assert sum(len(value) for value in scene.live["metadata"]["annotations"].values()) < 10_000


def test_a_canary_gets_its_share_for_its_time(knative: Scene) -> None:
    knative.deploy("a")
    before = len(knative.cluster.answered)
    with knative.users():
        done = knative.deploy("b", canary_percent=10, canary_minutes=0.02)
    assert done.outcome == "deployed"
    percents = [one["spec"]["predictor"].get("canaryTrafficPercent") for one in knative.sent]
    assert percents == [100, None, 0, 10, None]
    # Before its time and during it: of ten requests one, and never two in a row.
    letters = "".join(release[0] for host, release, _ in knative.cluster.answered[before:] if host == knative.host)
    canary = letters.rstrip("b")
    counts = Counter(canary)
    assert counts["b"] >= 2 and "bb" not in canary
    first = canary.index("b")
    assert abs(counts["b"] - len(canary[first:]) / 10) <= 2
    assert knative.is_settled("b")


def test_a_canary_of_a_first_deployment_has_nothing_to_share_with(knative: Scene) -> None:
    assert knative.deploy("a", canary_percent=10, canary_minutes=60).outcome == "deployed"
    assert knative.is_settled("a")


def test_a_canary_over_one_that_is_stopped_has_nothing_to_share_with(knative: Scene) -> None:
    knative.deploy("a")
    edit(knative, lambda live: live["metadata"]["annotations"].update({"serving.kserve.io/stop": "true"}))
    knative.cluster.tick(NAME, 4)
    done = knative.deploy("b", canary_percent=10, canary_minutes=60)
    assert (done.outcome, done.reason) == ("deployed", "")
    assert knative.is_settled("b") and knative.formers() == ["a"]


def test_one_that_was_stopped_and_started_by_hand_is_known_again(knative: Scene) -> None:
    """Its revisions are counted anew: the newest has the name of the one that was replaced once."""
    knative.deploy("a")
    knative.deploy("b")
    edit(knative, lambda live: live["metadata"]["annotations"].update({"serving.kserve.io/stop": "true"}))
    knative.cluster.tick(NAME, 4)
    edit(knative, lambda live: live["metadata"]["annotations"].pop("serving.kserve.io/stop"))
    done = knative.deploy("b", deploy_timeout=3)
    assert (done.outcome, done.reason) == ("unchanged", "")


def test_a_manual_rollback_by_traffic_is_respected(knative: Scene) -> None:
    """KServe's own way back is canaryTrafficPercent=0: what was taken out of the traffic is not what to go back to."""
    knative.deploy("a")
    knative.deploy("b")
    edit(knative, lambda live: live["spec"]["predictor"].update(canaryTrafficPercent=0))
    assert knative.shares() == {"a": 20}
    with knative.users():
        done = knative.fails("c", "wrong")
    assert done.outcome == "rolled back" and f"the former release {'a' * 16} " in done.reason
    assert knative.is_settled("a")


def test_a_change_of_the_deployment_mode_is_refused_by_the_server(scene: Scene) -> None:
    scene.deploy("a")
    scene.deploy("b", deployment_mode=scene.mode)
    other = "Standard" if scene.mode == "Knative" else "Knative"
    sent = len(scene.sent)
    with pytest.raises(UsageError, match="deploymentMode cannot be changed from"):
        scene.deploy("c", deployment_mode=other)
    assert len(scene.sent) == sent and scene.service.note("applied") and not scene.service.is_unfinished
    assert scene.service.release == "b" * 16
