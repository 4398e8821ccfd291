"""`--undeploy` on Vertex AI: ends what an endpoint costs, and says what is left.

A deployed version costs money for every hour that its machines run, asked or not. Models, their versions and an
endpoint without versions cost nothing; what lies in the bucket costs a little each month.
"""

from typing import Any

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.pipeline.compiling import check_vertex_installed
from nlp_pipeline.pipeline.parameters import check_ranges
from nlp_pipeline.platforms.calls import NotFoundError
from nlp_pipeline.settings import PREFIX, Settings
from nlp_pipeline.vertex.connection import Connection, connect
from nlp_pipeline.vertex.pipelines import VERSION
from nlp_pipeline.vertex.schedules import ACTIVE, labels, list_schedules


def undeploy(settings: Settings, values: dict[str, Any], dry_run: bool) -> dict[str, Any]:
    """Takes a model's versions off its endpoint, and deletes the endpoint unless it has versions of other models.

    Args:
        settings: The settings.
        values: The parameters that the user set: `model_name`, and `endpoint` where that is not of the same name.
        dry_run: Whether to show only what would be done.

    Returns:
        `action` ("removed"), `dry_run`, `endpoint`, `undeployed` (models' versions by deployed
        models' ids), `deleted` (whether the endpoint itself is), `left`, `costs`.

    Raises:
        UsageError: The model is not named, or has no endpoint.
        PipelineError: Google refuses or fails; `facts` has what was done until then.
    """
    check_vertex_installed()
    check_ranges({"deploy": False, **values}, "vertex")
    if "model_name" not in values:
        raise UsageError("which model? add --set model_name=NAME, the name of the model and of its endpoint")
    connection, name = connect(settings), values["model_name"]
    models = find_named(connection, "model", name)
    left, costs = what_is_left(connection, name, models)
    endpoint = find_endpoint(connection, name, str(values.get("endpoint", "")))
    if endpoint is None:
        where = f"project {connection.project} has no endpoint {name!r} in region {connection.region}"
        raise UsageError(f"{where}; --region names another", {"left": left, "costs": costs})
    own = {model.name.partition("@")[0] for model in models}
    versions = {item.id: f"{item.model.partition('@')[0]}@{item.model_version_id}" for item in endpoint.deployed_models}
    ours = {id: version for id, version in versions.items() if version.partition("@")[0] in own}
    others = versions.keys() - ours.keys()
    if others:
        left = [f"endpoint {endpoint.name}, with {len(others)} versions of other models", *left]
        costs = f"the other models' versions on the endpoint, by the hour; {costs}"
    if not dry_run:
        take_off(connection, endpoint, set(ours))
        if not others:
            delete = connection.service("Endpoint").delete_endpoint
            doing = "deleting the endpoint"
            connection.finish(doing, connection.call(doing, delete, name=endpoint.name))
    about = {"action": "removed", "dry_run": dry_run, "endpoint": endpoint.name, "undeployed": ours}
    return {**about, "deleted": not others, "left": left, "costs": costs}


def find_named(connection: Connection, kind: str, name: str) -> list[Any]:
    """Returns the models or the endpoints of a name."""
    listing = getattr(connection.service(kind.capitalize()), f"list_{kind}s")
    only = f'display_name="{name}"'
    return connection.list_all(f"listing {kind}s", listing, parent=connection.parent, filter=only)


def find_endpoint(connection: Connection, name: str, given: str) -> Any:
    """Returns the endpoint that was given by id or resource name, or else the one of the model's name, if any."""
    where = f"in project {connection.project}, region {connection.region}"
    if given:
        full = given if "/" in given else f"{connection.parent}/endpoints/{given}"
        try:
            return connection.call("reading the endpoint", connection.service("Endpoint").get_endpoint, name=full)
        except NotFoundError:
            raise UsageError(f"there is no endpoint {given} {where}") from None
    found = find_named(connection, "endpoint", name)
    if len(found) > 1:
        ids = ", ".join(item.name.rpartition("/")[2] for item in found)
        raise UsageError(f"there are {len(found)} endpoints named {name!r} {where}: --set endpoint= one of {ids}")
    return found[0] if found else None


def traffic_without(split: dict[str, int], ours: set[str], others: set[str]) -> dict[str, int]:
    """Returns an endpoint's traffic before versions are taken off it: the busiest of those that stay gets their shares.

    Where those that stay have none, no one gets any; where none stays, the busiest of ours, which goes last, gets all.
    """
    shares = {id: share for id, share in split.items() if share and id in (others or ours)}
    if not shares:
        return {}
    busiest = max(shares, key=lambda id: shares[id])
    stay = shares if others else {}
    return {**stay, busiest: stay.get(busiest, 0) + 100 - sum(stay.values())}


def take_off(connection: Connection, endpoint: Any, ours: set[str]) -> None:
    """Takes versions off an endpoint, those without traffic first."""
    service, split = connection.service("Endpoint"), dict(endpoint.traffic_split)
    waiting = sorted(ours, key=lambda id: (split.get(id, 0), id))
    done: list[str] = []
    target = traffic_without(split, ours, {item.id for item in endpoint.deployed_models} - ours)
    try:
        if target != split:
            change = {"endpoint": {"name": endpoint.name, "traffic_split": target}}
            change["update_mask"] = {"paths": ["traffic_split"]}
            connection.call("moving the traffic", service.update_endpoint, request=change)
        while waiting:
            doing = f"undeploying {waiting[0]}"
            request = {"endpoint": endpoint.name, "deployed_model_id": waiting[0]}
            connection.finish(doing, connection.call(doing, service.undeploy_model, request=request))
            done.append(waiting.pop(0))
    except PipelineError as error:
        facts = {"endpoint": endpoint.name, "undeployed": done, "still_deployed": waiting}
        text = f"{error}; still deployed, and costing money: {', '.join(waiting)}; run the same again"
        raise type(error)(text, facts) from None


def what_is_left(connection: Connection, name: str, models: list[Any]) -> tuple[list[str], str]:
    """Returns what stays of a model, each with what removes it, and what that costs."""
    left = []
    place = f"--region {connection.region} --project {connection.project}"
    for model in models:
        full = model.name.partition("@")[0]
        listing = connection.service("Model").list_model_versions
        versions = ", ".join(
            version.version_id for version in connection.list_all("listing versions", listing, name=full)
        )
        left.append(f"model {name}, versions {versions}: gcloud ai models delete {full.rpartition('/')[2]} {place}")
    active = [item for item in list_schedules(connection) if item.state.name == ACTIVE and VERSION in labels(item)]
    left += [f"schedule {item.display_name}, which deploys anew: --unschedule {item.display_name}" for item in active]
    if bucket := connection.settings.bucket.rstrip("/"):
        left.append(f"what runs wrote below {bucket}: gcloud storage ls {bucket} shows it")
    else:
        left.append(f"what runs wrote to their bucket ({PREFIX}BUCKET is not set, so that it is not known here)")
    runs = f"; machines while the runs of {len(active)} schedules go" if active else ""
    return left, f"storage in the bucket, by the month{runs}; a model that is not deployed costs nothing"
