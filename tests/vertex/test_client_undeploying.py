"""`--undeploy` on Vertex AI: ours is taken off an endpoint, what is others' stays, and what costs is told."""

import json
from typing import Any

import pytest

from tests.vertex.cloud import PLACE, Cloud
from tests.vertex.conftest import TRAIN, Run

OF_FILMS = ("--set", "model_name=films")
UNDEPLOY = ("--undeploy", *OF_FILMS)
STEPS = [("PATCH", ""), ("POST", ":undeployModel"), ("POST", ":undeployModel"), ("DELETE", "")]


def deployed(cloud: Cloud, *others: tuple[str, int], shares: tuple[int, ...] = (10, 90)) -> Any:
    """Adds the model "films" with two versions on an endpoint of its name, beside versions of another model."""
    films = cloud.serving.add_model("77", "films", 2)
    books = cloud.serving.add_model("78", "books", 1)
    ours = {str(at): (films, str(at), share) for at, share in enumerate(shares, 1)}
    theirs = {id: (books, "1", share) for id, share in others}
    return cloud.serving.add_endpoint("5", "films", {**ours, **theirs})


def test_all_versions_are_undeployed_and_the_endpoint_deleted(cloud: Cloud, run: Run) -> None:
    deployed(cloud)
    cloud.operations.reads = 2
    code, out, _ = run(*UNDEPLOY, "--json")
    told = json.loads(out)
    assert code == 0 and cloud.serving.endpoints == {} and cloud.serving.models
    assert told == {
        "action": "removed",
        "dry_run": False,
        "endpoint": f"{PLACE}/endpoints/5",
        "undeployed": {"1": f"{PLACE}/models/77@1", "2": f"{PLACE}/models/77@2"},
        "deleted": True,
        "left": [
            "model films, versions 1, 2: gcloud ai models delete 77 --region us-central1 --project my-project",
            "what runs wrote below gs://films/runs: gcloud storage ls gs://films/runs shows it",
        ],
        "costs": "storage in the bucket, by the month; a model that is not deployed costs nothing",
    }
    # The busiest gets all of the traffic and goes last, so that who asks is answered until then.
    assert cloud.changes == [f"{method} /v1/{PLACE}/endpoints/5{what}" for method, what in STEPS]
    code, out, err = run(*UNDEPLOY, "--json")
    again = json.loads(out)
    assert code == 2 and "project my-project has no endpoint 'films' in region us-central1" in err
    assert again["left"] == told["left"] and again["costs"] == told["costs"]


def test_a_dry_run_changes_nothing(cloud: Cloud, run: Run) -> None:
    endpoint = deployed(cloud)
    code, out, _ = run(*UNDEPLOY, "--dry-run", "--json")
    dry = json.loads(out)
    assert code == 0 and cloud.changes == [] and len(endpoint.deployed_models) == 2
    assert json.loads(run(*UNDEPLOY, "--json")[1]) == {**dry, "dry_run": False}


def test_a_line_for_each_fact(cloud: Cloud, run: Run) -> None:
    deployed(cloud)
    code, out, err = run(*UNDEPLOY)
    assert code == 0 and err == "project my-project, region us-central1, as ann@my-project.iam.gserviceaccount.com\n"
    assert "undeployed        2: projects/123456789012/locations/us-central1/models/77@2\n" in out
    assert "left              1: model films, versions 1, 2: gcloud ai models delete 77 " in out
    assert "costs             storage in the bucket" in out


@pytest.mark.parametrize(
    ("others", "shares", "split"),
    [
        ((("9", 60), ("8", 10)), (10, 20), {"9": 90, "8": 10}),
        ((("9", 0),), (10, 90), {}),
        ((("9", 100),), (0, 0), {"9": 100}),
        ((("9", 0),), (0, 0), {}),
    ],
)
def test_versions_of_other_models_stay(
    others: tuple[tuple[str, int], ...], shares: tuple[int, ...], split: dict[str, int], cloud: Cloud, run: Run
) -> None:
    endpoint = deployed(cloud, *others, shares=shares)
    code, out, _ = run(*UNDEPLOY, "--json")
    told = json.loads(out)
    assert code == 0 and told["deleted"] is False and list(told["undeployed"]) == ["1", "2"]
    assert [one.id for one in endpoint.deployed_models] == [id for id, _ in others]
    assert dict(endpoint.traffic_split) == split
    assert told["left"][0] == f"endpoint {endpoint.name}, with {len(others)} versions of other models"
    assert told["costs"].startswith("the other models' versions on the endpoint, by the hour; ")


@pytest.mark.parametrize("given", ["5", f"{PLACE}/endpoints/5"])
def test_an_endpoint_of_another_name(given: str, cloud: Cloud, run: Run) -> None:
    deployed(cloud).display_name = "shared"
    assert run(*UNDEPLOY)[0] == 2
    code, out, _ = run(*UNDEPLOY, "--set", f"endpoint={given}", "--json")
    assert code == 0 and json.loads(out)["deleted"] is True and cloud.serving.endpoints == {}


def test_schedules_that_would_deploy_anew_are_told(cloud: Cloud, run: Run) -> None:
    deployed(cloud)
    for name in ("nightly", "resting"):
        run("--schedule", "0 0 2 * * *", "--schedule-name", name, *TRAIN)
    run("--pause", "resting")
    told = json.loads(run(*UNDEPLOY, "--json")[1])
    assert told["left"][1] == "schedule nightly, which deploys anew: --unschedule nightly"
    assert "machines while the runs of 1 schedules go" in told["costs"] and "resting" not in str(told)


def test_where_no_bucket_is_set_it_is_not_known(cloud: Cloud, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    deployed(cloud)
    monkeypatch.delenv("NLP_PIPELINE_BUCKET")
    told = json.loads(run(*UNDEPLOY, "--json")[1])
    assert told["left"][-1].startswith("what runs wrote to their bucket (NLP_PIPELINE_BUCKET is not set")


def test_a_failure_tells_what_goes_on_costing_and_the_same_again_goes_on(cloud: Cloud, run: Run) -> None:
    endpoint = deployed(cloud)
    cloud.operations.failing["undeploy 2"] = (13, "Internal error encountered.")
    code, out, err = run(*UNDEPLOY, "--json")
    told = json.loads(out)
    assert code == 1 and (told["undeployed"], told["still_deployed"]) == (["1"], ["2"])
    line = "undeploying 2: 500: Internal error encountered.; still deployed, and costing money: 2; run the same again"
    assert err.splitlines()[-1] == f"error: {line}"
    assert [one.id for one in endpoint.deployed_models] == ["2"]
    cloud.operations.failing.clear()
    assert run(*UNDEPLOY)[0] == 0 and cloud.serving.endpoints == {}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--undeploy",), "which model? add --set model_name=NAME"),
        (("--undeploy", "--set", "model_name=Films"), "model_name is 'Films'"),
        ((*UNDEPLOY, "--set", "endpoint=a b"), "endpoint is 'a b'"),
        ((*UNDEPLOY, "--set", "endpoint=6"), "there is no endpoint 6 in project my-project, region us-central1"),
        ((*UNDEPLOY, "--host", "http://x"), "--host goes with"),
    ],
)
def test_what_is_wrong_is_one_line(argv: tuple[str, ...], message: str, cloud: Cloud, run: Run) -> None:
    deployed(cloud)
    code, out, err = run(*argv)
    assert (code, out) == (2, "") and err.splitlines()[-1].startswith("error: ") and message in err
    assert cloud.changes == []


def test_endpoints_of_the_same_name_must_be_chosen_from(cloud: Cloud, run: Run) -> None:
    deployed(cloud)
    cloud.serving.add_endpoint("6", "films", {})
    code, _, err = run(*UNDEPLOY)
    assert code == 2 and "there are 2 endpoints named 'films'" in err and "--set endpoint= one of 5, 6" in err
    assert cloud.changes == []


def test_who_may_not_is_told(cloud: Cloud, run: Run) -> None:
    deployed(cloud)
    cloud.around.granted.discard("aiplatform.endpoints.undeploy")
    code, _, err = run(*UNDEPLOY)
    assert code == 2 and "Permission 'aiplatform.endpoints.undeploy' denied" in err and "still deployed" in err
