"""What the cluster has of a run, by the kubeconfig or the pod's own account: its Argo Workflow, its pods, their events.

KFP's API does not say why a step does not go on, and reports no steps any more once Argo has compressed the Workflow.
"""

import base64
import gzip
import json
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nlp_pipeline.deploy.cluster import api, connect, one_line
from nlp_pipeline.errors import UsageError
from nlp_pipeline.platforms.waiting import LOG_LINES

# A Workflow may have a megabyte: it is read only so often, or when the API has news.
READ_SECONDS = 20.0
TIMEOUT = 5
# For so long the API may still call a run RUNNING whose Workflow has ended, or is gone.
LAG_SECONDS = 60.0
ENDED = ("Succeeded", "Failed", "Error")
# What KFP calls in another way; steps that follow on a failure are omitted, and have no state.
STATES = {"Error": "FAILED", "Omitted": ""}
# Of what has not started or ended; KFP's API says so too.
NEVER = "1970-01-01T00:00:00Z"
# What each container waits for before it starts.
STARTING = ("", "PodInitializing", "ContainerCreating")
# Each attempt is a node below the one that is tried again.
ATTEMPT = re.compile(r"\(\d+\)$")
OUTGROWN = "the workflow has outgrown what Kubeflow's API reports of it: its steps are read from the cluster"


@dataclass
class Node:
    """A node of the Workflow, with what the API's task details have too."""

    id: str
    display_name: str
    step: str  # that it belongs to, as Argo names it
    pod: str  # empty where it has none of its own
    state: str
    message: str
    start_time: datetime
    end_time: datetime


def read_node(workflow: str, node: dict[str, Any]) -> Node:
    """Reads a node; its name is a path, as in nlp-pipeline-x7k2f(0).root(0).train-model(0).executor(0)."""
    path = [ATTEMPT.sub("", part) for part in node["name"].split(".")]
    is_pod = node["type"] == "Pod"
    return Node(
        id=node["id"],
        display_name=node["displayName"],
        step=path[-2] if path[-1] == "executor" else path[-1].removesuffix("-driver"),
        pod=f"{workflow}-{node.get('templateName')}-{node['id'].rpartition('-')[2]}" if is_pod else "",
        state=STATES.get(node["phase"], node["phase"].upper()),
        message=one_line(node.get("message", "")),
        start_time=datetime.fromisoformat(node.get("startedAt") or NEVER),
        end_time=datetime.fromisoformat(node.get("finishedAt") or NEVER),
    )


class Workflow:
    """A run's Workflow, as it was when it was last read.

    Attributes:
        name: Its name; empty while it has never been seen, as in the cluster of another Kubeflow.
        nodes: Its nodes, in the order in which they started.
        hold_ups: Why steps do not go on, as far as it is known: their pods wait, or were lost and are started again.
        notes: What is to be said of the reading.
    """

    def __init__(self, run_id: str, namespace: str) -> None:
        self.run_id, self.namespace = run_id, namespace
        self.name = self._message = self._over = ""
        self.nodes: list[Node] = []
        self.hold_ups: dict[str, str] = {}
        self.notes: list[str] = []
        self._over_since = self._read_at = 0.0
        self._news: Any = None
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # it warns of each attempt to reach a cluster
        try:
            connect()
            self._is_reachable = True
        except UsageError:  # there is none, and none is needed
            self._is_reachable = False

    def read(self, news: Any) -> None:
        """Reads the Workflow, where it is time to, or the API has news, which are anything that can be compared."""
        now = time.monotonic()
        if not self._is_reachable or (self._read_at and news == self._news and now - self._read_at < READ_SECONDS):
            return
        self._news, self._read_at = news, now
        listing = api("CustomObjectsApi").list_namespaced_custom_object
        answer = self._ask(listing, "argoproj.io", "v1alpha1", self.namespace, "workflows")
        if answer is None:
            return
        over = f"its workflow {self.name} is gone from namespace {self.namespace}" if self.name else ""
        for item in answer["items"]:
            over = self._take(item)
        self.hold_ups = {} if over else self._find_hold_ups()
        if not over or not self._over:
            self._over_since = now
        self._over = over

    def _take(self, item: dict[str, Any]) -> str:
        """Takes over what a Workflow says; returns how it ended, if it has."""
        self.name, status = item["metadata"]["name"], item.get("status", {})
        nodes = status.get("nodes") or {}
        if compressed := status.get("compressedNodes"):
            nodes = json.loads(gzip.decompress(base64.b64decode(compressed)))
            self.notes = [OUTGROWN]
        self.nodes = [read_node(self.name, node) for node in nodes.values()]
        self.nodes.sort(key=lambda node: (node.start_time, node.display_name))
        phase, self._message = status.get("phase", ""), one_line(status.get("message", ""))
        return f"its workflow {self.name} has ended ({phase})" if phase in ENDED else ""

    def _ask(self, method: Callable[..., Any], *values: Any, **options: Any) -> Any:
        """Calls a method of a client of `kubernetes`, of this run's objects unless others are chosen, without patience.

        Returns None where it fails; a cluster that never answered, or refuses, is not asked again.
        """
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        options = options or {"label_selector": f"pipeline/runid={self.run_id}"}
        try:
            return method(*values, _request_timeout=TIMEOUT, **options)
        except (ApiException, HTTPError) as error:
            if not self.name:
                self._is_reachable = False
                why = one_line(getattr(error, "reason", None) or error)
                self.notes = [f"the kubeconfig's cluster does not say what holds a step up: {why}"]
            return None

    def lost(self) -> str:
        """Returns what has become of a run that the API still says goes on; empty where it does."""
        has_ended = self._over and time.monotonic() - self._over_since > LAG_SECONDS
        return self._over if has_ended else ""

    def pods_of(self, step: str) -> list[str]:
        """Returns the names of a step's pods, that of the last attempt first."""
        return [node.pod for node in reversed(self.nodes) if node.step == step and node.pod]

    def errors(self) -> dict[str, str]:
        """Returns what Argo says of the last pods that failed, by their steps; of the whole by an empty name."""
        failed = {node.step: node.message for node in self.nodes if node.pod and node.state == "FAILED"}
        return {"": failed.get("root", self._message), **failed}

    def _find_hold_ups(self) -> dict[str, str]:
        last = {node.step: node for node in self.nodes if node.pod}
        going = {(node.step, node.display_name) for node in self.nodes if node.state == "RUNNING"}

        def is_held(node: Node) -> bool:
            is_tried_again = (node.step, ATTEMPT.sub("", node.display_name)) in going
            return node.state == "PENDING" or (node.state == "FAILED" and is_tried_again)

        reasons = {node.step: node.message for node in last.values() if is_held(node)}
        starting = {last[step].id: step for step, message in reasons.items() if message in STARTING}
        # Argo looks neither at a pod's init containers nor at its events.
        answer = self._ask(api("CoreV1Api").list_namespaced_pod, self.namespace) if starting else None
        for pod in answer.items if answer else []:
            if step := starting.get((pod.metadata.annotations or {}).get("workflows.argoproj.io/node-id", "")):
                reasons[step] = self._reason(pod)
        return {step: reason for step, reason in reasons.items() if reason not in STARTING}

    def _reason(self, pod: Any) -> str:
        """Returns why a pod does not start, as its containers or the last warning of its events say."""
        status = pod.status
        for container in [*(status.init_container_statuses or []), *(status.container_statuses or [])]:
            waiting = container.state and container.state.waiting
            if waiting and waiting.reason not in (None, *STARTING):
                return one_line(f"{waiting.reason}: {waiting.message or ''}").rstrip(": ")
        selector = f"involvedObject.name={pod.metadata.name},type=Warning"
        answer = self._ask(api("CoreV1Api").list_namespaced_event, self.namespace, field_selector=selector)
        events = [f"{event.reason}: {one_line(event.message)}" for event in (answer.items if answer else [])]
        return events[-1] if events else one_line(status.message or "")

    def end_of_log(self, pods: list[str]) -> str:
        """Returns the last lines that a step's pod printed, the first of these that is still there."""
        read = api("CoreV1Api").read_namespaced_pod_log
        for pod in pods if self.name else []:
            if text := self._ask(read, pod, self.namespace, container="main", tail_lines=LOG_LINES):
                return str(text).rstrip()
        return ""
