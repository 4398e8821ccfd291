"""The notice at a run's end: what it says of each end, whom it tells, that it fails nothing, gives nothing away."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kfp.dsl import PipelineTaskFinalStatus

from nlp_pipeline import storage
from nlp_pipeline.errors import PipelineError, RolledBackError
from nlp_pipeline.parameters import flatten
from nlp_pipeline.pipeline.components import notify
from nlp_pipeline.steps.evaluate_model.settings import GateSettings
from nlp_pipeline.volume import GATE, VARIABLE, Run
from tests.fakes.httpd import Host, Request, Response
from tests.fakes.kubernetes.emulator import Cluster, emulated_cluster

ADDRESS = "/services/T000/S3CRET"


class Webhook:
    """Takes notices; answers with statuses, the last one for good."""

    def __init__(self) -> None:
        self.bodies: dict[str, list[Any]] = {"/plain": [], ADDRESS: []}
        self.statuses = [200]

    def __call__(self, request: Request) -> Response:
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if status == 200:
            self.bodies[request.path].append(json.loads(request.body))
        return Response(status, "ok")


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    """Both kinds of webhooks, to which the environment points."""
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.001)
    monkeypatch.setenv("NO_PROXY", "*")
    webhook = Webhook()
    host = Host(webhook)
    host.start()
    monkeypatch.setenv("NOTIFY_URL", f"{host.url}/plain\n")  # as a file that was made a Secret may end
    monkeypatch.setenv("NOTIFY_SLACK_URL", f"{host.url}{ADDRESS}")
    yield webhook
    host.stop()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster, to which the kubeconfig points."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with emulated_cluster() as cluster:
        cluster.write_kubeconfig(tmp_path / "kubeconfig", "team")
        yield cluster


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of "reviews" with a volume."""
    (tmp_path / "volume").mkdir()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "volume"))
    return Run(model_name="reviews", run_id="run")


def end(run: Run, state: str = "COMPLETE") -> None:
    """Ends a run, as stock KFP tells it."""
    status = PipelineTaskFinalStatus(state, "nlp-pipeline-abc", "exit-handler-1", None, None)
    notify.python_func(model_name=run.model_name, run_id=run.run_id, status=status)


def step(name: str, failure: BaseException | None = None) -> None:
    """Runs a step, as its component does."""

    def body(run: Run, settings: GateSettings) -> None:
        if failure:
            raise failure

    body.__name__ = name
    values = {"model_name": "reviews", "run_id": "run", "min_accuracy": 0.5}
    flatten(body)(**values)


def test_a_run_that_succeeds(run: Run, webhook: Webhook, cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    step("deploy_model")
    run.record("metrics.json", accuracy=0.86789)
    run.record("endpoint.json", release="0123456789abcdef", url="http://reviews.team.example.com", outcome="deployed")
    end(run)
    text = "reviews: succeeded, accuracy 0.8679, release 0123456789abcdef, url http://reviews.team.example.com"
    facts = {"accuracy": 0.8679, "release": "0123456789abcdef", "url": "http://reviews.team.example.com"}
    known = {"outcome": "succeeded", "model_name": "reviews", "run_id": "run", **facts, "text": text}
    assert webhook.bodies == {"/plain": [known], ADDRESS: [{"text": text}]}
    (event,) = cluster.sent
    assert event[2]["message"] == text and (event[2]["type"], event[2]["reason"]) == ("Normal", "Succeeded")
    about = event[2]["involvedObject"]
    assert (about["kind"], about["name"], about["namespace"]) == ("Workflow", "nlp-pipeline-abc", "team")
    assert capsys.readouterr().out == f"{text}\n"


@pytest.mark.parametrize(
    ("name", "failure", "outcome", "text"),
    [
        ("train_model", PipelineError("no\nGPU"), "failed", "train_model failed: no"),
        ("load_data", KeyError(), "failed", "load_data failed: KeyError"),
        ("deploy_model", RolledBackError("rolled back: b"), "rolled back", "deploy_model failed: rolled back: b"),
        ("gate", None, "failed", "what follows gate failed: it did not begin"),
    ],
    ids=["error", "no message", "rolled back", "nothing follows"],
)
def test_a_run_that_fails(
    name: str, failure: BaseException | None, outcome: str, text: str, run: Run, webhook: Webhook, cluster: Cluster
) -> None:
    if failure:
        with pytest.raises(type(failure)):
            step(name, failure)
    else:
        step(name)
    end(run, "FAILED")
    (notice,) = webhook.bodies["/plain"]
    assert (notice["outcome"], notice["text"]) == (outcome, f"reviews: {text}")
    assert cluster.sent[0][2]["type"] == "Warning"


def test_a_step_that_was_killed_or_never_began(run: Run, webhook: Webhook) -> None:
    end(run, "FAILED")
    run.record("step.json", step="train_model", state="running")
    end(run, "FAILED")
    assert [notice["text"] for notice in webhook.bodies["/plain"]] == [
        f"reviews: {name} failed: it left no word: its pod did not start, or was killed"
        for name in ("load_data", "train_model")
    ]


def test_settings_out_of_their_range_are_recorded(run: Run, webhook: Webhook) -> None:
    def body(run: Run, settings: GateSettings) -> None:
        raise AssertionError

    with pytest.raises(PipelineError):
        flatten(body)(model_name="reviews", run_id="run", min_accuracy=7)
    end(run, "FAILED")
    assert "min_accuracy is 7: it must be from 0 to 1" in webhook.bodies["/plain"][0]["text"]


def test_a_gate_that_is_not_passed(run: Run, webhook: Webhook, cluster: Cluster) -> None:
    run.record(GATE, passed=False, reason="accuracy 0.4000 is 0.1000 below min_accuracy 0.5")
    end(run)
    notice = webhook.bodies["/plain"][0]
    assert notice["text"] == "reviews: the gate is not passed: accuracy 0.4000 is 0.1000 below min_accuracy 0.5"
    assert notice["outcome"] == "gate not passed" and cluster.sent[0][2]["reason"] == "GateNotPassed"


def test_what_can_not_be_told_fails_nothing_and_no_address_is_printed(
    run: Run, webhook: Webhook, cluster: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook.statuses = [404]
    cluster.deny("create", "events")
    end(run)
    printed = capsys.readouterr().out.splitlines()
    notes = [
        "note: the notice was not sent: NOTIFY_URL: 404",
        "note: the notice was not sent: NOTIFY_SLACK_URL: 404",
        "note: the notice was not sent: creating an Event: 403: events is forbidden",
    ]
    assert [line.partition(": User")[0] for line in printed[1:]] == notes
    monkeypatch.setenv("NOTIFY_URL", "http://127.0.0.1:1/S3CRET")
    monkeypatch.setenv("NOTIFY_SLACK_URL", "no address S3CRET")
    end(run)
    said = capsys.readouterr().out
    assert "NOTIFY_URL: ConnectError" in said and "S3CRET" not in said


def test_a_webhook_that_is_away_for_a_moment(run: Run, webhook: Webhook) -> None:
    webhook.statuses = [503, 429, 200]
    end(run)
    assert len(webhook.bodies["/plain"]) == 1


def test_without_addresses_a_cluster_or_a_volume(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    end(Run(model_name="reviews", run_id="run"))
    first, second = capsys.readouterr().out.splitlines()
    assert first == "reviews: succeeded" and second.startswith("note: the notice was not sent: no cluster: ")
