"""What a run's pods ask of a cluster: of its nodes, and which Secrets.

What only asks for that does not import the graph, of which kfp makes the pipeline, as that takes seconds.
"""

from typing import Any

from nlp_pipeline.deploy.deployment import resources_of
from nlp_pipeline.deploy.settings import DeploySettings
from nlp_pipeline.pipeline.admission import TRAINING_MEMORY
from nlp_pipeline.steps.notify import ADDRESSES

GPU = "nvidia.com/gpu"
# The keys of the Secrets are the names of the variables that the steps read.
S3_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION")
HUB_KEYS = ("HF_TOKEN",)
BATCH = ("plan-batch", "predict-batch", "finish-batch")
# By the parameter that names a Secret: the steps that have it, and its keys.
SECRETS = {
    "s3_secret": (("load-data", "deploy-model", "detect-drift", *BATCH), S3_KEYS),
    "hub_secret": (("load-data", "train-model"), HUB_KEYS),
    "notify_secret": (("notify",), ADDRESSES),
}
# What a node must have free for a step.
STEP = {"cpu": "250m", "memory": "512Mi"}


def requests_of(values: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Returns what the pods of a run ask of a node, by what they do, of all parameters."""
    if "pods" in values:
        classifying = {**STEP, "cpu": values["pod_cpu"]}
        if values["pod_gpus"] != "0":
            classifying[GPU] = values["pod_gpus"]
        return {"a step": STEP, f"each of {values['pods']} that classify": classifying}
    if "train_cpu" not in values:
        return {"a step": STEP}
    training = {"cpu": values["train_cpu"], "memory": TRAINING_MEMORY}
    if values["train_gpus"] != "0":
        training[GPU] = values["train_gpus"]
    nodes = values["train_nodes"]
    requests = {"a step": STEP, "training" if nodes == 1 else f"training and each of its {nodes} nodes": training}
    if values["deploy"]:
        settings = DeploySettings.of(values)
        requests["serving"] = resources_of(settings)[0]
    return requests
