"""Deploying as a transaction: either the new release serves, or what served before does."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from nlp_pipeline.deploy.cluster import delete_service, one_line, poll, read_service, write_service
from nlp_pipeline.deploy.dark_launch import can_launch, launch, withdraw
from nlp_pipeline.deploy.endpoint import ANY_TEXT, Rows, ask_texts, check_answers
from nlp_pipeline.deploy.inference_service import AUTOSCALER, SHARE, Former, InferenceService, beside, make
from nlp_pipeline.deploy.rollout import give_share, load_failure, read_own, send, set_share, stop, wait_until_ready
from nlp_pipeline.deploy.settings import DeploySettings, Target, check_host_name
from nlp_pipeline.errors import PipelineError, RolledBackError, TimedOutError, UsageError

NOTHING = make("", "", {}, {}, {})


@dataclass(frozen=True)
class Outcome:
    """What came of a deployment."""

    outcome: str  # deployed, unchanged, rolled back, stopped, deleted or failed
    reason: str = ""  # why it failed, and what was done about it; empty where it did not
    timed_out: bool = False  # whether it failed as it was not ready in time
    service: InferenceService | None = None  # the live object; None where there is none, or it can't be read
    figures: dict[str, float] = field(default_factory=dict)  # `seconds_to_ready`, and what `check_answers` returned

    @property
    def endpoint(self) -> dict[str, str]:
        """What the endpoint is: its addresses, and what serves there."""
        service = self.service or NOTHING
        model = service.predictor.get("model", {})
        return {
            "outcome": self.outcome,
            "name": service.name,
            "namespace": service.namespace,
            "url": service.status.get("url", ""),
            "in_cluster_url": service.status.get("address", {}).get("url", ""),
            "revision": service.component.get("latestReadyRevision", ""),
            "release": service.release,
            "runtime": model.get("runtime", ""),
            "storage_uri": model.get("storageUri", ""),
            "deployment_mode": "Standard" if service.is_standard else "Knative",
        }

    def raise_failure(self, advice: str = "") -> None:
        """Raises the error of a deployment that failed; its message ends with the advice."""
        if self.reason:
            failed = TimedOutError if self.timed_out else PipelineError
            kind = RolledBackError if self.outcome == "rolled back" else failed
            raise kind(f"{self.outcome}: {self.reason}{advice}", {**self.endpoint, **self.figures})


def check_mode(service: InferenceService, settings: DeploySettings) -> None:
    """Makes sure that the deployment mode, which the server has written down, can do what is asked for."""
    check_host_name(service.name, service.namespace, not service.is_standard)
    if settings.canary_percent and service.is_standard:
        raise UsageError(
            f"canary_percent={settings.canary_percent} needs deployment_mode=Knative, and {service} is in Standard, "
            "where KServe 0.20 splits nothing"
        )
    for name in ("min_replicas", "scale_metric"):
        if service.is_standard and (value := getattr(settings, name)) in (0, "concurrency", "rps"):
            raise UsageError(f"{name}={value} needs deployment_mode=Knative, and {service} is in Standard")


def check(desired: InferenceService, settings: DeploySettings) -> InferenceService:
    """Lets the server check an object, adds what only Standard takes, and returns what the server makes of it."""
    checked = send(desired, dry_run="All")
    check_mode(checked, settings)
    if not checked.is_standard:
        return checked
    # Requests still come while a pod is taken out of its Service; Knative waits by itself, and refuses the field.
    if model := desired.predictor.get("model"):
        model.setdefault("lifecycle", {"preStop": {"exec": {"command": ["sleep", "5"]}}})
    if desired.predictor.get("minReplicas") == desired.predictor.get("maxReplicas"):
        desired.predictor.setdefault("annotations", {}).setdefault(AUTOSCALER, "none")
    return send(desired, dry_run="All")


def deploy(desired: InferenceService, target: Target, rows: Rows) -> Outcome:
    """Brings an InferenceService into the cluster, or leaves the cluster as it was.

    A process that is killed in between leaves an object whose deployment has not ended; the same call then resumes it.
    What the rows are for: see `check_answers`. It raises where it was refused before anything was changed.
    """
    live = read_service(desired.name, desired.namespace)
    if live is not None and live.serves(desired):
        begun = live.is_unfinished
        task = "its deployment goes on" if begun else "nothing is changed"
        print(f"{desired} is release {desired.release} already; {task}", flush=True)
        if live.canary:  # another one's deployment was killed
            write_service(desired, lambda there: beside(there or live))
    else:
        begun = True
        check(desired, target.settings)
        if can_launch(live, desired):
            launched = _attempt(desired, lambda: launch(desired, target, rows), lambda: withdraw(desired))
            if launched.reason:
                return launched
        desired = send(desired)
        print(f"{desired} has been {'replaced' if live else 'created'}; waiting for its pods", flush=True)
    undo = partial(_undo, desired, target) if begun else lambda: ("failed", "nothing is changed")
    outcome = _attempt(desired, lambda: _bring_up(desired, target, rows, begun), undo)
    return outcome if begun or outcome.reason else replace(outcome, outcome="unchanged")


def _attempt(
    desired: InferenceService, bring: Callable[[], dict[str, float]], undo: Callable[[], tuple[str, str]]
) -> Outcome:
    """Does what brings a release to where it serves and returns figures; whatever fails in it is undone.

    What undoes it returns the outcome, and what was done about it as a sentence's end.
    """
    try:
        outcome = Outcome("deployed", figures=bring())
    except Exception as error:  # noqa: BLE001  whatever it is, what stood there before must come back
        reason = _line_of(error)
        print(f"failed: {reason}", flush=True)
        try:
            what, done = undo()
        except Exception as other:  # noqa: BLE001  what failed first must be said too
            what, done = "failed", f"and it could not be undone: {_line_of(other)}"
        outcome = Outcome(what, f"{reason}; {done}", isinstance(error, TimedOutError))
    return replace(outcome, service=read_service(desired.name, desired.namespace))


def _bring_up(
    desired: InferenceService, target: Target, rows: Rows, begun: bool = True, share: int | None = None
) -> dict[str, float]:
    """Waits for an object that was sent, asks it, and gives it its share of the traffic.

    One whose deployment was not begun now, but has ended long ago, has it.
    """
    began = time.monotonic()
    service = wait_until_ready(desired, target.settings.deploy_timeout)
    seconds = time.monotonic() - began
    print(f"ready after {seconds:.1f} s", flush=True)
    figures = {"seconds_to_ready": seconds, **check_answers(service, begun, target, rows)}
    if begun:
        if target.settings.canary_percent and service.predictor.get(SHARE, 100) < 100:
            _watch_canary(desired, target, rows["text"])
        service = give_share(desired, share)
        # The whole way, now by the address that everyone uses.
        check_answers(service, False, target, {"text": rows["text"][:10]} if rows else {})
    return figures


def _watch_canary(desired: InferenceService, target: Target, texts: list[str]) -> None:
    """Gives the newest revision its canary share for its time, and asks it and the whole service all along."""
    percent, minutes = target.settings.canary_percent, target.settings.canary_minutes
    service, waiting = give_share(desired, percent), itertools.cycle(texts)
    print(f"{percent}% of the traffic go to it for {minutes:g} minutes", flush=True)

    def look() -> None:
        text = next(waiting)
        for newest in (True, False):
            # It has answered already: where it does not any more, those who ask it shall not bear that for long.
            ask_texts(service, newest, target, [text], seconds=12)
        if failure := load_failure(read_own(desired)):
            raise PipelineError(f"it failed with {percent}% of the traffic: {failure}")

    poll(look, 60 * minutes)


def _undo(desired: InferenceService, target: Target) -> tuple[str, str]:
    """Undoes a deployment that failed; returns the outcome, and a sentence's end that says it."""
    live = read_service(desired.name, desired.namespace)
    if live is None:
        return "failed", "it is not there any more"
    if not live.matches(desired):
        return "failed", "the other one is left as it is"
    if formers := live.formers:
        return "rolled back", _put_back(live, formers, target)
    if target.settings.first_failure == "delete":
        delete_service(live)
        return "deleted", "there was none before, and it has been deleted"
    stop(live)
    return "stopped", "there was none before, and it has been stopped"


def _put_back(live: InferenceService, formers: list[Former], target: Target) -> str:
    """Puts the newest former object back in the live one's place, waits until it serves, and gives it the traffic.

    Where this is interrupted, the same former one is gone back to again. Returns what was done, a sentence's end.
    """
    former = formers[0]
    desired = former.restore(live.name, live.namespace)
    name = f"the former release {desired.release}" if desired.release else "what stood there before"
    done, share = f"{name} has been put back", former.spec["predictor"].get(SHARE)
    if not former.serves and not desired.is_stopped:
        # Else the pods that failed would go on answering where nothing did before.
        stop(live)
    desired = send(desired, formers)
    if not former.serves:
        set_share(desired, share)
        return f"{done}; it did not serve before either"
    target = replace(target, labels=[], settings=replace(target.settings, canary_percent=0))
    try:
        # What was not made by this project may speak another protocol: it is not asked.
        _bring_up(desired, target, ANY_TEXT if desired.release else {}, share=share)
    except PipelineError as error:
        if former.ready:
            raise
        return f"{done}; it did not serve before either ({error})"
    return f"{done} and serves"


def _line_of(error: Exception) -> str:
    return one_line(error if isinstance(error, PipelineError) else f"{type(error).__name__}: {error}")
