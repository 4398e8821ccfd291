"""`--submit`, `--wait` and `--runs` on Vertex AI, as a user types them: what they print, send, and end with."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format

from nlp_pipeline.platforms import waiting
from tests.vertex.cloud import Cloud
from tests.vertex.conftest import TRAIN, Run, compile_once
from tests.vertex.jobs import Fate

ROOT = Path(__file__).parents[2]
COMPILED = ROOT / "compiled" / "nlp_pipeline_vertex.yaml"
FIRST_OF_ALL = Fate(not_triggered=("condition-5", "condition-8"))
POST_JOB = "POST .*/pipelineJobs"


def facts_of(out: str) -> dict[str, str]:
    """Returns the facts of which there is a line each."""
    return dict(line.split(maxsplit=1) for line in out.splitlines())


def test_submit(cloud: Cloud, run: Run) -> None:
    code, out, err = run("--submit", *TRAIN, "--set", "epochs=1", "--set", "deploy=false", "--experiment", "films")
    assert code == 0
    facts = facts_of(out)
    (made,) = (one.job for one in cloud.pipelines.jobs.values())
    run_id = facts["run_id"]
    assert made.name == f"projects/123456789012/locations/us-central1/pipelineJobs/{run_id}"
    assert run_id.startswith(f"{facts['version']}-") and made.display_name == facts["name"] == run_id
    console = "https://console.cloud.google.com/vertex-ai/locations/us-central1/pipelines/runs"
    assert facts["url"] == f"{console}/{run_id}?project=my-project"
    assert dict(made.labels) == {"nlp-pipeline-version": facts["version"], "nlp-pipeline-experiment": "films"}
    config = json_format.MessageToDict(type(made).pb(made).runtime_config)
    assert config["gcsOutputDirectory"] == "gs://films/runs"
    assert config["parameterValues"] == {
        **{"train_data": "gs://films/reviews.csv", "epochs": 1.0, "deploy": False},
        **{"project": "my-project", "location": "us-central1", "serving_image": "registry.example.com/torchserve:1"},
    }
    assert err == "project my-project, region us-central1, as ann@my-project.iam.gserviceaccount.com\n"
    assert cloud.changes == ["POST /v1/projects/my-project/locations/us-central1/pipelineJobs"]


def test_what_is_sent_is_what_is_compiled(cloud: Cloud, run: Run) -> None:
    run("--submit", *TRAIN)
    (made,) = (one.job for one in cloud.pipelines.jobs.values())
    sent = json_format.MessageToDict(type(made).pb(made).pipeline_spec)
    assert sent == yaml.safe_load(compile_once(platform="vertex"))


def test_submit_with_an_image_a_service_account_and_another_place(
    cloud: Cloud, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = "runs@my-project.iam.gserviceaccount.com"
    argv = ("--image", "registry:5000/team/x:1", "--service-account", account, "--bucket", "gs://films/", "--json")
    code, out, _ = run("--submit", *TRAIN, *argv)
    (made,) = (one.job for one in cloud.pipelines.jobs.values())
    assert code == 0 and json.loads(out)["version"] != ""
    assert made.service_account == account and made.runtime_config.gcs_output_directory == "gs://films"
    assert made.runtime_config.parameter_values["job_service_account"] == account
    spec = json_format.MessageToDict(type(made).pb(made).pipeline_spec)
    images = {one["container"]["image"] for one in spec["deploymentSpec"]["executors"].values() if "container" in one}
    assert "registry:5000/team/x:1" in images and not any(one.startswith("python") for one in images)
    # What the user sets goes before what the settings tell.
    own = ("--set", "job_service_account=other@my-project.iam.gserviceaccount.com")
    code, out, _ = run("--submit", *TRAIN, *own, "--service-account", account, "--dry-run", "--json")
    assert json.loads(out)["parameters"]["job_service_account"] == own[1].partition("=")[2]


def test_a_flag_chooses_the_platform_too(cloud: Cloud, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLP_PIPELINE_PLATFORM", "kubeflow")
    code, _, err = run("--runs")
    assert code == 2 and "no host: give --host URL" in err
    code, out, _ = run("--runs", "--platform", "vertex", "--json")
    assert code == 0 and json.loads(out) == []
    monkeypatch.delenv("NLP_PIPELINE_PLATFORM")
    Path(".env").write_text("NLP_PIPELINE_PLATFORM=vertex\n")
    assert run("--runs")[0] == 0


def test_the_project_may_be_that_of_the_credentials(cloud: Cloud, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NLP_PIPELINE_PROJECT")
    code, _, err = run("--submit", *TRAIN)
    assert code == 0 and err.startswith("project my-project, region us-central1, as ann@")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "my-project")
    code, out, _ = run("--print-config", "--json")
    assert {"setting": "project", "value": "my-project", "from": "Google's environment"} in json.loads(out)


@pytest.mark.parametrize("json_too", [(), ("--json",)])
@pytest.mark.parametrize("command", [("--submit",), ("--submit", "--wait")])
def test_a_dry_run_sends_nothing_and_needs_no_credentials(
    command: tuple[str, ...], json_too: tuple[str, ...], cloud: Cloud, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        context.delenv("GOOGLE_APPLICATION_CREDENTIALS")
        code, out, err = run(*command, *TRAIN, "--dry-run", *json_too)
    assert code == 0 and err == "" and cloud.requests == [] and cloud.tokens == 0
    told = json.loads(out) if json_too else facts_of(out)
    assert (told["project"], told["region"], told["bucket"]) == ("my-project", "us-central1", "gs://films/runs")
    _, out, _ = run("--submit", *TRAIN, "--json")
    assert json.loads(out)["version"] == told["version"]


@pytest.mark.parametrize("display_names", [False, True])
def test_submit_and_wait(display_names: bool, cloud: Cloud, run: Run) -> None:
    cloud.pipelines.fate = Fate(
        not_triggered=FIRST_OF_ALL.not_triggered, pending=2, cached=("load-data",), display_names=display_names
    )
    code, out, err = run("--submit", "--wait", *TRAIN)
    assert code == 0 and facts_of(out)["state"] == "SUCCEEDED" and facts_of(out)["url"] in err
    assert "train_model running\n" in err and "check_vertex_endpoint succeeded after 7 s\n" in err
    code, out, _ = run("--wait", next(iter(cloud.pipelines.jobs)).rpartition("/")[2], "--json")
    told = json.loads(out)
    assert code == 0 and told["seconds"] == 60
    assert {one["state"] for one in told["steps"].values()} == {"SUCCEEDED"}
    shared = ["load_data", "train_model", "evaluate_model", "gate", "archive_model", "validate_archive"]
    assert [step for step in told["steps"] if step in shared] == shared
    # Of what the plan chooses between, only what was chosen is told.
    assert "model_upload" in told["steps"] and "model_upload_2" not in told["steps"]


@pytest.mark.parametrize(
    ("fate", "timeout", "code", "message"),
    [
        (Fate(failing="train-model"), (), 1, "error: train_model failed: http"),
        (Fate(not_triggered=("condition-1",)), (), 3, "error: the gate is not passed; nothing was archived: http"),
        (Fate(ends=None), ("--timeout", "0.1"), 4, "error: the run has not ended after 0.1 s; it goes on: --wait "),
        (Fate(ends="CANCELLED"), (), 1, "error: the run was canceled: http"),
        (Fate(ends="FAILED"), (), 1, "error: the run failed: http"),
    ],
)
def test_the_exit_code_is_the_runs(
    fate: Fate, timeout: tuple[str, ...], code: int, message: str, cloud: Cloud, run: Run
) -> None:
    cloud.pipelines.fate = fate
    found, out, err = run("--submit", "--wait", *TRAIN, *timeout)
    assert (found, out) == (code, "") and err.splitlines()[-1].startswith(message)
    run_id = next(iter(cloud.pipelines.jobs)).rpartition("/")[2]
    found, out, err = run("--wait", run_id, *timeout, "--json")
    told = json.loads(out)
    assert found == code and told["run_id"] == run_id and message == f"error: {told['error']}"[: len(message)]
    assert told["url"].endswith(f"{run_id}?project=my-project")


def test_without_a_deployment_it_has_succeeded(cloud: Cloud, run: Run) -> None:
    cloud.pipelines.fate = Fate(not_triggered=("condition-2",))
    code, out, _ = run("--submit", "--wait", *TRAIN, "--json")
    steps = json.loads(out)["steps"]
    assert code == 0 and "validate_archive" in steps and "model_deploy" not in steps


def test_the_gate_of_the_compiled_file_is_the_first_condition() -> None:
    spec = yaml.safe_load(COMPILED.read_text(encoding="utf-8"))
    gated = spec["components"]["comp-condition-1"]["dag"]["tasks"]
    assert "gate" in spec["root"]["dag"]["tasks"]["condition-1"]["dependentTasks"] and "archive-model" in gated


def test_the_log_of_the_step_that_failed(cloud: Cloud, run: Run) -> None:
    cloud.pipelines.fate = Fate(failing="train-model", reason="The replica exited with 1.\nSee the logs.")
    code, _, err = run("--submit", "--wait", *TRAIN)
    # Cloud Logging has nothing of it: then at least what Vertex AI says.
    assert code == 1 and "the end of train_model's log:\nThe replica exited with 1. See the logs.\nerror: train" in err
    cloud.around.logs["job-train-model"] = [f"line {at}" for at in range(100)]
    run_id = next(iter(cloud.pipelines.jobs)).rpartition("/")[2]
    _, _, err = run("--wait", run_id)
    end = err.partition("the end of train_model's log:\n")[2].splitlines()[:-1]
    assert end == [f"line {at}" for at in range(100 - waiting.LOG_LINES, 100)]
    cloud.around.granted.discard("logging.logEntries.list")
    assert "The replica exited with 1. See the logs." in run("--wait", run_id)[2]


def test_there_is_no_such_run(cloud: Cloud, run: Run) -> None:
    for run_id in ("unknown", "a/b c?", "ü", "projects/p/locations/r/pipelineJobs/x"):
        code, out, err = run("--wait", run_id)
        assert (code, out) == (2, "")
        assert err.splitlines()[-1] == f"error: there is no run {run_id} in us-central1: --runs lists them"


def test_a_server_that_is_away_for_a_while(cloud: Cloud, run: Run) -> None:
    cloud.pipelines.fate = FIRST_OF_ALL
    _, out, _ = run("--submit", *TRAIN, "--json")
    run_id = json.loads(out)["run_id"]
    cloud.drop(times=2, on="GET .*/pipelineJobs/")
    cloud.refuse(503, "away", times=2, on="GET .*/pipelineJobs/")
    code, _, err = run("--wait", run_id)
    assert code == 0 and err.count("; trying on for 15 minutes\n") == err.count("Vertex AI is back\n") == 1


def test_a_server_that_stays_away(cloud: Cloud, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _, out, _ = run("--submit", *TRAIN, "--json")
    run_id = json.loads(out)["run_id"]
    monkeypatch.setattr(waiting, "PATIENCE_SECONDS", 0.01)
    cloud.refuse(500, "Internal error encountered.", times=999, on="GET .*/pipelineJobs/")
    code, _, err = run("--wait", run_id)
    told = f"500: Internal error encountered.; the run may go on: --wait {run_id} comes back to it"
    assert code == 1 and err.splitlines()[-1] == f"error: reading the run: {told}"


def test_who_may_not_ask_any_more_is_told_that_the_run_goes_on(cloud: Cloud, run: Run) -> None:
    _, out, _ = run("--submit", *TRAIN, "--json")
    run_id = json.loads(out)["run_id"]
    cloud.around.granted.discard("aiplatform.pipelineJobs.get")
    code, _, err = run("--wait", run_id)
    assert code == 2 and f"the run may go on: --wait {run_id} comes back to it" in err


def test_an_answer_that_is_lost_makes_no_second_run(cloud: Cloud, run: Run) -> None:
    cloud.lose_answer(on=POST_JOB)
    code, out, _ = run("--submit", *TRAIN, "--json")
    assert code == 0 and [json.loads(out)["run_id"]] == [one.rpartition("/")[2] for one in cloud.pipelines.jobs]
    cloud.drop(on=POST_JOB)
    assert run("--submit", *TRAIN)[0] == 0 and len(cloud.pipelines.jobs) == 2


def test_a_bucket_that_is_not_there_is_not_made(cloud: Cloud, run: Run) -> None:
    code, out, err = run("--submit", *TRAIN, "--bucket", "gs://flims")
    assert (code, out) == (2, "") and cloud.changes == []
    make = "gcloud storage buckets create gs://flims --project my-project --location us-central1"
    assert err.splitlines()[-1] == f"error: there is no bucket flims: {make}"


def test_who_may_not_read_what_the_bucket_is_may_run_all_the_same(cloud: Cloud, run: Run) -> None:
    cloud.around.granted.discard("storage.buckets.get")
    assert run("--submit", *TRAIN)[0] == 0


def test_runs(cloud: Cloud, run: Run) -> None:
    cloud.pipelines.page = 2
    ids = [json.loads(run("--submit", *TRAIN, "--json")[1])["run_id"] for _ in range(5)]
    cloud.pipelines.fate = FIRST_OF_ALL
    ids.append(json.loads(run("--submit", *TRAIN, "--json", "--experiment", "films")[1])["run_id"])
    run("--wait", ids[-1])
    code, out, _ = run("--runs", "--json", "--count", "4")
    told = json.loads(out)
    assert code == 0 and [one["id"] for one in told] == ids[:1:-1]
    assert {key: told[0][key] for key in ("name", "state", "seconds", "experiment")} == {
        **{"name": ids[-1], "state": "SUCCEEDED", "seconds": 60, "experiment": "films"}
    }
    assert (told[1]["state"], told[1]["seconds"]) == ("PENDING", None) and ids[0].startswith(told[1]["version"])
    # The pipeline itself, which is long, is not asked for.
    listings = [dict(one.query) for one in cloud.requests if "readMask" in one.target]
    assert {one["readMask"] for one in listings} == {"name,displayName,state,createTime,endTime,labels"}
    assert [(one["pageSize"], one.get("pageToken")) for one in listings] == [("4", None), ("4", "2")]
    assert run("--runs")[1].splitlines()[1].startswith(ids[-1])


def test_wrong_values_are_told_before_anything_is_asked(cloud: Cloud, run: Run) -> None:
    for argv, message in (
        (("--set", "train_data="), "train_data is ''"),
        (("--set", "epoch=1"), "did you mean 'epochs'?"),
        (("--set", "epochs=x"), "epochs is a number"),
        (("--set", 'train_machine_type=n1"standard'), "train_machine_type is 'n1\"standard': it must be a machine"),
        (("--set", "train_gpus=1"), "train_accelerator is '' and train_gpus 1: set both, or none of them"),
        (("--set", "canary_percent=0"), "canary_percent is 0: it must be from 1 to 100"),
        (("--set", "serving_image="), "serving_image is '': build the Dockerfile's target torchserve"),
        (("--set", "train_data=reviews.csv"), "steps on Vertex AI don't see the files of this machine"),
        (("--set", "train_data=https://u:S3CRET@h/x.csv"), "train_data holds a user or a password"),
        (("--project", "My Project"), "project is 'My Project': give the project's id, as in my-project"),
        (("--region", "Europe"), "region is 'Europe': give one, as in europe-west4"),
        (("--region", "nowhere-east1"), "Vertex AI can't run this: Unsupported region for Vertex AI"),
        (("--bucket", "films"), "bucket is 'films': write gs://bucket or gs://bucket/folder"),
        (("--bucket", "gs://films/a?b"), "bucket is 'gs://films/a?b'"),
        (("--service-account", "robot"), "service_account is 'robot': on Vertex AI it is an e-mail address"),
        (("--experiment", "films & co"), "experiment is 'films & co': on Vertex AI it is a label"),
        (("--image", "No"), "--image 'No' is no name of an image"),
        (("--host", "http://x"), "--host goes with --platform kubeflow, not with vertex"),
        (("--namespace", "team"), "--namespace goes with --platform kubeflow"),
    ):
        code, out, err = run("--submit", *TRAIN, *argv)
        assert (code, out) == (2, ""), argv
        assert message in err and err.splitlines()[-1].startswith("error: ") and "S3CRET" not in err
        assert cloud.changes == []
        code, out, _ = run("--submit", *TRAIN, *argv, "--json")
        assert code == 2 and message in json.loads(out)["error"]
    code, _, err = run("--submit", "--set", "deploy=false")
    assert code == 2 and err == "error: train_data is not set: --set train_data=gs://bucket/reviews.csv\n"


def test_flags_of_vertex_mean_nothing_on_kubeflow(run: Run) -> None:
    for flag, value in (("--project", "p"), ("--region", "r"), ("--bucket", "b")):
        code, _, err = run("--runs", flag, value)
        assert code == 2 and err == f"error: {flag} goes with --platform vertex, not with kubeflow\n"
    code, _, err = run("--runs", "--platform", "nowhere")
    assert code == 2 and "argument --platform: invalid choice: 'nowhere'" in err


@pytest.mark.parametrize("command", ["--upload", "--deploy", "--rollback"])
def test_what_has_no_sense_there_says_what_to_do(command: str, cloud: Cloud, run: Run) -> None:
    more = ("--release", "x") if command == "--deploy" else ()
    code, out, err = run(command, *more)
    assert (code, out) == (2, "") and err.startswith(f"error: {command}: ") and err.count("\n") == 1
    assert cloud.requests == []


@pytest.mark.parametrize("json_too", [(), ("--json",)])
def test_ctrl_c_leaves_the_run_running(json_too: tuple[str, ...], cloud: Cloud) -> None:
    cloud.pipelines.fate = Fate(ends=None)
    # Google's own command line may leave warnings; nothing is on stderr that no one asked for.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(ROOT / "pipeline_v2.py"), "--submit", "--wait", *TRAIN, *json_too]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr and process.stdout
        lines: list[str] = []
        while "running" not in (line := process.stderr.readline()):
            assert line, lines
            lines.append(line)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    run_id = next(iter(cloud.pipelines.jobs)).rpartition("/")[2]
    assert process.returncode == 130 and len(lines) == 3
    assert err.splitlines()[-1] == f"interrupted; the run goes on: --wait {run_id} comes back to it"
    assert "Traceback" not in err and not any("cancel" in one for one in cloud.changes)
    if json_too:
        assert json.loads(out)["run_id"] == run_id
    else:
        assert out == ""
