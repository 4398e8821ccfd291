"""The pipeline that compares texts with a release's training data on a schedule, and trains anew where they moved."""

from kfp import dsl, kubernetes
from kfp.dsl import Markdown, Metrics, Output

from nlp_pipeline.pipeline.embedding import component
from nlp_pipeline.pipeline.graph import Values, make_pipeline
from nlp_pipeline.pipeline.kubeflow import Kubeflow
from nlp_pipeline.steps.detect_drift.settings import DriftSettings
from nlp_pipeline.volume import Run

# By this label a Kubeflow profile's pods get a token for Kubeflow Pipelines, from the PodDefault of that name.
ACCESS = "access-ml-pipeline"


@component
def detect_drift(
    settings: DriftSettings,
    text_column: str,
    label_column: str,
    label_separator: str,
    run: Run,
    drift: Output[Metrics],
    report: Output[Markdown],
) -> None:
    """Tells whether texts are still such as a release was trained on, and starts a training where they are not."""
    from nlp_pipeline.steps.detect_drift.step import check_drift

    columns = text_column, label_column
    drift.metadata.update(check_drift(settings, columns, label_separator, run, drift.path, report.path))


def add_drift(values: Values) -> None:
    """Adds the one step."""
    task = detect_drift(**values.of(detect_drift))
    platform = Kubeflow(values)
    platform.configure_task(task, "Has the data moved?", "4Gi")
    kubernetes.add_pod_label(task, ACCESS, "true")


nlp_pipeline_drift = make_pipeline(
    add_drift,
    "drift",
    {"run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER},
    display_name="NLP pipeline: has the data moved?",
    does="Compares texts with those that a release was trained on, and starts a training where they have moved.",
)
