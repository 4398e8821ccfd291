"""The talk with the cluster: each call's errors in one line, what is looked for beforehand, how pods are understood."""

import builtins
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client as kubernetes

from nlp_pipeline.components import deploy_model_rollout
from nlp_pipeline.components.deploy_model_cluster import (
    call,
    check_access,
    check_kserve,
    check_place,
    choose_runtime,
    connect,
    describe,
    own_account,
    own_namespace,
    read_service,
    refuse_access,
)
from nlp_pipeline.components.deploy_model_rollout import load_failure, pod_failure
from tests.cluster.conftest import inference_service
from tests.cluster.emulator import Cluster, Fate, emulated_cluster
from tests.components.deploying import PARAMETERS, without_waiting
from tests.components.s3_server import free_ports

Json = dict[str, Any]
RUNTIME = {"spec": {"supportedModelFormats": [{"name": "pytorch"}], "containers": [{"name": "kserve-container"}]}}
IN_POD = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with emulated_cluster("Knative") as one:
        one.write_kubeconfig(tmp_path / "kubeconfig", "team")
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.setenv("NO_PROXY", "*")
        yield one


@pytest.fixture
def client(cluster: Cluster) -> Any:
    return connect()


def settings(**changed: Any) -> Json:
    return {**PARAMETERS, "namespace": "team", **changed}


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("failures", [1, 4])
def test_what_may_pass_is_tried_again(
    cluster: Cluster, client: Any, monkeypatch: pytest.MonkeyPatch, status: int, failures: int
) -> None:
    waits = without_waiting(monkeypatch)
    cluster.failures, cluster.failure_status = failures, status
    assert read_service(client, "tiny", "team") is None
    assert waits == [0.5, 1, 2, 4][:failures]


def test_what_does_not_pass_is_one_line(cluster: Cluster, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = without_waiting(monkeypatch)
    cluster.failures = 5
    text = "^reading InferenceService team/tiny: 503: the server is currently unable to handle the request$"
    with pytest.raises(RuntimeError, match=text):
        read_service(client, "tiny", "team")
    assert waits == [0.5, 1, 2, 4] and cluster.failures == 0


@pytest.mark.parametrize("sdk", [True, False])
def test_no_one_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sdk: bool) -> None:
    waits = without_waiting(monkeypatch)
    cluster = Cluster("Knative", "team")
    cluster.url = f"http://127.0.0.1:{free_ports(1)[0]}"
    cluster.write_kubeconfig(tmp_path / "kubeconfig", "team")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("NO_PROXY", "*")
    client = connect()
    with pytest.raises(RuntimeError, match=r"^[^\n]*: the cluster can't be reached: [^\n]*Connection refused[^\n]*$"):
        read_service(client, "tiny", "team") if sdk else check_kserve()
    assert waits == [0.5, 1, 2, 4]


def test_a_connection_that_breaks_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    import urllib3

    waits = without_waiting(monkeypatch)
    answers: list[Any] = [urllib3.exceptions.ProtocolError("broken"), urllib3.exceptions.ReadTimeoutError, "fine"]
    answers[1] = urllib3.exceptions.ReadTimeoutError(urllib3.HTTPConnectionPool("x"), "/", "timed out")

    def ask() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert call("asking", ask) == "fine" and waits == [0.5, 1]


@pytest.mark.parametrize(
    ("status", "body", "kind", "line"),
    [
        (400, '{"message": "no\\n such  field"}', ValueError, "asking: 400: no such field"),
        (401, '{"message": "Unauthorized"}', ValueError, "asking: 401: Unauthorized"),
        (403, '{"message": "x is forbidden"}', PermissionError, "asking: 403: x is forbidden"),
        (
            403,
            '{"message": "admission webhook \\"a\\" denied it"}',
            ValueError,
            'asking: 403: admission webhook "a" .*',
        ),
        (404, "404 page not found\n", RuntimeError, "asking: 404: 404 page not found"),
        (409, '{"message": "conflict"}', RuntimeError, "asking: 409: conflict"),
        (410, "", RuntimeError, "asking: 410: Gone"),
        (422, "[]", ValueError, r"asking: 422: \[\]"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_errors_by_their_status(status: int, body: str, kind: type[Exception], line: str, wrapped: bool) -> None:
    """As the client of kubernetes raises them, and as that of kserve does."""

    def ask() -> None:
        error = kubernetes.ApiException(status=status, reason="Gone")
        error.body = body
        if not wrapped:
            raise error
        try:
            raise error
        except kubernetes.ApiException as cause:
            raise RuntimeError(f"Exception when calling: {cause}\n") from None

    with pytest.raises(kind, match=f"^{line}$"):
        call("asking", ask)
    assert call("asking", ask, expected=(status,)) == status


def test_a_wrong_token(cluster: Cluster, client: Any) -> None:
    import tests.cluster.api

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tests.cluster.api, "TOKEN", "another")
        with pytest.raises(ValueError, match=r"^looking for KServe: 401: Unauthorized$"):
            check_kserve()


@pytest.mark.parametrize("content", [None, "", "apiVersion: v1\nkind: Config\n"])
def test_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    if content is not None:
        (tmp_path / "kubeconfig").write_text(content)
    with pytest.raises(
        ValueError, match=r"^no cluster: this is no pod of one, and there is no kubeconfig of use \(.*\)$"
    ):
        connect()


def test_whose_namespace(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert own_namespace() == "team"
    cluster.write_kubeconfig(tmp_path / "kubeconfig")
    assert own_namespace() == ""
    (tmp_path / "namespace").write_text("of-the-pod\n")
    exists, opened = os.path.exists, builtins.open
    monkeypatch.setattr(os.path, "exists", lambda path: path == IN_POD or exists(path))
    monkeypatch.setattr(
        builtins, "open", lambda path, *more, **named: opened(
            tmp_path / "namespace" if path == IN_POD else path, *more, **named
        ),
    )  # fmt: skip
    assert own_namespace() == "of-the-pod"


def test_what_is_allowed(cluster: Cluster, client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    check_access("team")
    cluster.deny("list", "pods")
    with pytest.raises(PermissionError, match=r"^namespace team: may not list pods; the Role and RoleBinding "):
        check_access("team")
    output = capsys.readouterr().out
    # Where even asking is forbidden, the calls themselves tell.
    cluster.reviews_forbidden = True
    check_access("team")
    assert output.count("kind: RoleBinding") == 1 and not capsys.readouterr().out


@pytest.mark.parametrize(
    ("user", "forbidden", "subject"),
    [
        ("system:serviceaccount:other:pipeline-runner", False, ("other", "pipeline-runner")),
        ("system:serviceaccount:other:pipeline-runner", True, ("team", "default-editor")),
        ("jane@example.com", False, ("team", "default-editor")),
    ],
)
def test_to_whom_access_is_given(
    cluster: Cluster,
    client: Any,
    user: str,
    forbidden: bool,
    subject: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster._api.user, cluster.reviews_forbidden = user, forbidden
    assert own_account() == subject
    error = refuse_access("serving", "something is not allowed")
    assert str(error) == (
        "something is not allowed; the Role and RoleBinding that allow it stand above: kubectl apply -f -"
    )
    _, binding = yaml.safe_load_all(capsys.readouterr().out.partition("who may:\n\n")[2])
    assert binding["metadata"]["namespace"] == "serving"
    assert (binding["subjects"][0]["namespace"], binding["subjects"][0]["name"]) == subject


def test_kserve_is_there_or_not(cluster: Cluster, client: Any) -> None:
    check_kserve()
    cluster.without_kserve()
    with pytest.raises(LookupError, match=r"^KServe is not installed in this cluster "):
        check_kserve()


@pytest.mark.parametrize(
    ("changed", "named", "where"),
    [
        ({}, "kserve-torchserve", "which is installed for the cluster"),
        ({"serving_runtime": "huggingface"}, "kserve-huggingfaceserver", "which is installed for the cluster"),
        ({"runtime_name": "mine"}, "mine", "which is installed in namespace team"),
        ({"runtime_name": "kserve-torchserve"}, "kserve-torchserve", "which is installed for the cluster"),
    ],
)
def test_the_runtime(
    cluster: Cluster, client: Any, changed: Json, named: str, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.add({"kind": "ServingRuntime", "metadata": {"name": "mine"}, **RUNTIME})
    assert choose_runtime(client, settings(**changed)) == named
    assert capsys.readouterr().out == f"runtime {named}, {where}\n"


def test_the_projects_own_runtime_goes_first(cluster: Cluster, client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.add({"kind": "ServingRuntime", "metadata": {"name": "nlp-pipeline-torchserve"}, **RUNTIME})
    assert choose_runtime(client, settings()) == "nlp-pipeline-torchserve"
    assert choose_runtime(client, settings(serving_runtime="huggingface")) == "kserve-huggingfaceserver"


def test_runtimes_of_the_cluster_may_be_hidden(
    cluster: Cluster, client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.deny("get", "clusterservingruntimes")
    assert choose_runtime(client, settings()) == "kserve-torchserve"
    assert capsys.readouterr().out == "runtime kserve-torchserve, which may be installed for the cluster\n"


@pytest.mark.parametrize("changed", [{"runtime_name": "no"}, {"serving_runtime": "huggingface"}, {}])
def test_no_runtime(cluster: Cluster, client: Any, changed: Json) -> None:
    for name in ("kserve-torchserve", "kserve-huggingfaceserver"):
        cluster.remove("clusterservingruntimes", name)
    with pytest.raises(LookupError, match=r"^ServingRuntime \S+ is neither in namespace team nor in the cluster: "):
        choose_runtime(client, settings(**changed))


def test_what_pods_need(cluster: Cluster, client: Any) -> None:
    with pytest.raises(LookupError, match=r"^volume_claim=data: namespace team has no such PersistentVolumeClaim, "):
        check_place(settings())
    cluster.add({"kind": "PersistentVolumeClaim", "metadata": {"name": "data"}})
    check_place(settings())
    with pytest.raises(LookupError, match=r"^service_account=reader: namespace team has no such ServiceAccount, "):
        check_place(settings(service_account="reader"))
    check_place(settings(service_account="default-editor"))
    # No claim is needed where the model is read from an object store.
    cluster.remove("persistentvolumeclaims", "data")
    check_place(settings(model_store="s3://models", service_account="default-editor"))


def test_what_is_seen_of_a_failure(cluster: Cluster, client: Any) -> None:
    assert describe(None, "reviews", "team") == ""
    cluster.default_fate = Fate(failure="ModelLoadFailed", message="no such\n file")
    cluster.add(inference_service())
    service = cluster.tick("reviews", 6)
    lines = describe(service, "reviews", "team").splitlines()
    assert "  condition PredictorReady: False RevisionMissing Configuration" in "\n".join(lines)
    pod = next(line for line in lines if line.startswith("  pod reviews-predictor-00001-"))
    assert "kserve-container: CrashLoopBackOff back-off 40s restarting failed container" in pod
    event = next(line for line in lines if line.startswith("  event reviews-predictor-00001-"))
    assert "BackOff Back-off restarting failed container" in event
    cluster.deny("list", "events")
    assert describe(service, "reviews", "team").splitlines() == [line for line in lines if "  event " not in line]


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({}, ""),
        ({"transitionStatus": "InProgress", "lastFailureInfo": {"message": "of the former"}}, ""),
        ({"transitionStatus": "InvalidSpec"}, "InvalidSpec: no message"),
        (
            {
                "transitionStatus": "BlockedByFailedLoad",
                "lastFailureInfo": {"reason": "ModelLoadFailed", "message": "no\n such file", "exitCode": 3},
            },
            "ModelLoadFailed: no such file (exit code 3)",
        ),
    ],
)
def test_why_a_model_can_not_be_loaded(model: Json, told: str) -> None:
    assert load_failure({"status": {"modelStatus": model}}) == told


Pods = Callable[..., None]
MARKS = {"nlp-pipeline/applied": "mark", "nlp-pipeline/run-id": "run"}


@pytest.fixture
def pods(monkeypatch: pytest.MonkeyPatch) -> Pods:
    """Lets there be one pod, whose container waits for a reason."""

    def give(reason: str, restarts: int = 0, initial: bool = False, marks: Json = MARKS, last: str = "") -> None:
        waiting = kubernetes.V1ContainerStateWaiting(reason=reason, message="in\n short")
        ended = kubernetes.V1ContainerState(terminated=kubernetes.V1ContainerStateTerminated(exit_code=1, message=last))
        container = kubernetes.V1ContainerStatus(
            name="one", image="i", image_id="i", ready=False, restart_count=restarts,
            state=kubernetes.V1ContainerState(waiting=waiting), last_state=ended if last else None,
        )  # fmt: skip
        status = kubernetes.V1PodStatus(**{f"{'init_' * initial}container_statuses": [container]})
        pod = kubernetes.V1Pod(metadata=kubernetes.V1ObjectMeta(name="p", annotations=marks), status=status)
        monkeypatch.setattr(deploy_model_rollout, "list_pods", lambda service: [pod])

    return give


@pytest.mark.parametrize(
    ("given", "told", "patience"),
    [
        ({"reason": "ContainerCreating"}, "", 0),
        ({"reason": "CrashLoopBackOff", "restarts": 2}, "", 0),
        ({"reason": "CrashLoopBackOff", "restarts": 3}, "pod p, one: CrashLoopBackOff: in short", 0),
        (
            {"reason": "CrashLoopBackOff", "restarts": 3, "last": "it\n said"},
            "pod p, one: CrashLoopBackOff: it said",
            0,
        ),
        ({"reason": "ImagePullBackOff"}, "pod p, one: ImagePullBackOff: in short", 30),
        ({"reason": "ErrImagePull", "initial": True}, "pod p, one: ErrImagePull: in short", 30),
        ({"reason": "InvalidImageName"}, "pod p, one: InvalidImageName: in short", 0),
        ({"reason": "CreateContainerConfigError"}, "pod p, one: CreateContainerConfigError: in short", 8),
        ({"reason": "InvalidImageName", "marks": {}}, "", 0),
        ({"reason": "InvalidImageName", "marks": {**MARKS, "nlp-pipeline/run-id": "former"}}, "", 0),
    ],
)
def test_why_a_pod_can_not_run(pods: Pods, given: Json, told: str, patience: int) -> None:
    pods(**given)
    assert pod_failure({"metadata": {"annotations": MARKS}}) == (told, patience if told else 0)
