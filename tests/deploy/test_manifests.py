"""What a namespace needs: whether it fits together, and whether an API server would take it."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from nlp_pipeline import __version__
from nlp_pipeline.cli import main
from nlp_pipeline.deploy.cluster import ACCESS
from nlp_pipeline.pipeline.parameters import pipeline_parameters
from nlp_pipeline.pipeline.pods import S3_KEYS
from tests.fakes.kfp import kubeflow
from tests.fakes.kubernetes.admission import admit
from tests.fakes.kubernetes.pod_security import violations

Json = dict[str, Any]


@pytest.fixture(autouse=True)
def without_kubeflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No address of Kubeflow is known."""
    for name in list(os.environ):
        if name.startswith(("NLP_PIPELINE_", "KF_PIPELINES_", "KUBERNETES_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def printed(capsys: pytest.CaptureFixture[str], *settings: str, flags: tuple[str, ...] = ()) -> dict[str, Json]:
    """Returns the objects that are printed, by kind; each has a comment before it.

    Without what lets a notice become an Event, which is always there.
    """
    assert main(["--manifests", *(part for setting in settings for part in ("--set", setting)), *flags]) == 0
    text = capsys.readouterr().out
    assert all(part.startswith("# ") for part in text.split("---\n"))
    found = list(yaml.safe_load_all(text))
    role, binding = notice = [item for item in found if item["metadata"]["name"] == "nlp-pipeline-notify"]
    assert role["rules"] == [{"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}]
    assert binding["roleRef"]["name"] == "nlp-pipeline-notify"
    found = [item for item in found if item not in notice]
    kinds = [item["kind"] for item in found]
    assert len(set(kinds)) == len(kinds) and all(item["apiVersion"] for item in found)
    return dict(zip(kinds, found, strict=True))


def test_what_a_namespace_needs_fits_together(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "namespace=team")
    assert "REPLACE-ME" not in str(found) and list(found) == [
        "PersistentVolumeClaim",
        "Role",
        "RoleBinding",
        "ServingRuntime",
    ]
    assert {item["metadata"]["namespace"] for item in found.values()} == {"team"}
    claim = found["PersistentVolumeClaim"]
    assert claim["metadata"]["name"] == pipeline_parameters()["volume_claim"].default
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"] and claim["spec"]["resources"]["requests"]["storage"]
    role, binding = found["Role"], found["RoleBinding"]
    assert {(item["apiGroups"][0], item["resources"][0]): item["verbs"] for item in role["rules"]} == ACCESS
    assert binding["roleRef"] == {
        "apiGroup": role["apiVersion"].partition("/")[0],
        "kind": "Role",
        "name": role["metadata"]["name"],
    }
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "default-editor", "namespace": "team"}]


def test_only_several_nodes_need_rights_for_train_jobs(capsys: pytest.CaptureFixture[str]) -> None:
    def roles(*settings: str) -> dict[str, Any]:
        assert main(["--manifests", "--set", "namespace=team", *settings]) == 0
        found = yaml.safe_load_all(capsys.readouterr().out)
        return {item["metadata"]["name"]: item["rules"] for item in found if item["kind"] == "Role"}

    assert "nlp-pipeline-train-job" not in roles()
    rules = roles("--set", "train_nodes=2")["nlp-pipeline-train-job"]
    assert {f"{verb} {rule['resources'][0]}" for rule in rules for verb in rule["verbs"]} == {
        *("get trainjobs", "create trainjobs", "delete trainjobs", "get trainingruntimes"),
        *("get pods", "list pods", "get pods/log"),
    }


def test_with_a_bucket_the_serving_account_has_the_secret(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "namespace=team", "model_store=s3://bucket/models")
    secret, account = found["Secret"], found["ServiceAccount"]
    assert secret["metadata"]["name"] == pipeline_parameters()["s3_secret"].default
    assert account["metadata"]["name"] == "nlp-pipeline-serving"
    assert account["secrets"] == [{"name": secret["metadata"]["name"]}]
    assert list(secret["stringData"]) == list(S3_KEYS) and "data" not in secret
    values = [*secret["stringData"].values(), *secret["metadata"]["annotations"].values()]
    assert all(isinstance(value, str) for value in values)
    assert secret["metadata"]["annotations"] == {
        "serving.kserve.io/s3-endpoint": secret["stringData"]["AWS_ENDPOINT_URL"].removeprefix("http://"),
        "serving.kserve.io/s3-usehttps": "0",
        "serving.kserve.io/s3-region": secret["stringData"]["AWS_REGION"],
    }


def test_placeholders_are_told_of_and_no_credentials_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for key in S3_KEYS:
        monkeypatch.setenv(key, "hidden")
    assert main(["--manifests", "--set", "namespace=team", "--set", "train_data=s3://bucket/rows.csv"]) == 0
    printed = capsys.readouterr()
    assert "AWS_SECRET_ACCESS_KEY: REPLACE-ME\n" in printed.out and "\nkind: ServiceAccount\n" not in printed.out
    assert "hidden" not in printed.out
    assert "note: the Secret holds REPLACE-ME" in printed.err and printed.err.count("\n") == 2


def test_names_are_the_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(
        capsys,
        *("namespace=team", "volume_claim=ours", "s3_secret=keys", "service_account=reader", "model_store=s3://bucket"),
        flags=("--steps-account", "team/runner", "--runtime-image", "registry.example/torchserve:1"),
    )
    names = {kind: item["metadata"]["name"] for kind, item in found.items()}
    assert (names["PersistentVolumeClaim"], names["Secret"], names["ServiceAccount"]) == ("ours", "keys", "reader")
    subject = {"kind": "ServiceAccount", "name": "runner", "namespace": "team"}
    assert found["RoleBinding"]["subjects"] == [subject]
    assert found["ServingRuntime"]["spec"]["containers"][0]["image"] == "registry.example/torchserve:1"


def subject_of(capsys: pytest.CaptureFixture[str], line: str) -> tuple[str, str]:
    """Returns the account that a printed RoleBinding names, and what is said on stderr."""
    assert main(["--manifests", *line.split()]) == 0
    text = capsys.readouterr()
    binding, _ = [item for item in yaml.safe_load_all(text.out) if item["kind"] == "RoleBinding"]
    (subject,) = binding["subjects"]
    return f"{subject['namespace']}/{subject['name']}", text.err


def test_bound_is_what_the_kind_of_kubeflow_runs_the_steps_as(capsys: pytest.CaptureFixture[str]) -> None:
    with kubeflow(tokens={"a-token": "team"}) as profiles, kubeflow() as alone:
        line = f"--set namespace=team --host {profiles.url}"
        assert subject_of(capsys, f"{line} --ca-cert /none")[0] == "team/default-editor"  # can't be asked so
        assert subject_of(capsys, f"--set namespace=serving --namespace team --host {alone.url}") == (
            "team/pipeline-runner",
            "",
        )
        assert subject_of(capsys, f"--set namespace=team --host {alone.url}") == ("kubeflow/pipeline-runner", "")
        account = "--service-account mine"
        assert subject_of(capsys, f"--set namespace=team --host {alone.url} {account}")[0] == "kubeflow/mine"
        assert subject_of(capsys, f"{line} --steps-account other/one") == ("other/one", "")


def test_with_profiles_it_is_default_editor(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NLP_PIPELINE_TOKEN", "a-token")
    with kubeflow(tokens={"a-token": "team"}) as profiles:
        assert subject_of(capsys, f"--namespace team --host {profiles.url}") == ("team/default-editor", "")


def test_where_the_kind_is_not_known_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    account, said = subject_of(capsys, "--set namespace=team")
    assert account == "team/default-editor" and "into .env); the steps are taken to run as team/default-ed" in said
    assert subject_of(capsys, "--set namespace=kubeflow")[0] == "kubeflow/pipeline-runner"


def test_steps_of_another_namespace_have_their_own_claim_and_secret(capsys: pytest.CaptureFixture[str]) -> None:
    def places(*settings: str) -> list[tuple[str, str]]:
        flags = [part for setting in settings for part in ("--set", setting)]
        assert main(["--manifests", "--steps-account", "kubeflow/pipeline-runner", *flags]) == 0
        items = yaml.safe_load_all(capsys.readouterr().out)
        named = [(item["kind"], item["metadata"]["namespace"]) for item in items]
        return [item for item in named if item[0] in ("PersistentVolumeClaim", "Secret")]

    claim, secret = "PersistentVolumeClaim", "Secret"
    assert places("namespace=team") == [(claim, "kubeflow"), (claim, "team")]
    assert places("namespace=team", "model_store=s3://bucket") == [
        (claim, "kubeflow"),
        (secret, "kubeflow"),
        (secret, "team"),
    ]


def test_accounts_that_kubernetes_would_refuse(capsys: pytest.CaptureFixture[str]) -> None:
    """A namespace's name has at most 63 characters, an account's 253."""
    for account in ("a/b/c", "Team/a", "n" * 64 + "/a", "team/" + "a" * 254):
        assert main(["--manifests", "--set", "namespace=team", "--steps-account", account]) == 2
        assert "is no service account" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "kinds"),
    [
        ("deploy=false", ["PersistentVolumeClaim"]),
        ("serving_runtime=huggingface", ["PersistentVolumeClaim", "Role", "RoleBinding"]),
    ],
)
def test_nothing_is_printed_that_is_not_needed(
    setting: str, kinds: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(printed(capsys, "namespace=team", setting)) == kinds


def test_without_a_namespace_kubectl_decides(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "deploy=false", "train_data=s3://bucket/rows.csv")
    assert list(found) == ["PersistentVolumeClaim", "Secret"]
    assert not any("namespace" in item["metadata"] for item in found.values())


@pytest.mark.parametrize(
    ("setting", "name", "image", "protocols"),
    [
        ("serving_runtime=auto", "nlp-pipeline-onnx", "nlp-pipeline-server", ["v1", "v2", "grpc-v2"]),
        ("serving_runtime=torchserve", "nlp-pipeline-torchserve", "nlp-pipeline-torchserve", ["v1"]),
    ],
)
def test_the_runtime_is_as_safe_as_kserves_and_taken_by_name_only(
    capsys: pytest.CaptureFixture[str], setting: str, name: str, image: str, protocols: list[str]
) -> None:
    runtime = printed(capsys, "namespace=team", setting)["ServingRuntime"]
    assert runtime["apiVersion"] == "serving.kserve.io/v1alpha1"
    assert runtime["metadata"]["name"] == name
    assert runtime["spec"]["supportedModelFormats"] == [{"name": "pytorch", "version": "1", "autoSelect": False}]
    assert runtime["spec"]["protocolVersions"] == protocols
    (container,) = runtime["spec"]["containers"]
    assert (container["name"], container["image"]) == ("kserve-container", f"{image}:{__version__}")
    security = container["securityContext"]
    assert security["runAsNonRoot"] and not security["privileged"] and not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]} and violations(runtime["spec"]) == []
    # Knative refuses it; where it is of use, the InferenceService has it.
    assert "lifecycle" not in container
    probe = container["readinessProbe"]
    if name == "nlp-pipeline-onnx":
        assert probe["httpGet"] == {
            "path": "/v2/models/{{.Name}}/ready",
            "port": container["ports"][0]["containerPort"],
        }
        assert security["readOnlyRootFilesystem"]
    else:
        assert probe["exec"]["command"][-2:] == ["--ready", "{{.Name}}"]
    # KServe's envelope would drop all requests of a batch but one.
    assert "env" not in container and "args" not in container
    assert admit(runtime, None, "Standard") == runtime


@pytest.mark.parametrize(
    ("line", "images"),
    [
        ("--server-image a/s:1", ["a/s:1"]),
        ("--server-image a/s:1 --runtime-image a/t:1", ["a/s:1", "a/t:1"]),
        ("--server-image a/s:1 --runtime-image a/t:1 --set serving_runtime=torchserve", ["a/t:1"]),
    ],
)
def test_the_runtimes_are_those_whose_images_are_given(
    capsys: pytest.CaptureFixture[str], line: str, images: list[str]
) -> None:
    assert main(["--manifests", "--set", "namespace=team", *line.split()]) == 0
    items = yaml.safe_load_all(capsys.readouterr().out)
    containers = [item["spec"]["containers"][0] for item in items if item["kind"] == "ServingRuntime"]
    assert [container["image"] for container in containers] == images
