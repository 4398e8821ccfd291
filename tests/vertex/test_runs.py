"""`--submit`, `--wait` and `--runs` on Vertex AI, as a user types them: what they print, send, and end with."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format

from nlp_pipeline.pipeline.compiling import compile_pipeline
from nlp_pipeline.platforms import waiting
from tests.fakes.vertex.cloud import ACCOUNT, Cloud
from tests.fakes.vertex.pipelines import Fate
from tests.vertex.conftest import TRAIN, Run

FIRST_OF_ALL = Fate(not_triggered=("condition-5", "condition-8"))
POST_JOB = "POST .*/pipelineJobs"


def facts_of(out: str) -> dict[str, str]:
    return dict(line.split(maxsplit=1) for line in out.splitlines())


def submitted(run: Run, *argv: str) -> str:
    code, out, err = run("--submit", *TRAIN, *argv, "--json")
    assert code == 0, err
    return str(json.loads(out)["run_id"])


def made(cloud: Cloud) -> Any:
    """Returns the only run that there is, as the API's message."""
    ((_, job),) = cloud.pipelines.jobs.items()
    return job.job


def spec_of(job: Any) -> dict[str, Any]:
    spec: dict[str, Any] = json_format.MessageToDict(type(job).pb(job).pipeline_spec)
    return spec


def test_submit(cloud: Cloud, run: Run) -> None:
    code, out, err = run("--submit", *TRAIN, "--set", "epochs=1", "--set", "deploy=false", "--experiment", "films")
    facts, job = facts_of(out), made(cloud)
    run_id = facts["run_id"]
    assert code == 0 and job.name == f"projects/123456789012/locations/us-central1/pipelineJobs/{run_id}"
    assert run_id.startswith(f"{facts['version']}-") and job.display_name == facts["name"] == run_id
    console = "https://console.cloud.google.com/vertex-ai/locations/us-central1/pipelines/runs"
    assert facts["url"] == f"{console}/{run_id}?project=my-project"
    assert dict(job.labels) == {"nlp-pipeline-version": facts["version"], "nlp-pipeline-experiment": "films"}
    config = json_format.MessageToDict(type(job).pb(job).runtime_config)
    assert config["gcsOutputDirectory"] == "gs://films/runs"
    assert config["parameterValues"] == {
        **{"train_data": "gs://films/reviews.csv", "epochs": 1.0, "deploy": False},
        **{"project": "my-project", "location": "us-central1", "serving_image": "registry.example.com/torchserve:1"},
    }
    assert spec_of(job) == yaml.safe_load(compile_pipeline(pipeline="vertex"))
    assert err == "project my-project, region us-central1, as ann@my-project.iam.gserviceaccount.com\n"
    assert cloud.changes == ["POST /v1/projects/my-project/locations/us-central1/pipelineJobs"]


def test_submit_with_an_image_a_service_account_and_another_place(cloud: Cloud, run: Run) -> None:
    submitted(run, "--image", "registry:5000/x:1", "--service-account", ACCOUNT, "--bucket", "gs://films/")
    job = made(cloud)
    assert job.service_account == ACCOUNT and job.runtime_config.gcs_output_directory == "gs://films"
    assert job.runtime_config.parameter_values["job_service_account"] == ACCOUNT
    executors = spec_of(job)["deploymentSpec"]["executors"].values()
    images = {item["container"]["image"] for item in executors if "container" in item}
    assert "registry:5000/x:1" in images and not any(item.startswith("python") for item in images)
    # What the user sets goes before what the settings have.
    own = "other@my-project.iam.gserviceaccount.com"
    argv = ("--set", f"job_service_account={own}", "--service-account", ACCOUNT, "--dry-run", "--json")
    assert json.loads(run("--submit", *TRAIN, *argv)[1])["parameters"]["job_service_account"] == own


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


def test_a_dry_run_sends_nothing_and_needs_no_credentials(
    cloud: Cloud, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    code, out, err = run("--submit", "--wait", *TRAIN, "--dry-run")
    assert code == 0 and err == "" and cloud.requests == [] and cloud.tokens == 0
    result = facts_of(out)
    assert (result["project"], result["region"], result["bucket"]) == ("my-project", "us-central1", "gs://films/runs")
    assert result["version"].startswith("nlp-pipeline-")


@pytest.mark.parametrize("display_names", [False, True])
def test_submit_and_wait(display_names: bool, cloud: Cloud, run: Run) -> None:
    absent = FIRST_OF_ALL.not_triggered
    cloud.pipelines.fate = Fate(not_triggered=absent, pending=2, cached=("load-data",), display_names=display_names)
    code, out, err = run("--submit", "--wait", *TRAIN)
    assert code == 0 and facts_of(out)["state"] == "SUCCEEDED" and facts_of(out)["url"] in err
    assert "train_model running\n" in err and "check_vertex_endpoint succeeded after 7 s\n" in err
    assert err.count("project my-project, ") == 1
    code, out, _ = run("--wait", made(cloud).display_name, "--json")
    result = json.loads(out)
    assert code == 0 and result["seconds"] == 60
    assert {item["state"] for item in result["steps"].values()} == {"SUCCEEDED"}
    shared = ["load_data", "train_model", "evaluate_model", "archive_model", "validate_archive"]
    assert [step for step in result["steps"] if step in shared] == shared
    # Of what the plan chooses between, only what was chosen is shown.
    assert "model_upload" in result["steps"] and "model_upload_2" not in result["steps"]


@pytest.mark.parametrize(
    ("fate", "code", "message"),
    [
        (Fate(failing="train-model"), 1, "error: train_model failed: The replica workerpool0-0 exited with"),
        (Fate(not_triggered=("condition-1",)), 3, "error: the gate is not passed; nothing was archived: http"),
        (Fate(ends="CANCELLED"), 1, "error: the run was canceled: http"),
        (Fate(ends="FAILED"), 1, "error: the run failed: http"),
    ],
)
def test_the_exit_code_is_the_runs(fate: Fate, code: int, message: str, cloud: Cloud, run: Run) -> None:
    cloud.pipelines.fate = fate
    outcome, out, err = run("--submit", "--wait", *TRAIN, "--json")
    result, run_id = json.loads(out), made(cloud).display_name
    assert outcome == code and err.splitlines()[-1].startswith(message)
    assert result["run_id"] == run_id and result["url"].endswith(f"{run_id}?project=my-project")
    assert f"error: {result['error']}".startswith(message)


def test_the_log_of_the_step_that_failed(cloud: Cloud, run: Run) -> None:
    cloud.pipelines.fate = Fate(failing="train-model", reason="The replica exited with 1.\nSee the logs.")
    code, _, err = run("--submit", "--wait", *TRAIN)
    # Cloud Logging has nothing of it: then at least what Vertex AI says.
    assert code == 1 and "the end of train_model's log:\nThe replica exited with 1. See the logs.\nerror: train" in err
    cloud.around.logs["job-train-model"] = [f"line {at}" for at in range(100)]
    run_id = made(cloud).display_name
    end = run("--wait", run_id)[2].partition("the end of train_model's log:\n")[2].splitlines()[:-1]
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
    run_id = submitted(run)
    cloud.drop(times=2, on="GET .*/pipelineJobs/")
    cloud.refuse(503, "away", times=2, on="GET .*/pipelineJobs/")
    code, _, err = run("--wait", run_id)
    assert code == 0 and err.count("; trying on for 15 minutes\n") == err.count("Vertex AI is back\n") == 1


def test_an_answer_that_is_lost_makes_no_second_run(cloud: Cloud, run: Run) -> None:
    cloud.lose_answer(on=POST_JOB)
    assert submitted(run) == made(cloud).display_name
    cloud.drop(on=POST_JOB)
    submitted(run)
    assert len(cloud.pipelines.jobs) == 2


def test_a_bucket_that_is_not_there_is_not_made(cloud: Cloud, run: Run) -> None:
    code, out, err = run("--submit", *TRAIN, "--bucket", "gs://flims")
    assert (code, out) == (2, "") and cloud.changes == []
    make = "gcloud storage buckets create gs://flims --project my-project --location us-central1"
    assert err.splitlines()[-1] == f"error: there is no bucket flims: {make}"
    # Who may not read what the bucket is may run all the same.
    cloud.around.granted.discard("storage.buckets.get")
    submitted(run)


def test_runs(cloud: Cloud, run: Run) -> None:
    cloud.pipelines.page = 2
    ids = [submitted(run) for _ in range(5)]
    cloud.pipelines.fate = FIRST_OF_ALL
    ids.append(submitted(run, "--experiment", "films"))
    run("--wait", ids[-1])
    code, out, _ = run("--runs", "--json", "--count", "4")
    rows = json.loads(out)
    assert code == 0 and [row["id"] for row in rows] == ids[:1:-1]
    last = {"name": ids[-1], "state": "SUCCEEDED", "seconds": 60, "experiment": "films"}
    assert {key: rows[0][key] for key in last} == last
    assert (rows[1]["state"], rows[1]["seconds"]) == ("PENDING", None) and ids[0].startswith(rows[1]["version"])
    # The pipeline itself, which is long, is not asked for.
    listings = [dict(item.query) for item in cloud.requests if "readMask" in item.target]
    assert {item["readMask"] for item in listings} == {"name,displayName,state,createTime,endTime,labels"}
    assert [(item["pageSize"], item.get("pageToken")) for item in listings] == [("4", None), ("4", "2")]
    assert run("--runs")[1].splitlines()[1].startswith(ids[-1])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--set", 'train_machine_type=n1"standard'), "train_machine_type is 'n1\"standard': it must be a machine"),
        (
            ("--set", "train_data=reviews.csv"),
            "train_data=reviews.csv: the steps don't see this machine's files: give a URL, or gs:",
        ),
        (("--set", "train_data=https://u:S3CRET@h/x.csv"), "train_data holds a user or a password"),
        (("--region", "Europe"), "region is 'Europe': it must be a region, as in europe-west4"),
        (("--region", "nowhere-east1"), "Vertex AI is not in nowhere-east1"),
        (("--bucket", "films"), "bucket is 'films': it must be a bucket or a folder in one"),
        (("--experiment", "films & co"), "experiment is 'films & co': it must be a label"),
        (("--host", "http://x"), "--host goes with --platform kubeflow, not with vertex"),
    ],
)
def test_wrong_values_are_said_before_anything_is_sent(
    argv: tuple[str, ...], message: str, cloud: Cloud, run: Run
) -> None:
    code, out, err = run("--submit", *TRAIN, *argv, "--json")
    assert code == 2 and message in json.loads(out)["error"]
    assert message in err and err.splitlines()[-1].startswith("error: ") and "S3CRET" not in out + err
    assert cloud.changes == []


@pytest.mark.parametrize("command", ["--upload", "--deploy", "--rollback"])
def test_what_has_no_sense_there_says_what_to_do(command: str, cloud: Cloud, run: Run) -> None:
    more = ("--release", "x") if command == "--deploy" else ()
    code, out, err = run(command, *more)
    assert (code, out) == (2, "") and err.startswith(f"error: {command}: ") and err.count("\n") == 1
    assert cloud.requests == []
