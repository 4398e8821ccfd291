"""Following a run: how it ends, what is shown of it, and a server that goes away meanwhile."""

import io
import os
import pty
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.client import connection as connection_module
from nlp_pipeline.client import waiting
from nlp_pipeline.client.connection import Connection
from nlp_pipeline.client.submitting import get_experiment, start_run, upload
from nlp_pipeline.client.waiting import LOG_LINES, follow, pod_names, seconds_between, told
from nlp_pipeline.errors import GateNotPassedError, PipelineError, TimedOutError, UsageError
from nlp_pipeline.pipeline.kubeflow import NAME
from tests.client.signed_in import TOKEN, connected, passwords_sent, team
from tests.kubeflow.emulator import Fate, Kubeflow

IR = (Path(__file__).parents[2] / "compiled" / "nlp_pipeline.yaml").read_text(encoding="utf-8")


@pytest.fixture
def k() -> Iterator[Kubeflow]:
    """A Kubeflow behind oauth2-proxy."""
    with team() as one:
        yield one


@pytest.fixture
def connection(k: Kubeflow) -> Connection:
    """A connection to it."""
    return connected(k)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is asked for all the time."""
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.005)


def started(k: Kubeflow, connection: Connection, fate: Fate) -> str:
    """Starts a run with this fate, and returns its id."""
    k.api.fate = fate
    version = upload(connection, IR, NAME)
    values = {"train_data": "s3://b/x.csv"}
    return str(start_run(connection, version, get_experiment(connection, "films"), values, "").run_id)


def ended(connection: Connection, run_id: str, timeout: float | None = 30) -> tuple[dict[str, Any], str]:
    """Follows a run; returns what is told of it, and what was shown."""
    stream = io.StringIO()
    return told(connection, follow(connection, run_id, timeout, stream), stream), stream.getvalue()


def test_a_run_that_succeeds(k: Kubeflow, connection: Connection) -> None:
    run_id = started(k, connection, Fate(pending=2))
    facts, shown = ended(connection, run_id)
    assert facts["state"] == "SUCCEEDED" and list(facts["steps"]) == list(waiting.ALL_STEPS)
    assert facts["url"].endswith(f"/_/pipeline/?ns=team#/runs/details/{run_id}") and facts["seconds"] > 0
    lines = shown.splitlines()
    assert lines[0] == "load_data running" and lines[1].startswith("load_data succeeded after ")
    assert len(lines) == 14 and lines[-1].startswith("deploy_model succeeded after ")
    # Once more, when it is over: nothing but its end.
    assert ended(connection, run_id)[0] == facts


@pytest.mark.parametrize("cached", [("load-data",), ("load-data", "train-model")])
def test_steps_from_the_cache_have_succeeded(cached: tuple[str, ...], k: Kubeflow, connection: Connection) -> None:
    facts, _ = ended(connection, started(k, connection, Fate(cached=cached)))
    assert {one["state"] for one in facts["steps"].values()} == {"SUCCEEDED"}


def test_the_gate_is_not_passed(k: Kubeflow, connection: Connection) -> None:
    run_id = started(k, connection, Fate(skipped=("condition-1",)))
    with pytest.raises(GateNotPassedError, match=r"^the gate is not passed; nothing was archived: http") as caught:
        ended(connection, run_id)
    assert caught.value.exit_code == 3 and caught.value.facts["state"] == "SUCCEEDED"
    assert list(caught.value.facts["steps"]) == ["load_data", "train_model", "evaluate_model", "gate"]


def test_without_a_deployment_it_has_succeeded(k: Kubeflow, connection: Connection) -> None:
    facts, _ = ended(connection, started(k, connection, Fate(skipped=("condition-2",))))
    assert facts["state"] == "SUCCEEDED" and "deploy_model" not in facts["steps"]


@pytest.mark.parametrize("task", ["load-data", "train-model", "validate-archive", "deploy-model"])
def test_a_run_that_fails_with_the_end_of_the_steps_log(task: str, k: Kubeflow, connection: Connection) -> None:
    run_id = started(k, connection, Fate(failing=task))
    k.logs["team", k.api.pod_of(run_id, task)] = "".join(f"line {at} [bold]\n" for at in range(100))
    stream = io.StringIO()
    step = task.replace("-", "_")
    with pytest.raises(PipelineError, match=rf"^{step} failed: http.*{run_id}$") as caught:
        told(connection, follow(connection, run_id, 30, stream), stream)
    assert caught.value.exit_code == 1 and caught.value.facts["failed_step"] == step
    end = stream.getvalue().partition(f"the end of {step}'s log:\n")[2].splitlines()
    assert end == [f"line {at} [bold]" for at in range(100 - LOG_LINES, 100)]


def test_a_run_that_fails_and_whose_log_can_not_be_had(k: Kubeflow, connection: Connection) -> None:
    run_id = started(k, connection, Fate(failing="train-model"))
    with pytest.raises(PipelineError, match=r"^train_model failed"):
        ended(connection, run_id)
    run_id = started(k, connection, Fate(ends="FAILED"))
    with pytest.raises(PipelineError, match=r"failed: http"):
        ended(connection, run_id)


@pytest.mark.parametrize("terminated", ["FAILED", "CANCELED"])
def test_a_run_that_is_canceled(terminated: str, k: Kubeflow, connection: Connection) -> None:
    run_id = started(k, connection, Fate(ends=None, terminated=terminated))
    connection.call("x", connection.runs.run_service_terminate_run, run_id)
    with pytest.raises(PipelineError, match=r"^the run was canceled: http") as caught:
        ended(connection, run_id)
    assert caught.value.exit_code == 1 and caught.value.facts["state"] == "CANCELED"


def test_a_run_that_never_ends_is_left_to_go_on(k: Kubeflow, connection: Connection) -> None:
    run_id = started(k, connection, Fate(ends=None))
    with pytest.raises(TimedOutError) as caught:
        ended(connection, run_id, 0.2)
    assert str(caught.value) == f"the run has not ended after 0.2 s; it goes on: --wait {run_id} comes back to it"
    assert caught.value.exit_code == 4 and caught.value.facts["url"].endswith(run_id)
    assert k.api.runs[0]["state"] == "RUNNING"


def test_there_is_no_such_run(connection: Connection) -> None:
    for run_id in ("unknown", "a/b c?", "ü"):
        with pytest.raises(UsageError, match=r"^there is no run .*: --runs lists them$"):
            ended(connection, run_id)


def on_read(monkeypatch: pytest.MonkeyPatch, at: int, do: Callable[[], None]) -> None:
    """Does something before a run is read for this time."""
    count = 0
    real = waiting.get_run

    def read(*values: Any) -> Any:
        nonlocal count
        count += 1
        if count == at:
            do()
        return real(*values)

    monkeypatch.setattr(waiting, "get_run", read)


def test_a_server_that_restarts(k: Kubeflow, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = started(k, connection, Fate())
    on_read(monkeypatch, 3, k.stop)
    threading.Timer(0.3, k.start).start()
    facts, shown = ended(connection, run_id)
    assert facts["state"] == "SUCCEEDED"
    # It is said once, not at each attempt.
    assert shown.count("can't be reached") == shown.count("; trying on for 15 minutes\n") == 1
    assert shown.count("Kubeflow is back\n") == 1


@pytest.mark.parametrize("status", [404, 500, 502, 503, 504, 429])
def test_a_gateway_whose_server_is_away(status: int, k: Kubeflow, connection: Connection) -> None:
    run_id = started(k, connection, Fate())
    faults = k.faults
    if status == 404:  # a gateway's, not the API's
        from tests.kubeflow.httpd import Response

        real, left = faults.around, [3]

        def around(name: str, make: Any) -> Any:
            left[0] -= 1
            return Response(404, "") if left[0] >= 0 else real(name, make)

        faults.around = around  # type: ignore[method-assign]
    else:
        faults.fail(status, times=3, on="GET .*/runs/")
    assert ended(connection, run_id)[0]["state"] == "SUCCEEDED"


def test_a_server_that_stays_away(k: Kubeflow, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = started(k, connection, Fate())
    monkeypatch.setattr(waiting, "PATIENCE_SECONDS", 0.1)
    k.stop()
    with pytest.raises(
        PipelineError, match=rf"can't be reached: .*; the run may go on: --wait {run_id} comes back to it$"
    ):
        ended(connection, run_id)
    with pytest.raises(TimedOutError):
        ended(connection, run_id, 0.05)


@pytest.mark.parametrize("kind", ["dex", "authservice"])
def test_a_session_that_expires_again_and_again(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with team(kind) as k:
        connection = connected(k)
        run_id = started(k, connection, Fate())
        on_read(monkeypatch, 2, k.sessions.expire)
        on_read(monkeypatch, 5, k.sessions.expire)
        assert ended(connection, run_id)[0]["state"] == "SUCCEEDED" and passwords_sent(k) == 3


def test_a_token_that_expires_ends_the_waiting_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with team() as k:
        connection = connected(k, token=TOKEN)
        run_id = started(k, connection, Fate())
        on_read(monkeypatch, 3, k.sessions.tokens.clear)
        with pytest.raises(UsageError, match=rf"lets no one in by bearer token .*; the run may go on: --wait {run_id}"):
            ended(connection, run_id)


def test_what_hangs_does_not_hold_up_the_end_of_waiting(
    k: Kubeflow, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = started(k, connection, Fate(ends=None))
    monkeypatch.setattr(connection_module, "TIMEOUT", 0.1)
    hold = k.faults.hold("GET .*/runs/")
    with pytest.raises(TimedOutError):
        ended(connection, run_id, 0.05)
    hold.release()


def test_a_live_table_on_a_terminal(k: Kubeflow, connection: Connection) -> None:
    run_id = started(k, connection, Fate(skipped=("condition-2",)))
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
    with os.fdopen(slave, "w") as stream:
        follow(connection, run_id, 30, stream)
    reader.join(10)
    os.close(master)
    text = shown.decode()
    assert "\x1b[" in text and text.count("load_data") > 3  # drawn again and again, in place
    last = text[text.rindex("load_data") :]
    assert "validate_archive" in last and "deploy_model" in last and last.count("succeeded") == 7


def test_the_names_of_pods() -> None:
    found = pod_names("nlp-pipeline-x7k2f-1793831555")
    assert found == ["nlp-pipeline-x7k2f-system-container-impl-1793831555", "nlp-pipeline-x7k2f-1793831555"]


def test_times_that_never_came() -> None:
    import datetime

    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    never = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    assert seconds_between(None, start) is None and seconds_between(never, start) is None
    assert seconds_between(start, start + datetime.timedelta(seconds=5)) == 5
    assert seconds_between(start + datetime.timedelta(seconds=5), start) == 0
    assert (seconds_between(start, never) or 0) > 0 and (seconds_between(start, None) or 0) > 0
