"""The commands as a user types them: what they print, how they end, and what they send."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.cli import main
from nlp_pipeline.client import waiting
from nlp_pipeline.pipeline import compiling
from tests.client.signed_in import ANN, PASSWORD, TOKEN, passwords_sent, team
from tests.kubeflow.emulator import Fate, Kubeflow
from tests.kubeflow.tls import Authority

ROOT = Path(__file__).parents[2]
TRAIN = ("--set", "train_data=s3://bucket/reviews.csv")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiles each pipeline once for all tests."""
    monkeypatch.setattr(compiling, "compile_pipeline", compile_once)
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.005)


compile_once = cache(compiling.compile_pipeline)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line; returns the exit code, stdout and stderr."""

    def run(*argv: str) -> tuple[int, str, str]:
        code = main(argv)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def k(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kubeflow]:
    """A Kubeflow behind oauth2-proxy, that the environment leads to."""
    with team() as one:
        monkeypatch.setenv("NLP_PIPELINE_HOST", one.url)
        monkeypatch.setenv("NLP_PIPELINE_NAMESPACE", "team")
        monkeypatch.setenv("NLP_PIPELINE_USERNAME", ANN)
        monkeypatch.setenv("NLP_PIPELINE_PASSWORD", PASSWORD)
        yield one


def facts_of(out: str) -> dict[str, str]:
    """Returns the facts of which there is a line each."""
    return dict(line.split(maxsplit=1) for line in out.splitlines())


def test_submit(k: Kubeflow, run: Run) -> None:
    code, out, err = run("--submit", *TRAIN, "--set", "deploy=false", "--experiment", "films & co")
    facts = facts_of(out)
    (made,) = k.api.runs
    assert code == 0 and facts["run_id"] == made["run_id"]
    assert (
        facts["url"] == f"{k.url}/_/pipeline/?ns=team#/runs/details/{made['run_id']}" and facts["new_version"] == "True"
    )
    assert made["runtime_config"]["parameters"] == {"train_data": "s3://bucket/reviews.csv", "deploy": False}
    assert k.api.experiments[0]["display_name"] == "films & co"
    assert err.splitlines() == [f"{k.url}, as {ANN}, by password", f"version {facts['version']}, uploaded"]
    code, out, err = run("--submit", *TRAIN)
    assert facts_of(out)["new_version"] == "False" and "which is there already" in err


def test_submit_with_an_image_and_a_service_account(k: Kubeflow, run: Run) -> None:
    run("--submit", *TRAIN)
    code, out, _ = run("--submit", *TRAIN, "--image", "registry:5000/team/x:1", "--service-account", "robot", "--json")
    assert code == 0 and json.loads(out)["new_version"] is True and len(k.api.versions) == 2
    spec = k.api.versions[1]["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"].values()
    assert {one["container"]["image"] for one in spec} == {"registry:5000/team/x:1"}
    assert k.api.runs[1]["service_account"] == "robot"


def test_upload(k: Kubeflow, run: Run) -> None:
    code, out, _ = run("--upload", "--json")
    assert code == 0 and json.loads(out)["new_version"] is True
    code, again, _ = run("--upload", "--json")
    assert json.loads(again) == {**json.loads(out), "new_version": False}
    assert k.api.runs == [] and len(k.api.experiments) == 0


@pytest.mark.parametrize("json_too", [(), ("--json",)])
@pytest.mark.parametrize("command", [("--submit", *TRAIN), ("--submit", "--wait", *TRAIN), ("--upload",)])
def test_a_dry_run_sends_nothing(command: tuple[str, ...], json_too: tuple[str, ...], k: Kubeflow, run: Run) -> None:
    code, out, err = run(*command, "--dry-run", *json_too)
    assert code == 0 and err == "" and k.visits == []
    told = json.loads(out) if json_too else facts_of(out)
    assert told["host"] == k.url and told["pipeline"] == "nlp-pipeline"
    code, out, _ = run(*command[:1], *command[-2:] if len(command) > 1 else (), "--json")
    assert json.loads(out)["version"] == told["version"]


def test_submit_and_wait(k: Kubeflow, run: Run) -> None:
    code, out, err = run("--submit", "--wait", *TRAIN)
    assert code == 0 and facts_of(out)["state"] == "SUCCEEDED" and facts_of(out)["url"] in err
    assert "train_model running\n" in err and "deploy_model succeeded after" in err
    code, out, _ = run("--wait", k.api.runs[0]["run_id"], "--json")
    assert code == 0 and json.loads(out)["steps"]["gate"]["state"] == "SUCCEEDED"


@pytest.mark.parametrize(
    ("fate", "timeout", "code", "message"),
    [
        (Fate(failing="train-model"), (), 1, "error: train_model failed: http"),
        (Fate(skipped=("condition-1",)), (), 3, "error: the gate is not passed; nothing was archived: http"),
        (Fate(ends=None), ("--timeout", "0.1"), 4, "error: the run has not ended after 0.1 s; it goes on: --wait "),
        (Fate(ends="CANCELED"), (), 1, "error: the run was canceled: http"),
    ],
)
def test_the_exit_code_is_the_runs(
    fate: Fate, timeout: tuple[str, ...], code: int, message: str, k: Kubeflow, run: Run
) -> None:
    k.api.fate = fate
    found, out, err = run("--submit", "--wait", *TRAIN, *timeout)
    assert (found, out) == (code, "") and err.splitlines()[-1].startswith(message)
    run_id = k.api.runs[0]["run_id"]
    found, out, err = run("--wait", run_id, *timeout, "--json")
    told = json.loads(out)
    assert found == code and told["run_id"] == run_id and message == f"error: {told['error']}"[: len(message)]
    assert told["url"].endswith(run_id)


def test_the_log_of_the_step_that_failed(k: Kubeflow, run: Run) -> None:
    k.api.fate = Fate(failing="load-data")
    _, out, _ = run("--submit", *TRAIN, "--json")
    run_id = json.loads(out)["run_id"]
    k.logs["team", k.api.pod_of(run_id, "load-data")] = "Traceback\nValueError: no such file\n"
    code, _, err = run("--wait", run_id)
    assert (
        code == 1 and "the end of load_data's log:\nTraceback\nValueError: no such file\nerror: load_data failed" in err
    )


COMMANDS: list[tuple[str, ...]] = [
    ("--submit", *TRAIN),
    ("--submit", "--wait", *TRAIN),
    ("--upload",),
    ("--wait", "unknown"),
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
LIVE = COMMANDS[:-2]


@pytest.mark.parametrize("command", LIVE, ids=" ".join)
def test_json_is_one_document_also_where_it_fails(command: tuple[str, ...], k: Kubeflow, run: Run) -> None:
    code, out, err = run(*command, "--json")
    told = json.loads(out)
    if code:
        assert told["error"] and f"error: {told['error']}\n" in err
    k.faults.fail(500, times=99)
    code, out, err = run(*command, "--json")
    assert code == 1 and json.loads(out)["error"] and err.splitlines()[-1] == f"error: {json.loads(out)['error']}"
    k.faults.clear()
    code, out, err = run(*command, "--json", "--set", "nonsense=1")
    assert code == 2 and json.loads(out)["error"] in err


def test_bad_usage_is_json_too(run: Run) -> None:
    for argv in (("--wait",), ("--nonsense",), ("--submit", "--upload"), ("--submit", "--wait", "x", *TRAIN)):
        code, out, err = run(*argv, "--json")
        assert code == 2 and err == f"error: {json.loads(out)['error']}\n"


@pytest.mark.parametrize("command", LIVE, ids=" ".join)
def test_a_wrong_password_is_sent_once_by_each_command(
    command: tuple[str, ...], k: Kubeflow, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NLP_PIPELINE_PASSWORD", "wrong")
    code, out, err = run(*command)
    assert code == 2 and out == "" and err == f"error: {k.url[7:]} refuses user '{ANN}' with this password\n"
    assert passwords_sent(k) == 1


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


def environment() -> dict[str, str]:
    """Returns the environment for a process of its own."""
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "default"}


@pytest.mark.parametrize("json_too", [(), ("--json",)])
def test_ctrl_c_leaves_the_run_running(json_too: tuple[str, ...], k: Kubeflow) -> None:
    k.api.fate = Fate(ends=None)
    command = [sys.executable, str(ROOT / "pipeline_v2.py"), "--submit", "--wait", *TRAIN, *json_too]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    try:
        assert process.stderr and process.stdout
        lines: list[str] = []
        while "running" not in (line := process.stderr.readline()):
            assert line
            lines.append(line)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    run_id = k.api.runs[0]["run_id"]
    assert process.returncode == 130
    assert err.splitlines()[-1] == f"interrupted; the run goes on: --wait {run_id} comes back to it"
    assert "nothing is left running" not in err and "Traceback" not in err
    assert not any("terminate" in visit for visit in k.visits) and k.api.runs[0]["state"] != "CANCELING"
    if json_too:
        assert json.loads(out)["run_id"] == run_id
    else:
        assert out == ""


def test_an_interrupt_before_that_says_where_to_look(k: Kubeflow, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nlp_pipeline.client.submitting.upload", interrupt)
    code, _, err = run("--submit", *TRAIN)
    assert code == 130 and err.splitlines()[-1] == "interrupted; see --runs and --schedules for what was done"


def test_nothing_is_on_stderr_that_no_one_asked_for(k: Kubeflow, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "pipeline_v2.py"), "--submit", *TRAIN]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    assert len(done.stderr.splitlines()) == 2 and "Warning" not in done.stderr
    assert [one for one in (tmp_path / "home").rglob("*") if one.is_file()] == []
    assert list((tmp_path / "work").iterdir()) == []
