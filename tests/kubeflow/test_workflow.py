"""What `--wait` learns from the cluster: why a step does not go on, and a Workflow of which the API tells no more."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.cli import main
from nlp_pipeline.errors import PipelineError, TimedOutError
from nlp_pipeline.kubeflow import runs as module
from nlp_pipeline.kubeflow import workflow as workflow_module
from nlp_pipeline.kubeflow.connection import connect
from nlp_pipeline.kubeflow.pipelines import get_experiment, start_run, upload_version
from nlp_pipeline.kubeflow.runs import ALL_STEPS, retry, wait
from nlp_pipeline.platforms import waiting
from nlp_pipeline.settings import Settings
from tests.fakes.kfp import Fate, Kubeflow
from tests.fakes.kubernetes.emulator import Cluster, emulated_cluster
from tests.kubeflow.test_runs import started
from tests.kubeflow.users import TOKEN, settings_of

UNSCHEDULABLE = "Unschedulable: 0/3 nodes are available: 3 Insufficient cpu. preemption: 0/3 nodes are available."
LOST = "though Kubeflow still calls the run RUNNING, and may do so for good"
OTHERS = """\
components:
  comp-x: {executorLabel: exec-x}
  comp-group: {dag: {tasks: {write-up: {componentRef: {name: comp-x}, taskInfo: {name: write-up}}}}}
deploymentSpec: {executors: {exec-x: {container: {image: x}}}}
pipelineInfo: {name: others}
root:
  dag:
    tasks:
      zip: {componentRef: {name: comp-x}, taskInfo: {name: zip}}
      add-up: {componentRef: {name: comp-x}, dependentTasks: [zip], taskInfo: {name: add-up}}
      condition-1: {componentRef: {name: comp-group}, dependentTasks: [add-up], taskInfo: {name: condition-1}}
schemaVersion: 2.1.0
"""


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The cluster is asked each time; there is none unless a test has one."""
    monkeypatch.setattr(workflow_module, "READ_SECONDS", 0.0)
    monkeypatch.setattr(workflow_module, "LAG_SECONDS", 0.0)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))


@pytest.fixture
def cluster(k: Kubeflow, tmp_path: Path) -> Iterator[Cluster]:
    """The cluster of the Kubeflow, to which a kubeconfig leads."""
    with emulated_cluster("Standard") as cluster:
        cluster.write_kubeconfig(tmp_path / "kubeconfig")
        k.api.cluster = cluster
        yield cluster


def held_up(k: Kubeflow, capsys: pytest.CaptureFixture[str], fate: Fate, seconds: float = 0.5) -> list[str]:
    """Follows a run that does not end for a while, and returns what was shown of it."""
    settings, run_id = started(k, fate, token=TOKEN)
    capsys.readouterr()
    with pytest.raises(TimedOutError):
        wait(settings, run_id, seconds)
    return capsys.readouterr().err.splitlines()


def failure(settings: Settings, run_id: str) -> str:
    with pytest.raises(PipelineError) as caught:
        wait(settings, run_id, 60)
    assert caught.value.exit_code == 1
    return str(caught.value)


@pytest.mark.parametrize(
    ("task", "message", "line"),
    [
        ("deploy-model-driver", UNSCHEDULABLE, f"deploy_model is held up: {UNSCHEDULABLE}"),
        (
            "deploy-model",
            'ImagePullBackOff: Back-off pulling image "x": ErrImagePull:\nnot found',
            'deploy_model is held up: ImagePullBackOff: Back-off pulling image "x": ErrImagePull: not found',
        ),
    ],
    ids=["nodes", "image"],
)
def test_what_argo_says_is_shown_once(
    task: str, message: str, line: str, k: Kubeflow, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = held_up(k, capsys, Fate(ends=None, at_once=True, waiting={task: message}))
    assert lines.count(line) == 1 and sum("held up" in line for line in lines) == 1
    assert ("deploy_model running" in lines) is (task == "deploy-model")


@pytest.mark.parametrize(
    ("status", "event", "reason"),
    [
        (
            {"initContainerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull", "message": "no such\nhost"}}}]},
            None,
            "ErrImagePull: no such host",
        ),
        (
            {"containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]},
            ("FailedMount", 'MountVolume.SetUp failed: persistentvolumeclaim "x" is lost'),
            'FailedMount: MountVolume.SetUp failed: persistentvolumeclaim "x" is lost',
        ),
        ({"message": "The node was low on resource: memory."}, None, "The node was low on resource: memory."),
    ],
    ids=["init container", "event", "message"],
)
def test_what_argo_does_not_say_is_asked_of_the_pod(
    status: dict[str, Any],
    event: tuple[str, str] | None,
    reason: str,
    k: Kubeflow,
    cluster: Cluster,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings, run_id = started(
        k, Fate(ends=None, at_once=True, waiting={"deploy-model": "PodInitializing"}), token=TOKEN
    )
    name = k.api.pod_of(run_id, "deploy-model")
    workflow = k.api.records["runs"][run_id]["_workflow"]
    annotations = {"workflows.argoproj.io/node-id": f"{workflow}-{name.rpartition('-')[2]}"}
    container = {"name": "x", "image": "x", "imageID": "", "ready": False, "restartCount": 0}
    whole = {key: [container | value[0]] if isinstance(value, list) else value for key, value in status.items()}
    metadata = {"name": name, "labels": {"pipeline/runid": run_id}, "annotations": annotations}
    cluster.add({"kind": "Pod", "metadata": metadata, "status": whole})
    for about in (name, "another-pod") if event else ():
        why, message = event or ("", "")
        content = {"reason": why, "message": message if about == name else "x"}
        cluster.add({"kind": "Event", "metadata": {"name": about}, "involvedObject": {"name": about}, **content})
    with pytest.raises(TimedOutError):
        wait(settings, run_id, 0.5)
    shown = [line for line in capsys.readouterr().err.splitlines() if "held up" in line]
    assert shown == [f"deploy_model is held up: {reason}"]


def test_a_lost_pod_that_is_started_again(
    k: Kubeflow, cluster: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, run_id = started(k, Fate(ends=None, at_once=True))
    with pytest.raises(TimedOutError):
        wait(settings, run_id, 0.1)
    item = k.api.workflow_of(run_id)
    for node in item["status"]["nodes"].values():
        if node["type"] == "Pod" and node["phase"] == "Running":
            node |= {"phase": "Error", "message": "pod deleted"}
    k.api.cluster = None
    cluster.add(item)
    with pytest.raises(TimedOutError):
        wait(settings, run_id, 0.2)
    assert capsys.readouterr().err.splitlines()[-1] == "deploy_model is held up: pod deleted"


def test_a_step_fails_with_what_argo_says(k: Kubeflow, cluster: Cluster) -> None:
    message = "main: OOMKilled (exit code 137)"
    settings, run_id = started(k, Fate(failing="train-model", error=message))
    assert failure(settings, run_id).startswith(f"train_model failed: {message}: http")


@pytest.mark.parametrize("where", ["dashboard", "cluster"])
def test_a_step_fails_with_the_error_of_its_log(
    where: str, k: Kubeflow, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, run_id = started(k, Fate(failing="train-model"))
    log = "Traceback\nValueError: 0\nnlp_pipeline.errors.UsageError: row 7 has no label\nI1126 main.go: exit status 1\n"
    name = k.api.pod_of(run_id, "train-model")
    if where == "cluster":
        cluster.add({"kind": "Pod", "metadata": {"name": name}, "log": log})
    else:
        k.logs["team", name] = log
    assert failure(settings, run_id).startswith("train_model failed: row 7 has no label: http")
    assert f"the end of train_model's log:\n{log}" in capsys.readouterr().err


def test_a_workflow_that_has_ended_while_the_api_calls_it_running(k: Kubeflow, cluster: Cluster) -> None:
    settings, run_id = started(k, Fate(ends=None, at_once=True))
    with pytest.raises(TimedOutError):
        wait(settings, run_id, 0.1)
    item = k.api.workflow_of(run_id)
    item["status"] |= {"phase": "Error", "message": "workflow is longer than\nmaximum allowed size."}
    k.api.cluster = None
    cluster.add(item)
    end = f"has ended (Error), {LOST}: workflow is longer than maximum allowed size.: http"
    assert end in failure(settings, run_id)


def test_a_workflow_that_is_gone(k: Kubeflow, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, run_id = started(k, Fate(ends=None))
    reads, real = 0, module.get_run

    def read(*values: Any, **named: Any) -> Any:
        nonlocal reads
        reads += 1
        run = real(*values, **named)
        if reads == 4:
            k.api.cluster = None
            cluster.remove("workflows", k.api.records["runs"][run_id]["_workflow"])
        return run

    monkeypatch.setattr(module, "get_run", read)
    assert f" is gone from namespace team, {LOST}: http" in failure(settings, run_id)


def test_a_cluster_that_is_another_or_may_not_be_asked(
    k: Kubeflow, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    k.api.cluster = None
    settings, run_id = started(k, Fate())
    assert wait(settings, run_id, 60)["state"] == "SUCCEEDED"
    assert "workflow" not in capsys.readouterr().err
    cluster.deny("list", "workflows")
    settings, run_id = started(k, Fate())
    assert wait(settings, run_id, 60)["state"] == "SUCCEEDED"
    assert capsys.readouterr().err.count("the kubeconfig's cluster does not say what holds a step up: Forbidden\n") == 1


def test_a_cluster_that_can_not_be_reached(k: Kubeflow, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with emulated_cluster("Standard") as gone:
        gone.write_kubeconfig(tmp_path / "kubeconfig")
    settings, run_id = started(k, Fate())
    assert wait(settings, run_id, 60)["state"] == "SUCCEEDED"
    lines = capsys.readouterr().err.splitlines()
    assert sum("does not say what holds a step up" in line for line in lines) == 1
    assert not any("Retrying" in line for line in lines)


def test_steps_are_read_from_the_workflow_where_the_api_reports_none(
    k: Kubeflow, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, run_id = started(k, Fate(outgrown=3))
    facts = wait(settings, run_id, 60)
    assert {step: item["state"] for step, item in facts["steps"].items()} == dict.fromkeys(ALL_STEPS, "SUCCEEDED")
    lines = capsys.readouterr().err.splitlines()
    assert lines.count(workflow_module.OUTGROWN) == 1 and lines[-1].startswith("notify succeeded after ")
    # The gate is read from there, too.
    settings, run_id = started(k, Fate(outgrown=2, skipped=("condition-2",)))
    with pytest.raises(PipelineError, match="the gate is not passed"):
        wait(settings, run_id, 60)


def test_silence_is_broken_once_until_something_changes(
    k: Kubeflow, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "QUIET_SECONDS", 0.0)
    lines = held_up(k, capsys, Fate(ends=None, at_once=True), 2.0)
    hints = [line for line in lines if line.startswith("nothing has changed for ")]
    assert len(hints) == 1 and lines[-2:] == ["deploy_model running", hints[0]]
    assert "kubectl -n team get pods -l pipeline/runid=" in hints[0]


@pytest.mark.parametrize("has_cluster", [False, True])
def test_runs_of_other_pipelines(
    has_cluster: bool, k: Kubeflow, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(k)
    connection = connect(settings)
    version, experiment = upload_version(connection, OTHERS), get_experiment(connection, "others")
    k.api.cluster = cluster if has_cluster else None
    for fate, steps in (
        (Fate(), ["zip", "add_up", "write_up"]),
        (Fate(skipped=("condition-1",)), ["zip", "add_up"]),  # which is no gate
    ):
        k.api.fate = fate
        run_id = start_run(connection, version, experiment, {}).run_id
        facts = wait(settings, run_id, 60)
        assert list(facts["steps"]) == steps
    assert "add_up running\nadd_up succeeded after" in capsys.readouterr().err
    k.api.fate = Fate(failing="add-up")
    run_id = start_run(connection, version, experiment, {}).run_id
    assert failure(settings, run_id).startswith("add_up failed: ")


def test_a_canceled_run_that_goes_on_and_fails_is_not_called_canceled(k: Kubeflow) -> None:
    settings, run_id = started(k, Fate(ends=None))
    connection = connect(settings)
    connection.call("x", connection.runs.run_service_terminate_run, run_id)
    assert "canceled" in failure(settings, run_id)
    k.api.fate = Fate(failing="train-model")
    retry(settings, run_id, False)
    assert failure(settings, run_id).startswith("train_model failed: ")


def test_retry_and_wait_by_the_command_line(
    k: Kubeflow, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, run_id = started(k, Fate(failing="evaluate-model"), token=TOKEN)
    monkeypatch.setenv("NLP_PIPELINE_TOKEN", TOKEN)
    command = ["--host", k.url, "--namespace", "team", "--retry", run_id]
    assert main(command) == 2 and "only one that failed" in capsys.readouterr().err
    failure(settings, run_id)
    k.api.fate = Fate()
    assert main([*command, "--wait", "--timeout", "60"]) == 0
    assert "SUCCEEDED" in capsys.readouterr().out
    assert main(["--retry", run_id, "--platform", "vertex"]) == 2
    assert "--retry: Vertex AI can't let a run go on" in capsys.readouterr().err
    assert main(["--retry", "unknown", *command[:4]]) == 2 and "there is no run unknown" in capsys.readouterr().err
