"""`--schedule` and what goes with it: no schedule is lost, and none is left over."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.kubeflow.runs import wait
from nlp_pipeline.kubeflow.schedules import Schedules
from nlp_pipeline.platforms.schedules import ScheduleOptions, write_time
from nlp_pipeline.settings import Settings
from tests.fakes.kfp import Fate, Kubeflow, kubeflow
from tests.kubeflow.users import VALUES, settings_of

NIGHTLY, HOURLY = "0 0 2 * * *", "0 0 * * * *"
POST = "POST .*/recurringruns$"
Schedule = Callable[..., dict[str, Any]]


@pytest.fixture
def settings(alone: Kubeflow) -> Settings:
    return settings_of(alone)


@pytest.fixture
def nightly(settings: Settings) -> Schedule:
    return lambda cron=NIGHTLY, **options: scheduled(settings, cron, **options)


def scheduled(settings: Settings, cron: str, **options: Any) -> dict[str, Any]:
    """Schedules the pipeline; parameters, other settings and a dry run may be given, and options."""
    values, dry_run = options.pop("values", VALUES), options.pop("dry_run", False)
    changed: dict[str, Any] = {}
    for name in {"service_account", "image", "experiment"} & set(options):
        changed[name] = options.pop(name)
    settings = settings.model_copy(update=changed) if changed else settings
    return Schedules(settings).schedule(
        ScheduleOptions(**{"cron": cron, "name": "nightly", **options}), values, dry_run
    )


def stored(k: Kubeflow, name: str = "nightly") -> list[dict[str, Any]]:
    return [item for item in k.api.recurring_runs if item["display_name"] == name]


def ids_of(k: Kubeflow, name: str = "nightly") -> list[str]:
    return [item["recurring_run_id"] for item in stored(k, name)]


def changes(k: Kubeflow, since: int = 0) -> list[str]:
    """Returns what was done with recurring runs: methods, or the actions of their addresses."""
    asked = [(method, path) for method, path, _ in k.api.requests[since:] if "recurringruns" in path]
    return [path.partition(":")[2] or method for method, path in asked if method != "GET"]


def made_by_hand(k: Kubeflow, name: str = "nightly", trigger: Any = None, **options: Any) -> str:
    """Makes a recurring run as the dashboard would, and returns its id."""
    version = k.api.versions[0]
    body = {
        "display_name": name,
        "experiment_id": k.api.experiments[-1]["experiment_id"],
        "pipeline_version_reference": {key: version[key] for key in ("pipeline_id", "pipeline_version_id")},
        "runtime_config": {"parameters": VALUES},
        "trigger": trigger or {"cron_schedule": {"cron": HOURLY}},
        **{"max_concurrency": "1", "mode": "ENABLE", "service_account": "x", "no_catchup": True, **options},
    }
    return str(k.api._create_recurring_run(body, "")["recurring_run_id"])


def in_days(days: float) -> str:
    return write_time(datetime.now(UTC) + timedelta(days=days))


def test_one_is_made(nightly: Schedule, alone: Kubeflow) -> None:
    result = nightly()
    (item,) = stored(alone)
    (version,) = alone.api.versions
    assert (item["status"], item["max_concurrency"], item["no_catchup"]) == ("ENABLED", "1", True)
    assert item["trigger"] == {"cron_schedule": {"cron": NIGHTLY}}
    reference = {name: version[name] for name in ("pipeline_id", "pipeline_version_id")}
    assert item["pipeline_version_reference"] == reference
    assert item["runtime_config"] == {"parameters": VALUES}
    assert {key: result[key] for key in ("action", "id", "status", "cron", "became", "replaced", "note")} == {
        **{"action": "created", "id": item["recurring_run_id"], "status": "enabled", "cron": NIGHTLY},
        **{"became": False, "replaced": [], "note": ""},
    }
    assert len(result["next"]) == 5 and all(time.endswith("T02:00:00Z") for time in result["next"])
    json.dumps(result)


def test_all_options(nightly: Schedule, alone: Kubeflow) -> None:
    start, end = in_days(1), in_days(9)
    options: dict[str, Any] = {"catch_up": True, "max_concurrency": 3, "start": start, "end": end}
    result = nightly("0 2 * * 7", **options, service_account="robot")
    (item,) = stored(alone)
    assert item["trigger"] == {"cron_schedule": {"cron": "0 0 2 * * 0", "start_time": start, "end_time": end}}
    assert (item.get("no_catchup"), item["max_concurrency"], item["service_account"]) == (None, "3", "robot")
    assert (result["cron"], result["became"], result["catch_up"]) == ("0 0 2 * * 0", True, True)
    assert 1 <= len(result["next"]) <= 2 and all(start < time <= end for time in result["next"])
    since = len(alone.api.requests)
    assert nightly("0 0 2 * * 0", **options, service_account="robot")["action"] == "unchanged"
    assert changes(alone, since) == []


@pytest.mark.parametrize(
    "other",
    [
        {"cron": HOURLY},
        {"values": {**VALUES, "epochs": 2.0}},
        {"start": in_days(2)},
        {"service_account": "robot"},
        {"experiment": "films"},
        {"image": "registry/x:1"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_one_replaces_it_and_is_made_first(nightly: Schedule, alone: Kubeflow, other: dict[str, Any]) -> None:
    first = nightly()
    assert nightly()["action"] == "unchanged"
    since = len(alone.api.requests)
    second = nightly(**other)
    assert (second["action"], second["replaced"]) == ("replaced", [first["id"]])
    assert changes(alone, since) == ["POST", "DELETE"] and ids_of(alone) == [second["id"]]
    assert nightly(**other)["action"] == "unchanged"


def test_one_made_by_hand_is_replaced_also_on_another_page(nightly: Schedule, alone: Kubeflow) -> None:
    nightly(name="other")
    for at in range(110):
        made_by_hand(alone, f"other {at}")
    interval = {"periodic_schedule": {"interval_second": "60"}}
    by_hand = [made_by_hand(alone, trigger=interval), made_by_hand(alone)]
    first = nightly(HOURLY)
    assert (first["action"], first["replaced"]) == ("replaced", by_hand)
    later = made_by_hand(alone)
    again = nightly(HOURLY)
    assert (again["action"], again["replaced"]) == ("replaced", [first["id"], later])
    assert ids_of(alone) == [again["id"]]


def test_a_failure_in_between_leaves_both_and_the_next_call_one(
    nightly: Schedule, alone: Kubeflow, settings: Settings
) -> None:
    first = nightly()
    alone.faults.fail(500, times=99, on="DELETE")
    with pytest.raises(PipelineError, match=r"'nightly' was scheduled anew, but older ones .* may be there") as caught:
        nightly(HOURLY)
    left = ids_of(alone)
    assert left == [first["id"], caught.value.facts["id"]] and caught.value.facts["left"] == [first["id"]]
    with pytest.raises(PipelineError, match="'nightly' is as it was, but older ones"):
        nightly(HOURLY)
    alone.faults.clear()
    assert len(Schedules(settings).pause("nightly", False)["ids"]) == 2
    Schedules(settings).resume("nightly", False)
    assert [item["status"] for item in stored(alone)] == ["DISABLED", "ENABLED"]
    second = nightly(HOURLY)
    assert (second["action"], second["id"], second["replaced"]) == ("unchanged", left[1], [first["id"]])
    assert ids_of(alone) == [left[1]]


def test_where_it_is_not_made_the_former_one_stays(nightly: Schedule, alone: Kubeflow) -> None:
    first = nightly()
    for status in (500, 504, 400):
        alone.faults.fail(status, times=99, on=POST)
        with pytest.raises(PipelineError, match=rf"^scheduling 'nightly': {status}: "):
            nightly(HOURLY)
        alone.faults.clear()
    assert ids_of(alone) == [first["id"]]


def test_a_lost_answer_leaves_one(nightly: Schedule, alone: Kubeflow) -> None:
    alone.faults.drop(on=POST, after=True)
    first = nightly()
    assert ids_of(alone) == [first["id"]]
    alone.faults.fail(504, on=POST, after=True)
    alone.faults.drop(on="DELETE", after=True)
    second = nightly(HOURLY)
    assert second["replaced"] == [first["id"]] and ids_of(alone) == [second["id"]] and alone.faults.left == 0


def test_the_list(nightly: Schedule, alone: Kubeflow, settings: Settings) -> None:
    assert Schedules(settings).schedules() == []
    end = in_days(30)
    first = nightly(end=end, max_concurrency=2)
    made_by_hand(alone, "by interval", {"periodic_schedule": {"interval_second": "60"}})
    made_by_hand(alone, "ended", {"cron_schedule": {"cron": HOURLY, "end_time": "2026-01-01T00:00:00Z"}})
    newest = made_by_hand(alone, "newest", {"cron_schedule": {"cron": "0 30 2 * *"}}, mode="DISABLE", no_catchup=False)
    alone.api.records["recurringRuns"][newest]["pipeline_version_reference"] = {"pipeline_id": first["pipeline_id"]}
    runs = [alone.api.fire(first["id"])["run_id"] for _ in range(2)]
    rows = {item["name"]: item for item in Schedules(settings).schedules()}
    json.dumps(rows)
    row, ids = rows["nightly"], {key: first[key] for key in ("pipeline_id", "version_id", "experiment_id", "id")}
    assert row.pop("last_time").startswith("2026-01-01T00:00:") and row.pop("created")
    assert row == {
        **{"name": "nightly", "cron": NIGHTLY, "next": first["next"][0], "status": "enabled", **ids},
        **{"version": alone.api.versions[0]["name"], "last_run": runs[1], "last_state": "PENDING"},
        **{"catch_up": False, "max_concurrency": 2, "start": None, "end": end},
        **{"service_account": "pipeline-runner", "parameters": VALUES},
    }
    others = ("by interval", "ended", "newest")
    assert [tuple(rows[name][key] for key in ("cron", "next", "status", "catch_up")) for name in others] == [
        ("@every 60s", None, "enabled", False),
        (HOURLY, None, "ended", False),
        ("0 30 2 * *", None, "paused", True),
    ]
    assert (rows["newest"]["version"], rows["newest"]["version_id"]) == ("the newest", None)
    alone.api.records["pipeline_versions"].clear()
    assert Schedules(settings).schedules()[-1]["version"] == first["version_id"]


def test_pause_and_resume(nightly: Schedule, alone: Kubeflow, settings: Settings) -> None:
    made = nightly()
    assert Schedules(settings).pause("nightly", False) == {
        **{"name": "nightly", "action": "paused", "dry_run": False, "ids": [made["id"]], "status": "paused"},
        **{"note": ""},
    }
    assert stored(alone)[0]["status"] == "DISABLED" and alone.api.fire(made["id"]) == {}
    assert Schedules(settings).pause("nightly", False)["action"] == "unchanged"
    note = "it was paused and stays so: --resume nightly"
    same, other = nightly(), nightly(HOURLY)
    assert [(item["action"], item["status"], item["next"], item["note"]) for item in (same, other)] == [
        ("unchanged", "paused", [], note),
        ("replaced", "paused", [], note),
    ]
    resumed = Schedules(settings).resume("nightly", False)
    assert (resumed["action"], resumed["status"], resumed["ids"]) == ("resumed", "enabled", [other["id"]])
    assert "starts a run at once" in resumed["note"] and stored(alone)[0]["status"] == "ENABLED"
    again = Schedules(settings).resume("nightly", False)
    assert (again["action"], again["ids"], again["note"]) == ("unchanged", [], "")


def test_unschedule(nightly: Schedule, alone: Kubeflow, settings: Settings) -> None:
    made, by_hand, other = nightly(), made_by_hand(alone), made_by_hand(alone, "Nightly")
    alone.faults.drop(on="DELETE", after=True)
    result = Schedules(settings).unschedule("nightly", False)
    assert (result["action"], sorted(result["ids"])) == ("removed", sorted([made["id"], by_hand]))
    assert [item["recurring_run_id"] for item in alone.api.recurring_runs] == [other]


def test_a_run_in_progress_is_not_lost_with_its_schedule(
    nightly: Schedule, alone: Kubeflow, settings: Settings
) -> None:
    alone.api.fate = Fate(at_once=True)
    made, schedules = nightly(), Schedules(settings)
    run_id = alone.api.fire(made["id"])["run_id"]
    for dry_run in (True, False):
        message = rf"^run {run_id} of 'nightly' is in progress; .*: --pause nightly, then --wait {run_id}; or --force$"
        with pytest.raises(UsageError, match=message):
            schedules.unschedule("nightly", dry_run)
    assert ids_of(alone) == [made["id"]]
    assert schedules.unschedule("nightly", False, True)["action"] == "removed"
    # From KFP 2.16 on, it goes on nevertheless; and it is nothing that would keep another schedule of this name.
    assert wait(settings, run_id, 60)["state"] == "SUCCEEDED"
    again = nightly()
    wait(settings, alone.api.fire(again["id"])["run_id"], 60)
    assert schedules.unschedule("nightly", False)["ids"] == [again["id"]]


@pytest.mark.parametrize("verb", ["unschedule", "pause", "resume"])
def test_names_that_there_are_not(verb: str, nightly: Schedule, settings: Settings) -> None:
    command = getattr(Schedules(settings), verb)
    with pytest.raises(UsageError, match=r"^there is no schedule 'nightly'; there are none at all$"):
        command("nightly", False)
    nightly()
    with pytest.raises(UsageError, match=r"^there is no schedule 'nigtly'; did you mean 'nightly'\?$"):
        command("nigtly", False)
    with pytest.raises(UsageError, match=r"^there is no schedule 'xyz'; there are nightly$"):
        command("xyz", False)


def test_a_dry_run_changes_nothing(nightly: Schedule, alone: Kubeflow, settings: Settings) -> None:
    reported = nightly(dry_run=True)
    assert (reported["action"], reported["dry_run"], reported["id"], len(reported["next"])) == (
        "created",
        True,
        None,
        5,
    )
    assert alone.api.versions == alone.api.recurring_runs == [] and reported["version_id"] is None
    made, since = nightly(), len(alone.api.requests)
    assert nightly(dry_run=True)["action"] == "unchanged"
    reported = nightly(HOURLY, dry_run=True)
    assert (reported["action"], reported["id"], reported["replaced"]) == ("replaced", None, [made["id"]])
    assert Schedules(settings).unschedule("nightly", True)["ids"] == [made["id"]]
    assert Schedules(settings).pause("nightly", True)["action"] == "paused"
    assert Schedules(settings).resume("nightly", True)["action"] == "unchanged"
    assert changes(alone, since) == [] and stored(alone)[0]["status"] == "ENABLED"


def test_other_namespaces_are_left_alone() -> None:
    with kubeflow(tokens={"ann": "team", "bob": "other"}) as k:
        ann, bob = settings_of(k, token="ann"), settings_of(k, token="bob", namespace="other")
        first, others = scheduled(ann, NIGHTLY), scheduled(bob, NIGHTLY)
        replaced = scheduled(ann, HOURLY)
        assert replaced["replaced"] == [first["id"]]
        assert [item["id"] for item in Schedules(ann).schedules()] == [replaced["id"]]
        Schedules(ann).unschedule("nightly", False)
        with pytest.raises(UsageError, match="there are none at all"):
            Schedules(ann).pause("nightly", False)
        assert [item["recurring_run_id"] for item in k.api.recurring_runs] == [others["id"]]
        uploads = len(k.api.versions)
        intruder = settings_of(k, token="ann", namespace="other")
        with pytest.raises(UsageError, match=r"^listing recurring runs: 403: "):
            scheduled(intruder, NIGHTLY, image="registry/x:1")
        assert len(k.api.versions) == uploads


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"values": {}}, "train_data is not set"),
        ({"max_concurrency": 0}, "--concurrency 0: Kubeflow allows 1 to 10 runs at once"),
        ({"name": "a\nb"}, "is no name"),
        ({"name": "n" * 256}, "--schedule-name nnnnnnnnnnnnnnnnnnnn... has 256 characters: Kubeflow takes 255 at most"),
        ({"start": "soon"}, "--start 'soon' is no time"),
        ({"end": "2026-01-01"}, "never comes before --end 2026-01-01T00:00:00Z"),
        (
            {"start": "2099-01-01T03:00", "end": "2099-01-02T01:00"},
            "never comes after --start 2099-01-01T03:00:00Z before --end 2099-01-02T01:00:00Z",
        ),
    ],
)
def test_what_is_refused_before_anything_is_sent(
    nightly: Schedule, alone: Kubeflow, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UsageError) as caught:
        nightly(**options)
    assert reason in str(caught.value) and "\n" not in str(caught.value) and alone.visits == []


def test_a_start_in_the_past_is_not_made_up_for_unless_wanted(nightly: Schedule, alone: Kubeflow) -> None:
    start = in_days(-3)
    result = nightly(start=start)
    assert "start_time" not in stored(alone)[0]["trigger"]["cron_schedule"]
    assert (result["start"], result["note"]) == (start, "its start is past, and runs since then are not made up for")
    assert nightly(start=start)["action"] == "unchanged"
    caught_up = nightly(start=start, catch_up=True)
    assert "start_time" not in stored(alone)[0]["trigger"]["cron_schedule"]
    assert caught_up["note"] == result["note"]
    new = nightly(name="new", start=start, catch_up=True)
    assert stored(alone, "new")[0]["trigger"]["cron_schedule"]["start_time"] == start
    assert new["note"] == "its start is past: runs since then are made up for at once"
    assert nightly("* 0 2 * * *", dry_run=True)["note"].startswith("it comes 60 times in each minute")
