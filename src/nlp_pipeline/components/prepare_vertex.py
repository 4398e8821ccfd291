"""`prepare_vertex`: what goes into requests to Vertex AI is looked at before anything costs money."""

from typing import NamedTuple

from nlp_pipeline.components.vertex_ranges import check_vertex_settings


def prepare_vertex(
    project: str,
    location: str,
    model_name: str,
    base_model: str,
    deploy: bool,
    train_machine_type: str,
    train_accelerator: str,
    train_gpus: int,
    job_service_account: str,
    serving_image: str,
    serving_machine_type: str,
    serving_accelerator: str,
    serving_gpus: int,
    serving_service_account: str,
    endpoint: str,
    canary_percent: int,
    min_replicas: int,
    max_replicas: int,
    endpoint_timeout: int,
) -> NamedTuple(  # type: ignore[valid-type]
    "Prepared",
    [
        ("project", str),
        ("location", str),
        ("model_name", str),
        ("train_machine_type", str),
        ("train_accelerator", str),
        ("job_service_account", str),
        ("serving_image", str),
        ("serving_machine_type", str),
        ("serving_accelerator", str),
        ("serving_service_account", str),
        ("endpoint", str),
    ],
):
    """Checks the parameters, and hands on the texts among them that go into requests to Vertex AI.

    Args:
        project: The project.
        location: The region.
        model_name: Name of the model, and of its endpoint: a DNS-1035 label.
        base_model: Hub id or folder of the encoder to fine-tune.
        deploy: Whether the model will be deployed.
        train_machine_type: Machine type of the training and evaluation jobs.
        train_accelerator: Their accelerator; empty for none.
        train_gpus: How many of it; 0 for none.
        job_service_account: The account that these jobs run as; empty for Vertex AI's own.
        serving_image: The image that serves.
        serving_machine_type: Machine type that it is served on.
        serving_accelerator: Its accelerator; empty for none.
        serving_gpus: How many of it; 0 for none.
        serving_service_account: The account that the serving containers run as; empty for Vertex AI's own.
        endpoint: Id or resource name of an existing endpoint; empty for the one with the model's name.
        canary_percent: Share of the traffic, in percent, that a new version gets until it has been asked.
        min_replicas: Least number of serving machines.
        max_replicas: Greatest number of serving machines.
        endpoint_timeout: Seconds within which a new version must have answered.

    Returns:
        project: The same.
        location: The same.
        model_name: The same.
        train_machine_type: The same.
        train_accelerator: The same; ACCELERATOR_TYPE_UNSPECIFIED for none.
        job_service_account: The same.
        serving_image: The same.
        serving_machine_type: The same.
        serving_accelerator: The same.
        serving_service_account: The same.
        endpoint: The same.
    """
    check_vertex_settings(**locals())
    return (
        project,
        location,
        model_name,
        train_machine_type,
        train_accelerator or "ACCELERATOR_TYPE_UNSPECIFIED",
        job_service_account,
        serving_image,
        serving_machine_type,
        serving_accelerator,
        serving_service_account,
        endpoint,
    )
