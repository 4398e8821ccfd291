"""How an InferenceService is sent, waited for, and given the traffic."""

from collections.abc import Callable
from typing import TypeVar

from nlp_pipeline.deploy.cluster import one_line, read_service, write_service
from nlp_pipeline.deploy.inference_service import SHARE, STOP, Former, InferenceService, Json, successor
from nlp_pipeline.deploy.pods import describe, pod_failure, readiness
from nlp_pipeline.deploy.settings import Target
from nlp_pipeline.errors import PipelineError, TimedOutError

T = TypeVar("T")
# What a deployment can go back to, by the live object.
Formers = Callable[[InferenceService | None], list[Former]]
# For how many more looks a failure that KServe reports may be another's: right after a change, the status may still be
# that of the former model; on Standard also while the former pods are on their way out.
PATIENCE = 8


def send(wanted: InferenceService, formers: Formers, **options: str) -> InferenceService:
    """Puts an object into the live one's place, with no traffic where something serves already.

    Args:
        wanted: The object.
        formers: What it can go back to.
        **options: See `write_service`.

    Returns:
        The object as the server keeps it, without its share of the traffic.
    """
    made = write_service(wanted, lambda live: successor(live, wanted, formers(live)), **options)
    made.predictor.pop(SHARE, None)
    return made


def own(live: InferenceService | None, wanted: InferenceService) -> InferenceService:
    """Returns a live InferenceService that must still be the one that was sent."""
    if live is None:
        raise PipelineError(f"{wanted} has been deleted meanwhile")
    if not live.matches(wanted):
        raise PipelineError(f"another deployment has taken the place of this one in {wanted} meanwhile")
    return live


def read_own(wanted: InferenceService) -> InferenceService:
    """Returns the live InferenceService; see `own`."""
    return own(read_service(wanted.name, wanted.namespace), wanted)


def change_own(wanted: InferenceService, change: Callable[[Json], object]) -> None:
    """Changes the live InferenceService's body in place and sends it; see `own`."""

    def changed(live: InferenceService | None) -> Json:
        body = own(live, wanted).body
        change(body)
        return body

    write_service(wanted, changed)


def set_share(wanted: InferenceService, percent: int | None) -> None:
    """Gives the newest revision a share of the traffic; None for all of it, which also ends the deployment."""

    def change(body: Json) -> None:
        predictor = body["spec"]["predictor"]
        predictor.pop(SHARE, None)
        if percent is not None:
            predictor[SHARE] = percent

    change_own(wanted, change)


def stop(service: InferenceService, target: Target) -> None:
    """Stops an InferenceService (the object stays, its pods go) and waits until KServe has seen it."""
    change_own(service, lambda body: body["metadata"]["annotations"].update({STOP: "true"}))
    # Started again before it was seen, it would be judged by the status of what was to be stopped.
    poll(lambda: None if read_own(service).component else True, target.route_seconds, target.poll_seconds)


def poll(look: Callable[[], T | None], seconds: float, every: float) -> T | None:
    """Looks again and again until something is found; returns None when the time is over."""
    import tenacity

    looking = tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda found: found is None),
        stop=tenacity.stop_after_delay(seconds),
        wait=tenacity.wait_fixed(every),
        retry_error_callback=lambda _: None,
    )
    return looking(look)


def load_failure(service: InferenceService) -> str:
    """Returns the server's reason and message of a model that can't be loaded; empty where KServe reports none."""
    model = service.status.get("modelStatus", {})
    if model.get("transitionStatus") not in ("BlockedByFailedLoad", "InvalidSpec"):
        return ""
    info = model.get("lastFailureInfo", {})
    code = f" (exit code {info['exitCode']})" if info.get("exitCode") else ""
    line = f"{info.get('reason', model['transitionStatus'])}: {info.get('message', 'no message')}{code}"
    return one_line(line)


def progress(service: InferenceService) -> tuple[bool, bool]:
    """Says how far KServe is with the newest object: whether its status is about it, and whether it is ready.

    Neither observedGeneration nor the condition Ready can say. The first is copied from the child (the Knative Service
    or the Deployment, which counts by itself: inference_service_status.go, PropagateStatus and PropagateRawStatus); the
    second stays True while the former pods serve. So on Knative the newest revision must be another than the one noted
    before, ready, and have its tag; on Standard the ready pods must be this object's, all of them.
    """
    if service.is_standard:
        pods = readiness(service)
        # KServe's failure may be that of another pod.
        return False, service.is_ready and True in pods[True] and True not in pods[False]
    component = service.component
    newest = component.get("latestCreatedRevision", "")
    # What was stopped and started by hand since has counted its revisions anew.
    is_new = newest not in ("", service.note("replaces") if SHARE in service.predictor else "")
    is_tagged = any(
        item.get("tag") == "latest" and item.get("revisionName") == newest for item in component.get("traffic", [])
    )
    return is_new, is_new and service.is_ready and component.get("latestReadyRevision") == newest and is_tagged


def wait_until_ready(wanted: InferenceService, target: Target) -> InferenceService:
    """Waits until the pods of an object that was sent are ready, and returns the live object.

    Raises:
        PipelineError: Its model can't be loaded; or it is not the live one any more.
        TimedOutError: The time is over. In both cases conditions, pods and events have been printed.
    """
    failures = 0
    service = wanted

    def look() -> InferenceService | None:
        nonlocal failures, service
        service = read_own(wanted)
        is_current, is_ready = progress(service)
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
            f"{wanted} was not ready after {seconds} s; its conditions, pods and newest events stand above"
        )
    return ready


def share_of_newest(service: InferenceService) -> int:
    """Returns the newest revision's share of the traffic in percent; all of it on Standard, which has no shares."""
    if service.is_standard:
        return 100
    newest, traffic = service.component.get("latestCreatedRevision"), service.component.get("traffic", [])
    return sum(item.get("percent", 0) for item in traffic if item.get("revisionName") == newest)


def give_share(wanted: InferenceService, percent: int | None, target: Target) -> InferenceService:
    """Does what `set_share` does, waits until the newest revision has its share, and returns the live object."""
    set_share(wanted, percent)
    share = 100 if percent is None else percent

    def look() -> InferenceService | None:
        service = read_own(wanted)
        return service if service.is_standard or share_of_newest(service) == share else None

    found = poll(look, target.route_seconds, target.poll_seconds)
    if found is None:
        raise TimedOutError(f"{wanted}: its newest revision did not get {share}% of the traffic")
    return found
