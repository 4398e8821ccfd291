"""`--runs` and `--wait`: recent runs; how a run ends, what is shown of it, and a server that goes away meanwhile."""

import contextlib
import io
import json
import os
import pty
import threading
from collections.abc import Callable
from typing import Any

import pytest

from nlp_pipeline.errors import GateNotPassedError, PipelineError, TimedOutError, UsageError
from nlp_pipeline.kubeflow import runs as module
from nlp_pipeline.kubeflow.connection import connect
from nlp_pipeline.kubeflow.pipelines import Version, get_experiment, start_run, submit, upload_version
from nlp_pipeline.kubeflow.runs import ALL_STEPS, runs, wait
from nlp_pipeline.platforms import waiting
from nlp_pipeline.platforms.waiting import LOG_LINES
from nlp_pipeline.settings import Settings
from tests.fakes.httpd import Response
from tests.fakes.kfp import Fate, Kubeflow
from tests.kubeflow.test_pipelines import SMALL
from tests.kubeflow.users import TOKEN, VALUES, settings_of


def started(k: Kubeflow, fate: Fate, **options: Any) -> tuple[Settings, str]:
    k.api.fate = fate
    settings = settings_of(k, **options)
    return settings, submit(settings, VALUES, dry_run=False)["run_id"]


def ended(settings: Settings, run_id: str, timeout: float | None = 60) -> tuple[dict[str, Any], str]:
    """Follows a run; returns what is told of it, and what was shown."""
    with contextlib.redirect_stderr(io.StringIO()) as stream:
        return wait(settings, run_id, timeout), stream.getvalue()


def test_a_run_that_succeeds(k: Kubeflow) -> None:
    settings, run_id = started(k, Fate(pending=2, cached=("train-model",)))
    facts, shown = ended(settings, run_id)
    assert list(facts["steps"]) == list(ALL_STEPS) and facts["seconds"] > 0
    assert {step["state"] for step in facts["steps"].values()} == {facts["state"]} == {"SUCCEEDED"}
    lines = shown.splitlines()
    assert lines[0] == "load_data running" and lines[1].startswith("load_data succeeded after ")
    assert len(lines) == 13 and lines[-1].startswith("notify succeeded after ")
    # Once more, when it is over: nothing but its end.
    assert ended(settings, run_id)[0] == facts


def test_what_the_gate_said_is_read_from_the_steps_log(k: Kubeflow) -> None:
    settings, run_id = started(k, Fate(skipped=("condition-2",)))
    pod = k.api.pod_of(run_id, "evaluate-model")
    k.logs["team", pod] = "champion: none\nnot passed: accuracy 0.4 is 0.1 below min_accuracy 0.5\n"
    said = r"^the gate is not passed: accuracy 0\.4 is 0\.1 below min_accuracy 0\.5; nothing was archived: http"
    with pytest.raises(GateNotPassedError, match=said) as caught:
        ended(settings, run_id)
    assert caught.value.facts["state"] == "SUCCEEDED"
    assert list(caught.value.facts["steps"]) == ["load_data", "train_model", "evaluate_model", "notify"]


@pytest.mark.parametrize("task", ["load-data", "validate-archive", "deploy-model"])
def test_a_run_that_fails_with_the_end_of_the_steps_log(
    task: str, k: Kubeflow, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, run_id = started(k, Fate(failing=task))
    k.logs["team", k.api.pod_of(run_id, task)] = "".join(f"line {at} [bold]\n" for at in range(100))
    step = task.replace("-", "_")
    with pytest.raises(PipelineError, match=rf"^{step} failed: http.*{run_id}$") as caught:
        wait(settings, run_id, 60)
    assert caught.value.exit_code == 1 and caught.value.facts["failed_step"] == step
    end = capsys.readouterr().err.partition(f"the end of {step}'s log:\n")[2].splitlines()
    assert end == [f"line {at} [bold]" for at in range(100 - LOG_LINES, 100)]


def test_a_run_that_is_canceled(k: Kubeflow) -> None:
    settings, run_id = started(k, Fate(ends=None))
    connection = connect(settings)
    connection.call("x", connection.runs.run_service_terminate_run, run_id)
    with pytest.raises(PipelineError, match=r"^the run was canceled: http") as caught:
        ended(settings, run_id)
    assert caught.value.facts["state"] == "CANCELED"


def test_there_is_no_such_run(k: Kubeflow) -> None:
    for run_id in ("unknown", "a/b c?", "ü"):
        with pytest.raises(UsageError, match=r"^there is no run .*: --runs lists them$"):
            ended(settings_of(k), run_id)


def on_read(monkeypatch: pytest.MonkeyPatch, *at: int, do: Callable[[], None]) -> None:
    """Does something before a run is read for these times."""
    count, real = 0, module.get_run

    def read(*values: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if count in at:
            do()
        return real(*values, **named)

    monkeypatch.setattr(module, "get_run", read)


def test_a_server_that_restarts(k: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, run_id = started(k, Fate())
    on_read(monkeypatch, 3, do=k.stop)
    threading.Timer(0.3, k.start).start()
    facts, shown = ended(settings, run_id)
    assert facts["state"] == "SUCCEEDED"
    # It is said once, not at each attempt.
    assert shown.count("can't be reached") == shown.count("; trying on for 15 minutes\n") == 1
    assert shown.count("Kubeflow is back\n") == 1


def test_a_gateway_whose_server_is_away(k: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, run_id = started(k, Fate())
    k.faults.fail(504, times=3, on="GET .*/runs/")
    real = k.faults.around
    on_read(monkeypatch, 6, do=lambda: setattr(k.faults, "around", lambda name, make: Response(404, "")))
    on_read(monkeypatch, 8, do=lambda: setattr(k.faults, "around", real))
    assert ended(settings, run_id)[0]["state"] == "SUCCEEDED"


def test_a_server_that_stays_away(k: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, run_id = started(k, Fate())
    monkeypatch.setattr(waiting, "PATIENCE_SECONDS", 0.1)
    k.stop()
    message = rf"can't be reached: .*; the run may go on: --wait {run_id} comes back to it$"
    with pytest.raises(PipelineError, match=message):
        ended(settings, run_id)
    monkeypatch.setattr(waiting, "PATIENCE_SECONDS", 600.0)
    with pytest.raises(TimedOutError):
        ended(settings, run_id, 0.05)


def test_a_token_that_expires_ends_the_waiting_only(k: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, run_id = started(k, Fate(), token=TOKEN)
    on_read(monkeypatch, 3, do=k.sessions.tokens.clear)
    with pytest.raises(UsageError, match=rf"lets no one in by bearer token .*; the run may go on: --wait {run_id}"):
        ended(settings, run_id)


def test_a_live_table_on_a_terminal(k: Kubeflow) -> None:
    settings, run_id = started(k, Fate())
    master, slave = pty.openpty()
    shown = bytearray()

    def read() -> None:
        try:
            while piece := os.read(master, 4096):
                shown.extend(piece)
        except OSError:  # how the end of a terminal is told
            pass

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(slave, "w") as stream, contextlib.redirect_stderr(stream):
        wait(settings, run_id, 60)
    reader.join(60)
    os.close(master)
    text = shown.decode()
    assert "\x1b[" in text and text.count("load_data") > 3  # drawn again and again, in place
    last = text[text.rindex("load_data") :]
    assert "validate_archive" in last and "deploy_model" in last and last.count("succeeded") == 8


def make_runs(settings: Settings, count: int) -> list[str]:
    connection = connect(settings)
    version: Version = upload_version(connection, SMALL)
    experiment = get_experiment(connection, "films")
    return [start_run(connection, version, experiment, {}).run_id for _ in range(count)]


def test_newest_first_with_what_is_known_of_them(k: Kubeflow) -> None:
    k.api.fate = Fate(at_once=True)
    settings = settings_of(k)
    ids = make_runs(settings, 3)
    wait(settings, ids[0], 60)
    first, *others = runs(settings, 2)
    assert [first["id"], *(other["id"] for other in others)] == [ids[2], ids[1]]
    assert first | {"id": "", "created": "", "name": ""} == {
        **{"id": "", "name": "", "state": "PENDING", "created": "", "seconds": None},
        "experiment_id": k.api.experiments[-1]["experiment_id"],
        "version_id": k.api.versions[0]["pipeline_version_id"],
    }
    assert first["created"].startswith("2026-01-01T00:00:") and first["created"].endswith("+00:00")
    json.dumps(first)
    oldest = runs(settings, 10)[-1]
    assert oldest["state"] == "SUCCEEDED" and oldest["seconds"] > 0


def test_more_than_a_page(alone: Kubeflow) -> None:
    settings = settings_of(alone)
    make_runs(settings, 1)
    (run,) = alone.api.runs
    ids = [alone.api._run(run)["run_id"] for _ in range(230)]
    before = len(alone.api.requests)
    assert [run["id"] for run in runs(settings, 225)] == ids[:-226:-1]
    assert [path for _, path, _ in alone.api.requests[before:]] == ["/runs"] * 2


def test_archived_runs_are_left_out(alone: Kubeflow) -> None:
    settings = settings_of(alone)
    assert runs(settings, 5) == []
    ids = make_runs(settings, 2)
    alone.api.records["runs"][ids[1]]["storage_state"] = "ARCHIVED"
    assert [run["id"] for run in runs(settings, 10)] == ids[:1]
