"""`--undeploy` on Vertex AI: ends what an endpoint costs, and says what is left.

A deployed version costs money for every hour that its machines run, asked or not. Models, their versions and an
endpoint without versions cost nothing; what lies in the bucket costs a little each month.
"""

import re
from typing import Any

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.platforms.calls import NotFoundError
from nlp_pipeline.settings import PREFIX
from nlp_pipeline.vertex.connection import Connection
from nlp_pipeline.vertex.schedules import every_schedule, labels
from nlp_pipeline.vertex.submitting import VERSION


def find_models(connection: Connection, name: str) -> list[Any]:
    """Returns the models of a name."""
    listing = connection.models.list_models
    return connection.every("listing models", listing, parent=connection.parent, filter=f'display_name="{name}"')


def find_endpoint(connection: Connection, name: str, given: str) -> Any:
    """Returns a model's endpoint.

    Args:
        connection: The connection.
        name: The model's name, which is the endpoint's, too.
        given: The endpoint's id or resource name, where it is another one; or empty.

    Raises:
        UsageError: There is none.
    """
    where = f"in project {connection.project}, region {connection.region}"
    if given:
        if not re.fullmatch(r"([\w:.-]+/)*[\w-]+", given, re.ASCII):
            raise UsageError(f"endpoint is {given[:80]!r}: give its id, or projects/NAME/locations/REGION/endpoints/ID")
        full = given if "/" in given else f"{connection.parent}/endpoints/{given}"
        try:
            return connection.call("reading the endpoint", connection.endpoints.get_endpoint, name=full)
        except NotFoundError:
            raise UsageError(f"there is no endpoint {given} {where}") from None
    listing = connection.endpoints.list_endpoints
    found = connection.every("listing endpoints", listing, parent=connection.parent, filter=f'display_name="{name}"')
    if len(found) > 1:
        ids = ", ".join(one.name.rpartition("/")[2] for one in found)
        raise UsageError(f"there are {len(found)} endpoints named {name!r} {where}: --set endpoint= one of {ids}")
    return found[0] if found else None


def split_without(split: dict[str, int], gone: str, left: list[str]) -> dict[str, int]:
    """Returns how an endpoint's traffic is split when a version of it is gone: its share goes to the busiest one left.

    Args:
        split: The former split, in percent, by deployed models' ids.
        gone: The id of the one that goes.
        left: The ids of those that stay.
    """
    shares = {one: split[one] for one in left if split.get(one)}
    if shares:
        shares[max(shares, key=lambda one: shares[one])] += split.get(gone, 0)
    return shares


def undeploy(connection: Connection, values: dict[str, Any], dry_run: bool) -> dict[str, Any]:
    """Takes a model's versions off its endpoint, and deletes the endpoint unless it has versions of other models.

    Args:
        connection: The connection.
        values: The parameters that the user set: `model_name`, and `endpoint` where that is not of the same name.
        dry_run: Whether to show only what would be done.

    Returns:
        What `--json` prints: `action` ("removed"), `dry_run`, `endpoint`, `undeployed` (models' versions by deployed
        models' ids), `deleted` (whether the endpoint itself is), `left`, `costs`.

    Raises:
        UsageError: The model is not named, or has no endpoint.
        PipelineError: Google refuses or fails; `facts` tells what was done until then.
    """
    from nlp_pipeline.pipeline.parameters import check_ranges

    check_ranges(values, "vertex")
    if "model_name" not in values:
        raise UsageError("which model? add --set model_name=NAME, the name of the model and of its endpoint")
    name = values["model_name"]
    models = find_models(connection, name)
    left, costs = what_is_left(connection, name, models)
    endpoint = find_endpoint(connection, name, str(values.get("endpoint", "")))
    if endpoint is None:
        where = f"project {connection.project} has no endpoint {name!r} in region {connection.region}"
        raise UsageError(f"{where}; --region names another", {"left": left, "costs": costs})
    own = {one.name.partition("@")[0] for one in models}
    ours = {one.id: one for one in endpoint.deployed_models if one.model.partition("@")[0] in own}
    others = [one.id for one in endpoint.deployed_models if one.id not in ours]
    result = {
        "action": "removed",
        "dry_run": dry_run,
        "endpoint": endpoint.name,
        "undeployed": {id: f"{one.model.partition('@')[0]}@{one.model_version_id}" for id, one in ours.items()},
        "deleted": not others,
    }
    if others:
        left = [f"endpoint {endpoint.name}, with {len(others)} versions of other models", *left]
        costs = f"the other models' versions on the endpoint, by the hour; {costs}"
    if not dry_run:
        take_off(connection, endpoint, list(ours), others)
        if not others:
            deleting = connection.call(
                "deleting the endpoint", connection.endpoints.delete_endpoint, name=endpoint.name
            )
            connection.finish("deleting the endpoint", deleting)
    return {**result, "left": left, "costs": costs}


def take_off(connection: Connection, endpoint: Any, ours: list[str], others: list[str]) -> None:
    """Takes versions off an endpoint, those without traffic first.

    Args:
        connection: The connection.
        endpoint: The endpoint.
        ours: The ids of the deployed models that go.
        others: The ids of those that stay.
    """
    split = dict(endpoint.traffic_split)
    waiting = sorted(ours, key=lambda one: (split.get(one, 0), one))
    done: list[str] = []
    while waiting:
        gone = waiting.pop(0)
        split = split_without(split, gone, [*waiting, *others])
        request = {"endpoint": endpoint.name, "deployed_model_id": gone, "traffic_split": split}
        doing = f"undeploying {gone}"
        try:
            if others and not split and endpoint.traffic_split.get(gone):
                # An empty split says nothing where a version is undeployed, but here that no one gets traffic.
                silent = {"endpoint": {"name": endpoint.name}, "update_mask": {"paths": ["traffic_split"]}}
                connection.call(doing, connection.endpoints.update_endpoint, request=silent)
            going = connection.call(doing, connection.endpoints.undeploy_model, request=request)
            connection.finish(doing, going)
        except PipelineError as error:
            facts = {"endpoint": endpoint.name, "undeployed": done, "still_deployed": [gone, *waiting]}
            told = f"{error}; still deployed, and costing money: {', '.join([gone, *waiting])}; run the same again"
            raise type(error)(told, facts) from None
        done.append(gone)


def what_is_left(connection: Connection, name: str, models: list[Any]) -> tuple[list[str], str]:
    """Returns what stays, each with what removes it, and what that costs.

    Args:
        connection: The connection.
        name: The model's name.
        models: The models of that name.
    """
    left = []
    for model in models:
        versions = connection.every(
            "listing versions", connection.models.list_model_versions, name=model.name.partition("@")[0]
        )
        number = model.name.rpartition("/")[2].partition("@")[0]
        place = f"--region {connection.region} --project {connection.project}"
        left.append(
            f"model {name}, versions {', '.join(one.version_id for one in versions)}: "
            f"gcloud ai models delete {number} {place}"
        )
    active = [one for one in every_schedule(connection) if one.state.name == "ACTIVE" and VERSION in labels(one)]
    left += [f"schedule {one.display_name}, which deploys anew: --unschedule {one.display_name}" for one in active]
    bucket = connection.settings.bucket.rstrip("/")
    left.append(
        f"what runs wrote below {bucket}: gcloud storage ls {bucket} shows it"
        if bucket
        else f"what runs wrote to their bucket ({PREFIX}BUCKET is not set, so that it is not known here)"
    )
    runs = f"; machines while the runs of {len(active)} schedules go" if active else ""
    return left, f"storage in the bucket, by the month{runs}; a model that is not deployed costs nothing"
