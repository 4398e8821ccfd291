"""What the tests of the deployment share: an emulated cluster, the servers behind its pods, and who asks them.

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
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import httpx
import pytest

from nlp_pipeline.deploy import cluster as calls
from nlp_pipeline.deploy.deployment import prepare
from nlp_pipeline.deploy.inference_service import InferenceService
from nlp_pipeline.deploy.settings import DeploySettings, Target
from nlp_pipeline.deploy.transaction import Outcome, deploy
from nlp_pipeline.release import Release, seal
from nlp_pipeline.volume import Run
from tests.fakes.kubernetes.admission import admit
from tests.fakes.kubernetes.emulator import Cluster, Fate, Mode, emulated_cluster
from tests.fakes.kubernetes.httpd import Answer

Json = dict[str, Any]
NAME = "tiny"
STOP = "serving.kserve.io/stop"
LABELS = ["0", "4"]
HOSTS = {"Knative": "tiny.team.example.com", "Standard": "tiny-team.example.com"}
ROWS = {"text": ["good", "bad"] * 3, "label": ["4", "0"] * 3, "predicted": ["4", "0"] * 3}
DEFAULTS: Json = {"volume_claim": "data", "canary_minutes": 0.005, "deploy_timeout": 30}


def answering(right: bool) -> Callable[[str, str, dict[str, str], bytes], Answer]:
    """Returns how a model server answers: "4" where a text is good, or the other way round."""

    def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        found = [{"label": LABELS[("good" in text) == right], "score": 0.75} for text in json.loads(body)["instances"]]
        return 200, {"Content-Type": "application/json"}, json.dumps({"predictions": found}).encode()

    return answer


# One for all: each new one reads the machine's certificates.
USER = httpx.Client(timeout=30, trust_env=False, verify=False)


class Killed(BaseException):
    """The step's pod is gone: nothing of its code runs any more."""


def make_release(folder: Path, content: str = "a", **record: Any) -> Path:
    """Makes a release of the model `tiny`, and returns its folder."""
    texts = {"model-store/tiny.mar": content, "huggingface/tokenizer.json": '{"normalizer": {"type": "Lowercase"}}'}
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    whole = {"labels": LABELS, "metrics": {"accuracy": 0.9}, "parameters": {"max_length": 32}, "run_id": "run-1"}
    seal(folder, Release(model_name=NAME, **{**whole, **record}))
    return folder


@dataclass
class Scene:
    """A cluster in which releases are deployed.

    Attributes:
        cluster: The cluster.
        mode: Its deployment mode.
        good: Address of a server that answers right.
        wrong: Address of one that answers wrongly.
        flawed: Whether the server was meant to refuse some of what was sent.
    """

    cluster: Cluster
    mode: Mode
    good: str
    wrong: str
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
    def service(self) -> InferenceService:
        """The same, as the code under test has it."""
        return InferenceService(self.live)

    @property
    def is_there(self) -> bool:
        return self.cluster.has(NAME)

    @property
    def sent(self) -> list[Json]:
        """What was sent to be kept."""
        return [body for _, dry_run, body in self.cluster.sent if not dry_run]

    def target(self, **changed: Any) -> Target:
        """Returns where a release is deployed, with settings or attributes of the target that are changed."""
        own = {item.name for item in fields(Target)}
        settings = {key: value for key, value in changed.items() if key not in (*own, "run_id", "model_name")}
        short = {"poll_seconds": 0.01, "route_seconds": 30.0, "labels": LABELS}
        return Target(
            settings=DeploySettings(**{**DEFAULTS, "gateway": self.cluster.gateway_url, **settings}),
            run=Run(model_name=changed.get("model_name", NAME), run_id=changed.get("run_id", "run"), volume_path=""),
            **{**short, **{key: value for key, value in changed.items() if key in own}},
        )

    def deploy(self, letter: str, fate: Fate | None = None, **changed: Any) -> Outcome:
        """Deploys a release; its pods answer right where no fate is given them."""
        if fate:
            self.cluster.fates[letter * 16] = fate
        return deploy(*self.wanted(letter, **changed), ROWS)

    def wanted(self, letter: str, **changed: Any) -> tuple[InferenceService, Target]:
        """Returns the object of a release, and the target, as `prepare` would have them."""
        self.cluster.fates.setdefault(letter * 16, Fate(backend=self.good))
        release = Release(digest=letter * 16, labels=LABELS, metrics={"accuracy": 1.0}, model_name=NAME)
        return prepare(release, None, self.target(**changed))

    def fails(self, letter: str, kind: str, **changed: Any) -> Outcome:
        """Deploys a release that fails in a way of `FAILURES`."""
        fate = copy.deepcopy(FAILURES[kind])
        fate.backend = self.wrong if kind == "wrong" else self.good
        timeout = {"deploy_timeout": 1} if kind == "never ready" else {}
        return self.deploy(letter, fate, **timeout, **changed)

    def ask(self) -> int:
        """Asks by the host that everyone uses, and returns the status of the answer."""
        url = f"{self.cluster.gateway_url}/v1/models/{NAME}:predict"
        return USER.post(url, json={"instances": ["good"]}, headers={"Host": self.host}).status_code

    def shares(self, requests: int = 20) -> dict[str, int]:
        """Returns how many requests of so many each release answers, by its letter."""
        self.cluster.after(NAME, 8)
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
        return [one.restore(NAME, "team").release[:1] for one in self.service.formers]

    def is_settled(self, letter: str) -> bool:
        """Tells whether a release is live, all requests go to it, and nothing is left of its deployment."""
        live = self.service
        return (
            live.release == letter * 16
            and "canaryTrafficPercent" not in live.predictor
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
def set_up(mode: Mode, folder: Path, monkeypatch: pytest.MonkeyPatch, good: str, wrong: str) -> Iterator[Scene]:
    """Starts a cluster with a volume's claim in it, to which the environment's kubeconfig points."""
    with emulated_cluster(mode) as cluster:
        cluster.add({"kind": "PersistentVolumeClaim", "metadata": {"name": "data"}})
        cluster.write_kubeconfig(folder / "kubeconfig", cluster.namespace)
        monkeypatch.setenv("KUBECONFIG", str(folder / "kubeconfig"))
        monkeypatch.setenv("NO_PROXY", "*")
        scene = Scene(cluster, mode, good, wrong)
        calls.connect()
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
