"""Versions by content, experiments and runs: each made once, whatever goes wrong in between."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.client import connection as module
from nlp_pipeline.client.connection import Connection
from nlp_pipeline.client.submitting import check_parameters, get_experiment, run_url, start_run, upload, version_name
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.pipeline.kubeflow import NAME
from nlp_pipeline.settings import Settings
from tests.client.signed_in import BY_PASSWORD, TOKEN, connected, passwords_sent, team
from tests.kubeflow.emulator import Kubeflow, kubeflow

IR = (Path(__file__).parents[2] / "compiled" / "nlp_pipeline.yaml").read_text(encoding="utf-8")
VALUES = {"train_data": "s3://bucket/reviews.csv"}
POSTS = {
    "pipelines": "POST .*/pipelines$",
    "versions": "POST .*/upload_version",
    "experiments": "POST .*/experiments$",
    "runs": "POST .*/runs$",
}


@pytest.fixture(params=["several users", "one user"])
def k(request: pytest.FixtureRequest) -> Iterator[Kubeflow]:
    """A Kubeflow of several users behind oauth2-proxy, or KFP alone."""
    with team() if request.param == "several users" else kubeflow() as one:
        yield one
        assert not one.refused


def to(k: Kubeflow) -> Connection:
    """Connects to a Kubeflow."""
    several = "tests" if k.api_url != k.url else ""
    return connected(k) if several else Connection(Settings(host=k.url))


def submit(connection: Connection, ir: str = IR, experiment: str = "films") -> Any:
    """Does what `--submit` does, and returns the run."""
    version = upload(connection, ir, NAME)
    return start_run(connection, version, get_experiment(connection, experiment), VALUES, "")


def counts(k: Kubeflow) -> dict[str, int]:
    """Returns how many there are of each."""
    made = [one for one in k.api.experiments if one["display_name"] != "Default"]
    api = k.api
    return {"pipelines": len(api.pipelines), "versions": len(api.versions), "experiments": len(made),
            "runs": len(api.runs)}  # fmt: skip


ONE_OF_EACH = {"pipelines": 1, "versions": 1, "experiments": 1, "runs": 1}


def test_the_first_submit_makes_all(k: Kubeflow) -> None:
    connection = to(k)
    run = submit(connection)
    assert counts(k) == ONE_OF_EACH
    (pipeline,), (version,) = k.api.pipelines, k.api.versions
    name = version_name(IR, NAME)
    assert (pipeline["name"], version["name"], version["display_name"]) == (NAME, name, name)
    assert pipeline.get("namespace", "") == connection.namespace == ("team" if connection.multi_user else "")
    (made,) = k.api.runs
    assert made["display_name"].startswith(f"{name} ") and made["runtime_config"] == {"parameters": VALUES}
    assert made["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]
    assert run.run_id == made["run_id"]


def test_the_same_content_again_is_no_new_version(k: Kubeflow) -> None:
    submit(to(k))
    submit(to(k))
    assert counts(k) == {**ONE_OF_EACH, "runs": 2}
    assert upload(to(k), IR, NAME).is_new is False
    assert sum("upload" in visit for visit in k.visits) == 1


def test_other_content_is_a_new_version_of_the_same_pipeline(k: Kubeflow) -> None:
    submit(to(k))
    changed = upload(to(k), f"{IR}\n# changed\n", NAME)
    assert changed.is_new and counts(k) == {**ONE_OF_EACH, "versions": 2}
    assert upload(to(k), IR, NAME).version_id != changed.version_id


def test_the_versions_name_is_its_contents() -> None:
    assert version_name("a", "p") == version_name("a", "p") != version_name("b", "p")
    assert version_name("ä", "p").startswith("p-") and len(version_name("a", "p")) == 14


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("how", ["drop", 500, 502, 429])
@pytest.mark.parametrize("what", POSTS)
def test_what_fails_in_between_is_made_once(what: str, how: Any, after: bool, k: Kubeflow) -> None:
    connection = to(k)
    if how == "drop":
        k.faults.drop(on=POSTS[what], after=after)
    else:
        k.faults.fail(how, on=POSTS[what], after=after)
    run = submit(connection)
    assert k.faults.left == 0 and counts(k) == ONE_OF_EACH and k.api.runs[0]["run_id"] == run.run_id


@pytest.mark.parametrize("on", ["GET .*/pipelines", "GET .*/versions", "GET .*/experiments", "POST"])
def test_failures_of_all_kinds_at_once(on: str, k: Kubeflow) -> None:
    connection = to(k)
    for _ in range(1):
        k.faults.drop(on=on)
        k.faults.fail(503, on=on)
        k.faults.drop(on=on, after=True)
    submit(connection)
    assert k.faults.left == 0 and counts(k) == ONE_OF_EACH


@pytest.mark.parametrize("kind", ["dex", "authservice"])
@pytest.mark.parametrize("requests", range(8))
def test_a_session_that_expires_before_any_of_the_calls(kind: Any, requests: int) -> None:
    with team(kind) as k:
        connection = connected(k)
        k.sessions.expire_after(requests)
        submit(connection)
        assert counts(k) == ONE_OF_EACH and passwords_sent(k) == (2 if requests < 7 else 1)


@pytest.mark.parametrize("what", POSTS)
def test_what_never_succeeds_is_told(what: str, k: Kubeflow) -> None:
    connection = to(k)
    k.faults.fail(500, times=99, on=POSTS[what])
    with pytest.raises(PipelineError, match=r"^(making|uploading|starting) .*: 500: Internal Server Error$"):
        submit(connection)
    assert counts(k)[what] == 0


@pytest.mark.parametrize("what", ["pipelines", "versions", "experiments"])
def test_someone_else_makes_the_same_meanwhile(what: str, k: Kubeflow) -> None:
    connection, other = to(k), to(k)
    hold = k.faults.hold(POSTS[what])
    threads = both(lambda: submit(connection))
    assert hold.reached.wait(20)
    submit(other)
    hold.release()
    join(threads)
    assert counts(k) == {**ONE_OF_EACH, "runs": 2}


def both(*doing: Callable[[], Any]) -> list[threading.Thread]:
    threads = [threading.Thread(target=one) for one in doing]
    for one in threads:
        one.start()
    return threads


def join(threads: list[threading.Thread]) -> None:
    for one in threads:
        one.join(30)
        assert not one.is_alive()


def test_many_at_the_same_time_leave_one_of_each(k: Kubeflow) -> None:
    connections = [to(k) for _ in range(4)]
    barrier = threading.Barrier(len(connections))
    runs: list[str] = []

    def one(connection: Connection) -> None:
        barrier.wait(20)
        runs.append(submit(connection).run_id)

    join(both(*[lambda connection=connection: one(connection) for connection in connections]))
    assert len(set(runs)) == 4 and counts(k) == {**ONE_OF_EACH, "runs": 4}


def test_a_run_whose_answer_comes_too_late_is_not_started_twice(k: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = to(k)
    monkeypatch.setattr(module, "TIMEOUT", 0.5)
    hold = k.faults.hold(POSTS["runs"])
    with pytest.raises(PipelineError, match=r"^starting the run: .*does not answer in time; it may yet be done"):
        submit(connection)
    hold.release()
    assert sum("/runs" in visit and "POST" in visit for visit in k.visits) == 1


SMALL = """\
components: {comp-x: {executorLabel: exec-x}}
deploymentSpec: {executors: {exec-x: {container: {image: x}}}}
pipelineInfo: {name: x}
root: {dag: {tasks: {x: {componentRef: {name: comp-x}, taskInfo: {name: x}}}}}
schemaVersion: 2.1.0
"""


def test_among_hundreds_on_several_pages(k: Kubeflow) -> None:
    import kfp_server_api  # type: ignore[import-untyped]

    connection = to(k)
    k.api.clock.step = 0  # all in the same second
    space = connection.namespace or None
    for at in range(105):
        experiment = kfp_server_api.V2beta1Experiment(display_name=f"{at}", namespace=space)
        connection.call("x", connection.experiments.experiment_service_create_experiment, experiment)
        pipeline = kfp_server_api.V2beta1Pipeline(name=f"{at}", display_name=f"{at}", namespace=space)
        connection.call("x", connection.pipelines.pipeline_service_create_pipeline, pipeline)
    for at in range(105):
        upload(connection, f"{SMALL}# {at}\n", NAME)
    first = counts(k)
    assert (first["pipelines"], first["versions"], first["experiments"]) == (106, 105, 105)
    for at in (0, 52, 104):
        assert not upload(connection, f"{SMALL}# {at}\n", NAME).is_new
        get_experiment(connection, f"{at}")
    assert counts(k) == first


def test_an_archived_experiment_is_told(k: Kubeflow) -> None:
    connection = to(k)
    found = get_experiment(connection, "films")
    connection.call("x", connection.experiments.experiment_service_archive_experiment, found)
    with pytest.raises(
        UsageError, match=r"^experiment 'films' is archived: restore it in the dashboard, or give another"
    ):
        get_experiment(connection, "films")


@pytest.mark.parametrize(
    "name",
    ["a+b 50%", "reviews/2026?x=1&y#z", "Ärzte 日本 🎬", 'it\'s "quoted"', "%2F%25", "a\\b", "{}", "<b>", "x" * 100],
)
def test_names_with_odd_characters(name: str, k: Kubeflow) -> None:
    connection = to(k)
    found = get_experiment(connection, name)
    assert get_experiment(connection, name) == found
    version = upload(connection, IR, NAME)
    k.faults.drop(on=POSTS["runs"], after=True)
    start_run(connection, version, found, VALUES, "")
    assert k.api.experiments[-1]["display_name"] == name and len(k.api.runs) == 1


def test_a_name_that_differs_in_case_alone(k: Kubeflow) -> None:
    connection = to(k)
    get_experiment(connection, "Films")
    with pytest.raises(
        UsageError, match=r"^experiment 'films': this server takes 'Films', which is there, for the same"
    ):
        get_experiment(connection, "films")
    k.api.case_matters = True
    assert get_experiment(connection, "films")


def test_parameters_of_all_types_arrive(k: Kubeflow) -> None:
    from nlp_pipeline.pipeline.parameters import parse_settings

    given = ["train_data=s3://b/ä ö 日本 🎬.csv", "epochs=2", "learning_rate=0.00003", "batch_size=8", "deploy=false",
             "label_column=Ein \"Wort\" = 'x'\\n", "seed=0"]  # fmt: skip
    values = parse_settings(given)
    check_parameters(values)
    connection = to(k)
    start_run(connection, upload(connection, IR, NAME), get_experiment(connection, "x"), values, "robot")
    sent = k.api.runs[0]
    assert sent["runtime_config"]["parameters"] == values and sent["service_account"] == "robot"
    kinds = {name: type(one) for name, one in sent["runtime_config"]["parameters"].items()}
    assert kinds["deploy"] is bool and kinds["batch_size"] is int and kinds["learning_rate"] is float
    assert kinds["epochs"] is float and values["seed"] == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "train_data is not set: --set train_data=URL, or a path on the volume"),
        (
            {"train_data": "my.csv"},
            "train_data=my.csv: pods don't see the files of this machine; give a URL, or a path",
        ),
        ({**VALUES, "evaluation_data": "./x.csv"}, "evaluation_data=./x.csv: pods don't see"),
    ],
)
def test_what_a_run_can_not_begin_with(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_parameters(values)
    assert str(caught.value).startswith(message)


def test_parameters_that_the_server_refuses_are_told(k: Kubeflow) -> None:
    connection = to(k)
    version, experiment = upload(connection, IR, NAME), get_experiment(connection, "x")
    with pytest.raises(UsageError, match=r"^starting the run: 400: .*requires type"):
        start_run(connection, version, experiment, {**VALUES, "epochs": "many"}, "")
    assert counts(k)["runs"] == 0


def test_the_address_of_a_run() -> None:
    with team() as k:
        for given in (BY_PASSWORD, {"token": TOKEN}):
            for host in (k.url, f"{k.url}/pipeline/", f"{k.url}/_/pipeline/?ns=team#/x"):
                url = run_url(connected(k, **given, host=host), "id")
                assert url == f"{k.url}/_/pipeline/?ns=team#/runs/details/id"
    with kubeflow() as k:
        k.faults.fail(404, on="GET /pipeline/")
        assert run_url(Connection(Settings(host=k.url)), "id") == f"{k.url}/#/runs/details/id"


def test_no_file_is_left(k: Kubeflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    submit(to(k))
    assert not [one for one in tmp_path.rglob("*") if one.is_file()]
