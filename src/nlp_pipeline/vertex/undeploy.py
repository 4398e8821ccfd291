"""`--undeploy` on Vertex AI: ends what an endpoint costs, and says what is left.

A deployed version costs money for every hour that its machines run, asked or not. Models, their versions and an
endpoint without versions cost nothing; what lies in the bucket costs a little each month.
"""

from typing import Any

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.pipeline.parameters import check_ranges
from nlp_pipeline.platforms.schedules import ENABLED
from nlp_pipeline.settings import Settings
from nlp_pipeline.vertex.connection import Connection, connect
from nlp_pipeline.vertex.pipelines import VERSION
from nlp_pipeline.vertex.schedules import Schedules, label
from nlp_pipeline.vertex.steps.plan import find_endpoint, list_named, scale_traffic


def undeploy(settings: Settings, values: dict[str, Any], dry_run: bool) -> dict[str, Any]:
    """Takes a model's versions off its endpoint, and deletes the endpoint unless it has versions of other models.

    Of the parameters these count: `model_name`, and `endpoint` where that is not of the same name.

    Returns:
        `action` ("removed"), `dry_run`, `endpoint` (its resource name), `undeployed` (models' versions by deployed
        models' ids), `deleted` (whether the endpoint itself is, or would be), `left` (what stays, with what removes
        it), and `costs` (what that costs).

    Raises:
        UsageError: A parameter or a setting is wrong, or the model is not named; or it has no endpoint, and `facts` has
            `left` and `costs`.
        PipelineError: Google refuses or fails. While versions are taken off, `facts` has `endpoint`, `undeployed` and
            `still_deployed` (ids of deployed models).
    """
    check_ranges({"deploy": False, **values}, "vertex")
    if "model_name" not in values:
        raise UsageError("which model? add --set model_name=NAME, the name of the model and of its endpoint")
    connection, name = connect(settings), values["model_name"]
    models = list_named(connection, "model", name)
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
        take_off(connection, endpoint, set(ours), set(others))
        if not others:
            delete = connection.service("Endpoint").delete_endpoint
            connection.call("deleting the endpoint", delete, name=endpoint.name)
    about = {"action": "removed", "dry_run": dry_run, "endpoint": endpoint.name, "undeployed": ours}
    return {**about, "deleted": not others, "left": left, "costs": costs}


def take_off(connection: Connection, endpoint: Any, ours: set[str], others: set[str]) -> None:
    """Takes versions off an endpoint; others get their traffic, or else the busiest, which goes last."""
    service = connection.service("Endpoint")
    split = {id: share for id, share in endpoint.traffic_split.items() if share}
    waiting = sorted(ours, key=lambda id: (split.get(id, 0), id))
    done: list[str] = []
    target = {waiting[-1]: 100} if split and waiting else {}
    if others:
        target = scale_traffic({id: share for id, share in split.items() if id in others}, 100)
    try:
        if target != split:
            change = {"endpoint": {"name": endpoint.name, "traffic_split": target}}
            change["update_mask"] = {"paths": ["traffic_split"]}
            connection.call("moving the traffic", service.update_endpoint, request=change)
        while waiting:
            request = {"endpoint": endpoint.name, "deployed_model_id": waiting[0]}
            connection.call(f"undeploying {waiting[0]}", service.undeploy_model, request=request)
            done.append(waiting.pop(0))
    except PipelineError as error:
        facts = {"endpoint": endpoint.name, "undeployed": done, "still_deployed": waiting}
        text = f"{error}; still deployed, and costing money: {', '.join(waiting)}; run the same again"
        raise type(error)(text, facts) from None


def what_is_left(connection: Connection, name: str, models: list[Any]) -> tuple[list[str], str]:
    """Returns what stays of a model, each with what removes it, and what that costs."""
    place = f"--region {connection.region} --project {connection.project}"
    ids = [model.name.partition("@")[0].rpartition("/")[2] for model in models]
    left = [f"model {name} and its versions: gcloud ai models delete {id} {place}" for id in ids]
    schedules = Schedules(connection.settings).list_schedules()
    active = [item for item in schedules if item.status == ENABLED and label(item.content, VERSION)]
    left += [f"schedule {item.name}, which deploys anew: --unschedule {item.name}" for item in active]
    if bucket := connection.settings.bucket.rstrip("/"):
        left.append(f"what runs wrote below {bucket}: gcloud storage ls {bucket} shows it")
    else:
        left.append("what runs wrote to their bucket")
    runs = f"; machines while the runs of {len(active)} schedules go" if active else ""
    return left, f"storage in the bucket, by the month{runs}; a model that is not deployed costs nothing"
