"""Emulated revisions, rolling updates, status and traffic are what KServe, Knative and Kubernetes make of them."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from kubernetes import client as kubernetes

from tests.fakes.kubernetes.api import TOKEN
from tests.fakes.kubernetes.conftest import inference_service
from tests.fakes.kubernetes.controller import Fate
from tests.fakes.kubernetes.emulator import Cluster

Json = dict[str, Any]
FIRST, SECOND, THIRD = (f"reviews-predictor-0000{number}" for number in (1, 2, 3))
INSIDE, OUTSIDE, LATEST = (
    f"{name}.example.com" if name.endswith("team") else name
    for name in ("reviews.team.svc.cluster.local", "reviews.team", "latest-reviews-predictor.team")
)


def connect(cluster: Cluster) -> kubernetes.ApiClient:
    config = kubernetes.Configuration(host=cluster.url, api_key={"authorization": f"Bearer {TOKEN}"})
    return kubernetes.ApiClient(config)


def put(cluster: Cluster, service: Json) -> None:
    """Creates or replaces an InferenceService with the real client; reading it first lets no time pass."""
    api = kubernetes.CustomObjectsApi(connect(cluster))
    place = ("serving.kserve.io", "v1beta1", "team", "inferenceservices")
    found = api.list_namespaced_custom_object(*place)["items"]
    if found:
        service["metadata"]["resourceVersion"] = found[0]["metadata"]["resourceVersion"]
        api.replace_namespaced_custom_object(*place, "reviews", service)
    else:
        api.create_namespaced_custom_object(*place, service)


def conditions(service: Json) -> dict[str, str]:
    return {one["type"]: one["status"] for one in service["status"]["conditions"]}


def reason(service: Json, kind: str) -> str:
    return str(next(one for one in service["status"]["conditions"] if one["type"] == kind).get("reason", ""))


def predictor(service: Json) -> Json:
    return dict(service["status"]["components"]["predictor"])


def shares(service: Json) -> list[tuple[str, int]]:
    return [(one["revisionName"], one["percent"]) for one in predictor(service)["traffic"]]


def ask(cluster: Cluster, host: str, path: str = "/v1/models/reviews:predict") -> httpx.Response:
    return httpx.post(cluster.gateway_url + path, json={"instances": ["good"]}, headers={"Host": host})


def states(cluster: Cluster) -> list[tuple[str, str]]:
    """Returns the release and the state of each pod."""
    core = kubernetes.CoreV1Api(connect(cluster))
    found = []
    for pod in core.list_namespaced_pod("team", label_selector="serving.kserve.io/inferenceservice=reviews").items:
        waiting = pod.status.container_statuses[0].state.waiting
        state = waiting.reason if waiting else "ready" if pod.status.conditions[0].status == "True" else "running"
        found.append((pod.metadata.labels["nlp-pipeline/release"], state))
    return found


def events(cluster: Cluster, selector: str) -> list[str]:
    """Returns the reasons of events."""
    core = kubernetes.CoreV1Api(connect(cluster))
    return [one.reason for one in core.list_namespaced_event("team", field_selector=selector).items]


def test_first_revision_gets_ready(cluster: Cluster) -> None:
    put(cluster, inference_service())
    assert "status" not in cluster.tick("reviews")
    starting = cluster.tick("reviews")
    assert conditions(starting)["Ready"] == "Unknown"
    assert starting["status"]["modelStatus"]["transitionStatus"] == "InProgress"
    assert "url" not in starting["status"]
    ready = cluster.tick("reviews", 2)
    assert set(conditions(ready).values()) == {"True", "False"} and conditions(ready)["Stopped"] == "False"
    assert ready["status"]["url"] == "http://reviews.team.example.com"
    assert ready["status"]["address"]["url"] == "http://reviews.team.svc.cluster.local"
    assert predictor(ready)["latestRolledoutRevision"] == FIRST
    assert shares(ready) == [(FIRST, 100)]
    # IngressReady, which Ready needs too, is told after the model's state, which therefore follows a reconciliation on.
    assert ready["status"]["modelStatus"]["transitionStatus"] == "InProgress"
    assert cluster.tick("reviews")["status"]["modelStatus"]["transitionStatus"] == "UpToDate"
    assert cluster.tick("reviews") == cluster.service("reviews")


def test_status_lags_behind(cluster: Cluster) -> None:
    put(cluster, inference_service())
    former = cluster.tick("reviews", 5)["status"]
    cluster.lag = 3
    put(cluster, inference_service("b"))
    for _ in range(3):
        assert cluster.tick("reviews")["status"] == former
    assert conditions(cluster.tick("reviews"))["Ready"] == "Unknown"


def test_canary_is_promoted(cluster: Cluster) -> None:
    cluster.default_fate.ready_after = 1
    put(cluster, inference_service())
    cluster.tick("reviews", 4)
    put(cluster, inference_service("b", canaryTrafficPercent=10))
    starting = cluster.tick("reviews", 2)
    # `latestRevision` is the latest ready one.
    assert shares(starting) == [(FIRST, 10), (FIRST, 90)]
    assert predictor(starting)["latestCreatedRevision"] == SECOND
    split = cluster.tick("reviews", 2)
    assert shares(split) == [(SECOND, 10), (FIRST, 90)]
    assert [one["tag"] for one in predictor(split)["traffic"]] == ["latest", "prev"]
    assert predictor(split)["traffic"][0]["url"] == f"http://{LATEST}"
    assert predictor(split)["latestRolledoutRevision"] == FIRST
    observed = split["status"]["observedGeneration"]
    put(cluster, inference_service("b"))
    whole = cluster.tick("reviews", 2)
    assert shares(whole) == [(SECOND, 100)]
    assert (predictor(whole)["latestRolledoutRevision"], predictor(whole)["previousRolledoutRevision"]) == (
        SECOND,
        FIRST,
    )
    assert whole["status"]["observedGeneration"] == observed + 1
    assert whole["metadata"]["generation"] == 3


@pytest.mark.parametrize(("annotations", "revisions"), [({"a": "b"}, 2), ({"modelFormat": "other"}, 1)])
def test_annotations_make_revisions(cluster: Cluster, annotations: Json, revisions: int) -> None:
    put(cluster, inference_service(annotations={"modelFormat": "pytorch"}))
    cluster.tick("reviews", 4)
    put(cluster, inference_service(annotations={"modelFormat": "pytorch", **annotations}))
    changed = cluster.tick("reviews", 2)
    assert predictor(changed)["latestCreatedRevision"] == f"reviews-predictor-0000{revisions}"
    assert changed["status"]["observedGeneration"] == revisions


def test_failed_load_leaves_the_former_revision_its_traffic(cluster: Cluster) -> None:
    cluster.fates["b"] = Fate(failure="ModelLoadFailed", message="no such file: model.onnx")
    put(cluster, inference_service())
    cluster.tick("reviews", 5)
    put(cluster, inference_service("b"))
    failed = cluster.tick("reviews", 4)
    assert (conditions(failed)["Ready"], reason(failed, "Ready")) == ("False", "RevisionFailed")
    assert failed["status"]["modelStatus"]["transitionStatus"] == "BlockedByFailedLoad"
    assert failed["status"]["modelStatus"]["states"] == {
        "activeModelState": "Loaded",
        "targetModelState": "FailedToLoad",
    }
    assert failed["status"]["modelStatus"]["lastFailureInfo"]["message"] == "no such file: model.onnx"
    assert shares(failed) == [(FIRST, 100)]
    assert states(cluster) == [("a", "ready"), ("b", "CrashLoopBackOff")]
    assert events(cluster, "involvedObject.kind=Pod,type=Warning") == ["BackOff"]
    put(cluster, inference_service())
    # What is told is still about the failed one.
    assert cluster.tick("reviews")["status"]["modelStatus"]["transitionStatus"] == "BlockedByFailedLoad"
    assert cluster.tick("reviews")["status"]["modelStatus"]["transitionStatus"] == "InProgress"
    back = cluster.tick("reviews", 3)
    assert conditions(back)["Ready"] == "True" and shares(back) == [(THIRD, 100)]
    assert "lastFailureInfo" in back["status"]["modelStatus"]


def test_first_failed_load_has_no_route(cluster: Cluster) -> None:
    cluster.default_fate.failure = "ModelLoadFailed"
    put(cluster, inference_service())
    failed = cluster.tick("reviews", 5)
    assert conditions(failed)["Ready"] == "False"
    assert reason(failed, "PredictorConfigurationReady") == "RevisionFailed"
    assert reason(failed, "PredictorReady") == "RevisionMissing"
    assert ask(cluster, OUTSIDE).status_code == 404


def test_revision_that_never_gets_ready(cluster: Cluster) -> None:
    cluster.default_fate.failure = "never ready"
    put(cluster, inference_service())
    assert conditions(cluster.tick("reviews", 50))["Ready"] == "Unknown"
    assert states(cluster) == [("a", "running")]


def test_replaced_revision_may_still_get_ready_first(cluster: Cluster) -> None:
    cluster.fates["b"] = Fate(ready_after=3)
    cluster.fates["c"] = Fate(ready_after=9)
    put(cluster, inference_service())
    cluster.tick("reviews", 5)
    put(cluster, inference_service("b"))
    cluster.tick("reviews", 2)
    put(cluster, inference_service("c"))
    both = cluster.tick("reviews", 3)
    assert predictor(both)["latestCreatedRevision"] == THIRD
    assert shares(both) == [(SECOND, 100)]


@pytest.mark.parametrize(
    ("change", "reason_told"),
    [
        ({"runtime": "nowhere"}, "RuntimeNotRecognized"),
        ({"protocolVersion": "grpc-v2"}, "NoSupportingRuntime"),
        ({"modelFormat": {"name": "onnx"}}, "NoSupportingRuntime"),
        ({}, "InvalidPredictorSpec"),
    ],
)
def test_invalid_spec_leaves_the_conditions(cluster: Cluster, change: Json, reason_told: str) -> None:
    cluster.fates["b"] = Fate(failure="InvalidSpec", message="no such volume")
    put(cluster, inference_service())
    former = cluster.tick("reviews", 5)["status"]
    wrong = inference_service("a" if change else "b")
    wrong["spec"]["predictor"]["model"] |= change
    put(cluster, wrong)
    told = cluster.tick("reviews", 2)["status"]
    assert told["modelStatus"]["transitionStatus"] == "InvalidSpec"
    assert told["modelStatus"]["lastFailureInfo"]["reason"] == reason_told
    assert {**told, "modelStatus": 0} == {**former, "modelStatus": 0}
    assert events(cluster, "involvedObject.name=reviews") == ["InternalError"]


def test_full_rollout_that_is_taken_back_in_place(cluster: Cluster) -> None:
    """PropagateStatus: the same revision at less than 100 percent makes the one before the rolled-out one again."""
    for release in ("a", "b"):
        put(cluster, inference_service(release))
        cluster.tick("reviews", 5)
    put(cluster, inference_service("b", canaryTrafficPercent=0))
    assert predictor(cluster.tick("reviews", 2))["latestRolledoutRevision"] == FIRST
    assert shares(cluster.tick("reviews")) == [(SECOND, 0), (FIRST, 100)]


def test_stopped_and_started_again(cluster: Cluster, backend: Callable[[str], str]) -> None:
    cluster.default_fate.backend = backend("a")
    put(cluster, inference_service())
    cluster.tick("reviews", 5)
    assert ask(cluster, INSIDE).status_code == 200
    put(cluster, inference_service(annotations={"serving.kserve.io/stop": "true"}))
    stopped = cluster.tick("reviews", 2)["status"]
    assert {one["type"]: one["status"] for one in stopped["conditions"]} == {
        "IngressReady": "False", "PredictorReady": "False", "Ready": "False", "Stopped": "True",
    }  # fmt: skip
    assert "components" not in stopped and "url" not in stopped
    assert (states(cluster), ask(cluster, INSIDE).status_code) == ([], 404)
    put(cluster, inference_service(canaryTrafficPercent=10))
    started = cluster.tick("reviews", 4)
    assert conditions(started)["Stopped"] == "False" and shares(started) == [(FIRST, 100)]
    cluster.remove("inferenceservices", "reviews")
    assert (states(cluster), ask(cluster, INSIDE).status_code) == ([], 404)


def test_gateway_splits_traffic_exactly(cluster: Cluster, backend: Callable[[str], str]) -> None:
    cluster.fates.update(a=Fate(backend=backend("one")), b=Fate(backend=backend("two")))
    put(cluster, inference_service())
    cluster.tick("reviews", 5)
    put(cluster, inference_service("b", canaryTrafficPercent=10))
    cluster.tick("reviews", 5)
    for host in (OUTSIDE, INSIDE, "reviews-predictor.team.svc.cluster.local"):
        for _ in range(3):
            ten = Counter(ask(cluster, host).headers["x-server"] for _ in range(10))
            assert ten == {"one": 9, "two": 1}
    assert {ask(cluster, LATEST).headers["x-server"] for _ in range(5)} == {"two"}
    assert ask(cluster, "prev-reviews-predictor.team.svc.cluster.local").headers["x-server"] == "one"
    assert cluster.answered[-1] == ("prev-reviews-predictor.team.svc.cluster.local", "a", 200)
    assert Counter(release for _, release, _ in cluster.answered) == {"a": 82, "b": 14}


def test_gateway_hands_on_what_it_gets(cluster: Cluster, backend: Callable[[str], str]) -> None:
    cluster.default_fate.backend = backend("one")
    put(cluster, inference_service())
    cluster.tick("reviews", 5)
    asked = ask(cluster, OUTSIDE, "/teapot?a=b").json()
    assert (asked["method"], asked["path"], asked["body"]) == ("POST", "/teapot?a=b", '{"instances":["good"]}')
    assert asked["headers"]["Content-Type"] == "application/json"
    assert ask(cluster, OUTSIDE, "/teapot").status_code == 418
    assert httpx.get(cluster.gateway_url, headers={"Host": OUTSIDE}).json()["method"] == "GET"
    unknown = ask(cluster, "localhost")
    assert (unknown.status_code, unknown.content) == (404, b"")


def test_gateway_refuses_at_first(cluster: Cluster, backend: Callable[[str], str]) -> None:
    cluster.fates["a"] = Fate(backend=backend("one"), unready_answers=2)
    cluster.fates["b"] = Fate(backend=backend("two"), unready_answers=1, unready_status=404)
    put(cluster, inference_service())
    cluster.tick("reviews", 5)
    assert [ask(cluster, OUTSIDE).status_code for _ in range(3)] == [503, 503, 200]
    put(cluster, inference_service("b"))
    cluster.tick("reviews", 5)
    assert [ask(cluster, OUTSIDE).status_code for _ in range(2)] == [404, 200]
    cluster.fates["c"] = Fate()
    put(cluster, inference_service("c"))
    cluster.tick("reviews", 5)
    assert ask(cluster, OUTSIDE).status_code == 503


def test_standard_updates_rolling(standard: Cluster, backend: Callable[[str], str]) -> None:
    standard.fates.update(a=Fate(backend=backend("one")), b=Fate(backend=backend("two")))
    put(standard, inference_service())
    starting = standard.tick("reviews", 2)
    assert conditions(starting)["Ready"] == "False" and ask(standard, "reviews-team.example.com").status_code == 404
    first = standard.tick("reviews", 3)
    assert first["status"]["url"] == "http://reviews-team.example.com"
    assert first["status"]["address"]["url"] == "http://reviews-predictor.team.svc.cluster.local"
    assert first["status"]["observedGeneration"] > first["metadata"]["generation"] + 1
    put(standard, inference_service("b", canaryTrafficPercent=10))
    for _ in range(3):
        rolling = standard.tick("reviews")
        assert conditions(rolling)["Ready"] == "True"
        assert rolling["status"]["modelStatus"]["transitionStatus"] == "UpToDate"
        assert ask(standard, "reviews-team.example.com").headers["x-server"] == "one"
    assert states(standard) == [("a", "ready"), ("b", "running")]
    standard.tick("reviews")
    assert states(standard) == [("b", "ready")]
    assert {ask(standard, "reviews-predictor.team.svc.cluster.local").headers["x-server"] for _ in range(9)} == {"two"}
    put(standard, inference_service("b", canaryTrafficPercent=50, minReplicas=2))
    again = standard.tick("reviews", 3)
    assert again["status"]["observedGeneration"] == first["status"]["observedGeneration"] + 1


def test_standard_hides_that_new_pods_fail(standard: Cluster) -> None:
    standard.fates["b"] = Fate(failure="ModelLoadFailed")
    put(standard, inference_service())
    standard.tick("reviews", 5)
    put(standard, inference_service("b"))
    failing = standard.tick("reviews", 9)
    assert conditions(failing)["Ready"] == "True"
    assert failing["status"]["modelStatus"]["transitionStatus"] == "UpToDate"
    assert states(standard) == [("a", "ready"), ("b", "CrashLoopBackOff")]
    put(standard, inference_service())
    standard.tick("reviews", 2)
    # The former ReplicaSet still had its pods.
    assert states(standard) == [("a", "ready")]
    assert conditions(standard.service("reviews"))["Ready"] == "True"


def test_standard_tells_that_the_first_pods_fail(standard: Cluster) -> None:
    # No release: someone else's object.
    standard.fates[""] = Fate(failure="ModelLoadFailed")
    unlabelled = inference_service()
    del unlabelled["metadata"]["labels"]
    put(standard, unlabelled)
    first = standard.tick("reviews", 5)
    assert conditions(first)["Ready"] == "False"
    assert first["status"]["modelStatus"]["transitionStatus"] == "BlockedByFailedLoad"


def test_annotation_goes_before_the_clusters_mode(standard: Cluster) -> None:
    put(standard, inference_service(annotations={"serving.kserve.io/deploymentMode": "Knative"}))
    assert predictor(standard.tick("reviews", 2))["latestCreatedRevision"] == FIRST
