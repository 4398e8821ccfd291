"""The steps as KFP sees them: signatures, in the order of the graph. What they do stands in `nlp_pipeline.steps`.

The run comes first among the settings: it records where others are not in their ranges, too.
"""

from kfp.dsl import (
    HTML,
    Artifact,
    ClassificationMetrics,
    Dataset,
    Input,
    Markdown,
    Metrics,
    Model,
    Output,
    PipelineTaskFinalStatus,
)

from nlp_pipeline.deploy.settings import DeploySettings
from nlp_pipeline.pipeline.embedding import component
from nlp_pipeline.serving.agreement import AgreementLimits
from nlp_pipeline.steps.archive_model.settings import ArchiveSettings
from nlp_pipeline.steps.evaluate_model.settings import ChampionSettings, ComparisonLimits, GateSettings
from nlp_pipeline.steps.load_data.settings import LoadSettings
from nlp_pipeline.steps.train_model.settings import TrainSettings
from nlp_pipeline.volume import Run


@component
def load_data(
    run: Run, settings: LoadSettings, train: Output[Dataset], evaluation: Output[Dataset], summary: Output[Markdown]
) -> None:
    """Loads labelled text, checks it, splits it and hands it on as Parquet."""
    from nlp_pipeline.steps.load_data.load import load_datasets

    figures = load_datasets(settings, run, train.path, evaluation.path, summary.path)
    train.metadata.update(figures[0])
    evaluation.metadata.update(figures[1])


@component
def train_model(
    train: Input[Dataset],
    run: Run,
    settings: TrainSettings,
    seed: int,
    train_nodes: int,
    train_runtime: str,
    model: Output[Model],
    training: Output[Metrics],
) -> None:
    """Fine-tunes an encoder on labelled rows."""
    from nlp_pipeline.installed import import_installed
    from nlp_pipeline.steps.train_model.device import count_processes
    from nlp_pipeline.steps.train_model.fine_tune import fine_tune

    source = {name: train.metadata.get(name) for name in ("source", "source_sha256")}
    arguments = model.path, settings, seed, run, source
    if train_nodes > 1:
        several = import_installed("train_job.follow", f"train_nodes={train_nodes}")
        facts = several.train_on_nodes(train_nodes, train_runtime, *arguments)
    elif (processes := count_processes()) > 1:
        several = import_installed("steps.train_model.processes", "train_gpus")
        facts = several.fine_tune_in_processes(processes, train.path, *arguments)
    else:
        facts = fine_tune(train.path, *arguments)
    model.metadata.update(base_model=settings.base_model, max_length=settings.max_length)
    training.metadata.update(facts)


@component
def evaluate_model(
    model: Input[Model],
    evaluation: Input[Dataset],
    run: Run,
    settings: ChampionSettings,
    floor: GateSettings,
    limits: ComparisonLimits,
    max_length: int,
    namespace: str,
    metrics: Output[Metrics],
    confusion: Output[ClassificationMetrics],
    predictions: Output[Dataset],
    report: Output[HTML],
) -> bool:
    """Evaluates a classifier on rows that it has not seen, and says whether it passes the gate."""
    from nlp_pipeline.steps.evaluate_model.evaluation import evaluate
    from nlp_pipeline.steps.evaluate_model.gate import passes_gate

    outputs = metrics.path, predictions.path, report.path
    figures, labels, matrix = evaluate(model.path, evaluation.path, max_length, settings, namespace, run, *outputs)
    metrics.metadata.update(figures)
    if matrix:
        confusion.log_confusion_matrix(labels, matrix)
    return passes_gate(metrics.path, run, floor, limits)


@component
def archive_model(
    model: Input[Model],
    predictions: Input[Dataset],
    run: Run,
    settings: ArchiveSettings,
    max_length: int,
    min_agreement: float,
    serving_gpus: int,
    release: Output[Model],
    report: Output[HTML],
) -> None:
    """Packs a model as a TorchServe archive and a Hugging Face folder, and publishes them as a release."""
    from pathlib import Path

    from nlp_pipeline.steps.archive_model.archiving import archive_model

    facts = archive_model(
        Path(model.path),
        Path(predictions.path),
        Path(release.path),
        Path(report.path),
        settings=settings,
        max_length=max_length,
        min_agreement=min_agreement,
        serving_gpus=serving_gpus,
        run=run,
    )
    release.metadata.update(facts)


@component
def validate_archive(
    release: Input[Model],
    predictions: Input[Dataset],
    run: Run,
    limits: AgreementLimits,
    validation_rows: int,
    validation: Output[Metrics],
) -> None:
    """Serves a release with the real server and holds its answers against the offline model's."""
    from pathlib import Path

    from nlp_pipeline.steps.validate_archive import validate_archive

    facts = validate_archive(
        release=Path(release.path),
        digest=release.metadata["digest"],
        predictions=Path(predictions.path),
        validation_rows=validation_rows,
        limits=limits,
        run=run,
        validation=Path(validation.path),
    )
    validation.metadata.update(facts)


@component
def deploy_model(
    release: Input[Model],
    predictions: Input[Dataset],
    run: Run,
    settings: DeploySettings,
    limits: AgreementLimits,
    deploy: bool,
    endpoint_rows: int,
    endpoint: Output[Artifact],
    deployment: Output[Metrics],
) -> None:
    """Creates or updates the InferenceService of a release, asks it, gives it the traffic, or puts back what was."""
    import json
    from pathlib import Path

    from nlp_pipeline.deploy.deployment import deploy_published, register_published

    digest = str(release.metadata["digest"])
    if not deploy:  # as a condition of the graph, this would be a DAG more: 31 KB of the workflow
        if settings.model_registry:
            register_published(run, digest, settings)
        print("deploy=false: the release is validated, and not deployed")
        return
    outcome = deploy_published(run, digest, settings, limits, predictions.path, endpoint_rows)
    endpoint.metadata.update(outcome.endpoint)
    deployment.metadata.update(outcome.figures)
    for artifact, name in ((endpoint, "endpoint.json"), (deployment, "deployment.json")):
        Path(artifact.path).write_text(json.dumps(artifact.metadata, indent=1), encoding="utf-8")
        run.keep(artifact.path, name)
    outcome.raise_failure()


@component
def notify(model_name: str, run_id: str, status: PipelineTaskFinalStatus) -> None:
    """Says how the run ended, to webhooks and as an Event."""
    from nlp_pipeline.steps.notify import notify
    from nlp_pipeline.volume import Run

    run = Run(model_name=model_name, run_id=run_id)  # not as settings, which would record this step
    notify(run, status.state, status.pipeline_job_resource_name)
