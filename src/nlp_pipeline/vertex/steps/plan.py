"""`plan_vertex_deployment`: what is there on Vertex AI already, and how a release comes beside it."""

import os
from typing import Any

from nlp_pipeline.errors import UsageError
from nlp_pipeline.vertex.steps.api import Api


def plan_deployment(
    release: str, digest: str, project: str, location: str, model_name: str, endpoint: str, canary_percent: int
) -> dict[str, Any]:
    """Looks up the model and the endpoint, and plans how the release is deployed beside what serves already.

    `endpoint` is an id or a resource name; empty for the one with the model's display name.

    Returns:
        The outputs of `plan_vertex_deployment`, in their order. What is not there yet is empty. A split has percents by
        deployed models' ids, as texts, which JSON takes for whole numbers too: parameters know no integers inside of
        objects. The new version's id is "0".
    """
    if not release.startswith("gs://"):
        raise UsageError(f"the release lies at {release!r}: Vertex AI serves from Cloud Storage, gs://bucket/folder")
    api = Api(project, location, os.environ.get("VERTEX_ENDPOINT", ""))
    models = list_named(api, "model", model_name)
    if len(models) > 1:
        raise several(api, "model", model_name, models, "delete all but one, or set another model_name")
    parent_model = models[0].name.partition("@")[0] if models else ""
    live = find_endpoint(api, model_name, endpoint)
    name, former = "", {}
    if live:
        name, former = live.name, {id: share for id, share in live.traffic_split.items() if share}
        if others := sorted({item.display_name for item in live.deployed_models} - {model_name}):
            # All of the traffic will go to the new version, and what was there will be undeployed.
            raise UsageError(
                f"endpoint {name} serves other models too ({', '.join(others)}): set endpoint to another one, or leave "
                "it empty"
            )
    rest = scale_traffic(former, 100 - canary_percent)
    split = {"0": 100 - sum(rest.values()), **rest}
    uri = f"https://{location}-aiplatform.googleapis.com/v1/"
    print(f"a version of {parent_model or 'a new model'}, at {name or 'a new endpoint'}, with the traffic {split}")
    return {
        "artifact_uri": release,
        "predict_route": f"/v1/models/{model_name}:predict",
        "labels": {"nlp-pipeline-release": digest},
        "parent_model": parent_model,
        "parent_uri": uri + parent_model,
        "endpoint": name,
        "endpoint_uri": uri + name,
        "traffic_split": {id: str(share) for id, share in split.items()},
        "former_traffic": {id: str(share) for id, share in former.items()},
    }


def list_named(api: Api, kind: str, name: str) -> list[Any]:
    """Returns what has a display name, of a kind, "model" or "endpoint"."""
    listing = getattr(api.service(kind.capitalize()), f"list_{kind}s")
    request = {"parent": api.parent, "filter": f'display_name="{name}"'}
    named: list[Any] = api.call(f"listing {kind}s", listing, request=request)
    return named


def find_endpoint(api: Api, name: str, chosen: str) -> Any:
    """Returns the endpoint that is chosen by id or resource name, or else the one of a display name; None without one.

    Raises:
        UsageError: The chosen one is not there, or is of another region; or several have the name.
    """
    if not chosen:
        named = list_named(api, "endpoint", name)
        if len(named) > 1:
            raise several(api, "endpoint", name, named, "set endpoint to one of them")
        return named[0] if named else None
    full = chosen if "/" in chosen else f"{api.parent}/endpoints/{chosen}"
    if f"/locations/{api.region}/" not in full:
        raise UsageError(f"endpoint is {chosen!r}, and the region is {api.region}: name one that is there too")
    try:
        return api.call(f"reading endpoint {chosen}", api.service("Endpoint").get_endpoint, name=full)
    except api.kinds[404]:
        raise UsageError(f"endpoint {chosen!r} is not in {api.parent}: leave it empty for the model's own") from None


def several(api: Api, kind: str, name: str, named: list[Any], advice: str) -> UsageError:
    """Returns the error for several of a name, of which one is meant."""
    ids = ", ".join(item.name.rpartition("/")[2] for item in named)
    return UsageError(f"{len(named)} {kind}s in {api.parent} are named {name!r}, with the ids {ids}: {advice}")


def scale_traffic(split: dict[str, int], total: int) -> dict[str, int]:
    """Returns a split, of shares above 0, in the same proportions with another sum; without shares that become 0."""
    former = sum(split.values())
    exact = {id: share * total / former for id, share in split.items()}
    scaled = {id: int(share) for id, share in exact.items()}
    # What rounding down has left goes to those that it took most from; of several, to the smallest.
    by_loss = sorted(exact, key=lambda id: (scaled[id] - exact[id], exact[id], id))
    for id in by_loss[: total - sum(scaled.values())]:
        scaled[id] += 1
    return {id: share for id, share in scaled.items() if share}
