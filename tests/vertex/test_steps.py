"""The steps that deploy on Vertex AI, against a stand-in for its API over HTTP."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google_cloud_pipeline_components.types.artifact_types import VertexEndpoint, VertexModel
from kfp import dsl

from nlp_pipeline.components.check_vertex_endpoint import check_vertex_endpoint, settle_endpoint
from nlp_pipeline.components.plan_vertex_deployment import plan_vertex_deployment
from tests.conftest import write_parquet
from tests.vertex.cloud import PLACE, PROJECT, REGION
from tests.vertex.rest import RefusedError
from tests.vertex.serving_api import DeployingCloud, deploying_cloud, good

ROOT = Path(__file__).parents[2]
NAME = "reviews"
ROWS = [(f"{number} {'good' if number % 3 else 'bad'} film", "good" if number % 3 else "bad") for number in range(30)]
SETTINGS = {"endpoint_timeout": 20, "poll_seconds": 0.001, "min_agreement": 0.97, "max_accuracy_drop": 0.01}
COLUMNS = {
    "text": [text for text, _ in ROWS],
    "label": [label for _, label in ROWS],
    "predicted": [label for _, label in ROWS],
}
MODEL = f"{PLACE}/models/7"


def wrong(instances: list[Any]) -> list[Any]:
    """Answers every text with the same label."""
    return [{"label": "good", "score": 0.6} for _ in instances]


def broken(instances: list[Any]) -> list[Any]:
    """Answers no text."""
    raise RefusedError(503, "The model server is not ready.")


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DeployingCloud]:
    """A project of Google Cloud's, asked as the run's service account."""
    with deploying_cloud() as one:
        one.identity.write_key(tmp_path / "key.json", one.url)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
        monkeypatch.setenv("VERTEX_ENDPOINT", one.url)
        # The checking step listens for the end of its run.
        former = signal.getsignal(signal.SIGTERM)
        yield one
        signal.signal(signal.SIGTERM, former)


def plan(cloud: DeployingCloud, endpoint: str = "", canary_percent: int = 10, **changes: Any) -> dict[str, Any]:
    """Runs the planning step, and returns its outputs by name."""
    release = dsl.Model(uri="gs://films/runs/release", metadata={"digest": "0123456789abcdef"})
    values = {"project": PROJECT, "location": REGION, "model_name": NAME, **changes}
    found = plan_vertex_deployment(release=release, endpoint=endpoint, canary_percent=canary_percent, **values)
    return dict(zip(plan_vertex_deployment.component_spec.outputs, found, strict=True))


def deployed(cloud: DeployingCloud, former: dict[str, tuple[str, int]], new_share: int) -> str:
    """Puts an endpoint there, with former versions and a new one, 9, as id "new"; returns the endpoint's name."""
    cloud.serving.add_model("7", NAME, versions=9)
    shares = {id: (MODEL, version, share) for id, (version, share) in former.items()}
    endpoint = cloud.serving.add_endpoint("5", NAME, {**shares, "new": (MODEL, "9", new_share)})
    for one in endpoint.deployed_models:
        one.display_name = NAME
    return str(endpoint.name)


def settle(cloud: DeployingCloud, former: dict[str, tuple[str, int]], **changes: Any) -> dict[str, Any]:
    """Asks the new version as the checking step does, having deployed it with 10% of the traffic."""
    shares = {id: share for id, (_, share) in former.items() if share}
    scaled = {id: (version, round(share * 0.9)) for id, (version, share) in former.items()}
    name = deployed(cloud, scaled, 10 if shares else 100)
    return settle_endpoint(name, f"{MODEL}@9", shares, COLUMNS, {**SETTINGS, **changes})


# The plan


def test_a_first_version_gets_a_new_model_a_new_endpoint_and_all_of_the_traffic(cloud: DeployingCloud) -> None:
    assert plan(cloud) == {
        "artifact_uri": "gs://films/runs/release",
        "predict_route": "/v1/models/reviews:predict",
        "labels": {"nlp-pipeline-release": "0123456789abcdef"},
        "parent_model": "",
        "parent_uri": f"https://{REGION}-aiplatform.googleapis.com/v1/",
        "endpoint": "",
        "endpoint_uri": f"https://{REGION}-aiplatform.googleapis.com/v1/",
        "traffic_split": {"0": "100"},
        "former_traffic": {},
    }
    assert not cloud.changes


@pytest.mark.parametrize(
    ("former", "percent", "split"),
    [
        ({"1": 100}, 10, {"0": "10", "1": "90"}),
        ({"1": 50, "2": 50}, 25, {"0": "25", "1": "38", "2": "37"}),
        ({"1": 99, "2": 1}, 50, {"0": "50", "1": "49", "2": "1"}),
        ({"1": 99, "2": 1}, 99, {"0": "99", "1": "1"}),
        ({"1": 100, "2": 0}, 100, {"0": "100"}),
        ({"1": 0}, 10, {"0": "100"}),
    ],
)
def test_another_version_gets_its_first_share(
    cloud: DeployingCloud, former: dict[str, int], percent: int, split: dict[str, str]
) -> None:
    cloud.serving.add_model("7", NAME, versions=2)
    cloud.serving.add_model("8", "other", versions=1)
    endpoint = cloud.serving.add_endpoint("5", NAME, {id: (MODEL, id, share) for id, share in former.items()})
    for one in endpoint.deployed_models:
        one.display_name = NAME
    found = plan(cloud, canary_percent=percent)
    assert found["parent_model"] == MODEL and found["parent_uri"].endswith(f".googleapis.com/v1/{MODEL}")
    assert found["endpoint"] == endpoint.name and found["endpoint_uri"].endswith(f"/v1/{endpoint.name}")
    assert found["traffic_split"] == split
    assert sum(map(int, split.values())) == 100
    assert found["former_traffic"] == {id: str(share) for id, share in former.items() if share}


@pytest.mark.parametrize("given", ["6", f"{PLACE}/endpoints/6", f"projects/{PROJECT}/locations/{REGION}/endpoints/6"])
def test_an_endpoint_that_is_named(cloud: DeployingCloud, given: str) -> None:
    cloud.serving.add_endpoint("5", NAME, {})
    cloud.serving.add_endpoint("6", "of another name", {})
    assert plan(cloud, endpoint=given)["endpoint"] == f"{PLACE}/endpoints/6"
    assert plan(cloud)["endpoint"] == f"{PLACE}/endpoints/5"


def strangers(cloud: DeployingCloud) -> None:
    cloud.serving.add_endpoint("6", "shared", {"1": (f"{PLACE}/models/8", "1", 100)}).deployed_models[
        0
    ].display_name = "prices"


def twice(cloud: DeployingCloud) -> None:
    for number in ("5", "6"):
        cloud.serving.add_endpoint(number, NAME, {})


def two_models(cloud: DeployingCloud) -> None:
    for number in ("7", "8"):
        cloud.serving.add_model(number, NAME, versions=1)


def no_role(cloud: DeployingCloud) -> None:
    cloud.refuse(403, "Permission 'aiplatform.models.list' denied", times=9, on="models")


def down(cloud: DeployingCloud) -> None:
    cloud.refuse(500, "An internal error has occurred", times=99)


@pytest.mark.parametrize(
    ("around", "endpoint", "says"),
    [
        (strangers, "6", r"endpoint .*/6 serves other models too \(prices\): set endpoint to another one, or leave"),
        (lambda _: None, "6", r"endpoint '6' is not in projects/my-project/.*: leave it empty to have one made"),
        (lambda _: None, f"projects/{PROJECT}/locations/europe-west4/endpoints/6", "and the run is in us-central1"),
        (twice, "", r"2 endpoints in .* are named 'reviews': set endpoint to one of 5, 6"),
        (two_models, "", r"2 models in .* are named 'reviews', with the ids 7, 8: delete all but one, or set another"),
        (
            no_role,
            "",
            r"listing models: .*Permission 'aiplatform.models.list' denied \(the run's service account needs",
        ),
        (down, "", r"listing models: .*An internal error has occurred"),
    ],
)
def test_what_cannot_be_planned_is_said_in_one_line(
    cloud: DeployingCloud, around: Callable[[DeployingCloud], None], endpoint: str, says: str
) -> None:
    around(cloud)
    with pytest.raises((ValueError, RuntimeError), match=says) as caught:
        plan(cloud, endpoint=endpoint)
    assert "\n" not in str(caught.value)
    assert not cloud.changes


def test_a_release_that_is_not_in_cloud_storage() -> None:
    release = dsl.Model(uri="/somewhere/release", metadata={"digest": "0"})
    with pytest.raises(ValueError, match="the release lies at '/somewhere/release'"):
        plan_vertex_deployment(release, PROJECT, REGION, NAME, "", 10)


# The check


def test_a_first_version_that_is_good_stays(cloud: DeployingCloud) -> None:
    facts = settle(cloud, {})
    assert facts["deployed_model"] == "new" and facts["agreement"] == facts["accuracy"] == 1.0
    assert facts["rows"] == len(ROWS) and facts["p50_ms"] > 0
    endpoint = cloud.serving.endpoints[f"{PLACE}/endpoints/5"]
    assert dict(endpoint.traffic_split) == {"new": 100}
    assert not any("undeploy" in one for one in cloud.changes)


def test_a_good_version_gets_all_of_the_traffic_and_the_former_ones_are_undeployed(cloud: DeployingCloud) -> None:
    # All of what was there answers wrongly: only the new version's answers count.
    cloud.serving.versions = {"1": wrong, "2": wrong, "3": wrong}
    facts = settle(cloud, {"a": ("1", 60), "b": ("2", 40), "left over": ("3", 0)})
    assert facts["agreement"] == 1.0
    endpoint = cloud.serving.endpoints[f"{PLACE}/endpoints/5"]
    assert [one.id for one in endpoint.deployed_models] == ["new"]
    assert dict(endpoint.traffic_split) == {"new": 100}
    assert [one.version_id for one in cloud.serving.models[MODEL] if "default" in one.version_aliases] == ["9"]


@pytest.mark.parametrize(
    ("version", "says"),
    [
        (wrong, r"the served model gives the offline model's label on 0\.6667 of 30 rows; min_agreement is 0\.97"),
        (broken, r"the new version answered 0 of 30 texts within 0\.3 s: .*The model server is not ready"),
        (
            lambda texts: [{"label": "good"}] * len(texts),
            "does not answer with a label and a score for each of 10 texts",
        ),
        (lambda texts: good(texts)[1:], "does not answer with a label and a score for each of 10 texts"),
    ],
)
def test_a_version_that_is_not_good_is_undeployed_and_the_former_traffic_comes_back(
    cloud: DeployingCloud, version: Callable[[list[Any]], list[Any]], says: str
) -> None:
    cloud.serving.versions = {"9": version}
    former = {"a": ("1", 70), "b": ("2", 30), "without traffic": ("3", 0)}
    back = "; the new version has been undeployed, and the former one has all of the traffic again$"
    with pytest.raises(RuntimeError, match=f"^rolled back: .*{says}.*{back}") as caught:
        settle(cloud, former, endpoint_timeout=0.3 if version is broken else 20)
    assert "\n" not in str(caught.value)
    endpoint = cloud.serving.endpoints[f"{PLACE}/endpoints/5"]
    assert [one.id for one in endpoint.deployed_models] == list(former)
    assert dict(endpoint.traffic_split) == {"a": 70, "b": 30}
    assert not any("default" in one.version_aliases for one in cloud.serving.models[MODEL])


def test_a_first_version_that_is_wrong_is_undeployed(cloud: DeployingCloud) -> None:
    cloud.serving.versions = {"9": wrong}
    with pytest.raises(RuntimeError, match=r"nothing served before, and nothing serves now$"):
        settle(cloud, {})
    assert not cloud.serving.endpoints[f"{PLACE}/endpoints/5"].deployed_models


def test_a_version_that_stops_answering_once_it_has_the_traffic_goes_too(cloud: DeployingCloud) -> None:
    def answer(instances: list[Any]) -> list[Any]:
        shares = cloud.serving.endpoints[f"{PLACE}/endpoints/5"].traffic_split
        return broken(instances) if shares["new"] == 100 else good(instances)

    cloud.serving.versions = {"9": answer}
    with pytest.raises(RuntimeError, match="the new version answered 0 of 10 texts within"):
        settle(cloud, {"a": ("1", 100)}, endpoint_timeout=1)
    assert dict(cloud.serving.endpoints[f"{PLACE}/endpoints/5"].traffic_split) == {"a": 100}


def test_errors_for_a_moment_are_none(cloud: DeployingCloud) -> None:
    cloud.refuse(503, "coming up", times=3, on=":predict")
    cloud.drop(times=2, on=":predict")
    assert settle(cloud, {"a": ("1", 100)})["agreement"] == 1.0


def test_a_new_version_that_gets_no_traffic_is_not_waited_for_forever(cloud: DeployingCloud) -> None:
    name = deployed(cloud, {"a": ("1", 100)}, 0)
    with pytest.raises(
        RuntimeError, match=r"answered 0 of 30 texts within 0\.2 s: other versions gave [1-9]\d* answers"
    ):
        settle_endpoint(name, f"{MODEL}@9", {"a": 100}, COLUMNS, {**SETTINGS, "endpoint_timeout": 0.2})


def test_what_cannot_be_undone_is_told(cloud: DeployingCloud) -> None:
    cloud.serving.versions = {"9": wrong}
    cloud.refuse(403, "no", times=9, on="undeployModel")
    with pytest.raises(RuntimeError, match=r"^rolled back: .*could not be undone \(undeploying the new version: .*no"):
        settle(cloud, {"a": ("1", 100)})


def test_former_versions_that_cannot_be_undeployed_are_told(cloud: DeployingCloud) -> None:
    cloud.operations.failing["undeploy a"] = (13, "try later")
    with pytest.raises(RuntimeError, match=r"^the new version serves, but what served before still costs: undeploying"):
        settle(cloud, {"a": ("1", 100)})
    assert dict(cloud.serving.endpoints[f"{PLACE}/endpoints/5"].traffic_split) == {"new": 100}


def test_a_former_version_that_is_gone_gets_no_traffic_back(cloud: DeployingCloud) -> None:
    cloud.serving.versions = {"9": wrong}
    name = deployed(cloud, {"a": ("1", 90)}, 10)
    with pytest.raises(RuntimeError, match="rolled back"):
        settle_endpoint(name, f"{MODEL}@9", {"a": 60, "gone": 40}, COLUMNS, SETTINGS)
    assert dict(cloud.serving.endpoints[name].traffic_split) == {"a": 100}


def test_someone_else_has_undeployed_it(cloud: DeployingCloud) -> None:
    name = deployed(cloud, {"a": ("1", 90)}, 10)
    with pytest.raises(RuntimeError, match=r"@8 is not deployed to .*/5: someone has undeployed it"):
        settle_endpoint(name, f"{MODEL}@8", {"a": 100}, COLUMNS, SETTINGS)
    assert not [one for one in cloud.changes if "predict" not in one]


def test_an_endpoint_with_its_own_address_is_asked_there(
    cloud: DeployingCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = deployed(cloud, {}, 100)
    with deploying_cloud() as own:
        own.serving.models, own.serving.endpoints = cloud.serving.models, cloud.serving.endpoints
        own.identity = cloud.identity
        cloud.serving.endpoints[name].dedicated_endpoint_dns = own.url
        settle_endpoint(name, f"{MODEL}@9", {}, COLUMNS, SETTINGS)
        assert any(one.endswith(":predict") for one in own.changes)
    assert not any(one.endswith(":predict") for one in cloud.changes)


# The checking step itself


def run_check(tmp_path: Path, name: str, **changes: Any) -> Any:
    """Runs the checking step, and returns what it tells."""
    predictions = write_parquet(tmp_path / "predictions", ROWS, predicted=COLUMNS["predicted"])
    told = dsl.Metrics(uri=str(tmp_path / "deployment"))
    values = {
        "model": VertexModel.create("model", "https://x", f"{MODEL}@9"),
        "endpoint": VertexEndpoint.create("endpoint", "https://x", name),
        "predictions": dsl.Dataset(uri=str(predictions)),
        "former_traffic": {"a": "100"},
        "endpoint_rows": 12,
        **{key: SETTINGS[key] for key in ("endpoint_timeout", "min_agreement", "max_accuracy_drop")},
    }
    check_vertex_endpoint(**{**values, **changes}, deployment=told)
    return told


def test_the_step_tells_what_it_found(cloud: DeployingCloud, tmp_path: Path) -> None:
    name = deployed(cloud, {"a": ("1", 90)}, 10)
    told = run_check(tmp_path, name)
    assert told.metadata["endpoint"] == name and told.metadata["version"] == f"{MODEL}@9"
    assert told.metadata["deployed_model"] == "new" and told.metadata["rows"] == 12
    assert json.loads(Path(told.path).read_text()) == told.metadata


@pytest.mark.parametrize(
    ("parameter", "value"), [("endpoint_rows", 0), ("endpoint_timeout", 0), ("min_agreement", 2.0)]
)
def test_the_step_checks_its_parameters_before_it_asks(
    cloud: DeployingCloud, tmp_path: Path, parameter: str, value: float
) -> None:
    with pytest.raises(ValueError, match=f"^{parameter} is {re.escape(str(value))}: it must be"):
        run_check(tmp_path, "unused", **{parameter: value})
    assert not cloud.requests


CANCELLED = """
import json, sys
from tests.vertex.test_steps import run_check
from pathlib import Path
run_check(Path(sys.argv[1]), sys.argv[2], endpoint_timeout=300)
"""


def test_a_run_that_is_cancelled_while_the_version_is_asked(cloud: DeployingCloud, tmp_path: Path) -> None:
    cloud.serving.versions = {"9": broken}
    name = deployed(cloud, {"a": ("1", 90)}, 10)
    command = [sys.executable, "-c", CANCELLED, str(tmp_path), name]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        until = time.monotonic() + 60
        while not any(one.endswith(":predict") for one in cloud.changes):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "rolled back: the run was cancelled; the new version has been undeployed, and the former one" in said
    assert dict(cloud.serving.endpoints[name].traffic_split) == {"a": 100}
    assert [one.id for one in cloud.serving.endpoints[name].deployed_models] == ["a"]
