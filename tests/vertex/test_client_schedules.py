"""`--schedule` and what goes with it on Vertex AI: edited in place, never lost, sent only where something changes."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.cloud import aiplatform_v1
from google.protobuf import json_format

from nlp_pipeline.platforms.schedules import write_time
from tests.vertex.cloud import Cloud
from tests.vertex.conftest import TRAIN, Run
from tests.vertex.jobs import Fate

NIGHTLY, HOURLY = "0 0 2 * * *", "0 0 * * * *"
ACCOUNT = "runs@my-project.iam.gserviceaccount.com"
State = aiplatform_v1.Schedule.State


def in_days(days: float) -> str:
    return write_time(datetime.now(UTC) + timedelta(days=days))


def scheduled(run: Run, cron: str = NIGHTLY, *argv: str, name: str = "nightly") -> dict[str, Any]:
    """Schedules the pipeline, and returns what is told."""
    code, out, err = run("--schedule", cron, "--schedule-name", name, *TRAIN, *argv, "--json")
    assert code == 0, err
    told: dict[str, Any] = json.loads(out)
    return told


def stored(cloud: Cloud, name: str = "nightly") -> list[Any]:
    """Returns the schedules of a name, oldest first."""
    return [one for one in cloud.pipelines.schedules.values() if one.display_name == name]


def changes(cloud: Cloud, since: int = 0) -> list[str]:
    """Returns the methods of requests that change something."""
    return [one.split()[0] for one in cloud.changes[since:]]


def by_hand(cloud: Cloud, run: Run, **changed: Any) -> Any:
    """Makes a schedule named "nightly" as the console would."""
    scheduled(run, name="other")
    (made,) = stored(cloud, "other")
    made.display_name = "nightly"
    made.create_pipeline_job_request.pipeline_job.labels = {}
    for name, value in changed.items():
        setattr(made, name, value)
    return made


def test_one_is_made(cloud: Cloud, run: Run) -> None:
    told = scheduled(run, NIGHTLY, "--experiment", "films")
    (one,) = stored(cloud)
    assert (one.cron, one.state, one.max_concurrent_run_count) == ("TZ=UTC 0 2 * * *", State.ACTIVE, 1)
    assert one.max_concurrent_active_run_count == 1 and not one.allow_queueing and one.end_time is None
    assert one.create_pipeline_job_request.parent == "projects/my-project/locations/us-central1"
    assert {key: told[key] for key in ("action", "dry_run", "status", "cron", "became", "replaced", "note")} == {
        **{"action": "created", "dry_run": False, "status": "enabled", "cron": "TZ=UTC 0 2 * * *", "became": False},
        **{"replaced": [], "note": ""},
    }
    assert one.name.endswith(f"/schedules/{told['id']}")
    assert len(told["next"]) == 5 and all(time.endswith("T02:00:00Z") for time in told["next"])
    # What it makes is a run as --submit would send it.
    made = cloud.pipelines.fire(one)
    assert (
        dict(made.labels).items()
        >= {
            "nlp-pipeline-version": told["version"],
            "nlp-pipeline-experiment": "films",
        }.items()
    )
    values = json_format.MessageToDict(type(made).pb(made).runtime_config)["parameterValues"]
    assert values == told["parameters"] and values["train_data"] == "gs://films/reviews.csv"


def test_all_options(cloud: Cloud, run: Run) -> None:
    start, end = in_days(1), in_days(9)
    options = ("--concurrency", "3", "--start", start, "--end", end, "--service-account", ACCOUNT)
    told = scheduled(run, "TZ=Europe/Berlin 0 2 * * 7", *options)
    (one,) = stored(cloud)
    assert one.cron == told["cron"] == "TZ=Europe/Berlin 0 2 * * 0" and told["became"] is True
    assert (one.max_concurrent_run_count, one.max_concurrent_active_run_count) == (3, 3)
    assert [write_time(time) for time in (one.start_time, one.end_time)] == [start, end]
    assert one.create_pipeline_job_request.pipeline_job.service_account == ACCOUNT
    assert 1 <= len(told["next"]) <= 2 and all(start < time <= end for time in told["next"])
    since = len(cloud.changes)
    assert scheduled(run, "TZ=Europe/Berlin 0 0 2 * * 0", *options)["action"] == "unchanged"
    assert changes(cloud, since) == []


def test_the_same_again_sends_nothing(cloud: Cloud, run: Run) -> None:
    first = scheduled(run)
    since = len(cloud.changes)
    again = scheduled(run)
    assert (again["action"], again["id"], again["next"]) == ("unchanged", first["id"], first["next"])
    assert changes(cloud, since) == [] and len(stored(cloud)) == 1


@pytest.mark.parametrize(
    "other",
    [
        (HOURLY,),
        (f"TZ=Europe/Berlin {NIGHTLY}",),
        (NIGHTLY, "--set", "epochs=2"),
        (NIGHTLY, "--concurrency", "2"),
        (NIGHTLY, "--start", in_days(2)),
        (NIGHTLY, "--end", in_days(20)),
        (NIGHTLY, "--service-account", ACCOUNT),
        (NIGHTLY, "--experiment", "films"),
        (NIGHTLY, "--bucket", "gs://films/other"),
        (NIGHTLY, "--image", "registry:5000/team/x:1"),
    ],
    ids=lambda other: " ".join(other[-2:]),
)
def test_another_one_is_the_same_edited(other: tuple[str, ...], cloud: Cloud, run: Run) -> None:
    first = scheduled(run)
    since = len(cloud.changes)
    second = scheduled(run, *other)
    assert (second["action"], second["id"], second["replaced"]) == ("updated", first["id"], [])
    assert changes(cloud, since) == ["PATCH"]
    (one,) = stored(cloud)
    assert one.cron == second["cron"] and one.max_concurrent_active_run_count == second["max_concurrency"]
    config = json_format.MessageToDict(type(one).pb(one).create_pipeline_job_request.pipeline_job.runtime_config)
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
    assert changes(cloud, since) == ["POST", "DELETE"]
    assert [one.name.rpartition("/")[2] for one in stored(cloud)] == [second["id"]]
    assert scheduled(run)["action"] == "unchanged"


def test_one_that_is_over_is_replaced(cloud: Cloud, run: Run) -> None:
    first = scheduled(run)
    stored(cloud)[0].state = State.COMPLETED
    assert run("--resume", "nightly")[2].splitlines()[-1].startswith("error: schedule 'nightly' is over: --schedule it")
    second = scheduled(run)
    assert (second["action"], second["replaced"]) == ("replaced", [first["id"]])


def test_one_made_by_hand_becomes_ours(cloud: Cloud, run: Run) -> None:
    by_hand(cloud, run)
    assert scheduled(run)["action"] == "updated" and scheduled(run)["action"] == "unchanged"
    # One that ends after so many runs would end.
    stored(cloud)[0].max_run_count = 3
    stored(cloud)[0].create_pipeline_job_request.pipeline_job.labels = {}
    assert scheduled(run)["action"] == "replaced"


def test_older_ones_of_the_name_go(cloud: Cloud, run: Run) -> None:
    older = by_hand(cloud, run)
    newer = by_hand(cloud, run)
    since = len(cloud.changes)
    told = scheduled(run)
    assert (told["action"], told["id"]) == ("updated", newer.name.rpartition("/")[2])
    assert told["replaced"] == [older.name.rpartition("/")[2]] and told["note"] == "older ones of this name go: 1"
    assert changes(cloud, since) == ["PATCH", "DELETE"] and len(stored(cloud)) == 1


def test_a_failure_in_between_leaves_both_and_the_next_call_one(cloud: Cloud, run: Run) -> None:
    first = scheduled(run, NIGHTLY, "--end", in_days(9))
    cloud.refuse(500, "Internal error encountered.", times=99, on="DELETE")
    code, out, err = run("--schedule", HOURLY, "--schedule-name", "nightly", *TRAIN, "--json")
    told = json.loads(out)
    assert code == 1 and "'nightly' was scheduled anew, but an older one of this name is there, too, until" in err
    assert [one.name.rpartition("/")[2] for one in stored(cloud)] == [first["id"], told["id"]]
    assert told["left"] == [first["id"]]
    cloud.well_again()
    again = scheduled(run, HOURLY)
    assert (again["action"], again["id"], again["replaced"]) == ("unchanged", told["id"], [first["id"]])
    assert len(stored(cloud)) == 1


def test_where_it_is_not_made_the_former_one_stays(cloud: Cloud, run: Run) -> None:
    scheduled(run, NIGHTLY, "--end", in_days(9))
    cloud.refuse(400, "No.", on="POST .*/schedules")
    code, _, err = run("--schedule", HOURLY, "--schedule-name", "nightly", *TRAIN)
    assert code == 2 and err.splitlines()[-1] == "error: scheduling 'nightly': 400: No."
    assert [one.cron for one in stored(cloud)] == ["TZ=UTC 0 2 * * *"]


def test_an_answer_that_is_lost_makes_no_second_one(cloud: Cloud, run: Run) -> None:
    cloud.lose_answer(on="POST .*/schedules")
    told = scheduled(run)
    assert [one.name.rpartition("/")[2] for one in stored(cloud)] == [told["id"]]
    cloud.drop(on="POST .*/schedules")
    scheduled(run, name="other")
    assert len(stored(cloud, "other")) == 1


@pytest.mark.parametrize("wakes", [False, True])
def test_one_that_rests_does_so_after_a_change_too(wakes: bool, cloud: Cloud, run: Run) -> None:
    cloud.pipelines.wakes = wakes
    scheduled(run, NIGHTLY)
    assert run("--pause", "nightly")[0] == 0
    told = scheduled(run, HOURLY)
    assert (told["status"], told["next"], told["action"]) == ("paused", [], "updated")
    assert told["note"] == "it was paused and stays so: --resume nightly"
    assert stored(cloud)[0].state == State.PAUSED
    scheduled(run, HOURLY, "--end", in_days(9))
    assert scheduled(run, HOURLY)["action"] == "replaced" and [one.state for one in stored(cloud)] == [State.PAUSED]


@pytest.mark.parametrize("former", [False, True])
def test_a_dry_run_sends_nothing(former: bool, cloud: Cloud, run: Run) -> None:
    if former:
        scheduled(run)
    since = len(cloud.changes)
    told = scheduled(run, HOURLY, "--dry-run")
    assert (told["action"], told["dry_run"]) == ("updated" if former else "created", True)
    assert told["id"] == (stored(cloud)[0].name.rpartition("/")[2] if former else None)
    for command in ("--pause", "--resume", "--unschedule") if former else ():
        code, out, _ = run(command, "nightly", "--dry-run", "--json")
        assert code == 0 and json.loads(out)["dry_run"] is True
    assert changes(cloud, since) == []


def test_pause_resume_unschedule(cloud: Cloud, run: Run) -> None:
    told = scheduled(run)
    for command, action, status, state in (
        ("--pause", "paused", "paused", State.PAUSED),
        ("--pause", "unchanged", "paused", State.PAUSED),
        ("--resume", "resumed", "enabled", State.ACTIVE),
        ("--resume", "unchanged", "enabled", State.ACTIVE),
    ):
        code, out, _ = run(command, "nightly", "--json")
        found = json.loads(out)
        assert (code, found["action"], found["status"]) == (0, action, status) and stored(cloud)[0].state == state
        assert found["ids"] == ([] if action == "unchanged" else [told["id"]])
    cloud.operations.reads = 2
    code, out, _ = run("--unschedule", "nightly", "--json")
    assert json.loads(out) == {"name": "nightly", "action": "removed", "dry_run": False, "ids": [told["id"]]}
    assert code == 0 and stored(cloud) == []


def test_unknown_names(cloud: Cloud, run: Run) -> None:
    for command in ("--pause", "--resume", "--unschedule"):
        assert run(command, "x")[2].endswith("error: there is no schedule 'x'; there are none at all\n")
    scheduled(run)
    for command in ("--pause", "--resume", "--unschedule"):
        code, _, err = run(command, "nigthly")
        assert code == 2 and err.endswith("error: there is no schedule 'nigthly'; did you mean 'nightly'?\n")


def test_schedules(cloud: Cloud, run: Run) -> None:
    cloud.pipelines.page = 1
    told = scheduled(run, NIGHTLY, "--experiment", "films", "--service-account", ACCOUNT)
    scheduled(run, HOURLY, name="hourly")
    run("--pause", "hourly")
    over = by_hand(cloud, run, state=State.COMPLETED, display_name="by hand", max_concurrent_active_run_count=0)
    (one,) = stored(cloud)
    cloud.pipelines.fate = Fate(not_triggered=("condition-1",))
    cloud.pipelines.fire(one, datetime.now(UTC) - timedelta(days=1))
    last = cloud.pipelines.fire(one)
    code, out, _ = run("--schedules", "--json")
    found = {row["name"]: row for row in json.loads(out)}
    assert code == 0 and list(found) == ["by hand", "hourly", "nightly"]
    nightly = found["nightly"]
    assert (
        nightly.items()
        >= {
            **{"cron": "TZ=UTC 0 2 * * *", "next": told["next"][0], "status": "enabled", "version": told["version"]},
            **{"id": told["id"], "experiment": "films", "max_concurrency": 1, "end": None, "service_account": ACCOUNT},
            **{"bucket": "gs://films/runs", "parameters": told["parameters"]},
            **{"last_run": last.name.rpartition("/")[2], "last_state": "PENDING"},
        }.items()
    )
    assert (found["hourly"]["status"], found["hourly"]["next"], found["hourly"]["last_run"]) == ("paused", None, None)
    assert (found["by hand"]["status"], found["by hand"]["version"]) == ("ended", "") and over
    assert found["by hand"]["max_concurrency"] == 1
    table = run("--schedules")[1].splitlines()
    assert table[0].split() == ["name", "cron", "next", "status", "version"] and "nightly" in table[3]
    # Who may not see runs sees the schedules.
    cloud.around.granted.discard("aiplatform.pipelineJobs.list")
    code, out, _ = run("--schedules", "--json")
    assert code == 0 and {row["last_run"] for row in json.loads(out)} == {None}


def test_a_start_that_is_past(cloud: Cloud, run: Run) -> None:
    told = scheduled(run, NIGHTLY, "--start", in_days(-2))
    assert told["note"] == "its start is past, and runs since then are not made up for"
    (one,) = stored(cloud)
    assert one.start_time == one.create_time
    assert scheduled(run, NIGHTLY, "--start", told["start"])["action"] == "unchanged"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("30 0 2 * * *",), "Vertex AI knows no seconds"),
        ((NIGHTLY, "--catch-up"), "--catch-up: Vertex AI makes up for missed runs only where a schedule is resumed"),
        ((NIGHTLY, "--concurrency", "0"), "--concurrency 0: Vertex AI allows 1 to 10 runs at once"),
        ((NIGHTLY, "--end", in_days(-1)), "is past: it is "),
        ((NIGHTLY, "--start", in_days(2), "--end", in_days(1)), "is not before --end"),
        ((NIGHTLY, "--start", "soon"), "--start 'soon' is no time"),
        ((NIGHTLY, "--schedule-name", "x" * 129), "has 129 characters: Vertex AI takes 128 at most"),
        ((NIGHTLY, "--schedule-name", " "), "--schedule-name ' ' is no name"),
        ((NIGHTLY, "--set", "epochs=0"), "epochs is 0.0: it must be above 0"),
        ((NIGHTLY, "--bucket", "gs://flims"), "there is no bucket flims"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_sent(
    argv: tuple[str, ...], message: str, cloud: Cloud, run: Run
) -> None:
    code, out, err = run("--schedule", argv[0], *TRAIN, *argv[1:])
    assert (code, out) == (2, "") and cloud.changes == []
    assert err.splitlines()[-1].startswith("error: ") and message in err
