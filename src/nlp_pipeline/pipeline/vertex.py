"""The pipeline on Vertex AI: artifacts lie in Cloud Storage, custom jobs train, and an endpoint serves the release.

Google's components put texts into the JSON that they send as they are. So none of them is given a text that a user
wrote: what they are given are constants, and outputs of the steps `prepare_vertex` and `plan_vertex_deployment`.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

from google_cloud_pipeline_components.preview.custom_job import create_custom_training_job_from_component
from google_cloud_pipeline_components.types.artifact_types import UnmanagedContainerModel, VertexEndpoint, VertexModel
from google_cloud_pipeline_components.v1.endpoint import EndpointCreateOp, ModelDeployOp
from google_cloud_pipeline_components.v1.model import ModelUploadOp
from kfp import dsl

from nlp_pipeline.pipeline.components import evaluate_model, train_model
from nlp_pipeline.pipeline.graph import Values, add_pipeline, make_pipeline
from nlp_pipeline.pipeline.vertex_components import check_vertex_endpoint, plan_vertex_deployment, prepare_vertex
from nlp_pipeline.steps.evaluate_model.settings import ChampionSettings, ComparisonLimits

# Where Vertex AI puts the driver of a GPU; a plain Python image doesn't look there.
ENVIRONMENT = [{"name": "LD_LIBRARY_PATH", "value": "/usr/local/nvidia/lib64:/usr/local/nvidia/lib"}]

# Those of `preview` have the machine's type and accelerator as inputs; the launcher of `v1` hands a count that comes
# from a parameter on as a text, which the API's client refuses.
train_model_job = create_custom_training_job_from_component(train_model, env=ENVIRONMENT)
evaluate_model_job = create_custom_training_job_from_component(evaluate_model, env=ENVIRONMENT)


class Vertex:
    """What is Vertex AI's own; see `graph.Platform`."""

    def __init__(self, values: Values) -> None:
        self.values = values
        task = prepare_vertex(**values.of(prepare_vertex))
        self.configure_task(task, "Check parameters", "512Mi")
        # What Google's components are given: the texts are those that were checked.
        self.checked = Values({**values, **task.outputs})
        self.place = {"project": task.outputs["project"], "location": task.outputs["location"]}

    def finish(self) -> AbstractContextManager[Any]:
        """Returns nothing: Vertex AI sends notices of its own."""
        return nullcontext()

    def train_model(self, **artifacts: Any) -> dsl.PipelineTask:
        """Adds the training as a custom job."""
        return self._run_job(train_model_job, "Train model", **artifacts, **self.values.of(train_model))

    def evaluate_model(self, **artifacts: Any) -> dsl.PipelineTask:
        """Adds the evaluation as a custom job."""
        return self._run_job(evaluate_model_job, "Evaluate model", **artifacts, **self.values.of(evaluate_model))

    def configure_task(self, task: dsl.PipelineTask, display_name: str, memory: str) -> None:
        """Gives a task its name in the console, and its resources; Vertex AI finds a machine that has them."""
        # Its input has the run's id, or it changes what is outside of its outputs: no other run's outputs would do.
        task.set_caching_options(False).set_display_name(display_name)
        task.set_memory_limit(memory)

    def deploy(self, validated: dsl.PipelineTask, **artifacts: Any) -> None:
        """Adds the steps that make the release a version of a model, deploy it to an endpoint, and ask it."""
        with dsl.If(self.values["deploy"] == True, name="deploy"):  # noqa: E712, a comparison that kfp writes down
            inputs = self.checked.of(plan_vertex_deployment)
            planned = plan_vertex_deployment(release=artifacts["release"], **inputs).after(validated)
            self.configure_task(planned, "Plan deployment", "2Gi")
            served = {"model": self._upload(planned.outputs), "endpoint": self._find_endpoint(planned.outputs)}
            deployed = self._run(
                ModelDeployOp,
                "Deploy version",
                traffic_split=planned.outputs["traffic_split"],
                dedicated_resources_machine_type=self.checked["serving_machine_type"],
                dedicated_resources_accelerator_type=self.checked["serving_accelerator"],
                dedicated_resources_accelerator_count=self.checked["serving_gpus"],
                dedicated_resources_min_replica_count=self.checked["min_replicas"],
                dedicated_resources_max_replica_count=self.checked["max_replicas"],
                service_account=self.checked["serving_service_account"],
                **served,
            )
            served |= {"predictions": artifacts["predictions"], "former_traffic": planned.outputs["former_traffic"]}
            checked = check_vertex_endpoint(**(self.values.of(check_vertex_endpoint) | served)).after(deployed)
            self.configure_task(checked, "Check endpoint", "2Gi")

    def _run(self, component: Any, title: str, **inputs: Any) -> dsl.PipelineTask:
        """Adds a step of Google's; its machine, where it has one, is among its inputs."""
        return component(**inputs).set_caching_options(False).set_display_name(title)

    def _run_job(self, job: Any, title: str, **inputs: Any) -> dsl.PipelineTask:
        names = ("train_machine_type", "train_accelerator", "train_gpus", "job_service_account")
        machine = ("machine_type", "accelerator_type", "accelerator_count", "service_account")
        own = {name: self.checked[checked] for name, checked in zip(machine, names, strict=True)}
        return self._run(job, title, **inputs, **own, **self.place)

    def _upload(self, plan: dict[str, Any]) -> Any:
        """Adds the upload of the release, as a new model or as a new version of the one that is there; returns that."""
        routes = {"predictRoute": plan["predict_route"], "healthRoute": "/ping"}
        # The port is Vertex AI's own choice too.
        container = {"imageUri": self.checked["serving_image"], "ports": [{"containerPort": 8080}], **routes}
        metadata = {"containerSpec": container}
        release = dsl.importer(plan["artifact_uri"], UnmanagedContainerModel, metadata=metadata)
        inputs = {
            "display_name": self.checked["model_name"],
            "labels": plan["labels"],
            "unmanaged_container_model": release.set_display_name("Release").output,
            **self.place,
        }
        with dsl.If(plan["parent_model"] == "", name="first version"):
            first = self._run(ModelUploadOp, "Upload first version", **inputs)
        with dsl.Else(name="another version"):
            metadata = {"resourceName": plan["parent_model"]}
            parent = dsl.importer(plan["parent_uri"], VertexModel, metadata=metadata).set_display_name("Model")
            another = self._run(ModelUploadOp, "Upload version", parent_model=parent.output, **inputs)
        return dsl.OneOf(first.outputs["model"], another.outputs["model"])

    def _find_endpoint(self, plan: dict[str, Any]) -> Any:
        """Adds the making of an endpoint where there is none; returns the endpoint."""
        with dsl.If(plan["endpoint"] == "", name="no endpoint"):
            new = self._run(EndpointCreateOp, "Create endpoint", display_name=self.checked["model_name"], **self.place)
        with dsl.Else(name="an endpoint"):
            metadata = {"resourceName": plan["endpoint"]}
            former = dsl.importer(plan["endpoint_uri"], VertexEndpoint, metadata=metadata).set_display_name("Endpoint")
        return dsl.OneOf(new.outputs["endpoint"], former.output)


nlp_pipeline_vertex = make_pipeline(
    lambda values: add_pipeline(Vertex(values), values),
    "vertex",
    # There is no volume: Cloud Storage keeps every step's artifacts, the release among them.
    # Nor are there former releases to compare with.
    {
        "run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        "namespace": "",
        "train_nodes": 1,
        "train_runtime": "",
        **asdict(ChampionSettings(champion="none")),
        **asdict(ComparisonLimits(require="floor")),
    },
    display_name="NLP pipeline: text to endpoint, on Vertex AI",
    does="Fine-tunes a text classifier on labelled text, packs it, asks it in the real server, and deploys it "
    "to a Vertex AI endpoint.",
)
