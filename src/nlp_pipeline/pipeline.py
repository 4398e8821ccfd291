"""The pipeline on Kubeflow, and on this machine: steps are pods with a volume, and KServe serves the release."""

from dataclasses import dataclass
from typing import Any

from kfp import dsl, kubernetes

from nlp_pipeline.components.deploy_model import deploy_model
from nlp_pipeline.components.evaluate_model import evaluate_model
from nlp_pipeline.components.train_model import train_model
from nlp_pipeline.graph import NAME, make_pipeline

__all__ = ["HUB_KEYS", "NAME", "S3_KEYS", "VOLUME_PATH", "Kubeflow", "nlp_pipeline"]

VOLUME_PATH = "/mnt/nlp-pipeline"
GPU = "nvidia.com/gpu"
# The keys of the Secrets are the names of the variables that the steps read.
S3_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION")
HUB_KEYS = ("HF_TOKEN",)


@dataclass
class Kubeflow:
    """What is Kubeflow's own; see `graph.Platform`.

    Attributes:
        volume_claim: Name of an existing PersistentVolumeClaim, mounted into the steps.
        volume_path: Where the steps find the volume; change it only for a local run, where a folder takes its place.
        train_cpu: CPUs of the training and evaluation steps.
        train_memory: Memory of the training and evaluation steps.
        train_gpus: GPUs of the training and evaluation steps: 0 or 1.
        namespace: Namespace of the InferenceService; empty for the pod's own.
        serving_runtime: What serves: torchserve (the archive) or huggingface (the model folder).
        runtime_name: Name of the ServingRuntime; empty for nlp-pipeline-torchserve where that is installed.
        model_store: Where KServe reads the model: empty for the volume, or s3://bucket/folder to upload it there.
        service_account: Service account of the serving pods; empty for nlp-pipeline-serving with an S3 bucket.
        s3_secret: Name of the Secret with the S3 credentials and endpoint; it need not exist where no S3 is used.
        hub_secret: Name of the Secret whose HF_TOKEN opens private models of the Hugging Face hub; it need not exist.
        deployment_mode: KServe's deployment mode: Knative, Standard, or empty for the cluster's default.
        min_replicas: Least number of serving pods; 0, on Knative, for none while no one asks.
        max_replicas: Greatest number of serving pods; 0 for no limit on Knative.
        scale_metric: What scaling looks at: concurrency or rps (Knative), cpu or memory; empty for KServe's own choice.
        scale_target: Value of the metric for each pod; 0 for KServe's own choice.
        serving_cpu: CPUs of a serving pod.
        serving_memory: Memory of a serving pod.
        serving_gpus: GPUs of a serving pod.
        istio_sidecar: Whether serving pods get an Istio sidecar.
        canary_percent: Share of the traffic, in percent, that a new release gets first; 0 for none; Knative only.
        canary_minutes: How long it has that share.
        deploy_timeout: Seconds within which a release must be ready.
        first_failure: What becomes of a first deployment that fails: stop keeps the object without pods, or delete.
        gateway: Address of an ingress gateway to ask through, by Host header; empty to ask the endpoint itself.
    """

    volume_claim: str = "nlp-pipeline"
    volume_path: str = VOLUME_PATH
    train_cpu: str = "4"
    train_memory: str = "12Gi"
    train_gpus: str = "0"
    namespace: str = ""
    serving_runtime: str = "torchserve"
    runtime_name: str = ""
    model_store: str = ""
    service_account: str = ""
    s3_secret: str = "nlp-pipeline-s3"  # noqa: S105, the name of a Secret
    hub_secret: str = "nlp-pipeline-hub"  # noqa: S105
    deployment_mode: str = ""
    min_replicas: int = 1
    max_replicas: int = 1
    scale_metric: str = ""
    scale_target: int = 0
    serving_cpu: str = "1"
    serving_memory: str = "2Gi"
    serving_gpus: int = 0
    istio_sidecar: bool = False
    canary_percent: int = 0
    canary_minutes: float = 10.0
    deploy_timeout: int = 900
    first_failure: str = "stop"
    gateway: str = ""

    def prepare(self, model_name: str, base_model: str, deploy: bool) -> None:
        """Nothing comes before the shared steps."""

    def train_model(self, **arguments: Any) -> dsl.PipelineTask:
        """Adds the training step; a pod that was evicted goes on from its last checkpoint."""
        return train_model(**arguments).set_retry(num_retries=2)

    def evaluate_model(self, **arguments: Any) -> dsl.PipelineTask:
        """Adds the evaluation step."""
        return evaluate_model(**arguments)

    def dress(self, task: dsl.PipelineTask, display_name: str, cpu: str, memory: str) -> dsl.PipelineTask:
        """Gives a step its name in the dashboard, its resources, and the volume and the Secrets that it uses.

        Args:
            task: The step.
            display_name: Its name in the dashboard.
            cpu: CPUs requested, and the limit, as Kubernetes writes them.
            memory: Memory requested, and the limit.
        """
        task.set_display_name(display_name)
        task.set_cpu_request(cpu).set_cpu_limit(cpu)
        task.set_memory_request(memory).set_memory_limit(memory)
        if task.name != "gate":
            # It writes to the volume; taken from the cache, it would leave nothing there.
            task.set_caching_options(False)
            kubernetes.mount_pvc(task, pvc_name=self.volume_claim, mount_path=VOLUME_PATH)
        if task.name in ("load-data", "deploy-model"):
            kubernetes.use_secret_as_env(task, self.s3_secret, {key: key for key in S3_KEYS}, optional=True)
        if task.name == "train-model":
            kubernetes.use_secret_as_env(task, self.hub_secret, {key: key for key in HUB_KEYS}, optional=True)
        return task

    def dress_training(self, task: dsl.PipelineTask, display_name: str) -> dsl.PipelineTask:
        """The same for a step that has the training's resources; a limit of 0 GPUs is met by every node."""
        # The limit is a string, as the others are: of a number, KFP's driver makes an empty one, and leaves the GPU
        # out without a word.
        task.set_accelerator_type(GPU).set_accelerator_limit(self.train_gpus)
        return self.dress(task, display_name, self.train_cpu, self.train_memory)

    def deploy(self, validated: dsl.PipelineTask, **arguments: Any) -> None:
        """Adds the step that makes the release an InferenceService, asks it and gives it the traffic.

        Args:
            validated: The step that must have succeeded before.
            **arguments: See `graph.Platform.deploy`.
        """
        deployed = deploy_model(
            namespace=self.namespace,
            serving_runtime=self.serving_runtime,
            runtime_name=self.runtime_name,
            model_store=self.model_store,
            volume_claim=self.volume_claim,
            service_account=self.service_account,
            deployment_mode=self.deployment_mode,
            min_replicas=self.min_replicas,
            max_replicas=self.max_replicas,
            scale_metric=self.scale_metric,
            scale_target=self.scale_target,
            serving_cpu=self.serving_cpu,
            serving_memory=self.serving_memory,
            serving_gpus=self.serving_gpus,
            istio_sidecar=self.istio_sidecar,
            canary_percent=self.canary_percent,
            canary_minutes=self.canary_minutes,
            deploy_timeout=self.deploy_timeout,
            first_failure=self.first_failure,
            gateway=self.gateway,
            **arguments,
        ).after(validated)
        self.dress(deployed, "Deploy model", "500m", "2Gi")


nlp_pipeline = make_pipeline(
    Kubeflow,
    display_name="NLP pipeline: text to endpoint",
    description="Fine-tunes a text classifier on labelled text, packs it, asks it in the real server, and deploys it "
    "with KServe.",
)
