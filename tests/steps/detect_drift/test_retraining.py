"""A run of a schedule is started from within a pod, by the API of Kubeflow Pipelines."""

from pathlib import Path

import pytest

from nlp_pipeline import settings, storage
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.kubeflow import sign_in
from nlp_pipeline.kubeflow.schedules import Schedules
from nlp_pipeline.platforms.schedules import ScheduleOptions
from nlp_pipeline.settings import Settings
from nlp_pipeline.steps.detect_drift import retraining
from nlp_pipeline.steps.detect_drift.retraining import start_run_of
from tests.fakes.kfp import Kubeflow, kubeflow

VALUES = {"train_data": "s3://bucket/reviews.csv", "model_name": "reviews"}


def schedule(k: Kubeflow, name: str, **more: str) -> None:
    """Schedules the pipeline, as `--schedule` does."""
    made = Settings.model_validate({"host": k.url, "experiment": "films", "service_account": "robot", **more})
    Schedules(made).schedule(ScheduleOptions(cron="0 0 2 * * *", name=name), VALUES, dry_run=False)


def in_pod(monkeypatch: pytest.MonkeyPatch, folder: Path, host: str, token: str = "") -> None:
    """Makes this process one of a pod, which may have a token."""
    (folder / "namespace").write_text("team\n")
    if token:
        (folder / "token").write_text(f"{token}\n")
    monkeypatch.setattr(retraining, "POD_NAMESPACE", folder / "namespace")
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.001)
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(folder / "token"))
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", host)


def test_where_the_api_and_the_token_are_stands_as_the_client_has_it() -> None:
    assert (retraining.HOST, retraining.TOKEN) == (settings.POD_HOST, sign_in.POD_TOKEN)
    assert retraining.TOKEN_VARIABLE == sign_in.POD_TOKEN_PATH
    assert settings.KUBEFLOW[retraining.HOST_VARIABLE] == "host"


def test_the_run_is_as_the_schedules_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with kubeflow() as k:
        schedule(k, "other")
        schedule(k, "it's 50% & more")
        Schedules(Settings.model_validate({"host": k.url})).pause("it's 50% & more", dry_run=False)
        in_pod(monkeypatch, tmp_path, k.url)
        k.faults.fail(503, on="GET .*/recurringruns")
        run_id = start_run_of("it's 50% & more", "0123456789abcdef")
        (run,) = k.api.runs
        recurring = k.api.recurring_runs[1]
    assert run["run_id"] == run_id and run["display_name"] == "it's 50% & more as data moved 01234567"
    assert run["runtime_config"] == {"parameters": VALUES} and run["service_account"] == "robot"
    for name in ("experiment_id", "pipeline_version_reference"):
        assert run[name] == recurring[name]


def test_of_several_users_by_the_pods_token_and_in_its_namespace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kubeflow(tokens={"pod-token": "team"}) as k:
        schedule(k, "nightly", namespace="team", token="pod-token")
        in_pod(monkeypatch, tmp_path, f"{k.url}/pipeline", "pod-token")
        assert start_run_of("nightly", "run") == k.api.runs[0]["run_id"]
        with pytest.raises(
            UsageError, match=r"^retrain=weekly: there is no schedule of that name in namespace team; -"
        ):
            start_run_of("weekly", "run")
        (tmp_path / "token").unlink()
        with pytest.raises(
            UsageError, match=r"does not let this pod in \(401\): in a Kubeflow profile it needs the Pod"
        ):
            start_run_of("nightly", "run")
        assert len(k.api.runs) == 1


def test_no_two_trainings_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with kubeflow() as k:
        schedule(k, "nightly")
        in_pod(monkeypatch, tmp_path, k.url)
        own = k.api.fire(k.api.recurring_runs[0]["recurring_run_id"])["run_id"]
        assert start_run_of("nightly", "run") == own and len(k.api.runs) == 1
        k.api.records["runs"][own]["state"] = "SUCCEEDED"
        run_id = start_run_of("nightly", "run")
        assert start_run_of("nightly", "later") == run_id and len(k.api.runs) == 2
        assert f"run {run_id} of 'nightly' goes on: no other is started" in capsys.readouterr().out
        k.api.records["runs"][run_id]["state"] = "FAILED"
        assert start_run_of("nightly", "later") not in (own, run_id)


def test_what_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with kubeflow() as k:
        schedule(k, "nightly")
        in_pod(monkeypatch, tmp_path, k.url)
        k.faults.fail(500, times=9, on="POST .*/runs")
        with pytest.raises(PipelineError, match=r"^retrain: http://.* can't be asked \(it answered 500: "):
            start_run_of("nightly", "run")
        assert k.faults.left == 8  # what may have been done is not done again
    with pytest.raises(PipelineError, match=r"^retrain: http://.* can't be asked \(.*\)$"):
        start_run_of("nightly", "run")
