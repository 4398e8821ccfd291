"""From a release to a live InferenceService: what the step `deploy_model` and `--deploy` do alike."""

from dataclasses import replace
from pathlib import Path

from nlp_pipeline.deploy.building import server_args, service_for
from nlp_pipeline.deploy.endpoint import Rows
from nlp_pipeline.deploy.inference_service import InferenceService
from nlp_pipeline.deploy.settings import DeploySettings
from nlp_pipeline.deploy.target import Target, connect_and_check
from nlp_pipeline.deploy.transaction import Outcome, deploy
from nlp_pipeline.deploy.upload import upload
from nlp_pipeline.errors import UsageError
from nlp_pipeline.release import Release, verify
from nlp_pipeline.serving.agreement import AgreementLimits, spread_rows
from nlp_pipeline.volume import Run


def deploy_published(
    run: Run, digest: str, settings: DeploySettings, limits: AgreementLimits, predictions: str, endpoint_rows: int
) -> Outcome:
    """Deploys a release that a run has published on the volume.

    Args:
        run: The run.
        digest: The release's digest.
        settings: Where and how it is served.
        limits: How far its answers may differ from the offline model's.
        predictions: What the offline model said: Parquet with text, label and predicted.
        endpoint_rows: For how many of these rows, spread evenly, the endpoint is asked.

    Raises:
        PipelineError: It was refused before anything was changed.
    """
    # What KServe will read, not the copy of it that came as an artifact.
    folder = Path(run.volume_path, run.model_name, "releases", digest)
    target = Target(settings=settings, limits=limits, run=run)
    return deploy_release(verify(folder), folder, target, spread_rows(predictions, endpoint_rows))


def deploy_release(release: Release, folder: Path | None, target: Target, rows: Rows) -> Outcome:
    """Deploys a release; for the arguments see `prepare`, and `transaction.deploy` for the rows."""
    wanted, target = prepare(release, folder, target)
    uri = target.settings.release_uri(release.model_name, release.digest)
    if folder is not None and uri.startswith("s3://"):
        upload(folder, release, uri)
    print(f"release {release.digest}, which KServe reads at {uri}", flush=True)
    outcome = deploy(wanted, target, rows)
    if not outcome.reason:
        print(f"{outcome.outcome}: {outcome.endpoint['url']}", flush=True)
    return outcome


def prepare(release: Release, folder: Path | None, target: Target) -> tuple[InferenceService, Target]:
    """Finds out whether a release can be deployed, and changes nothing.

    Args:
        release: The release.
        folder: Its folder; None where it has none here.
        target: Where and how it is deployed.

    Returns:
        Its InferenceService, and the target with what was found out.

    Raises:
        UsageError: It can't; the message says what to do.
    """
    if release.model_name != target.name:
        raise UsageError(
            f"model_name is {target.name!r}, and the release's model is {release.model_name!r}: the InferenceService, "
            "TorchServe's model and the archive must have one name"
        )
    args = server_args(release, folder, target.settings.serving_runtime)
    target = replace(connect_and_check(target), labels=release.labels)
    uri = target.settings.release_uri(release.model_name, release.digest)
    return service_for(release, target, uri, args), target
