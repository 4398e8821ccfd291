"""What Google's steps send: JSON, and what it should say, whatever a user writes into a parameter."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from google.cloud import aiplatform_v1, aiplatform_v1beta1
from google.protobuf import json_format
from google_cloud_pipeline_components.container.preview.custom_job import remote_runner as job_runner
from google_cloud_pipeline_components.container.v1.gcp_launcher.utils import json_util
from google_cloud_pipeline_components.container.v1.model.upload_model import remote_runner as upload_runner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nlp_pipeline.errors import UsageError
from nlp_pipeline.pipeline.compiling import compile_pipeline
from nlp_pipeline.pipeline.vertex_components import prepare_vertex
from tests.fakes.vertex.backend import Backend
from tests.fakes.vertex.cloud import PLACE, PROJECT, REGION

Json = dict[str, Any]
GOOD: Json = {
    "project": PROJECT,
    "location": REGION,
    "model_name": "reviews",
    "base_model": "distilbert/distilbert-base-uncased",
    "deploy": True,
    "train_machine_type": "n1-standard-8",
    "train_accelerator": "NVIDIA_TESLA_T4",
    "train_gpus": 2,
    "job_service_account": "jobs@my-project.iam.gserviceaccount.com",
    "serving_image": "us-central1-docker.pkg.dev/my-project/models/torchserve:1",
    "serving_machine_type": "g2-standard-4",
    "serving_accelerator": "NVIDIA_L4",
    "serving_gpus": 1,
    "serving_service_account": "123456-compute@developer.gserviceaccount.com",
    "endpoint": f"projects/{PROJECT}/locations/{REGION}/endpoints/12345",
    "canary_percent": 10,
    "min_replicas": 1,
    "max_replicas": 3,
    "endpoint_timeout": 600,
}
TEXTS = sorted(name for name, value in GOOD.items() if isinstance(value, str))
SIGNS = [
    *('"', '", "service_account": "x@y.z', "\\", "a\\", "\n", "n1-standard-8\n", "{}", "}}", "'", "\u2028", "\0", "é"),
    *("{{$}}", "{{$.pipeline_job_uuid}}", "{{$.inputs.parameters['project']}}", "a" * 3000, " ", "../x", "a b"),
]
HOSTILE = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.text("azAZ09-._/:@", max_size=40),
    st.sampled_from(SIGNS),
)


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """The compiled pipeline's command lines."""
    ir = yaml.safe_load(compile_pipeline(pipeline="vertex"))
    yield Backend(ir, tmp_path_factory.mktemp("payloads"))


def prepared(values: Json) -> Json:
    """Returns the outputs of the step that checks parameters."""
    result = prepare_vertex.python_func(**values)
    return dict(zip(prepare_vertex.component_spec.outputs, result, strict=True))


def artifact(name: str, **metadata: Any) -> Json:
    """Returns an artifact as a step's input has it."""
    return {"name": name, "uri": f"gs://films/{name}", "metadata": metadata}


def argument(command: list[str], flag: str) -> str:
    """Returns what stands behind a flag in a command line."""
    return command[command.index(flag) + 1]


def job_of(command: list[str]) -> Any:
    """Returns the custom job that Google's launcher makes of a command line, as the API's message."""
    payload = job_runner.insert_system_labels_into_payload(
        job_runner.parse_nested_json_strings(argument(command, "--payload"))
    )
    return aiplatform_v1beta1.CustomJob(json_util.recursive_remove_empty(json.loads(payload, strict=False)))


def message(kind: Any, fields: Json) -> Any:
    """Returns JSON as the API's message; a field that it does not have is an error."""
    return kind(json_format.ParseDict(fields, kind.pb(kind())))


def train(values: Json, **inputs: Any) -> Json:
    """Returns the inputs of the training step."""
    checked = prepared(values)
    return {
        "train": artifact("train", rows=3),
        **{"base_model": values["base_model"], "model_name": "reviews", "run_id": "1"},
        **{"epochs": 2.0, "learning_rate": 5e-5, "batch_size": 32, "max_length": 128, "weight_decay": 0.01},
        **{"warmup_share": 0.1, "max_train_rows": 0, "max_steps": 0, "seed": 42},
        "machine_type": checked["train_machine_type"],
        "accelerator_type": checked["train_accelerator"],
        "accelerator_count": values["train_gpus"],
        "service_account": checked["job_service_account"],
        "project": checked["project"],
        "location": checked["location"],
        **inputs,
    }


def check_job(backend: Backend, values: Json) -> None:
    """Makes sure that the training job is what the parameters say."""
    command, _ = backend.command("comp-train-model", train(values))
    job = job_of(command)
    (pool,) = job.job_spec.worker_pool_specs
    machine = pool.machine_spec
    assert machine.machine_type == values["train_machine_type"]
    assert machine.accelerator_type.name == (values["train_accelerator"] or "ACCELERATOR_TYPE_UNSPECIFIED")
    assert machine.accelerator_count == values["train_gpus"]
    assert job.job_spec.service_account == values["job_service_account"]
    assert (argument(command, "--project"), argument(command, "--location")) == (values["project"], values["location"])
    assert inputs_of(pool)["parameterValues"]["base_model"] == values["base_model"]


def inputs_of(pool: Any) -> Json:
    """Returns the inputs that a custom job's container finds in its command line."""
    result: Json = json.loads(argument(list(pool.container_spec.args), "--executor_input"))["inputs"]
    return result


def check_upload(backend: Backend, values: Json) -> None:
    """Makes sure that the uploaded model is what the parameters say."""
    checked = prepared(values)
    container = {"imageUri": checked["serving_image"], "ports": [{"containerPort": 8080}], "healthRoute": "/ping"}
    inputs = {
        "display_name": checked["model_name"],
        "labels": {"nlp-pipeline-release": "0123456789abcdef"},
        "project": checked["project"],
        "location": checked["location"],
        "unmanaged_container_model": artifact("release", containerSpec=container),
    }
    for name, parent in (("comp-model-upload", ""), ("comp-model-upload-2", f"{PLACE}/models/7")):
        more = {"parent_model": artifact("parent", resourceName=parent)} if parent else {}
        command, _ = backend.command(name, {**inputs, **more})
        assert ("--parent_model_name" in command) is bool(parent)
        assert not parent or argument(command, "--parent_model_name") == parent
        model = upload_runner.append_unmanaged_model_artifact_into_payload(
            argument(command, "--executor_input"), json.loads(argument(command, "--payload"), strict=False)
        )
        result = message(aiplatform_v1.UploadModelRequest, {"model": json_util.recursive_remove_empty(model)}).model
        assert result.display_name == values["model_name"] and dict(result.labels) == inputs["labels"]
        assert result.container_spec.image_uri == values["serving_image"]
        assert result.artifact_uri == "gs://films/release"


def check_endpoint(backend: Backend, values: Json) -> None:
    """Makes sure that the endpoint, and what is deployed to it, are what the parameters say."""
    checked = prepared(values)
    place = {"project": checked["project"], "location": checked["location"]}
    command, _ = backend.command("comp-endpoint-create", {"display_name": checked["model_name"], **place})
    made = json_util.recursive_remove_empty(json.loads(argument(command, "--payload"), strict=False))
    assert message(aiplatform_v1.Endpoint, made).display_name == values["model_name"]
    inputs = {
        "model": artifact("model", resourceName=f"{PLACE}/models/7@2"),
        "endpoint": artifact("endpoint", resourceName=f"{PLACE}/endpoints/5"),
        "traffic_split": {"0": "10", "3": "90"},
        "dedicated_resources_machine_type": checked["serving_machine_type"],
        "dedicated_resources_accelerator_type": checked["serving_accelerator"],
        "dedicated_resources_accelerator_count": values["serving_gpus"],
        "dedicated_resources_min_replica_count": values["min_replicas"],
        "dedicated_resources_max_replica_count": values["max_replicas"],
        "service_account": checked["serving_service_account"],
    }
    command, _ = backend.command("comp-model-deploy", inputs)
    asked = message(
        aiplatform_v1.DeployModelRequest,
        json_util.recursive_remove_empty(json.loads(argument(command, "--payload"), strict=False)),
    )
    assert asked.endpoint == f"{PLACE}/endpoints/5" and dict(asked.traffic_split) == {"0": 10, "3": 90}
    deployed = asked.deployed_model
    assert deployed.model == f"{PLACE}/models/7@2" and deployed.service_account == values["serving_service_account"]
    resources, machine = deployed.dedicated_resources, deployed.dedicated_resources.machine_spec
    assert machine.machine_type == values["serving_machine_type"]
    assert machine.accelerator_type.name == (values["serving_accelerator"] or "ACCELERATOR_TYPE_UNSPECIFIED")
    assert machine.accelerator_count == values["serving_gpus"]
    assert (resources.min_replica_count, resources.max_replica_count) == (1, 3)
    assert not deployed.automatic_resources and not deployed.explanation_spec


def test_with_accelerators(backend: Backend) -> None:
    for check in (check_job, check_upload, check_endpoint):
        check(backend, GOOD)


def test_without_accelerators_and_accounts(backend: Backend) -> None:
    empty = {name: "" for name in TEXTS if name.endswith(("_accelerator", "_account")) or name == "endpoint"}
    for check in (check_job, check_upload, check_endpoint):
        check(backend, {**GOOD, **empty, "train_gpus": 0, "serving_gpus": 0})


@settings(deadline=None)
@given(name=st.sampled_from(TEXTS), text=HOSTILE)
def test_a_hostile_text_is_refused_in_one_line_or_has_no_sign_that_means_something(name: str, text: str) -> None:
    try:
        prepared({**GOOD, name: text})
    except UsageError as error:
        assert "\n" not in str(error) and str(error).startswith((name, "train_", "serving_"))
        return
    assert not any(sign in text for sign in '"\\\n{}$')  # to JSON, or to Vertex AI


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=HOSTILE)
def test_what_a_step_is_told_reaches_its_custom_job_as_it_is(backend: Backend, text: str) -> None:
    """Labels and the like come from a user's data, by the artifacts' metadata."""
    data = artifact("train", source=text, label_names=[text])
    (pool,) = job_of(
        backend.command("comp-train-model", train(GOOD, train=data, base_model=text))[0]
    ).job_spec.worker_pool_specs
    result = inputs_of(pool)
    assert result["artifacts"]["train"]["artifacts"] == [data]
    assert result["parameterValues"]["base_model"] == text


@pytest.mark.parametrize("step", ["train-model", "evaluate-model"])
def test_a_custom_job_fits_a_command_line(backend: Backend, step: str) -> None:
    """Linux takes 131,072 bytes a part; the executor input has the step's source once more, as a default."""
    given = train(GOOD, **{name: artifact(name) for name in ("train", "model", "evaluation")})
    command, _ = backend.command(f"comp-{step}", given)
    (pool,) = job_of(command).job_spec.worker_pool_specs
    for part in [*command, *pool.container_spec.command, *pool.container_spec.args]:
        assert len(part.encode()) < 131_072
