"""What a namespace needs: whether it fits together, and whether an API server would take it."""

from typing import Any

import pytest
import yaml

from nlp_pipeline import __version__
from nlp_pipeline.cli import main
from nlp_pipeline.deploy.cluster import ACCESS
from nlp_pipeline.pipeline.kubeflow import S3_KEYS
from nlp_pipeline.pipeline.parameters import pipeline_parameters
from tests.fakes.kubernetes.admission import admit

Json = dict[str, Any]


def printed(capsys: pytest.CaptureFixture[str], *settings: str, flags: tuple[str, ...] = ()) -> dict[str, Json]:
    """Returns the objects that are printed, by kind; each has a comment before it."""
    assert main(["--manifests", *(part for setting in settings for part in ("--set", setting)), *flags]) == 0
    text = capsys.readouterr().out
    assert all(part.startswith("# ") for part in text.split("---\n"))
    found = list(yaml.safe_load_all(text))
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
    assert printed.err.startswith("note: the Secret holds REPLACE-ME") and printed.err.count("\n") == 1


def test_names_are_the_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(
        capsys,
        *("namespace=team", "volume_claim=ours", "s3_secret=keys", "service_account=reader", "model_store=s3://bucket"),
        flags=("--steps-account", "kubeflow/pipeline-runner", "--runtime-image", "registry.example/torchserve:1"),
    )
    names = {kind: item["metadata"]["name"] for kind, item in found.items()}
    assert (names["PersistentVolumeClaim"], names["Secret"], names["ServiceAccount"]) == ("ours", "keys", "reader")
    subject = {"kind": "ServiceAccount", "name": "pipeline-runner", "namespace": "kubeflow"}
    assert found["RoleBinding"]["subjects"] == [subject]
    assert found["ServingRuntime"]["spec"]["containers"][0]["image"] == "registry.example/torchserve:1"


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


def test_the_runtime_is_as_safe_as_kserves_and_taken_by_name_only(capsys: pytest.CaptureFixture[str]) -> None:
    runtime = printed(capsys, "namespace=team")["ServingRuntime"]
    assert runtime["apiVersion"] == "serving.kserve.io/v1alpha1"
    assert runtime["metadata"]["name"] == "nlp-pipeline-torchserve"
    assert runtime["spec"]["supportedModelFormats"] == [{"name": "pytorch", "version": "1", "autoSelect": False}]
    assert runtime["spec"]["protocolVersions"] == ["v1"]
    (container,) = runtime["spec"]["containers"]
    assert (container["name"], container["image"]) == ("kserve-container", f"nlp-pipeline-torchserve:{__version__}")
    security = container["securityContext"]
    assert security["runAsNonRoot"] and not security["privileged"] and not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert container["readinessProbe"]["exec"]["command"][-2:] == ["--ready", "{{.Name}}"]
    # KServe's envelope would drop all requests of a batch but one.
    assert "env" not in container and "args" not in container
    assert admit(runtime, None, "Standard") == runtime
