"""The doctor on Vertex AI: each of its lines as it should be, as it should not be, and where it can't be known."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.vertex.cloud import DEFAULT_ACCOUNT, Cloud
from tests.vertex.conftest import TRAIN, Run

IMAGE = "us-central1-docker.pkg.dev/my-project/images/torchserve:1"
ACCOUNT = "runs@my-project.iam.gserviceaccount.com"
CPUS, SERVING = "quota training cpus", "quota serving cpus"
NAMES = [
    *("credentials", "project", "APIs", "region", "right to run", "bucket", "bucket's region", "right to write"),
    *("service account", CPUS, SERVING, "parameters", "compiled file", "image", "serving image"),
]
Json = dict[str, Any]


@pytest.fixture(autouse=True)
def well(cloud: Cloud) -> None:
    """A project in which nothing is missing."""
    cloud.around.quotas = {"us-central1/custom_model_training_cpus": 42, "/custom_model_serving_cpus": 30}
    cloud.around.tags = {"us-central1/my-project/images/torchserve:1"}


def examined(run: Run, *argv: str, code: int = 0) -> dict[str, Json]:
    """Returns the doctor's checks by name."""
    found, out, err = run("--doctor", *TRAIN, "--set", f"serving_image={IMAGE}", *argv, "--json")
    checks: dict[str, Json] = {one["name"]: one for one in json.loads(out)}
    missing = [name for name, one in checks.items() if one["required"] and one["ok"] is False]
    assert found == code == (2 if missing else 0), err
    assert err == (f"error: not ready for a run: {', '.join(missing)}\n" if missing else "")
    assert "\n" not in "".join(one["detail"] + one["remedy"] for one in checks.values())
    return checks


def test_all_is_well(cloud: Cloud, run: Run) -> None:
    found = examined(run, "--image", IMAGE)
    assert list(found) == NAMES
    marks = {name: one["ok"] for name, one in found.items()}
    assert marks == dict.fromkeys(NAMES, True) | {"right to write": None, "compiled file": None}
    assert cloud.changes == []
    details = {name: one["detail"] for name, one in found.items()}
    assert details["credentials"] == "as ann@my-project.iam.gserviceaccount.com"
    assert details["project"] == "my-project is there, number 123456789012"
    assert details["service account"] == f"runs may run as {DEFAULT_ACCOUNT}, the project's default"
    assert details[CPUS] == "42 in us-central1, a run needs 8; what is in use is not told"
    assert details["serving image"] == f"{IMAGE} is there"


def test_a_line_each(cloud: Cloud, run: Run) -> None:
    code, out, _ = run("--doctor", *TRAIN, "--set", f"serving_image={IMAGE}")
    lines = out.splitlines()
    assert code == 0 and len(lines) == len(NAMES) and lines[0].split(maxsplit=2)[1:] == [
        "credentials", "as ann@my-project.iam.gserviceaccount.com"
    ]  # fmt: skip


def test_no_credentials(cloud: Cloud, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    found = examined(run, code=2)
    assert list(found) == [*NAMES[:9], "quota", *NAMES[11:]]
    assert "run gcloud auth application-default login" in found["credentials"]["detail"]
    known = {name for name, one in found.items() if one["ok"] is not None}
    assert known == {"credentials", "parameters", "image"} and cloud.requests == []


def test_a_key_that_is_not_taken(cloud: Cloud, run: Run) -> None:
    cloud.identity.revoked = True
    found = examined(run, code=2)
    assert found["credentials"]["ok"] is False and "invalid_grant" in found["credentials"]["detail"]
    assert found["project"]["detail"] == "not signed in"


def test_no_project_and_no_bucket(cloud: Cloud, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = json.loads((tmp_path / "key.json").read_text())
    del key["project_id"]
    (tmp_path / "key.json").write_text(json.dumps(key))
    monkeypatch.delenv("NLP_PIPELINE_PROJECT")
    found = examined(run, code=2)
    assert (found["credentials"]["ok"], found["project"]["ok"]) == (True, False)
    assert found["project"]["remedy"] == "give --project NAME, or set NLP_PIPELINE_PROJECT"
    monkeypatch.setenv("NLP_PIPELINE_PROJECT", "my-project")
    monkeypatch.delenv("NLP_PIPELINE_BUCKET")
    found = examined(run, code=2)
    assert found["bucket"]["remedy"] == "give --bucket gs://NAME, or set NLP_PIPELINE_BUCKET"
    assert (found["right to write"]["ok"], found["right to write"]["detail"]) == (None, "no bucket is set")


def test_another_project(cloud: Cloud, run: Run) -> None:
    found = examined(run, "--project", "your-project")
    assert found["project"]["ok"] is None and "403: Permission denied on resource" in found["project"]["detail"]
    cloud.around.state = "DELETE_REQUESTED"
    assert examined(run, code=2)["project"]["detail"] == "my-project is delete requested"


def test_apis(cloud: Cloud, run: Run) -> None:
    cloud.around.enabled -= {"aiplatform", "iam"}
    found = examined(run, code=2)["APIs"]
    assert found["detail"] == "not enabled: aiplatform.googleapis.com, iam.googleapis.com"
    assert found["remedy"] == (
        "gcloud services enable aiplatform.googleapis.com iam.googleapis.com --project my-project"
    )
    cloud.around.granted.discard("serviceusage.services.get")
    assert examined(run)["APIs"]["ok"] is None


def test_a_region_without_vertex_ai(cloud: Cloud, run: Run) -> None:
    found = examined(run, "--region", "us-central2", code=2)["region"]
    assert found["detail"] == "Vertex AI is not in us-central2" and found["remedy"] == "did you mean us-central1?"
    cloud.refuse(503, "away", times=99, on="/pipelineJobs")
    found = examined(run)["region"]
    assert found["ok"] is None and found["detail"] == "listing runs: 503: away"


def test_rights(cloud: Cloud, run: Run) -> None:
    cloud.around.granted -= {"aiplatform.pipelineJobs.create", "aiplatform.pipelineJobs.list"}
    found = examined(run, code=2)
    assert found["right to run"]["detail"] == (
        "ann@my-project.iam.gserviceaccount.com lacks aiplatform.pipelineJobs.create, aiplatform.pipelineJobs.list"
    )
    assert "roles/aiplatform.user" in found["right to run"]["remedy"] and found["region"]["ok"] is True


def test_the_bucket(cloud: Cloud, run: Run) -> None:
    found = examined(run, "--bucket", "gs://flims", code=2)
    assert found["bucket"]["remedy"].startswith("gcloud storage buckets create gs://flims --project my-project")
    assert found["bucket's region"]["ok"] is found["right to write"]["ok"] is None
    for location, near in (("EU", False), ("US", True), ("EUROPE-WEST4", False), ("US-CENTRAL1", True)):
        cloud.around.buckets["films"] = location
        found = examined(run)
        assert found["bucket's region"]["ok"] is near and not found["bucket's region"]["required"]
    cloud.around.granted.discard("storage.buckets.get")
    found = examined(run)
    assert found["bucket"]["ok"] is None and "storage.buckets.get" in found["bucket"]["detail"]
    assert "may; runs run as the project's default account" in found["right to write"]["detail"]


def test_the_right_to_write_is_known_of_who_asks_alone(cloud: Cloud, run: Run) -> None:
    own = "ann@my-project.iam.gserviceaccount.com"
    cloud.around.accounts[own] = False
    assert examined(run, "--service-account", own)["right to write"]["ok"] is True
    cloud.around.granted.discard("storage.objects.create")
    found = examined(run, "--service-account", own, code=2)["right to write"]
    assert found["detail"] == f"{own} lacks storage.objects.create" and "roles/storage.objectAdmin" in found["remedy"]
    assert "may not; runs run as" in examined(run)["right to write"]["detail"]


def test_the_service_account(cloud: Cloud, run: Run) -> None:
    assert examined(run, "--service-account", ACCOUNT)["service account"]["detail"] == f"runs may run as {ACCOUNT}"
    cloud.around.accounts[ACCOUNT] = True
    found = examined(run, "--service-account", ACCOUNT, code=2)["service account"]
    assert found["remedy"] == f"gcloud iam service-accounts enable {ACCOUNT}"
    other = "no@my-project.iam.gserviceaccount.com"
    found = examined(run, "--service-account", other, code=2)["service account"]
    assert found["detail"] == f"{other} is not there"
    cloud.around.granted.discard("iam.serviceAccounts.actAs")
    found = examined(run, code=2)["service account"]
    assert f"may not let runs run as {DEFAULT_ACCOUNT}" in found["detail"] and "serviceAccountUser" in found["remedy"]
    cloud.around.granted |= {"iam.serviceAccounts.actAs"}
    cloud.around.granted -= {"iam.serviceAccounts.get", "resourcemanager.projects.get"}
    # The default account's name has the project's number in it.
    assert examined(run)["service account"]["detail"] == "the project's number is not known"
    assert examined(run, "--service-account", ACCOUNT)["service account"]["ok"] is True


def test_quotas(cloud: Cloud, run: Run) -> None:
    cloud.around.quotas |= {"us-central1/custom_model_training_cpus": 4, "/custom_model_training_nvidia_t4_gpus": -1}
    gpu = ("--set", "train_accelerator=NVIDIA_TESLA_T4", "--set", "train_gpus=2")
    found = examined(run, *gpu, "--set", "serving_machine_type=c2-standard-4", code=2)
    assert found[CPUS]["detail"] == "4 in us-central1, and a run needs 8"
    assert found[CPUS]["remedy"].endswith("iam-admin/quotas?project=my-project")
    assert found["quota training nvidia t4 gpus"]["detail"].startswith("no limit in us-central1, a run needs 2;")
    other = found["quota serving c2 cpus"]
    assert other["ok"] is None and not other["required"] and "404" in other["detail"]
    # Two machines at least; and none where nothing is deployed.
    found = examined(run, "--set", "min_replicas=2", "--set", "max_replicas=2", code=2)
    assert "a run needs 4" in found[SERVING]["detail"]
    assert SERVING not in examined(run, "--set", "deploy=false", code=2)
    cloud.around.granted.discard("serviceusage.quotas.get")
    assert examined(run)[CPUS]["ok"] is None


def test_parameters(cloud: Cloud, run: Run) -> None:
    found = examined(run, "--set", "epochs=0", code=2)["parameters"]
    assert found["detail"] == "epochs is 0.0: it must be above 0"
    code, out, _ = run("--doctor", "--set", "deploy=false", "--json")
    checks = {one["name"]: one for one in json.loads(out)}
    assert code == 0 and checks["parameters"]["ok"] is None and "train_data" in checks["parameters"]["detail"]
    assert checks["serving image"]["detail"] == "not needed with deploy=false"
    assert run("--doctor", "--set", "epoch=1")[0] == 2


def test_the_compiled_file(cloud: Cloud, run: Run) -> None:
    assert run("--compile", "--platform", "vertex")[0] == 0
    assert examined(run)["compiled file"]["detail"] == "compiled/nlp_pipeline_vertex.yaml is current"
    Path("compiled/nlp_pipeline_vertex.yaml").write_text("# old\n")
    found = examined(run)["compiled file"]
    assert (found["ok"], found["required"], found["remedy"]) == (False, False, "--compile writes it anew")


def test_images(cloud: Cloud, run: Run) -> None:
    other = IMAGE.replace("torchserve:1", "team/torchserve")
    found = examined(run, "--image", IMAGE, "--set", f"serving_image={other}", code=2)
    assert found["image"]["ok"] is True and found["serving image"]["remedy"] == f"docker push {other}"
    cloud.around.tags.add("us-central1/my-project/images/team/torchserve:latest")
    assert examined(run, "--set", f"serving_image={other}")["serving image"]["ok"] is True
    digest = f"{other}@sha256:{'0' * 64}"
    assert examined(run, "--set", f"serving_image={digest}", code=2)["serving image"]["ok"] is False
    found = examined(run, "--set", "serving_image=docker.io/x/torchserve:1")["serving image"]
    assert found["ok"] is None and "not in Artifact Registry" in found["detail"]
    cloud.around.granted.discard("artifactregistry.tags.get")
    assert examined(run)["serving image"]["ok"] is None
    found = examined(run, "--set", "serving_image=", code=2)
    assert found["serving image"]["detail"] == "deploy is true, and serving_image is not set"
