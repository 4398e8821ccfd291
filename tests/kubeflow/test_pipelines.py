"""`--submit` and `--upload`: versions by content, experiments and runs, each made once, whatever goes wrong."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.kubeflow import connection as connection_module
from nlp_pipeline.kubeflow import pipelines
from nlp_pipeline.kubeflow.pipelines import get_experiment, start_run, submit, upload_version
from nlp_pipeline.pipeline.parameters import NAME, parse_settings
from nlp_pipeline.settings import Settings
from tests.fakes.kfp import Kubeflow
from tests.kubeflow.users import BATCH, VALUES, connected, settings_of

POSTS = {
    "pipelines": "POST .*/pipelines$",
    "versions": "POST .*/upload_version",
    "experiments": "POST .*/experiments$",
    "runs": "POST .*/runs$",
}
ONE_OF_EACH = dict.fromkeys(POSTS, 1)
SMALL = """\
components: {comp-x: {executorLabel: exec-x}}
deploymentSpec: {executors: {exec-x: {container: {image: x}}}}
pipelineInfo: {name: x}
root: {dag: {tasks: {x: {componentRef: {name: comp-x}, taskInfo: {name: x}}}}}
schemaVersion: 2.1.0
"""


def run_of(k: Kubeflow, values: dict[str, Any] = VALUES, **options: Any) -> dict[str, Any]:
    return submit(settings_of(k).model_copy(update=options), values, dry_run=False)


def counts(k: Kubeflow) -> dict[str, int]:
    experiments = [item for item in k.api.experiments if item["display_name"] != "Default"]
    return dict(zip(POSTS, map(len, (k.api.pipelines, k.api.versions, experiments, k.api.runs)), strict=True))


def test_the_first_submit_makes_all_and_the_same_content_again_no_version(either: Kubeflow) -> None:
    result = run_of(either, experiment="films & co", service_account="robot")
    assert counts(either) == ONE_OF_EACH
    (pipeline,), (version,), (run,) = either.api.pipelines, either.api.versions, either.api.runs
    assert (pipeline["name"], version["name"], version["display_name"]) == (NAME, result["version"], result["version"])
    assert pipeline.get("namespace", "") == ("team" if either.api.health["multi_user"] else "")
    assert run["display_name"].startswith(f"{version['name']} ") and run["service_account"] == "robot"
    assert run["runtime_config"] == {"parameters": VALUES}
    assert run["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]
    assert (result["run_id"], result["new_version"]) == (run["run_id"], True)
    assert run_of(either, experiment="films & co")["new_version"] is False
    assert counts(either) == {**ONE_OF_EACH, "runs": 2}
    changed = upload_version(connected(either), SMALL)
    assert changed.is_new and counts(either)["versions"] == 2 and counts(either)["pipelines"] == 1


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("how", "what"), [("drop", "pipelines"), (429, "versions"), (502, "experiments"), (500, "runs"), ("drop", "runs")]
)
def test_what_fails_in_between_is_made_once(what: str, how: Any, after: bool, k: Kubeflow) -> None:
    k.faults.drop(on=POSTS[what], after=after) if how == "drop" else k.faults.fail(how, on=POSTS[what], after=after)
    run_id = run_of(k)["run_id"]
    assert k.faults.left == 0 and counts(k) == ONE_OF_EACH and k.api.runs[0]["run_id"] == run_id
    assert sum(visit.startswith("POST /pipeline/") for visit in k.visits) == (4 if after else 5)


@pytest.mark.parametrize(("what", "status", "attempts"), [("versions", 500, 5), ("runs", 500, 5), ("runs", 400, 1)])
def test_what_never_succeeds_is_told(what: str, status: int, attempts: int, k: Kubeflow) -> None:
    k.faults.fail(status, times=99, on=POSTS[what])
    with pytest.raises(PipelineError, match=rf"^(making|uploading|starting) .*: {status}: Internal Server Error$"):
        run_of(k)
    assert counts(k)[what] == 0 and k.faults.left == 99 - attempts


def test_where_it_can_not_be_known_whether_it_was_done_that_is_said(k: Kubeflow) -> None:
    k.faults.drop(on=POSTS["runs"], after=True)
    k.faults.fail(500, times=99, on="GET .*/runs")
    message = r"^starting the run: .* can't be reached: .*; whether it was done is not known: listing runs: 500"
    with pytest.raises(PipelineError, match=message):
        run_of(k)


@pytest.mark.parametrize("what", ["pipelines", "versions", "experiments"])
def test_someone_else_makes_the_same_meanwhile(what: str, k: Kubeflow) -> None:
    hold = k.faults.hold(POSTS[what])
    with ThreadPoolExecutor() as pool:
        first = pool.submit(run_of, k)
        assert hold.reached.wait(60)
        run_of(k)
        hold.release()
        first.result(60)
    assert counts(k) == {**ONE_OF_EACH, "runs": 2}


def test_after_a_silence_only_what_is_unique_is_made_again(alone: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "TIMEOUT", 0.5)
    connection = connected(alone)
    alone.faults.hold(POSTS["experiments"])
    experiment_id, version = get_experiment(connection, "x"), upload_version(connection, SMALL)
    assert [item["display_name"] for item in alone.api.experiments] == ["Default", "x"]
    message = "it may yet be done: look before you do it again"
    hold = alone.faults.hold(POSTS["runs"])
    with pytest.raises(PipelineError, match=rf"^starting the run: .*does not answer in time; {message}"):
        start_run(connection, version, experiment_id, {})
    hold.release()
    alone.faults.fail(504, times=9, on=POSTS["runs"])
    with pytest.raises(PipelineError, match=rf"^starting the run: 504: .*; {message}"):
        start_run(connection, version, experiment_id, {})
    assert sum("/runs" in visit and "POST" in visit for visit in alone.visits) == 2


def test_experiments_that_are_archived_or_differ_in_case_alone(k: Kubeflow) -> None:
    connection = connected(k)
    archive = connection.experiments.experiment_service_archive_experiment
    connection.call("x", archive, get_experiment(connection, "Films"))
    with pytest.raises(UsageError, match=r"^experiment 'Films' is archived: restore it in the dashboard, or give ano"):
        get_experiment(connection, "Films")
    with pytest.raises(PipelineError, match=r"^making experiment films: 409: "):  # of MySQL
        get_experiment(connection, "films")


@pytest.mark.parametrize("name", ["reviews/2026?x=1&y#z", 'Ärzte 日本 🎬 "50%" %2F%25', "a\\b {}"])
def test_names_with_odd_characters(name: str, k: Kubeflow) -> None:
    connection = connected(k)
    result = get_experiment(connection, name)
    assert get_experiment(connection, name) == result
    version = upload_version(connection, SMALL)
    k.faults.drop(on=POSTS["runs"], after=True)
    start_run(connection, version, result, {})
    assert k.api.experiments[-1]["display_name"] == name and len(k.api.runs) == 1


def test_parameters_of_all_types_arrive(alone: Kubeflow) -> None:
    options = ["train_data=s3://b/ä ö 日本 🎬.csv", "epochs=2", "learning_rate=0.00003", "batch_size=8", "deploy=false",
             "label_column=Ein \"Wort\" = 'x'\\n", "seed=0"]  # fmt: skip
    values = parse_settings(options)
    run_of(alone, values)
    sent = alone.api.runs[0]["runtime_config"]["parameters"]
    assert sent == values and sent["seed"] == 0
    kinds = {name: type(value) for name, value in sent.items()}
    assert kinds | {"deploy": bool, "batch_size": int, "learning_rate": float, "epochs": float} == kinds


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "train_data is not set: --set train_data=URL, or a path on the volume"),
        ({**VALUES, "evaluation_data": "./x.csv"}, "evaluation_data=./x.csv: the steps don't see this machine's files"),
    ],
)
def test_what_a_run_can_not_begin_with(values: dict[str, Any], message: str, k: Kubeflow) -> None:
    with pytest.raises(UsageError) as caught:
        run_of(k, values)
    assert str(caught.value).startswith(message) and k.visits == []


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({**VALUES, "model_registry": "http://registry.example.com"}, "model_registry"),
        ({**VALUES, "train_nodes": 2}, "train_nodes=2"),
        ({**BATCH, "pod_gpus": "1"}, "pod_gpus=1"),
        ({**VALUES, "evaluation_data": "hf://datasets/team/reviews"}, "evaluation_data=hf://datasets/team/reviews"),
    ],
)
def test_what_needs_an_image_is_refused_without_one(values: dict[str, Any], shown: str) -> None:
    pipeline = "batch" if "to" in values else "train"
    with pytest.raises(UsageError, match=f"^{shown}.* needs steps in an image of ours"):
        submit(Settings(pipeline=pipeline), values, dry_run=True)
    assert submit(Settings(pipeline=pipeline, image="team/steps:1"), values, dry_run=True)


def test_parameters_that_the_server_refuses_are_told(alone: Kubeflow) -> None:
    connection = connected(alone)
    version = upload_version(connection, pipelines.compiled(connection.settings))
    with pytest.raises(UsageError, match=r"^starting the run: 400: .*requires type"):
        start_run(connection, version, get_experiment(connection, "x"), {**VALUES, "epochs": "many"})
    assert counts(alone)["runs"] == 0
