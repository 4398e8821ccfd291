"""The commands as a user types them: what they print, how they end, and what they send."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.cli import main
from tests.fakes.kfp import Fate, Kubeflow
from tests.fakes.kubernetes.emulator import emulated_cluster
from tests.fakes.tls import Authority
from tests.kubeflow.users import ANN, PASSWORD, TOKEN, TRAIN, node, team

ROOT = Path(__file__).parents[2]
Run = Callable[..., tuple[int, str, str]]
COMMANDS: list[tuple[str, ...]] = [
    ("--submit", *TRAIN),
    ("--submit", "--wait", *TRAIN),
    ("--upload",),
    ("--wait", "unknown"),
    ("--retry", "unknown"),
    ("--schedule", "0 0 2 * * *", *TRAIN),
    ("--schedules",),
    ("--unschedule", "unknown"),
    ("--pause", "unknown"),
    ("--resume", "unknown"),
    ("--runs",),
    ("--download", "unknown"),
    ("--doctor",),
    ("--print-config",),
]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line; returns the exit code, stdout and stderr."""

    def run(*argv: str) -> tuple[int, str, str]:
        code = main(argv)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture(autouse=True)
def known(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment leads to the test's Kubeflow."""
    if "k" in request.fixturenames:
        monkeypatch.setenv("NLP_PIPELINE_HOST", request.getfixturevalue("k").url)
        monkeypatch.setenv("NLP_PIPELINE_NAMESPACE", "team")
        monkeypatch.setenv("NLP_PIPELINE_USERNAME", ANN)
        monkeypatch.setenv("NLP_PIPELINE_PASSWORD", PASSWORD)


def facts_of(out: str) -> dict[str, str]:
    return dict(line.split(maxsplit=1) for line in out.splitlines())


def test_submit(k: Kubeflow, run: Run) -> None:
    code, out, err = run("--submit", *TRAIN, "--set", "deploy=false", "--experiment", "films & co")
    facts = facts_of(out)
    (made,) = k.api.runs
    assert code == 0 and facts["run_id"] == made["run_id"] and facts["new_version"] == "True"
    assert facts["url"] == f"{k.url}/_/pipeline/?ns=team#/runs/details/{made['run_id']}"
    assert made["runtime_config"]["parameters"] == {"train_data": "s3://bucket/reviews.csv", "deploy": False}
    assert err.splitlines() == [f"{k.url}, as {ANN}, by password", f"version {facts['version']}, uploaded"]
    code, out, err = run("--submit", *TRAIN)
    assert facts_of(out)["new_version"] == "False" and "which is there already" in err
    code, out, _ = run("--submit", *TRAIN, "--image", "registry:5000/team/x:1", "--service-account", "robot", "--json")
    assert code == 0 and json.loads(out)["new_version"] is True and len(k.api.versions) == 2
    spec = k.api.versions[1]["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"].values()
    assert {item["container"]["image"] for item in spec} == {"registry:5000/team/x:1"}
    assert k.api.runs[2]["service_account"] == "robot"


def test_another_pipeline_has_a_name_versions_and_a_schedule_of_its_own(k: Kubeflow, run: Run) -> None:
    drift = ("--pipeline", "drift", "--set", "data=s3://bucket/new.csv", "--set", "retrain=nlp-pipeline", "--json")
    sent = json.loads(run("--submit", *drift, "--dry-run")[1])
    assert sent["pipeline"] == "nlp-pipeline-drift" and sent["requests"] == {"a step": "cpu 250m, memory 512Mi"}
    assert run("--schedule", "0 0 1 * * *", *TRAIN)[0] == 0
    assert run("--schedule", "0 0 2 * * *", *drift)[0] == 0
    assert json.loads(run("--submit", *drift)[1])["version"] == sent["version"]
    assert [item["display_name"] for item in k.api.recurring_runs] == ["nlp-pipeline", "nlp-pipeline-drift"]
    assert [item["name"] for item in k.api.pipelines] == ["nlp-pipeline", "nlp-pipeline-drift"]
    assert [item["name"] for item in k.api.versions][1] == sent["version"] and len(k.api.versions) == 2
    values = {"data": "s3://bucket/new.csv", "retrain": "nlp-pipeline"}
    assert k.api.runs[0]["runtime_config"]["parameters"] == values
    assert json.loads(run("--upload", "--pipeline", "drift", "--json")[1])["new_version"] is False


def test_dry_runs_and_an_upload(k: Kubeflow, run: Run) -> None:
    for command in (("--submit", "--wait", *TRAIN), ("--upload",)):
        code, out, err = run(*command, "--dry-run", "--json")
        reported = json.loads(out)
        assert (code, err, k.visits) == (0, "", [])
        assert reported["host"] == k.url and reported["pipeline"] == "nlp-pipeline"
    code, out, _ = run("--upload", "--json")
    assert code == 0 and json.loads(out)["new_version"] and json.loads(out)["version"] == reported["version"]
    assert json.loads(run("--upload", "--json")[1]) == {**json.loads(out), "new_version": False}
    assert [item["name"] for item in k.api.versions] == [reported["version"]] and k.api.runs == k.api.experiments == []


def test_a_dry_run_says_what_the_pods_ask_for(k: Kubeflow, run: Run) -> None:
    def reported(*more: str, command: tuple[str, ...] = ("--submit",)) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(run(*command, *TRAIN, "--dry-run", "--json", *more)[1])
        return answer

    assert reported()["requests"] == {
        "a step": "cpu 250m, memory 512Mi",
        "training": "cpu 500m, memory 2Gi",
        "serving": "cpu 250m, memory 2Gi",
    }
    assert "unless ConfigMap nlp-pipeline-environment has PIP_EXTRA_INDEX_URL" in reported()["packages"]
    with_gpu = reported("--set", "train_gpus=1", "--set", "deploy=false")
    assert with_gpu["requests"]["training"].endswith(", gpu 1") and "packages" not in with_gpu
    assert "packages" not in reported("--image", "r/i:1")
    assert reported()["nodes"].startswith("not known: no cluster")
    with emulated_cluster("Knative") as cluster:
        cluster.add(node("small"))
        cluster.write_kubeconfig(os.environ["KUBECONFIG"], "team")
        assert reported()["nodes"].startswith("each pod has a node large enough for it")
        said = "no node could take training, which asks for cpu 4, memory 2Gi: of 1, 1 with less cpu"
        assert reported("--set", "train_cpu=4")["nodes"] == said
    assert "requests          training: cpu 500m, memory 2Gi" in run("--submit", *TRAIN, "--dry-run")[1]
    assert reported(command=("--schedule", "0 0 2 * * *"))["requests"] == reported()["requests"]


def test_schedules_and_runs_are_tables(k: Kubeflow, run: Run) -> None:
    code, out, _ = run("--schedule", "0 2 * * *", *TRAIN, "--schedule-name", "nightly", "--concurrency", "2")
    assert code == 0 and "became            True" in out and "next              1: 2" in out
    _, out, _ = run("--schedules")
    assert out.splitlines()[0].split() == ["name", "cron", "next", "status", "version"]
    assert out.splitlines()[1].startswith("nightly  0 0 2 * * *  2")
    assert run("--pause", "nightly", "--json")[1].count('"paused"') == 2
    assert run("--unschedule", "nightly")[0] == 0 and k.api.recurring_runs == []
    run("--submit", *TRAIN)
    _, out, _ = run("--runs", "--count", "1")
    assert out.splitlines()[1].startswith(k.api.runs[0]["run_id"]) and "PENDING" in out


def test_submit_and_wait(k: Kubeflow, run: Run) -> None:
    code, out, err = run("--submit", "--wait", *TRAIN)
    assert code == 0 and facts_of(out)["state"] == "SUCCEEDED" and facts_of(out)["url"] in err
    assert "train_model running\n" in err and "deploy_model succeeded after" in err
    assert k.passwords_sent == 1 and err.count("by password") == 1
    code, out, _ = run("--wait", k.api.runs[0]["run_id"], "--json")
    assert code == 0 and json.loads(out)["steps"]["notify"]["state"] == "SUCCEEDED"


@pytest.mark.parametrize(
    ("fate", "timeout", "code", "message"),
    [
        (Fate(failing="train-model"), (), 1, "error: train_model failed: http"),
        (Fate(skipped=("condition-2",)), (), 3, "error: the gate is not passed; nothing was archived: http"),
        (Fate(ends=None), ("--timeout", "0.1"), 4, "error: the run has not ended after 0.1 s; it goes on: --wait "),
        (Fate(ends="CANCELED"), (), 1, "error: the run was canceled: http"),
    ],
)
def test_the_exit_code_is_the_runs(
    fate: Fate, timeout: tuple[str, ...], code: int, message: str, k: Kubeflow, run: Run
) -> None:
    k.api.fate = fate
    result, out, err = run("--submit", "--wait", *TRAIN, *timeout, "--json")
    reported = json.loads(out)
    assert result == code and err.splitlines()[-1].startswith(message)
    assert reported["run_id"] == k.api.runs[0]["run_id"] and f"error: {reported['error']}".startswith(message)
    assert reported["url"].endswith(reported["run_id"])


@pytest.mark.parametrize("command", COMMANDS[:-2], ids=" ".join)
def test_json_is_one_document_also_where_it_fails(command: tuple[str, ...], k: Kubeflow, run: Run) -> None:
    k.faults.fail(500, times=99)
    code, out, err = run(*command, "--json")
    assert code == 1 and json.loads(out)["error"] and err.splitlines()[-1] == f"error: {json.loads(out)['error']}"


def test_bad_usage_is_json_too(run: Run) -> None:
    for argv in (("--wait",), ("--nonsense",), ("--submit", "--upload"), ("--runs", "--set", "nonsense=1")):
        code, out, err = run(*argv, "--json")
        assert code == 2 and err == f"error: {json.loads(out)['error']}\n"


def test_a_wrong_password_is_sent_once(k: Kubeflow, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLP_PIPELINE_PASSWORD", "wrong")
    message = f"error: {k.url[7:]} refuses user '{ANN}' with this password\n"
    assert run("--runs") == (2, "", message) and k.passwords_sent == 1


def test_insecure_says_what_it_does_and_works(ca: Authority, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLP_PIPELINE_TOKEN", TOKEN)
    with team(tls=ca) as k:
        argv = ("--runs", "--json", "--host", k.url, "--namespace", "team")
        code, out, err = run(*argv)
        assert code == 2 and "give its authority with --ca-cert FILE" in err and "--insecure" not in err
        code, out, err = run(*argv, "--ca-cert", str(ca.path))
        assert code == 0 and json.loads(out) == [] and err == f"{k.url}, by bearer token\n"
        code, out, err = run(*argv, "--insecure")
        assert code == 0 and err == (
            "--insecure: the server's certificate is not verified; who is in between can read all\n"
            f"{k.url}, by bearer token\n"
        )


def test_ctrl_c_leaves_the_run_running_and_nothing_else_is_said(k: Kubeflow, tmp_path: Path) -> None:
    k.api.fate = Fate(ends=None)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "default"}
    command = [sys.executable, str(ROOT / "pipeline_v2.py"), "--submit", "--wait", *TRAIN, "--json"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        try:
            assert process.stderr
            before = [process.stderr.readline() for _ in range(4)]
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
    (run,) = k.api.runs
    assert "by password" in before[0] and before[1].startswith("version ") and before[2].endswith(f"{run['run_id']}\n")
    assert before[3] == "load_data running\n"
    assert process.returncode == 130 and json.loads(out)["run_id"] == run["run_id"]
    assert err.splitlines()[-1] == f"interrupted; the run goes on: --wait {run['run_id']} comes back to it"
    assert "nothing is left running" not in err and "Traceback" not in err and "Warning" not in err
    assert not any("terminate" in visit for visit in k.visits) and run["state"] != "CANCELING"
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == []
    assert list((tmp_path / "work").iterdir()) == []


def test_an_interrupt_before_that_says_where_to_look(k: Kubeflow, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nlp_pipeline.kubeflow.pipelines.upload_version", interrupt)
    code, _, err = run("--submit", *TRAIN)
    assert code == 130 and err.splitlines()[-1] == "interrupted; see --runs and --schedules for what was done"
