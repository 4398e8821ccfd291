"""`--runs` against the emulated Kubeflow: order, names, states, pages, namespaces."""

import json
from typing import Any

import pytest

from nlp_pipeline.client.connection import Connection
from nlp_pipeline.client.runs import recent_runs
from nlp_pipeline.errors import UsageError
from nlp_pipeline.settings import Settings
from tests.kubeflow.conftest import PARAMETERS, Connect, uploaded
from tests.kubeflow.conftest import client as client
from tests.kubeflow.conftest import connect as connect
from tests.kubeflow.conftest import k as k
from tests.kubeflow.conftest import team as team
from tests.kubeflow.emulator import Fate, Kubeflow

FIELDS = ["id", "name", "state", "created", "seconds", "experiment", "version"]


def connected(**given: str) -> Connection:
    return Connection(Settings.model_validate(given))


def make_runs(client: Any, count: int, namespace: str | None = None) -> list[str]:
    """Makes runs of the project's pipeline, and returns their ids."""
    pipeline, version = uploaded(client, **({"namespace": namespace} if namespace else {}))
    experiment = client.create_experiment("films", namespace=namespace).experiment_id
    given = {"params": PARAMETERS, "pipeline_id": pipeline, "version_id": version}
    return [client.run_pipeline(experiment, f"run {at}", **given).run_id for at in range(count)]


def test_newest_first_with_what_is_known_of_them(k: Kubeflow, client: Any) -> None:
    k.api.fate = Fate(reads=1)
    ids = make_runs(client, 3)
    for _ in range(9):
        client.get_run(ids[0])
    found = recent_runs(connected(host=k.url), 2)
    assert [one["id"] for one in found] == [ids[2], ids[1]] and [list(one) for one in found] == [FIELDS] * 2
    assert found[0] | {"id": "", "created": ""} == {
        **{"id": "", "name": "run 2", "state": "PENDING", "created": "", "seconds": None},
        **{"experiment": "films", "version": "nlp-pipeline"},
    }
    assert found[0]["created"].startswith("2026-01-01T00:00:") and found[0]["created"].endswith("+00:00")
    json.dumps(found)
    oldest = recent_runs(connected(host=k.url), 10)[-1]
    assert oldest["state"] == "SUCCEEDED" and oldest["seconds"] > 0


def test_more_than_a_page_and_no_name_asked_for_twice(k: Kubeflow, client: Any) -> None:
    ids = make_runs(client, 230)
    before = len(k.requests)
    assert [one["id"] for one in recent_runs(connected(host=k.url), 225)] == ids[:-226:-1]
    asked = [one.path for one in k.requests[before:]]
    assert len(asked) == 5 and asked.count("/runs") == 2  # besides them the health, an experiment, a version


def test_archived_runs_are_left_out_and_deleted_versions_have_no_name(k: Kubeflow, client: Any) -> None:
    ids = make_runs(client, 2)
    client.archive_run(ids[1])
    k.api._store.versions.clear()
    (found,) = recent_runs(connected(host=k.url), 10)
    assert found["id"] == ids[0] and found["version"] == ""


def test_no_runs_and_a_wrong_count(k: Kubeflow) -> None:
    connection = connected(host=k.url)
    assert recent_runs(connection, 5) == []
    with pytest.raises(UsageError, match=r"^0 runs can't be listed: give 1 or more$"):
        recent_runs(connection, 0)


def test_of_ones_own_namespace(team: Kubeflow, connect: Connect) -> None:
    ids = make_runs(connect(team, existing_token="ann"), 1, "team")
    make_runs(connect(team, existing_token="bob"), 1, "other")
    found = recent_runs(connected(host=team.url, token="ann", namespace="team"), 5)
    assert [one["id"] for one in found] == ids
    with pytest.raises(UsageError, match=r"^listing runs: 403: "):
        recent_runs(connected(host=team.url, token="ann", namespace="other"), 5)
