"""What the tests of the deployment share: an emulated cluster whose pods are real TorchServes, and who asks them.

Releases are named by a letter: "a" stands for the digest aaaaaaaaaaaaaaaa. What becomes of its pods, and which server
answers for them, the scene's cluster is told beforehand. Waits are short, and those of the code under test too.
"""

import contextlib
import copy
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from nlp_pipeline.components.deploy_model import ready_cluster
from nlp_pipeline.components.deploy_model_cluster import connect
from nlp_pipeline.components.deploy_model_object import formers_of, release_of, service_object
from nlp_pipeline.components.deploy_model_transaction import deploy_service
from tests.cluster.admission import admit
from tests.cluster.emulator import Cluster, Fate, Mode, emulated_cluster

Json = dict[str, Any]
NAME = "tiny"
HOSTS = {"Knative": "tiny.team.example.com", "Standard": "tiny-team.example.com"}
PARAMETERS: Json = {
    "namespace": "",
    "serving_runtime": "torchserve",
    "runtime_name": "",
    "model_store": "",
    "volume_claim": "data",
    "service_account": "",
    "deployment_mode": "",
    "min_replicas": 1,
    "max_replicas": 1,
    "scale_metric": "",
    "scale_target": 0,
    "serving_cpu": "1",
    "serving_memory": "2Gi",
    "serving_gpus": 0,
    "istio_sidecar": False,
    "canary_percent": 0,
    "canary_minutes": 0.005,
    "deploy_timeout": 30,
    "endpoint_rows": 6,
    "min_agreement": 0.97,
    "max_accuracy_drop": 0.01,
    "first_failure": "stop",
    "model_name": NAME,
    "run_id": "run",
}
# One for all: each new one reads the machine's certificates.
USER = httpx.Client(timeout=30, trust_env=False, verify=False)


class Killed(BaseException):
    """The step's pod is gone: nothing of its code runs any more."""


@dataclass
class Scene:
    """A cluster in which releases are deployed.

    Attributes:
        cluster: The cluster.
        mode: Its deployment mode.
        good: Address of a server that answers right.
        wrong: Address of one that answers wrongly.
        rows: What a deployed release is asked.
        flawed: Whether the server was meant to refuse some of what was sent.
    """

    cluster: Cluster
    mode: Mode
    good: str
    wrong: str
    rows: dict[str, list[str]]
    flawed: bool = False

    @property
    def host(self) -> str:
        """The host by which everyone asks."""
        return HOSTS[self.mode]

    @property
    def live(self) -> Json:
        """The InferenceService; no time passes."""
        return self.cluster.service(NAME)

    @property
    def is_there(self) -> bool:
        return ("inferenceservices", "team", NAME) in self.cluster._store.objects

    @property
    def sent(self) -> list[Json]:
        """What was sent to be kept."""
        return [body for _, dry_run, body in self.cluster.sent if not dry_run]

    def settings(self, **changed: Any) -> Json:
        """Returns the step's parameters with those that are changed."""
        short = {"poll_seconds": 0.01, "route_seconds": 2.0, "headers": {}, "labels": ["0", "4"]}
        return {**PARAMETERS, **short, "gateway": self.cluster.gateway_url, **changed}

    def deploy(self, letter: str, fate: Fate | None = None, **changed: Any) -> Json:
        """Deploys a release; its pods answer right where no fate is given them."""
        if fate:
            self.cluster.fates[letter * 16] = fate
        client, wanted, settings = self.wanted(letter, **changed)
        return deploy_service(client, wanted, settings, self.rows)

    def wanted(self, letter: str, **changed: Any) -> tuple[Any, Json, Json]:
        """Returns the client, the object of a release, and the settings, as `deploy_release` would have them."""
        self.cluster.fates.setdefault(letter * 16, Fate(backend=self.good))
        client, settings = ready_cluster(self.settings(**changed))
        record = {"digest": letter * 16, "labels": ["0", "4"], "metrics": {"accuracy": 1.0}, "model_name": NAME}
        uri = f"pvc://data/{NAME}/releases/{letter * 16}"
        return client, service_object(settings, record, uri, []), settings

    def fails(self, letter: str, kind: str, **changed: Any) -> Json:
        """Deploys a release that fails in a way of `FAILURES`."""
        fate = copy.deepcopy(FAILURES[kind])
        fate.backend = self.wrong if kind == "wrong" else self.good
        timeout = {"deploy_timeout": 0.3} if kind == "never ready" else {}
        return self.deploy(letter, fate, **timeout, **changed)

    def ask(self) -> int:
        """Asks by the host that everyone uses, and returns the status of the answer."""
        url = f"{self.cluster.gateway_url}/v1/models/{NAME}:predict"
        return USER.post(url, json={"instances": ["good"]}, headers={"Host": self.host}).status_code

    def shares(self, requests: int = 20) -> dict[str, int]:
        """Returns how many requests of so many each release answers, by its letter."""
        self.cluster.tick(NAME, 8)
        before = len(self.cluster.answered)
        assert {self.ask() for _ in range(requests)} == {200}
        return dict(Counter(release[:1] for _, release, _ in self.cluster.answered[before:]))

    @contextlib.contextmanager
    def users(self) -> Iterator[list[int]]:
        """Asks by the host that everyone uses all along, and gives the statuses of the answers."""
        statuses: list[int] = []
        over = threading.Event()

        def ask() -> None:
            while not over.wait(0.002):
                statuses.append(self.ask())

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield statuses
        finally:
            over.set()
            thread.join()

    def answered(self, since: int = 0) -> set[str]:
        """Returns the releases that answered by the host that everyone uses, by their letters."""
        return {release[:1] for host, release, status in self.cluster.answered[since:] if host == self.host}

    def formers(self) -> list[str]:
        """Returns the letters of the releases that are noted on the live object as the former ones."""
        return [release_of({"metadata": one})[:1] for one in formers_of(self.live)]

    def is_settled(self, letter: str) -> bool:
        """Tells whether a release is live, all requests go to it, and nothing is left of its deployment."""
        live = self.live
        return (
            release_of(live) == letter * 16
            and "canaryTrafficPercent" not in live["spec"]["predictor"]
            and self.shares() == {letter: 20}
        )


FAILURES = {
    "wrong": Fate(),
    "ModelLoadFailed": Fate(failure="ModelLoadFailed", message="no such file: model.onnx"),
    "InvalidSpec": Fate(failure="InvalidSpec", message="no such volume"),
    "never ready": Fate(failure="never ready"),
    "no way": Fate(unready_answers=10**9),
}


@contextlib.contextmanager
def set_up(mode: Mode, folder: Path, monkeypatch: pytest.MonkeyPatch, **values: Any) -> Iterator[Scene]:
    """Starts a cluster with a volume's claim in it, to which the environment's kubeconfig points."""
    with emulated_cluster(mode) as cluster:
        cluster.add({"kind": "PersistentVolumeClaim", "metadata": {"name": "data"}})
        cluster.write_kubeconfig(folder / "kubeconfig", cluster.namespace)
        monkeypatch.setenv("KUBECONFIG", str(folder / "kubeconfig"))
        monkeypatch.setenv("NO_PROXY", "*")
        scene = Scene(cluster, mode, **values)
        connect()
        yield scene
        for _, _, body in [] if scene.flawed else cluster.sent:
            admit(body, None, mode)


@contextlib.contextmanager
def killed(monkeypatch: pytest.MonkeyPatch, when: Callable[[], bool]) -> Iterator[None]:
    """Kills what runs inside, the next time it waits, once something is the case."""
    sleep = time.sleep

    def sleep_or_die(seconds: float) -> None:
        if threading.current_thread() is threading.main_thread() and when():
            raise Killed
        sleep(min(seconds, 0.02))

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(time, "sleep", sleep_or_die)
        yield


@contextlib.contextmanager
def meanwhile(monkeypatch: pytest.MonkeyPatch, when: Callable[[], bool], do: Callable[[], None]) -> Iterator[None]:
    """Does something once while what runs inside waits, as soon as something is the case."""
    sleep = time.sleep
    done: list[bool] = []

    def sleep_and_do(seconds: float) -> None:
        if threading.current_thread() is threading.main_thread() and not done and when():
            done.append(True)
            do()
        sleep(min(seconds, 0.02))

    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", sleep_and_do)
        yield
    assert done


def without_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Lets no time be waited, and returns the list of the seconds that were to be."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


def edit(scene: Scene, change: Callable[[Json], None]) -> None:
    """Changes the live InferenceService as `kubectl edit` does."""
    from kubernetes import client

    api, place = client.CustomObjectsApi(), ("serving.kserve.io", "v1beta1", "team", "inferenceservices", NAME)
    body = scene.live
    change(body)
    api.replace_namespaced_custom_object(*place, body)


def swap_labels(content: bytes) -> bytes:
    """Returns a release's serving.json with its two labels in the other order."""
    config = json.loads(content)
    assert config["labels"] == ["0", "4"]
    return json.dumps({**config, "labels": ["4", "0"]}).encode()
