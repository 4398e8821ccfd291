"""The training step as the client of a TrainJob, by a scripted one: what it sends, prints, waits for, gives up on."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.deploy import cluster as calls
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.pipeline.components import train_model
from nlp_pipeline.steps.train_model.settings import TrainSettings
from nlp_pipeline.train_job import follow
from nlp_pipeline.train_job.follow import train_on_nodes
from nlp_pipeline.volume import Run
from tests.deploy.scene import Clock
from tests.fakes.kubernetes.emulator import Cluster
from tests.fakes.kubernetes.trainer import pod_of
from tests.train_job.conftest import RUNTIME, STEP

Json = dict[str, Any]
NAME = "train-run"


def look() -> None:
    """Nothing changes."""


class Scene:
    """A step that trains on two nodes, and a script of what becomes of its job, a line for each wait."""

    def __init__(self, cluster: Cluster, clock: Clock, folder: Path) -> None:
        self.cluster, self.clock, self.folder = cluster, clock, folder
        (folder / "volume").mkdir()
        self.run = Run(model_name="reviews", run_id="run", volume_path=str(folder / "volume"))
        assert self.run.folder
        (self.run.folder / "model").mkdir(parents=True)
        (self.run.folder / "model" / "model.safetensors").touch()
        facts = {"train_loss": 0.5, "loss_curve": [[1, 0.5]], "source": "a.csv"}
        (self.run.folder / "training.json").write_text(json.dumps(facts))

    def step(self, *script: Callable[[], None]) -> Json:
        lines = iter(script)
        self.clock.before_wait = lambda: next(lines)()
        settings = TrainSettings(base_model="encoder")
        source = {"source": "a.csv"}
        return train_on_nodes(2, RUNTIME, str(self.folder / "model"), settings, 42, self.run, source)

    def nodes(self, *states: Json) -> Callable[[], None]:
        """Returns what gives the job's pods these states."""

        def set_up() -> None:
            for index, state in enumerate(states):
                self.cluster.add(pod_of(NAME, index, **state))

        return set_up

    def end(self, kind: str, *states: Json, message: str = "jobset failed") -> Callable[[], None]:
        """Returns what ends the job, with its pods in these states."""

        def set_up() -> None:
            self.nodes(*states)()
            condition = {"type": kind, "status": "True", "reason": "FailedJobs", "message": message}
            self.job["status"] = {"conditions": [condition]}

        return set_up

    @property
    def job(self) -> Json:
        return self.cluster.objects["trainjobs", "team", NAME]

    @property
    def is_there(self) -> bool:
        return ("trainjobs", "team", NAME) in self.cluster.objects


@pytest.fixture
def scene(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(cluster, Clock(monkeypatch), tmp_path)


def test_a_job_is_made_like_the_steps_own_pod_followed_and_deleted(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = scene.step(
        look,
        scene.nodes({"log": "training on cuda\n"}, {"log": "no one sees this\n"}),
        scene.nodes({"log": "training on cuda\nstep 1/2\nstep 2"}),
        scene.end("Complete", {"log": "training on cuda\nstep 1/2\nstep 2/2\n"}),
    )
    assert facts == {"train_loss": 0.5}
    assert (scene.folder / "model" / "model.safetensors").exists() and not scene.is_there
    said = capsys.readouterr().out.replace(f"TrainJob team/{NAME}: ", "* ").splitlines()
    assert said == ["* created", "* 0 of 2 nodes run", "training on cuda", "* 2 of 2 nodes run", "step 1/2", "step 2/2"]
    sent = next(body for method, _, body in scene.cluster.sent if method == "POST")
    trainer, (patch,) = sent["spec"]["trainer"], sent["spec"]["runtimePatches"]
    assert (trainer["image"], trainer["numNodes"]) == ("registry.example/steps:1", 2)
    assert [item["name"] for item in trainer["env"]] == ["HF_TOKEN"]
    assert trainer["resourcesPerNode"]["limits"] == {"memory": "12Gi", "nvidia.com/gpu": "2"}
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]["spec"]
    assert [item["name"] for item in pod["volumes"]] == ["claim", "nlp-pipeline-environment"]
    assert [item["mountPath"] for item in pod["containers"][0]["volumeMounts"]] == [
        "/mnt/nlp-pipeline",
        "/etc/nlp-pipeline",
    ]
    for name in ("nodeSelector", "tolerations", "securityContext", "serviceAccountName"):
        assert pod[name] == STEP["spec"][name]
    assert sent["metadata"]["ownerReferences"] == STEP["metadata"]["ownerReferences"]


def test_where_the_step_has_no_gpu_the_runtimes_are_left(scene: Scene) -> None:
    step = json.loads(json.dumps(STEP))
    step["spec"]["containers"][1]["resources"]["limits"]["nvidia.com/gpu"] = "0"
    scene.cluster.add(step)
    scene.cluster.add({"kind": "TrainingRuntime", "metadata": {"name": RUNTIME}})
    scene.step(scene.end("Complete"))
    sent = next(body for method, _, body in scene.cluster.sent if method == "POST")
    assert sent["spec"]["trainer"]["resourcesPerNode"]["limits"] == {"memory": "12Gi"}
    assert sent["spec"]["runtimeRef"]["kind"] == "TrainingRuntime"


def test_tried_again_a_run_takes_up_its_job(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    def lost() -> None:
        raise SystemError  # as a pod that is killed does nothing more

    with pytest.raises(SystemError):
        scene.step(lost)
    scene.step(scene.end("Complete"))
    assert "is there already, and is taken up" in capsys.readouterr().out
    assert len(scene.cluster.sent) == 1 and not scene.is_there


def test_tried_again_a_run_makes_a_failed_job_anew(scene: Scene) -> None:
    with pytest.raises(PipelineError, match=r"; it is kept: kubectl -n team describe trainjob train-run$"):
        scene.step(scene.end("Failed"))
    assert scene.is_there
    scene.step(look, scene.end("Complete"))
    assert len(scene.cluster.sent) == 2 and scene.cluster.deleted_jobs == [NAME, NAME]


def test_terminated_it_takes_the_job_with_it(scene: Scene) -> None:
    with pytest.raises(PipelineError, match=f"^the run was terminated, and TrainJob team/{NAME} with it$"):
        scene.step(scene.nodes({}, {}), lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert not scene.is_there and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


KILLED: Json = {"exitCode": 137, "reason": "OOMKilled"}
CUT_OFF: Json = {"exitCode": 1, "reason": "Error"}
OURS = "error: the loss at step 3 is nan: try a lower one"


@pytest.mark.parametrize(
    ("states", "line", "is_kept"),
    [
        pytest.param(
            [{"ended": CUT_OFF, "log": "Connection closed by peer\n"}, {"ended": KILLED, "log": "step 3\n"}],
            "pod train-run-node-0-1-abcde: OOMKilled, exit code 137: step 3: raise train_memory, or lower batch_size; "
            "it is kept: kubectl -n team describe trainjob train-run",
            True,
            id="killed",
        ),
        pytest.param(
            [{"ended": CUT_OFF, "log": f"step 3\n{OURS}\nprocess 0 failed\n"}, {}],
            f"pod train-run-node-0-0-abcde: Error, exit code 1: {OURS}",
            False,
            id="ours",
        ),
        pytest.param([], "FailedJobs: jobset failed; it is kept: .*", True, id="no pods"),
    ],
)
def test_a_job_that_fails(scene: Scene, states: list[Json], line: str, is_kept: bool) -> None:
    with pytest.raises(PipelineError, match=f"^TrainJob team/{NAME} failed: {line}$"):
        scene.step(scene.nodes(*states), scene.end("Failed"))
    assert scene.is_there == is_kept


def test_a_worker_that_is_started_again(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    again = {"restarts": 1, "former": KILLED, "previous": "step 1/9\n", "log": "going on from step 1 of 9\n"}
    scene.step(
        scene.nodes({"log": "step 1/9\n"}, {}),
        scene.nodes(again, {}),
        scene.end("Complete", {**again, "log": "going on from step 1 of 9\nstep 9/9\n"}),
    )
    assert capsys.readouterr().out.replace(f"TrainJob team/{NAME}: ", "* ").splitlines()[2:] == [
        "step 1/9",
        "* 2 of 2 nodes run",
        "going on from step 1 of 9",
        "* pod train-run-node-0-0-abcde: OOMKilled, exit code 137: step 1/9",
        "step 9/9",
    ]


def test_a_job_that_no_node_has_room_for(
    scene: Scene, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "PATIENCE", 120)
    states: list[Json] = [{}, {"unschedulable": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."}]
    reason = (
        "pod train-run-node-0-1-abcde: Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.: ask for "
        "less by train_cpu, train_memory or train_gpus, for fewer train_nodes, or add nodes"
    )
    with pytest.raises(PipelineError) as caught:
        scene.step(scene.nodes(*states), *[look] * 120)
    assert str(caught.value) == f"TrainJob team/{NAME} could not go on for 2 minutes: {reason}"
    assert f"1 of 2 nodes run; held up: {reason}" in capsys.readouterr().out and not scene.is_there


def test_what_the_cluster_lacks(scene: Scene) -> None:
    scene.cluster.remove("clustertrainingruntimes", RUNTIME)
    with pytest.raises(UsageError, match=r"^train_runtime=torch-distributed: namespace team has no such TrainingRun"):
        scene.step()
    scene.cluster.trainer_installed = False
    with pytest.raises(UsageError, match=r"^Kubeflow Trainer is not installed in this cluster: install 2.2 or later, "):
        calls.api.cache_clear()
        scene.step()


def test_what_is_forbidden(scene: Scene) -> None:
    scene.cluster.deny("create", "trainjobs")
    with pytest.raises(UsageError) as caught:
        scene.step()
    assert str(caught.value).startswith(f"creating TrainJob team/{NAME}: 403: trainjobs.trainer.kubeflow.org is forbid")
    assert str(caught.value).endswith(
        "; to allow it: python pipeline_v2.py --manifests --set namespace=team --set train_nodes=2 | kubectl apply -f -"
    )


def test_without_the_package_the_step_says_that_it_needs_an_image(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nlp_pipeline.train_job.follow", None)
    values: Json = {"train_nodes": 2, "train_runtime": RUNTIME, "seed": 1, "model_name": "reviews", "run_id": "run"}

    class Artifact:
        path, metadata = "x", dict[str, Any]()

    artifacts = dict.fromkeys(("train", "model", "training"), Artifact())
    line = "^train_nodes=2 needs steps in an image of ours: compile with --image$"
    with pytest.raises(UsageError, match=line):
        train_model.python_func(**artifacts, **values, **vars(TrainSettings()))
