"""`plan_vertex_deployment`: what is there on Vertex AI already, and how a release comes beside it."""

from typing import Any, NamedTuple

from google.cloud import aiplatform_v1

from nlp_pipeline.errors import UsageError
from nlp_pipeline.vertex.steps.api import NotFoundError, call, connect
from nlp_pipeline.vertex.steps.traffic import scale_traffic


class Plan(NamedTuple):
    """How a release becomes a version that gets a first share of the traffic.

    Attributes:
        artifact_uri: The release in Cloud Storage.
        predict_route: The path of the container that answers predictions.
        labels: Labels of the new version: the release's digest.
        parent_model: Resource name of the model that gets a version more; empty where it is the first one.
        parent_uri: The same as an address of the API.
        endpoint: Resource name of the endpoint; empty where one is to be made.
        endpoint_uri: The same as an address of the API.
        traffic_split: The endpoint's traffic once the new version, "0", is deployed: percents by deployed models' ids.
        former_traffic: The endpoint's traffic now.
    """

    artifact_uri: str
    predict_route: str
    labels: dict[str, str]
    parent_model: str
    parent_uri: str
    endpoint: str
    endpoint_uri: str
    traffic_split: dict[str, str]
    former_traffic: dict[str, str]


def plan_deployment(
    release: str, digest: str, project: str, location: str, model_name: str, endpoint: str, canary_percent: int
) -> Plan:
    """Looks up the model and the endpoint, and plans how the release is deployed beside what serves already.

    Args:
        release: The release's address, gs://bucket/folder.
        digest: Its digest.
        project: The project.
        location: The region.
        model_name: The model's display name, and the endpoint's.
        endpoint: Id or resource name of an existing endpoint; empty for the one with the model's name.
        canary_percent: Share of the traffic, in percent, that the new version gets where others serve already.

    Raises:
        UsageError: What is there is not clear, or does not fit.
        PipelineError: Vertex AI can't be asked.
    """
    if not release.startswith("gs://"):
        raise UsageError(f"the release lies at {release!r}: Vertex AI serves from Cloud Storage, gs://bucket/folder")
    parent = f"projects/{project}/locations/{location}"
    models = connect(aiplatform_v1.ModelServiceClient, location)
    endpoints = connect(aiplatform_v1.EndpointServiceClient, location)
    model = find_named("model", models.list_models, parent, model_name)
    if endpoint:
        found = read_endpoint(endpoints, parent, endpoint)
    else:
        found = find_named("endpoint", endpoints.list_endpoints, parent, model_name)
    others = sorted({item.display_name for item in found.deployed_models} - {model_name}) if found else []
    if others:
        # All of the traffic will go to the new version, and what was there will be undeployed.
        raise UsageError(
            f"endpoint {found.name} serves other models too ({', '.join(others)}): set endpoint to another one, or "
            "leave it empty"
        )
    former = {id: share for id, share in found.traffic_split.items() if share} if found else {}
    left = scale_traffic(former, 100 - canary_percent)
    split = {"0": 100 - sum(left.values()), **left}
    name, parent_model = found.name if found else "", model.name.partition("@")[0] if model else ""
    api = f"https://{location}-aiplatform.googleapis.com/v1/"
    print(f"a version of {parent_model or 'a new model'}, at {name or 'a new endpoint'}, with the traffic {split}")
    return Plan(
        artifact_uri=release,
        predict_route=f"/v1/models/{model_name}:predict",
        labels={"nlp-pipeline-release": digest},
        parent_model=parent_model,
        parent_uri=api + parent_model,
        endpoint=name,
        endpoint_uri=api + name,
        # As texts, which JSON takes for whole numbers too: parameters know no integers inside of objects.
        traffic_split={id: str(share) for id, share in split.items()},
        former_traffic={id: str(share) for id, share in former.items()},
    )


def find_named(kind: str, listing: Any, parent: str, name: str) -> Any:
    """Returns the model or the endpoint that has a display name; None where there is none.

    Raises:
        UsageError: Several have it.
    """
    found = call(f"listing {kind}s", listing, parent=parent, filter=f'display_name="{name}"')
    if len(found) > 1:
        ids = ", ".join(item.name.rpartition("/")[2] for item in found)
        advice = (
            "set endpoint to one of them" if kind == "endpoint" else "delete all but one, or set another model_name"
        )
        raise UsageError(f"{len(found)} {kind}s in {parent} are named {name!r}, with the ids {ids}: {advice}")
    return found[0] if found else None


def read_endpoint(client: Any, parent: str, endpoint: str) -> Any:
    """Returns an endpoint that the user has named.

    Args:
        client: A client of the endpoints' service.
        parent: projects/NAME/locations/REGION.
        endpoint: The endpoint's id or resource name.

    Raises:
        UsageError: There is no such endpoint.
    """
    name, location = endpoint if "/" in endpoint else f"{parent}/endpoints/{endpoint}", parent.rpartition("/")[2]
    if f"/locations/{location}/" not in name:
        raise UsageError(f"endpoint is {endpoint!r}, and the run is in {location}: name one that is there too")
    try:
        return call(f"reading endpoint {endpoint}", client.get_endpoint, name=name)
    except NotFoundError:
        raise UsageError(f"endpoint {endpoint!r} is not in {parent}: leave it empty to have one made") from None
