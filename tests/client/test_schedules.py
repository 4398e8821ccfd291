"""`--schedule` and what goes with it, against the emulated Kubeflow: no schedule is lost, and none is left over."""

import copy
import itertools
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from nlp_pipeline.client.connection import Connection
from nlp_pipeline.client.cron import read_cron, write_time
from nlp_pipeline.client.recurring import recurring_runs
from nlp_pipeline.client.schedules import pause, resume, schedule, schedules, unschedule
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.settings import Settings
from tests.kubeflow.conftest import PARAMETERS, PIPELINE, Connect, uploaded
from tests.kubeflow.conftest import client as client
from tests.kubeflow.conftest import connect as connect
from tests.kubeflow.conftest import k as k
from tests.kubeflow.conftest import team as team
from tests.kubeflow.emulator import Kubeflow

NIGHTLY, HOURLY = "0 0 2 * * *", "0 0 * * * *"
POST = "POST .*/recurringruns$"
Schedule = Callable[..., dict[str, Any]]
Ids = dict[str, Any]


def connected(kubeflow: Kubeflow, **given: str) -> Connection:
    return Connection(Settings.model_validate({"host": kubeflow.url, **given}))


@pytest.fixture
def connection(k: Kubeflow) -> Connection:
    return connected(k)


@pytest.fixture
def ids(client: Any) -> Ids:
    """A pipeline, its version, and an experiment."""
    pipeline, version = uploaded(client)
    experiment = client.create_experiment("reviews").experiment_id
    return {"pipeline_id": pipeline, "version_id": version, "experiment_id": experiment}


@pytest.fixture
def nightly(connection: Connection, ids: Ids) -> Schedule:
    """Schedules the pipeline as "nightly"."""

    def make(cron: str = NIGHTLY, **options: Any) -> dict[str, Any]:
        given = {"name": "nightly", "parameters": PARAMETERS, **ids, **options}
        return schedule(connection, cron=cron, **given)

    return make


def stored(k: Kubeflow, name: str = "nightly") -> list[dict[str, Any]]:
    """Returns the recurring runs of a name, oldest first."""
    return [one for one in k.api.recurring_runs if one["display_name"] == name]


def changes(k: Kubeflow, since: int = 0) -> list[str]:
    """Returns method and kind of requests that change recurring runs."""
    seen = [str(one).split(":")[-1] if ":" in one.path else one.method for one in k.requests[since:]]
    return [one for one in seen if one != "GET"]


def made_by_hand(client: Any, ids: Ids, name: str = "nightly", **options: Any) -> str:
    """Makes a recurring run as the dashboard would."""
    given = {"cron_expression": HOURLY, "params": PARAMETERS, "pipeline_id": ids["pipeline_id"], **options}
    made = client.create_recurring_run(ids["experiment_id"], name, version_id=ids["version_id"], **given)
    return str(made.recurring_run_id)


def in_days(days: float) -> str:
    return write_time(datetime.now(UTC) + timedelta(days=days))


def test_one_is_made(nightly: Schedule, k: Kubeflow, ids: Ids) -> None:
    result = nightly()
    (one,) = stored(k)
    assert (one["status"], one["max_concurrency"], one["no_catchup"]) == ("ENABLED", "1", True)
    assert one["trigger"] == {"cron_schedule": {"cron": NIGHTLY}}
    assert one["pipeline_version_reference"] == {key: ids[key] for key in ("pipeline_id",)} | {
        "pipeline_version_id": ids["version_id"]
    }
    assert (one["runtime_config"], one["experiment_id"]) == ({"parameters": PARAMETERS}, ids["experiment_id"])
    assert {key: result[key] for key in ("action", "id", "status", "cron", "became", "replaced", "note")} == {
        **{"action": "created", "id": one["recurring_run_id"], "status": "enabled", "cron": NIGHTLY, "became": False},
        **{"replaced": [], "note": ""},
    }
    assert len(result["next"]) == 5
    assert all(time.endswith("T02:00:00Z") for time in result["next"])
    json.dumps(result)
    assert k.api.fire(one["recurring_run_id"])["recurring_run_id"] == one["recurring_run_id"]


def test_all_options(nightly: Schedule, k: Kubeflow) -> None:
    start, end = in_days(1), in_days(9)
    result = nightly("0 2 * * 7", catch_up=True, max_concurrency=3, start=start, end=end, service_account="robot")
    (one,) = stored(k)
    assert one["trigger"] == {"cron_schedule": {"cron": "0 0 2 * * 0", "start_time": start, "end_time": end}}
    assert (one.get("no_catchup"), one["max_concurrency"], one["service_account"]) == (None, "3", "robot")
    assert (result["cron"], result["became"], result["catch_up"], result["max_concurrency"]) == (
        *("0 0 2 * * 0", True, True),
        3,
    )
    assert all(start < time <= end for time in result["next"])
    assert 1 <= len(result["next"]) <= 2
    since = len(k.requests)
    assert nightly("0 0 2 * * 0", catch_up=True, max_concurrency=3, start=start, end=end, service_account="robot")[
        "action"
    ] == ("unchanged")
    assert changes(k, since) == []


def test_the_same_again_sends_nothing(nightly: Schedule, k: Kubeflow) -> None:
    first = nightly(read_cron(NIGHTLY))
    since = len(k.requests)
    again = nightly()
    assert (again["action"], again["id"], again["next"]) == ("unchanged", first["id"], first["next"])
    assert changes(k, since) == []
    assert [one["recurring_run_id"] for one in stored(k)] == [first["id"]]


@pytest.mark.parametrize(
    "other",
    [
        {"cron": HOURLY},
        {"parameters": {**PARAMETERS, "epochs": 2.0}},
        {"catch_up": True},
        {"max_concurrency": 2},
        {"start": in_days(2)},
        {"end": in_days(20)},
        {"service_account": "robot"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_one_replaces_it_and_is_made_first(nightly: Schedule, k: Kubeflow, other: dict[str, Any]) -> None:
    first = nightly()
    since = len(k.requests)
    second = nightly(**other)
    assert (second["action"], second["replaced"]) == ("replaced", [first["id"]])
    assert changes(k, since) == ["POST", "DELETE"]
    assert [one["recurring_run_id"] for one in stored(k)] == [second["id"]]
    assert nightly(**other)["action"] == "unchanged"


def test_another_version_or_experiment_replaces_it(nightly: Schedule, k: Kubeflow, client: Any) -> None:
    first = nightly()
    version = client.upload_pipeline_version(PIPELINE, "second", first["pipeline_id"]).pipeline_version_id
    second = nightly(version_id=version)
    third = nightly(version_id=version, experiment_id=client.create_experiment("films").experiment_id)
    assert [second["replaced"], third["replaced"]] == [[first["id"]], [second["id"]]]
    assert len(stored(k)) == 1


@pytest.mark.parametrize("step", [0, 1])
def test_replacing_goes_by_what_was_seen_not_by_the_clock(nightly: Schedule, k: Kubeflow, step: int) -> None:
    k.api.clock.step = step
    made = [nightly(cron)["id"] for cron in (NIGHTLY, HOURLY) * 6]
    assert len(set(made)) == 12
    assert [one["recurring_run_id"] for one in stored(k)] == made[-1:]


def test_one_made_by_hand_is_replaced(nightly: Schedule, k: Kubeflow, client: Any, ids: Ids) -> None:
    by_hand = [made_by_hand(client, ids, cron_expression=None, interval_second=60), made_by_hand(client, ids)]
    first = nightly(HOURLY)
    assert (first["action"], first["replaced"]) == ("replaced", by_hand)
    later = made_by_hand(client, ids)
    again = nightly(HOURLY)
    assert (again["action"], again["id"], again["replaced"]) == ("unchanged", first["id"], [later])
    assert again["note"] == "older ones of this name go: 1"
    assert [one["recurring_run_id"] for one in stored(k)] == [first["id"]]


def test_a_failure_in_between_leaves_both_and_the_next_call_one(nightly: Schedule, k: Kubeflow) -> None:
    first = nightly()
    k.faults.fail(500, times=99, on="DELETE")
    with pytest.raises(
        PipelineError, match=r"'nightly' was scheduled anew, but an older one .* is there, too"
    ) as caught:
        nightly(HOURLY)
    left = [one["recurring_run_id"] for one in stored(k)]
    assert left == [first["id"], caught.value.facts["id"]]
    assert caught.value.facts["left"] == [first["id"]]
    with pytest.raises(PipelineError, match="'nightly' is as it was, but an older one"):
        nightly(HOURLY)
    k.faults.clear()
    second = nightly(HOURLY)
    assert (second["action"], second["id"], second["replaced"]) == ("unchanged", left[1], [first["id"]])
    assert [one["recurring_run_id"] for one in stored(k)] == [left[1]]


def test_where_it_is_not_made_the_former_one_stays(nightly: Schedule, k: Kubeflow) -> None:
    first = nightly()
    k.faults.fail(500, times=99, on=POST)
    with pytest.raises(PipelineError, match=r"^scheduling 'nightly': 500: "):
        nightly(HOURLY)
    k.faults.clear()
    with pytest.raises(UsageError, match=r"^scheduling 'nightly': 400: "):
        nightly(HOURLY, parameters={})
    assert [one["recurring_run_id"] for one in stored(k)] == [first["id"]]


def test_where_it_can_not_be_looked_at_the_former_one_stays(
    nightly: Schedule, k: Kubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = nightly()
    seen = itertools.count()

    def once(connection: Connection) -> list[Any]:
        if next(seen):
            raise PipelineError("listing schedules: 500: oh")
        return recurring_runs(connection)

    monkeypatch.setattr("nlp_pipeline.client.schedules.recurring_runs", once)
    with pytest.raises(PipelineError, match="'nightly' was scheduled anew, and the former one is there, too") as caught:
        nightly(HOURLY)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert [one["recurring_run_id"] for one in stored(k)][:1] == [first["id"]]
    assert nightly(HOURLY)["replaced"] == [first["id"]]


def test_one_that_is_not_there_after_all_removes_nothing(
    nightly: Schedule, k: Kubeflow, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = nightly()
    monkeypatch.setattr(connection, "create", lambda *_: None)
    with pytest.raises(PipelineError, match="Kubeflow took it, but it is not there; nothing was removed"):
        nightly(HOURLY)
    assert [one["recurring_run_id"] for one in stored(k)] == [first["id"]]


def test_one_that_is_not_enabled_removes_nothing(
    nightly: Schedule, k: Kubeflow, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    nightly()
    create = connection.create

    def rest(*values: Any) -> Any:
        made = create(*values)
        connection.recurring_runs.recurring_run_service_disable_recurring_run(made.recurring_run_id)
        return made

    monkeypatch.setattr(connection, "create", rest)
    with pytest.raises(PipelineError, match="but it is DISABLE, not ENABLE; nothing was removed"):
        nightly(HOURLY)
    assert [one["status"] for one in stored(k)] == ["ENABLED", "DISABLED"]


def test_a_lost_answer_leaves_one(nightly: Schedule, k: Kubeflow) -> None:
    k.faults.drop(on=POST, after=True)
    first = nightly()
    assert [one["recurring_run_id"] for one in stored(k)] == [first["id"]]
    k.faults.fail(504, on=POST, after=True)
    k.faults.drop(on="DELETE", after=True)
    second = nightly(HOURLY)
    assert second["replaced"] == [first["id"]]
    assert [one["recurring_run_id"] for one in stored(k)] == [second["id"]]
    assert k.faults.left == 0


def test_a_lost_request_leaves_the_former_one_and_the_next_call_one(nightly: Schedule, k: Kubeflow) -> None:
    first = nightly()
    k.faults.fail(504, times=9, on=POST)
    with pytest.raises(PipelineError, match="scheduling 'nightly': "):
        nightly(HOURLY)
    assert [one["recurring_run_id"] for one in stored(k)] == [first["id"]]
    k.faults.clear()
    k.faults.fail(500, on=POST)
    k.faults.fail(503, on="DELETE")
    assert nightly(HOURLY)["replaced"] == [first["id"]]
    assert len(stored(k)) == 1


def test_two_at_once_leave_one(k: Kubeflow, ids: Ids, nightly: Schedule) -> None:
    nightly()
    hold = k.faults.hold(on=POST)
    results: dict[str, dict[str, Any]] = {}

    def other(cron: str) -> None:
        connection = connected(k)
        results[cron] = schedule(connection, "nightly", cron, **ids, parameters=PARAMETERS)

    slow = threading.Thread(target=other, args=(HOURLY,))
    slow.start()
    assert hold.reached.wait(30)
    other("0 0 6 * * *")
    hold.release()
    slow.join(30)
    (left,) = stored(k)
    actions = {result["action"] for result in results.values()}
    assert left["recurring_run_id"] in {result["id"] for result in results.values()}
    assert actions == {"replaced"}  # the slow one was made last, by the clock


@pytest.mark.parametrize("seed", range(3))
def test_many_at_once_leave_one_that_someone_wanted(k: Kubeflow, ids: Ids, seed: int) -> None:
    k.api.clock.step = 0
    results: list[dict[str, Any]] = []

    def run(hour: int) -> None:
        connection = connected(k)
        for minute in range(3):
            cron = f"{seed} {minute} {hour} * * *"
            results.append(schedule(connection, "nightly", cron, **ids, parameters=PARAMETERS))
            assert stored(k)

    threads = [threading.Thread(target=run, args=(hour,)) for hour in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert len(results) == 12
    (left,) = stored(k)
    assert left["recurring_run_id"] in {result["id"] for result in results}


def test_one_that_lost_says_so(
    nightly: Schedule, k: Kubeflow, connection: Connection, ids: Ids, monkeypatch: pytest.MonkeyPatch
) -> None:
    k.api.clock.step = 0
    create, other = connection.create, connected(k)

    def with_others(*values: Any) -> Any:
        made = create(*values)
        monkeypatch.undo()
        # Others who had seen nothing before either, until one comes later in the order.
        while stored(k)[-1]["recurring_run_id"] <= made.recurring_run_id:
            body = copy.copy(values[3])
            body.description = body.description.replace("request ", "request f")[:-1]
            other.recurring_runs.recurring_run_service_create_recurring_run(body)
        return made

    monkeypatch.setattr(connection, "create", with_others)
    result = nightly()
    assert (result["action"], "at the same time" in result["note"]) == ("superseded", True)
    assert [one["recurring_run_id"] for one in stored(k)] == [result["id"]]


def test_more_than_a_page(nightly: Schedule, k: Kubeflow, client: Any, ids: Ids, connection: Any) -> None:
    mine = nightly()
    for at in range(130):
        made_by_hand(client, ids, f"other {at:03}")
    assert nightly()["action"] == "unchanged"
    assert nightly(HOURLY)["replaced"] == [mine["id"]]
    assert len(k.api.recurring_runs) == 131
    found = schedules(connection)
    assert [one["name"] for one in found] == ["nightly", *(f"other {at:03}" for at in range(130))]
    assert unschedule(connection, "other 129")["action"] == "removed"


def test_the_list(nightly: Schedule, k: Kubeflow, client: Any, ids: Ids, connection: Connection) -> None:
    end = in_days(30)
    first = nightly(end=end, max_concurrency=2)
    made_by_hand(client, ids, "by interval", cron_expression=None, interval_second=60, no_catchup=True)
    made_by_hand(client, ids, "ended", end_time="2026-01-01T00:00:00Z")
    made_by_hand(client, ids, "newest", cron_expression="0 30 2 * *", enabled=False)
    k.api._store.recurring_runs[stored(k, "newest")[0]["recurring_run_id"]]["pipeline_version_reference"] = {
        "pipeline_id": ids["pipeline_id"]
    }
    runs = [k.api.fire(first["id"])["run_id"] for _ in range(2)]
    found = {one["name"]: one for one in schedules(connection)}
    told = found["nightly"]
    assert told | {"last_time": "", "created": ""} == {
        **{"name": "nightly", "cron": NIGHTLY, "next": first["next"][0], "status": "enabled"},
        **{"version": "nlp-pipeline", **ids, "id": first["id"], "last_run": runs[1], "last_state": "PENDING"},
        **{"last_time": "", "created": "", "catch_up": False, "max_concurrency": 2, "start": None, "end": end},
        **{"service_account": "pipeline-runner", "parameters": PARAMETERS},
    }
    assert told["last_time"].startswith("2026-01-01T00:00:")
    status = {name: (one["cron"], one["next"], one["status"], one["catch_up"]) for name, one in found.items()}
    del status["nightly"]
    assert status == {
        "by interval": ("@every 60s", None, "enabled", False),
        "ended": (HOURLY, None, "ended", True),
        "newest": ("0 30 2 * *", None, "paused", True),
    }
    assert (found["newest"]["version"], found["newest"]["version_id"]) == ("the newest", None)
    assert found["ended"]["last_run"] is None
    json.dumps(list(found.values()))


def test_the_list_where_versions_are_gone(nightly: Schedule, connection: Connection, client: Any) -> None:
    assert schedules(connection) == []
    made = nightly()
    client.delete_pipeline_version(made["pipeline_id"], made["version_id"])
    assert [one["version"] for one in schedules(connection)] == [made["version_id"]]


def test_pause_and_resume(nightly: Schedule, k: Kubeflow, connection: Connection) -> None:
    made = nightly()
    assert pause(connection, "nightly") == {
        **{"name": "nightly", "action": "paused", "dry_run": False, "ids": [made["id"]], "status": "paused"},
        **{"note": ""},
    }
    assert stored(k)[0]["status"] == "DISABLED"
    assert k.api.fire(made["id"]) == {}
    assert pause(connection, "nightly")["action"] == "unchanged"
    resumed = resume(connection, "nightly")
    assert (resumed["action"], resumed["status"], "starts a run at once" in resumed["note"]) == (
        *("resumed", "enabled"),
        True,
    )
    assert stored(k)[0]["status"] == "ENABLED"
    assert resume(connection, "nightly") | {"note": ""} == resumed | {"action": "unchanged", "ids": [], "note": ""}
    assert changes(k)[-3:] == ["POST", "disable", "enable"]


def test_what_was_paused_stays_so(nightly: Schedule, k: Kubeflow, connection: Connection) -> None:
    nightly()
    pause(connection, "nightly")
    note = "it was paused and stays so: --resume nightly"
    same, other = nightly(), nightly(HOURLY)
    assert [(one["action"], one["status"], one["next"], one["note"]) for one in (same, other)] == [
        ("unchanged", "paused", [], note),
        ("replaced", "paused", [], note),
    ]
    assert [one["status"] for one in stored(k)] == ["DISABLED"]
    assert resume(connection, "nightly")["ids"] == [other["id"]]
    assert nightly(HOURLY)["status"] == "enabled"


def test_pausing_reaches_what_a_failure_left_and_resuming_the_newest_alone(
    nightly: Schedule, k: Kubeflow, connection: Connection
) -> None:
    nightly()
    k.faults.fail(500, times=99, on="DELETE")
    with pytest.raises(PipelineError):
        nightly(HOURLY)
    k.faults.clear()
    assert len(pause(connection, "nightly")["ids"]) == 2
    resume(connection, "nightly")
    assert [one["status"] for one in stored(k)] == ["DISABLED", "ENABLED"]
    assert nightly(HOURLY)["status"] == "enabled"
    assert [one["trigger"]["cron_schedule"]["cron"] for one in stored(k)] == [HOURLY]


def test_unschedule(nightly: Schedule, k: Kubeflow, client: Any, ids: Ids, connection: Connection) -> None:
    made, by_hand = nightly(), made_by_hand(client, ids)
    other = made_by_hand(client, ids, "Nightly")
    k.faults.drop(on="DELETE", after=True)
    result = unschedule(connection, "nightly")
    assert (result["action"], sorted(result["ids"])) == ("removed", sorted([made["id"], by_hand]))
    assert [one["recurring_run_id"] for one in k.api.recurring_runs] == [other]


@pytest.mark.parametrize("command", [unschedule, pause, resume])
def test_names_that_there_are_not(
    command: Any, nightly: Schedule, client: Any, ids: Ids, connection: Connection
) -> None:
    with pytest.raises(UsageError, match=r"^there is no schedule 'nightly'; there are none at all$"):
        command(connection, "nightly")
    nightly()
    made_by_hand(client, ids, "weekly")
    with pytest.raises(UsageError, match=r"^there is no schedule 'nigtly'; did you mean 'nightly'\?$"):
        command(connection, "nigtly")
    with pytest.raises(UsageError, match=r"^there is no schedule 'xyz'; there are nightly, weekly$"):
        command(connection, "xyz")
    for at in range(11):
        made_by_hand(client, ids, f"films of {at:02}")
    with pytest.raises(UsageError, match=r"films of 09 and 3 more$"):
        command(connection, "xyz")


def test_a_dry_run_changes_nothing(nightly: Schedule, k: Kubeflow, connection: Connection) -> None:
    since = len(k.requests)
    told = nightly(dry_run=True)
    assert (told["action"], told["dry_run"], told["id"], len(told["next"])) == ("created", True, None, 5)
    assert nightly(dry_run=True, pipeline_id="", version_id="nlp-pipeline-0123", experiment_id="")["id"] is None
    assert changes(k, since) == []
    made = nightly()
    since = len(k.requests)
    assert nightly(dry_run=True)["action"] == "unchanged"
    told = nightly(HOURLY, dry_run=True)
    assert (told["action"], told["id"], told["replaced"]) == ("replaced", None, [made["id"]])
    assert unschedule(connection, "nightly", dry_run=True)["ids"] == [made["id"]]
    assert pause(connection, "nightly", dry_run=True)["action"] == "paused"
    assert resume(connection, "nightly", dry_run=True)["action"] == "unchanged"
    assert changes(k, since) == []
    assert stored(k)[0]["status"] == "ENABLED"


def test_other_namespaces_are_left_alone(team: Kubeflow, connect: Connect) -> None:
    made = {}
    for user, namespace in (("ann", "team"), ("bob", "other")):
        client = connect(team, existing_token=user)
        pipeline, version = uploaded(client, namespace=namespace)
        experiment = client.create_experiment("reviews", namespace=namespace).experiment_id
        ids = {"pipeline_id": pipeline, "version_id": version, "experiment_id": experiment}
        connection = connected(team, token=user, namespace=namespace)
        made[user] = (connection, ids, schedule(connection, "nightly", NIGHTLY, **ids, parameters=PARAMETERS)["id"])
    connection, ids, _ = made["ann"]
    replaced = schedule(connection, "nightly", HOURLY, **ids, parameters=PARAMETERS)
    assert replaced["replaced"] == [made["ann"][2]]
    assert {one["recurring_run_id"]: one["namespace"] for one in team.api.recurring_runs} == {
        made["bob"][2]: "other",
        replaced["id"]: "team",
    }
    assert [one["id"] for one in schedules(connection)] == [replaced["id"]]
    unschedule(connection, "nightly")
    with pytest.raises(UsageError, match="there are none at all"):
        pause(connection, "nightly")
    assert [one["recurring_run_id"] for one in team.api.recurring_runs] == [made["bob"][2]]
    intruder = connected(team, token="ann", namespace="other")
    with pytest.raises(UsageError, match=r"^listing schedules: 403: "):
        schedules(intruder)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"max_concurrency": 0}, "--concurrency 0: Kubeflow allows 1 to 10 runs at once"),
        ({"max_concurrency": 11}, "--concurrency 11: Kubeflow allows 1 to 10"),
        ({"name": " "}, "--schedule-name ' ' is no name"),
        ({"name": "a\nb"}, "is no name"),
        ({"cron": "0 2 * *"}, "that is 4 fields"),
        ({"start": "soon"}, "--start 'soon' is no time"),
        ({"end": "2027-02-30"}, "--end '2027-02-30' is no time"),
        ({"start": "2099-01-02", "end": "2099-01-01T23:00Z"}, "--start 2099-01-02T00:00:00Z is not before --end 2099"),
        ({"end": "2026-01-01"}, "--end 2026-01-01T00:00:00Z is past: it is 2"),
        (
            {"start": "2099-01-01T03:00", "end": "2099-01-02T01:00"},
            "never comes after --start 2099-01-01T03:00:00Z bef",
        ),
        ({"start": "9999-12-31T23:00"}, "never comes after --start 9999"),
        ({"cron": "0 0 0 1 1 *", "end": in_days(0.01)}, "never comes before --end 2"),
    ],
)
def test_what_is_refused_before_anything_is_sent(
    nightly: Schedule, k: Kubeflow, options: dict[str, Any], reason: str
) -> None:
    since = len(k.requests)
    with pytest.raises(UsageError) as caught:
        nightly(**options)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert k.requests[since:] == []


def test_a_start_in_the_past_is_not_made_up_for_unless_wanted(nightly: Schedule, k: Kubeflow) -> None:
    start = in_days(-3)
    result = nightly(start=start)
    assert "start_time" not in stored(k)[0]["trigger"]["cron_schedule"]
    assert (result["start"], result["note"]) == (start, "its start is past, and runs since then are not made up for")
    assert nightly(start=start)["action"] == "unchanged"
    caught_up = nightly(start=start, catch_up=True)
    assert "start_time" not in stored(k)[0]["trigger"]["cron_schedule"]
    assert "not made up for, as it replaces a former one" in caught_up["note"]
    new = nightly(name="new", start=start, catch_up=True)
    assert stored(k, "new")[0]["trigger"]["cron_schedule"]["start_time"] == start
    assert new["note"] == "its start is past: 3 runs since then are made up for at once"
    many = nightly(HOURLY, name="many", start="2020-01-01", catch_up=True, dry_run=True)
    assert many["note"].endswith("more than 1000 runs since then are made up for at once")


def test_a_run_more_often_than_once_a_minute_is_told(nightly: Schedule) -> None:
    assert nightly("* 0 2 * * *", dry_run=True)["note"].startswith("it comes 60 times in each minute")


def test_a_scheduled_run_reads_the_data_anew() -> None:
    pipeline = next(iter(yaml.safe_load_all(Path(PIPELINE).read_text(encoding="utf-8"))))
    found = [
        task
        for dag in (pipeline["root"]["dag"], *(one["dag"] for one in pipeline["components"].values() if "dag" in one))
        for task in dag["tasks"].values()
        if task["componentRef"]["name"] == "comp-load-data"
    ]
    assert len(found) == 1
    assert not found[0].get("cachingOptions", {}).get("enableCache")
