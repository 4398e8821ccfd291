"""`--deploy`, `--rollback` and `--undeploy`: the deployment's transaction from here, with a kubeconfig."""

import contextlib
import difflib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nlp_pipeline.errors import PipelineError, RolledBackError, TimedOutError, UsageError
from nlp_pipeline.kserve_sdk import import_kserve
from nlp_pipeline.parameters import pipeline_parameters
from nlp_pipeline.settings import settings as environment

URI = re.compile(r"(pvc|s3)://(?P<place>.+)/(?P<model_name>[^/]+)/releases/(?P<digest>[0-9a-f]{16})/?")
# Where there are no labelled rows to ask for.
ANY_TEXT = {"text": ["a text"]}


@contextlib.contextmanager
def told_as_errors() -> Iterator[None]:
    """Turns what the step's helpers raise into errors of the command line, and what they print into its log."""
    import_kserve()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (ValueError, PermissionError, LookupError) as error:
        raise UsageError(str(error)) from error
    except TimeoutError as error:
        raise TimedOutError(str(error)) from error
    except (RuntimeError, ConnectionError) as error:
        raise PipelineError(str(error)) from error
    except KeyboardInterrupt:
        print("what was begun in the cluster has not ended: the same command again takes it up", file=sys.stderr)
        raise


def step_settings(values: dict[str, Any], run_id: str) -> dict[str, Any]:
    """Returns the settings of the deployment's helpers: the step's parameters, the user's or else the pipeline's.

    Args:
        values: The parameters that the user set.
        run_id: What the object shall say of who deployed it.
    """
    from nlp_pipeline.components.deploy_model import deploy_model

    defaults = {name: one.default for name, one in pipeline_parameters().items()}
    taken = {name: values.get(name, defaults[name]) for name in deploy_model.component_spec.inputs if name in defaults}
    waiting = {"poll_seconds": 2.0, "route_seconds": 120.0, "labels": []}
    return {**taken, **waiting, "run_id": run_id, "headers": environment().sign_in_headers()}


def find_record(release: str, values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], Path | None]:
    """Finds out what a release is.

    Args:
        release: A folder, or pvc://claim/model/releases/digest, or s3://bucket/folder/model/releases/digest.
        values: The parameters that the user set.

    Returns:
        Its record, as far as it can be read from here; the parameters with those that the release tells; its folder,
        where it has one here.

    Raises:
        UsageError: It is none, or where KServe shall read it is not told.
        ValueError, RuntimeError: It is spoilt, or the object store does not give it.
    """
    from nlp_pipeline.components.deploy_model_storage import check_release_folder

    if "://" not in release:
        record = check_release_folder(release)
        if not values.get("model_store") and "volume_claim" not in values:
            raise UsageError(
                f"--release {release} is a folder here: say where KServe reads it, with --set volume_claim=NAME where "
                "it lies on that claim, or --set model_store=s3://bucket to upload it there"
            )
        return record, {"model_name": record["model_name"], **values}, Path(release)
    match = URI.fullmatch(release)
    if match is None:
        raise UsageError(
            f"--release {release} is no release: give its folder, pvc://claim/model/releases/digest, or "
            "s3://bucket/folder/model/releases/digest"
        )
    if values.get("serving_runtime") == "huggingface":
        raise UsageError("serving_runtime=huggingface needs --release DIR: the server is set as its tokenizer wants it")
    told: dict[str, Any] = {"model_name": match["model_name"], "model_store": "", "volume_claim": match["place"]}
    record = {"digest": match["digest"], "model_name": match["model_name"], "labels": []}
    if release.startswith("s3://"):
        told |= {"model_store": f"s3://{match['place']}", "volume_claim": ""}
        record = read_stored_record(release.rstrip("/"))
    return record, {**values, **told}, None


def read_stored_record(release: str) -> dict[str, Any]:
    """Returns the record of a release in an object store.

    Args:
        release: s3://bucket/folder/model/releases/digest.

    Raises:
        UsageError: There is none, or it is another release's.
        RuntimeError: The object store can't be reached or refuses.
    """
    import json
    from functools import partial

    from nlp_pipeline.components.deploy_model_storage import read_object
    from nlp_pipeline.components.s3 import s3_call, s3_client, s3_endpoint

    endpoint = s3_endpoint()
    bucket, _, key = f"{release}/release.json".removeprefix("s3://").partition("/")
    read = partial(read_object, s3_client(endpoint), bucket, key)
    content = s3_call(read, f"{release}/release.json at {endpoint}", "read", 4, 0.5)
    try:
        record: dict[str, Any] = json.loads(content)
        if record["digest"] == release.rpartition("/")[2] and record["labels"]:
            return record
    except (ValueError, LookupError, TypeError):
        pass
    raise UsageError(f"--release {release} has no sound release.json: was its upload finished?")


def find_rows(rows: Path | None, folder: Path | None, record: dict[str, Any], count: int) -> dict[str, list[str]]:
    """Returns what the endpoint is asked for: labelled rows where there are some.

    Args:
        rows: A run's predictions.parquet that the user names.
        folder: The release's folder, beside which its run's folder may lie.
        record: The release's record.
        count: How many rows.
    """
    from nlp_pipeline.components.agreement import spread_rows

    if rows is None and folder is not None:
        beside = folder.resolve().parents[1] / "runs" / str(record.get("run_id")) / "datasets" / "predictions.parquet"
        rows = beside if beside.is_file() else None
    if rows is None:
        print("no labelled rows to ask for: it is only seen whether it answers (--rows FILE)", file=sys.stderr)
        return ANY_TEXT
    try:
        return spread_rows(str(rows), count)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"--rows {rows} can't be read: give a run's datasets/predictions.parquet ({reason})") from None


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
        settings = step_settings(values, "by hand") | {"labels": record["labels"]}
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
            upload_release(str(folder), bucket, key)
        return told(deploy_service(client, wanted, settings, asked))


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
    import json

    with told_as_errors():
        from nlp_pipeline.components.deploy_model_cluster import check_access
        from nlp_pipeline.components.deploy_model_object import formers_of, mark_of, release_of, restored
        from nlp_pipeline.components.deploy_model_rollout import title
        from nlp_pipeline.components.deploy_model_transaction import deploy_service

        client, settings, live = find_live(values)
        check_access(settings["namespace"])
        formers = formers_of(live)
        if not formers:
            raise UsageError(f"{title(live)} has no former release noted on it: --deploy --release the one you want")
        wanted = restored(formers[0], settings["model_name"], settings["namespace"])
        settings["labels"] = json.loads(mark_of(wanted, "labels") or "[]")
        settings["canary_percent"] = 0
        if dry_run:
            return rehearsed(client, wanted, settings)
        # What was not made by this project may speak another protocol: it is not asked.
        return told(deploy_service(client, wanted, settings, ANY_TEXT if release_of(wanted) else {}))


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
        from nlp_pipeline.components.deploy_model_cluster import call, check_access
        from nlp_pipeline.components.deploy_model_rollout import title

        client, settings, live = find_live(values)
        check_access(settings["namespace"])
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
    import json

    from nlp_pipeline.serving.local_server import predict_at

    with told_as_errors():
        from nlp_pipeline.components.deploy_model_object import mark_of
        from nlp_pipeline.components.deploy_model_rollout import endpoint_of, title

        _, settings, live = find_live(values)
        if not live.get("status", {}).get("url"):
            raise RuntimeError(f"{title(live)} has no address: it is not ready")
        address, headers = endpoint_of(live, False, settings["gateway"])
        labels = json.loads(mark_of(live, "labels") or "[]")
        return predict_at(address, texts, labels, {**headers, **environment().endpoint_headers()})


def find_live(values: dict[str, Any]) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Finds a deployed InferenceService.

    Args:
        values: The parameters that the user set.

    Returns:
        A `KServeClient`, the settings, the live object.

    Raises:
        UsageError: It is not named, or not there.
    """
    from nlp_pipeline.components.deploy_model import check_settings
    from nlp_pipeline.components.deploy_model_cluster import check_kserve, connect, own_namespace, read_service

    if "model_name" not in values:
        raise UsageError("which model? add --set model_name=NAME, the name of the InferenceService")
    settings = step_settings(values, "by hand")
    check_settings(settings)
    client = connect()
    settings["namespace"] = settings["namespace"] or own_namespace()
    if not settings["namespace"]:
        raise UsageError("the kubeconfig's context names no namespace: add --set namespace=NAME")
    check_kserve()
    live = read_service(client, settings["model_name"], settings["namespace"])
    if live is None:
        raise UsageError(f"namespace {settings['namespace']} has no InferenceService {settings['model_name']!r}")
    return client, settings, live


def shown(service: dict[str, Any]) -> dict[str, Any]:
    """Returns an InferenceService without what only the server writes, and without the notes of former ones."""
    metadata = {key: service["metadata"].get(key) for key in ("name", "namespace", "labels", "annotations")}
    not_shown = ("nlp-pipeline/former", "kubectl.kubernetes.io/last-applied-configuration")
    annotations = {key: value for key, value in (metadata["annotations"] or {}).items() if key not in not_shown}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {**metadata, "annotations": annotations},
        "spec": service["spec"],
    }


def rehearsed(client: Any, wanted: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Returns what a deployment would send, and how what the server would make of it differs from the live object."""
    import yaml

    from nlp_pipeline.components.deploy_model_cluster import read_service
    from nlp_pipeline.components.deploy_model_object import formers_after
    from nlp_pipeline.components.deploy_model_rollout import rehearse
    from nlp_pipeline.components.deploy_model_transaction import check_mode

    live = read_service(client, settings["model_name"], settings["namespace"])
    made = rehearse(client, wanted, formers_after, settings["poll_seconds"])
    check_mode(made, settings)
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

    outcome = done["outcome"]
    if outcome == "rolled back":
        raise RolledBackError(f"rolled back: {done['reason']}")
    if done.get("reason"):
        raise (TimedOutError if done["timed_out"] else PipelineError)(f"{outcome}: {done['reason']}")
    return {**endpoint_facts(done), **done["facts"]}
