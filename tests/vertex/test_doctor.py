"""The doctor on Vertex AI: each of its lines as it should be, as it should not be, and where it can't be known."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.vertex.cloud import ACCOUNT, DEFAULT_ACCOUNT, Cloud
from tests.fakes.vertex.identity import EMAIL
from tests.vertex.conftest import TRAIN, Run

IMAGE = "us-central1-docker.pkg.dev/my-project/images/torchserve:1"
OTHER_IMAGE = IMAGE.replace("torchserve:1", "team/torchserve")
CPUS, SERVING = "quota training cpus", "quota serving cpus"
NAMES = [
    *("credentials", "project", "APIs", "region", "right to run", "bucket", "right to write"),
    *("service account", CPUS, SERVING, "parameters", "image", "serving image"),
]
GPU = ("--set", "train_accelerator=NVIDIA_TESLA_T4", "--set", "train_gpus=2")
Json = dict[str, Any]


@pytest.fixture(autouse=True)
def well(cloud: Cloud) -> None:
    """A project in which nothing is missing."""
    cloud.around.quotas = {"us-central1/custom_model_training_cpus": 42, "/custom_model_serving_cpus": 30}
    cloud.around.tags = {"us-central1/my-project/images/torchserve:1"}


def examined(run: Run, *argv: str) -> dict[str, Json]:
    code, out, err = run("--doctor", *TRAIN, "--set", f"serving_image={IMAGE}", *argv, "--json")
    checks: dict[str, Json] = {item["name"]: item for item in json.loads(out)}
    missing = [name for name, item in checks.items() if item["required"] and item["ok"] is False]
    assert code == (2 if missing else 0), err
    assert err == (f"error: not ready for a run: {', '.join(missing)}\n" if missing else "")
    assert "\n" not in "".join(item["detail"] + item["remedy"] for item in checks.values())
    return checks


def test_all_is_well(cloud: Cloud, run: Run) -> None:
    findings = examined(run, "--image", IMAGE)
    assert list(findings) == NAMES
    marks = {name: item["ok"] for name, item in findings.items()}
    assert marks == dict.fromkeys(NAMES, True) | {"right to write": None}
    assert cloud.changes == []
    details = {name: item["detail"] for name, item in findings.items()}
    assert details["credentials"] == f"as {EMAIL}"
    assert details["project"] == "my-project is there, number 123456789012"
    assert details["service account"] == f"runs may run as {DEFAULT_ACCOUNT}, the project's default"
    assert details[CPUS] == "42 in us-central1, a run needs 8; what is in use is not told"
    assert details["serving image"] == f"{IMAGE} is there"
    lines = run("--doctor", *TRAIN, "--set", f"serving_image={IMAGE}")[1].splitlines()
    assert len(lines) == len(NAMES) and lines[0].split() == ["✓", "credentials", "as", EMAIL]


def denied(*permissions: str) -> Callable[[Cloud], None]:
    return lambda cloud: cloud.around.granted.difference_update(permissions)


def there(**changed: Any) -> Callable[[Cloud], None]:
    """Changes what is around: a value is replaced, a dictionary or a set is added to."""

    def change(cloud: Cloud) -> None:
        for name, value in changed.items():
            former = getattr(cloud.around, name)
            setattr(cloud.around, name, value if isinstance(value, str) else former | value)

    return change


def nothing(cloud: Cloud) -> None:
    """Changes nothing."""


# What is changed, arguments, the check, whether it is well, what it says, and what remedies it.
Scenario = tuple[Callable[[Cloud], None], tuple[str, ...], str, bool | None, str, str]
SCENARIOS: list[Scenario] = [
    (nothing, ("--project", "your-project"), "project", None, "403: Permission denied on resource", ""),
    (
        lambda cloud: cloud.around.enabled.difference_update({"aiplatform", "iam"}),
        (),
        *("APIs", False, "not enabled: aiplatform.googleapis.com, iam.googleapis.com"),
        "gcloud services enable aiplatform.googleapis.com iam.googleapis.com --project my-project",
    ),
    (
        nothing,
        ("--region", "us-central2"),
        *("region", False, "Vertex AI is not in us-central2: did you mean us-central1?", ""),
    ),
    (
        denied("aiplatform.pipelineJobs.create", "aiplatform.pipelineJobs.list"),
        (),
        *("right to run", False, f"{EMAIL} lacks aiplatform.pipelineJobs.create, aiplatform.pipelineJobs.list"),
        "roles/aiplatform.user",
    ),
    (
        nothing,
        ("--bucket", "gs://flims"),
        *("bucket", False, "404", "gcloud storage buckets create gs://flims --project my-project"),
    ),
    (denied("storage.buckets.get"), (), "bucket", None, "storage.buckets.get", ""),
    (there(buckets={"films": "EU"}), (), "bucket", False, "is in EU, and runs are in us-central1: what runs", ""),
    (there(buckets={"films": "US"}), (), "bucket", True, "gs://films is in US, and runs are in us-central1", ""),
    # Whether runs may write is known of who asks alone.
    (there(accounts={EMAIL: False}), ("--service-account", EMAIL), "right to write", True, "which runs run as", ""),
    (denied("storage.objects.create"), (), "right to write", None, "may not; runs run as", ""),
    (
        denied("storage.objects.create"),
        ("--service-account", EMAIL),
        *("right to write", False, f"{EMAIL} lacks storage.objects.create", "roles/storage.objectAdmin"),
    ),
    (
        there(accounts={ACCOUNT: True}),
        ("--service-account", ACCOUNT),
        *("service account", False, "is disabled", f"gcloud iam service-accounts enable {ACCOUNT}"),
    ),
    (nothing, ("--service-account", "no@x.com"), "service account", False, "no@x.com is not there", "give another"),
    (
        denied("iam.serviceAccounts.actAs"),
        (),
        *("service account", False, f"may not let runs run as {DEFAULT_ACCOUNT}", "serviceAccountUser"),
    ),
    # The default account's name has the project's number in it.
    (denied("resourcemanager.projects.get"), (), "service account", None, "the project's number is not known", ""),
    (
        there(quotas={"us-central1/custom_model_training_cpus": 4}),
        (),
        *(CPUS, False, "4 in us-central1, and a run needs 8", "iam-admin/quotas?project=my-project"),
    ),
    (
        there(quotas={"/custom_model_training_nvidia_t4_gpus": -1}),
        GPU,
        *("quota training nvidia t4 gpus", True, "no limit in us-central1, a run needs 2;", ""),
    ),
    (nothing, ("--set", "serving_machine_type=c2-standard-4"), "quota serving c2 cpus", None, "404", ""),
    (nothing, ("--set", "min_replicas=2", "--set", "max_replicas=2"), SERVING, True, "a run needs 4", ""),
    (nothing, ("--set", "epochs=0"), "parameters", False, "epochs is 0.0: it must be above 0", ""),
    (nothing, ("--set", "deploy=false"), "serving image", None, "not needed with deploy=false", ""),
    (
        nothing,
        ("--set", f"serving_image={OTHER_IMAGE}"),
        *("serving image", False, "404", f"docker push {OTHER_IMAGE}"),
    ),
    (
        there(tags={"us-central1/my-project/images/team/torchserve:latest"}),
        ("--set", f"serving_image={OTHER_IMAGE}"),
        *("serving image", True, "is there", ""),
    ),
    (nothing, ("--set", "serving_image=docker.io/x/y:1"), "serving image", None, "not in Artifact Registry", ""),
    (nothing, ("--set", "serving_image="), "serving image", False, "serving_image is not set", "build the Dockerfile"),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: f"{scenario[2]}: {scenario[4][:40]}")
def test_each_line(scenario: Scenario, cloud: Cloud, run: Run) -> None:
    change, argv, name, ok, detail, remedy = scenario
    change(cloud)
    finding = examined(run, *argv)[name]
    assert finding["ok"] is ok and detail in finding["detail"] and remedy in finding["remedy"], finding
    assert finding["required"] is ("crosses regions" not in finding["detail"])


def test_no_credentials(cloud: Cloud, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    findings = examined(run)
    assert list(findings) == NAMES
    assert "run gcloud auth application-default login" in findings["credentials"]["detail"]
    known = {name for name, item in findings.items() if item["ok"] is not None}
    assert known == {"credentials", "region", "parameters", "image"} and cloud.requests == []


def test_no_project_and_no_bucket(cloud: Cloud, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = json.loads((tmp_path / "key.json").read_text())
    del key["project_id"]
    (tmp_path / "key.json").write_text(json.dumps(key))
    monkeypatch.delenv("NLP_PIPELINE_PROJECT")
    findings = examined(run)
    assert (findings["credentials"]["ok"], findings["project"]["ok"]) == (True, False)
    assert findings["project"]["remedy"] == "give --project NAME, or set NLP_PIPELINE_PROJECT"
    monkeypatch.setenv("NLP_PIPELINE_PROJECT", "my-project")
    monkeypatch.delenv("NLP_PIPELINE_BUCKET")
    findings = examined(run)
    assert findings["bucket"]["remedy"] == "give --bucket gs://NAME, or set NLP_PIPELINE_BUCKET"
    assert (findings["bucket"]["ok"], findings["right to write"]["ok"]) == (False, None)


def test_without_data(cloud: Cloud, run: Run) -> None:
    code, out, _ = run("--doctor", "--set", "deploy=false", "--json")
    checks = {item["name"]: item for item in json.loads(out)}
    assert code == 0 and checks["parameters"]["ok"] is None and "train_data" in checks["parameters"]["detail"]
    assert SERVING not in checks
    assert run("--doctor", "--set", "epoch=1")[0] == 2
