"""Deploying as a transaction: either the new release serves, or what served before does.

Hermetic helpers, inlined into the step as `additional_funcs`; for `settings` see deploy_model_rollout.py.
"""

from typing import Any

from nlp_pipeline.components.deploy_model_cluster import call, read_service
from nlp_pipeline.components.deploy_model_object import (
    formers_after,
    formers_of,
    is_same,
    is_stopped,
    is_unfinished,
    mark_of,
    mode_of,
    release_of,
    restored,
)
from nlp_pipeline.components.deploy_model_rollout import (
    ask_rows,
    check_answers,
    read_own,
    rehearse,
    send,
    set_share,
    title,
    typed,
    wait_for_share,
    wait_until_ready,
    watch_canary,
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
        formers: What it can go back to itself.
        settings: See the module.

    Returns:
        What was done, a sentence's end.

    Raises:
        RuntimeError, TimeoutError, ConnectionError, ValueError, PermissionError: It does not serve.
    """
    wanted = restored(former, settings["model_name"], settings["namespace"])
    send(client, wanted, lambda live: formers, settings["poll_seconds"])
    name = f"the former release {release_of(wanted)}" if release_of(wanted) else "what stood there before"
    if is_stopped(wanted) or not former["ready"]:
        set_share(client, wanted, None, settings["poll_seconds"])
        return f"{name} has been put back; it was not ready before either"
    wait_until_ready(client, wanted, settings)
    set_share(client, wanted, None, settings["poll_seconds"])
    service = wait_for_share(client, wanted, 100, settings)
    if release_of(wanted):
        ask_rows(service, False, {**settings, "labels": []}, ["a text"])
    return f"{name} has been put back and serves"


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
        if mark_of(live, "applied") != mark_of(wanted, "applied"):
            return "failed", "the other one is left as it is"
        formers = formers_of(live)
        if formers:
            return "rolled back", put_back(client, formers[0], formers[1:], settings)
        if settings["first_failure"] == "delete":
            call(f"deleting {title(wanted)}", client.delete, name, namespace, expected=(404,))
            return "deleted", "there was none before, and it has been deleted (first_failure=delete)"
        stop_service(client, live, settings["poll_seconds"])
        return "stopped", "there was none before, and it has been stopped: the object is there, without pods"
    except (RuntimeError, TimeoutError, ConnectionError, ValueError, PermissionError) as error:
        return "failed", f"and it could not be undone: {error}"


def stop_service(client: Any, live: dict[str, Any], poll_seconds: float) -> None:
    """Stops an InferenceService: the object stays, its pods go.

    Raises:
        RuntimeError: It is not the live one any more, or there were conflicts for two minutes.
    """
    import time

    until = time.monotonic() + 120
    while time.monotonic() < until:
        live = read_own(client, live)
        metadata = live["metadata"]
        metadata["annotations"]["serving.kserve.io/stop"] = "true"
        doing = f"stopping {title(live)}"
        if call(doing, client.replace, metadata["name"], typed(live), metadata["namespace"], expected=(409,)) != 409:
            return
        time.sleep(min(poll_seconds, 0.5))
    raise RuntimeError(f"{title(live)} could not be stopped for two minutes: something else keeps changing it")


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
    seconds = time.monotonic() - began
    print(f"ready after {seconds:.1f} s", flush=True)
    facts = {"seconds_to_ready": seconds, **check_answers(service, begun, settings, rows)}
    if begun:
        if settings["canary_percent"] and formers_of(service):
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
        live object as `service` (None where there is none), and the `facts` of `bring_up`.

    Raises:
        ValueError, PermissionError, RuntimeError: It was refused before anything was changed.
    """
    name, namespace = settings["model_name"], settings["namespace"]
    live = read_service(client, name, namespace)
    same = is_same(live, wanted)
    if same:
        how = "whose deployment goes on" if is_unfinished(live) else "nothing is changed, and it is asked again"
        print(f"{title(wanted)} is release {release_of(wanted)} already: {how}", flush=True)
    else:
        check_mode(rehearse(client, wanted, formers_after, settings["poll_seconds"]), settings)
        send(client, wanted, formers_after, settings["poll_seconds"])
        print(f"{title(wanted)} has been {'replaced' if live else 'created'}; waiting for its pods", flush=True)
    begun = not same or is_unfinished(live)
    outcome, reason, timed_out, facts = "deployed" if begun else "unchanged", "", False, {}
    try:
        facts = bring_up(client, wanted, settings, rows, begun)
    except (RuntimeError, TimeoutError, ConnectionError, ValueError, PermissionError) as error:
        timed_out = isinstance(error, TimeoutError)
        print(f"failed: {error}", flush=True)
        outcome, sentence = undo(client, wanted, settings) if begun else ("failed", "nothing has been changed")
        reason = f"{error}; {sentence}"
    return {
        "outcome": outcome,
        "reason": reason,
        "timed_out": timed_out,
        "facts": facts,
        "service": read_service(client, name, namespace),
    }


HELPERS = [
    check_mode,
    put_back,
    undo,
    stop_service,
    bring_up,
    deploy_service,
]
