"""The pipeline on Kubeflow, and on this machine: steps are pods with a volume, and KServe serves the release."""

from typing import Any

from kfp import dsl, kubernetes

from nlp_pipeline.pipeline.admission import SHARED_MEMORY, TRAINING_MEMORY
from nlp_pipeline.pipeline.components import deploy_model, evaluate_model, notify, train_model
from nlp_pipeline.pipeline.graph import Values, add_pipeline, make_pipeline
from nlp_pipeline.pipeline.pods import GPU, SECRETS, STEP
from nlp_pipeline.pipeline.startup import CONFIGURATION
from nlp_pipeline.volume import VOLUME_PATH

# For so many seconds a step's pod may run; kfp takes constants alone. KFP before 2.17 refuses a file with a deadline of
# the whole run.
DAY = 86_400
DEADLINES = {"train-model": 7 * DAY}


class Kubeflow:
    """What is Kubeflow's own; see `graph.Platform`."""

    def __init__(self, values: Values) -> None:
        self.values = values

    def finish(self) -> dsl.ExitHandler:
        """Adds the notice at the run's end, and returns the group of steps at whose end it comes."""
        task = notify(**self.values.of(notify))
        self.configure_task(task, "Notify", "512Mi")
        return dsl.ExitHandler(task, name="run")

    def train_model(self, **artifacts: Any) -> dsl.PipelineTask:
        """Adds the training step; a pod that was evicted goes on from its last checkpoint."""
        task = train_model(**artifacts, **self.values.of(train_model)).set_retry(num_retries=2)
        # The processes of several GPUs share more memory than the 64 MB that a container has for it.
        kubernetes.empty_dir_mount(task, SHARED_MEMORY, "/dev/shm", medium="Memory")  # noqa: S108
        return self.configure_training(task, "Train model")

    def evaluate_model(self, **artifacts: Any) -> dsl.PipelineTask:
        """Adds the evaluation step."""
        return self.configure_training(evaluate_model(**artifacts, **self.values.of(evaluate_model)), "Evaluate model")

    def configure_training(self, task: dsl.PipelineTask, display_name: str) -> dsl.PipelineTask:
        """Gives a task the training's resources; a limit of 0 GPUs is met by every node."""
        # The limit is a string, as the others are: of a number, KFP's driver makes an empty one, and leaves the GPU
        # out without a word.
        task.set_accelerator_type(GPU).set_accelerator_limit(self.values["train_gpus"])
        self.configure_task(task, display_name, self.values["train_memory"])
        task.set_cpu_request(self.values["train_cpu"]).set_memory_request(TRAINING_MEMORY)
        # Else kfp would not hand them into the group that the task is in.
        task.register_pipeline_channels([self.values[name] for name in ("train_cpu", "train_memory", "train_gpus")])
        return task

    def configure_task(self, task: dsl.PipelineTask, display_name: str, memory: str) -> None:
        """Gives a task its name in the dashboard, its resources, a place, the volume and its Secrets."""
        task.set_display_name(display_name)
        # Little must be free, so that a step starts on a small node too; what CPUs are free, it uses.
        task.set_cpu_request(STEP["cpu"]).set_memory_request(STEP["memory"]).set_memory_limit(memory)
        # Steps write to the volume; taken from the cache, they would leave nothing there.
        task.set_caching_options(False)
        kubernetes.set_timeout(task, DEADLINES.get(task.name, DAY))
        kubernetes.mount_pvc(task, pvc_name=self.values["volume_claim"], mount_path=VOLUME_PATH)
        kubernetes.add_node_selector_json(task, self.values["node_selector"])
        kubernetes.add_toleration_json(task, self.values["tolerations"])
        config = self.values["environment_config"]
        kubernetes.use_config_map_as_volume(task, config, mount_path=str(CONFIGURATION), optional=True)
        for parameter, (tasks, keys) in SECRETS.items():
            if task.name in tasks:
                secret = self.values[parameter]
                kubernetes.use_secret_as_env(task, secret, {key: key for key in keys}, optional=True)

    def deploy(self, validated: dsl.PipelineTask, **artifacts: Any) -> None:
        """Adds the step that makes the release an InferenceService, asks it and gives it the traffic, with `deploy`."""
        task = deploy_model(**artifacts, **self.values.of(deploy_model)).after(validated)
        self.configure_task(task, "Deploy model", "2Gi")


nlp_pipeline = make_pipeline(
    lambda values: add_pipeline(Kubeflow(values), values),
    "kubeflow",
    {"run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER},
    display_name="NLP pipeline: text to endpoint",
    does="Fine-tunes a text classifier on labelled text, packs it, asks it in the real server, and deploys it "
    "with KServe.",
)
