"""How an InferenceService is sent, waited for, and given the traffic."""

from collections.abc import Callable

from nlp_pipeline.deploy.cluster import one_line, poll, read_service, write_service
from nlp_pipeline.deploy.inference_service import (
    SHARE,
    STOP,
    Former,
    InferenceService,
    Json,
    formers_after,
    successor,
)
from nlp_pipeline.deploy.pods import are_ready, describe, pod_failure
from nlp_pipeline.deploy.settings import Target
from nlp_pipeline.errors import PipelineError, TimedOutError

# For how many more looks a failure that KServe reports may be another's: right after a change, the status may still be
# that of the former model; on Standard also while the former pods are on their way out.
PATIENCE = 8


def send(desired: InferenceService, formers: list[Former] | None = None, **options: str) -> InferenceService:
    """Puts an object into the live one's place, with no traffic where something serves already.

    It can go back to the formers; by default, to the live object and its own formers. Returns the object as the server
    keeps it, without its share of the traffic.
    """

    def change(live: InferenceService | None) -> Json:
        return successor(live, desired, formers_after(live) if formers is None else formers)

    sent = write_service(desired, change, **options)
    sent.predictor.pop(SHARE, None)
    return sent


def _require_own(live: InferenceService | None, desired: InferenceService) -> InferenceService:
    if live is None:
        raise PipelineError(f"{desired} has been deleted meanwhile")
    if not live.matches(desired):
        raise PipelineError(f"another deployment has taken the place of this one in {desired} meanwhile")
    return live


def read_own(desired: InferenceService) -> InferenceService:
    """Returns the live InferenceService, which must still be the one that was sent."""
    return _require_own(read_service(desired.name, desired.namespace), desired)


def _change_own(desired: InferenceService, change: Callable[[InferenceService], object]) -> None:
    """Changes the live InferenceService's body in place and sends it."""

    def changed(live: InferenceService | None) -> Json:
        own = _require_own(live, desired)
        change(own)
        return own.body

    write_service(desired, changed)


def set_share(desired: InferenceService, percent: int | None) -> None:
    """Gives the newest revision a share of the traffic; None for all of it, which also ends the deployment."""

    def change(live: InferenceService) -> None:
        live.predictor.pop(SHARE, None)
        if percent is not None:
            live.predictor[SHARE] = percent

    _change_own(desired, change)


def stop(service: InferenceService, target: Target) -> None:
    """Stops an InferenceService (the object stays, its pods go) and waits until KServe has seen it."""
    _change_own(service, lambda live: live.annotations.update({STOP: "true"}))
    # Started again before it was seen, it would be judged by the status of what was to be stopped.
    poll(lambda: None if read_own(service).component else True, target.route_seconds, target.poll_seconds)


def load_failure(service: InferenceService) -> str:
    """Returns the server's reason and message of a model that can't be loaded; empty where KServe reports none."""
    model = service.status.get("modelStatus", {})
    if model.get("transitionStatus") not in ("BlockedByFailedLoad", "InvalidSpec"):
        return ""
    info = model.get("lastFailureInfo", {})
    code = f" (exit code {info['exitCode']})" if info.get("exitCode") else ""
    return one_line(f"{info.get('reason', model['transitionStatus'])}: {info.get('message', 'no message')}{code}")


def _progress(service: InferenceService) -> tuple[bool, bool]:
    """Says how far KServe is with the newest object: whether its status is about it, and whether it is ready.

    Neither observedGeneration nor the condition Ready can say. The first is copied from the child (the Knative Service
    or the Deployment, which counts by itself: inference_service_status.go, PropagateStatus and PropagateRawStatus); the
    second stays True while the former pods serve. So on Knative the newest revision must be another than the one noted
    before, ready, and have its tag; on Standard the ready pods must be this object's, all of them.
    """
    if service.is_standard:
        # KServe's failure may be that of another pod.
        return False, service.is_ready and are_ready(service)
    component = service.component
    newest = component.get("latestCreatedRevision", "")
    # What was stopped and started by hand since has counted its revisions anew.
    is_new = newest not in ("", service.note("replaces") if SHARE in service.predictor else "")
    tagged = [item.get("revisionName") for item in component.get("traffic", []) if item.get("tag") == "latest"]
    return is_new, is_new and service.is_ready and component.get("latestReadyRevision") == newest and newest in tagged


def wait_until_ready(desired: InferenceService, target: Target) -> InferenceService:
    """Waits until the pods of an object that was sent are ready, and returns the live object.

    Where its model can't be loaded, or the time is over, conditions, pods and events are printed.
    """
    failures, service = 0, desired

    def look() -> InferenceService | None:
        nonlocal failures, service
        service = read_own(desired)
        is_current, is_ready = _progress(service)
        if is_ready:
            return service
        failure, patience = load_failure(service), 0 if is_current else PATIENCE
        if not failure:
            failure, patience = pod_failure(service)
        failures = failures + 1 if failure else 0
        if failures > patience:
            print(describe(service), flush=True)
            raise PipelineError(f"the model can't be loaded: {failure}")
        return None

    seconds = target.settings.deploy_timeout
    ready = poll(look, seconds, target.poll_seconds)
    if ready is None:
        print(describe(service), flush=True)
        raise TimedOutError(
            f"{desired} was not ready after {seconds} s; its conditions, pods and newest events stand above"
        )
    return ready


def share_of_newest(service: InferenceService) -> int:
    """Returns the newest revision's share of the traffic in percent; all of it on Standard, which has no shares."""
    if service.is_standard:
        return 100
    newest, traffic = service.component.get("latestCreatedRevision"), service.component.get("traffic", [])
    return sum(item.get("percent", 0) for item in traffic if item.get("revisionName") == newest)


def give_share(desired: InferenceService, percent: int | None, target: Target) -> InferenceService:
    """Does what `set_share` does, waits until the newest revision has its share, and returns the live object."""
    set_share(desired, percent)
    share = 100 if percent is None else percent

    def look() -> InferenceService | None:
        service = read_own(desired)
        return service if service.is_standard or share_of_newest(service) == share else None

    service = poll(look, target.route_seconds, target.poll_seconds)
    if service is None:
        raise TimedOutError(f"{desired}: its newest revision did not get {share}% of the traffic")
    return service
