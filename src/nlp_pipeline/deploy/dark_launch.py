"""Dark launch on Standard: a new release runs beside the live one, under a Service of its own, until it has answered.

KServe 0.20 has `spec.canary` for it. That splits no traffic (seen), so a release that was found good takes the live
one's place by the usual roll. Nothing in KServe's status tells of what runs beside; its pods do.
"""

from typing import Any

from nlp_pipeline.deploy.cluster import write_service
from nlp_pipeline.deploy.endpoint import Rows, check_answers
from nlp_pipeline.deploy.inference_service import AUTOSCALER, NEXT, NOTES, SHARE, InferenceService, Json, beside
from nlp_pipeline.deploy.rollout import read_own, wait_until_ready
from nlp_pipeline.deploy.settings import Target
from nlp_pipeline.errors import PipelineError

# What is not taken from a predictor for what runs beside it: KServe refuses to scale that.
NOT_TAKEN = ("minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "annotations", SHARE)


def can_launch(live: InferenceService | None, desired: InferenceService) -> bool:
    """Says whether a release can run beside the live one.

    Whether the cluster's KServe can do it, a dry run tells, for which no right is needed but the one to write: of an
    older one, the API server drops the field. What runs beside inherits what it does not set, so it can't lack what the
    live one has. Where what is live was never found good, there is nothing to spare.
    """
    if live is None or live.is_stopped or not live.is_standard or live.predictor.get("minReplicas", 1) < 1:
        return False
    if (live.is_unfinished and not live.formers) or not _sets_all(_taken(live), _taken(desired)):
        return False
    return bool(_put_beside(desired, dry_run="All").canary)


def launch(desired: InferenceService, target: Target, rows: Rows) -> dict[str, float]:
    """Puts a release beside the live one, asks it when its pods are ready, and returns what `check_answers` does."""
    _put_beside(desired)
    print(f"it runs beside {desired}, without traffic; waiting for its pods", flush=True)
    service = wait_until_ready(desired, target.settings.deploy_timeout, is_beside=True)
    return check_answers(service, True, target, rows)


def withdraw(desired: InferenceService) -> tuple[str, str]:
    """Removes a release from beside the live one; returns the outcome, and a sentence's end that says it."""
    write_service(desired, lambda _: beside(read_own(desired, is_beside=True)))
    return "rolled back", "it has been removed; what served before was not touched"


def _put_beside(desired: InferenceService, **options: str) -> InferenceService:
    marks = {f"{NOTES}applied": desired.note("applied"), f"{NOTES}again": ""}
    predictor = _taken(desired) | {
        "name": NEXT,
        "minReplicas": 1,
        # A foreign object has no such label, and would inherit it.
        "labels": desired.labels | {f"{NOTES}release": desired.release},
        # With an autoscaler, that would be left behind.
        "annotations": {AUTOSCALER: "none"} | marks,
    }

    def change(live: InferenceService | None) -> Json:
        if live is None:
            raise PipelineError(f"{desired} has been deleted meanwhile")
        return beside(live, predictor)

    return write_service(desired, change, **options)


def _taken(service: InferenceService) -> Json:
    return {name: value for name, value in service.predictor.items() if name not in NOT_TAKEN}


def _sets_all(live: Any, desired: Any) -> bool:
    """Says whether all that is set in a live object is set, to whatever value, in a desired one."""
    if not isinstance(live, dict):
        return True
    return isinstance(desired, dict) and all(
        name in desired and _sets_all(value, desired[name]) for name, value in live.items() if value
    )
