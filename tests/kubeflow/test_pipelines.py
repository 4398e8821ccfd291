"""`--submit` and `--upload`: versions by content, experiments and runs, each made once, whatever goes wrong."""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.kubeflow import connection as connection_module
from nlp_pipeline.kubeflow import pipelines
from nlp_pipeline.kubeflow.pipelines import get_experiment, start_run, submit, upload_version
from nlp_pipeline.pipeline.compiling import version_name
from nlp_pipeline.pipeline.parameters import NAME, parse_settings
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
    """Submits a run."""
    return submit(settings_of(k).model_copy(update=options), values, dry_run=False)


def counts(k: Kubeflow) -> dict[str, int]:
    """Returns how many there are of each."""
    experiments = [item for item in k.api.experiments if item["display_name"] != "Default"]
    return dict(zip(POSTS, map(len, (k.api.pipelines, k.api.versions, experiments, k.api.runs)), strict=True))


def test_the_first_submit_makes_all(either: Kubeflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    result = run_of(either, experiment="films & co", service_account="robot")
    assert counts(either) == ONE_OF_EACH
    (pipeline,), (version,), (run,) = either.api.pipelines, either.api.versions, either.api.runs
    assert (pipeline["name"], version["name"], version["display_name"]) == (NAME, result["version"], result["version"])
    assert pipeline.get("namespace", "") == ("team" if either.api.health["multi_user"] else "")
    assert run["display_name"].startswith(f"{version['name']} ") and run["service_account"] == "robot"
    assert run["runtime_config"] == {"parameters": VALUES}
    assert run["pipeline_version_reference"]["pipeline_version_id"] == version["pipeline_version_id"]
    assert (result["run_id"], result["new_version"]) == (run["run_id"], True)
    assert either.api.experiments[-1]["display_name"] == "films & co"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_same_content_again_is_no_new_version(either: Kubeflow) -> None:
    run_of(either)
    assert run_of(either)["new_version"] is False
    assert counts(either) == {**ONE_OF_EACH, "runs": 2}
    assert sum("upload" in visit for visit in either.visits) == 1
    changed = upload_version(connected(either), SMALL)
    assert changed.is_new and counts(either)["versions"] == 2 and counts(either)["pipelines"] == 1


def test_the_versions_name_is_its_contents() -> None:
    assert version_name("a") == version_name("a") != version_name("ä")
    assert version_name("ä").startswith(f"{NAME}-") and len(version_name("a")) == len(NAME) + 13


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("how", ["drop", 429, 500, 502])
@pytest.mark.parametrize("what", POSTS)
def test_what_fails_in_between_is_made_once(what: str, how: Any, after: bool, k: Kubeflow) -> None:
    k.faults.drop(on=POSTS[what], after=after) if how == "drop" else k.faults.fail(how, on=POSTS[what], after=after)
    run_id = run_of(k)["run_id"]
    assert k.faults.left == 0 and counts(k) == ONE_OF_EACH and k.api.runs[0]["run_id"] == run_id
    assert sum(visit.startswith("POST /pipeline/") for visit in k.visits) == (4 if after else 5)


@pytest.mark.parametrize("on", ["GET .*/pipelines", "GET .*/versions", "GET .*/experiments", "POST .*/apis"])
def test_failures_of_all_kinds_at_once(on: str, either: Kubeflow) -> None:
    either.faults.drop(on=on)
    either.faults.fail(503, on=on)
    either.faults.drop(on=on, after=True)
    run_of(either)
    assert either.faults.left == 0 and counts(either) == ONE_OF_EACH


@pytest.mark.parametrize("requests", range(1, 8))
def test_a_session_that_expires_before_any_of_the_calls(requests: int, k: Kubeflow) -> None:
    k.sessions.expire_after(requests + 1)  # the dashboard and the health come first
    run_of(k)
    assert counts(k) == ONE_OF_EACH and k.passwords_sent == 2


@pytest.mark.parametrize("what", POSTS)
@pytest.mark.parametrize(("status", "attempts"), [(500, 5), (400, 1)])
def test_what_never_succeeds_is_told(status: int, attempts: int, what: str, k: Kubeflow) -> None:
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
def test_someone_else_makes_the_same_meanwhile(what: str, either: Kubeflow) -> None:
    hold = either.faults.hold(POSTS[what])
    with ThreadPoolExecutor() as pool:
        first = pool.submit(run_of, either)
        assert hold.reached.wait(60)
        run_of(either)
        hold.release()
        first.result(60)
    assert counts(either) == {**ONE_OF_EACH, "runs": 2}


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


def test_among_hundreds_on_several_pages(alone: Kubeflow) -> None:
    connection = connected(alone)
    alone.api.clock.step = 0  # all in the same second
    for at in range(105):
        alone.api._add("experiments", {"display_name": f"{at}"}, "")
        alone.api._add("pipelines", {"name": f"{at}", "display_name": f"{at}"}, "")
    pipeline = upload_version(connection, SMALL).reference.pipeline_id
    texts = {at: f"{SMALL}# {at}\n" for at in (0, 52, 104)}
    for at in range(105):
        name = version_name(texts.get(at, f"{at}"))
        alone.api._add("pipeline_versions", {"name": name, "display_name": name, "pipeline_id": pipeline}, "")
    first = counts(alone)
    for at, text in texts.items():
        assert not upload_version(connection, text).is_new
        get_experiment(connection, f"{at}")
    assert counts(alone) == first == {"pipelines": 106, "versions": 106, "experiments": 105, "runs": 0}


def test_an_archived_experiment_is_told(either: Kubeflow) -> None:
    connection = connected(either)
    archive = connection.experiments.experiment_service_archive_experiment
    connection.call("x", archive, get_experiment(connection, "films"))
    with pytest.raises(UsageError, match=r"^experiment 'films' is archived: restore it in the dashboard, or give ano"):
        get_experiment(connection, "films")


@pytest.mark.parametrize(
    "name", ["a+b 50%", "reviews/2026?x=1&y#z", "Ärzte 日本 🎬", 'it\'s "quoted"', "%2F%25", "a\\b", "{}", "x" * 100]
)
def test_names_with_odd_characters(name: str, k: Kubeflow) -> None:
    connection = connected(k)
    result = get_experiment(connection, name)
    assert get_experiment(connection, name) == result
    version = upload_version(connection, SMALL)
    k.faults.drop(on=POSTS["runs"], after=True)
    start_run(connection, version, result, {})
    assert k.api.experiments[-1]["display_name"] == name and len(k.api.runs) == 1


def test_a_name_that_differs_in_case_alone(either: Kubeflow) -> None:
    connection = connected(either)
    get_experiment(connection, "Films")
    with pytest.raises(PipelineError, match=r"^making experiment films: 409: "):  # of MySQL
        get_experiment(connection, "films")


def test_parameters_of_all_types_arrive(either: Kubeflow) -> None:
    options = ["train_data=s3://b/ä ö 日本 🎬.csv", "epochs=2", "learning_rate=0.00003", "batch_size=8", "deploy=false",
             "label_column=Ein \"Wort\" = 'x'\\n", "seed=0"]  # fmt: skip
    values = parse_settings(options)
    run_of(either, values)
    sent = either.api.runs[0]["runtime_config"]["parameters"]
    assert sent == values and sent["seed"] == 0
    kinds = {name: type(value) for name, value in sent.items()}
    assert kinds | {"deploy": bool, "batch_size": int, "learning_rate": float, "epochs": float} == kinds


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "train_data is not set: --set train_data=URL, or a path on the volume"),
        (
            {"train_data": "my.csv"},
            "train_data=my.csv: the steps don't see this machine's files: give a URL, or a path",
        ),
        ({**VALUES, "evaluation_data": "./x.csv"}, "evaluation_data=./x.csv: the steps don't see"),
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
def test_what_needs_an_image_is_refused_without_one(either: Kubeflow, values: dict[str, Any], shown: str) -> None:
    pipeline = "batch" if "to" in values else "train"
    with pytest.raises(UsageError, match=f"^{shown}.* needs steps in an image of ours"):
        submit(settings_of(either, pipeline=pipeline), values, dry_run=True)
    assert submit(settings_of(either, pipeline=pipeline, image="team/steps:1"), values, dry_run=True)


def test_parameters_that_the_server_refuses_are_told(either: Kubeflow) -> None:
    connection = connected(either)
    version = upload_version(connection, pipelines.compiled(connection.settings))
    with pytest.raises(UsageError, match=r"^starting the run: 400: .*requires type"):
        start_run(connection, version, get_experiment(connection, "x"), {**VALUES, "epochs": "many"})
    assert counts(either)["runs"] == 0
