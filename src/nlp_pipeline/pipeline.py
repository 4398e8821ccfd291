"""The pipeline: labelled text in, a live and checked endpoint out."""

from pathlib import Path

from kfp import dsl, kubernetes

from nlp_pipeline import packages
from nlp_pipeline.components.archive_model import archive_model
from nlp_pipeline.components.deploy_model import deploy_model
from nlp_pipeline.components.evaluate_model import evaluate_model
from nlp_pipeline.components.gate import gate
from nlp_pipeline.components.load_data import load_data
from nlp_pipeline.components.train_model import train_model
from nlp_pipeline.components.validate_archive import validate_archive

NAME = "nlp-pipeline"
VOLUME_PATH = "/mnt/nlp-pipeline"
GPU = "nvidia.com/gpu"
# The keys of the Secrets are the names of the variables that the steps read.
S3_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION")
HUB_KEYS = ("HF_TOKEN",)
# The archive holds the handler's source as it stands in the repository.
HANDLER = (Path(__file__).parent / "serving" / "handler.py").read_text(encoding="utf-8")


def dress(
    task: dsl.PipelineTask,
    display_name: str,
    cpu: str,
    memory: str,
    volume_claim: str | None = None,
    s3_secret: str | None = None,
    hub_secret: str | None = None,
    gpus: str | None = None,
) -> dsl.PipelineTask:
    """Gives a step its name in the dashboard, its resources, and the volume and the Secrets that it uses.

    Args:
        task: The step.
        display_name: Its name in the dashboard.
        cpu: CPUs requested, and the limit, as Kubernetes writes them.
        memory: Memory requested, and the limit.
        volume_claim: The claim of the volume, for a step that writes there. Such a step is never taken from the cache:
            a cached step would leave nothing on the volume.
        s3_secret: The Secret with the S3 credentials, for a step that reads or writes s3://; it need not exist.
        hub_secret: The Secret with the token of the Hugging Face hub, for a step that downloads from there; nor need
            this one.
        gpus: GPUs, for a step that can use one; a limit of 0 is met by every node. A string, as the others are: of a
            number, KFP's driver makes an empty one, and leaves the GPU out without a word.

    Returns:
        The step.
    """
    task.set_display_name(display_name)
    task.set_cpu_request(cpu).set_cpu_limit(cpu)
    task.set_memory_request(memory).set_memory_limit(memory)
    if gpus is not None:
        task.set_accelerator_type(GPU).set_accelerator_limit(gpus)
    if volume_claim is not None:
        task.set_caching_options(False)
        kubernetes.mount_pvc(task, pvc_name=volume_claim, mount_path=VOLUME_PATH)
    for secret, keys in ((s3_secret, S3_KEYS), (hub_secret, HUB_KEYS)):
        if secret is not None:
            kubernetes.use_secret_as_env(task, secret, {key: key for key in keys}, optional=True)
    return task


@dsl.pipeline(name=NAME, display_name="NLP pipeline: text to endpoint")
def nlp_pipeline(
    train_data: str,
    evaluation_data: str = "",
    text_column: str = "text",
    label_column: str = "label",
    evaluation_share: float = 0.2,
    max_bad_share: float = 0.01,
    model_name: str = "text-classifier",
    base_model: str = "distilbert/distilbert-base-uncased",
    epochs: float = 2.0,
    learning_rate: float = 5e-5,
    batch_size: int = 32,
    max_length: int = 128,
    weight_decay: float = 0.01,
    warmup_share: float = 0.06,
    max_train_rows: int = 0,
    max_steps: int = 0,
    seed: int = 42,
    min_accuracy: float = 0.5,
    precision: str = "auto",
    max_quantisation_drop: float = 0.005,
    validation_rows: int = 500,
    min_agreement: float = 0.97,
    max_accuracy_drop: float = 0.01,
    volume_claim: str = "nlp-pipeline",
    volume_path: str = VOLUME_PATH,
    train_cpu: str = "4",
    train_memory: str = "12Gi",
    train_gpus: str = "0",
    deploy: bool = True,
    namespace: str = "",
    serving_runtime: str = "torchserve",
    runtime_name: str = "",
    model_store: str = "",
    service_account: str = "",
    s3_secret: str = "nlp-pipeline-s3",  # noqa: S107, the name of a Secret
    hub_secret: str = "nlp-pipeline-hub",  # noqa: S107
    deployment_mode: str = "",
    min_replicas: int = 1,
    max_replicas: int = 1,
    scale_metric: str = "",
    scale_target: int = 0,
    serving_cpu: str = "1",
    serving_memory: str = "2Gi",
    serving_gpus: int = 0,
    istio_sidecar: bool = False,
    canary_percent: int = 0,
    canary_minutes: float = 10.0,
    deploy_timeout: int = 900,
    endpoint_rows: int = 100,
    first_failure: str = "stop",
    gateway: str = "",
) -> None:
    """Fine-tunes a text classifier on labelled text, packs it, asks it in the real server, and deploys it with KServe.

    Args:
        train_data: Path or URL (file, http, https, s3) of rows to train on: CSV, TSV, JSONL or Parquet, plain or .gz.
        evaluation_data: The same for rows to evaluate on; empty to split a share off the training data.
        text_column: Name of the text's column.
        label_column: Name of the label's column.
        evaluation_share: Share of each class to split off where there is no evaluation_data.
        max_bad_share: Share of rows, from 0 to 1, that may lack a text or a label.
        model_name: Name of the model, of the archive and of the InferenceService: lower case, digits, hyphens.
        base_model: Encoder to fine-tune: a Hugging Face hub id, or a folder with safetensors.
        epochs: Passes over the rows.
        learning_rate: Peak learning rate; it rises over the warm-up and falls linearly to 0.
        batch_size: Rows a training step.
        max_length: Tokens at which a text is cut.
        weight_decay: Weight decay of AdamW.
        warmup_share: Share of the training steps in which the learning rate rises.
        max_train_rows: Train on so many rows, chosen at random; 0 for all.
        max_steps: Stop after so many training steps; 0 for no cap.
        seed: Seed of the split, of the new head, of the order of rows and of dropout.
        min_accuracy: Floor of the accuracy, from 0 to 1; below it, nothing is archived.
        precision: Number format of the archive's weights: int8, fp32, or auto for the fastest that is good enough.
        max_quantisation_drop: By how much int8 may lower the accuracy, as a fraction, to be chosen.
        validation_rows: Ask the served model for so many evaluation rows; 0 for all.
        min_agreement: Least share of rows on which the served and the offline model must agree.
        max_accuracy_drop: By how much the served model's accuracy may be lower, as a fraction.
        volume_claim: Name of an existing PersistentVolumeClaim, mounted into the steps.
        volume_path: Where the steps find the volume; change it only for a local run, where a folder takes its place.
        train_cpu: CPUs of the training and evaluation steps.
        train_memory: Memory of the training and evaluation steps.
        train_gpus: GPUs of the training and evaluation steps: 0 or 1.
        deploy: Whether to deploy the release with KServe; without, the pipeline ends at a validated release.
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
        endpoint_rows: Ask the deployed model for so many evaluation rows.
        first_failure: What becomes of a first deployment that fails: stop keeps the object without pods, or delete.
        gateway: Address of an ingress gateway to ask through, by Host header; empty to ask the endpoint itself.
    """
    run = {"volume_path": volume_path, "model_name": model_name, "run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER}

    loaded = load_data(
        train_data=train_data,
        evaluation_data=evaluation_data,
        text_column=text_column,
        label_column=label_column,
        evaluation_share=evaluation_share,
        max_bad_share=max_bad_share,
        seed=seed,
        **run,
    )
    dress(loaded, "Load data", "1", "4Gi", volume_claim, s3_secret=s3_secret)

    trained = train_model(
        train=loaded.outputs["train"],
        base_model=base_model,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        max_length=max_length,
        weight_decay=weight_decay,
        warmup_share=warmup_share,
        max_train_rows=max_train_rows,
        max_steps=max_steps,
        seed=seed,
        **run,
    )
    dress(trained, "Train model", train_cpu, train_memory, volume_claim, hub_secret=hub_secret, gpus=train_gpus)
    # A pod that was evicted goes on from its last checkpoint.
    trained.set_retry(num_retries=2)

    evaluated = evaluate_model(
        model=trained.outputs["model"],
        evaluation=loaded.outputs["evaluation"],
        training=trained.outputs["training"],
        max_length=max_length,
        **run,
    )
    dress(evaluated, "Evaluate model", train_cpu, train_memory, volume_claim, gpus=train_gpus)

    passed = gate(metrics=evaluated.outputs["metrics"], min_accuracy=min_accuracy)
    dress(passed, "Gate: is it better?", "500m", "512Mi")

    with dsl.If(passed.output == True, name="gate passed"):  # noqa: E712, a comparison that kfp writes down
        archived = archive_model(
            model=trained.outputs["model"],
            metrics=evaluated.outputs["metrics"],
            train=loaded.outputs["train"],
            predictions=evaluated.outputs["predictions"],
            evaluation_report=evaluated.outputs["report"],
            precision=precision,
            max_quantisation_drop=max_quantisation_drop,
            min_agreement=min_agreement,
            serving_gpus=serving_gpus,
            max_length=max_length,
            handler=HANDLER,
            requirements="\n".join(packages.SERVING),
            **run,
        )
        dress(archived, "Archive model", "2", "8Gi", volume_claim)

        validated = validate_archive(
            release=archived.outputs["release"],
            predictions=evaluated.outputs["predictions"],
            validation_rows=validation_rows,
            min_agreement=min_agreement,
            max_accuracy_drop=max_accuracy_drop,
            **run,
        )
        dress(validated, "Validate archive", "2", "4Gi", volume_claim)

        with dsl.If(deploy == True, name="deploy"):  # noqa: E712
            deployed = deploy_model(
                release=archived.outputs["release"],
                predictions=evaluated.outputs["predictions"],
                namespace=namespace,
                serving_runtime=serving_runtime,
                runtime_name=runtime_name,
                model_store=model_store,
                volume_claim=volume_claim,
                service_account=service_account,
                deployment_mode=deployment_mode,
                min_replicas=min_replicas,
                max_replicas=max_replicas,
                scale_metric=scale_metric,
                scale_target=scale_target,
                serving_cpu=serving_cpu,
                serving_memory=serving_memory,
                serving_gpus=serving_gpus,
                istio_sidecar=istio_sidecar,
                canary_percent=canary_percent,
                canary_minutes=canary_minutes,
                deploy_timeout=deploy_timeout,
                endpoint_rows=endpoint_rows,
                min_agreement=min_agreement,
                max_accuracy_drop=max_accuracy_drop,
                first_failure=first_failure,
                gateway=gateway,
                **run,
            ).after(validated)
            dress(deployed, "Deploy model", "500m", "2Gi", volume_claim, s3_secret=s3_secret)
