"""Deploying as a transaction: either the new release serves, or what served before does.

Hermetic helpers, inlined into the step as `additional_funcs`; for `settings` see deploy_model_rollout.py.
"""

from typing import Any

from nlp_pipeline.components.deploy_model_cluster import call, read_service, refuse_access
from nlp_pipeline.components.deploy_model_object import (
    formers_after,
    formers_of,
    is_same,
    is_stopped,
    is_unfinished,
    matches,
    mode_of,
    release_of,
    restored,
)
from nlp_pipeline.components.deploy_model_rollout import (
    ask_rows,
    check_answers,
    check_way,
    list_pods,
    own,
    read_own,
    rehearse,
    send,
    set_share,
    share_of_newest,
    title,
    wait_for_share,
    wait_until_ready,
    watch_canary,
    write,
)


def check_mode(service: dict[str, Any], settings: dict[str, Any]) -> None:
    """Makes sure that the deployment mode can do what is asked for.

    Args:
        service: The object as the server would make it.
        settings: See the module.

    Raises:
        ValueError: It can't.
    """
    if mode_of(service) == "Knative":
        return
    wants = {
        "canary_percent": "shares of the traffic",
        "min_replicas": "pods that come when they are asked",
        "scale_metric": "scaling by requests",
    }
    asked = {
        "canary_percent": settings["canary_percent"] > 0,
        "min_replicas": settings["min_replicas"] == 0,
        "scale_metric": settings["scale_metric"] in ("concurrency", "rps"),
    }
    for parameter, is_asked in asked.items():
        if is_asked:
            raise ValueError(
                f"{parameter}={settings[parameter]}: {title(service)} is in deployment mode Standard, which has no "
                f"{wants[parameter]}; leave it out, or set deployment_mode=Knative where the cluster has Knative"
            )


def put_back(client: Any, former: dict[str, Any], formers: list[Any], settings: dict[str, Any]) -> str:
    """Puts a former object back in the live one's place, waits until it serves, and gives it the traffic.

    Args:
        client: A `KServeClient`.
        former: The former object, as it was noted.
        formers: What to go back to where this does not end: itself first, where it served last. `formers_of` leaves it
            out once it has the traffic.
        settings: See the module.

    Returns:
        What was done, a sentence's end. An error says why it does not serve.
    """
    poll_seconds = settings["poll_seconds"]
    wanted = restored(former, settings["model_name"], settings["namespace"])
    name = f"the former release {release_of(wanted)}" if release_of(wanted) else "what stood there before"
    done, share = f"{name} has been put back", former["spec"]["predictor"].get("canaryTrafficPercent")
    if not former["serves"] and not is_stopped(wanted):
        # Else the pods that failed would go on answering where nothing did before.
        stop_service(client, read_service(client, settings["model_name"], settings["namespace"]), settings)
    wanted = send(client, wanted, lambda _: formers, poll_seconds)
    if not former["serves"]:
        set_share(client, wanted, share, poll_seconds)
        return f"{done}; it was {'stopped before too' if is_stopped(wanted) else 'not ready before either'}"
    try:
        service = wait_until_ready(client, wanted, settings)
    except (RuntimeError, TimeoutError) as error:
        if former["ready"]:
            raise
        zero = "and so gets no traffic: canaryTrafficPercent stays 0"
        return f"{done}; it was not ready before either, {zero} ({error})"
    for newest in (True, False):
        if release_of(wanted):
            ask_rows(service, newest, {**settings, "labels": []}, ["a text"])
        if newest:
            set_share(client, wanted, share, poll_seconds)
            service = wait_for_share(client, wanted, 100 if share is None else share, settings)
    return f"{done} and serves"


def undo(client: Any, wanted: dict[str, Any], settings: dict[str, Any]) -> tuple[str, str]:
    """Undoes a deployment that failed.

    Args:
        client: A `KServeClient`.
        wanted: The object that was sent.
        settings: See the module.

    Returns:
        What came of it ("rolled back", "stopped", "deleted" or "failed") and a sentence that says it.
    """
    name, namespace = settings["model_name"], settings["namespace"]
    try:
        live = read_service(client, name, namespace)
        if live is None:
            return "failed", "it is not there any more"
        if not matches(live, wanted):
            return "failed", "the other one is left as it is"
        formers = formers_of(live)
        if formers:
            return "rolled back", put_back(client, formers[0], formers, settings)
        if settings["first_failure"] == "delete":
            call(f"deleting {title(wanted)}", client.delete, name, namespace, expected=(404,))
            return "deleted", "there was none before, and it has been deleted (first_failure=delete)"
        stop_service(client, live, settings)
        return "stopped", "there was none before, and it has been stopped: the object is there, without pods"
    except Exception as error:  # noqa: BLE001 whatever it is, what failed first must be told too
        return "failed", f"and it could not be undone: {line_of(error)}"


def line_of(error: Exception) -> str:
    """Returns an error in one line."""
    kind = "" if isinstance(error, (RuntimeError, OSError, ValueError)) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())


def stop_service(client: Any, live: dict[str, Any] | None, settings: dict[str, Any]) -> None:
    """Stops an InferenceService (the object stays, its pods go) and waits until KServe has seen it."""
    import time

    if live is None:
        return
    wanted = live

    def change(live: dict[str, Any] | None) -> dict[str, Any]:
        body = own(live, wanted)
        body["metadata"]["annotations"]["serving.kserve.io/stop"] = "true"
        return body

    write(client, wanted, change, settings["poll_seconds"])
    until = time.monotonic() + settings["route_seconds"]
    # Started again before it was seen, it would be told by the status of what was to be stopped.
    while "components" in read_own(client, wanted).get("status", {}) and time.monotonic() < until:
        time.sleep(settings["poll_seconds"])


def bring_up(
    client: Any, wanted: dict[str, Any], settings: dict[str, Any], rows: dict[str, list[str]], begun: bool
) -> dict[str, Any]:
    """Waits for an object that was sent, asks it, and gives it the traffic.

    Args:
        client: A `KServeClient`.
        wanted: The object.
        settings: See the module.
        rows: What it must answer: see `check_answers`.
        begun: Whether its deployment has not ended; one that has needs no traffic given to it.

    Returns:
        `seconds_to_ready`, and what `check_answers` returned.

    Raises:
        RuntimeError, TimeoutError, ConnectionError, ValueError: It is not ready, or does not answer as it should.
    """
    import time

    began = time.monotonic()
    service = wait_until_ready(client, wanted, settings)
    if rows:
        check_way(service, settings)
    seconds = time.monotonic() - began
    print(f"ready after {seconds:.1f} s", flush=True)
    facts = {"seconds_to_ready": seconds, **check_answers(service, begun, settings, rows)}
    if begun:
        if settings["canary_percent"] and share_of_newest(service) < 100:
            watch_canary(client, wanted, settings, rows["text"])
        set_share(client, wanted, None, settings["poll_seconds"])
        service = wait_for_share(client, wanted, 100, settings)
        # The whole way, now by the address that everyone uses.
        check_answers(service, False, settings, {key: some[:10] for key, some in rows.items() if key == "text"})
    return facts


def deploy_service(
    client: Any, wanted: dict[str, Any], settings: dict[str, Any], rows: dict[str, list[str]]
) -> dict[str, Any]:
    """Brings an InferenceService into the cluster, or leaves the cluster as it was.

    A step that is killed in between leaves an object whose deployment has not ended; the same call then takes it up.

    Args:
        client: A `KServeClient`.
        wanted: The object.
        settings: See the module.
        rows: What it must answer: see `check_answers`.

    Returns:
        `outcome` ("deployed", "unchanged", "rolled back", "stopped", "deleted", "failed"), `reason`, `timed_out`, the
        live object as `service` (None where there is none, or it can't be read), and the `facts` of `bring_up`.

    Raises:
        ValueError, PermissionError, RuntimeError: It was refused before anything was changed.
    """
    name, namespace = settings["model_name"], settings["namespace"]
    try:
        live = read_service(client, name, namespace)
        if live is not None and rows:
            check_way(live, settings)
        same = is_same(live, wanted)
        if same:
            how = "whose deployment goes on" if is_unfinished(live) else "nothing is changed, and it is asked again"
            print(f"{title(wanted)} is release {release_of(wanted)} already: {how}", flush=True)
        else:
            check_mode(rehearse(client, wanted, formers_after, settings["poll_seconds"]), settings)
            list_pods(wanted)
            wanted = send(client, wanted, formers_after, settings["poll_seconds"])
            print(f"{title(wanted)} has been {'replaced' if live else 'created'}; waiting for its pods", flush=True)
    except PermissionError as error:
        raise refuse_access(namespace, str(error)) from None
    begun = not same or is_unfinished(live)
    outcome, reason, timed_out, facts = "deployed" if begun else "unchanged", "", False, {}
    try:
        facts = bring_up(client, wanted, settings, rows, begun)
    except Exception as error:  # noqa: BLE001 whatever it is, the former one must come back
        timed_out = isinstance(error, TimeoutError)
        print(f"failed: {line_of(error)}", flush=True)
        outcome, sentence = undo(client, wanted, settings) if begun else ("failed", "nothing has been changed")
        reason = f"{line_of(error)}; {sentence}"
    try:
        live = read_service(client, name, namespace)
    except (RuntimeError, PermissionError, ValueError) as error:
        live, outcome, reason = None, "failed", reason or str(error)
    return {
        "outcome": outcome,
        "reason": reason,
        "timed_out": timed_out,
        "facts": facts,
        "service": live,
    }
