"""The notice at a run's end: how it ended, in words and figures, to webhooks and as an Event of Kubernetes."""

import json
import os
import time
from typing import Any

from nlp_pipeline.errors import PipelineError
from nlp_pipeline.volume import GATE, STEP, Run

# The keys of the Secret are the names of the variables that the step reads: an address that takes the JSON of a notice,
# and an incoming webhook of Slack.
ADDRESSES = ("NOTIFY_URL", "NOTIFY_SLACK_URL")
FIGURES = ("accuracy", "release", "url")


def notify(run: Run, state: str, workflow: str) -> None:
    """Tells the webhooks and the namespace how a run ended; what can't be told is printed, and fails nothing.

    Args:
        run: The run.
        state: FAILED, or how KFP calls the run's end otherwise.
        workflow: The name of the run's Workflow.
    """
    notice = make_notice(run, state == "FAILED")
    print(notice["text"], flush=True)
    plain, slack = ADDRESSES
    ways = (post, plain, notice), (post, slack, {"text": notice["text"]}), (create_event, workflow, notice)
    for send, where, content in ways:
        try:
            send(where, content)
        except Exception as error:  # noqa: BLE001  whatever it is, the run has ended as it has
            # Other errors' messages may hold the address, which is secret.
            reason = error if isinstance(error, PipelineError) else f"{where}: {type(error).__name__}"
            print(f"note: the notice was not sent: {reason}", flush=True)


def make_notice(run: Run, has_failed: bool) -> dict[str, Any]:
    """Returns what is told of a run that has ended, by what its steps left in its folder.

    Returns:
        `outcome` ("succeeded", "gate not passed", "failed" or "rolled back"), `model_name`, `run_id`, `text` (a line);
        and where they are known, `step` and `reason` of a failure, `accuracy`, `release` and `url`.
    """
    step, gate, metrics, endpoint = (read(run, name) for name in (STEP, GATE, "metrics.json", "endpoint.json"))
    notice: dict[str, Any] = {"outcome": "succeeded", "model_name": run.model_name, "run_id": run.run_id}
    if metrics:
        notice["accuracy"] = round(metrics["accuracy"], 4)
    notice |= {name: endpoint[name] for name in FIGURES if name in endpoint}
    if has_failed:
        notice |= {"outcome": "failed", "step": step.get("step", "load_data"), "reason": step.get("reason", "")}
        if step.get("state") == "rolled back":
            notice["outcome"] = "rolled back"
        elif step.get("state") == "succeeded":
            notice |= {"step": f"what follows {step['step']}", "reason": "it did not begin"}
        notice["reason"] = notice["reason"] or "it left no word: its pod did not start, or was killed"
        words = f"{notice['step']} failed: {notice['reason']}"
    elif gate.get("passed") is False:
        notice |= {"outcome": "gate not passed", "reason": gate["reason"]}
        words = f"the gate is not passed: {gate['reason']}"
    else:
        words = ", ".join(["succeeded", *(f"{name} {notice[name]}" for name in FIGURES if name in notice)])
    return {**notice, "text": f"{run.model_name}: {words}"}


def read(run: Run, name: str) -> dict[str, Any]:
    """Returns the JSON of a file in the run's folder; an empty object where there is none."""
    file = run.folder / name if run.folder else None
    return json.loads(file.read_bytes()) if file and file.is_file() else {}


def post(variable: str, body: dict[str, Any]) -> None:
    """Posts JSON to the address that a variable holds, if it does; again where that is away for a moment."""
    import httpx

    from nlp_pipeline.storage import retrying, status_of

    @retrying()
    def send(url: str) -> None:
        httpx.post(url, json=body, timeout=30).raise_for_status()

    if url := os.environ.get(variable, "").strip():
        try:
            send(url)
        except httpx.HTTPError as error:
            raise PipelineError(f"{variable}: {status_of(error) or type(error).__name__}") from None


def create_event(workflow: str, notice: dict[str, Any]) -> None:
    """Creates an Event of the run's Workflow in the pod's namespace."""
    from nlp_pipeline.deploy import cluster

    cluster.connect()
    namespace, now = cluster.own_namespace(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    event = {
        "metadata": {"generateName": "nlp-pipeline-"},
        "involvedObject": {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Workflow",
            "name": workflow,
            "namespace": namespace,
        },
        "type": "Normal" if notice["outcome"] == "succeeded" else "Warning",
        "reason": notice["outcome"].title().replace(" ", ""),
        "message": notice["text"][:1024],
        "source": {"component": "nlp-pipeline"},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    cluster.call("creating an Event", cluster.api("CoreV1Api").create_namespaced_event, namespace, event)
