"""The emulated cluster, as the real clients of kserve and kubernetes see it, does what a real one was seen to do."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from kubernetes import client as kubernetes
from kubernetes.client.exceptions import ApiException

from tests.fakes.kubernetes.admission import needs_schemas
from tests.fakes.kubernetes.emulator import Cluster, Fate, emulated_cluster
from tests.fakes.kubernetes.httpd import Answer, serving

Json = dict[str, Any]
FIRST, SECOND, THIRD = (f"reviews-predictor-0000{number}" for number in (1, 2, 3))
PLACE = ("serving.kserve.io", "v1beta1", "team", "inferenceservices")
HOSTS = {"Knative": "reviews.team.example.com", "Standard": "reviews-team.example.com"}


@pytest.fixture(params=["Knative", "Standard"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster in each mode, whose pods are servers that say which release they are."""
    with emulated_cluster(request.param) as one, serving(answer_a) as a, serving(answer_b) as b:
        one.fates |= {"a": Fate(backend=a), "b": Fate(backend=b)}
        yield one


@pytest.fixture
def client(cluster: Cluster, tmp_path: Path) -> Any:
    """The real `KServeClient`."""
    from kserve import KServeClient

    cluster.write_kubeconfig(tmp_path / "kubeconfig", cluster.namespace)
    return KServeClient(config_file=str(tmp_path / "kubeconfig"))


def answer_a(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
    return 200, {"X-Server": "a"}, body


def answer_b(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
    return 200, {"X-Server": "b"}, body


def service(release: str = "a", annotations: Json | None = None, **predictor: Any) -> Json:
    """Returns an InferenceService named reviews of a release; what else is given goes into its predictor."""
    model = {"modelFormat": {"name": "pytorch"}, "runtime": "kserve-torchserve", "storageUri": "pvc://data/reviews"}
    metadata = {"name": "reviews", "namespace": "team", "labels": {"nlp-pipeline/release": release}}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": metadata | {"annotations": annotations or {}},
        "spec": {"predictor": {"model": model, **predictor}},
    }


def create(client: Any, body: Json, **options: Any) -> Json:
    return dict(client.api_instance.create_namespaced_custom_object(*PLACE, body, **options))


def replace(client: Any, body: Json, **options: Any) -> Json:
    return dict(client.api_instance.replace_namespaced_custom_object(*PLACE, "reviews", body, **options))


def put(cluster: Cluster, client: Any, body: Json, ticks: int = 5) -> Json:
    """Creates or replaces the InferenceService, lets time pass, and returns it."""
    if cluster.has("reviews"):
        body["metadata"]["resourceVersion"] = cluster.service("reviews")["metadata"]["resourceVersion"]
        replace(client, body)
    else:
        create(client, body)
    return cluster.after("reviews", ticks)


def refused(function: Any, *values: Any, **named: Any) -> tuple[int, str]:
    """Returns status and message with which a call is refused, by the SDK or by the client under it."""
    with pytest.raises((ApiException, RuntimeError)) as caught:
        function(*values, **named)
    error: Any = caught.value if isinstance(caught.value, ApiException) else caught.value.__context__
    return error.status, json.loads(error.body)["message"]


def ready(found: Json) -> str:
    return str(next(one["status"] for one in found["status"]["conditions"] if one["type"] == "Ready"))


def pods() -> list[tuple[str, str]]:
    """Returns the release and the state of each pod."""
    found = []
    for pod in kubernetes.CoreV1Api().list_namespaced_pod("team").items:
        waiting = pod.status.container_statuses[0].state.waiting
        state = waiting.reason if waiting else "ready" if pod.status.conditions[0].status == "True" else "running"
        found.append((pod.metadata.labels["nlp-pipeline/release"], state))
    return found


def asked(cluster: Cluster, host: str, times: int = 10) -> Counter[str]:
    """Returns who answers, or with which status someone refuses."""
    answers = [httpx.post(f"{cluster.gateway_url}/x", headers={"Host": host}) for _ in range(times)]
    return Counter(one.headers.get("x-server", str(one.status_code)) for one in answers)


def traffic(found: Json) -> list[tuple[str, int]]:
    return [(one["revisionName"], one["percent"]) for one in found["status"]["components"]["predictor"]["traffic"]]


# The API server


def test_what_the_sdk_sends_is_stored(client: Any, cluster: Cluster) -> None:
    import kserve

    model = kserve.V1beta1ModelSpec(model_format=kserve.V1beta1ModelFormat(name="pytorch"), storage_uri="pvc://a/b")
    body = kserve.V1beta1InferenceService(
        api_version="serving.kserve.io/v1beta1",
        kind="InferenceService",
        metadata=kubernetes.V1ObjectMeta(name="reviews", namespace="team"),
        spec=kserve.V1beta1InferenceServiceSpec(predictor=kserve.V1beta1PredictorSpec(min_replicas=1, model=model)),
    )
    created = client.create(body)
    assert created["metadata"]["generation"] == 1 and created["spec"]["predictor"]["model"]["resources"] == {}
    mode = created["metadata"]["annotations"].get("serving.kserve.io/deploymentMode", "Knative")
    assert (mode, "status" in client.get("reviews", "team")) == (cluster.mode, False)
    body.spec.predictor.min_replicas = 2
    assert client.replace("reviews", body)["metadata"]["generation"] == 2
    client.delete("reviews", "team")
    assert refused(client.get, "reviews", "team") == (404, 'inferenceservices.serving.kserve.io "reviews" not found')


def test_a_replacement_is_whole_and_of_what_was_read(client: Any, cluster: Cluster) -> None:
    old = put(cluster, client, service(minReplicas=2))
    assert refused(create, client, service())[0] == 409
    assert refused(replace, client, service())[0] == 422
    new = service("b")
    new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
    replaced = replace(client, new)
    assert "minReplicas" not in replaced["spec"]["predictor"] and replaced["status"] == old["status"]
    # The controller's writing of the status is a change, too.
    cluster.after("reviews", 3)
    assert refused(replace, client, replaced)[0] == 409
    cluster.conflicts = 1
    for status in (409, 0):
        current = cluster.service("reviews")
        assert status == 0 or refused(replace, client, current)[0] == status
    assert replace(client, cluster.service("reviews"))["metadata"]["generation"] == 2


def test_dry_runs_store_nothing(client: Any, cluster: Cluster) -> None:
    assert create(client, service(), dry_run="All")["spec"]["predictor"]["model"]["name"] == ""
    assert not cluster.has("reviews")
    stored = create(client, service())
    stored["spec"]["predictor"]["minReplicas"] = 5
    assert replace(client, stored, dry_run="All")["metadata"]["generation"] == 2
    assert cluster.service("reviews")["metadata"]["generation"] == 1
    assert [one[:2] for one in cluster.sent] == [("POST", True), ("POST", False), ("PUT", True)]


def test_what_is_not_taken(client: Any) -> None:
    longest = {"name": "x", "annotations": {"a": "b" * 2**18}}
    for change, status, message in (
        ({"spec": {"predictor": {}}}, 403, "exactly one of"),
        ({"metadata": {"name": "1st"}}, 403, "must start with alphabetical character"),
        ({"metadata": {"name": "x", "labels": {"a": "f" * 64}}}, 422, "must be no more than 63 characters"),
        ({"metadata": longest}, 422, "Too long"),
    ):
        code, text = refused(create, client, service() | change)
        assert code == status and message in text


@needs_schemas
def test_the_schemas_are_held(client: Any) -> None:
    assert refused(create, client, service(minReplica=1))[0] == 400
    assert refused(create, client, service(minReplicas="1"))[0] == 422


def test_the_deployment_mode_stays(client: Any, cluster: Cluster) -> None:
    found = put(cluster, client, service())
    other = "Standard" if cluster.mode == "Knative" else "Knative"
    found["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] = other
    code, text = refused(replace, client, found)
    assert code == 403 and f"deploymentMode cannot be changed from '{cluster.mode}' to '{other}'" in text


def test_rights(client: Any, cluster: Cluster) -> None:
    def allowed(resource: str) -> bool:
        attributes = kubernetes.V1ResourceAttributes(verb="create", group="serving.kserve.io", resource=resource)
        spec = kubernetes.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
        review = kubernetes.V1SelfSubjectAccessReview(spec=spec)
        return bool(kubernetes.AuthorizationV1Api().create_self_subject_access_review(review).status.allowed)

    assert allowed("inferenceservices") and not allowed("pods")
    cluster.deny("create", "inferenceservices")
    assert not allowed("inferenceservices")
    who = 'User "system:serviceaccount:team:default-editor" cannot create resource "inferenceservices"'
    code, text = refused(create, client, service())
    assert code == 403 and who in text
    cluster.reviews_forbidden = True
    assert refused(allowed, "inferenceservices")[0] == 403
    stranger = kubernetes.CustomObjectsApi(kubernetes.ApiClient(kubernetes.Configuration(host=cluster.url)))
    assert refused(stranger.get_namespaced_custom_object, *PLACE, "reviews") == (401, "Unauthorized")
    cluster.failures = 1
    assert refused(create, client, service())[0] == 503


def test_it_ends_with_its_context_even_when_that_fails() -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), emulated_cluster() as cluster:
        httpx.get(cluster.url)
        raise ZeroDivisionError
    assert threading.active_count() == before


# KServe


def test_an_update_in_either_mode(client: Any, cluster: Cluster) -> None:
    host = HOSTS[cluster.mode]
    assert "status" not in put(cluster, client, service(), 1)
    assert ready(cluster.after("reviews", 1)) == ("Unknown" if cluster.mode == "Knative" else "False")
    assert asked(cluster, host) == {"404": 10}
    first = cluster.after("reviews", 3)
    assert ready(first) == "True" and first["status"]["url"] == f"http://{host}"
    cluster.lag = 3
    assert put(cluster, client, service("b"), 3)["status"] == first["status"]
    starting = cluster.after("reviews", 1)
    # Standard calls it ready as long as the former pods are; neither mode counts generations as the object does.
    assert ready(starting) == ("Unknown" if cluster.mode == "Knative" else "True")
    assert starting["status"]["observedGeneration"] != starting["metadata"]["generation"] or cluster.mode == "Knative"
    assert (pods(), asked(cluster, host)) == ([("a", "ready"), ("b", "running")], {"a": 10})
    cluster.after("reviews", 2)
    assert (pods(), asked(cluster, host)) == ([("b", "ready")], {"b": 10})


def test_new_pods_that_fail(client: Any, cluster: Cluster) -> None:
    put(cluster, client, service())
    cluster.fates["b"] = Fate(failure="ModelLoadFailed", message="no such file")
    failed = put(cluster, client, service("b"))
    assert pods() == [("a", "ready"), ("b", "CrashLoopBackOff")] and asked(cluster, HOSTS[cluster.mode]) == {"a": 10}
    model = failed["status"]["modelStatus"]
    if cluster.mode == "Standard":  # which hides it
        assert (ready(failed), model["transitionStatus"]) == ("True", "UpToDate")
    else:
        assert (ready(failed), model["transitionStatus"]) == ("False", "BlockedByFailedLoad")
        assert model["lastFailureInfo"]["message"] == "no such file"
    events = kubernetes.CoreV1Api().list_namespaced_event("team").items
    assert [one.reason for one in events] == ["BackOff"] and SECOND in events[0].involved_object.name
    assert ready(put(cluster, client, service())) == "True" and pods() == [("a", "ready")]


def test_first_pods_that_fail_or_are_never_made(client: Any, cluster: Cluster) -> None:
    cluster.fates |= {"x": Fate(failure="ModelLoadFailed"), "y": Fate(failure="InvalidSpec", message="no volume")}
    failed = put(cluster, client, service("x"))
    assert (ready(failed), failed["status"]["modelStatus"]["transitionStatus"]) == ("False", "BlockedByFailedLoad")
    assert asked(cluster, HOSTS[cluster.mode], 1) == {"404": 1}
    put(cluster, client, service())
    before = cluster.service("reviews")["status"]
    after = put(cluster, client, service("y"))["status"]
    assert after["modelStatus"]["transitionStatus"] == "InvalidSpec" and after["conditions"] == before["conditions"]
    assert after["modelStatus"]["lastFailureInfo"]["message"] == "no volume"


def test_stopped_and_started_again(client: Any, cluster: Cluster) -> None:
    put(cluster, client, service())
    stopped = put(cluster, client, service(annotations={"serving.kserve.io/stop": "true"}))["status"]
    assert (pods(), "url" in stopped, "components" in stopped) == ([], False, False)
    assert asked(cluster, HOSTS[cluster.mode], 1) == {"404": 1}
    assert ready(put(cluster, client, service())) == "True"
    assert asked(cluster, HOSTS[cluster.mode], 1) == {"a": 1}


@pytest.mark.parametrize("cluster", ["Knative"], indirect=True)
def test_shares_of_the_traffic(client: Any, cluster: Cluster) -> None:
    put(cluster, client, service())
    # `latestRevision` is the latest ready one.
    assert traffic(put(cluster, client, service("b", canaryTrafficPercent=10), 2)) == [(FIRST, 10), (FIRST, 90)]
    assert traffic(cluster.after("reviews", 3)) == [(SECOND, 10), (FIRST, 90)]
    assert asked(cluster, HOSTS["Knative"], 30) == {"a": 27, "b": 3}
    assert asked(cluster, "latest-reviews-predictor.team.example.com") == {"b": 10}
    assert traffic(put(cluster, client, service("b"))) == [(SECOND, 100)]
    # The same revision at less than all makes the one before the rolled-out one again.
    assert traffic(put(cluster, client, service("b", canaryTrafficPercent=0))) == [(SECOND, 0), (FIRST, 100)]
    assert asked(cluster, HOSTS["Knative"]) == {"a": 10}
