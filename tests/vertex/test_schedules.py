"""`--schedule` and what goes with it on Vertex AI: edited in place, never lost, sent only where something changes."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.cloud import aiplatform_v1
from google.protobuf import json_format

from nlp_pipeline.errors import UsageError
from nlp_pipeline.platforms.cron import next_times
from nlp_pipeline.platforms.schedules import write_time
from nlp_pipeline.vertex.schedules import read_cron
from tests.fakes.vertex.cloud import ACCOUNT, Cloud
from tests.fakes.vertex.pipelines import Fate
from tests.vertex.conftest import TRAIN, Run

NIGHTLY, HOURLY = "0 0 2 * * *", "0 0 * * * *"
State = aiplatform_v1.Schedule.State
SUMMER = datetime(2026, 7, 1, tzinfo=UTC)


def in_days(days: float) -> str:
    return write_time(datetime.now(UTC) + timedelta(days=days))


def scheduled(run: Run, cron: str = NIGHTLY, *argv: str, name: str = "nightly") -> dict[str, Any]:
    code, out, err = run("--schedule", cron, "--schedule-name", name, *TRAIN, *argv, "--json")
    assert code == 0, err
    result: dict[str, Any] = json.loads(out)
    return result


def stored(cloud: Cloud, name: str = "nightly") -> list[Any]:
    return [item for item in cloud.pipelines.schedules.values() if item.display_name == name]


def ids(cloud: Cloud) -> list[str]:
    return [item.name.rpartition("/")[2] for item in stored(cloud)]


def changes(cloud: Cloud, since: int = 0) -> list[str]:
    return [item.split()[0] for item in cloud.changes[since:]]


def by_hand(cloud: Cloud, run: Run, **changed: Any) -> Any:
    """Makes a schedule named "nightly" as the console would."""
    scheduled(run, name="other")
    (made,) = stored(cloud, "other")
    made.display_name = "nightly"
    made.create_pipeline_job_request.pipeline_job.labels = {}
    for name, value in changed.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("line", "expression", "zone", "became"),
    [
        ("00 30 6 * * mon-fri", "00 30 6 * * MON-FRI", "UTC", False),
        ("CRON_TZ=America/New_York 0 2 * * *", "0 0 2 * * *", "America/New_York", True),
    ],
)
def test_cron_with_a_time_zone(line: str, expression: str, zone: str, became: bool) -> None:
    cron = read_cron(line)
    assert (cron.expression, cron.zone, cron.became, cron.note) == (expression, zone, became, "")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0,30 0 2 * * *", 'Vertex AI knows no seconds: write 0 for the first field, as in "0 0 2 * * *"'),
        ("TZ=Europe/Nowhere 0 0 2 * * *", "there is no time zone 'Europe/Nowhere': write it as in TZ=Europe/Berlin"),
        ("TZ=../etc 0 0 2 * * *", "there is no time zone '../etc'"),
        ("TZ= 0 0 2 * * *", "there is no time zone ''"),
    ],
)
def test_cron_that_is_refused(line: str, message: str) -> None:
    with pytest.raises(UsageError, match=r"^--schedule ") as refused:
        read_cron(line)
    assert message in str(refused.value)


def test_when_it_comes() -> None:
    berlin = read_cron("TZ=Europe/Berlin 0 0 2 * * *")
    assert next_times(berlin, 1, SUMMER) == [datetime(2026, 7, 2, 0, tzinfo=UTC)]
    assert next_times(berlin, 1, datetime(2026, 12, 1, tzinfo=UTC)) == [datetime(2026, 12, 1, 1, tzinfo=UTC)]


def test_one_is_made(cloud: Cloud, run: Run) -> None:
    result = scheduled(run, NIGHTLY, "--experiment", "films")
    (item,) = stored(cloud)
    assert (item.cron, item.state, item.max_concurrent_run_count) == ("TZ=UTC 0 2 * * *", State.ACTIVE, 1)
    assert item.max_concurrent_active_run_count == 1 and not item.allow_queueing and item.end_time is None
    assert item.create_pipeline_job_request.parent == "projects/my-project/locations/us-central1"
    assert {key: result[key] for key in ("action", "dry_run", "status", "cron", "became", "replaced", "note")} == {
        **{"action": "created", "dry_run": False, "status": "enabled", "cron": "TZ=UTC 0 2 * * *", "became": False},
        **{"replaced": [], "note": ""},
    }
    assert ids(cloud) == [result["id"]]
    assert len(result["next"]) == 5 and all(time.endswith("T02:00:00Z") for time in result["next"])
    # What it makes is a run as --submit would send it.
    made = cloud.pipelines.fire(item)
    assert (
        made.labels["nlp-pipeline-version"] == result["version"] and made.labels["nlp-pipeline-experiment"] == "films"
    )
    values = json_format.MessageToDict(type(made).pb(made).runtime_config)["parameterValues"]
    assert values == result["parameters"] and values["train_data"] == "gs://films/reviews.csv"
    # The same again sends nothing.
    since, again = len(cloud.changes), scheduled(run, NIGHTLY, "--experiment", "films")
    assert (again["action"], again["id"], again["next"]) == ("unchanged", result["id"], result["next"])
    assert changes(cloud, since) == []


def test_all_options(cloud: Cloud, run: Run) -> None:
    start, end = in_days(1), in_days(9)
    options = ("--concurrency", "3", "--start", start, "--end", end, "--service-account", ACCOUNT)
    result = scheduled(run, "TZ=Europe/Berlin 0 2 * * 7", *options)
    (item,) = stored(cloud)
    assert item.cron == result["cron"] == "TZ=Europe/Berlin 0 2 * * 0" and result["became"] is True
    assert (item.max_concurrent_run_count, item.max_concurrent_active_run_count) == (3, 3)
    assert [write_time(time) for time in (item.start_time, item.end_time)] == [start, end]
    assert item.create_pipeline_job_request.pipeline_job.service_account == ACCOUNT
    assert 1 <= len(result["next"]) <= 2 and all(start < time <= end for time in result["next"])
    assert scheduled(run, "TZ=Europe/Berlin 0 0 2 * * 0", *options)["action"] == "unchanged"


@pytest.mark.parametrize(
    "other",
    [
        (f"TZ=Europe/Berlin {NIGHTLY}",),
        (NIGHTLY, "--set", "epochs=2"),
        (NIGHTLY, "--concurrency", "2"),
        (NIGHTLY, "--start", in_days(2)),
        (NIGHTLY, "--bucket", "gs://films/other"),
        (NIGHTLY, "--image", "registry:5000/team/x:1"),
    ],
    ids=lambda other: other[-2] if len(other) > 1 else other[0],
)
def test_another_one_is_the_same_edited(other: tuple[str, ...], cloud: Cloud, run: Run) -> None:
    first = scheduled(run)
    since = len(cloud.changes)
    second = scheduled(run, *other)
    assert (second["action"], second["id"], second["replaced"]) == ("updated", first["id"], [])
    assert changes(cloud, since) == ["PATCH"]
    (item,) = stored(cloud)
    assert item.cron == second["cron"] and item.max_concurrent_active_run_count == second["max_concurrency"]
    config = json_format.MessageToDict(type(item).pb(item).create_pipeline_job_request.pipeline_job.runtime_config)
    assert (config["parameterValues"], config["gcsOutputDirectory"]) == (second["parameters"], second["bucket"])
    assert scheduled(run, *other)["action"] == "unchanged"


@pytest.mark.parametrize("option", [("--end", in_days(9)), ("--start", in_days(2)), ("--service-account", ACCOUNT)])
def test_what_can_not_be_taken_away_is_replaced_the_new_one_first(
    option: tuple[str, str], cloud: Cloud, run: Run
) -> None:
    first = scheduled(run, NIGHTLY, *option)
    since = len(cloud.changes)
    second = scheduled(run)
    assert (second["action"], second["replaced"]) == ("replaced", [first["id"]]) and second["id"] != first["id"]
    assert changes(cloud, since) == ["POST", "DELETE"] and ids(cloud) == [second["id"]]
    assert scheduled(run)["action"] == "unchanged"


def test_one_that_is_over_is_replaced(cloud: Cloud, run: Run) -> None:
    first = scheduled(run)
    stored(cloud)[0].state = State.COMPLETED
    assert run("--resume", "nightly")[2].splitlines()[-1].startswith("error: schedule 'nightly' is over: --schedule it")
    second = scheduled(run)
    assert (second["action"], second["replaced"]) == ("replaced", [first["id"]])


def test_those_made_by_hand_become_ours_and_older_ones_go(cloud: Cloud, run: Run) -> None:
    older, newer = (by_hand(cloud, run).name.rpartition("/")[2] for _ in range(2))
    since, result = len(cloud.changes), scheduled(run)
    assert (result["action"], result["id"], result["replaced"]) == ("updated", newer, [older])
    assert result["note"] == "older ones of this name go: 1" and scheduled(run)["action"] == "unchanged"
    assert changes(cloud, since) == ["PATCH", "DELETE"] and ids(cloud) == [newer]
    # One that ends after so many runs would end.
    stored(cloud)[0].max_run_count = 3
    stored(cloud)[0].create_pipeline_job_request.pipeline_job.labels = {}
    assert scheduled(run)["action"] == "replaced"


def test_an_answer_that_is_lost_makes_no_second_one(cloud: Cloud, run: Run) -> None:
    cloud.lose_answer(on="POST .*/schedules")
    assert [scheduled(run)["id"]] == ids(cloud)
    cloud.drop(on="POST .*/schedules")
    scheduled(run, name="other")
    assert len(stored(cloud, "other")) == 1


@pytest.mark.parametrize("wakes", [False, True])
def test_one_that_rests_does_so_after_a_change_too(wakes: bool, cloud: Cloud, run: Run) -> None:
    cloud.pipelines.wakes = wakes
    scheduled(run, NIGHTLY)
    assert run("--pause", "nightly")[0] == 0
    result = scheduled(run, HOURLY)
    assert (result["status"], result["next"], result["action"]) == ("paused", [], "updated")
    assert result["note"] == "it was paused and stays so: --resume nightly"
    assert stored(cloud)[0].state == State.PAUSED
    scheduled(run, HOURLY, "--end", in_days(9))
    assert scheduled(run, HOURLY)["action"] == "replaced" and [item.state for item in stored(cloud)] == [State.PAUSED]


def test_a_dry_run_sends_nothing(cloud: Cloud, run: Run) -> None:
    result = scheduled(run, HOURLY, "--dry-run")
    assert (result["action"], result["dry_run"], result["id"], cloud.changes) == ("created", True, None, [])
    former, since = scheduled(run)["id"], len(cloud.changes)
    result = scheduled(run, HOURLY, "--dry-run")
    assert (result["action"], result["id"], changes(cloud, since)) == ("updated", former, [])


def test_pause_resume_unschedule(cloud: Cloud, run: Run) -> None:
    result = scheduled(run)
    for command, action, status, state in (
        ("--pause", "paused", "paused", State.PAUSED),
        ("--pause", "unchanged", "paused", State.PAUSED),
        ("--resume", "resumed", "enabled", State.ACTIVE),
        ("--resume", "unchanged", "enabled", State.ACTIVE),
    ):
        code, out, _ = run(command, "nightly", "--json")
        outcome = json.loads(out)
        assert (code, outcome["action"], outcome["status"]) == (0, action, status) and stored(cloud)[0].state == state
        assert outcome["ids"] == ([] if action == "unchanged" else [result["id"]])
    cloud.operations.reads = 1
    code, out, _ = run("--unschedule", "nightly", "--json")
    assert json.loads(out) == {"name": "nightly", "action": "removed", "dry_run": False, "ids": [result["id"]]}
    assert code == 0 and stored(cloud) == []


def test_schedules(cloud: Cloud, run: Run) -> None:
    cloud.pipelines.page = 1
    result = scheduled(run, NIGHTLY, "--experiment", "films", "--service-account", ACCOUNT)
    scheduled(run, HOURLY, name="hourly")
    run("--pause", "hourly")
    by_hand(cloud, run, state=State.COMPLETED, display_name="by hand", max_concurrent_active_run_count=0)
    (item,) = stored(cloud)
    cloud.pipelines.fate = Fate(not_triggered=("condition-1",))
    cloud.pipelines.fire(item, datetime.now(UTC) - timedelta(days=1))
    last = cloud.pipelines.fire(item)
    code, out, _ = run("--schedules", "--json")
    outcome = {row["name"]: row for row in json.loads(out)}
    assert code == 0 and list(outcome) == ["by hand", "hourly", "nightly"]
    expected = {
        **{"cron": "TZ=UTC 0 2 * * *", "next": result["next"][0], "status": "enabled", "version": result["version"]},
        **{"id": result["id"], "experiment": "films", "max_concurrency": 1, "end": None, "service_account": ACCOUNT},
        **{"bucket": "gs://films/runs", "parameters": result["parameters"]},
        **{"last_run": last.name.rpartition("/")[2], "last_state": "PENDING"},
    }
    assert {key: outcome["nightly"][key] for key in expected} == expected
    assert (outcome["hourly"]["status"], outcome["hourly"]["next"], outcome["hourly"]["last_run"]) == (
        "paused",
        None,
        None,
    )
    other = outcome["by hand"]
    assert (other["status"], other["version"], other["max_concurrency"]) == ("ended", "", 1)
    table = run("--schedules")[1].splitlines()
    assert table[0].split() == ["name", "cron", "next", "status", "version"] and "nightly" in table[3]
    # Who may not see runs sees the schedules.
    cloud.around.granted.discard("aiplatform.pipelineJobs.list")
    code, out, _ = run("--schedules", "--json")
    assert code == 0 and {row["last_run"] for row in json.loads(out)} == {None}


def test_a_start_that_is_past(cloud: Cloud, run: Run) -> None:
    result = scheduled(run, NIGHTLY, "--start", in_days(-2))
    assert result["note"] == "its start is past, and runs since then are not made up for"
    (item,) = stored(cloud)
    assert item.start_time == item.create_time


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("30 0 2 * * *",), "Vertex AI knows no seconds"),
        (
            (NIGHTLY, "--catch-up"),
            "--catch-up: on Vertex AI missed runs are made up for only by resuming in the console",
        ),
        ((NIGHTLY, "--schedule-name", "x" * 129), "has 129 characters: Vertex AI takes 128 at most"),
        ((NIGHTLY, "--set", "epochs=0"), "epochs is 0.0: it must be above 0"),
        ((NIGHTLY, "--bucket", "gs://flims"), "there is no bucket flims"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sent(
    argv: tuple[str, ...], message: str, cloud: Cloud, run: Run
) -> None:
    code, out, err = run("--schedule", argv[0], *TRAIN, *argv[1:])
    assert (code, out) == (2, "") and cloud.changes == []
    assert err.splitlines()[-1].startswith("error: ") and message in err
