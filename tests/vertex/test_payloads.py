"""What Google's steps send: JSON, and what it should say, whatever a user writes into a parameter."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from google.cloud import aiplatform_v1beta1
from google_cloud_pipeline_components.container.preview.custom_job import remote_runner as job_runner
from google_cloud_pipeline_components.container.v1.gcp_launcher.utils import json_util
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nlp_pipeline.errors import UsageError
from nlp_pipeline.pipeline.compiling import compile_pipeline
from nlp_pipeline.pipeline.vertex_components import prepare_vertex
from tests.fakes.vertex.backend import Backend
from tests.fakes.vertex.cloud import PROJECT, REGION

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
    st.text(st.characters(exclude_categories=["Cs"])), st.text("azAZ09-._/:@", max_size=40), st.sampled_from(SIGNS)
)


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """The compiled pipeline's command lines."""
    ir = yaml.safe_load(compile_pipeline(pipeline="vertex"))
    yield Backend(ir, tmp_path_factory.mktemp("payloads"))


def prepared(values: Json) -> Json:
    result = prepare_vertex.python_func(**values)
    return dict(zip(prepare_vertex.component_spec.outputs, result, strict=True))


def artifact(name: str, **metadata: Any) -> Json:
    return {"name": name, "uri": f"gs://films/{name}", "metadata": metadata}


def argument(command: list[str], flag: str) -> str:
    return command[command.index(flag) + 1]


def job_of(command: list[str]) -> Any:
    """Returns the custom job that Google's launcher makes of a command line, as the API's message."""
    payload = job_runner.insert_system_labels_into_payload(
        job_runner.parse_nested_json_strings(argument(command, "--payload"))
    )
    return aiplatform_v1beta1.CustomJob(json_util.recursive_remove_empty(json.loads(payload, strict=False)))


def train(values: Json, **inputs: Any) -> Json:
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


def inputs_of(pool: Any) -> Json:
    """Returns the inputs that a custom job's container finds in its command line."""
    result: Json = json.loads(argument(list(pool.container_spec.args), "--executor_input"))["inputs"]
    return result


@pytest.mark.parametrize("values", [GOOD, GOOD | {"train_accelerator": "", "train_gpus": 0, "job_service_account": ""}])
def test_the_training_job_is_what_the_parameters_say(backend: Backend, values: Json) -> None:
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
    command, _ = backend.command("comp-train-model", train(GOOD, train=data, base_model=text))
    (pool,) = job_of(command).job_spec.worker_pool_specs
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
