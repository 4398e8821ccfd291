"""A Kubernetes cluster with KServe, emulated over HTTP, for the real clients of `kserve` and `kubernetes`.

    with emulated_cluster("Knative") as cluster:
        cluster.fates["1f3a"] = Fate(backend="http://127.0.0.1:8080")
        cluster.write_kubeconfig(path)
        KServeClient(config_file=path).create(...)

Time passes only when an InferenceService is read by name: one tick each. It behaves as a real one was seen to, or as
the sources say; what no test needs it does not know.

    api.py          requests, rights, what is stored, and what tests may set; admission.py: what is refused and added
    kserve.py       what is made of an InferenceService: revisions or ReplicaSets with their pods, routes, its status
    gateway.py      predictions, by host name, to the real servers; httpd.py: servers on free ports
"""

import contextlib
import copy
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from tests.fakes.kubernetes.admission import default
from tests.fakes.kubernetes.api import KINDS, TOKEN, Api
from tests.fakes.kubernetes.gateway import Gateway
from tests.fakes.kubernetes.httpd import Answer, serving
from tests.fakes.kubernetes.kserve import Fate

__all__ = ["Cluster", "Fate", "emulated_cluster"]

Json = dict[str, Any]
Mode = Literal["Knative", "Standard"]


class Cluster(Api):
    """A cluster: what tests set beforehand (see `Api`), and what they may ask afterwards.

    Attributes:
        url: Address of the API server.
        gateway_url: Address of the ingress, which goes by the Host header.
        answered: Host, release and status of each request that the ingress had a route for.
    """

    def __init__(self, mode: Mode, namespace: str) -> None:
        super().__init__(mode, namespace, user=f"system:serviceaccount:{namespace}:default-editor")
        self.url = self.gateway_url = ""
        self.answered: list[tuple[str, str, int]] = []
        self._lock = threading.RLock()
        self.gateway = Gateway(self._lock, lambda: self.worlds.values(), self.answered)
        for kind, name in (
            ("ServiceAccount", "default"),
            ("ServiceAccount", "default-editor"),
            ("ClusterServingRuntime", "kserve-torchserve"),
            ("ClusterServingRuntime", "kserve-huggingfaceserver"),
        ):
            self.add({"kind": kind, "metadata": {"name": name}})

    def add(self, found: Json) -> None:
        """Puts an object into the cluster unchecked, as someone else has long done.

        Args:
            found: With `kind` and `metadata.name` at least; the namespace defaults to the cluster's own.
        """
        plural = next(plural for plural, known in KINDS.items() if known[0] == found["kind"])
        _, group, version = KINDS[plural]
        whole = {"apiVersion": f"{group}/{version}".lstrip("/"), **copy.deepcopy(found)}
        if not plural.startswith("cluster"):
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
            found = self.objects.pop((plural, "" if plural.startswith("cluster") else self.namespace, name))
            self.worlds.pop(found["metadata"].get("uid", ""), None)

    def has(self, name: str) -> bool:
        """Tells whether there is an InferenceService."""
        return ("inferenceservices", self.namespace, name) in self.objects

    def service(self, name: str) -> Json:
        """Returns an InferenceService as it is stored; no time passes."""
        return self.after(name, 0)

    def after(self, name: str, ticks: int) -> Json:
        """Lets time pass for an InferenceService, and returns it."""
        with self._lock:
            for _ in range(ticks):
                self.tick(self.find("inferenceservices", self.namespace, name))
            return copy.deepcopy(self.find("inferenceservices", self.namespace, name))

    def deny(self, verb: str, plural: str) -> None:
        """Takes a permission away from the account that asks, as in `deny("create", "inferenceservices")`."""
        self.denied.add((verb, plural))

    def write_kubeconfig(self, path: Path | str, namespace: str | None = None) -> None:
        """Writes what the real clients read to find this cluster.

        Args:
            path: Of the file.
            namespace: Of the context; None for a context that names none.
        """
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

    def answer_http(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        """Answers a request to the API server."""
        with self._lock:
            status, said = self.answer(method, target, headers.get("authorization", ""), body)
            content = said if isinstance(said, str) else json.dumps(said)
        return status, {"Content-Type": "text/plain" if isinstance(said, str) else "application/json"}, content.encode()


@contextlib.contextmanager
def emulated_cluster(mode: Mode = "Knative", namespace: str = "team") -> Iterator[Cluster]:
    """Starts the API server and the ingress of a cluster, and ends both.

    Args:
        mode: The cluster's default deployment mode.
        namespace: Its one namespace.
    """
    cluster = Cluster(mode, namespace)
    with serving(cluster.answer_http) as cluster.url, serving(cluster.gateway.answer) as cluster.gateway_url:
        yield cluster
