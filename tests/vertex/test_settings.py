from typing import Any

import pytest

from nlp_pipeline.errors import UsageError
from nlp_pipeline.pipeline.parameters import pipeline_parameters
from nlp_pipeline.vertex.settings import VertexSettings, check_together

MACHINE = (["n1-standard-8", "a2-highgpu-1g"], ["", "n1", "n1 standard", "N1-standard-8"])
ACCOUNT = (["", "jobs@my-project.iam.gserviceaccount.com"], ["me", "me@", "me@x", 'a"@b.c'])
# For each parameter that is Vertex AI's own: values that are taken, and some that are not.
VALUES: dict[str, tuple[list[Any], list[Any]]] = {
    "project": (
        ["my-project", "example.com:my-project", "123456789012", "{{$.pipeline_google_cloud_project_id}}"],
        ["", "My Project", 'a"', "{{$.pipeline_job_uuid}}"],
    ),
    "location": (["us-central1", "northamerica-northeast2", "me-west1"], ["", "us", "us-central1-a", "US-CENTRAL1"]),
    "train_machine_type": MACHINE,
    "train_accelerator": ([""], ["nvidia", "T4 ", "NVIDIA-L4"]),
    "train_gpus": ([0], [-1]),
    "job_service_account": ACCOUNT,
    "serving_image": (
        ["", "europe-docker.pkg.dev/my-project/a/b:1", f"gcr.io/a/b@sha256:{'0a' * 32}"],
        [" ", "a b", "/a", 'a"'],
    ),
    "serving_machine_type": MACHINE,
    "serving_accelerator": ([""], ["l4"]),
    "serving_gpus": ([0], [-1]),
    "serving_service_account": ACCOUNT,
    "endpoint": (
        ["", "1234567890", "my-endpoint", "projects/my-project/locations/us-central1/endpoints/1"],
        ["-", "a/b", "projects/my-project/endpoints/1", "Endpoint"],
    ),
    "canary_percent": ([1, 100], [0, 101]),
    "min_replicas": ([1], [0]),
    "max_replicas": ([1, 10], [0]),
    "endpoint_timeout": ([1], [0]),
}
TOGETHER: dict[str, Any] = {"model_name": "reviews", "base_model": "bert_v1.2", "deploy": True}


@pytest.mark.parametrize("name", VALUES)
def test_ranges(name: str) -> None:
    good, bad = VALUES[name]
    for value in good:
        VertexSettings(**{name: value})
    for value in bad:
        with pytest.raises(UsageError, match=f"^{name} is ") as caught:
            VertexSettings(**{name: value})
        assert repr(value) in str(caught.value) and "\n" not in str(caught.value)


def test_every_parameter_of_vertex_ais_own_has_a_range() -> None:
    assert set(pipeline_parameters("vertex")) - set(pipeline_parameters("kubeflow")) <= set(VALUES)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"train_gpus": 1}, "train_accelerator is '' and train_gpus 1: set both, or none of them"),
        ({"serving_accelerator": "NVIDIA_L4"}, "serving_accelerator is 'NVIDIA_L4' and serving_gpus 0: set both"),
        ({"min_replicas": 4, "max_replicas": 3}, "min_replicas is 4, above max_replicas, 3"),
    ],
)
def test_what_makes_no_sense_together(values: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=f"^{says}"):
        VertexSettings(**values)
    VertexSettings(train_accelerator="NVIDIA_L4", train_gpus=4, min_replicas=2, max_replicas=2)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_name": "No"}, "model_name is 'No': it must be lower-case letters"),
        ({"base_model": "a b"}, "base_model is 'a b': it must be a Hugging Face hub id"),
        ({"base_model": "{{$.x}}"}, "base_model is "),
        ({}, "serving_image is '': build the Dockerfile's target torchserve"),
    ],
)
def test_what_the_platforms_share_must_suit_vertex_ai(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=f"^{says}"):
        check_together(VertexSettings(), **{**TOGETHER, **changes})
    check_together(VertexSettings(), **{**TOGETHER, "deploy": False})
    check_together(VertexSettings(serving_image="gcr.io/a/b"), **TOGETHER)
