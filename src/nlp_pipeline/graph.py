"""The graph that every platform shares: labelled text in, a validated release out, and from there to what serves.

What differs between the platforms (how a step is dressed, where outputs go, what serves) is a `Platform`, one a file:
pipeline.py for Kubeflow, pipeline_vertex.py for Vertex AI. A parameter, its default and its description stand once:
here where the platforms share it, with the platform where it is its own.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import docstring_parser
from kfp import dsl

from nlp_pipeline import packages
from nlp_pipeline.components.archive_model import archive_model
from nlp_pipeline.components.gate import gate
from nlp_pipeline.components.load_data import load_data
from nlp_pipeline.components.validate_archive import validate_archive

NAME = "nlp-pipeline"
# The archive holds the handler's source as it stands in the repository.
HANDLER = (Path(__file__).parent / "serving" / "handler.py").read_text(encoding="utf-8")


class Platform(Protocol):
    """What differs between the platforms. Its attributes may be parameters of the pipeline.

    Attributes:
        volume_path: Where the steps find the volume; empty where there is none.
        serving_gpus: GPUs of what serves.
    """

    volume_path: str
    serving_gpus: int

    def prepare(self, model_name: str, base_model: str, deploy: bool) -> None:
        """Adds what comes before the shared steps, where there is something."""

    def train_model(self, **arguments: Any) -> dsl.PipelineTask:
        """Adds the training step as it runs on the platform; see components/train_model.py."""

    def evaluate_model(self, **arguments: Any) -> dsl.PipelineTask:
        """Adds the evaluation step as it runs on the platform; see components/evaluate_model.py."""

    def dress(self, task: dsl.PipelineTask, display_name: str, cpu: str, memory: str) -> dsl.PipelineTask:
        """Gives a step its name in the dashboard, its resources, and all else that it needs on the platform."""

    def dress_training(self, task: dsl.PipelineTask, display_name: str) -> dsl.PipelineTask:
        """The same for a step that has the training's resources."""

    def deploy(self, validated: dsl.PipelineTask, **arguments: Any) -> None:
        """Adds what brings a release to an endpoint and checks it.

        Args:
            validated: The step that must have succeeded before.
            **arguments: The release, the offline model's predictions, the limits within which the endpoint must agree
                with them, and what every step takes.
        """


def shared_graph(
    platform: Platform,
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
    deploy: bool = True,
    endpoint_rows: int = 100,
) -> None:
    """Adds the steps to the pipeline that is being made; the parameters are those that all platforms share.

    Args:
        platform: What differs.
        train_data: Path or URL (file, http, https, s3, gs) of rows to train on: CSV, TSV, JSONL or Parquet, also .gz.
        evaluation_data: The same for rows to evaluate on; empty to split a share off the training data.
        text_column: Name of the text's column.
        label_column: Name of the label's column.
        evaluation_share: Share of each class to split off where there is no evaluation_data.
        max_bad_share: Share of rows, from 0 to 1, that may lack a text or a label.
        model_name: Name of the model, of the archive and of what serves it: lower case, digits, hyphens.
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
        deploy: Whether to deploy the release; without, the pipeline ends at a validated release.
        endpoint_rows: Ask the deployed model for so many evaluation rows.
    """
    run = {"volume_path": platform.volume_path, "model_name": model_name, "run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER}
    platform.prepare(model_name, base_model, deploy)

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
    platform.dress(loaded, "Load data", "1", "4Gi")

    trained = platform.train_model(
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
    platform.dress_training(trained, "Train model")

    evaluated = platform.evaluate_model(
        model=trained.outputs["model"],
        evaluation=loaded.outputs["evaluation"],
        training=trained.outputs["training"],
        max_length=max_length,
        **run,
    )
    platform.dress_training(evaluated, "Evaluate model")

    passed = gate(metrics=evaluated.outputs["metrics"], min_accuracy=min_accuracy)
    platform.dress(passed, "Gate: is it better?", "500m", "512Mi")

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
            serving_gpus=platform.serving_gpus,
            max_length=max_length,
            handler=HANDLER,
            requirements="\n".join(packages.SERVING),
            **run,
        )
        platform.dress(archived, "Archive model", "2", "8Gi")

        validated = validate_archive(
            release=archived.outputs["release"],
            predictions=evaluated.outputs["predictions"],
            validation_rows=validation_rows,
            min_agreement=min_agreement,
            max_accuracy_drop=max_accuracy_drop,
            **run,
        )
        platform.dress(validated, "Validate archive", "2", "4Gi")

        with dsl.If(deploy == True, name="deploy"):  # noqa: E712
            platform.deploy(
                validated,
                release=archived.outputs["release"],
                predictions=evaluated.outputs["predictions"],
                endpoint_rows=endpoint_rows,
                min_agreement=min_agreement,
                max_accuracy_drop=max_accuracy_drop,
                **run,
            )


def make_pipeline(platform: Callable[..., Platform], display_name: str, description: str) -> Any:
    """Returns the pipeline of a platform, as kfp makes it.

    Args:
        platform: The platform's class, a dataclass: its fields are parameters of the pipeline, after the shared ones.
        display_name: The pipeline's name in the dashboard.
        description: What it does, a sentence.
    """
    # The first is the platform.
    shared = list(inspect.signature(shared_graph).parameters.values())[1:]
    own = list(inspect.signature(platform).parameters.values())
    described = [
        one for place in (shared_graph, platform) for one in docstring_parser.parse(inspect.getdoc(place) or "").params
    ]

    def pipeline(*values: Any) -> None:
        given = dict(zip([one.name for one in [*shared, *own]], values, strict=True))
        shared_graph(platform(**{one.name: given.pop(one.name) for one in own}), **given)

    # kfp reads a pipeline's parameters and their descriptions from these.
    pipeline.__signature__ = inspect.Signature([*shared, *own])  # type: ignore[attr-defined]
    pipeline.__doc__ = f"{description}\n\nArgs:\n" + "\n".join(
        f"    {one.arg_name}: {one.description}" for one in described
    )
    return dsl.pipeline(name=NAME, display_name=display_name)(pipeline)
