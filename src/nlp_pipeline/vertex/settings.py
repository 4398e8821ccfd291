"""The parameters that are Vertex AI's own.

Google's components put texts into the JSON that they send as they are: a quote in one would end its string, and what
follows would be read as fields. So each text that goes there is held against a pattern that has no such sign.
"""

import re
from dataclasses import dataclass, fields

from nlp_pipeline.errors import UsageError
from nlp_pipeline.parameters import COUNT, MODEL_NAME, POSITIVE, Settings, matches, parameter

# What Vertex AI itself puts in when a run begins.
PROJECT, LOCATION = "{{$.pipeline_google_cloud_project_id}}", "{{$.pipeline_google_cloud_location}}"
PROJECT_NAME = r"([a-z0-9.-]+:)?[a-z][-a-z0-9]{4,28}[a-z0-9]|[0-9]+"
LOCATION_NAME = r"[a-z]+-[a-z]+[0-9]+"
ENDPOINT_ID = r"[0-9]+|[a-z]([-a-z0-9]{0,61}[a-z0-9])?"
MACHINE = matches(r"[a-z][a-z0-9]*(-[a-z0-9]+)+", "a machine type, as in n1-standard-8")
ACCELERATOR = matches(r"|[A-Z][A-Z0-9_]+", "an accelerator, as in NVIDIA_TESLA_T4, or empty")
ACCOUNT = matches(
    r"|[A-Za-z0-9._-]+@[A-Za-z0-9.-]+\.[a-z]+", "an account, as in name@project.iam.gserviceaccount.com, or empty"
)
# Besides what a name may hold, nothing that could be a variable, which Vertex AI would expand.
BASE_MODEL = matches(r"[\w./-]+", "a Hugging Face hub id, or a folder such as /gcs/bucket/encoder")


@dataclass(frozen=True, kw_only=True)
class VertexSettings(Settings):
    """Where the jobs run, and what serves."""

    project: str = parameter(
        PROJECT,
        "The project; by default the run's own.",
        matches(f"{re.escape(PROJECT)}|{PROJECT_NAME}", "a project's id, or its number"),
    )
    location: str = parameter(
        LOCATION,
        "The region; by default the run's own.",
        matches(f"{re.escape(LOCATION)}|{LOCATION_NAME}", "a region, as in us-central1"),
    )
    train_machine_type: str = parameter("n1-standard-8", "Machine type of the training and evaluation jobs.", MACHINE)
    train_accelerator: str = parameter("", "Their accelerator, as in NVIDIA_TESLA_T4; empty for none.", ACCELERATOR)
    train_gpus: int = parameter(0, "How many of it; 0 for none.", COUNT)
    job_service_account: str = parameter("", "The account that these jobs run as; empty for Vertex AI's own.", ACCOUNT)
    serving_image: str = parameter(
        "",
        "The image that serves, of the Dockerfile's target torchserve; needed where deploy is true.",
        matches(r"|[A-Za-z0-9][\w./:@-]*", "an image, as in us-central1-docker.pkg.dev/project/images/torchserve:1"),
    )
    serving_machine_type: str = parameter("n1-standard-2", "Machine type that serves.", MACHINE)
    serving_accelerator: str = parameter("", "Its accelerator; empty for none.", ACCELERATOR)
    serving_gpus: int = parameter(0, "How many of it; 0 for none.", COUNT)
    serving_service_account: str = parameter(
        "", "The account that the serving containers run as; empty for Vertex AI's own.", ACCOUNT
    )
    endpoint: str = parameter(
        "",
        "Id or resource name of an existing endpoint; empty for the one with the model's name, or a new one.",
        matches(
            rf"|{ENDPOINT_ID}|projects/({PROJECT_NAME})/locations/{LOCATION_NAME}/endpoints/({ENDPOINT_ID})",
            "an endpoint's id, or projects/NAME/locations/REGION/endpoints/ID, or empty",
        ),
    )
    canary_percent: int = parameter(
        10,
        "Share of the traffic, in percent, that a new version gets until it has been asked.",
        (lambda value: 1 <= value <= 100, "from 1 to 100"),
    )
    min_replicas: int = parameter(1, "Least number of serving machines, which cost for every hour.", POSITIVE)
    max_replicas: int = parameter(1, "Greatest number of serving machines.", POSITIVE)
    endpoint_timeout: int = parameter(600, "Seconds within which a new version must have answered.", POSITIVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        for use in ("train", "serving"):
            name, count = getattr(self, f"{use}_accelerator"), getattr(self, f"{use}_gpus")
            if bool(name) != bool(count):
                raise UsageError(f"{use}_accelerator is {name!r} and {use}_gpus {count}: set both, or none of them")
        if self.max_replicas < self.min_replicas:
            raise UsageError(f"min_replicas is {self.min_replicas}, above max_replicas, {self.max_replicas}")

    @classmethod
    def texts(cls) -> list[str]:
        """Returns the names of those that are texts."""
        return [item.name for item in fields(cls) if item.type is str]


def check_together(settings: VertexSettings, model_name: str, base_model: str, deploy: bool) -> None:
    """Raises UsageError where a parameter that all platforms share is not what Vertex AI takes."""
    shared = {"model_name": (model_name, *MODEL_NAME), "base_model": (base_model, *BASE_MODEL)}
    for name, (value, is_allowed, meaning) in shared.items():
        if not is_allowed(value):
            raise UsageError(f"{name} is {value!r}: it must be {meaning}")
    if deploy and not settings.serving_image:
        raise UsageError(
            "serving_image is '': build the Dockerfile's target torchserve, push it to Artifact Registry and name it "
            "here; or set deploy=false"
        )
