"""A Kubernetes cluster with KServe, emulated over HTTP, for the real clients of `kserve` and `kubernetes`.

    with emulated_cluster("Knative") as cluster:
        cluster.fates["1f3a"] = Fate(backend="http://127.0.0.1:8080")
        cluster.write_kubeconfig(path)
        KServeClient(config_file=path).create(...)

Time passes only when an InferenceService is read by name: one tick each.

    emulator.py     the cluster as tests see it; behaviour.py: what they may set
    api.py          what a request asks for, and who may; kinds.py: of what
    store.py        what is stored, and how it is read and written; selection.py: by what it is chosen
    admission.py    what is refused, what is added: the schemas, the webhooks
    controller.py   KServe's controller; status.py: what it tells; conditions.py: how Ready follows other conditions
    children.py     Knative Services with revisions and traffic, Deployments with rolling updates; pods.py: their pods
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
from tests.fakes.kubernetes.api import TOKEN, Api
from tests.fakes.kubernetes.behaviour import Behaviour, Fate
from tests.fakes.kubernetes.controller import Controller, now
from tests.fakes.kubernetes.gateway import Gateway
from tests.fakes.kubernetes.httpd import Answer, serving
from tests.fakes.kubernetes.kinds import KINDS, OF_CLUSTER, api_version
from tests.fakes.kubernetes.pods import uid
from tests.fakes.kubernetes.store import Store

__all__ = ["Cluster", "Fate", "emulated_cluster"]

Json = dict[str, Any]
Mode = Literal["Knative", "Standard"]
RUNTIMES = {"kserve-torchserve": "pytorch", "kserve-huggingfaceserver": "huggingface"}


class Cluster(Behaviour):
    """A cluster: what tests set beforehand (see `Behaviour`), and what they may ask afterwards.

    Args:
        mode: The default deployment mode.
        namespace: The one namespace there is, in which the account that asks is at home.

    Attributes:
        url: Address of the API server.
        gateway_url: Address of the ingress, which goes by the Host header.
        namespaces: The names of all namespaces, for tests to change.
        sent: Method, whether it was a dry run, and the object of each POST and PUT, refused ones too.
        answered: Host, release and status of each request that the ingress had a route for.
    """

    def __init__(self, mode: Mode, namespace: str) -> None:
        super().__init__()
        self.url = self.gateway_url = ""
        self.namespace, self._mode = namespace, mode
        self.answered: list[tuple[str, str, int]] = []
        self._lock = threading.RLock()
        self._controller = Controller(mode, self, self._find_runtime)
        self._store = Store(mode, namespace, self, self._controller)
        self._api = Api(namespace, self, self._store)
        self._gateway = Gateway(self._lock, self._controller, self.answered)
        self.namespaces, self.sent = self._store.namespaces, self._api.sent
        self.add({"kind": "ServiceAccount", "metadata": {"name": "default"}})
        self.add({"kind": "ServiceAccount", "metadata": {"name": "default-editor"}})
        for name, model_format in RUNTIMES.items():
            spec = {
                "supportedModelFormats": [{"name": model_format, "version": "1", "autoSelect": True}],
                "protocolVersions": ["v1", "v2"],
                "containers": [{"name": "kserve-container", "image": "example.com/predictor:1"}],
            }
            self.add({"kind": "ClusterServingRuntime", "metadata": {"name": name}, "spec": spec})

    def add(self, found: Json) -> Json:
        """Puts an object into the cluster unchecked, as someone else has long done.

        Args:
            found: With `kind` and `metadata.name` at least; the namespace defaults to the cluster's own.

        Returns:
            The object as it is stored.
        """
        plural = next(plural for plural, known in KINDS.items() if known[0] == found["kind"])
        whole = {"apiVersion": api_version(plural), **copy.deepcopy(found)}
        metadata = whole["metadata"]
        if plural not in OF_CLUSTER:
            metadata.setdefault("namespace", self.namespace)
        metadata |= {"uid": uid(f"{plural} {metadata}"), "creationTimestamp": now(), "generation": 1}
        if plural == "inferenceservices":
            whole = default(whole, self._mode)
        with self._lock:
            self._store.put(plural, whole)
            if plural == "inferenceservices":
                self._controller.changed(whole)
            return copy.deepcopy(whole)

    def remove(self, plural: str, name: str) -> None:
        """Takes an object out of the cluster, in the cluster's own namespace or in none."""
        with self._lock:
            found = self._store.objects.pop((plural, "" if plural in OF_CLUSTER else self.namespace, name))
            if plural == "inferenceservices":
                self._controller.deleted(found)

    def service(self, name: str) -> Json:
        """Returns an InferenceService as it is stored; no time passes."""
        return self.tick(name, 0)

    def tick(self, name: str, times: int = 1) -> Json:
        """Lets time pass for an InferenceService, and returns it."""
        with self._lock:
            service = self._store.find("inferenceservices", self.namespace, name)
            for _ in range(times):
                self._store.tick(service)
            return copy.deepcopy(service)

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

    def _answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        token = {name.lower(): value for name, value in headers.items()}.get("authorization", "")
        with self._lock:
            status, told = self._api.answer(method, target, token, body)
            content = told if isinstance(told, str) else json.dumps(told)
        kind = "text/plain; charset=utf-8" if isinstance(told, str) else "application/json"
        return status, {"Content-Type": kind}, content.encode()

    def _find_runtime(self, namespace: str, name: str) -> tuple[bool, Json] | None:
        for plural, where in (("servingruntimes", namespace), ("clusterservingruntimes", "")):
            found = self._store.objects.get((plural, where, name))
            if found:
                return not where, found["spec"]
        return None


@contextlib.contextmanager
def emulated_cluster(mode: Mode = "Knative", namespace: str = "team") -> Iterator[Cluster]:
    """Starts the API server and the ingress of a cluster, and ends both.

    Args:
        mode: The cluster's default deployment mode.
        namespace: Its one namespace.

    Yields:
        The cluster.
    """
    cluster = Cluster(mode, namespace)
    with serving(cluster._answer) as cluster.url, serving(cluster._gateway.answer) as cluster.gateway_url:
        yield cluster
