"""`check_vertex_endpoint`: a new version on Vertex AI is asked; it gets all of the traffic, or what was comes back."""

from typing import Any

# Whoever runs the step's source imports the types of its inputs, so kfp itself wants them at the top.
from google_cloud_pipeline_components.types.artifact_types import VertexEndpoint, VertexModel
from kfp import dsl

from nlp_pipeline.components.agreement import spread_rows
from nlp_pipeline.components.check_vertex_endpoint_answers import ask_version, check_version
from nlp_pipeline.components.vertex_api import call_vertex, vertex_client
from nlp_pipeline.components.vertex_ranges import check_vertex_parameters
from nlp_pipeline.components.vertex_traffic import former_split


def deployed_id(endpoint: Any, version: str) -> str:
    """Returns the id by which an endpoint knows a model's version.

    Args:
        endpoint: The endpoint.
        version: projects/NUMBER/locations/REGION/models/ID@VERSION.

    Raises:
        RuntimeError: The version is not deployed there.
    """
    # A project may be named by its id in one place and by its number in another.
    model, _, number = version.partition("/models/")[2].partition("@")
    for one in endpoint.deployed_models:
        found = str(one.model).partition("/models/")[2].partition("@")[0]
        if found == model and str(one.model_version_id) == number:
            return str(one.id)
    raise RuntimeError(f"{version} is not deployed to {endpoint.name}: someone has undeployed it")


def put_back(client: Any, endpoint: str, new: str, former: dict[str, int]) -> str:
    """Gives the traffic back to the former versions and undeploys the new one, in one request.

    Args:
        client: A client of the endpoint service.
        endpoint: The endpoint's resource name.
        new: The new version's deployed model's id.
        former: The split before it came.

    Returns:
        What was done, a sentence.
    """
    try:
        live = call_vertex("reading the endpoint", client.get_endpoint, name=endpoint)
        split = former_split(former, [str(one.id) for one in live.deployed_models])
        request = {"endpoint": endpoint, "deployed_model_id": new, "traffic_split": split}
        call_vertex("undeploying the new version", client.undeploy_model, **request)
    except (LookupError, RuntimeError) as error:
        return (
            f"it could not be undone ({error}): see to endpoint {endpoint}, the new version costs and may get traffic"
        )
    if split:
        return "the new version has been undeployed, and the former one has all of the traffic again"
    return "it has been undeployed; nothing served before, and nothing serves now"


def promote(client: Any, endpoint: str, new: str) -> Any:
    """Gives a version all of the traffic, and returns the endpoint.

    Args:
        client: A client of the endpoint service.
        endpoint: The endpoint's resource name.
        new: The version's deployed model's id.
    """
    change = {"name": endpoint, "traffic_split": {new: 100}}
    mask = {"paths": ["traffic_split"]}
    return call_vertex("giving it the traffic", client.update_endpoint, endpoint=change, update_mask=mask)


def retire(client: Any, endpoint: Any, new: str) -> None:
    """Undeploys all versions but one, which would cost money though no one asks them.

    Args:
        client: A client of the endpoint service.
        endpoint: The endpoint.
        new: The id of the deployed model that stays.

    Raises:
        RuntimeError: One could not be undeployed.
    """
    for one in endpoint.deployed_models:
        if one.id != new:
            try:
                call_vertex(
                    f"undeploying the former version {one.model_version_id}",
                    client.undeploy_model,
                    endpoint=endpoint.name,
                    deployed_model_id=one.id,
                )
            except (LookupError, RuntimeError) as error:
                raise RuntimeError(f"the new version serves, but what served before still costs: {error}") from None


def make_default(client: Any, version: str) -> None:
    """Makes a version the one that is meant where the model is named alone; that it serves does not depend on it.

    Args:
        client: A client of the model service.
        version: The model's resource name with the version, `...@VERSION`.
    """
    try:
        aliases = {"name": version, "version_aliases": ["default"]}
        call_vertex("making it the default version", client.merge_version_aliases, **aliases)
    except (LookupError, RuntimeError) as error:
        print(f"note: {error}", flush=True)


def settle_endpoint(
    endpoint: str, version: str, former: dict[str, int], rows: dict[str, list[str]], settings: dict[str, Any]
) -> dict[str, Any]:
    """Asks a new version, and gives it all of the traffic; or puts back what was.

    Args:
        endpoint: The endpoint's resource name.
        version: The model's resource name with the new version, `...@VERSION`.
        former: The endpoint's traffic before the new version came, in percent by deployed models' ids.
        rows: What it must answer: `text`, `label` and `predicted`.
        settings: See check_vertex_endpoint_answers.py.

    Returns:
        `deployed_model`, the id; and what `check_version` returned.

    Raises:
        RuntimeError: It was not good, and the former version serves again; or Vertex AI failed.
    """
    location = endpoint.split("/")[3]
    client = vertex_client("Endpoint", location)
    live = call_vertex("reading the endpoint", client.get_endpoint, name=endpoint)
    new = deployed_id(live, version)
    try:
        # An endpoint of its own network name can be asked nowhere else.
        asked = vertex_client("Prediction", location, str(live.dedicated_endpoint_dns))
        facts = check_version(asked, endpoint, new, rows, settings)
        live = promote(client, endpoint, new)
        # The whole way once more, now that all requests go it.
        ask_version(asked, endpoint, new, rows["text"][:10], settings)
    except BaseException as error:  # noqa: BLE001 whatever it is, also that the run is cancelled
        done = put_back(client, endpoint, new, former)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RuntimeError(f"rolled back: {reason}; {done}") from None
    retire(client, live, new)
    make_default(vertex_client("Model", location), version)
    return {"deployed_model": new, **facts}


def check_vertex_endpoint(
    model: dsl.Input[VertexModel],
    endpoint: dsl.Input[VertexEndpoint],
    predictions: dsl.Input[dsl.Dataset],
    former_traffic: dict[str, str],
    endpoint_rows: int,
    endpoint_timeout: int,
    min_agreement: float,
    max_accuracy_drop: float,
    deployment: dsl.Output[dsl.Metrics],
) -> None:
    """Asks a new version for real predictions, and gives it all of the traffic; or puts back what was, and fails.

    The former versions are undeployed where it is good, itself where it is not: each costs by the hour.

    Args:
        model: The model with the new version.
        endpoint: The endpoint that it is deployed to.
        predictions: What the offline model said: Parquet with text, label and predicted label.
        former_traffic: The endpoint's traffic before, in percent by deployed models' ids.
        endpoint_rows: Ask for so many rows, spread evenly.
        endpoint_timeout: Seconds within which the new version must have answered all of them.
        min_agreement: Least share of rows on which it must give the offline model's label.
        max_accuracy_drop: By how much its accuracy may be lower, as a fraction.
        deployment: The endpoint, the version, its deployed model's id; agreement, accuracy, latency in milliseconds.
    """
    import json
    import signal
    import sys

    limits: dict[str, Any] = {
        "endpoint_timeout": endpoint_timeout,
        "min_agreement": min_agreement,
        "max_accuracy_drop": max_accuracy_drop,
    }
    check_vertex_parameters(endpoint_rows=endpoint_rows, **limits)
    # A run that is cancelled ends its steps so; without this, the new version would stay where it is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("the run was cancelled"))
    rows = spread_rows(predictions.path, endpoint_rows)
    name, version = endpoint.metadata["resourceName"], model.metadata["resourceName"]
    former = {one: int(share) for one, share in former_traffic.items()}
    facts = settle_endpoint(name, version, former, rows, {**limits, "poll_seconds": 2.0})
    deployment.metadata.update(endpoint=name, version=version, **facts)
    with open(deployment.path, "w", encoding="utf-8") as file:
        json.dump(deployment.metadata, file, indent=1)
    print(f"{version} serves at {name}", flush=True)
