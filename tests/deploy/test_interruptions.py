"""Deployments that are killed and tried again; others change or delete the object meanwhile; the API server goes."""

from collections.abc import Callable
from typing import Any

import pytest

from nlp_pipeline.deploy.inference_service import InferenceService
from nlp_pipeline.deploy.transaction import Outcome, deploy
from nlp_pipeline.errors import PipelineError
from tests.deploy.scene import NAME, ROWS, Scene, predict, predict_wrongly
from tests.fakes.kubernetes.emulator import Fate

Json = dict[str, Any]
# Standard has no shares of the traffic.
MOMENTS = [("Knative", "asked"), ("Knative", "canary"), ("Knative", "rolling back"), ("Standard", "asked")]
at_each_moment = pytest.mark.parametrize(("scene", "moment"), MOMENTS, indirect=["scene"])


def moments(scene: Scene) -> dict[str, Callable[[], bool]]:
    """Returns how the moments of b's deployment over a are known."""

    def is_live(letter: str) -> bool:
        return scene.is_there and scene.service.release == letter * 16 and scene.percent is not None

    return {
        "sent": lambda: is_live("b"),
        "asked": lambda: is_live("b") and any(release == "b" * 16 for _, release, _ in scene.cluster.answered),
        "canary": lambda: is_live("b") and scene.percent == 10,
        "rolling back": lambda: is_live("a") and InferenceService(scene.sent[-2]).release == "b" * 16,
    }


def begin(scene: Scene, moment: str) -> Callable[[], Outcome]:
    """Deploys a, and returns how b is deployed so that there is the moment."""
    scene.deploy("a")
    fate = Fate(backend=predict_wrongly if moment == "rolling back" else predict)
    # Asked in vain, it waits; users, too, are refused on Standard.
    fate.unready_answers = 10**9 if moment == "asked" else 0
    canary = {"canary_percent": 10, "canary_minutes": 0.2} if moment == "canary" else {}
    return lambda: scene.deploy("b", fate, **canary)


@pytest.mark.parametrize(
    ("scene", "moment", "then"),
    [
        ("Knative", "sent", "the same"),
        ("Knative", "asked", "another"),
        ("Knative", "canary", "another that fails"),
        ("Knative", "rolling back", "the same"),
        ("Knative", "rolling back", "another"),
        ("Standard", "asked", "the same"),
        ("Standard", "asked", "another that fails"),
        ("Standard", "rolling back", "another"),
    ],
    indirect=["scene"],
)
def test_killed_and_tried_again(scene: Scene, moment: str, then: str) -> None:
    deploy = begin(scene, moment)
    with scene.users() as statuses:
        with scene.killed(moments(scene)[moment]):
            deploy()
        if then == "the same":
            scene.cluster.fates["b" * 16].unready_answers = 0
            outcome = deploy() if moment != "asked" else scene.deploy("b", scene.cluster.fates["b" * 16])
        else:
            outcome = scene.deploy("c") if then == "another" else scene.fails("c", "ModelLoadFailed")
    if scene.mode == "Knative":
        assert set(statuses) == {200}
    if then == "another that fails" or (then == "the same" and moment == "rolling back"):
        assert outcome.outcome == "rolled back"
        assert outcome.reason.endswith(f"; the former release {'a' * 16} has been put back and serves")
        assert scene.is_settled("a") and scene.formers() == []
    else:
        assert outcome.outcome == "deployed"
        assert scene.is_settled("b" if then == "the same" else "c") and scene.formers() == ["a"]


def test_killed_again_and_again(scene: Scene) -> None:
    with scene.killed(lambda: scene.is_there):
        scene.deploy("a")
    deploy = begin(scene, "rolling back")
    for _ in range(2):
        with scene.killed(moments(scene)["rolling back"]):
            deploy()
    with scene.killed(lambda: scene.service.release == "c" * 16):
        scene.deploy("c")
    with scene.users() as statuses:
        assert scene.fails("d", "ModelLoadFailed").outcome == "rolled back"
    assert scene.is_settled("a") and scene.formers() == []
    assert scene.mode == "Standard" or set(statuses) == {200}


def test_rolled_back_to_what_this_project_did_not_make_and_killed_then(scene: Scene) -> None:
    before = scene.add_foreign(Fate(backend=predict))
    with scene.killed(lambda: len(scene.sent) > 1 and not scene.service.release):
        scene.fails("b", "wrong")
    outcome = scene.fails("c", "ModelLoadFailed")
    assert outcome.reason.endswith("; what stood there before has been put back and serves")
    assert scene.others() == before and scene.shares() == {"": 20}


@at_each_moment
def test_another_takes_the_place(scene: Scene, moment: str) -> None:
    deploy = begin(scene, moment)

    def take(live: Json) -> None:
        live["spec"]["predictor"]["model"]["storageUri"] = "pvc://data/other"
        if moment != "asked":  # there it is someone's edit
            live["metadata"]["annotations"]["nlp-pipeline/applied"] = "another's"

    with scene.meanwhile(moments(scene)[moment], lambda: scene.edit(take)):
        outcome = deploy()
    assert outcome.outcome == "failed"
    if moment == "rolling back":
        assert "; and it could not be undone: another deployment has taken the place of this one" in outcome.reason
    else:
        assert outcome.reason.endswith("; the other one is left as it is")
        assert moment == "asked" or outcome.reason.startswith("another deployment has taken the place of this one in")
    assert scene.live["spec"]["predictor"]["model"]["storageUri"] == "pvc://data/other"


@at_each_moment
def test_deleted_in_between(scene: Scene, moment: str) -> None:
    deploy = begin(scene, moment)
    with scene.meanwhile(moments(scene)[moment], lambda: scene.cluster.remove("inferenceservices", NAME)):
        outcome = deploy()
    assert (outcome.outcome, outcome.service) == ("failed", None)
    gone = ("InferenceService team/tiny has been deleted meanwhile", "; it is not there any more")
    assert any(text in outcome.reason for text in gone) and not scene.is_there
    assert scene.deploy("c").outcome == "deployed" and scene.is_settled("c")


def test_the_api_server_goes_for_good_and_comes_back(knative: Scene) -> None:
    knative.deploy("a")
    sent = len(knative.sent)
    desired, target = knative.desired("b")

    def go() -> None:
        knative.cluster.failures = 10**9

    reading = "reading InferenceService team/tiny: 503: the server is currently unable to handle the request"
    with pytest.raises(PipelineError, match=reading), knative.meanwhile(lambda: len(knative.sent) > sent, go):
        deploy(desired, target, ROWS)
    knative.cluster.failures = 0
    assert knative.deploy("b").outcome == "deployed" and knative.formers() == ["a"]


def test_conflicts_without_an_end(knative: Scene) -> None:
    knative.deploy("a")
    sent, generation = len(knative.sent), knative.live["metadata"]["generation"]
    knative.cluster.conflicts = 10**9
    knative.clock.before_wait = lambda: knative.clock.waits.append(5)
    with pytest.raises(PipelineError, match=r"^InferenceService team/tiny: something else kept changing it"):
        knative.deploy("b")
    assert len(knative.sent) == sent and knative.live["metadata"]["generation"] == generation
