"""The compiled pipeline, run as Vertex AI would: every step by its own command line, Google's by their real launchers.

What answers predictions is a real TorchServe with the release that the run made.
"""

import contextlib
import csv
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from nlp_pipeline.pipeline.compiling import compile_pipeline
from nlp_pipeline.pipeline.embedding import step_containers
from nlp_pipeline.serving.local_server import served
from tests.conftest import make_rows
from tests.fakes.vertex.backend import Backend, FailedError, through
from tests.fakes.vertex.cloud import PLACE, Cloud

pytestmark = pytest.mark.slow
IMAGE = "us-central1-docker.pkg.dev/my-project/models/torchserve:1"
# Everything that a run does where nothing is there yet, in the order of a group's tasks.
STEPS = ["prepare-vertex", "load-data", "train-model", "evaluate-model", "archive-model", "validate-archive"]
FIRST = [*STEPS, "plan-vertex-deployment", "importer", "model-upload", "endpoint-create", "model-deploy"]
NEXT = ["plan-vertex-deployment", "importer", "importer-2", "model-upload-2", "importer-3", "model-deploy"]


def steps(backend: Backend) -> list[str]:
    return [name for name in backend.done if not name.startswith("condition-")]


def test_from_rows_to_a_checked_endpoint_and_the_next_version(
    cloud: Cloud, tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    through(cloud.url, monkeypatch.setattr)
    ir = yaml.safe_load(compile_pipeline(pipeline="vertex"))
    for container in step_containers(ir):
        container["command"] = container["command"][-3:]  # without pip
    backend = Backend(ir, tmp_path / "run")
    jobs: list[Any] = []

    def run_job(job: Any) -> None:
        jobs.append(job)
        (pool,) = job.job_spec.worker_pool_specs
        backend.start([*pool.container_spec.command, *pool.container_spec.args], job.display_name)

    cloud.serving.run_job = run_job
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *make_rows(300)])
    parameters: dict[str, Any] = {
        "train_data": str(tmp_path / "rows.csv"),
        "base_model": str(encoder),
        "model_name": "tiny",
    }
    parameters |= {"epochs": 8.0, "learning_rate": 2e-3, "batch_size": 16, "max_length": 32, "validation_rows": 20}
    parameters |= {"serving_image": IMAGE, "endpoint_rows": 20, "train_accelerator": "NVIDIA_TESLA_T4", "train_gpus": 1}
    parameters |= {"job_service_account": "jobs@my-project.iam.gserviceaccount.com"}

    with contextlib.ExitStack() as servers:
        addresses: dict[str, str] = {}

        def answer(instances: list[Any]) -> list[Any]:
            """Answers as the served release does."""
            if not addresses:
                release = backend.buckets / "bucket" / "runs" / "archive-model" / "release"
                addresses["good"] = servers.enter_context(served(release)).address
            result = httpx.post(addresses["good"], json={"instances": instances}, timeout=60, trust_env=False)
            return list(result.json()["predictions"])

        cloud.serving.versions = {"1": answer, "2": lambda texts: [{"label": "0", "score": 1.0} for _ in texts]}
        backend.run(parameters)
        assert sorted(steps(backend)) == sorted([*FIRST, "check-vertex-endpoint"])
        check_first_version(cloud, jobs)
        check_artifacts(backend)

        # The same release again, on a GPU: a second version, which answers wrongly, and so is taken away again.
        changed = {"serving_accelerator": "NVIDIA_L4", "serving_gpus": 1}
        inputs = backend.done["condition-2"][0]
        inputs = {name: changed.get(name.rpartition("-")[2], value) for name, value in inputs.items()}
        backend.done.clear()
        with pytest.raises(
            FailedError, match=r"rolled back: .*; the new version has been undeployed, and the former one"
        ):
            backend.run_component("comp-condition-2", inputs)
        assert sorted(steps(backend)) == sorted(NEXT)
        check_second_version(cloud)


def check_first_version(cloud: Cloud, jobs: list[Any]) -> None:
    assert [job.display_name for job in jobs] == ["train-model", "evaluate-model"]
    for job in jobs:
        machine = job.job_spec.worker_pool_specs[0].machine_spec
        assert machine.machine_type == "n1-standard-8" and machine.accelerator_type.name == "NVIDIA_TESLA_T4"
        assert machine.accelerator_count == 1
        assert job.job_spec.service_account == "jobs@my-project.iam.gserviceaccount.com"
    ((version,),) = cloud.serving.models.values()
    assert version.display_name == "tiny" and version.container_spec.image_uri == IMAGE
    assert version.container_spec.predict_route == "/v1/models/tiny:predict"
    assert version.container_spec.health_route == "/ping" and version.container_spec.ports[0].container_port == 8080
    assert version.artifact_uri == "gs://bucket/runs/archive-model/release"
    assert len(version.labels["nlp-pipeline-release"]) == 16
    (endpoint,) = cloud.serving.endpoints.values()
    (deployed,) = endpoint.deployed_models
    assert endpoint.display_name == "tiny" and dict(endpoint.traffic_split) == {deployed.id: 100}
    resources = deployed.dedicated_resources
    assert resources.machine_spec.machine_type == "n1-standard-2" and resources.min_replica_count == 1


def check_artifacts(backend: Backend) -> None:
    """Makes sure that all that a run writes are its artifacts, in Cloud Storage."""
    release = backend.done["archive-model"][1]["release"]
    assert release["uri"] == "gs://bucket/runs/archive-model/release"
    assert release["metadata"]["release"].endswith("/archive-model/release")
    assert (backend.buckets / release["uri"].removeprefix("gs://") / "release.json").is_file()
    inputs = backend.done["check-vertex-endpoint"][0]
    assert inputs["model"]["metadata"] == {"resourceName": f"{PLACE}/models/1000@1"}
    assert inputs["model"]["uri"].endswith(f".googleapis.com/v1/{PLACE}/models/1000@1")
    assert inputs["endpoint"]["metadata"] == {"resourceName": f"{PLACE}/endpoints/2000"}
    assert backend.done["check-vertex-endpoint"][1]["deployment"]["metadata"]["agreement"] == 1.0


def check_second_version(cloud: Cloud) -> None:
    """Makes sure that the second version is one of the same model, and that the first one serves alone again."""
    ((first, second),) = cloud.serving.models.values()
    assert first.name == second.name and (first.version_id, second.version_id) == ("1", "2")
    assert "default" in first.version_aliases and "default" not in second.version_aliases
    (endpoint,) = cloud.serving.endpoints.values()
    (deployed,) = endpoint.deployed_models
    assert deployed.model_version_id == "1" and dict(endpoint.traffic_split) == {deployed.id: 100}
    asked = [item for item in cloud.requests if item.path.endswith(":deployModel")]
    assert b'"traffic_split": {"0": "10", "3' in asked[-1].body and b'"NVIDIA_L4"' in asked[-1].body
