"""The KFP API's stand-in can tell wrong from right, as the real `kfp.Client` sees it: experiments and pipelines."""

import datetime
import json
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from tests.kubeflow.conftest import PIPELINE, Connect, raised, refusal, uploaded
from tests.kubeflow.emulator import Kubeflow


def test_tells_whether_there_are_several_users(k: Kubeflow, team: Kubeflow, connect: Connect) -> None:
    assert connect(k).get_kfp_healthz().multi_user is False
    assert connect(team).get_kfp_healthz().multi_user is True


def test_takes_the_compiled_pipeline_as_it_is(client: Any, k: Kubeflow) -> None:
    pipeline, version = uploaded(client)
    found = client.get_pipeline_version(pipeline, version)
    assert set(found.pipeline_spec) == {"pipeline_spec", "platform_spec"}
    assert found.pipeline_spec["pipeline_spec"]["pipelineInfo"]["name"] == "nlp-pipeline"
    assert found.name == found.display_name == "nlp-pipeline"
    assert client.get_pipeline(pipeline).display_name == "nlp-pipeline"
    assert client.get_pipeline_id("nlp-pipeline") == pipeline
    assert client._pipelines_api.pipeline_service_get_pipeline_by_name("nlp-pipeline").pipeline_id == pipeline
    upload = next(one for one in k.requests if one.path == "/pipelines/upload")
    assert upload.body == ("nlp_pipeline.yaml", Path(PIPELINE).read_bytes())


def test_a_name_is_taken_once(client: Any) -> None:
    pipeline, _ = uploaded(client)
    failed = "Failed to create a pipeline and a pipeline version"
    assert refusal(client.upload_pipeline, PIPELINE, "nlp-pipeline") == (409, failed)
    assert refusal(client.upload_pipeline, PIPELINE, "NLP-Pipeline") == (409, failed)
    version = client.upload_pipeline_version(PIPELINE, "2", pipeline_id=pipeline)
    assert version.pipeline_id == pipeline
    assert refusal(client.upload_pipeline_version, PIPELINE, "2", pipeline_id=pipeline)[0] == 409
    assert refusal(client.upload_pipeline_version, PIPELINE, "3", pipeline_id="unknown")[0] == 400
    client.create_experiment("reviews")
    assert client.create_experiment("reviews").display_name == "reviews"
    experiment = client.api_models.V2beta1Experiment(display_name="reviews")
    status, told = refusal(client._experiment_api.experiment_service_create_experiment, experiment)
    assert (status, told.startswith("Failed to create a new experiment. The name reviews")) == (409, True)


def test_case_matters_where_the_database_says_so(client: Any, k: Kubeflow) -> None:
    k.api.case_matters = True
    uploaded(client, "nlp-pipeline")
    uploaded(client, "NLP-Pipeline")
    assert len(k.api.pipelines) == 2


def test_a_pipeline_with_versions_is_not_deleted(client: Any, k: Kubeflow) -> None:
    pipeline, version = uploaded(client)
    assert refusal(client.delete_pipeline, pipeline)[0] == 400
    client.delete_pipeline_version(pipeline, version)
    client.delete_pipeline(pipeline)
    assert not k.api.pipelines
    assert refusal(client.get_pipeline, pipeline) == (404, f"Pipeline {pipeline} not found")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("just text", "unknown template format"),
        ("a: [", "failed to parse pipeline spec YAML"),
        ("pipelineInfo: {name: a}\nschemaVersion: 2.1.0\nroots: {}", "invalid v2 pipeline spec"),
        ("pipelineInfo: {name: a}\nschemaVersion: 2.0.0", "KFP only supports schema version 2.1.0"),
        ("pipelineInfo: {name: a}\nschemaVersion: 2.1.0", "root component is empty"),
    ],
)
def test_refuses_files_that_are_no_pipeline(client: Any, tmp_path: Any, content: str, told: str) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(content)
    status, text = refusal(client.upload_pipeline, str(path), "broken")
    assert (status, told in text) == (400, True)


def test_lists_come_in_pages_oldest_first(client: Any) -> None:
    pipeline, first = uploaded(client)
    made = [first] + [
        client.upload_pipeline_version(PIPELINE, str(at), pipeline_id=pipeline).pipeline_version_id for at in range(34)
    ]

    def ids(token: str = "", **options: Any) -> tuple[list[str], str | None]:
        page = client.list_pipeline_versions(pipeline, page_token=token, **options)
        assert page.total_size == 35
        return [one.pipeline_version_id for one in page.pipeline_versions], page.next_page_token

    for order, expected in (("", made), ("created_at desc", made[::-1]), ("created_at asc", made)):
        found, token = ids(sort_by=order)
        assert len(found) == 10
        while token:
            more, token = ids(token, sort_by=order)
            found += more
        assert found == expected
        assert token is None
    assert len(ids(page_size=0)[0]) == 20
    found, token = ids(page_size=3, sort_by="created_at desc")
    assert ids(token or "", page_size=2)[0] == made[::-1][3:5]
    assert refusal(ids, token, sort_by="name") == (400, refusal(ids, token, sort_by="name desc")[1])
    assert refusal(ids, "bm90aGluZw==")[1] == "Invalid page token"
    assert refusal(ids, sort_by="size")[1] == 'Invalid sorting field: "size" on listable type PipelineVersion'
    assert refusal(ids, page_size=-1)[0] == 400


def test_a_page_starts_where_the_last_one_ended_whatever_was_deleted(client: Any) -> None:
    made = [client.create_experiment(str(at)).experiment_id for at in range(12)]
    page = client.list_experiments(page_size=5)
    client.delete_experiment(made[0])
    following = client.list_experiments(page_size=5, page_token=page.next_page_token)
    assert [one.experiment_id for one in following.experiments] == made[4:9]


def test_what_is_made_in_the_same_second_has_no_order(client: Any, k: Kubeflow) -> None:
    k.api.clock.step = 0
    made = [client.create_experiment(str(at)).experiment_id for at in range(5)]
    found = [one.experiment_id for one in client.list_experiments(sort_by="created_at desc").experiments]
    assert sorted(made, reverse=True) == [one for one in found if one in made]


def test_an_empty_list_is_none_at_all(client: Any) -> None:
    page = client.list_pipelines()
    assert (page.pipelines, page.total_size, page.next_page_token) == (None, None, None)
    assert client.get_pipeline_id("nlp-pipeline") is None


def test_filters(client: Any) -> None:
    for name in ("a-1", "a-2", "b-1"):
        client.create_experiment(name, description=f"about {name}")

    def names(*predicates: Any) -> list[str]:
        found = client.list_experiments(filter=json.dumps({"predicates": predicates}))
        return [one.display_name for one in found.experiments or []]

    assert names({"operation": "EQUALS", "key": "display_name", "stringValue": "A-1"}) == ["a-1"]
    assert names({"operation": 9, "key": "name", "string_value": "-1"}) == ["a-1", "b-1"]
    assert names({"operation": "IN", "key": "display_name", "stringValues": {"values": ["a-2", "x"]}}) == ["a-2"]
    later = {"operation": "GREATER_THAN", "key": "created_at", "timestampValue": "2026-01-01T00:00:03Z"}
    assert names(later) == ["b-1"]
    assert names(later, {"operation": "NOT_EQUALS", "key": "display_name", "stringValue": "b-1"}) == []
    for wrong in (
        {"operation": "EQUALS", "key": "size", "stringValue": "1"},
        {"operation": "EQUALS", "key": "display_name"},
        {"operation": "IN", "key": "display_name", "stringValue": "1"},
        {"operation": "EQUAL", "key": "display_name", "stringValue": "1"},
        {"operation": "EQUALS", "key": "display_name", "value": "1"},
    ):
        assert refusal(names, wrong)[0] == 400
    assert refusal(client.list_experiments, filter="{")[0] == 400


def test_the_server_decodes_filters_twice(client: Any) -> None:
    client.create_experiment("a+b")
    with pytest.raises(ValueError, match="No experiment is found"):
        client.get_experiment(experiment_name="a+b")
    assert refusal(client.create_experiment, "a+b")[0] == 409
    assert refusal(client.create_experiment, "50% off")[0] == 400
    predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": "a+b"}
    twice = urllib.parse.quote_plus(json.dumps({"predicates": [predicate]}))
    assert len(client.list_experiments(filter=twice).experiments) == 1


def test_times_that_never_came_are_those_of_1970(client: Any) -> None:
    found = client.create_experiment("reviews")
    assert found.last_run_created_at == datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    assert found.created_at > datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def test_experiments_are_archived_and_still_found_by_name(client: Any) -> None:
    made = client.create_experiment("reviews")
    client.archive_experiment(made.experiment_id)
    assert client.create_experiment("reviews").storage_state == "ARCHIVED"
    client.unarchive_experiment(made.experiment_id)
    assert client.get_experiment(experiment_id=made.experiment_id).storage_state == "AVAILABLE"
    assert refusal(client.get_experiment, "unknown") == (404, "Experiment unknown not found")


def test_a_user_is_at_home_in_a_namespace(team: Kubeflow, connect: Connect) -> None:
    ann, bob = connect(team, existing_token="ann"), connect(team, existing_token="bob")
    experiment = ann.create_experiment("reviews", namespace="team")
    assert experiment.namespace == "team"
    assert bob.create_experiment("reviews", namespace="other").experiment_id != experiment.experiment_id
    status, told = refusal(bob.list_experiments, namespace="team")
    assert status == 403
    assert told.startswith("User 'system:serviceaccount:other:default-editor' is not authorized")
    assert refusal(bob.get_experiment, experiment.experiment_id)[0] == 403
    empty = "An experiment cannot have an empty namespace in multi-user mode"
    assert refusal(ann.list_experiments) == (400, empty)
    assert refusal(ann.create_experiment, "reviews") == (400, empty)
    assert refusal(connect(team).list_experiments, namespace="team")[0] == 401


def test_pipelines_are_shared_or_of_a_namespace(team: Kubeflow, connect: Connect) -> None:
    ann, bob = connect(team, existing_token="ann"), connect(team, existing_token="bob")
    shared, _ = uploaded(ann)
    own, version = uploaded(ann, namespace="team")
    assert ann.get_pipeline_id("nlp-pipeline") == shared
    assert [one.pipeline_id for one in ann.list_pipelines(namespace="team").pipelines] == [own]
    assert bob.list_pipelines(namespace="other").pipelines is None
    assert bob.get_pipeline(shared).namespace is None
    assert refusal(bob.get_pipeline_version, own, version)[0] == 403
    assert refusal(bob.list_pipeline_versions, own)[0] == 403
    assert refusal(bob.upload_pipeline, PIPELINE, "mine", namespace="team") == (400, "Failed to create a pipeline")
    assert refusal(bob.upload_pipeline_version, PIPELINE, "2", pipeline_id=own)[0] == 400


def test_errors_are_told_as_servers_of_the_time_do(client: Any, k: Kubeflow) -> None:
    for old in (False, True):
        k.api.old_errors = old
        told = json.loads(raised(client.get_experiment, "unknown").body)
        assert told["code"] == 5
        assert told["message"].endswith("ResourceNotFoundError: Experiment unknown not found")
        assert ("error" in told) == old
