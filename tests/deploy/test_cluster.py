"""The calls of the cluster: errors of one line, retries, what is looked for beforehand, and why a pod can't run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client as kubernetes

from nlp_pipeline.deploy import cluster as calls
from nlp_pipeline.deploy import rollout
from nlp_pipeline.deploy.cluster import call, check_access, choose_runtime, connect, own_namespace, read_service
from nlp_pipeline.deploy.inference_service import InferenceService, make
from nlp_pipeline.deploy.rollout import load_failure
from nlp_pipeline.deploy.settings import DeploySettings
from nlp_pipeline.errors import PipelineError, UsageError
from tests.deploy.scene import Clock
from tests.fakes.kubernetes.emulator import Cluster, emulated_cluster

Json = dict[str, Any]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster that calls go to."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with emulated_cluster("Knative") as one:
        one.write_kubeconfig(tmp_path / "kubeconfig", "team")
        connect()
        yield one


@pytest.mark.parametrize(("failures", "status"), [(1, 429), (4, 503)])
def test_what_may_pass_is_tried_again(cluster: Cluster, clock: Clock, failures: int, status: int) -> None:
    cluster.failures, cluster.failure_status = failures, status
    assert read_service("tiny", "team") is None
    assert clock.waits == [0.5, 1, 2, 4][:failures]


def test_what_does_not_pass_is_one_line(cluster: Cluster, clock: Clock) -> None:
    cluster.failures = 5
    text = "^reading InferenceService team/tiny: 503: the server is currently unable to handle the request$"
    with pytest.raises(PipelineError, match=text):
        read_service("tiny", "team")
    assert clock.waits == [0.5, 1, 2, 4] and cluster.failures == 0


@pytest.mark.parametrize(
    ("status", "body", "kind", "line"),
    [
        (400, '{"message": "no\\n such  field"}', UsageError, "asking: 400: no such field"),
        (404, "404 page not found\n", PipelineError, "asking: 404: 404 page not found"),
        (410, "", PipelineError, "asking: 410: Gone"),
        (422, "[]", UsageError, r"asking: 422: \[\]"),
    ],
)
def test_errors_by_their_status(status: int, body: str, kind: type[Exception], line: str) -> None:
    def ask() -> None:
        error = kubernetes.ApiException(status=status, reason="Gone")
        error.body = body
        raise error

    with pytest.raises(kind, match=f"^{line}$") as caught:
        call("asking", ask)
    assert caught.type is kind
    assert call("asking", ask, expected=(status,)) == status


@pytest.mark.parametrize("content", [None, "apiVersion: v1\nkind: Config\n", "{"])
def test_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    if content is not None:
        (tmp_path / "kubeconfig").write_text(content)
    says = r"^no cluster: this is no pod, and there is no kubeconfig of use \([^\n]*\)$"
    with pytest.raises(UsageError, match=says):
        connect()


def test_whose_namespace(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert own_namespace() == "team"
    cluster.write_kubeconfig(tmp_path / "kubeconfig")
    assert own_namespace() == ""
    (tmp_path / "namespace").write_text("of-the-pod\n")
    monkeypatch.setattr(calls, "POD_NAMESPACE", tmp_path / "namespace")
    assert own_namespace() == "of-the-pod"


@pytest.mark.parametrize(
    ("user", "account"),
    [
        ("system:serviceaccount:other:pipeline-runner", " --steps-account other/pipeline-runner"),
        ("jane@example.com", ""),
    ],
)
def test_access_that_is_missing(cluster: Cluster, user: str, account: str) -> None:
    check_access("team")
    cluster.deny("list", "pods")
    cluster.user = user
    with pytest.raises(UsageError) as caught:
        check_access("team")
    assert str(caught.value) == (
        "namespace team: may not list pods; to allow it: python pipeline_v2.py --manifests --set "
        f"namespace=team{account} | kubectl apply -f -"
    )
    # Where even asking is forbidden, the calls themselves tell.
    cluster.reviews_forbidden = True
    check_access("team")


ONNX, OURS, STOCK = "nlp-pipeline-onnx", "nlp-pipeline-torchserve", "kserve-torchserve"


@pytest.mark.parametrize(
    ("changed", "name"),
    [({}, STOCK), ({"serving_runtime": "huggingface"}, "kserve-huggingfaceserver"), ({"runtime_name": "mine"}, "mine")],
)
def test_the_runtime(cluster: Cluster, changed: Json, name: str) -> None:
    cluster.add({"kind": "ServingRuntime", "metadata": {"name": "mine"}, "spec": {}})
    assert choose_runtime(DeploySettings(**changed), "team") == name


def test_our_own_server_is_asked_for_and_not_installed(cluster: Cluster) -> None:
    with pytest.raises(UsageError, match=f"has no ServingRuntime {ONNX}, .* makes {ONNX}$"):
        choose_runtime(DeploySettings(serving_runtime="onnx"), "team")


def test_runtimes_that_are_hidden_and_the_projects_own(cluster: Cluster) -> None:
    cluster.deny("get", "clusterservingruntimes")
    assert choose_runtime(DeploySettings(), "team") == STOCK
    cluster.add({"kind": "ServingRuntime", "metadata": {"name": OURS}, "spec": {}})
    assert choose_runtime(DeploySettings(), "team") == OURS
    cluster.add({"kind": "ServingRuntime", "metadata": {"name": ONNX}, "spec": {}})
    assert choose_runtime(DeploySettings(), "team") == ONNX
    assert choose_runtime(DeploySettings(serving_runtime="onnx"), "team") == ONNX
    assert choose_runtime(DeploySettings(serving_runtime="torchserve"), "team") == OURS
    assert choose_runtime(DeploySettings(serving_runtime="huggingface"), "team") == "kserve-huggingfaceserver"


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({}, ""),
        ({"transitionStatus": "InProgress", "lastFailureInfo": {"message": "of the former"}}, ""),
        ({"transitionStatus": "InvalidSpec"}, "InvalidSpec: no message"),
        ({"transitionStatus": "InvalidSpec", "lastFailureInfo": {"reason": "RuntimeNotRecognized"}}, "RuntimeNotRecog"),
        (
            {
                "transitionStatus": "BlockedByFailedLoad",
                "lastFailureInfo": {"reason": "ModelLoadFailed", "message": "no\n such file"},
            },
            "ModelLoadFailed: no such file",
        ),
    ],
)
def test_why_a_model_can_not_be_loaded(model: Json, says: str) -> None:
    body = {**make("tiny", "team", {}, {}, {}).body, "status": {"modelStatus": model}}
    assert load_failure(InferenceService(body)).startswith(says) and bool(says) == bool(
        load_failure(InferenceService(body))
    )
    # On Standard it may be a former pod's, which was ended (exit code 143).
    body["status"]["deploymentMode"] = "Standard"
    blocked = model.get("transitionStatus") == "BlockedByFailedLoad"
    assert load_failure(InferenceService(body)).startswith("" if blocked else says)
    assert not (blocked and load_failure(InferenceService(body)))


def test_that_there_can_be_no_pods() -> None:
    reason, message = "ReconcileFailed", 'Deployment "x" is invalid:\n no more than 63'
    condition = {"type": "PredictorReady", "status": "False", "reason": reason, "message": message}
    body = {**make("tiny", "team", {}, {}, {}).body, "status": {"conditions": [condition]}}
    assert load_failure(InferenceService(body)) == f'{reason}: Deployment "x" is invalid: no more than 63'


@pytest.mark.parametrize(
    ("state", "says", "patience"),
    [
        ({"reason": "ContainerCreating"}, "", 0),
        ({"reason": "CrashLoopBackOff", "restarts": 0}, "", 0),
        ({"reason": "CrashLoopBackOff", "restarts": 1}, "CrashLoopBackOff: in short", 0),
        ({"reason": "CrashLoopBackOff", "restarts": 3, "last": "it\n said"}, "CrashLoopBackOff: it said", 0),
        ({"reason": "ImagePullBackOff"}, "ImagePullBackOff: in short", 8),
        ({"reason": "ErrImagePull", "prefix": "init_"}, "ErrImagePull: in short", 8),
    ],
)
def test_why_a_pod_can_not_run(state: Json, says: str, patience: int) -> None:
    waiting = kubernetes.V1ContainerStateWaiting(reason=state["reason"], message="in\n short")
    ended = kubernetes.V1ContainerStateTerminated(exit_code=1, message=state.get("last", ""))
    container = kubernetes.V1ContainerStatus(
        name="one", image="i", image_id="i", ready=False, restart_count=state.get("restarts", 0),
        state=kubernetes.V1ContainerState(waiting=waiting),
        last_state=kubernetes.V1ContainerState(terminated=ended if "last" in state else None),
    )  # fmt: skip
    status = kubernetes.V1PodStatus(**{f"{state.get('prefix', '')}container_statuses": [container]})
    metadata = kubernetes.V1ObjectMeta(name="p")
    says = says and f"pod p, one: {says}"
    assert rollout.pod_failure([kubernetes.V1Pod(metadata=metadata, status=status)]) == (says, patience)
