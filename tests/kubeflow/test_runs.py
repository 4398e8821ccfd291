"""Runs and recurring runs of the KFP API's stand-in, as the real `kfp.Client` sees them."""

import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.kubeflow import cron
from tests.kubeflow.conftest import PARAMETERS, PIPELINE, Connect, refusal, run_of, uploaded
from tests.kubeflow.emulator import Fate, Kubeflow

TASKS = ["load-data", "train-model", "evaluate-model", "gate", "archive-model", "validate-archive", "deploy-model"]
NEVER = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def tasks(run: Any) -> dict[str, str | None]:
    """Returns the states of a run's tasks that have a name of their own."""
    details = run.run_details.task_details if run.run_details else []
    return {one.display_name: one.state for one in details if one.display_name != "executor"}


def ended(client: Any, run: Any) -> Any:
    """Reads a run until it has ended."""
    for _ in range(30):
        run = client.get_run(run.run_id)
        if run.state in ("SUCCEEDED", "FAILED", "CANCELED"):
            return run
    raise AssertionError(f"the run is still {run.state}")


def test_a_run_goes_on_with_each_read(client: Any, k: Kubeflow) -> None:
    run = run_of(client)
    assert (run.state, run.finished_at, run.run_details) == ("PENDING", NEVER, None)
    for at, name in enumerate(TASKS):
        run = client.get_run(run.run_id)
        assert (run.state, tasks(run)[name]) == ("RUNNING", "RUNNING")
        assert [tasks(run)[one] for one in TASKS[:at]] == ["SUCCEEDED"] * at
        assert not set(TASKS[at + 1 :]) & set(tasks(run))
        assert client.list_runs().runs[0].state == "RUNNING"
    run = client.get_run(run.run_id)
    assert run.state == "SUCCEEDED"
    assert set(tasks(run).values()) == {"SUCCEEDED"}
    assert [one.state for one in run.state_history] == ["PENDING", "RUNNING", "SUCCEEDED"]
    assert run.finished_at > run.created_at
    assert client.get_run(run.run_id).to_dict() == run.to_dict()
    assert run.runtime_config.parameters == PARAMETERS
    assert k.api.experiments[-1]["last_run_created_at"] == k.api.runs[0]["created_at"]


def test_nodes_are_argos(client: Any, k: Kubeflow) -> None:
    k.api.fate = Fate(cached=("load-data",))
    run = ended(client, run_of(client))
    details = run.run_details.task_details
    names = [one.display_name for one in details]
    assert names.count("executor") == len(TASKS)
    assert {"root", "root-driver", "train-model-driver", "condition-1", "condition-2-driver"} < set(names)
    assert names.index("load-data") > names.index("train-model") or names != sorted(names)
    assert [one.state for one in details if one.display_name == "executor"].count("SKIPPED") == 1


def test_what_a_condition_leaves_out_has_no_node(client: Any, k: Kubeflow) -> None:
    k.api.fate = Fate(skipped=("condition-2",))
    run = ended(client, run_of(client))
    assert (run.state, tasks(run)["condition-2"]) == ("SUCCEEDED", "SKIPPED")
    assert tasks(run)["validate-archive"] == "SUCCEEDED"
    assert "deploy-model" not in tasks(run)


@pytest.mark.parametrize("reason", ["", "OOMKilled"])
def test_a_run_that_fails(client: Any, k: Kubeflow, reason: str) -> None:
    k.api.fate = Fate(failing="archive-model", reason=reason)
    run = ended(client, run_of(client))
    found = tasks(run)
    assert (run.state, found["archive-model"], found["condition-1"], found["root"]) == ("FAILED",) * 4
    assert (found["gate"], found["validate-archive"], found["condition-2"]) == ("SUCCEEDED", None, None)
    errors = {one.display_name: one.error.message for one in run.run_details.task_details if one.error}
    assert errors == ({"archive-model": reason} if reason else {})
    assert (run.error and run.error.message) == (reason or None)


def test_a_run_that_never_ends_or_waits(client: Any, k: Kubeflow) -> None:
    k.api.fate = Fate(ends=None, pending=2)
    run = run_of(client)
    assert [client.get_run(run.run_id).state for _ in range(20)] == ["PENDING"] * 2 + ["RUNNING"] * 18


def test_a_run_may_take_fewer_reads(client: Any, k: Kubeflow) -> None:
    k.api.fate = Fate(reads=1)
    run = run_of(client)
    assert [client.get_run(run.run_id).state for _ in range(2)] == ["RUNNING", "SUCCEEDED"]
    assert client.wait_for_run_completion(run.run_id, timeout=1).state == "SUCCEEDED"


@pytest.mark.parametrize("after", ["FAILED", "CANCELED"])
def test_a_run_that_is_terminated(client: Any, k: Kubeflow, after: str) -> None:
    k.api.fate = Fate(ends=None, terminated=after)
    run = run_of(client)
    client.get_run(run.run_id)
    client.terminate_run(run.run_id)
    assert [client.get_run(run.run_id).state for _ in range(3)] == ["CANCELING", after, after]
    status, told = refusal(client.terminate_run, run.run_id)
    assert (status, told.endswith("Row not found")) == (400, True)


def test_waiting_does_not_know_that_a_canceled_run_has_ended(client: Any, k: Kubeflow) -> None:
    k.api.fate = Fate(ends="CANCELED", reads=1)
    run = run_of(client)
    with pytest.raises(TimeoutError, match="Run timeout"):
        client.wait_for_run_completion(run.run_id, timeout=0.02, sleep_duration=0.005)
    assert k.api.runs[0]["state"] == "CANCELED"


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({}, "parameter train_data is not optional, yet has neither default value nor user provided value"),
        ({"train_data": 1}, "input parameter train_data requires type string"),
        ({"train_data": "a", "batch_size": "32"}, "input parameter batch_size requires type double or integer"),
        ({"train_data": "a", "batch_size": True}, "input parameter batch_size requires type double or integer"),
        ({"train_data": "a", "deploy": "yes"}, "input parameter deploy requires type bool"),
        ({"train_data": "a", "speed": 1}, "parameter(s) provided are not required by pipeline: speed"),
    ],
)
def test_parameters_are_checked(client: Any, k: Kubeflow, parameters: Any, told: str) -> None:
    status, text = refusal(run_of, client, params=parameters)
    assert (status, told in text) == (400, True)
    assert not k.api.runs


def test_a_run_brings_its_pipeline_along(client: Any) -> None:
    experiment = client.create_experiment("reviews").experiment_id
    run = client.run_pipeline(experiment, "from a file", PIPELINE, params=PARAMETERS)
    assert set(run.pipeline_spec) == {"pipeline_spec", "platform_spec"}
    assert run.pipeline_version_reference is None


def test_whatever_is_wrong_with_a_version_is_a_500(client: Any) -> None:
    pipeline, version = uploaded(client)
    other, _ = uploaded(client, "other")
    experiment = client.create_experiment("reviews").experiment_id
    for reference in ((pipeline, "unknown"), (other, version)):
        given = dict(zip(("pipeline_id", "version_id"), reference, strict=True))
        assert refusal(client.run_pipeline, experiment, "a run", params=PARAMETERS, **given)[0] == 500
    assert refusal(client.run_pipeline, "unknown", "a run", pipeline_id=pipeline, version_id=version)[0] == 404


def test_runs_are_of_their_experiments_namespace(team: Kubeflow, connect: Connect) -> None:
    ann, bob = connect(team, existing_token="ann", namespace="team"), connect(team, existing_token="bob")
    run = run_of(ann)
    assert run.service_account == "default-editor"
    assert ann.list_runs(experiment_id=run.experiment_id).total_size == 1
    assert ann.list_runs(namespace="team").total_size == 1
    assert bob.list_runs(namespace="other").runs is None
    for function in (bob.get_run, bob.terminate_run, bob.archive_run, bob.delete_run):
        assert refusal(function, run.run_id)[0] == 403
    ann.archive_run(run.run_id)
    assert ann.get_run(run.run_id).storage_state == "ARCHIVED"
    ann.delete_run(run.run_id)
    assert refusal(ann.get_run, run.run_id) == (404, f"Run {run.run_id} not found")


def schedule(client: Any, name: str = "nightly", **options: Any) -> Any:
    """Makes a recurring run of the newest pipeline."""
    version = client.list_pipeline_versions(client.get_pipeline_id("nlp-pipeline")).pipeline_versions[0]
    given = {
        "cron_expression": None if "interval_second" in options else "0 0 2 * * *",
        "params": PARAMETERS,
        "pipeline_id": version.pipeline_id,
        "version_id": version.pipeline_version_id,
        **options,
    }
    return client.create_recurring_run(client.create_experiment("reviews").experiment_id, name, **given)


def test_a_schedule(client: Any, k: Kubeflow) -> None:
    uploaded(client)
    made = schedule(client, no_catchup=True, start_time="2026-02-01T00:00:00Z", max_concurrency=2)
    found = client.get_recurring_run(made.recurring_run_id)
    assert found.to_dict() == made.to_dict()
    assert (found.mode, found.status, found.no_catchup, found.max_concurrency) == ("ENABLE", "ENABLED", True, "2")
    assert found.trigger.cron_schedule.cron == "0 0 2 * * *"
    assert found.trigger.cron_schedule.start_time == datetime.datetime(2026, 2, 1, tzinfo=datetime.UTC)
    assert found.runtime_config.parameters == PARAMETERS
    run = k.api.fire(made.recurring_run_id)
    assert (run["recurring_run_id"], run["state"]) == (made.recurring_run_id, "PENDING")
    client.disable_recurring_run(made.recurring_run_id)
    found = client.get_recurring_run(made.recurring_run_id)
    assert (found.mode, found.status, found.updated_at > found.created_at) == ("DISABLE", "DISABLED", True)
    assert k.api.fire(made.recurring_run_id) == {}
    client.enable_recurring_run(made.recurring_run_id)
    client.delete_recurring_run(made.recurring_run_id)
    assert refusal(client.get_recurring_run, made.recurring_run_id)[0] == 404
    assert refusal(client.delete_recurring_run, made.recurring_run_id)[0] == 404


def test_schedules_may_have_the_same_name_and_come_in_pages(client: Any, k: Kubeflow) -> None:
    uploaded(client)
    made = [schedule(client, enabled=at % 2 == 0, interval_second=60).recurring_run_id for at in range(32)]
    page = client.list_recurring_runs(sort_by="created_at desc", page_size=30)
    assert [one.recurring_run_id for one in page.recurring_runs] == made[::-1][:30]
    assert page.total_size == 32
    assert page.recurring_runs[0].trigger.periodic_schedule.interval_second == "60"
    assert {one["mode"] for one in k.api.recurring_runs} == {"ENABLE", "DISABLE"}


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"cron_expression": "0 0 2 * *"}, 200),
        ({"cron_expression": "@daily"}, 200),
        ({"cron_expression": "0 0 2 * *  MON-FRI"}, 200),
        ({"cron_expression": "0 2 * *"}, 400),
        ({"cron_expression": "0 0 24 * * *"}, 400),
        ({"cron_expression": "0 0 2 L * *"}, 400),
        ({"max_concurrency": 11}, 400),
        ({"max_concurrency": None}, 400),
        ({"interval_second": -1}, 400),
        ({"params": {}}, 400),
        ({"version_id": "unknown"}, 500),
    ],
)
def test_what_a_schedule_may_be(client: Any, options: Any, status: int) -> None:
    uploaded(client)
    if status == 200:
        assert schedule(client, **options).recurring_run_id
    else:
        assert refusal(schedule, client, **options)[0] == status


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("*/15 0 0-12/2 1,15 JAN ?", ""),
        ("@every 1h30m", ""),
        ("0 0 2 * *", ""),
        ("", "Empty spec string"),
        ("@noon", "Unrecognized descriptor: @noon"),
        ("* * * *", "Expected 5 to 6 fields, found 4: * * * *"),
        ("60 * * * * *", "End of range (60) above maximum (59): 60"),
        ("0 0 0 0 * *", "Beginning of range (0) below minimum (1): 0"),
        ("0 0 5-1 * * *", "Beginning of range (5) beyond end of range (1): 5-1"),
        ("0 0 x * * *", 'Failed to parse int from x: strconv.Atoi: parsing "x": invalid syntax'),
        ("*/0 * * * * *", "Step of range should be a positive number: */0"),
    ],
)
def test_cron_lines(line: str, wrong: str) -> None:
    assert cron.problem(line) == wrong


def test_the_client_leaves_the_users_settings_alone(team: Kubeflow, connect: Connect, tmp_path: Path) -> None:
    connect(team, existing_token="ann")
    assert not (tmp_path / "kfp").exists()
