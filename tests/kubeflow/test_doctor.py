"""The doctor: each of its lines as it should be, as it should not be, and where it can't be known."""

import base64
import contextlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.errors import UsageError
from nlp_pipeline.kubeflow.doctor import doctor
from nlp_pipeline.platforms.doctor import Finding, missing, print_findings
from nlp_pipeline.serving.torchserve import free_ports
from nlp_pipeline.settings import Settings
from tests.fakes.kfp import Kubeflow, kubeflow
from tests.fakes.kubernetes.emulator import Cluster, emulated_cluster
from tests.fakes.tls import Authority
from tests.kubeflow.users import node

ACCOUNT = "system:serviceaccount:team:default-editor"
TOKEN = "a-token-of-the-account"
CLAIM: dict[str, Any] = {
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "nlp-pipeline"},
    "spec": {"accessModes": ["ReadWriteMany"]},
    "status": {"phase": "Bound"},
}
IMAGE = "registry.example.com/team/nlp-pipeline:1"
OF_CLUSTER = ("claim", "access mode", "KServe", "right to deploy", "runtime")
NAMES = ["sign-in", "Kubernetes", "namespace", "version", *OF_CLUSTER, "nodes", "image"]


@pytest.fixture
def team() -> Iterator[Kubeflow]:
    """A Kubeflow of several users; the token is that of the account of namespace "team"."""
    with kubeflow(tokens={TOKEN: "team"}) as server:
        yield server
        assert {method for method, _, _ in server.api.requests} <= {"GET"}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster in which all is there, and nothing is to be changed."""
    with emulated_cluster("Knative") as cluster:
        cluster.add(CLAIM)
        cluster.add(node("small"))
        cluster.write_kubeconfig(tmp_path / "kubeconfig", "team")
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        yield cluster
        assert not cluster.sent


def examined(k: Kubeflow | None, values: dict[str, Any] | None = None, /, **changed: Any) -> dict[str, Finding]:
    """Returns the doctor's checks by name, having made sure that each is a line without secrets."""
    options = {"namespace": "team", "token": TOKEN, "image": IMAGE, **({"host": k.url} if k else {})}
    checks = doctor(Settings.model_validate(options | changed), values or {})
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        print_findings(checks)
    assert len(shown.getvalue().splitlines()) == len(checks) and TOKEN not in shown.getvalue()
    json.dumps([asdict(check) for check in checks])
    return {check.name: check for check in checks}


def test_all_is_well(team: Kubeflow, cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    findings = examined(team)
    assert {name: check.ok for name, check in findings.items()} == dict.fromkeys(NAMES, True)
    assert list(findings) == NAMES and missing(list(findings.values())) == []
    assert capsys.readouterr() == ("", "")


def test_nothing_is_known() -> None:
    findings = examined(None)
    assert list(findings) == NAMES and missing(list(findings.values())) == ["sign-in"]
    assert {name for name, check in findings.items() if check.ok} == {"image"}
    assert findings["sign-in"].detail.startswith("no host: give --host URL, set NLP_PIPELINE_HOST")
    assert findings["namespace"].detail == findings["version"].detail == "not signed in"


def test_one_user_without_a_cluster_of_ones_own(alone: Kubeflow) -> None:
    findings = examined(alone, token="", namespace="")
    assert findings["namespace"].ok and findings["version"].ok
    assert findings["Kubernetes"].ok is None and "there is no kubeconfig of use" in findings["Kubernetes"].detail
    assert {findings[name].detail for name in OF_CLUSTER} == {"Kubernetes can't be asked"}
    assert missing(list(findings.values())) == []
    with pytest.raises(UsageError, match="epochs"):
        examined(alone, {"epochs": -1.0})


def test_sign_ins_that_fail_and_one_without_verification(ca: Authority) -> None:
    with kubeflow("dex", tokens={TOKEN: "team"}, tls=ca) as server:
        findings = examined(server)
        assert findings["sign-in"].ok is False and "--ca-cert" in findings["sign-in"].detail
        assert "is not verified" in examined(server, insecure=True)["sign-in"].detail
        findings = examined(server, ca_cert=str(ca.path), token="wrong")
        assert findings["sign-in"].ok is False and findings["namespace"].ok is None


def test_namespaces_that_are_none_or_of_others(team: Kubeflow) -> None:
    findings = examined(team, namespace="")
    assert findings["namespace"].ok is False and findings["namespace"].remedy.startswith("give --namespace NAME")
    assert findings["claim"].ok is None and findings["sign-in"].ok
    findings = examined(team, namespace="other")
    assert findings["namespace"].ok is False and findings["namespace"].remedy.startswith("ask the profile's owner")
    assert "other: listing experiments: 403" in findings["namespace"].detail
    team.faults.fail(times=9, on="/experiments")
    findings = examined(team)
    assert findings["namespace"].ok is False and findings["version"].ok


def test_an_experiment_that_is_there_or_would_be_made(team: Kubeflow) -> None:
    assert examined(team)["namespace"].detail == "team may be used; experiment nlp-pipeline would be made"
    experiment = team.api._add("experiments", {"display_name": "nlp-pipeline"}, "team")
    assert examined(team)["namespace"].detail.endswith("; experiment nlp-pipeline is there")
    experiment["storage_state"] = "ARCHIVED"
    finding = examined(team)["namespace"]
    assert (finding.ok, finding.detail) == (False, "experiment nlp-pipeline is archived, and takes no runs")


@pytest.mark.parametrize(
    ("health", "ok", "says"),
    [
        ({"tag_name": "2.17.0"}, True, "Kubeflow Pipelines 2.17.0, kfp 2."),
        ({"tag_name": "2.14.3"}, True, "before 2.15 a Secret must exist even where none is needed"),
        ({"tag_name": "1.8.22"}, False, "Kubeflow Pipelines 1.8.22, kfp 2."),
        ({"tag_name": "unknown", "commit_sha": "1f" * 20}, None, "tells 'unknown', commit 1f1f1f1f1f1f for its vers"),
    ],
)
def test_versions(team: Kubeflow, health: dict[str, Any], ok: bool | None, says: str) -> None:
    team.api.health = {"multi_user": True, **health}
    finding = examined(team)["version"]
    assert finding.ok is ok and says in finding.detail and finding.required


def test_no_kubeconfig_and_a_cluster_that_is_away(team: Kubeflow, tmp_path: Path) -> None:
    (tmp_path / "no-kubeconfig").write_text("a: [\n")
    assert examined(team)["Kubernetes"].ok is None
    gone = Cluster("Knative", "team")
    gone.url = f"http://127.0.0.1:{free_ports(1)[0]}"
    gone.write_kubeconfig(os.environ["KUBECONFIG"], "team")
    findings = examined(team)
    assert findings["Kubernetes"].ok is None and "can't be reached (" in findings["Kubernetes"].detail
    assert findings["claim"].detail == findings["KServe"].detail == "Kubernetes can't be asked"


def test_a_cluster_that_refuses_or_does_not_tell_who_asks(team: Kubeflow, cluster: Cluster) -> None:
    cluster.reviews_forbidden = True
    findings = examined(team)
    assert findings["Kubernetes"].ok and ", as " not in findings["Kubernetes"].detail
    assert findings["right to deploy"].ok is None
    path = Path(os.environ["KUBECONFIG"])
    path.write_text(path.read_text().replace("a-token-of", "hunter2"))
    findings = examined(team)
    assert findings["Kubernetes"].ok is False and not findings["Kubernetes"].required and findings["claim"].ok is None


@pytest.mark.parametrize(
    ("changed", "ok", "says", "mode"),
    [
        ({"status": {"phase": "Lost"}}, False, "team/nlp-pipeline has lost its volume", True),
        ({"spec": {"accessModes": ["ReadWriteOnce"]}}, True, "team/nlp-pipeline is Bound", False),
        ({"spec": {"accessModes": ["ReadOnlyMany"]}}, True, "team/nlp-pipeline is Bound", False),
        ({"spec": {}, "status": {}}, True, "team/nlp-pipeline is of unknown phase", None),
    ],
)
def test_claims(
    team: Kubeflow, cluster: Cluster, changed: dict[str, Any], ok: bool, says: str, mode: bool | None
) -> None:
    cluster.add(CLAIM | changed)
    findings = examined(team)
    assert (findings["claim"].ok, findings["claim"].detail, findings["access mode"].ok) == (ok, says, mode)
    assert findings["access mode"].required == (changed.get("spec") == {"accessModes": ["ReadOnlyMany"]})


def test_a_claim_that_is_not_there_or_may_not_be_read(team: Kubeflow, cluster: Cluster) -> None:
    findings = examined(team, {"volume_claim": "mine"})
    assert findings["claim"].remedy == (
        "python pipeline_v2.py --manifests --set namespace=team --set volume_claim=mine | kubectl apply -f -"
    )
    assert findings["claim"].ok is False and findings["access mode"].ok is None
    cluster.deny("get", "persistentvolumeclaims")
    findings = examined(team)
    assert findings["claim"].ok is None and "403" in findings["claim"].detail and findings["access mode"].ok is None


def test_secrets_where_they_must_exist(team: Kubeflow, cluster: Cluster) -> None:
    team.api.health["tag_name"] = "2.14.3"
    finding = examined(team)["Secrets"]
    assert (finding.ok, finding.detail) == (False, "Secret team/nlp-pipeline-s3 is not there")
    assert finding.remedy.startswith(
        "kubectl -n team create secret generic nlp-pipeline-s3 --from-literal=AWS_ACCESS_K"
    )
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION")
    data = dict.fromkeys(keys, base64.b64encode(b"hunter2").decode())
    cluster.add({"kind": "Secret", "metadata": {"name": "nlp-pipeline-s3"}, "data": data})
    cluster.add({"kind": "Secret", "metadata": {"name": "nlp-pipeline-hub"}, "data": {}})
    assert examined(team)["Secrets"].detail == "Secret team/nlp-pipeline-hub lacks HF_TOKEN"
    cluster.add({"kind": "Secret", "metadata": {"name": "nlp-pipeline-hub"}, "data": {"HF_TOKEN": ""}})
    assert examined(team)["Secrets"].detail == "Secret team/nlp-pipeline-notify is not there"
    data = dict.fromkeys(("NOTIFY_URL", "NOTIFY_SLACK_URL"), "")
    cluster.add({"kind": "Secret", "metadata": {"name": "nlp-pipeline-notify"}, "data": data})
    assert examined(team)["Secrets"].ok
    cluster.deny("get", "secrets")
    assert examined(team)["Secrets"].ok is None


def test_no_kserve(team: Kubeflow, cluster: Cluster) -> None:
    cluster.kserve_installed = False
    findings = examined(team)
    assert findings["KServe"].ok is False and "set deploy=false" in findings["KServe"].detail
    assert (findings["runtime"].ok, findings["runtime"].detail) == (None, "KServe is not known to be there")
    findings = examined(team, {"deploy": False})
    assert findings["KServe"].ok is None and "runtime" not in findings
    assert missing(list(findings.values())) == []


def test_the_right_to_deploy_is_that_of_the_steps_account_not_the_users(team: Kubeflow, cluster: Cluster) -> None:
    cluster.user = "ann@example.com"
    cluster.denied = {("create", "inferenceservices")}
    assert examined(team)["right to deploy"].detail == (
        "team/default-editor, which the steps run as, may in namespace team"
    )
    cluster.others["system:serviceaccount:team:runner"] = {("create", "inferenceservices"), ("list", "pods")}
    finding = examined(team, service_account="runner")["right to deploy"]
    assert (finding.ok, finding.detail) == (
        False,
        "team/runner, which the steps run as, may not create inferenceservices, list pods in team",
    )
    assert finding.remedy == (
        "python pipeline_v2.py --manifests --set namespace=team --steps-account team/runner | kubectl apply -f -"
    )


def test_a_pod_that_may_not_ask_about_accounts_asks_about_its_own(team: Kubeflow, cluster: Cluster) -> None:
    cluster.deny("create", "subjectaccessreviews")
    assert examined(team)["right to deploy"].ok
    cluster.deny("create", "inferenceservices")
    finding = examined(team)["right to deploy"]
    assert (finding.ok, "may not create inferenceservices in team" in finding.detail) == (False, True)
    runner = "system:serviceaccount:team:runner"
    finding = examined(team, service_account="runner")["right to deploy"]
    assert finding.ok is None and "403" in finding.detail
    ask = f": kubectl auth can-i create inferenceservices.serving.kserve.io -n team --as={runner}"
    assert finding.detail.endswith(ask)


def test_kubeflow_pipelines_alone_runs_the_steps_as_its_own_account(alone: Kubeflow, cluster: Cluster) -> None:
    cluster.others["system:serviceaccount:kubeflow:pipeline-runner"] = {("delete", "inferenceservices")}
    finding = examined(alone, {"namespace": "team"}, token="", namespace="")["right to deploy"]
    assert finding.ok is False and finding.detail.startswith("kubeflow/pipeline-runner, which the steps run as, may no")
    assert "--steps-account kubeflow/pipeline-runner |" in finding.remedy


def test_runtimes(team: Kubeflow, cluster: Cluster) -> None:
    assert examined(team)["runtime"].detail == "kserve-torchserve"
    cluster.remove("clusterservingruntimes", "kserve-torchserve")
    finding = examined(team)["runtime"]
    assert finding.ok is False and "--manifests --set namespace=team" in finding.detail
    cluster.deny("get", "servingruntimes")
    assert examined(team)["runtime"].ok is None


def test_what_serving_pods_need(team: Kubeflow, cluster: Cluster) -> None:
    values = {"model_store": "s3://models"}
    finding = examined(team, values)["serving pods"]
    assert finding.ok is False and "has no such ServiceAccount" in finding.detail
    cluster.add({"kind": "ServiceAccount", "metadata": {"name": "nlp-pipeline-serving"}})
    assert examined(team, values)["serving pods"].detail == "what they need is in namespace team"
    finding = examined(team, {"service_account": "default"})["serving pods"]
    assert finding.detail == "what they need is in namespace team"
    assert examined(team, {"namespace": "elsewhere"})["serving pods"].ok is False
    cluster.deny("get", "serviceaccounts")
    assert examined(team, values)["serving pods"].ok is None


def test_what_several_nodes_need(team: Kubeflow, cluster: Cluster) -> None:
    values = {"train_nodes": 2}
    assert not {"training runtime", "right to train"} & examined(team).keys()
    assert examined(team, values)["training runtime"].detail.startswith("Kubeflow Trainer is not installed")
    cluster.trainer_installed = True
    finding = examined(team, values)["training runtime"]
    assert finding.ok is False and "the cluster no such ClusterTrainingRuntime" in finding.detail
    cluster.add({"kind": "ClusterTrainingRuntime", "metadata": {"name": "torch-distributed"}})
    findings = examined(team, values)
    assert findings["training runtime"].detail == "ClusterTrainingRuntime torch-distributed"
    assert findings["right to train"].ok and missing(list(findings.values())) == []
    cluster.deny("get", "clustertrainingruntimes")  # which an account of a namespace may not know
    assert examined(team, values)["training runtime"].ok
    cluster.others["system:serviceaccount:team:default-editor"] = {("create", "trainjobs")}
    cluster.user = "alice"
    finding = examined(team, values)["right to train"]
    assert finding.ok is False and " may not create trainjobs in team" in finding.detail
    assert " --set train_nodes=2 --steps-account team/default-editor |" in finding.remedy


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"train_cpu": "4"}, "take training, which asks for cpu 4, memory 2Gi: of 2, 1 with less cpu, 1 with "),
        ({"node_selector": {"pool": "big"}}, "a step, which asks for cpu 250m, memory 512Mi: of 2, 2 without the la"),
        ({"train_gpus": "1"}, "gpu 1: of 2, 1 with less gpu, 1 with the taint nvidia.com/gpu=yes:NoSchedule"),
        ({"train_gpus": "1", "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]}, ""),
        ({"serving_memory": "9Gi", "scale_metric": "memory"}, "serving, which asks for"),
    ],
    ids=str,
)
def test_whether_a_node_could_take_each_pod(team: Kubeflow, cluster: Cluster, values: dict[str, Any], why: str) -> None:
    taint = {"key": "nvidia.com/gpu", "value": "yes", "effect": "NoSchedule"}
    cluster.add(node("gpu", [taint], **{"nvidia.com_gpu": "1"}))
    finding = examined(team, values)["nodes"]
    assert finding.ok is not bool(why) and why in finding.detail


@pytest.mark.parametrize("scaler", ["Karpenter", "cluster-autoscaler"])
def test_where_an_autoscaler_adds_nodes_a_missing_one_is_no_fault(
    team: Kubeflow, cluster: Cluster, scaler: str
) -> None:
    if scaler == "Karpenter":
        cluster.add(node("small") | {"metadata": {"name": "small", "labels": {"karpenter.sh/nodepool": "default"}}})
    else:
        status = {"name": "cluster-autoscaler-status", "namespace": "kube-system"}
        cluster.add({"kind": "ConfigMap", "metadata": status})
    finding = examined(team, {"train_cpu": "4"})["nodes"]
    assert finding.ok is None and finding.detail.endswith(f"; whether {scaler} will add one is not known")
    assert missing(list(examined(team, {"train_cpu": "4"}).values())) == []


def test_nodes_that_may_not_be_listed(team: Kubeflow, cluster: Cluster) -> None:
    cluster.deny("list", "nodes")
    finding = examined(team)["nodes"]
    assert finding.ok is None and finding.detail.startswith("listing the nodes: 403")


def test_where_no_gpu_is_asked_for_cuda_is_warned_of(team: Kubeflow, cluster: Cluster) -> None:
    finding = examined(team, image="")["image"]
    assert (finding.ok, finding.required) == (False, False) and "PIP_EXTRA_INDEX_URL in ConfigMap" in finding.remedy
    assert examined(team, {"train_gpus": "1"}, image="")["image"].ok
    data = {"PIP_EXTRA_INDEX_URL": "https://pypi.example.com/cpu"}
    cluster.add({"kind": "ConfigMap", "metadata": {"name": "nlp-pipeline-environment"}, "data": data})
    assert examined(team, image="")["image"].ok
    cluster.deny("get", "configmaps")
    assert examined(team, image="")["image"].ok is None


@pytest.mark.parametrize("pipeline", ["drift", "batch"])
def test_another_pipeline_is_asked_of_what_it_needs(team: Kubeflow, cluster: Cluster, pipeline: str) -> None:
    findings = examined(team, pipeline=pipeline)
    names = ["sign-in", "Kubernetes", "namespace", "version", "claim", "access mode", "nodes", "image"]
    assert list(findings) == names and missing(list(findings.values())) == []
    assert examined(team, pipeline=pipeline, image="")["image"].ok
    if pipeline == "batch":
        finding = examined(team, {"pod_gpus": "1"}, pipeline=pipeline, image="")["image"]
        assert finding.ok is False and "pod_gpus=1 needs one" in finding.detail
        assert "each of 4 that classify" in examined(team, {"pod_gpus": "1"}, pipeline=pipeline)["nodes"].detail


def test_images() -> None:
    assert examined(None)["image"].detail == f"{IMAGE}; whether nodes can pull it shows only there"
    assert examined(None, image="")["image"].detail.startswith("none is set: each step installs")
