"""What the tests of the deployment share: an emulated cluster, what answers for its pods, who asks, and the time.

Releases are named by a letter: "a" stands for the digest aaaaaaaaaaaaaaaa. What becomes of its pods, and what answers
for them, the scene's cluster is told beforehand.
"""

import contextlib
import copy
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.deploy import cluster as calls
from nlp_pipeline.deploy.deployment import prepare
from nlp_pipeline.deploy.inference_service import InferenceService
from nlp_pipeline.deploy.service_proxy import ServiceProxy
from nlp_pipeline.deploy.settings import DeploySettings, Target
from nlp_pipeline.deploy.transaction import Outcome, deploy
from nlp_pipeline.release import Release, seal
from nlp_pipeline.volume import Run
from tests.fakes.httpd import Request, Response
from tests.fakes.kubernetes.admission import admit
from tests.fakes.kubernetes.emulator import Cluster, Fate, Mode, emulated_cluster

Json = dict[str, Any]
NAME = "tiny"
STOP = "serving.kserve.io/stop"
LABELS = ["0", "4"]
HOSTS = {"Knative": "tiny.team.example.com", "Standard": "tiny-team.example.com"}
ROWS = {"text": ["superb", "awful"] * 3, "label": ["4", "0"] * 3, "predicted": ["4", "0"] * 3}


def predict(request: Request) -> Response:
    """Answers as the archive does: "4" where a text is superb."""
    return _answer(request, LABELS)


def predict_wrongly(request: Request) -> Response:
    """Gives each label for the other one."""
    return _answer(request, LABELS[::-1])


def _answer(request: Request, labels: list[str]) -> Response:
    texts = [str(text) for text in json.loads(request.body)["instances"]]
    predictions = [{"label": labels["superb" in text], "score": 0.75} for text in texts]
    return Response(200, json.dumps({"predictions": predictions}), [("Content-Type", "application/json")])


class Clock:
    """Waits are over at once, and deadlines come as if they had lasted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waits: list[float] = []  # the seconds of each
        self.before_wait: Callable[[], None] | None = None
        monotonic = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: monotonic() + sum(self.waits))
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        """Takes the place of `time.sleep`."""
        if self.before_wait:
            self.before_wait()
        self.waits.append(seconds)


class Killed(BaseException):
    """The step's pod is gone: nothing of its code runs any more."""


def make_release(folder: Path, content: str = "a", **record: Any) -> Path:
    texts = {"model-store/tiny.mar": content, "huggingface/tokenizer.json": '{"normalizer": {"type": "Lowercase"}}'}
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    whole = {"labels": LABELS, "metrics": {"accuracy": 0.9}, "parameters": {"max_length": 32}, "run_id": "run-1"}
    seal(folder, Release(model_name=NAME, **{**whole, **record}))
    return folder


FAILURES = {
    "wrong": Fate(backend=predict_wrongly),
    "ModelLoadFailed": Fate(failure="ModelLoadFailed", message="no such file: model.onnx"),
    "InvalidSpec": Fate(failure="InvalidSpec", message="no such volume"),
    "never ready": Fate(failure="never ready"),
    "no way": Fate(unready_answers=10**9),
}
# And those that only Standard's pods tell of.
POD_FAILURES = {
    "unpullable": Fate(failure="unpullable", message="manifest unknown"),
    "unschedulable": Fate(failure="unschedulable", message="0/1 nodes are available: 1 Insufficient cpu"),
    "forbidden": Fate(failure="forbidden", message='violates PodSecurity "restricted:latest": seccompProfile'),
}


@dataclass
class Scene:
    """A cluster in which releases are deployed; `flawed` where the server was meant to refuse what was sent."""

    cluster: Cluster
    mode: Mode
    clock: Clock
    flawed: bool = False

    @property
    def host(self) -> str:
        return HOSTS[self.mode]

    @property
    def live(self) -> Json:
        return self.cluster.after(NAME)

    @property
    def service(self) -> InferenceService:
        """The same, as the code under test has it."""
        return InferenceService(self.live)

    @property
    def percent(self) -> int | None:
        percent: int | None = self.service.predictor.get("canaryTrafficPercent")
        return percent

    @property
    def is_there(self) -> bool:
        return self.cluster.has(NAME)

    @property
    def sent(self) -> list[Json]:
        return [body for _, dry_run, body in self.cluster.sent if not dry_run]

    def target(self, **changed: Any) -> Target:
        """Returns where a release is deployed, with settings or attributes of the target that are changed."""
        known = {item.name for item in fields(Target)}
        settings = {key: value for key, value in changed.items() if key not in (*known, "run_id", "model_name")}
        found_out = {key: value for key, value in changed.items() if key in known}
        defaults = {"volume_claim": "data", "deploy_timeout": 60, "gateway": self.cluster.gateway_url}
        return Target(
            settings=DeploySettings(**{**defaults, **settings}),
            run=Run(model_name=changed.get("model_name", NAME), run_id=changed.get("run_id", "run"), volume_path=""),
            **{"labels": LABELS, "transport": ServiceProxy(), **found_out},
        )

    def desired(self, letter: str, **changed: Any) -> tuple[InferenceService, Target]:
        """Returns the object of a release, and the target, as `prepare` would have them."""
        self.cluster.fates.setdefault(letter * 16, Fate(backend=predict))
        release = Release(digest=letter * 16, labels=LABELS, metrics={"accuracy": 1.0}, model_name=NAME)
        return prepare(release, None, self.target(**changed))

    def deploy(self, letter: str, fate: Fate | None = None, **changed: Any) -> Outcome:
        """Deploys a release; its pods answer right where no fate is given them."""
        if fate:
            self.cluster.fates[letter * 16] = fate
        return deploy(*self.desired(letter, **changed), ROWS)

    def fails(self, letter: str, kind: str, **changed: Any) -> Outcome:
        """Deploys a release that fails in a way of `FAILURES`."""
        return self.deploy(letter, copy.deepcopy((FAILURES | POD_FAILURES)[kind]), **changed)

    def edit(self, change: Callable[[Json], object]) -> None:
        """Changes the live InferenceService as `kubectl edit` does."""
        from kubernetes import client

        api, place = client.CustomObjectsApi(), ("serving.kserve.io", "v1beta1", "team", "inferenceservices", NAME)
        body = self.live
        change(body)
        api.replace_namespaced_custom_object(*place, body)

    def stop(self) -> None:
        """Stops the InferenceService as a user does."""
        self.edit(lambda live: live["metadata"]["annotations"].update({STOP: "true"}))
        self.cluster.after(NAME, 4)

    def add_foreign(self, fate: Fate) -> Json:
        """Puts an InferenceService there as the pipeline's first version made them; returns what is its own."""
        self.cluster.fates[""] = fate
        predictor = {"serviceAccountName": "sa", "pytorch": {"storageUri": "pvc://old/model", "args": ["--a"]}}
        metadata = {"name": NAME, "labels": {"team": "search"}, "annotations": {"example.com/a": "b"}}
        self.cluster.add({"kind": "InferenceService", "metadata": metadata, "spec": {"predictor": predictor}})
        self.cluster.after(NAME, 6)
        return self.others()

    def others(self) -> Json:
        """Returns what is on the live object that is not this project's own note."""
        service = self.service
        kept = {key: value for key, value in service.annotations.items() if not key.startswith("nlp-pipeline/")}
        # Without the tag, the revision could not be waited for before it has traffic.
        kept.pop("serving.kserve.io/enable-tag-routing", None)
        return {"labels": service.labels, "annotations": kept, "spec": service.body["spec"]}

    def ask(self) -> int:
        body = json.dumps({"instances": ["superb"]}).encode()
        request = Request("POST", f"/v1/models/{NAME}:predict", {"host": self.host}, body)
        return self.cluster.answer_ingress(request).status

    def shares(self, requests: int = 20) -> dict[str, int]:
        """Returns how many requests of so many each release answers, by its letter."""
        self.cluster.after(NAME, 8)
        before = len(self.cluster.answered)
        assert {self.ask() for _ in range(requests)} == {200}
        return dict(Counter(release[:1] for _, release, _ in self.cluster.answered[before:]))

    @contextlib.contextmanager
    def users(self) -> Iterator[list[int]]:
        """Asks by the host that everyone uses after each request to the API server; gives the answers' statuses."""
        statuses: list[int] = []

        def ask() -> None:
            statuses.append(self.ask())

        self.cluster.watchers.append(ask)
        yield statuses
        self.cluster.watchers.remove(ask)

    def answered(self, since: int = 0) -> set[str]:
        """Returns the releases that answered by the host that everyone uses, by their letters."""
        return {release[:1] for host, release, status in self.cluster.answered[since:] if host == self.host}

    def formers(self) -> list[str]:
        """Returns the letters of the releases that are noted on the live object as the former ones."""
        return [former.restore(NAME, "team").release[:1] for former in self.service.formers]

    def is_settled(self, letter: str) -> bool:
        """Says whether a release is live, all requests go to it, and nothing is left of its deployment."""
        return self.service.release == letter * 16 and self.percent is None and self.shares() == {letter: 20}

    @contextlib.contextmanager
    def killed(self, when: Callable[[], bool]) -> Iterator[None]:
        """Kills what runs inside, the next time it waits, once something is the case."""

        def die() -> None:
            if when():
                raise Killed

        self.clock.before_wait = die
        with pytest.raises(Killed):
            yield
        self.clock.before_wait = None

    @contextlib.contextmanager
    def meanwhile(self, when: Callable[[], bool], do: Callable[[], object]) -> Iterator[None]:
        """Does something once while what runs inside waits, as soon as something is the case."""

        def act() -> None:
            if when():
                self.clock.before_wait = None
                do()

        self.clock.before_wait = act
        yield
        assert self.clock.before_wait is None


@contextlib.contextmanager
def set_up(mode: Mode, folder: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[Scene]:
    """Starts a cluster with a volume's claim in it, to which the environment's kubeconfig points."""
    monkeypatch.setenv("KUBECONFIG", str(folder / "kubeconfig"))
    monkeypatch.setenv("NO_PROXY", "*")
    with emulated_cluster(mode) as cluster:
        cluster.add({"kind": "PersistentVolumeClaim", "metadata": {"name": "data"}})
        cluster.write_kubeconfig(folder / "kubeconfig", cluster.namespace)
        calls.connect()
        scene = Scene(cluster, mode, clock)
        yield scene
        for _, _, body in [] if scene.flawed else cluster.sent:
            admit(body, None, mode)
