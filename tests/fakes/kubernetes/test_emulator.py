"""The emulated API server can tell wrong from right, as the real clients of kserve and kubernetes see it."""

import copy
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client as kubernetes
from kubernetes.client.exceptions import ApiException

from tests.fakes.kubernetes.admission import needs_schemas
from tests.fakes.kubernetes.conftest import client_of, inference_service
from tests.fakes.kubernetes.emulator import Cluster, emulated_cluster

Json = dict[str, Any]
GROUP = "serving.kserve.io"
PLACE = (GROUP, "v1beta1", "team", "inferenceservices")


def create(client: Any, service: Json, **options: Any) -> Json:
    return dict(client.api_instance.create_namespaced_custom_object(*PLACE, service, **options))


def replace(client: Any, service: Json, **options: Any) -> Json:
    return dict(client.api_instance.replace_namespaced_custom_object(*PLACE, "reviews", service, **options))


def refused(function: Any, *values: Any, **named: Any) -> tuple[int, str, str]:
    """Returns status, reason and message with which a call is refused, by the SDK or by the client under it."""
    with pytest.raises((ApiException, RuntimeError)) as caught:
        function(*values, **named)
    error: Any = caught.value if isinstance(caught.value, ApiException) else caught.value.__context__
    told = json.loads(error.body)
    assert (told["kind"], told["status"], told["code"]) == ("Status", "Failure", error.status)
    return error.status, told["reason"], told["message"]


def test_stores_what_the_sdk_sends(client: Any, cluster: Cluster) -> None:
    import kserve

    model = kserve.V1beta1ModelSpec(
        model_format=kserve.V1beta1ModelFormat(name="pytorch"), runtime="kserve-torchserve", storage_uri="pvc://a/b"
    )
    service = kserve.V1beta1InferenceService(
        api_version=f"{GROUP}/v1beta1",
        kind="InferenceService",
        metadata=kubernetes.V1ObjectMeta(name="reviews", namespace="team"),
        spec=kserve.V1beta1InferenceServiceSpec(predictor=kserve.V1beta1PredictorSpec(min_replicas=1, model=model)),
    )
    created = client.create(service)
    assert created["metadata"]["generation"] == 1
    assert "status" not in client.get("reviews", "team")
    service.spec.predictor.min_replicas = 2
    replaced = client.replace("reviews", service)
    assert replaced["metadata"]["generation"] == 2
    assert replaced["metadata"]["uid"] == created["metadata"]["uid"]
    assert [one[:2] for one in cluster.sent] == [("POST", False), ("PUT", False)]
    client.delete("reviews", "team")
    assert refused(client.get, "reviews", "team") == (
        404,
        "NotFound",
        'inferenceservices.serving.kserve.io "reviews" not found',
    )
    assert refused(client.delete, "reviews", "team")[0] == 404


def test_refuses_what_there_is_already(client: Any) -> None:
    create(client, inference_service())
    expected = 'inferenceservices.serving.kserve.io "reviews" already exists'
    assert refused(create, client, inference_service()) == (409, "AlreadyExists", expected)


def test_replaces_fully_and_keeps_what_is_the_servers(client: Any, cluster: Cluster) -> None:
    create(client, inference_service(minReplicas=2))
    cluster.tick("reviews", 5)
    old = client.get("reviews", "team")
    new = inference_service("b")
    new["metadata"] |= {"resourceVersion": old["metadata"]["resourceVersion"], "generation": 77}
    new["status"] = {"url": "http://elsewhere"}
    replaced = replace(client, new)
    assert "minReplicas" not in replaced["spec"]["predictor"]
    assert replaced["status"] == old["status"]
    assert replaced["metadata"]["generation"] == 2
    assert replaced["metadata"]["creationTimestamp"] == old["metadata"]["creationTimestamp"]


def test_generation_follows_the_spec_alone(client: Any, cluster: Cluster) -> None:
    service = create(client, inference_service())
    same = replace(client, service)
    assert same["metadata"] == service["metadata"]
    service["metadata"]["labels"]["nlp-pipeline/release"] = "b"
    relabelled = replace(client, service)
    assert relabelled["metadata"]["generation"] == 1
    assert relabelled["metadata"]["resourceVersion"] != service["metadata"]["resourceVersion"]


def test_refuses_to_replace_what_has_changed_since(client: Any, cluster: Cluster) -> None:
    read = create(client, inference_service())
    cluster.tick("reviews", 2)
    expected = (
        'Operation cannot be fulfilled on inferenceservices.serving.kserve.io "reviews": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    # The controller's writing of the status was a change, too.
    assert refused(replace, client, read) == (409, "Conflict", expected)
    assert refused(replace, client, inference_service())[:2] == (422, "Invalid")
    cluster.tick("reviews", 4)
    cluster.conflicts = 2
    for _ in range(2):
        assert refused(replace, client, client.get("reviews", "team"))[:2] == (409, "Conflict")
    replace(client, client.get("reviews", "team"))
    recreated = client.get("reviews", "team")
    client.delete("reviews", "team")
    assert refused(replace, client, recreated)[:2] == (404, "NotFound")
    create(client, inference_service())
    recreated["metadata"]["resourceVersion"] = cluster.service("reviews")["metadata"]["resourceVersion"]
    status, reason, message = refused(replace, client, recreated)
    assert (status, reason) == (409, "Conflict") and "UID in precondition" in message


def test_dry_runs_answer_and_store_nothing(client: Any, cluster: Cluster) -> None:
    answer = create(client, inference_service(), dry_run="All")
    assert answer["spec"]["predictor"]["model"]["name"] == ""
    assert refused(client.get, "reviews", "team")[0] == 404
    assert refused(create, client, inference_service(minReplicas=3, maxReplicas=2), dry_run="All")[0] == 403
    stored = create(client, inference_service())
    assert refused(create, client, inference_service(), dry_run="All")[:2] == (409, "AlreadyExists")
    changed = copy.deepcopy(stored)
    changed["spec"]["predictor"]["minReplicas"] = 5
    assert replace(client, changed, dry_run="All")["metadata"]["generation"] == 2
    assert cluster.service("reviews") == stored
    assert [one[:2] for one in cluster.sent] == [
        ("POST", True), ("POST", True), ("POST", False), ("POST", True), ("PUT", True),
    ]  # fmt: skip


@needs_schemas
@pytest.mark.parametrize(
    ("predictor", "status", "message"),
    [
        ({"minReplica": 1}, 400, 'strict decoding error: unknown field "spec.predictor.minReplica"'),
        ({"model": {"modelFormat": {"nam": "pytorch"}}}, 400, 'unknown field "spec.predictor.model.modelFormat.nam"'),
        ({"minReplicas": "1"}, 422, 'spec.predictor.minReplicas: Invalid value: "1": '),
        ({"volumes": [{"name": "a", "emptyDirr": {}}]}, 400, 'unknown field "spec.predictor.volumes.0.emptyDirr"'),
    ],
)
def test_schema_refuses(client: Any, predictor: Json, status: int, message: str) -> None:
    code, _, text = refused(create, client, inference_service(**predictor))
    assert code == status and message in text


@pytest.mark.parametrize(
    ("predictor", "message"),
    [
        ({"sklearn": {"storageUri": "a"}, "model": None}, ""),
        ({"containers": [{"name": "kserve-container", "image": "a"}]}, "exactly one of"),
        ({"model": None}, "exactly one of"),
        ({"model": {"storageUri": "pvc://a"}}, "modelFormat"),
        ({"model": {"modelFormat": {"name": "pytorch"}, "name": "mine"}}, "'name' field is not allowed"),
        ({"canaryTrafficPercent": 101}, "canaryTrafficPercent"),
        ({"canaryTrafficPercent": -1}, "canaryTrafficPercent"),
        ({"canaryTrafficPercent": 100}, ""),
        ({"minReplicas": 2, "maxReplicas": 1}, "'MinReplicas' cannot be greater than MaxReplicas"),
        ({"minReplicas": 2, "maxReplicas": 0}, ""),
        ({"minReplicas": -1}, "'MinReplicas' cannot be less than 0"),
    ],
)
def test_webhook_refuses(client: Any, predictor: Json, message: str) -> None:
    service = inference_service()
    spec = service["spec"]["predictor"] = {**service["spec"]["predictor"], **predictor}
    service["spec"]["predictor"] = {key: value for key, value in spec.items() if value is not None}
    if not message:
        assert create(client, service)["spec"]["predictor"]["model"]["modelFormat"]
        return
    status, reason, text = refused(create, client, service)
    assert (status, reason) == (403, "Forbidden")
    assert text.startswith('admission webhook "inferenceservice.kserve-webhook-server.validator" denied the request: ')
    assert message in text


@pytest.mark.parametrize(
    ("metadata", "status", "message"),
    [
        ({"name": "1st"}, 403, "must start with alphabetical character"),
        ({"name": "Reviews"}, 422, "RFC 1123"),
        ({"labels": {"nlp-pipeline/release": "f" * 64}}, 422, "must be no more than 63 characters"),
        ({"labels": {"a": "b c"}}, 422, "a valid label must be"),
        ({"annotations": {"a": 1}}, 400, "annotations of type string"),
        ({"annotations": {"a b": "c"}}, 422, "name part"),
        ({"annotations": {"a": "b" * 2**18}}, 422, "Too long"),
        ({"label": {}}, 400, 'unknown field "metadata.label"'),
        ({"namespace": "other"}, 400, "the namespace of the provided object"),
    ],
)
def test_metadata_is_checked(client: Any, metadata: Json, status: int, message: str) -> None:
    service = inference_service()
    service["metadata"] |= metadata
    code, _, text = refused(create, client, service)
    assert code == status and message in text


def test_defaults_by_the_clusters_mode(client: Any, standard: Cluster, tmp_path: Path) -> None:
    mode = f"{GROUP}/deploymentMode"
    created = create(client, inference_service())
    assert mode not in created["metadata"]["annotations"]
    assert created["metadata"]["annotations"]["modelFormat"] == "pytorch"
    assert created["spec"]["predictor"]["model"]["resources"] == {}
    of_standard = client_of(standard, tmp_path)
    assert create(of_standard, inference_service())["metadata"]["annotations"][mode] == "Standard"


def test_deployment_mode_stays(client: Any, cluster: Cluster) -> None:
    create(client, inference_service(annotations={f"{GROUP}/deploymentMode": "RawDeployment"}))
    stored = cluster.tick("reviews", 2)
    assert stored["status"]["deploymentMode"] == "Standard"
    stored["metadata"]["annotations"][f"{GROUP}/deploymentMode"] = "Knative"
    status, _, message = refused(replace, client, stored)
    assert status == 403 and "deploymentMode cannot be changed from 'Standard' to 'Knative'" in message


def test_lists_what_selectors_choose(client: Any, cluster: Cluster) -> None:
    create(client, inference_service())
    cluster.add({"kind": "InferenceService", "metadata": {"name": "others"}, "spec": inference_service()["spec"]})
    for selector, names in (
        ("", ["reviews", "others"]),
        ("nlp-pipeline/release", ["reviews"]),
        ("nlp-pipeline/release=a", ["reviews"]),
        ("nlp-pipeline/release!=a,!nlp-pipeline/release", ["others"]),
        ("nlp-pipeline/release==b", []),
    ):
        found = client.api_instance.list_namespaced_custom_object(*PLACE, label_selector=selector)
        assert [one["metadata"]["name"] for one in found["items"]] == names
    assert refused(client.api_instance.list_namespaced_custom_object, *PLACE, label_selector="a in (b)")[0] == 400


def test_knows_what_else_is_in_the_cluster(client: Any, cluster: Cluster) -> None:
    cluster.add({"kind": "PersistentVolumeClaim", "metadata": {"name": "data"}})
    cluster.add({"kind": "Secret", "metadata": {"name": "s3", "annotations": {"a": "b"}}})
    core, api = client.core_api, client.api_instance
    assert core.read_namespaced_persistent_volume_claim("data", "team").metadata.name == "data"
    assert core.read_namespaced_secret("s3", "team").metadata.annotations == {"a": "b"}
    assert core.read_namespaced_service_account("default", "team").metadata.namespace == "team"
    assert core.read_namespace("team").metadata.name == "team"
    assert refused(core.read_namespace, "other")[:2] == (404, "NotFound")
    assert refused(core.read_namespaced_secret, "s4", "team") == (404, "NotFound", 'secrets "s4" not found')
    runtimes = api.list_cluster_custom_object(GROUP, "v1alpha1", "clusterservingruntimes")["items"]
    assert [one["metadata"]["name"] for one in runtimes] == ["kserve-torchserve", "kserve-huggingfaceserver"]
    known = api.get_api_resources(GROUP, "v1beta1").resources
    assert [one.name for one in known] == ["inferenceservices"]


@needs_schemas
def test_takes_servingruntimes_that_fit_the_schema(client: Any) -> None:
    container = {"name": "kserve-container", "image": "pytorch/torchserve-kfs:0.9.0"}
    runtime: Json = {
        "apiVersion": f"{GROUP}/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {"name": "own"},
        "spec": {"supportedModelFormats": [{"name": "pytorch", "version": "1"}], "containers": [container]},
    }
    place = (GROUP, "v1alpha1", "team", "servingruntimes")
    wrong = {**runtime, "spec": {"supportedModelFormats": []}}
    assert refused(client.api_instance.create_namespaced_custom_object, *place, wrong)[:2] == (422, "Invalid")
    client.api_instance.create_namespaced_custom_object(*place, runtime)
    assert client.api_instance.get_namespaced_custom_object(*place, "own")["metadata"]["namespace"] == "team"


def test_denies(client: Any, cluster: Cluster) -> None:
    reviews = kubernetes.AuthorizationV1Api()

    def allowed(verb: str, group: str, resource: str) -> bool:
        attributes = kubernetes.V1ResourceAttributes(namespace="team", verb=verb, group=group, resource=resource)
        spec = kubernetes.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
        review = kubernetes.V1SelfSubjectAccessReview(spec=spec)
        return bool(reviews.create_self_subject_access_review(review).status.allowed)

    cluster.deny("create", "inferenceservices")
    assert not allowed("create", GROUP, "inferenceservices")
    assert allowed("get", GROUP, "inferenceservices")
    assert not allowed("get", "", "inferenceservices")
    assert refused(create, client, inference_service()) == (
        403,
        "Forbidden",
        'inferenceservices.serving.kserve.io is forbidden: User "system:serviceaccount:team:default-editor" cannot '
        'create resource "inferenceservices" in API group "serving.kserve.io" in the namespace "team"',
    )
    who = kubernetes.AuthenticationV1Api()
    user = who.create_self_subject_review(kubernetes.V1SelfSubjectReview()).status.user_info
    assert user.username == "system:serviceaccount:team:default-editor"
    cluster.reviews_forbidden = True
    assert refused(allowed, "get", GROUP, "inferenceservices")[:2] == (403, "Forbidden")
    assert refused(who.create_self_subject_review, kubernetes.V1SelfSubjectReview())[:2] == (403, "Forbidden")


def test_knows_no_kserve(client: Any, cluster: Cluster) -> None:
    cluster.without_kserve()
    for call in (
        lambda: create(client, inference_service()),
        lambda: client.api_instance.get_api_resources(GROUP, "v1beta1"),
    ):
        with pytest.raises(ApiException) as caught:
            call()
        assert (caught.value.status, caught.value.body) == (404, "404 page not found\n")
    assert client.core_api.list_namespaced_pod("team").items == []


def test_fails_as_often_as_wanted(client: Any, cluster: Cluster) -> None:
    cluster.failures = 1
    assert refused(create, client, inference_service())[:2] == (503, "ServiceUnavailable")
    cluster.failures, cluster.failure_status = 1, 500
    assert refused(create, client, inference_service())[:2] == (500, "InternalError")
    create(client, inference_service())


def test_asks_for_its_token(client: Any, cluster: Cluster) -> None:
    api = kubernetes.CustomObjectsApi(kubernetes.ApiClient(kubernetes.Configuration(host=cluster.url)))
    assert refused(api.get_namespaced_custom_object, *PLACE, "reviews") == (401, "Unauthorized", "Unauthorized")


def test_ends_with_its_context_even_when_that_fails(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), emulated_cluster() as cluster:
        client = client_of(cluster, tmp_path)
        create(client, inference_service())
        raise ZeroDivisionError
    assert threading.active_count() == before
