import inspect
from typing import Any

import pytest

from nlp_pipeline.components.vertex_ranges import check_vertex_parameters, check_vertex_settings
from nlp_pipeline.errors import UsageError
from nlp_pipeline.pipeline.parameters import check_ranges, pipeline_parameters

GOOD: dict[str, list[Any]] = {
    "project": ["my-project", "example.com:my-project", "123456789012"],
    "location": ["us-central1", "northamerica-northeast2", "me-west1"],
    "train_machine_type": ["n1-standard-8", "a2-highgpu-1g", "e2-standard-4"],
    "train_accelerator": ["", "NVIDIA_TESLA_T4", "NVIDIA_L4"],
    "train_gpus": [0, 8],
    "job_service_account": ["", "jobs@my-project.iam.gserviceaccount.com", "1-compute@developer.gserviceaccount.com"],
    "base_model": ["distilbert/distilbert-base-uncased", "bert_v1.2", "/gcs/films/encoder"],
    "serving_image": ["", "europe-docker.pkg.dev/my-project/a/b:1", f"gcr.io/a/b@sha256:{'0a' * 32}"],
    "serving_machine_type": ["g2-standard-4"],
    "serving_accelerator": ["", "NVIDIA_L4"],
    "serving_gpus": [0, 1],
    "serving_service_account": ["", "serving@my-project.iam.gserviceaccount.com"],
    "endpoint": ["", "1234567890", "my-endpoint", "projects/my-project/locations/us-central1/endpoints/1"],
    "canary_percent": [1, 100],
    "min_replicas": [1],
    "max_replicas": [1, 10],
    "endpoint_timeout": [1],
}
BAD: dict[str, list[Any]] = {
    "project": ["", "My Project", 'a"', "{{$.pipeline_google_cloud_project_id}}"],
    "location": ["", "us", "us-central1-a", "US-CENTRAL1"],
    "train_machine_type": ["", "n1", "n1 standard", "N1-standard-8"],
    "train_accelerator": ["nvidia", "T4 ", "NVIDIA-L4"],
    "train_gpus": [-1],
    "job_service_account": ["me", "me@", "me@x", 'a"@b.c'],
    "base_model": ["", "a b", "a'b", "{{$.x}}"],
    "serving_image": [" ", "a b", "/a", 'a"'],
    "serving_machine_type": ["", "g2"],
    "serving_accelerator": ["l4"],
    "serving_gpus": [-1],
    "serving_service_account": ["serving"],
    "endpoint": ["-", "a/b", "projects/my-project/endpoints/1", "Endpoint"],
    "canary_percent": [0, 101],
    "min_replicas": [0],
    "max_replicas": [0],
    "endpoint_timeout": [0],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in GOOD.items() for value in values])
def test_in_range(name: str, value: Any) -> None:
    check_vertex_parameters(**{name: value})


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} is ") as caught:
        check_vertex_parameters(**{name: value})
    assert repr(value) in str(caught.value) and "\n" not in str(caught.value)


def test_every_parameter_of_vertex_ais_own_has_a_range() -> None:
    own = set(pipeline_parameters("vertex")) - set(pipeline_parameters("kubeflow"))
    assert own <= set(GOOD) == set(BAD)


def test_the_defaults_make_sense_together_but_for_the_image() -> None:
    defaults = {name: one.default for name, one in pipeline_parameters("vertex").items() if one.default is not None}
    here = {"project": "my-project", "location": "us-central1", "train_data": "gs://films/x.csv"}
    check_vertex_settings(**{**defaults, **here, "deploy": False})
    with pytest.raises(ValueError, match=r"^serving_image is '': build the Dockerfile's target torchserve"):
        check_vertex_settings(**{**defaults, **here})
    check_vertex_settings(**{**defaults, **here, "serving_image": "gcr.io/a/b"})


def test_what_the_platforms_share_has_the_same_range_on_both() -> None:
    with pytest.raises(ValueError, match=r"^epochs is -1\.0: it must be above 0"):
        check_vertex_settings(epochs=-1.0)


def test_the_command_line_knows_the_platforms_own_ranges() -> None:
    check_ranges({"canary_percent": 0})
    with pytest.raises(UsageError, match=r"^canary_percent is 0: it must be from 1 to 100$"):
        check_ranges({"canary_percent": 0}, "vertex")
    check_ranges({"train_gpus": 4, "train_accelerator": "NVIDIA_L4"}, "vertex")
    assert inspect.signature(check_ranges).parameters["platform"].default == "kubeflow"
