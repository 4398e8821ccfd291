"""`--deploy`, `--rollback` and `--undeploy`: the deployment's transaction from here, with a kubeconfig."""

import contextlib
import copy
import difflib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nlp_pipeline.deploying_releases import ANY_TEXT, check_credentials, find_record, find_rows
from nlp_pipeline.errors import PipelineError, RolledBackError, TimedOutError, UsageError
from nlp_pipeline.kserve_sdk import import_kserve
from nlp_pipeline.pipeline.parameters import pipeline_parameters, refuse_passwords
from nlp_pipeline.settings import SIGN_IN
from nlp_pipeline.settings import settings as environment

# Seconds between two looks at the cluster, and within which a ready service must answer.
WAITING = {"poll_seconds": 2.0, "route_seconds": 120.0}
# What an object says of who deployed it; by the second a rollback that was interrupted is known again.
BY_HAND, ROLLED_BACK = "by hand", "by hand, rolled back"


@contextlib.contextmanager
def told_as_errors() -> Iterator[None]:
    """Turns what the step's helpers raise into errors of the command line, and what they print into its log."""
    import_kserve()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (KeyError, IndexError):  # a mistake of ours
        raise
    except (ValueError, PermissionError, LookupError) as error:
        raise UsageError(str(error)) from error
    except TimeoutError as error:
        raise TimedOutError(str(error)) from error
    except (RuntimeError, ConnectionError) as error:
        raise PipelineError(str(error)) from error


@contextlib.contextmanager
def taken_up_again() -> Iterator[None]:
    """Says, where the user interrupts, how it can go on."""
    try:
        yield
    except KeyboardInterrupt:
        print("what was begun in the cluster has not ended: the same command again takes it up", file=sys.stderr)
        raise


def step_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of the deployment's helpers: the step's parameters, the user's or else the pipeline's.

    Args:
        values: The parameters that the user set.
    """
    from nlp_pipeline.pipeline.components import deploy_model

    refuse_passwords(values)
    defaults = {name: one.default for name, one in pipeline_parameters().items()}
    taken = {name: values.get(name, defaults[name]) for name in deploy_model.component_spec.inputs if name in defaults}
    return {**taken, **WAITING, "labels": [], "run_id": BY_HAND, "headers": environment().sign_in_headers()}


def deploy(release: str, rows: Path | None, values: dict[str, Any], dry_run: bool) -> dict[str, Any]:
    """Deploys a release, as the step `deploy_model` does.

    Args:
        release: See `find_record`.
        rows: See `find_rows`.
        values: The parameters that the user set.
        dry_run: Whether to show only what would be sent.

    Returns:
        What `--json` prints: see `told`; for a dry run `object` and `difference`.

    Raises:
        PipelineError: It was refused, or failed; see errors.py.
    """
    with told_as_errors():
        from nlp_pipeline.components.deploy_model import check_settings, ready_cluster
        from nlp_pipeline.components.deploy_model_object import huggingface_args, lower_cased, service_object
        from nlp_pipeline.components.deploy_model_storage import release_uri, upload_release
        from nlp_pipeline.components.deploy_model_transaction import deploy_service

        record, values, folder = find_record(release, values)
        settings = step_settings(values) | {"labels": record["labels"]}
        check_settings(settings)
        name = settings["model_name"]
        if name != record["model_name"]:
            raise UsageError(f"model_name is {name!r}, and the release's model is {record['model_name']!r}")
        args = []
        if settings["serving_runtime"] == "huggingface":
            lower = lower_cased(f"{folder}/huggingface")
            args = huggingface_args(name, record["parameters"]["max_length"], lower)
        asked = find_rows(rows, folder, record, settings["endpoint_rows"])
        uri, bucket, key = release_uri(name, record["digest"], settings["model_store"], settings["volume_claim"])
        client, settings = ready_cluster(settings)
        wanted = service_object(settings, record, uri, args)
        if dry_run:
            return rehearsed(client, wanted, settings)
        if folder is not None and bucket:
            check_credentials(uri)
            upload_release(str(folder), bucket, key)
        with taken_up_again():
            done = deploy_service(client, wanted, settings, asked)
        return told(done)


def rollback(values: dict[str, Any], dry_run: bool) -> dict[str, Any]:
    """Goes back to the release that was deployed before; done twice, it comes back to this one.

    Args:
        values: The parameters that the user set; `model_name` names the InferenceService.
        dry_run: Whether to show only what would be sent.

    Returns:
        As `deploy`.

    Raises:
        PipelineError: There is none, or it failed; see errors.py.
    """
    with told_as_errors():
        from nlp_pipeline.components.deploy_model_object import mark_of, release_of, restored
        from nlp_pipeline.components.deploy_model_transaction import deploy_service

        client, settings, live = find_live(values, change=True)
        wanted = restored(choose_former(live), settings["model_name"], settings["namespace"])
        settings["labels"] = json.loads(mark_of(wanted, "labels") or "[]")
        settings["canary_percent"] = 0
        if dry_run:
            return rehearsed(client, wanted, settings)
        with taken_up_again():
            # What was not made by this project may speak another protocol: it is not asked.
            done = deploy_service(client, wanted, settings, ANY_TEXT if release_of(wanted) else {})
        return told(done)


def choose_former(live: dict[str, Any]) -> dict[str, Any]:
    """Returns what a rollback goes to.

    Args:
        live: The InferenceService.

    Raises:
        UsageError: There is nothing to go back to.
    """
    from nlp_pipeline.components.deploy_model_object import (
        former_of,
        formers_of,
        is_same,
        is_stopped,
        mark_of,
        restored,
    )
    from nlp_pipeline.components.deploy_model_rollout import title

    if mark_of(live, "run-id") == ROLLED_BACK and "canaryTrafficPercent" in live["spec"]["predictor"]:
        return former_of(live)  # it was interrupted, and is taken up
    for former in formers_of(live):
        one = restored(former, live["metadata"]["name"], live["metadata"]["namespace"])
        if not is_stopped(one) and not is_same(live, one):
            return {**former, "annotations": {**former["annotations"], "nlp-pipeline/run-id": ROLLED_BACK}}
    raise UsageError(f"{title(live)} has no former release noted on it: --deploy --release the one you want")


def undeploy(values: dict[str, Any], dry_run: bool) -> dict[str, Any]:
    """Removes an InferenceService; the releases stay where they are.

    Args:
        values: The parameters that the user set; `model_name` names the InferenceService.
        dry_run: Whether to remove nothing.

    Returns:
        As `deploy`.

    Raises:
        PipelineError: It is not there, or may not be removed.
    """
    with told_as_errors():
        from nlp_pipeline.components.deploy_model_cluster import call
        from nlp_pipeline.components.deploy_model_rollout import title

        client, settings, live = find_live(values, change=True)
        if dry_run:
            return {"object": shown(live), "difference": f"{title(live)} would be deleted"}
        doing = f"deleting {title(live)}"
        call(doing, client.delete, settings["model_name"], settings["namespace"], expected=(404,))
        return told({"outcome": "deleted", "service": live, "facts": {}})


def predict_deployed(texts: list[str], values: dict[str, Any]) -> list[dict[str, Any]]:
    """Asks a deployed InferenceService for texts.

    Args:
        texts: The texts.
        values: The parameters that the user set; `model_name` names the InferenceService.

    Returns:
        For each text, in order: `text`, `label`, `score`.

    Raises:
        PipelineError: It is not there, or does not answer as it should.
    """
    from nlp_pipeline.serving.local_server import predict_at

    with told_as_errors():
        from nlp_pipeline.components.deploy_model_object import mark_of
        from nlp_pipeline.components.deploy_model_rollout import endpoint_of, title

        _, settings, live = find_live(values)
        if not live.get("status", {}).get("url"):
            raise RuntimeError(f"{title(live)} has no address: it is not ready")
        address, headers = endpoint_of(live, False, settings["gateway"])
        labels = json.loads(mark_of(live, "labels") or "[]")
        return predict_at(address, texts, labels, {**headers, **settings["headers"]})


def find_live(values: dict[str, Any], change: bool = False) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Finds a deployed InferenceService.

    Args:
        values: The parameters that the user set.
        change: Whether it shall be changed, and not only asked.

    Returns:
        A `KServeClient`, the settings, the live object.

    Raises:
        UsageError: It is not named, or not there.
        PermissionError: It may not be changed.
    """
    from nlp_pipeline.components.deploy_model import check_settings
    from nlp_pipeline.components.deploy_model_cluster import (
        check_access,
        check_kserve,
        connect,
        own_namespace,
        read_service,
    )

    if "model_name" not in values:
        raise UsageError("which model? add --set model_name=NAME, the name of the InferenceService")
    settings = step_settings(values)
    check_settings(settings)
    client = connect()
    settings["namespace"] = settings["namespace"] or own_namespace()
    if not settings["namespace"]:
        raise UsageError("the kubeconfig's context names no namespace: add --set namespace=NAME")
    check_kserve()
    if change:
        check_access(settings["namespace"])
    live = read_service(client, settings["model_name"], settings["namespace"])
    if live is None:
        raise UsageError(f"namespace {settings['namespace']} has no InferenceService {settings['model_name']!r}")
    return client, settings, live


def shown(service: dict[str, Any]) -> dict[str, Any]:
    """Returns an InferenceService without what only the server writes, and without the notes of former ones."""
    metadata = service["metadata"]
    not_shown = ("nlp-pipeline/former", "nlp-pipeline/replaces", "kubectl.kubernetes.io/last-applied-configuration")
    annotations = {key: one for key, one in (metadata.get("annotations") or {}).items() if key not in not_shown}
    kept = {"name": metadata["name"], "namespace": metadata["namespace"], "labels": metadata.get("labels") or {}}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {**kept, "annotations": annotations},
        "spec": service["spec"],
    }


def rehearsed(client: Any, wanted: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Returns what a deployment would send, and how what the server would make of it differs from the live object."""
    import yaml

    from nlp_pipeline.components.deploy_model_cluster import read_service
    from nlp_pipeline.components.deploy_model_object import formers_after, is_same
    from nlp_pipeline.components.deploy_model_rollout import rehearse
    from nlp_pipeline.components.deploy_model_transaction import check_mode

    live = read_service(client, settings["model_name"], settings["namespace"])
    if live is not None and is_same(live, wanted):
        made = copy.deepcopy(live)
    else:
        made = rehearse(client, wanted, formers_after, settings["poll_seconds"])
    check_mode(made, settings)
    # The share of the traffic with which a deployment begins is gone when it ends.
    made["spec"]["predictor"].pop("canaryTrafficPercent", None)
    former, new = [yaml.safe_dump(shown(one)).splitlines() if one else [] for one in (live, made)]
    difference = difflib.unified_diff(former, new, "live", "to be", lineterm="", n=2)
    return {"object": shown(wanted), "difference": "\n".join(difference)}


def told(done: dict[str, Any]) -> dict[str, Any]:
    """Returns what is told of a deployment that was done.

    Args:
        done: What `deploy_service` returned.

    Returns:
        See `endpoint_facts`, and the figures of `bring_up`.

    Raises:
        RolledBackError, TimedOutError, PipelineError: It failed.
    """
    from nlp_pipeline.components.deploy_model import endpoint_facts

    facts = {**endpoint_facts(done), **done["facts"]}
    if done.get("reason"):
        failed = TimedOutError if done["timed_out"] else PipelineError
        kind = RolledBackError if done["outcome"] == "rolled back" else failed
        stopped_at_door = re.search(r" answered (302|401|403)\b", done["reason"])
        advice = f"; to sign in, set {SIGN_IN}" if stopped_at_door else ""
        raise kind(f"{done['outcome']}: {done['reason']}{advice}", facts)
    return facts
