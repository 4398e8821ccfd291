"""The emulated cluster does what a real one was seen to do, where the tests of deploying rely on it unseen."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from kubernetes import client, config

from tests.fakes.httpd import Request, Response
from tests.fakes.kubernetes.admission import Refusal, admit, needs_schemas
from tests.fakes.kubernetes.emulator import Cluster, Fate, emulated_cluster

Json = dict[str, Any]
FIRST, SECOND = (f"reviews-predictor-0000{number}" for number in (1, 2))
PLACE = ("serving.kserve.io", "v1beta1", "team", "inferenceservices")
HOSTS = {"Knative": "reviews.team.example.com", "Standard": "reviews-team.example.com"}


@pytest.fixture(params=["Knative", "Standard"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster in each mode, which the real client is configured for."""
    with emulated_cluster(request.param) as made:
        made.default_fate = Fate(backend=answer)
        made.write_kubeconfig(tmp_path / "kubeconfig", "team")
        config.load_kube_config(str(tmp_path / "kubeconfig"))
        yield made


def answer(request: Request) -> Response:
    return Response(200)


def service(release: str = "a", **predictor: Any) -> Json:
    """Returns an InferenceService named reviews of a release; what else is given goes into its predictor."""
    model = {"modelFormat": {"name": "pytorch"}, "runtime": "kserve-torchserve", "storageUri": "pvc://data/reviews"}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "reviews", "namespace": "team", "labels": {"nlp-pipeline/release": release}},
        "spec": {"predictor": {"model": model, **predictor}},
    }


def put(cluster: Cluster, body: Json, ticks: int = 5) -> Json:
    """Creates or replaces the InferenceService, lets time pass, and returns it."""
    api = client.CustomObjectsApi()
    if cluster.has("reviews"):
        body["metadata"]["resourceVersion"] = cluster.after("reviews")["metadata"]["resourceVersion"]
        api.replace_namespaced_custom_object(*PLACE, "reviews", body)
    else:
        api.create_namespaced_custom_object(*PLACE, body)
    return cluster.after("reviews", ticks)


def ready(item: Json) -> str:
    return str(next(one["status"] for one in item["status"]["conditions"] if one["type"] == "Ready"))


def ask(cluster: Cluster, host: str, times: int = 10) -> Counter[str]:
    """Returns who answers; by a status where there is no way."""
    before = len(cluster.answered)
    statuses = [httpx.post(f"{cluster.gateway_url}/x", headers={"Host": host}).status_code for _ in range(times)]
    releases = [release for _, release, _ in cluster.answered[before:]]
    return Counter(releases or [str(status) for status in statuses])


@needs_schemas
@pytest.mark.parametrize(("predictor", "code"), [({"minReplica": 1}, 400), ({"minReplicas": "1"}, 422)])
def test_the_schemas_are_held(predictor: Json, code: int) -> None:
    with pytest.raises(Refusal) as caught:
        admit(service(**predictor), None, "Knative")
    assert caught.value.code == code


def test_an_update_in_either_mode(cluster: Cluster) -> None:
    host = HOSTS[cluster.mode]
    assert "status" not in put(cluster, service(), 1)
    assert ready(cluster.after("reviews", 1)) == ("Unknown" if cluster.mode == "Knative" else "False")
    assert ask(cluster, host) == {"404": 10}
    first = cluster.after("reviews", 3)
    assert ready(first) == "True" and first["status"]["url"] == f"http://{host}"
    cluster.lag = 3
    assert put(cluster, service("b"), 3)["status"] == first["status"]
    starting = cluster.after("reviews", 1)
    # Standard calls it ready as long as the former pods are; neither mode counts generations as the object does.
    assert ready(starting) == ("Unknown" if cluster.mode == "Knative" else "True")
    assert starting["status"]["observedGeneration"] != starting["metadata"]["generation"] or cluster.mode == "Knative"
    assert ask(cluster, host) == {"a": 10}
    cluster.after("reviews", 2)
    assert ask(cluster, host) == {"b": 10}


@pytest.mark.parametrize("cluster", ["Knative"], indirect=True)
def test_shares_of_the_traffic(cluster: Cluster) -> None:
    def traffic(item: Json) -> list[tuple[str, int]]:
        return [(one["revisionName"], one["percent"]) for one in item["status"]["components"]["predictor"]["traffic"]]

    put(cluster, service())
    # `latestRevision` is the latest ready one.
    assert traffic(put(cluster, service("b", canaryTrafficPercent=10), 2)) == [(FIRST, 10), (FIRST, 90)]
    assert traffic(cluster.after("reviews", 3)) == [(SECOND, 10), (FIRST, 90)]
    assert ask(cluster, HOSTS["Knative"], 30) == {"a": 27, "b": 3}
    assert ask(cluster, "latest-reviews-predictor.team.example.com") == {"b": 10}
    # The same revision at less than all makes the one before the rolled-out one again.
    assert traffic(put(cluster, service("b"))) == [(SECOND, 100)]
    assert traffic(put(cluster, service("b", canaryTrafficPercent=0))) == [(SECOND, 0), (FIRST, 100)]
