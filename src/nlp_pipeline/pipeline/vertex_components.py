"""The steps that only Vertex AI has, as KFP sees them. None of Google's own components is given a text of a user's."""

from typing import NamedTuple

from google_cloud_pipeline_components.types.artifact_types import VertexEndpoint, VertexModel
from kfp.dsl import Dataset, Input, Metrics, Model, Output

from nlp_pipeline.pipeline.embedding import component
from nlp_pipeline.serving.agreement import AgreementLimits
from nlp_pipeline.vertex.settings import VertexSettings


@component
def prepare_vertex(model_name: str, base_model: str, deploy: bool, settings: VertexSettings) -> NamedTuple(  # type: ignore[valid-type]
    "Prepared", [(name, str) for name in ("model_name", *VertexSettings.texts())]
):
    """Checks the parameters, and hands on the texts among them that go into requests to Vertex AI."""
    from nlp_pipeline.vertex.settings import check_together

    check_together(settings, model_name, base_model, deploy)
    texts = {name: getattr(settings, name) for name in settings.texts()}
    texts["train_accelerator"] = texts["train_accelerator"] or "ACCELERATOR_TYPE_UNSPECIFIED"
    return (model_name, *texts.values())


@component
def plan_vertex_deployment(
    release: Input[Model], project: str, location: str, model_name: str, endpoint: str, canary_percent: int
) -> NamedTuple(  # type: ignore[valid-type]
    "Plan",
    [
        *[("artifact_uri", str), ("predict_route", str), ("labels", dict[str, str])],
        *[("parent_model", str), ("parent_uri", str), ("endpoint", str), ("endpoint_uri", str)],
        *[("traffic_split", dict[str, str]), ("former_traffic", dict[str, str])],
    ],
):
    """Looks up the model and the endpoint, and says how the release becomes a version that gets a first share."""
    from nlp_pipeline.vertex.steps.plan import plan_deployment

    digest = release.metadata["digest"]
    plan = plan_deployment(release.uri, digest, project, location, model_name, endpoint, canary_percent)
    return tuple(plan.values())


@component
def check_vertex_endpoint(
    model: Input[VertexModel],
    endpoint: Input[VertexEndpoint],
    predictions: Input[Dataset],
    former_traffic: dict[str, str],
    endpoint_rows: int,
    endpoint_timeout: int,
    limits: AgreementLimits,
    deployment: Output[Metrics],
) -> None:
    """Asks a new version for real predictions, and gives it all of the traffic; or puts back what was, and fails."""
    import json
    from pathlib import Path

    from nlp_pipeline.vertex.steps.check import check_endpoint

    facts = check_endpoint(
        endpoint.metadata["resourceName"],
        model.metadata["resourceName"],
        {id: int(share) for id, share in former_traffic.items()},
        predictions.path,
        endpoint_rows,
        endpoint_timeout,
        limits,
    )
    deployment.metadata.update(facts)
    Path(deployment.path).write_text(json.dumps(facts, indent=1), encoding="utf-8")
