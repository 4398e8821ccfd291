"""The pipeline on Vertex AI."""

from kfp import dsl

from nlp_pipeline.components.load_data import load_data


@dsl.pipeline(name="nlp-pipeline", display_name="NLP pipeline: text to endpoint, on Vertex AI")
def nlp_pipeline_vertex(train_data: str) -> None:
    """Fine-tunes a text classifier on labelled text, packs it, asks it in the real server, and deploys it to Vertex AI.

    Args:
        train_data: Path or URL (file, http, https, s3) of rows to train on: CSV, TSV, JSONL or Parquet, plain or .gz.
    """
    load_data(
        train_data=train_data,
        evaluation_data="",
        text_column="text",
        label_column="label",
        evaluation_share=0.2,
        max_bad_share=0.01,
        seed=42,
        volume_path="",
        model_name="text-classifier",
        run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
    )
