"""The steps that only Vertex AI has, against a stand-in for its API over HTTP."""

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from google_cloud_pipeline_components.types.artifact_types import VertexEndpoint, VertexModel
from hypothesis import given
from hypothesis import strategies as st
from kfp import dsl

from nlp_pipeline.errors import PipelineError, RolledBackError
from nlp_pipeline.pipeline.vertex_components import check_vertex_endpoint, plan_vertex_deployment
from nlp_pipeline.serving.agreement import AgreementLimits
from nlp_pipeline.vertex.steps import check as checking
from nlp_pipeline.vertex.steps.check import check_endpoint
from nlp_pipeline.vertex.steps.plan import plan_deployment, scale_traffic
from tests.conftest import write_parquet
from tests.fakes.vertex.cloud import PLACE, PROJECT, REGION, Cloud, google_cloud
from tests.fakes.vertex.rest import RefusedError
from tests.fakes.vertex.serving import good

NAME, MODEL, ENDPOINT = "reviews", f"{PLACE}/models/7", f"{PLACE}/endpoints/5"
ROWS = [(f"{number} {'good' if number % 3 else 'bad'} film", "good" if number % 3 else "bad") for number in range(30)]


def wrong(instances: list[Any]) -> list[Any]:
    return [{"label": "good", "score": 0.6} for _ in instances]


def broken(instances: list[Any]) -> list[Any]:
    raise RefusedError(503, "The model server is not ready.")


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The checking step waits between requests, and listens for the end of its run."""
    monkeypatch.setattr(checking, "WAIT_SECONDS", 0.001)
    former = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, former)


def timed_out_when(monkeypatch: pytest.MonkeyPatch, condition: Callable[[], bool]) -> None:
    """Lets the time in which a version must answer pass as soon as a condition is fulfilled, and not before."""
    monkeypatch.setattr(checking, "monotonic", lambda: 1e6 if condition() else 0.0)


def plan(cloud: Cloud, endpoint: str = "", canary_percent: int = 10) -> dict[str, Any]:
    return plan_deployment("gs://films/release", "0123456789abcdef", PROJECT, REGION, NAME, endpoint, canary_percent)


def deploy(cloud: Cloud, former: dict[str, tuple[str, int]], new_share: int) -> None:
    """Puts an endpoint there, with former versions and a new one, 9, as id "new"."""
    cloud.serving.add_model("7", NAME, versions=9)
    shares = {id: (MODEL, version, share) for id, (version, share) in former.items()}
    cloud.serving.add_endpoint("5", NAME, {**shares, "new": (MODEL, "9", new_share)})


def check(
    cloud: Cloud, tmp_path: Path, former: dict[str, int], version: str = "9", rows: Sequence[tuple[str, Any]] = ROWS
) -> dict[str, Any]:
    predictions = write_parquet(tmp_path / "predictions", rows, predicted=[label for _, label in rows])
    return check_endpoint(ENDPOINT, f"{MODEL}@{version}", former, str(predictions), 0, 60, AgreementLimits())


def deploy_and_check(cloud: Cloud, tmp_path: Path, former: dict[str, tuple[str, int]]) -> dict[str, Any]:
    """Deploys the new version with 10% of the traffic, and runs the checking step."""
    shares = {id: share for id, (_, share) in former.items() if share}
    scaled = {id: (version, round(share * 0.9)) for id, (version, share) in former.items()}
    deploy(cloud, scaled, 10 if shares else 100)
    return check(cloud, tmp_path, shares)


def traffic(cloud: Cloud) -> dict[str, int]:
    return dict(cloud.serving.endpoints[ENDPOINT].traffic_split)


def deployed(cloud: Cloud) -> list[str]:
    return [item.id for item in cloud.serving.endpoints[ENDPOINT].deployed_models]


@given(split=st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 100)), total=st.integers(0, 100))
def test_traffic_is_scaled_in_whole_numbers_that_add_up(split: dict[str, int], total: int) -> None:
    scaled, former = scale_traffic(split, total), sum(split.values())
    assert sum(scaled.values()) == (total if split else 0) and set(scaled) <= set(split) and 0 not in scaled.values()
    for id, share in split.items():
        assert abs(scaled.get(id, 0) - share * total / former) < 1
    if former == total:
        assert scaled == split


def test_a_first_version_gets_a_new_model_a_new_endpoint_and_all_of_the_traffic(cloud: Cloud) -> None:
    outputs = plan(cloud)
    assert list(outputs) == list(plan_vertex_deployment.component_spec.outputs)
    assert outputs == {
        **{"artifact_uri": "gs://films/release", "predict_route": "/v1/models/reviews:predict"},
        **{"labels": {"nlp-pipeline-release": "0123456789abcdef"}, "traffic_split": {"0": "100"}, "former_traffic": {}},
        **{"parent_model": "", "parent_uri": f"https://{REGION}-aiplatform.googleapis.com/v1/"},
        **{"endpoint": "", "endpoint_uri": f"https://{REGION}-aiplatform.googleapis.com/v1/"},
    }
    assert not cloud.changes


@pytest.mark.parametrize(
    ("former", "percent", "split"),
    [
        ({"1": 50, "2": 50}, 25, {"0": "25", "1": "38", "2": "37"}),
        ({"1": 100, "2": 0}, 100, {"0": "100"}),
        ({"1": 0}, 10, {"0": "100"}),
    ],
)
def test_another_version_gets_its_first_share(
    cloud: Cloud, former: dict[str, int], percent: int, split: dict[str, str]
) -> None:
    cloud.serving.add_model("7", NAME, versions=2)
    cloud.serving.add_model("8", "other", versions=1)
    endpoint = cloud.serving.add_endpoint("5", NAME, {id: (MODEL, id, share) for id, share in former.items()})
    outputs = plan(cloud, canary_percent=percent)
    assert outputs["parent_model"] == MODEL and outputs["parent_uri"].endswith(f".googleapis.com/v1/{MODEL}")
    assert outputs["endpoint"] == endpoint.name and outputs["endpoint_uri"].endswith(f"/v1/{endpoint.name}")
    assert outputs["traffic_split"] == split
    assert outputs["former_traffic"] == {id: str(share) for id, share in former.items() if share}


@pytest.mark.parametrize("chosen", ["6", f"projects/{PROJECT}/locations/{REGION}/endpoints/6"])
def test_an_endpoint_that_is_named(cloud: Cloud, chosen: str) -> None:
    cloud.serving.add_endpoint("5", NAME, {})
    cloud.serving.add_endpoint("6", "of another name", {})
    assert plan(cloud, endpoint=chosen)["endpoint"] == f"{PLACE}/endpoints/6"
    assert plan(cloud)["endpoint"] == ENDPOINT


def add_twice(add: Callable[..., Any], *arguments: Any) -> None:
    for number in ("7", "8"):
        add(number, NAME, *arguments)


@pytest.mark.parametrize(
    ("around", "endpoint", "says"),
    [
        (
            lambda cloud: cloud.serving.add_endpoint("6", "prices", {"1": (f"{PLACE}/models/8", "1", 100)}),
            *("6", r"endpoint .*/6 serves other models too \(prices\): set endpoint to another one, or leave"),
        ),
        (lambda _: None, "6", r"endpoint '6' is not in projects/my-project/.*: leave it empty for the model's own"),
        (lambda _: None, f"projects/{PROJECT}/locations/europe-west4/endpoints/6", "and the region is us-central1"),
        (
            lambda cloud: add_twice(cloud.serving.add_endpoint, {}),
            *("", r"2 endpoints in .* are named 'reviews', with the ids 7, 8: set endpoint to one of them"),
        ),
        (
            lambda cloud: add_twice(cloud.serving.add_model, 1),
            *("", r"2 models in .* are named 'reviews', with the ids 7, 8: delete all but one, or set another"),
        ),
        (
            lambda cloud: cloud.refuse(403, "Permission 'aiplatform.models.list' denied", times=9, on="models"),
            *("", r"listing models: .*'aiplatform.models.list' denied \(the run's service account needs"),
        ),
    ],
)
def test_what_cannot_be_planned_is_said_in_one_line(
    cloud: Cloud, around: Callable[[Cloud], Any], endpoint: str, says: str
) -> None:
    around(cloud)
    with pytest.raises(PipelineError, match=says) as caught:
        plan(cloud, endpoint=endpoint)
    assert "\n" not in str(caught.value)
    assert not cloud.changes


def test_a_release_that_is_not_in_cloud_storage() -> None:
    with pytest.raises(PipelineError, match="the release lies at '/somewhere/release'"):
        plan_deployment("/somewhere/release", "0", PROJECT, REGION, NAME, "", 10)


def test_a_first_version_that_is_good_stays(cloud: Cloud, tmp_path: Path) -> None:
    facts = deploy_and_check(cloud, tmp_path, {})
    assert facts["deployed_model"] == "new" and facts["agreement"] == facts["accuracy"] == 1.0
    assert facts["rows"] == len(ROWS) and facts["p50_ms"] > 0
    assert traffic(cloud) == {"new": 100}
    assert not any("undeploy" in item for item in cloud.changes)


def test_a_version_with_several_labels_a_text(cloud: Cloud, tmp_path: Path) -> None:
    deploy(cloud, {}, 100)
    cloud.serving.versions = {"9": lambda texts: [{"labels": good([text])} for text in texts]}
    assert check(cloud, tmp_path, {}, rows=[(text, [label]) for text, label in ROWS])["agreement"] == 1.0


def test_a_good_version_gets_all_of_the_traffic_and_the_former_ones_are_undeployed(
    cloud: Cloud, tmp_path: Path
) -> None:
    # All of what was there answers wrongly: only the new version's answers count. Errors for a moment are none.
    cloud.serving.versions = {"1": wrong, "2": wrong, "3": wrong}
    cloud.refuse(503, "coming up", times=3, on=":predict")
    cloud.drop(times=2, on=":predict")
    facts = deploy_and_check(cloud, tmp_path, {"a": ("1", 60), "b": ("2", 40), "left over": ("3", 0)})
    assert facts["agreement"] == 1.0
    assert deployed(cloud) == ["new"] and traffic(cloud) == {"new": 100}
    assert [item.version_id for item in cloud.serving.models[MODEL] if "default" in item.version_aliases] == ["9"]


@pytest.mark.parametrize(
    ("version", "says"),
    [
        (wrong, r"10 of 30 answers differ from the offline model's; by min_agreement=0\.97 and chance 3 may"),
        (broken, r"the new version answered 0 of 30 texts within 60 s: .*The model server is not ready"),
        (lambda texts: [{"label": "good"}] * len(texts), "does not answer with a label and a score for each of 5"),
        (lambda texts: good(texts)[1:], "does not answer with a label and a score for each of 5"),
    ],
)
def test_a_version_that_is_not_good_is_undeployed_and_the_former_traffic_comes_back(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: Callable[[list[Any]], list[Any]], says: str
) -> None:
    answered: list[Any] = []

    def answer(instances: list[Any]) -> list[Any]:
        answered.append(instances)
        return version(instances)

    cloud.serving.versions = {"9": answer}
    timed_out_when(monkeypatch, lambda: len(answered) > 9)
    former = {"a": ("1", 70), "b": ("2", 30), "without traffic": ("3", 0)}
    back = "; the new version has been undeployed, and the former one has all of the traffic again$"
    with pytest.raises(RolledBackError, match=f"^rolled back: .*{says}.*{back}") as caught:
        deploy_and_check(cloud, tmp_path, former)
    assert "\n" not in str(caught.value)
    assert deployed(cloud) == list(former) and traffic(cloud) == {"a": 70, "b": 30}
    assert not any("default" in item.version_aliases for item in cloud.serving.models[MODEL])


def test_a_first_version_that_is_wrong_is_undeployed(cloud: Cloud, tmp_path: Path) -> None:
    cloud.serving.versions = {"9": wrong}
    with pytest.raises(RolledBackError, match=r"nothing served before, and nothing serves now$"):
        deploy_and_check(cloud, tmp_path, {})
    assert not deployed(cloud)


def test_a_version_that_stops_answering_once_it_has_the_traffic_goes_too(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[Any] = []

    def answer(instances: list[Any]) -> list[Any]:
        if traffic(cloud)["new"] < 100:
            return good(instances)
        refused.append(instances)
        return broken(instances)

    cloud.serving.versions = {"9": answer}
    timed_out_when(monkeypatch, lambda: len(refused) > 2)
    with pytest.raises(RolledBackError, match="the new version answered 0 of 10 texts within 60 s"):
        deploy_and_check(cloud, tmp_path, {"a": ("1", 100)})
    assert traffic(cloud) == {"a": 100}


def test_a_new_version_that_gets_no_traffic_is_not_waited_for_forever(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(cloud, {"a": ("1", 100)}, 0)
    timed_out_when(monkeypatch, lambda: len(cloud.changes) > 20)
    with pytest.raises(RolledBackError, match=r"answered 0 of 30 texts within 60 s: only other versions answered"):
        check(cloud, tmp_path, {"a": 100})


def test_what_cannot_be_undone_is_reported(cloud: Cloud, tmp_path: Path) -> None:
    cloud.serving.versions = {"9": wrong}
    cloud.refuse(403, "no", times=9, on="undeployModel")
    with pytest.raises(RolledBackError, match=r"could not be undone \(undeploying the new version: .*no"):
        deploy_and_check(cloud, tmp_path, {"a": ("1", 100)})


def test_former_versions_that_cannot_be_undeployed_are_reported(cloud: Cloud, tmp_path: Path) -> None:
    cloud.operations.failing["undeploy a"] = (13, "try later")
    with pytest.raises(
        PipelineError, match=r"^the new version serves, but what served before still costs: undeploying"
    ):
        deploy_and_check(cloud, tmp_path, {"a": ("1", 100)})
    assert traffic(cloud) == {"new": 100}


def test_what_someone_else_has_undeployed_meanwhile(cloud: Cloud, tmp_path: Path) -> None:
    deploy(cloud, {"a": ("1", 90)}, 10)
    with pytest.raises(PipelineError, match=r"@8 is not deployed to .*/5: someone has undeployed it"):
        check(cloud, tmp_path, {"a": 100}, version="8")
    assert not cloud.changes
    cloud.serving.versions = {"9": wrong}
    with pytest.raises(RolledBackError):
        check(cloud, tmp_path, {"a": 60, "gone": 40})
    assert traffic(cloud) == {"a": 100}


def test_an_endpoint_with_its_own_address_is_asked_there(cloud: Cloud, tmp_path: Path) -> None:
    deploy(cloud, {}, 100)
    with google_cloud() as own:
        own.serving.models, own.serving.endpoints = cloud.serving.models, cloud.serving.endpoints
        own.identity = cloud.identity
        cloud.serving.endpoints[ENDPOINT].dedicated_endpoint_dns = own.url
        check(cloud, tmp_path, {})
        assert any(item.endswith(":predict") for item in own.changes)
    assert not any(item.endswith(":predict") for item in cloud.changes)


def test_the_step_reports_what_it_found(cloud: Cloud, tmp_path: Path) -> None:
    deploy(cloud, {"a": ("1", 90)}, 10)
    predictions = write_parquet(tmp_path / "predictions", ROWS, predicted=[label for _, label in ROWS])
    result = dsl.Metrics(uri=str(tmp_path / "deployment"))
    check_vertex_endpoint.python_func(
        model=VertexModel.create("model", "https://x", f"{MODEL}@9"),
        endpoint=VertexEndpoint.create("endpoint", "https://x", ENDPOINT),
        predictions=dsl.Dataset(uri=str(predictions)),
        former_traffic={"a": "100"},
        endpoint_rows=12,
        endpoint_timeout=300,
        min_agreement=0.97,
        max_accuracy_drop=0.01,
        deployment=result,
    )
    assert result.metadata["endpoint"] == ENDPOINT and result.metadata["version"] == f"{MODEL}@9"
    assert result.metadata["deployed_model"] == "new" and result.metadata["rows"] == 12
    assert json.loads(Path(result.path).read_text()) == result.metadata


def test_a_run_that_is_cancelled_while_the_version_is_asked(cloud: Cloud, tmp_path: Path) -> None:
    def cancel(instances: list[Any]) -> list[Any]:
        os.kill(os.getpid(), signal.SIGTERM)
        return broken(instances)

    cloud.serving.versions = {"9": cancel}
    said = "^rolled back: the run was cancelled; the new version has been undeployed, and the former one has all"
    with pytest.raises(RolledBackError, match=said):
        deploy_and_check(cloud, tmp_path, {"a": ("1", 100)})
    assert traffic(cloud) == {"a": 100} and deployed(cloud) == ["a"]
