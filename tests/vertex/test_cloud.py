"""The stand-in for Google Cloud refuses what Google would refuse: else tests against it would prove nothing."""

import copy
from pathlib import Path
from typing import Any

import pytest
import requests
from google.auth import default
from google.auth.transport.requests import AuthorizedSession

from tests.vertex.cloud import PLACE, Cloud
from tests.vertex.conftest import TRAIN, Run
from tests.vertex.identity import SCOPE
from tests.vertex.rest import told

JOBS = "/v1/projects/my-project/locations/us-central1/pipelineJobs?pipelineJobId=other"
SCHEDULES = "/v1/projects/my-project/locations/us-central1/schedules"


@pytest.fixture
def session(cloud: Cloud) -> AuthorizedSession:
    """HTTP that is signed in by the key."""
    return AuthorizedSession(default(scopes=[SCOPE])[0])


@pytest.fixture
def job(cloud: Cloud, run: Run) -> dict[str, Any]:
    """A pipeline job that is taken."""
    assert run("--submit", *TRAIN)[0] == 0
    (made,) = (one.job for one in cloud.pipelines.jobs.values())
    return {key: one for key, one in told(made).items() if key not in ("name", "createTime", "state")}


def schedule(job: dict[str, Any], **changed: Any) -> dict[str, Any]:
    request = {"parent": PLACE, "pipelineJob": job}
    whole = {"displayName": "x", "cron": "0 2 * * *", "maxConcurrentRunCount": "1", "createPipelineJobRequest": request}
    return {**whole, **changed}


def test_who_is_not_signed_in_is_refused(cloud: Cloud, tmp_path: Path) -> None:
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Bearer eyJ.eyJ.x"}):
        answer = requests.get(f"{cloud.url}{SCHEDULES}", headers=headers, timeout=9)
        assert answer.status_code == 401 and answer.json()["error"]["status"] == "UNAUTHENTICATED"
    assert requests.post(f"{cloud.url}/token", data={"assertion": "x"}, timeout=9).status_code == 400


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"colour": "red"}, 'no field named "colour"'),
        ({"runtimeConfig": {"gcsOutputDirectory": "gs://films", "parameters": {}, "x": 1}}, 'no field named "x"'),
        ({"runtimeConfig": {"gcsOutputDirectory": "/films"}}, "gcs_output_directory"),
        ({"runtimeConfig": {"gcsOutputDirectory": "gs://films"}}, "train_data is required"),
        ({"labels": {"a": "B"}}, "Invalid label"),
        ({"pipelineSpec": {"root": {"colour": "red"}}}, "Invalid pipeline spec"),
        ({"serviceAccount": "no@x.y"}, "act as"),
    ],
)
def test_jobs_that_are_refused(
    changed: dict[str, Any], message: str, cloud: Cloud, session: Any, job: dict[str, Any]
) -> None:
    assert session.post(f"{cloud.url}{JOBS}", json=job).status_code == 200
    assert session.post(f"{cloud.url}{JOBS}", json=job).status_code == 409
    answer = session.post(f"{cloud.url}{JOBS}2", json={**job, **changed})
    assert answer.status_code in (400, 403) and message in answer.json()["error"]["message"]


@pytest.mark.parametrize("value", ["x", 1.5, True])
def test_parameters_of_another_type_are_refused(value: Any, cloud: Cloud, session: Any, job: dict[str, Any]) -> None:
    spoilt = copy.deepcopy(job)
    spoilt["runtimeConfig"]["parameterValues"]["batch_size"] = value
    answer = session.post(f"{cloud.url}{JOBS}", json=spoilt)
    assert answer.status_code == 400 and "not of type NUMBER_INTEGER" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cron": "0 0 2 * * *"}, "Invalid cron"),
        ({"maxConcurrentRunCount": "0"}, "max_concurrent_run_count is required"),
        ({"displayName": ""}, "display_name"),
        ({"createPipelineJobRequest": {"pipelineJob": {}}}, "parent is required"),
        ({"startTime": "2030-01-02T00:00:00Z", "endTime": "2030-01-01T00:00:00Z"}, "start_time must be before"),
    ],
)
def test_schedules_that_are_refused(
    changed: dict[str, Any], message: str, cloud: Cloud, session: Any, job: dict[str, Any]
) -> None:
    made = session.post(f"{cloud.url}{SCHEDULES}", json=schedule(job, endTime="2031-01-01T00:00:00Z"))
    assert made.status_code == 200
    answer = session.post(f"{cloud.url}{SCHEDULES}", json=schedule(job, **changed))
    assert answer.status_code == 400 and message in answer.json()["error"]["message"]
    # What is there can be changed, and not be taken away.
    patch = f"{cloud.url}/v1/{made.json()['name']}?updateMask="
    wanted = schedule(job, name=made.json()["name"], cron="0 3 * * *")
    assert session.patch(f"{patch}cron", json=wanted).json()["cron"] == "0 3 * * *"
    for mask in ("endTime", "colour", ""):
        assert session.patch(f"{patch}{mask}", json=wanted).status_code == 400


def test_what_it_does_not_know_is_refused(cloud: Cloud, session: Any) -> None:
    for path in (
        f"{SCHEDULES}?colour=red",
        f"{SCHEDULES}?filter=colour%3D1",
        "/v1/projects/other/locations/x/schedules",
    ):
        assert session.get(f"{cloud.url}{path}").status_code in (400, 403)
    assert session.get(f"{cloud.url}/v1/nothing").status_code == 404
