"""`--undeploy` on Vertex AI: ours is taken off an endpoint, what is others' stays, and what costs is said."""

import json
from typing import Any

import pytest

from nlp_pipeline.vertex.steps import api
from tests.fakes.vertex.cloud import PLACE, Cloud
from tests.vertex.conftest import TRAIN, Run

UNDEPLOY = ("--undeploy", "--set", "model_name=films")
ENDPOINT = f"{PLACE}/endpoints/5"
LEFT = [
    "model films and its versions: gcloud ai models delete 77 --region us-central1 --project my-project",
    "what runs wrote below gs://films/runs: gcloud storage ls gs://films/runs shows it",
]
COSTS = "storage in the bucket, by the month; a model that is not deployed costs nothing"


def deployed(cloud: Cloud, *others: tuple[str, int], shares: tuple[int, ...] = (10, 90)) -> Any:
    """Adds the model "films" with two versions on an endpoint of its name, beside versions of another model."""
    films = cloud.serving.add_model("77", "films", 2)
    books = cloud.serving.add_model("78", "books", 1)
    ours = {str(at): (films, str(at), share) for at, share in enumerate(shares, 1)}
    theirs = {id: (books, "1", share) for id, share in others}
    return cloud.serving.add_endpoint("5", "films", {**ours, **theirs})


def undeployed(run: Run, *argv: str) -> dict[str, Any]:
    code, out, err = run(*UNDEPLOY, *argv, "--json")
    assert code == 0, err
    result: dict[str, Any] = json.loads(out)
    return result


def test_all_versions_are_undeployed_and_the_endpoint_deleted(cloud: Cloud, run: Run) -> None:
    endpoint = deployed(cloud)
    cloud.operations.reads = 1
    dry = undeployed(run, "--dry-run")
    assert cloud.changes == [] and len(endpoint.deployed_models) == 2
    versions = {"1": f"{PLACE}/models/77@1", "2": f"{PLACE}/models/77@2"}
    expected = {"action": "removed", "endpoint": ENDPOINT, "undeployed": versions, "deleted": True, "left": LEFT}
    assert undeployed(run) == {**dry, "dry_run": False} == {**expected, "dry_run": False, "costs": COSTS}
    assert cloud.serving.endpoints == {} and cloud.serving.models
    # The busiest gets all of the traffic and goes last, so that who asks is answered until then.
    steps = [("PATCH", ""), ("POST", ":undeployModel"), ("POST", ":undeployModel"), ("DELETE", "")]
    assert cloud.changes == [f"{method} /v1/{ENDPOINT}{what}" for method, what in steps]
    code, out, err = run(*UNDEPLOY, "--json")
    again = json.loads(out)
    assert code == 2 and "project my-project has no endpoint 'films' in region us-central1" in err
    assert (again["left"], again["costs"]) == (LEFT, COSTS)


@pytest.mark.parametrize(
    ("others", "shares", "split"),
    [
        ((("9", 60), ("8", 10)), (10, 20), {"9": 86, "8": 14}),
        ((("9", 0),), (10, 90), {}),
        ((("9", 100),), (0, 0), {"9": 100}),
    ],
)
def test_versions_of_other_models_stay(
    others: tuple[tuple[str, int], ...], shares: tuple[int, ...], split: dict[str, int], cloud: Cloud, run: Run
) -> None:
    endpoint = deployed(cloud, *others, shares=shares)
    result = undeployed(run)
    assert result["deleted"] is False and list(result["undeployed"]) == ["1", "2"]
    assert [item.id for item in endpoint.deployed_models] == [id for id, _ in others]
    assert dict(endpoint.traffic_split) == split
    assert result["left"][0] == f"endpoint {endpoint.name}, with {len(others)} versions of other models"
    assert result["costs"].startswith("the other models' versions on the endpoint, by the hour; ")


def test_an_endpoint_of_another_name(cloud: Cloud, run: Run) -> None:
    deployed(cloud).display_name = "shared"
    assert run(*UNDEPLOY)[0] == 2
    assert undeployed(run, "--set", f"endpoint={ENDPOINT}")["deleted"] is True and cloud.serving.endpoints == {}


def test_what_is_left_besides(cloud: Cloud, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    deployed(cloud)
    for name in ("nightly", "resting"):
        run("--schedule", "0 0 2 * * *", "--schedule-name", name, *TRAIN)
    run("--pause", "resting")
    monkeypatch.delenv("NLP_PIPELINE_BUCKET")
    result = undeployed(run)
    assert result["left"][1] == "schedule nightly, which deploys anew: --unschedule nightly"
    assert result["left"][2] == "what runs wrote to their bucket"
    assert "machines while the runs of 1 schedules go" in result["costs"] and "resting" not in str(result)


def test_a_failure_says_what_goes_on_costing_and_the_same_again_goes_on(cloud: Cloud, run: Run) -> None:
    endpoint = deployed(cloud)
    cloud.operations.failing["undeploy 2"] = (13, "Internal error encountered.")
    code, out, err = run(*UNDEPLOY, "--json")
    result = json.loads(out)
    assert code == 1 and (result["undeployed"], result["still_deployed"]) == (["1"], ["2"])
    line = "undeploying 2: 500: Internal error encountered.; still deployed, and costing money: 2; run the same again"
    assert err.splitlines()[-1] == f"error: {line}"
    assert [item.id for item in endpoint.deployed_models] == ["2"]
    cloud.operations.failing.clear()
    assert undeployed(run)["deleted"] and cloud.serving.endpoints == {}


def test_an_operation_that_does_not_end_is_not_waited_for_forever(
    cloud: Cloud, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed(cloud)
    cloud.operations.reads = 1000
    monkeypatch.setattr(api, "PATIENCE_SECONDS", 0.01)
    code, _, err = run(*UNDEPLOY)
    assert code == 4 and "undeploying 1: not done after 0 minutes; it goes on; still deployed, and costing" in err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--undeploy",), "which model? add --set model_name=NAME"),
        (("--undeploy", "--set", "model_name=Films"), "model_name is 'Films'"),
        ((*UNDEPLOY, "--set", "endpoint=a b"), "endpoint is 'a b'"),
        (
            (*UNDEPLOY, "--set", "endpoint=7"),
            "endpoint '7' is not in projects/my-project/locations/us-central1: leave it empty for the model's own",
        ),
        (
            UNDEPLOY,
            "2 endpoints in projects/my-project/locations/us-central1 are named 'films', with the ids 5, 6: set",
        ),
    ],
)
def test_what_is_wrong_is_one_line(argv: tuple[str, ...], message: str, cloud: Cloud, run: Run) -> None:
    deployed(cloud)
    cloud.serving.add_endpoint("6", "films", {})
    code, out, err = run(*argv)
    assert (code, out) == (2, "") and err.splitlines()[-1].startswith("error: ") and message in err
    assert cloud.changes == []


def test_who_may_not_is_told(cloud: Cloud, run: Run) -> None:
    deployed(cloud)
    cloud.around.granted.discard("aiplatform.endpoints.undeploy")
    code, _, err = run(*UNDEPLOY)
    assert code == 2 and "Permission 'aiplatform.endpoints.undeploy' denied" in err and "still deployed" in err
