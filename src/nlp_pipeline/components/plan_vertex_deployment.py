"""`plan_vertex_deployment`: what is there on Vertex AI already, and how a release comes beside it."""

from typing import Any, NamedTuple

from kfp import dsl

from nlp_pipeline.components.vertex_api import call_vertex, vertex_client
from nlp_pipeline.components.vertex_traffic import split_with_new


def find_model(parent: str, location: str, model_name: str) -> str:
    """Returns the resource name of the model to which the release becomes a version; empty where there is none.

    Args:
        parent: projects/NAME/locations/REGION.
        location: The region.
        model_name: The model's display name.

    Raises:
        ValueError: Several models have the name.
        RuntimeError: Vertex AI can't be asked.
    """
    client = vertex_client("Model", location)
    wanted = f'display_name="{model_name}"'
    found = call_vertex("listing models", client.list_models, parent=parent, filter=wanted)
    if len(found) > 1:
        ids = ", ".join(str(one.name).rpartition("/")[2] for one in found)
        raise ValueError(
            f"{len(found)} models in {parent} are named {model_name!r}, with the ids {ids}: delete all but one, or set "
            "another model_name"
        )
    return str(found[0].name).partition("@")[0] if found else ""


def find_endpoint(parent: str, location: str, model_name: str, endpoint: str) -> Any:
    """Returns the endpoint that a model is deployed to; None where it is yet to be made.

    Args:
        parent: projects/NAME/locations/REGION.
        location: The region.
        model_name: The model's display name.
        endpoint: The endpoint's id or resource name; empty for the one with the model's name.

    Raises:
        ValueError: There is no such endpoint, several have the name, or it serves other models too.
        RuntimeError: Vertex AI can't be asked.
    """
    client = vertex_client("Endpoint", location)
    if endpoint:
        name = endpoint if "/" in endpoint else f"{parent}/endpoints/{endpoint}"
        if f"/locations/{location}/" not in name:
            raise ValueError(f"endpoint is {endpoint!r}, and the run is in {location}: name one that is there too")
        try:
            found = [call_vertex(f"reading endpoint {endpoint}", client.get_endpoint, name=name)]
        except LookupError:
            raise ValueError(f"endpoint {endpoint!r} is not in {parent}: leave it empty to have one made") from None
    else:
        wanted = f'display_name="{model_name}"'
        found = call_vertex("listing endpoints", client.list_endpoints, parent=parent, filter=wanted)
    if len(found) > 1:
        ids = ", ".join(str(one.name).rpartition("/")[2] for one in found)
        raise ValueError(f"{len(found)} endpoints in {parent} are named {model_name!r}: set endpoint to one of {ids}")
    if not found:
        return None
    strangers = sorted({str(one.display_name) for one in found[0].deployed_models} - {model_name})
    if strangers:
        # All of the traffic will go to the new version, and what was there will be undeployed.
        raise ValueError(
            f"endpoint {found[0].name} serves other models too ({', '.join(strangers)}): set endpoint to another one, "
            "or leave it empty"
        )
    return found[0]


def plan_vertex_deployment(
    release: dsl.Input[dsl.Model],
    project: str,
    location: str,
    model_name: str,
    endpoint: str,
    canary_percent: int,
) -> NamedTuple(  # type: ignore[valid-type]
    "Plan",
    [
        ("artifact_uri", str),
        ("predict_route", str),
        ("labels", dict[str, str]),
        ("parent_model", str),
        ("parent_uri", str),
        ("endpoint", str),
        ("endpoint_uri", str),
        ("traffic_split", dict[str, str]),
        ("former_traffic", dict[str, str]),
    ],
):
    """Looks up the model and the endpoint, and says how the release becomes a version that gets a first share.

    Args:
        release: The release that was validated, in Cloud Storage.
        project: The project.
        location: The region.
        model_name: The model's display name, and the endpoint's.
        endpoint: Id or resource name of an existing endpoint; empty for the one with the model's name.
        canary_percent: Share of the traffic, in percent, that the new version gets where others serve already.

    Returns:
        artifact_uri: The release in Cloud Storage, gs://bucket/folder.
        predict_route: The path of the container that answers predictions.
        labels: Labels of the new version: the release's digest.
        parent_model: Resource name of the model that gets a version more; empty where it is the first one.
        parent_uri: The same as an address of the API.
        endpoint: Resource name of the endpoint; empty where one is to be made.
        endpoint_uri: The same as an address of the API.
        traffic_split: The endpoint's traffic once the new version, "0", is deployed: percents by deployed models' ids.
        former_traffic: The endpoint's traffic now.
    """
    if not release.uri.startswith("gs://"):
        raise ValueError(
            f"the release lies at {release.uri!r}: Vertex AI serves from Cloud Storage, gs://bucket/folder"
        )
    parent = f"projects/{project}/locations/{location}"
    parent_model = find_model(parent, location, model_name)
    found = find_endpoint(parent, location, model_name, endpoint)
    former = {str(one): int(share) for one, share in found.traffic_split.items() if share} if found else {}
    split = split_with_new(former, canary_percent)
    name, api = str(found.name) if found else "", f"https://{location}-aiplatform.googleapis.com/v1/"
    print(f"a version of {parent_model or 'a new model'}, at {name or 'a new endpoint'}, with the traffic {split}")
    return (
        release.uri,
        f"/v1/models/{model_name}:predict",
        {"nlp-pipeline-release": str(release.metadata["digest"])},
        parent_model,
        api + parent_model,
        name,
        api + name,
        # As texts, which JSON takes for whole numbers too: parameters know no integers inside of objects.
        {one: str(share) for one, share in split.items()},
        {one: str(share) for one, share in former.items()},
    )
