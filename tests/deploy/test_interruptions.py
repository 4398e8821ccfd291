"""Deployments that are killed and tried again; others change or delete the object meanwhile; the API server goes."""

from collections.abc import Callable
from typing import Any

import pytest

from nlp_pipeline.deploy.inference_service import InferenceService
from nlp_pipeline.deploy.transaction import Outcome, deploy
from nlp_pipeline.errors import PipelineError
from tests.deploy.scene import NAME, ROWS, Scene, edit, killed, meanwhile
from tests.fakes.kubernetes.emulator import Fate

Json = dict[str, Any]
# Standard has no shares of the traffic.
MOMENTS = [("Knative", one) for one in ("sent", "asked", "canary", "rolling back")]
MOMENTS += [("Standard", one) for one in ("sent", "asked", "rolling back")]
at_each_moment = pytest.mark.parametrize(("scene", "moment"), MOMENTS, indirect=["scene"])


def percent(scene: Scene) -> int | None:
    found: int | None = scene.live["spec"]["predictor"].get("canaryTrafficPercent")
    return found


def moments(scene: Scene) -> dict[str, Callable[[], bool]]:
    """Returns how the moments of b's deployment over a are known."""

    def is_live(letter: str) -> bool:
        return scene.is_there and scene.service.release == letter * 16 and percent(scene) is not None

    return {
        "sent": lambda: is_live("b") and "b" not in {one for _, one, _ in scene.cluster.answered},
        "asked": lambda: is_live("b") and any(one == "b" * 16 for _, one, _ in scene.cluster.answered),
        "canary": lambda: is_live("b") and percent(scene) == 10,
        "rolling back": lambda: is_live("a") and InferenceService(scene.sent[-2]).release == "b" * 16,
    }


def begin(scene: Scene, moment: str, refusals: int = 15) -> Callable[[], Outcome]:
    """Deploys a, and returns how b is deployed so that there is the moment; at first so many requests are refused."""
    scene.deploy("a")
    fate = Fate(backend=scene.wrong if moment == "rolling back" else scene.good, unready_answers=refusals)
    canary = {"canary_percent": 10, "canary_minutes": 0.01} if moment == "canary" else {}
    return lambda: scene.deploy("b", fate, **canary)


@at_each_moment
@pytest.mark.parametrize("then", ["the same", "another", "another that fails"])
def test_killed_and_tried_again(scene: Scene, monkeypatch: pytest.MonkeyPatch, moment: str, then: str) -> None:
    # Users, too, are refused: on Standard they may be the ones who use up the refusals.
    deploy = begin(scene, moment, 10**9 if moment in ("sent", "asked") else 15)
    with scene.users() as statuses:
        with killed(monkeypatch, moments(scene)[moment]):
            deploy()
        if then == "the same":
            scene.cluster.fates["b" * 16].unready_answers = 0
            done = deploy()
        else:
            done = scene.deploy("c") if then == "another" else scene.fails("c", "ModelLoadFailed")
    if scene.mode == "Knative":
        assert set(statuses) == {200}
    if then == "another that fails" or (then == "the same" and moment == "rolling back"):
        assert done.outcome == "rolled back"
        assert done.reason.endswith(f"; the former release {'a' * 16} has been put back and serves")
        assert scene.is_settled("a") and scene.formers() == []
    else:
        letter = "b" if then == "the same" else "c"
        assert done.outcome == "deployed"
        assert scene.is_settled(letter) and scene.formers() == ["a"]


def test_killed_again_and_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    with killed(monkeypatch, lambda: scene.is_there):
        scene.deploy("a")
    deploy = begin(scene, "rolling back")
    for _ in range(2):
        with killed(monkeypatch, moments(scene)["rolling back"]):
            deploy()
    with killed(monkeypatch, lambda: scene.service.release == "c" * 16):
        scene.deploy("c")
    with scene.users() as statuses:
        assert scene.fails("d", "ModelLoadFailed").outcome == "rolled back"
    assert scene.is_settled("a") and scene.formers() == []
    assert scene.mode == "Standard" or set(statuses) == {200}


def test_rolled_back_to_what_this_project_did_not_make_and_killed_then(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.cluster.fates[""] = Fate(backend=scene.good)
    spec = {"predictor": {"pytorch": {"storageUri": "pvc://old/model"}}}
    scene.cluster.add({"kind": "InferenceService", "metadata": {"name": NAME}, "spec": spec})
    before = scene.cluster.after(NAME, 6)["spec"]
    with killed(monkeypatch, lambda: len(scene.sent) > 1 and not scene.service.release):
        scene.fails("b", "wrong")
    done = scene.fails("c", "ModelLoadFailed")
    assert done.reason.endswith("; what stood there before has been put back and serves")
    assert scene.live["spec"] == before and scene.shares() == {"": 20}


@at_each_moment
def test_another_takes_the_place(scene: Scene, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    deploy = begin(scene, moment)

    def take(live: Json) -> None:
        live["spec"]["predictor"]["model"]["storageUri"] = "pvc://data/other"
        if moment != "asked":  # there it is someone's edit
            live["metadata"]["annotations"]["nlp-pipeline/applied"] = "another's"

    with meanwhile(monkeypatch, moments(scene)[moment], lambda: edit(scene, take)):
        done = deploy()
    assert done.outcome == "failed"
    if moment == "rolling back":
        assert "; and it could not be undone: another deployment has taken the place of this one" in done.reason
    else:
        assert done.reason == (
            "another deployment has taken the place of this one in InferenceService team/tiny meanwhile; "
            "the other one is left as it is"
        )
    assert scene.live["spec"]["predictor"]["model"]["storageUri"] == "pvc://data/other"


@at_each_moment
def test_deleted_in_between(scene: Scene, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    deploy = begin(scene, moment)
    with meanwhile(monkeypatch, moments(scene)[moment], lambda: scene.cluster.remove("inferenceservices", NAME)):
        done = deploy()
    assert (done.outcome, done.service) == ("failed", None)
    gone = ("InferenceService team/tiny has been deleted meanwhile", "; it is not there any more")
    assert any(one in done.reason for one in gone) and not scene.is_there
    assert scene.deploy("c").outcome == "deployed" and scene.is_settled("c")


def test_the_api_server_goes_for_good_and_comes_back(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.deploy("a")
    sent = len(scene.sent)
    wanted, target = scene.wanted("b")

    def go() -> None:
        scene.cluster.failures = 10**9

    with monkeypatch.context() as patch, meanwhile(patch, lambda: len(scene.sent) > sent, go):
        done = deploy(wanted, target, ROWS)
    assert (done.outcome, done.service) == ("failed", None)
    assert done.reason == (
        "reading InferenceService team/tiny: 503: the server is currently unable to handle the request; and it could "
        "not be undone: reading InferenceService team/tiny: 503: the server is currently unable to handle the request"
    )
    scene.cluster.failures = 0
    assert scene.deploy("b").outcome == "deployed" and scene.formers() == ["a"]


def test_conflicts_without_an_end(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.deploy("a")
    sent, generation = len(scene.sent), scene.live["metadata"]["generation"]
    scene.cluster.conflicts = 10**9
    now = [0.0]
    with monkeypatch.context() as patch:
        patch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + 10))
        patch.setattr("time.monotonic", lambda: now[0])
        with pytest.raises(PipelineError, match=r"^InferenceService team/tiny could not be changed for two minutes: "):
            scene.deploy("b")
    assert len(scene.sent) == sent and scene.live["metadata"]["generation"] == generation
