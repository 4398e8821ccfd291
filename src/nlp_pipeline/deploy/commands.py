"""`--deploy`, `--rollback`, `--undeploy` and `--predict --deployed`: the deployment from here, with a kubeconfig."""

import difflib
import importlib.util
import json
import re
import socket
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nlp_pipeline.deploy.cluster import POD_NAMESPACE, check_access, delete_service, one_line, read_service
from nlp_pipeline.deploy.deployment import connect, deploy_and_follow, deploy_release, prepare
from nlp_pipeline.deploy.endpoint import ANY_TEXT, Rows, address_of
from nlp_pipeline.deploy.inference_service import (
    NOTES,
    PASSING,
    REGISTRY_URL,
    SHARE,
    VERSION_ID,
    Former,
    InferenceService,
    Json,
    make,
)
from nlp_pipeline.deploy.registry import note_states
from nlp_pipeline.deploy.service_proxy import ServiceProxy, check_proxy
from nlp_pipeline.deploy.settings import DeploySettings, Target
from nlp_pipeline.deploy.transaction import Outcome, check
from nlp_pipeline.deploy.upload import StoredRelease
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.release import Release, verify
from nlp_pipeline.serving.agreement import SERVED, AgreementLimits, spread_rows
from nlp_pipeline.settings import SIGN_IN
from nlp_pipeline.settings import settings as environment
from nlp_pipeline.storage import s3_client
from nlp_pipeline.volume import Run, digest_of

URI = re.compile(r"(?P<kind>pvc|s3)://(?P<place>.+)/(?P<model_name>[^/]+)/releases/(?P<digest>[0-9a-f]{16})/?")
GATEWAY = "set gateway=http://... to the address of the ingress gateway, which goes by the host name"
# Noted on what was rolled back to, so that a rollback that was interrupted is known again.
ROLLED_BACK = "rolled-back"


def deploy(release: str, rows: Path | None, values: dict[str, Any], endpoint_rows: int, dry_run: bool) -> Json:
    """Deploys what `--release` names, as the step `deploy_model` does, and asks it for so many rows.

    Returns what `--json` prints: what the endpoint is, and its figures; for a dry run, which only shows what would be
    sent, `object` and `difference`. The values are the parameters that the user set.
    """
    import_kserve()
    with redirect_stdout(sys.stderr):
        record, values, folder = _find_release(release, values)
        target = _target(values)
        asked = _find_rows(rows, folder, record, endpoint_rows, target.settings.takes_archive)
        if not target.settings.model_store:
            print(
                f"note: whether {target.uri_of(record)} is there can't be seen from here; where it is not, Kubernetes "
                "mounts an empty folder, and the model can't be loaded",
                file=sys.stderr,
            )
        if dry_run:
            if target.settings.model_registry:
                print("note: a dry run registers nothing, and shows no labels of the registry's", file=sys.stderr)
            return _difference(*prepare(record, folder, target))
        if not target.settings.gateway and (live := read_service(target.name, connect(target).namespace)):
            target = _reach(live, target)
        return _report(lambda: deploy_release(record, folder, target, asked))


def rollback(values: dict[str, Any], dry_run: bool) -> Json:
    """Goes back to the release that was deployed before; done twice, it comes back to this one. See `deploy`."""
    with redirect_stdout(sys.stderr):
        live, target = _find_live(values, to_change=True)
        desired = _choose_former(live).restore(live.name, live.namespace)
        registry = target.settings.model_registry or live.annotations.get(REGISTRY_URL, "")
        settings = replace(target.settings, canary_percent=0, model_registry=registry)
        target = replace(target, labels=json.loads(desired.note("labels") or "[]"), settings=settings)
        if dry_run:
            return _difference(desired, target)
        # What was not made by this project may speak another protocol: it is not asked.
        rows = ANY_TEXT if desired.release else {}
        if rows:
            target = _reach(live, target)
        return _report(lambda: deploy_and_follow(desired, target, rows))


def undeploy(values: dict[str, Any], dry_run: bool) -> Json:
    """Removes an InferenceService; the releases stay where they are. See `deploy`."""
    with redirect_stdout(sys.stderr):
        live, target = _find_live(values, to_change=True)
        if dry_run:
            return {"object": _body_of(live), "difference": f"{live} would be deleted"}
        delete_service(live)
        if address := target.settings.model_registry or live.annotations.get(REGISTRY_URL):
            note_states(address, live, {live.labels.get(VERSION_ID, ""): "undeployed"})
        return Outcome("deleted", service=live).endpoint


def predict_deployed(texts: list[str], values: dict[str, Any]) -> list[Json]:
    """Asks a deployed InferenceService for texts, and returns for each, in order, `text`, `label` and `score`."""
    from nlp_pipeline.serving.endpoint import predict_at

    with redirect_stdout(sys.stderr):
        live, target = _find_live(values)
        if not live.status.get("url"):
            raise PipelineError(f"{live} has no address: it is not ready")
        reached = _reach(live, target)
        address, headers = address_of(live, False, reached.settings.gateway)
        labels = json.loads(live.note("labels") or "[]")
        transport = None if reached is target else target.transport
        return predict_at(address, texts, labels, {**headers, **target.headers}, transport)


def import_kserve() -> None:
    """Imports kserve, so that later imports find it.

    Its module model_server reads sys.argv when it is imported, and ends the process where `--predict` stands there,
    which several of its own flags begin with.
    """
    if importlib.util.find_spec("kserve") is None:
        raise UsageError("kserve is not installed: pip install -c constraints.txt -e '.[deploy]'")
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        import kserve  # noqa: F401
    finally:
        sys.argv = arguments


def _find_release(release: str, values: dict[str, Any]) -> tuple[Release, dict[str, Any], Path | None]:
    """Finds out what a folder, pvc://claim/model/releases/digest or s3://bucket/folder/model/releases/digest is.

    Returns its record, as far as it can be read from here, the parameters with those that the release tells, and its
    folder, where it has one here.
    """
    if "://" not in release:
        folder = Path(release)
        record = verify(folder)
        if not values.get("model_store") and "volume_claim" not in values:
            raise UsageError(
                f"--release {release} is a folder here: say where KServe reads it, with --set volume_claim=NAME where "
                "it lies on that claim, or --set model_store=s3://bucket to upload it there"
            )
        return record, _combine(values, {"model_name": record.model_name}, release), folder
    match = URI.fullmatch(release)
    if match is None:
        raise UsageError(
            f"--release {release} is no release: give its folder, pvc://claim/model/releases/digest, or "
            "s3://bucket/folder/model/releases/digest"
        )
    named = {"model_name": match["model_name"], "model_store": "", "volume_claim": match["place"]}
    if match["kind"] == "s3":
        named = {"model_name": match["model_name"], "model_store": f"s3://{match['place']}"}
    values = _combine(values, named, release)
    record = Release(digest=match["digest"], model_name=match["model_name"])
    if match["kind"] == "s3":
        stored = StoredRelease(release.rstrip("/"), s3_client()).record()
        if stored is None or (stored.digest, stored.model_name) != (record.digest, record.model_name):
            raise UsageError(f"--release {release} has no sound release.json: was its upload finished?")
        record = stored
    return record, values, None


def _combine(values: dict[str, Any], named: dict[str, str], release: str) -> dict[str, Any]:
    """Returns the parameters with those that a release tells, which must not contradict each other."""
    for name, value in named.items():
        if str(values.get(name, value)).rstrip("/") != value:
            raise UsageError(f"--set {name}={values[name]} contradicts --release {release}: leave it out")
    return {**values, **named}


def _find_rows(rows: Path | None, folder: Path | None, release: Release, count: int, takes_archive: bool) -> Rows:
    """Returns what the endpoint is asked for: so many rows of a predictions.parquet.

    By a release may lie what its archive answered where it was validated, or what the offline model said.
    """
    import pyarrow

    if rows is None and folder is not None:
        run = folder.resolve().parents[1] / "runs" / release.run_id
        served = [SERVED] if takes_archive else []
        beside = [run / name for name in (*served, "datasets/predictions.parquet")]
        rows = next((path for path in beside if path.is_file()), None)
    if rows is None:
        print("no labelled rows to ask for: it is only seen whether it answers (--rows FILE)", file=sys.stderr)
        return ANY_TEXT
    try:
        columns = spread_rows(rows, count)
        if not all(isinstance(item, str | list) for column in columns.values() for item in column):
            raise ValueError("text, label and predicted must all be strings, or lists of them")
    except (OSError, ValueError, PipelineError, pyarrow.ArrowException) as error:
        reason = one_line(error)
        raise UsageError(f"--rows {rows} can't be read: give a run's datasets/predictions.parquet ({reason})") from None
    return columns


def _target(values: dict[str, Any]) -> Target:
    return Target(
        settings=DeploySettings.of(values),
        limits=AgreementLimits.of(values),
        run=Run(model_name=values["model_name"], run_id=f"by hand {digest_of(time.time())}", volume_path=""),
        headers=environment().sign_in_headers(),
        transport=None if POD_NAMESPACE.exists() else ServiceProxy(),
    )


def _find_live(values: dict[str, Any], to_change: bool = False) -> tuple[InferenceService, Target]:
    if "model_name" not in values:
        raise UsageError("which model? add --set model_name=NAME, the name of the InferenceService")
    target = connect(_target(values))
    if to_change:
        check_access(target.namespace)
    live = read_service(target.name, target.namespace)
    if live is None:
        raise UsageError(f"namespace {target.namespace} has no InferenceService {target.name!r}")
    return live, target


def _reach(live: InferenceService, target: Target) -> Target:
    """Returns the target by which a live InferenceService can be asked from here.

    Where its host name is not known here, that is on Standard the predictor's Service, through the API server.
    """
    host = urlsplit(live.status.get("url", "")).hostname
    if target.settings.gateway or POD_NAMESPACE.exists() or not host:
        return target
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        if not live.is_standard:
            raise UsageError(f"{host}, the name of {live}, is not known here: {GATEWAY}") from None
        check_proxy(live.namespace)
        print(f"note: {host} is not known here: {live} is asked through the cluster's API server", file=sys.stderr)
        service = f"http://{live.name}-predictor.{live.namespace}"
        return replace(target, settings=replace(target.settings, gateway=service))
    return target


def _choose_former(live: InferenceService) -> Former:
    if live.note(ROLLED_BACK) and SHARE in live.predictor:
        return live.to_former()  # it was interrupted, and is taken up
    for former in live.formers:
        restored = former.restore(live.name, live.namespace)
        if not restored.is_stopped and not live.serves(restored):
            return replace(former, annotations={**former.annotations, f"{NOTES}{ROLLED_BACK}": "by hand"})
    raise UsageError(f"{live} has no former release noted on it: --deploy --release the one you want")


def _body_of(service: InferenceService) -> Json:
    """Returns an InferenceService's body without what only the server writes, and without the notes of former ones."""
    annotations = {key: value for key, value in service.annotations.items() if key not in PASSING}
    return make(service.name, service.namespace, service.labels, annotations, service.body["spec"]).body


def _difference(desired: InferenceService, target: Target) -> Json:
    """Returns what a deployment would send, and how what the server would make of it differs from the live object."""
    import yaml

    live = read_service(desired.name, desired.namespace)
    if live is not None and live.serves(desired):
        result = InferenceService(deepcopy(live.body))
        # The share of the traffic with which a deployment begins is gone when it ends.
        result.predictor.pop(SHARE, None)
    else:
        result = check(desired, target.settings)
    before, after = [yaml.safe_dump(_body_of(item)).splitlines() if item else [] for item in (live, result)]
    lines = difflib.unified_diff(before, after, "live", "to be", lineterm="", n=2)
    return {"object": _body_of(desired), "difference": "\n".join(lines)}


def _report(deploying: Callable[[], Outcome]) -> Json:
    """Deploys, and returns what `--json` prints."""
    try:
        outcome = deploying()
    except KeyboardInterrupt:
        print("what was begun in the cluster has not ended: the same command again takes it up", file=sys.stderr)
        raise
    advice = ""
    if re.search(r" answered (302|401|403)\b", outcome.reason):
        advice = f"; to sign in, set {SIGN_IN}"
    elif "no way to the model" in outcome.reason and "Host: " not in outcome.reason:
        advice = f"; from outside the cluster, {GATEWAY}"
    outcome.raise_failure(advice)
    return {**outcome.endpoint, **outcome.figures}
