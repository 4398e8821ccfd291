"""The pipeline that classifies all rows of a file in several pods."""

from kfp import dsl
from kfp.dsl import Metrics, Output

from nlp_pipeline.pipeline.embedding import component
from nlp_pipeline.pipeline.graph import Values, make_pipeline
from nlp_pipeline.pipeline.kubeflow import Kubeflow
from nlp_pipeline.pipeline.pods import GPU
from nlp_pipeline.steps.batch_predict.settings import MOST_PODS, BatchSettings
from nlp_pipeline.volume import Run


@component
def plan_batch(run: Run, settings: BatchSettings, text_column: str) -> list:  # type: ignore[type-arg]  # as kfp has it
    """Reads the rows and writes down what is to be done; says what each pod is given."""
    from nlp_pipeline.steps.batch_predict.step import plan

    return plan(settings, text_column, run)


@component
def predict_batch(run: Run, to: str, share: str) -> None:
    """Classifies the shards of a pod."""
    from nlp_pipeline.steps.batch_predict.step import predict

    predict(to, share, run)


@component
def finish_batch(run: Run, to: str, results: Output[Metrics]) -> None:
    """Makes sure that all rows are there, and writes the manifest."""
    from nlp_pipeline.steps.batch_predict.step import complete

    results.metadata.update(complete(to, run, results.path))


def add_batch(values: Values) -> None:
    """Adds the steps."""
    platform = Kubeflow(values)
    planned = plan_batch(**values.of(plan_batch))
    platform.configure_task(planned, "Plan", "4Gi")
    with dsl.ParallelFor(planned.output, name="pods", parallelism=MOST_PODS) as share:
        # A pod that was evicted goes on where it was.
        predicted = predict_batch(**values.of(predict_batch), share=share).set_retry(num_retries=2)
        platform.configure_task(predicted, "Classify", "8Gi")
        predicted.set_cpu_request(values["pod_cpu"])
        predicted.set_accelerator_type(GPU).set_accelerator_limit(values["pod_gpus"])
        predicted.register_pipeline_channels([values["pod_cpu"], values["pod_gpus"]])
    finished = finish_batch(**values.of(finish_batch)).after(predicted)
    platform.configure_task(finished, "Check and finish", "4Gi")


nlp_pipeline_batch = make_pipeline(
    add_batch,
    "batch",
    {"run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER},
    display_name="NLP pipeline: classify all rows of a file",
    does="Classifies all rows of a file in several pods; what was stopped goes on where it was.",
)
