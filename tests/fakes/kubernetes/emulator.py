"""A Kubernetes cluster with KServe, emulated over HTTP, for the real clients of `kserve` and `kubernetes`.

    with emulated_cluster("Knative") as cluster:
        cluster.fates["1f3a"] = Fate(backend=answer)
        cluster.write_kubeconfig(path)
        KServeClient(config_file=path).create(...)

Time passes only when an InferenceService is read by name: one tick each. It behaves as a real one was seen to, or as
the sources say; what no test needs it does not know.

    api.py          requests, rights, what is stored, and what tests may set; admission.py: what is refused and added
    kserve.py       what is made of an InferenceService: revisions or ReplicaSets with their pods, routes, its status
"""

import contextlib
import copy
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from tests.fakes.httpd import Host, Request, Response
from tests.fakes.kubernetes.admission import default
from tests.fakes.kubernetes.api import KINDS, TOKEN, Api
from tests.fakes.kubernetes.kserve import Fate, Revision

__all__ = ["Cluster", "Fate", "emulated_cluster"]

Json = dict[str, Any]
PROXY = re.compile(r"/api/v1/namespaces/[^/]+/services/([^/]+):80/proxy(/.*)")
Mode = Literal["Knative", "Standard"]


class Cluster(Api):
    """A cluster: what tests set beforehand (see `Api`), and what they may ask afterwards."""

    def __init__(self, mode: Mode, namespace: str) -> None:
        super().__init__(mode, namespace, user=f"system:serviceaccount:{namespace}:default-editor")
        self.url = self.gateway_url = ""  # the API server's, and the ingress', which goes by the Host header
        self.answered: list[tuple[str, str, int]] = []  # host, release and status of what the ingress had a route for
        self.watchers: list[Callable[[], None]] = []  # called after each request to the API server
        self._lock = threading.RLock()
        self._credits: dict[tuple[str, ...], list[int]] = {}
        for kind, name in (
            ("ServiceAccount", "default"),
            ("ServiceAccount", "default-editor"),
            ("ClusterServingRuntime", "kserve-torchserve"),
            ("ClusterServingRuntime", "kserve-huggingfaceserver"),
        ):
            self.add({"kind": kind, "metadata": {"name": name}})

    def add(self, item: Json) -> None:
        """Puts an object, with `kind` and `metadata.name` at least, into the cluster unchecked, as someone else."""
        plural = next(plural for plural, known in KINDS.items() if known[0] == item["kind"])
        _, group, version = KINDS[plural]
        whole = {"apiVersion": f"{group}/{version}".lstrip("/"), **copy.deepcopy(item)}
        if plural != "nodes" and not plural.startswith("cluster"):
            whole["metadata"].setdefault("namespace", self.namespace)
        with self._lock:
            if plural == "inferenceservices":
                whole = default(whole, self.mode)
                whole["metadata"] |= {"uid": "of someone else", "generation": 1}
                self.changed(whole)
            self.put(plural, whole)

    def remove(self, plural: str, name: str) -> None:
        """Takes an object out of the cluster, in the cluster's own namespace or in none."""
        with self._lock:
            item = self.objects.pop((plural, "" if plural.startswith("cluster") else self.namespace, name))
            self.worlds.pop(item["metadata"].get("uid", ""), None)

    def has(self, name: str) -> bool:
        """Says whether there is an InferenceService."""
        return ("inferenceservices", self.namespace, name) in self.objects

    def after(self, name: str, ticks: int = 0) -> Json:
        """Lets time pass for an InferenceService, and returns it."""
        with self._lock:
            for _ in range(ticks):
                self.tick(self.find("inferenceservices", self.namespace, name))
            return copy.deepcopy(self.find("inferenceservices", self.namespace, name))

    def deny(self, verb: str, plural: str) -> None:
        """Takes a permission away from the account that asks, as in `deny("create", "inferenceservices")`."""
        self.denied.add((verb, plural))

    def write_kubeconfig(self, path: Path | str, namespace: str | None = None) -> None:
        """Writes what the real clients read to find this cluster; without a namespace the context names none."""
        context = {"cluster": "emulated", "user": "default-editor", **({"namespace": namespace} if namespace else {})}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "emulated",
            "clusters": [{"name": "emulated", "cluster": {"server": self.url}}],
            "users": [{"name": "default-editor", "user": {"token": TOKEN}}],
            "contexts": [{"name": "emulated", "context": context}],
        }
        Path(path).write_text(json.dumps(config))

    def answer_api(self, request: Request) -> Response:
        """Answers a request to the API server, which hands those to a Service's proxy on."""
        if proxied := PROXY.fullmatch(request.target):
            return self._answer_proxy(request, *proxied.groups())
        with self._lock:
            token = request.headers.get("authorization", "")
            status, answer = self.answer(request.method, request.target, token, request.body)
            text = answer if isinstance(answer, str) else json.dumps(answer)
        for watch in list(self.watchers):
            watch()
        return Response(status, text, [("Content-Type", "text/plain" if text is answer else "application/json")])

    def _answer_proxy(self, request: Request, name: str, path: str) -> Response:
        """Answers as the API server does for a Service of a predictor, or of what runs beside it."""
        with self._lock:
            if ("create", "services/proxy") in self.denied:
                return Response(403, json.dumps({"kind": "Status", "message": "services is forbidden"}))
            running = [one for world in self.worlds.values() for one in world.running() if one.app == f"isvc.{name}"]
            ready = [one for one in running if one.ready]
        if not ready:
            status = {"kind": "Status", "message": f'no endpoints available for service "{name}"'}
            return Response(503 if running else 404, json.dumps(status))
        return self._answer_pod(ready[0], name, Request("POST", path, {}, request.body))

    def answer_ingress(self, request: Request) -> Response:
        """Answers a prediction as an Istio gateway does; a 404 with an empty body where there is no route."""
        host = request.headers.get("host", "").partition(":")[0]
        with self._lock:
            revision = self._choose(host)
        return Response(404) if revision is None else self._answer_pod(revision, host, request)

    def _answer_pod(self, revision: Revision, host: str, request: Request) -> Response:
        with self._lock:
            refused = revision.refused < revision.fate.unready_answers
            revision.refused += refused
        backend = revision.fate.backend
        response = Response(revision.fate.unready_status if refused else 503)
        if backend and not refused:
            response = backend(request)
        self.answered.append((host, revision.release, response.status))
        return response

    def _choose(self, host: str) -> Revision | None:
        """Chooses in turn, so that of each hundred requests exactly as many as desired go where they should."""
        targets = next((routed for world in self.worlds.values() if (routed := world.routes().get(host))), None)
        if targets is None:
            return None
        key = (host, *(f"{revision.name} {percent}" for revision, percent in targets))
        credit = self._credits.setdefault(key, [0] * len(targets))
        for at, (_, percent) in enumerate(targets):
            credit[at] += percent
        chosen = credit.index(max(credit))
        credit[chosen] -= sum(percent for _, percent in targets)
        return targets[chosen][0]


@contextlib.contextmanager
def emulated_cluster(mode: Mode = "Knative", namespace: str = "team") -> Iterator[Cluster]:
    """Starts the API server and the ingress of a cluster with one namespace, and ends both."""
    cluster = Cluster(mode, namespace)
    api, ingress = Host(cluster.answer_api), Host(cluster.answer_ingress)
    api.start()
    ingress.start()
    cluster.url, cluster.gateway_url = api.url, ingress.url
    try:
        yield cluster
    finally:
        api.stop()
        ingress.stop()
    assert not api.broken + ingress.broken
