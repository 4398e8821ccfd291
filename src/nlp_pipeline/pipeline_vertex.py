"""The pipeline on Vertex AI: artifacts lie in Cloud Storage, custom jobs train, and an endpoint serves the release.

Google's components put texts into the JSON that they send as they are. So none of them is given a text that a user
wrote: what they are given are constants, and outputs of the steps `prepare_vertex` and `plan_vertex_deployment`.
"""

from dataclasses import dataclass, field
from typing import Any

from google_cloud_pipeline_components.preview.custom_job import create_custom_training_job_from_component
from google_cloud_pipeline_components.types.artifact_types import UnmanagedContainerModel, VertexEndpoint, VertexModel
from google_cloud_pipeline_components.v1.endpoint import EndpointCreateOp, ModelDeployOp
from google_cloud_pipeline_components.v1.model import ModelUploadOp
from kfp import dsl

from nlp_pipeline.components.check_vertex_endpoint import check_vertex_endpoint
from nlp_pipeline.components.evaluate_model import evaluate_model
from nlp_pipeline.components.plan_vertex_deployment import plan_vertex_deployment
from nlp_pipeline.components.prepare_vertex import prepare_vertex
from nlp_pipeline.components.train_model import train_model
from nlp_pipeline.graph import make_pipeline

# What Vertex AI itself puts in when a run begins.
PROJECT, LOCATION = "{{$.pipeline_google_cloud_project_id}}", "{{$.pipeline_google_cloud_location}}"
# The paths and the port of the image that serves; the port is Vertex AI's own choice too.
PORT, HEALTH_ROUTE = 8080, "/ping"
# Where Vertex AI puts the driver of a GPU; a plain Python image doesn't look there.
ENVIRONMENT = [{"name": "LD_LIBRARY_PATH", "value": "/usr/local/nvidia/lib64:/usr/local/nvidia/lib"}]

# The versions of these in `preview` have the machine's type and accelerator as inputs; those in `v1` don't.
train_model_job = create_custom_training_job_from_component(train_model, env=ENVIRONMENT)
evaluate_model_job = create_custom_training_job_from_component(evaluate_model, env=ENVIRONMENT)


@dataclass
class Vertex:
    """What is Vertex AI's own; see `graph.Platform`.

    Attributes:
        project: The project; by default the run's own.
        location: The region; by default the run's own.
        train_machine_type: Machine type of the training and evaluation jobs.
        train_accelerator: Their accelerator, as in NVIDIA_TESLA_T4; empty for none.
        train_gpus: How many of it; 0 for none.
        job_service_account: The account that these jobs run as; empty for Vertex AI's own.
        serving_image: The image that serves, of the Dockerfile's target torchserve; needed where deploy is true.
        serving_machine_type: Machine type that serves.
        serving_accelerator: Its accelerator; empty for none.
        serving_gpus: How many of it; 0 for none.
        serving_service_account: The account that the serving containers run as; empty for Vertex AI's own.
        endpoint: Id or resource name of an existing endpoint; empty for the one with the model's name, or a new one.
        canary_percent: Share of the traffic, in percent, that a new version gets until it has been asked.
        min_replicas: Least number of serving machines, which cost for every hour.
        max_replicas: Greatest number of serving machines.
        endpoint_timeout: Seconds within which a new version must have answered.
    """

    project: str = PROJECT
    location: str = LOCATION
    train_machine_type: str = "n1-standard-8"
    train_accelerator: str = ""
    train_gpus: int = 0
    job_service_account: str = ""
    serving_image: str = ""
    serving_machine_type: str = "n1-standard-2"
    serving_accelerator: str = ""
    serving_gpus: int = 0
    serving_service_account: str = ""
    endpoint: str = ""
    canary_percent: int = 10
    min_replicas: int = 1
    max_replicas: int = 1
    endpoint_timeout: int = 600
    # There is no volume: Cloud Storage keeps every step's artifacts, the release among them.
    volume_path: str = field(default="", init=False)

    def prepare(self, model_name: str, base_model: str, deploy: bool) -> None:
        """Adds the step that checks what goes into requests to Vertex AI.

        Args:
            model_name: The model's name.
            base_model: The encoder to fine-tune.
            deploy: Whether the release will be deployed.
        """
        task = prepare_vertex(
            project=self.project,
            location=self.location,
            model_name=model_name,
            base_model=base_model,
            deploy=deploy,
            train_machine_type=self.train_machine_type,
            train_accelerator=self.train_accelerator,
            train_gpus=self.train_gpus,
            job_service_account=self.job_service_account,
            serving_image=self.serving_image,
            serving_machine_type=self.serving_machine_type,
            serving_accelerator=self.serving_accelerator,
            serving_gpus=self.serving_gpus,
            serving_service_account=self.serving_service_account,
            endpoint=self.endpoint,
            canary_percent=self.canary_percent,
            min_replicas=self.min_replicas,
            max_replicas=self.max_replicas,
            endpoint_timeout=self.endpoint_timeout,
        )
        self.dress(task, "Check parameters", "500m", "512Mi")
        self.prepared = task.outputs
        self.place = {"project": self.prepared["project"], "location": self.prepared["location"]}

    def job(self) -> dict[str, Any]:
        """Returns the inputs of a custom job besides its step's."""
        return {
            "machine_type": self.prepared["train_machine_type"],
            "accelerator_type": self.prepared["train_accelerator"],
            "accelerator_count": self.train_gpus,
            "service_account": self.prepared["job_service_account"],
            **self.place,
        }

    def train_model(self, **arguments: Any) -> dsl.PipelineTask:
        """Adds the training as a custom job."""
        return train_model_job(**arguments, **self.job())

    def evaluate_model(self, **arguments: Any) -> dsl.PipelineTask:
        """Adds the evaluation as a custom job."""
        return evaluate_model_job(**arguments, **self.job())

    def dress(self, task: dsl.PipelineTask, display_name: str, cpu: str, memory: str) -> dsl.PipelineTask:
        """Gives a step its name in the console, and its resources; Vertex AI finds a machine that has them.

        Args:
            task: The step.
            display_name: Its name in the console.
            cpu: CPUs, as Kubernetes writes them.
            memory: Memory.
        """
        # Its input has the run's id, or it changes what is outside of its outputs: no other run's outputs would do.
        task.set_caching_options(task.name == "gate").set_display_name(display_name)
        return task.set_cpu_limit(cpu).set_memory_limit(memory)

    def dress_training(self, task: dsl.PipelineTask, display_name: str) -> dsl.PipelineTask:
        """Gives a custom job its name in the console; its machine is among its inputs."""
        return self.dress_google(task, display_name)

    def dress_google(self, task: dsl.PipelineTask, display_name: str) -> dsl.PipelineTask:
        """Gives a step of Google's its name in the console."""
        return task.set_caching_options(False).set_display_name(display_name)

    def deploy(self, validated: dsl.PipelineTask, **arguments: Any) -> None:
        """Adds the steps that make the release a version of a model, deploy it to an endpoint, and ask it.

        Args:
            validated: The step that must have succeeded before.
            **arguments: See `graph.Platform.deploy`.
        """
        planned = plan_vertex_deployment(
            release=arguments["release"],
            model_name=self.prepared["model_name"],
            endpoint=self.prepared["endpoint"],
            canary_percent=self.canary_percent,
            **self.place,
        ).after(validated)
        self.dress(planned, "Plan deployment", "1", "2Gi")
        model, endpoint = self.upload(planned.outputs), self.find_endpoint(planned.outputs)
        deployed = ModelDeployOp(
            model=model,
            endpoint=endpoint,
            traffic_split=planned.outputs["traffic_split"],
            dedicated_resources_machine_type=self.prepared["serving_machine_type"],
            dedicated_resources_accelerator_type=self.prepared["serving_accelerator"],
            dedicated_resources_accelerator_count=self.serving_gpus,
            dedicated_resources_min_replica_count=self.min_replicas,
            dedicated_resources_max_replica_count=self.max_replicas,
            service_account=self.prepared["serving_service_account"],
        )
        self.dress_google(deployed, "Deploy version")
        checked = check_vertex_endpoint(
            model=model,
            endpoint=endpoint,
            predictions=arguments["predictions"],
            former_traffic=planned.outputs["former_traffic"],
            endpoint_rows=arguments["endpoint_rows"],
            endpoint_timeout=self.endpoint_timeout,
            min_agreement=arguments["min_agreement"],
            max_accuracy_drop=arguments["max_accuracy_drop"],
        ).after(deployed)
        self.dress(checked, "Check endpoint", "1", "2Gi")

    def upload(self, plan: dict[str, Any]) -> Any:
        """Adds the upload of the release, as a new model or as a new version of the one that is there.

        Args:
            plan: Outputs of `plan_vertex_deployment`.

        Returns:
            The model with its version.
        """
        container = {
            "imageUri": self.prepared["serving_image"],
            "ports": [{"containerPort": PORT}],
            "predictRoute": plan["predict_route"],
            "healthRoute": HEALTH_ROUTE,
        }
        release = dsl.importer(
            artifact_uri=plan["artifact_uri"],
            artifact_class=UnmanagedContainerModel,
            metadata={"containerSpec": container},
        )
        release.set_display_name("Release")
        inputs = {
            "display_name": self.prepared["model_name"],
            "labels": plan["labels"],
            "unmanaged_container_model": release.output,
            **self.place,
        }
        with dsl.If(plan["parent_model"] == "", name="first version"):
            first = ModelUploadOp(**inputs)
            self.dress_google(first, "Upload first version")
        with dsl.Else(name="another version"):
            parent = dsl.importer(
                artifact_uri=plan["parent_uri"],
                artifact_class=VertexModel,
                metadata={"resourceName": plan["parent_model"]},
            )
            parent.set_display_name("Model")
            another = ModelUploadOp(parent_model=parent.output, **inputs)
            self.dress_google(another, "Upload version")
        return dsl.OneOf(first.outputs["model"], another.outputs["model"])

    def find_endpoint(self, plan: dict[str, Any]) -> Any:
        """Adds the making of an endpoint where there is none.

        Args:
            plan: Outputs of `plan_vertex_deployment`.

        Returns:
            The endpoint.
        """
        with dsl.If(plan["endpoint"] == "", name="no endpoint"):
            made = EndpointCreateOp(display_name=self.prepared["model_name"], **self.place)
            self.dress_google(made, "Create endpoint")
        with dsl.Else(name="an endpoint"):
            found = dsl.importer(
                artifact_uri=plan["endpoint_uri"],
                artifact_class=VertexEndpoint,
                metadata={"resourceName": plan["endpoint"]},
            )
            found.set_display_name("Endpoint")
        return dsl.OneOf(made.outputs["endpoint"], found.output)


nlp_pipeline_vertex = make_pipeline(
    Vertex,
    display_name="NLP pipeline: text to endpoint, on Vertex AI",
    description="Fine-tunes a text classifier on labelled text, packs it, asks it in the real server, and deploys it "
    "to a Vertex AI endpoint.",
)
