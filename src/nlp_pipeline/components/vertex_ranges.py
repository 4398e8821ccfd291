"""The ranges of the parameters that are Vertex AI's own, or have another range there; the others are in ranges.py.

Google's components put texts into the JSON that they send as they are: a quote in one would end its string, and what
follows would be read as fields. So each text that goes there is held against a pattern that has no such sign.
"""

from typing import Any, Callable

from nlp_pipeline.components.ranges import check_parameters


def check_vertex_parameters(**values: Any) -> None:
    """Makes sure that parameters are in their ranges on Vertex AI.

    Args:
        **values: Parameters by their names; those that may hold anything are passed over.

    Raises:
        ValueError: One is not; the message names it, its value and what it may be.
    """
    import re

    def like(pattern: str, meaning: str) -> tuple[Callable[[Any], bool], str]:
        return (lambda value: re.fullmatch(pattern, value, re.ASCII) is not None, meaning)

    machine = like(r"[a-z][a-z0-9]*(-[a-z0-9]+)+", "a machine type, as in n1-standard-8")
    accelerator = like(r"|[A-Z][A-Z0-9_]+", "an accelerator's name, as in NVIDIA_TESLA_T4, or empty for none")
    account = like(
        r"|[A-Za-z0-9._-]+@[A-Za-z0-9.-]+\.[a-z]+",
        "a service account's address, as in name@project.iam.gserviceaccount.com, or empty",
    )
    one_or_more = (lambda value: value >= 1, "1 or more")
    none_or_more = (lambda value: value >= 0, "0 or more")
    endpoint_id = r"[0-9]+|[a-z]([-a-z0-9]{0,61}[a-z0-9])?"
    project = r"([a-z0-9.-]+:)?[a-z][-a-z0-9]{4,28}[a-z0-9]|[0-9]+"
    location = r"[a-z]+-[a-z]+[0-9]+"
    ranges: dict[str, tuple[Callable[[Any], bool], str]] = {
        "project": like(project, "a project's id, or its number"),
        "location": like(location, "a region, as in us-central1"),
        "train_machine_type": machine,
        "train_accelerator": accelerator,
        "train_gpus": none_or_more,
        "job_service_account": account,
        # Besides what a name may hold, nothing that could be a variable, which Vertex AI would expand.
        "base_model": like(r"[\w./-]+", "a Hugging Face hub id, or a folder such as /gcs/bucket/encoder"),
        "serving_image": like(
            r"|[A-Za-z0-9][\w./:@-]*",
            "the name of an image, as in us-central1-docker.pkg.dev/project/repository/torchserve:1",
        ),
        "serving_machine_type": machine,
        "serving_accelerator": accelerator,
        "serving_gpus": none_or_more,
        "serving_service_account": account,
        "endpoint": like(
            rf"|{endpoint_id}|projects/({project})/locations/{location}/endpoints/({endpoint_id})",
            "an endpoint's id, or projects/NAME/locations/REGION/endpoints/ID, or empty",
        ),
        "canary_percent": (lambda value: 1 <= value <= 100, "from 1 to 100"),
        "min_replicas": one_or_more,
        "max_replicas": one_or_more,
        "endpoint_timeout": (lambda value: value >= 1, "1 or more seconds"),
    }
    for key, value in values.items():
        if key not in ranges:
            check_parameters(**{key: value})
        elif not ranges[key][0](value):
            raise ValueError(f"{key} is {value!r}: it must be {ranges[key][1]}")


def check_vertex_settings(**values: Any) -> None:
    """Makes sure that parameters are in their ranges on Vertex AI, and make sense together.

    Args:
        **values: Parameters by their names; what is not there is not looked at.

    Raises:
        ValueError: They do not.
    """
    check_vertex_parameters(**values)
    for accelerator, gpus in (("train_accelerator", "train_gpus"), ("serving_accelerator", "serving_gpus")):
        name, count = values.get(accelerator, ""), values.get(gpus, 0)
        if bool(name) != bool(count):
            raise ValueError(f"{accelerator} is {name!r} and {gpus} {count}: set both, or none of them")
    if values.get("max_replicas", values.get("min_replicas", 1)) < values.get("min_replicas", 1):
        raise ValueError(
            f"min_replicas is {values['min_replicas']} and max_replicas {values['max_replicas']}: the first must not "
            "be the greater one"
        )
    if values.get("deploy") and not values.get("serving_image", "image"):
        raise ValueError(
            "serving_image is '': build the Dockerfile's target torchserve, push it to Artifact Registry and name it "
            "here; or set deploy=false"
        )
