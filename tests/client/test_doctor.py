"""The doctor: each of its lines as it should be, as it should not be, and where it can't be known."""

import base64
import io
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline import storage
from nlp_pipeline.client import doctor_server
from nlp_pipeline.client.doctor import doctor
from nlp_pipeline.errors import UsageError
from nlp_pipeline.platforms.doctor import Check, missing, print_checks
from nlp_pipeline.settings import Settings
from tests.components.s3_server import forget_environment, free_ports, s3_server
from tests.deploy.scene import without_waiting
from tests.fakes.kubernetes import kinds
from tests.fakes.kubernetes.emulator import Cluster, emulated_cluster
from tests.kubeflow.conftest import ca as ca
from tests.kubeflow.emulator import Kubeflow, kubeflow
from tests.kubeflow.httpd import Host, Request, Response
from tests.kubeflow.tls import Authority

Json = dict[str, Any]
ACCOUNT = "system:serviceaccount:team:default-editor"
CLAIM: Json = {
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "nlp-pipeline"},
    "spec": {"accessModes": ["ReadWriteMany"]},
    "status": {"phase": "Bound"},
}
IMAGE = "registry.example.com/team/nlp-pipeline:1"
NAMES = [
    *("server", "sign-in", "Kubernetes", "namespace", "experiment", "version", "clock", "claim", "access mode"),
    *("KServe", "right to deploy", "runtime", "object store", "image"),
]


def token_of(subject: str) -> str:
    """Returns a token as Kubernetes makes it for a service account."""
    return ".".join(base64.urlsafe_b64encode(json.dumps(one).encode()).decode().rstrip("=") for one in
                    ({"alg": "RS256"}, {"sub": subject}, "signature"))  # fmt: skip


TOKEN = token_of(ACCOUNT)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget_environment(monkeypatch)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    monkeypatch.delenv("KF_PIPELINES_SA_TOKEN_PATH", raising=False)
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.001)


@pytest.fixture
def team() -> Iterator[Kubeflow]:
    """A Kubeflow of several users; the token is that of the account of namespace "team"."""
    with kubeflow(tokens={TOKEN: "team", "opaque": "team"}) as one:
        yield one
        assert not one.refused
        assert {seen.method for seen in one.requests} <= {"GET"}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster in which all is there, and nothing is to be changed."""
    for resource in ("runs", "experiments"):
        monkeypatch.setitem(kinds.KINDS, resource, (resource, "pipelines.kubeflow.org", "v1beta1"))
    with emulated_cluster("Knative") as one:
        one.add(CLAIM)
        one.write_kubeconfig(tmp_path / "kubeconfig", "team")
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        yield one
        assert not one.sent


def examined(kubeflow: Kubeflow | None, values: Json | None = None, /, **changed: Any) -> dict[str, Check]:
    """Returns the doctor's checks by name, having made sure that each is a line without secrets."""
    given = {"namespace": "team", "token": TOKEN, "image": IMAGE, **({"host": kubeflow.url} if kubeflow else {})}
    checks = doctor(Settings.model_validate(given | changed), values or {})
    found = {one.name: one for one in checks}
    assert len(found) == len(checks)
    shown = io.StringIO()
    print_checks(checks, shown)
    assert len(shown.getvalue().splitlines()) == len(checks)
    for secret in (TOKEN, "hunter2", "test-secret"):
        assert secret not in shown.getvalue()
    json.dumps([asdict(one) for one in checks])
    return found


def marks(found: dict[str, Check]) -> dict[str, bool | None]:
    return {name: one.ok for name, one in found.items()}


# As a whole


def test_all_is_well(team: Kubeflow, cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    found = examined(team)
    assert list(found) == NAMES
    assert marks(found) == dict.fromkeys(NAMES, True) | {"object store": None}
    assert not missing(list(found.values()))
    said = capsys.readouterr()
    assert said.out == "" and said.err == ""


def test_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    found = examined(None)
    assert list(found) == NAMES
    assert {name for name, one in found.items() if one.ok is False} == {"server"}
    assert {name for name, one in found.items() if one.ok} == {"image"}
    assert missing(list(found.values()))
    assert found["server"].remedy == "set NLP_PIPELINE_HOST, as in https://kubeflow.example.com"
    assert found["sign-in"].detail == "the server does not answer"
    assert found["namespace"].detail == found["version"].detail == "not signed in"


def test_one_user_without_a_cluster_of_ones_own() -> None:
    with kubeflow() as one:
        found = examined(one, token="", namespace="")
    assert found["namespace"].ok and found["experiment"].ok and found["version"].ok
    assert found["Kubernetes"].ok is None and "there is no kubeconfig of use" in found["Kubernetes"].detail
    assert found["claim"].ok is None and found["claim"].detail == "Kubernetes can't be asked"
    assert not missing(list(found.values()))


def test_values_that_are_out_of_range(team: Kubeflow) -> None:
    with pytest.raises(UsageError, match="epochs"):
        examined(team, {"epochs": -1.0})


# Server, sign-in, namespace


@pytest.mark.parametrize("host", ["kubeflow.example.com", "https://ann:hunter2@kubeflow.example.com", "http://a b"])
def test_no_address(host: str) -> None:
    assert examined(None, host=host)["server"].detail == "the host is no address"


def test_no_one_there() -> None:
    found = examined(None, host=f"http://127.0.0.1:{free_ports(1)[0]}")
    assert found["server"].ok is False and "can't be reached" in found["server"].detail
    assert found["clock"].detail == "the server does not answer"


def test_a_certificate_of_an_unknown_authority(ca: Authority) -> None:
    with kubeflow(tokens={TOKEN: "team"}, tls=ca) as one:
        found = examined(one)
        assert found["server"].ok is False and "--ca-cert" in found["server"].detail
        assert examined(one, ca_cert=str(ca.path))["namespace"].ok
        assert "is not verified" in examined(one, insecure=True)["server"].detail
        assert examined(one, ca_cert="/none")["server"].ok is False


def test_a_sign_in_that_fails() -> None:
    with kubeflow("dex", users={"ann@example.com": "secret"}, namespaces={"ann@example.com": "team"}) as one:
        for given in ({"token": "wrong"}, {"token": ""}, {"token": "", "username": "ann@example.com", "password": "x"}):
            found = examined(one, **given)
            assert found["server"].ok and found["sign-in"].ok is False, given
            assert found["namespace"].ok is None
        found = examined(one, token="", username="ann@example.com", password="secret")
        assert found["sign-in"].detail == "Kubeflow Pipelines answers as ann@example.com, by password"
        assert found["namespace"].ok


def test_no_kubeflow() -> None:
    with kubeflow("no kubeflow") as one:
        found = examined(one)
    assert found["server"].ok and found["sign-in"].ok is False and "is no Kubeflow Pipelines" in found["sign-in"].detail


def test_namespaces_that_are_none_or_of_others(team: Kubeflow) -> None:
    found = examined(team, namespace="")
    assert found["namespace"].ok is False and found["namespace"].remedy.startswith("give --namespace NAME")
    assert found["experiment"].ok is None and found["sign-in"].ok
    assert found["claim"].ok is None
    found = examined(team, namespace="other")
    assert found["namespace"].ok is False and found["namespace"].remedy.startswith("ask the profile's owner")
    assert "other: listing experiments: 403" in found["namespace"].detail


def test_a_server_that_fails_in_between(team: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    without_waiting(monkeypatch)
    team.faults.fail(times=9, on="/experiments")
    found = examined(team)
    assert found["namespace"].ok is False and found["experiment"].ok is None and found["version"].ok


# The experiment


def experiment_of(team: Kubeflow, state: str = "AVAILABLE") -> None:
    team.api._experiments.make("nlp-pipeline", "", "team")["storage_state"] = state


def test_an_experiment_that_is_there_or_would_be_made(team: Kubeflow, cluster: Cluster) -> None:
    assert examined(team)["experiment"].detail == f"nlp-pipeline would be made; {ACCOUNT} may make runs there"
    experiment_of(team)
    assert examined(team)["experiment"].detail == f"nlp-pipeline is there; {ACCOUNT} may make runs there"
    assert len(team.api.experiments) == 1


def test_an_experiment_that_takes_no_runs(team: Kubeflow, cluster: Cluster) -> None:
    cluster.deny("create", "experiments")
    found = examined(team)["experiment"]
    assert (found.ok, found.remedy) == (False, "ask the owner of profile team for the role kubeflow-edit")
    assert found.detail.endswith(f"{ACCOUNT} may not create experiments in namespace team")
    experiment_of(team)
    assert examined(team)["experiment"].ok
    cluster.deny("create", "runs")
    assert examined(team)["experiment"].ok is False
    team.api._store.experiments.clear()
    experiment_of(team, "ARCHIVED")
    found = examined(team)["experiment"]
    assert (found.ok, found.detail) == (False, "nlp-pipeline is archived, and takes no runs")


def test_where_it_is_not_known_whether_runs_may_be_made(team: Kubeflow, cluster: Cluster) -> None:
    found = examined(team, token="opaque")["experiment"]
    assert (found.ok, found.detail.partition("; ")[2]) == (
        None,
        "whether you may make runs there shows when one is made",
    )
    other = token_of("system:serviceaccount:team:other")
    team.sessions.tokens[other] = ACCOUNT
    found = examined(team, token=other)["experiment"]
    assert found.ok is None and f"and Kubernetes knows you as {ACCOUNT}" in found.detail
    cluster.reviews_forbidden = True
    assert examined(team)["experiment"].ok is None


# Version, clock


def with_health(monkeypatch: pytest.MonkeyPatch, team: Kubeflow, **health: Any) -> None:
    told = {"multi_user": True, **health}
    answer = Response(200, json.dumps(told), [("Content-Type", "application/json")])
    found = team.api.answer
    monkeypatch.setattr(
        team.api, "answer", lambda request, user: answer if "healthz" in request.path else found(request, user)
    )


@pytest.mark.parametrize(
    ("health", "ok", "says"),
    [
        ({"tag_name": "2.17.0"}, True, "Kubeflow Pipelines 2.17.0, kfp 2."),
        ({"tag_name": "v2.15.0-rc.1"}, True, "Kubeflow Pipelines v2.15.0-rc.1, kfp 2."),
        ({"apiServerTagName": "2.16.1", "apiServerReady": True}, True, "Kubeflow Pipelines 2.16.1, kfp 2."),
        ({"tag_name": "2.14.3"}, True, "before 2.15 a Secret must exist even where none is needed"),
        ({"tag_name": "2.4.1"}, False, "Kubeflow Pipelines 2.4.1, kfp 2."),
        ({"tag_name": "1.8.22"}, False, "Kubeflow Pipelines 1.8.22, kfp 2."),
        (
            {"tag_name": "unknown", "commit_sha": "1f" * 20},
            None,
            "tells 'unknown', commit 1f1f1f1f1f1f for its version",
        ),
        ({}, None, "the server tells 'nothing' for its version"),
    ],
)
def test_versions(team: Kubeflow, monkeypatch: pytest.MonkeyPatch, health: Json, ok: bool | None, says: str) -> None:
    with_health(monkeypatch, team, **health)
    found = examined(team)["version"]
    assert found.ok is ok and says in found.detail and found.required


@pytest.mark.parametrize(("skew", "says"), [(-90, "90 s behind"), (4000, "4000 s ahead of")])
def test_a_clock_that_is_wrong(team: Kubeflow, monkeypatch: pytest.MonkeyPatch, skew: int, says: str) -> None:
    class Clock:
        @staticmethod
        def time() -> float:
            return round(time.time()) + skew

    monkeypatch.setattr(doctor_server, "time", Clock)
    found = examined(team)["clock"]
    assert found.ok is False and not found.required and "timedatectl" in found.remedy
    seconds, _, rest = says.partition(" ")
    assert rest in found.detail and abs(int(found.detail.split()[4]) - int(seconds)) <= 2


def test_a_server_that_tells_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def dateless(request: Request) -> Response:
        return Response(200, "x", [("Date", "now")])

    host = Host(dateless)
    monkeypatch.setattr("http.server.BaseHTTPRequestHandler.date_time_string", lambda self: "never")
    host.start()
    try:
        assert examined(None, host=host.url)["clock"].detail == "the server tells no time"
    finally:
        host.stop()


# The cluster


@pytest.mark.parametrize("text", ["", "{", "[]", "apiVersion: v1\nkind: Config\ncurrent-context: x\n", "a: [\n"])
def test_kubeconfigs_that_are_none(team: Kubeflow, tmp_path: Path, text: str) -> None:
    (tmp_path / "no-kubeconfig").write_text(text)
    found = examined(team)
    assert found["Kubernetes"].ok is None and found["claim"].ok is None


def test_a_cluster_that_is_away(team: Kubeflow, tmp_path: Path) -> None:
    gone = Cluster("Knative", "team")
    gone.url = f"http://127.0.0.1:{free_ports(1)[0]}"
    gone.write_kubeconfig(os.environ["KUBECONFIG"], "team")
    found = examined(team)
    assert found["Kubernetes"].ok is None and "can't be reached (" in found["Kubernetes"].detail
    assert found["claim"].detail == found["KServe"].detail == "Kubernetes can't be asked"


def test_a_cluster_that_refuses(team: Kubeflow, cluster: Cluster) -> None:
    path = Path(os.environ["KUBECONFIG"])
    path.write_text(path.read_text().replace("a-token-of", "hunter2"))
    found = examined(team)
    assert found["Kubernetes"].ok is False and not found["Kubernetes"].required and found["claim"].ok is None


def test_a_cluster_that_does_not_tell_who_asks(team: Kubeflow, cluster: Cluster) -> None:
    cluster.reviews_forbidden = True
    found = examined(team)
    assert found["Kubernetes"].ok and ", as " not in found["Kubernetes"].detail
    assert found["right to deploy"].detail == "this account may, in namespace team"


@pytest.mark.parametrize(
    ("changed", "ok", "says", "mode"),
    [
        ({}, True, "team/nlp-pipeline is Bound", True),
        ({"status": {"phase": "Pending"}}, True, "team/nlp-pipeline is Pending", True),
        ({"status": {"phase": "Lost"}}, False, "team/nlp-pipeline has lost its volume", True),
        ({"spec": {"accessModes": ["ReadWriteOnce"]}}, True, "team/nlp-pipeline is Bound", False),
        ({"spec": {"accessModes": ["ReadOnlyMany"]}}, True, "team/nlp-pipeline is Bound", False),
        ({"spec": {}, "status": {}}, True, "team/nlp-pipeline is of unknown phase", None),
    ],
)
def test_claims(team: Kubeflow, cluster: Cluster, changed: Json, ok: bool, says: str, mode: bool | None) -> None:
    cluster.add(CLAIM | changed)
    found = examined(team)
    assert (found["claim"].ok, found["claim"].detail, found["access mode"].ok) == (ok, says, mode)
    assert found["access mode"].required == (changed.get("spec") == {"accessModes": ["ReadOnlyMany"]})


def test_a_claim_that_is_not_there_or_may_not_be_read(team: Kubeflow, cluster: Cluster) -> None:
    found = examined(team, {"volume_claim": "mine"})
    assert found["claim"].remedy == (
        "python pipeline_v2.py --manifests --set namespace=team --set volume_claim=mine | kubectl apply -f -"
    )
    assert found["claim"].ok is False and found["access mode"].ok is None
    cluster.deny("get", "persistentvolumeclaims")
    found = examined(team)
    assert found["claim"].ok is None and "403" in found["claim"].detail and found["access mode"].ok is None


def test_a_claim_that_is_being_deleted(team: Kubeflow, cluster: Cluster) -> None:
    cluster.add(CLAIM | {"metadata": {"name": "nlp-pipeline", "deletionTimestamp": "2026-01-01T00:00:00Z"}})
    assert examined(team)["claim"].detail == "team/nlp-pipeline is being deleted"


def test_secrets_where_they_must_exist(team: Kubeflow, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with_health(monkeypatch, team, tag_name="2.14.3")
    found = examined(team)["Secrets"]
    assert (found.ok, found.detail) == (False, "Secret team/nlp-pipeline-s3 is not there")
    assert found.remedy.startswith(
        "kubectl -n team create secret generic nlp-pipeline-s3 --from-literal=AWS_ACCESS_KEY"
    )
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION")
    data = dict.fromkeys(keys, base64.b64encode(b"hunter2").decode())
    cluster.add({"kind": "Secret", "metadata": {"name": "nlp-pipeline-s3"}, "data": data})
    cluster.add({"kind": "Secret", "metadata": {"name": "nlp-pipeline-hub"}, "data": {}})
    assert examined(team)["Secrets"].detail == "Secret team/nlp-pipeline-hub lacks HF_TOKEN"
    cluster.add({"kind": "Secret", "metadata": {"name": "nlp-pipeline-hub"}, "data": {"HF_TOKEN": ""}})
    assert examined(team)["Secrets"].ok
    cluster.deny("get", "secrets")
    assert examined(team)["Secrets"].ok is None
    monkeypatch.setenv("KUBECONFIG", "/none")
    assert examined(team)["Secrets"].ok is None


def test_no_kserve(team: Kubeflow, cluster: Cluster) -> None:
    cluster.without_kserve()
    found = examined(team)
    assert found["KServe"].ok is False and "set deploy=false" in found["KServe"].detail
    assert (found["runtime"].ok, found["runtime"].detail) == (None, "KServe is not there")
    found = examined(team, {"deploy": False})
    assert (found["KServe"].ok, found["KServe"].required) == (None, False) and "runtime" not in found
    assert not missing(list(found.values()))


def test_the_right_to_deploy(team: Kubeflow, cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert examined(team)["right to deploy"].detail == f"{ACCOUNT} may, in namespace team"
    cluster.deny("create", "inferenceservices")
    found = examined(team)["right to deploy"]
    assert (found.ok, found.detail) == (False, "namespace team: may not create inferenceservices")
    assert found.remedy == "python pipeline_v2.py --manifests --set namespace=team | kubectl apply -f -"
    assert capsys.readouterr().out == ""
    found = examined(team, service_account="runner")["right to deploy"]
    runner = "system:serviceaccount:team:runner"
    assert found.ok is None and found.detail == (
        f"{ACCOUNT} may not; the steps run as {runner}, of which it is not known: kubectl auth can-i create "
        f"inferenceservices -n team --as={runner}"
    )


def test_runtimes(team: Kubeflow, cluster: Cluster) -> None:
    assert examined(team)["runtime"].detail == "kserve-torchserve, which is installed for the cluster"
    cluster.remove("clusterservingruntimes", "kserve-torchserve")
    found = examined(team)["runtime"]
    assert found.ok is False and "--manifests --set namespace=team" in found.detail
    assert examined(team, {"serving_runtime": "huggingface"})["runtime"].ok
    cluster.deny("get", "servingruntimes")
    assert examined(team)["runtime"].ok is None


def test_what_serving_pods_need(team: Kubeflow, cluster: Cluster) -> None:
    values = {"model_store": "s3://models"}
    found = examined(team, values)["serving pods"]
    assert found.ok is False and "has no such ServiceAccount" in found.detail
    cluster.add({"kind": "ServiceAccount", "metadata": {"name": "nlp-pipeline-serving"}})
    assert examined(team, values)["serving pods"].detail == "service account nlp-pipeline-serving is in namespace team"
    found = examined(team, {"service_account": "default"})["serving pods"]
    assert found.detail == "claim nlp-pipeline and service account default are in namespace team"
    assert examined(team, {"namespace": "elsewhere"})["serving pods"].ok is False
    cluster.deny("get", "serviceaccounts")
    assert examined(team, values)["serving pods"].ok is None


# Object store, image


@pytest.mark.slow
def test_the_object_store(team: Kubeflow, tmp_path: Path) -> None:
    with s3_server(tmp_path) as s3:
        keys: Json = {
            "s3_access_key": "test-key",
            "s3_secret_key": "test-secret",
            "s3_endpoint": f"http://{s3.address}",
        }
        found = examined(team, **keys)["object store"]
        assert found.ok is False and "(NoSuchBucket)" in found.detail and not found.required
        s3.put("mlpipeline", "v2/artifacts/x", b"")
        found = examined(team, **keys)["object store"]
        assert found.detail.endswith(" shows minio://mlpipeline/private-artifacts/team/v2/artifacts") and found.ok
        found = examined(team, **keys | {"s3_secret_key": "wrong"})["object store"]
        assert found.ok is False and "(SignatureDoesNotMatch)" in found.detail
        with kubeflow() as one:
            assert examined(one, **keys, token="")["object store"].detail.endswith("minio://mlpipeline/v2/artifacts")


def test_no_object_store(team: Kubeflow) -> None:
    found = examined(team)["object store"]
    assert found.ok is None and found.detail == "NLP_PIPELINE_S3_ENDPOINT is not set; only --download needs it"
    found = examined(team, s3_endpoint="http://localhost:9000")["object store"]
    assert found.ok is False and found.detail.startswith("the object store is not known: set NLP_PIPELINE_S3_ACCESS")
    given: Json = {"s3_access_key": "a", "s3_secret_key": "hunter2"}
    found = examined(team, s3_endpoint=f"http://127.0.0.1:{free_ports(1)[0]}", **given)["object store"]
    assert found.ok is False and "port-forward" in found.detail


@pytest.mark.parametrize(
    ("image", "ok", "required", "says"),
    [
        ("", True, False, "none is set: each step installs"),
        (IMAGE, True, True, f"{IMAGE} is a sound name; whether nodes can pull it shows only there"),
        (f"nlp-pipeline@sha256:{'0' * 64}", True, True, "is a sound name"),
        ("registry:5000/nlp-pipeline", False, False, "is whatever is newest when a pod starts"),
        ("nlp-pipeline:latest", False, False, "is whatever is newest when a pod starts"),
        ("NLP pipeline", False, True, "is no name of an image"),
    ],
)
def test_images(image: str, ok: bool, required: bool, says: str) -> None:
    found = examined(None, image=image)["image"]
    assert (found.ok, found.required) == (ok, required) and says in found.detail


# Printed

CHECKS = [
    Check("server", True, True, "it answers"),
    Check("claim", False, True, "there is none", "make one"),
    Check("image", False, False, "latest", "give it a tag"),
    Check("clock", None, False, "é", "unused"),
]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_printing(encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    print_checks(CHECKS, stream)
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    good, bad, unknown = ("✓", "✗", "–") if encoding == "utf-8" else ("+", "x", "-")  # noqa: RUF001
    assert stream.buffer.getvalue().decode(encoding).splitlines() == [
        f"{good} server  it answers",
        f"{bad} claim   there is none: make one",
        f"{bad} image   latest (a run can do without): give it a tag",
        f"{unknown} clock   " + ("\\xe9" if encoding == "ascii" else "é"),
    ]


def test_printing_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    print_checks([])
    print_checks(CHECKS[:1])
    assert capsys.readouterr().out in ("✓ server  it answers\n", "+ server  it answers\n")
    assert not missing(CHECKS[:1]) and missing(CHECKS)
    assert not missing([CHECKS[0], CHECKS[2], CHECKS[3]])
