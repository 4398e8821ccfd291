"""Requests that KFP's Swagger description does not allow are refused, and told of."""

from typing import Any

import httpx
import pytest

from tests.kubeflow.emulator import kubeflow
from tests.kubeflow.swagger import needs_swagger, problems_of_request, problems_of_response

pytestmark = needs_swagger
ROOT = "/apis/v2beta1"
RUN = {"display_name": "a", "runtime_config": {"parameters": {"anything": [1, None]}}, "pipeline_spec": {"a": {}}}


@pytest.mark.parametrize(
    ("method", "path", "body", "told"),
    [
        ("GET", "/runs?page_size=10&sort_by=&filter=", None, ""),
        ("POST", "/runs", RUN, ""),
        ("POST", "/runs/1f3a:terminate", None, ""),
        ("GET", "/pipelines/names/nlp", None, ""),
        ("DELETE", "/pipelines/1?cascade=true", None, ""),
        ("POST", "/recurringruns", {"max_concurrency": 1, "mode": "ENABLE"}, ""),
        ("POST", "/recurringruns", {"max_concurrency": "1", "trigger": {"cron_schedule": {"cron": "x"}}}, ""),
        ("GET", "/run", None, "there is no GET"),
        ("PUT", "/runs", RUN, "there is no PUT"),
        ("PATCH", "/recurringruns/1", {}, "there is no PATCH"),
        ("POST", "/runs/1f3a:stop", None, "there is no POST"),
        ("GET", "/runs?pagesize=10", None, "query parameter pagesize is unknown"),
        ("GET", "/runs?page_size=ten", None, "query parameter page_size is no integer"),
        ("DELETE", "/pipelines/1?cascade=1", None, "query parameter cascade is no boolean"),
        ("DELETE", "/recurringruns/1?propagation_policy=NONE", None, "query parameter propagation_policy is none of"),
        ("POST", "/runs", {**RUN, "name": "a"}, "'name' was unexpected"),
        ("POST", "/runs", {**RUN, "display_name": 1}, "display_name: 1 is not of type 'string'"),
        ("POST", "/runs", {**RUN, "runtime_config": {"params": {}}}, "runtime_config: "),
        ("POST", "/recurringruns", {"max_concurrency": "one"}, "max_concurrency: "),
        ("POST", "/recurringruns", {"mode": "ENABLED"}, "mode: 'ENABLED' is not one of"),
        ("POST", "/recurringruns", {"namespace": "team"}, "'namespace' was unexpected"),
        ("POST", "/recurringruns", {"trigger": {"cron_schedule": {"start_time": "tomorrow"}}}, "start_time: "),
        ("POST", "/pipelines/upload?name=a", {}, "not multipart/form-data"),
        ("POST", "/runs/1f3a:terminate", {}, "a body where there is none to be"),
    ],
)
def test_requests(method: str, path: str, body: Any, told: str) -> None:
    request = httpx.Request(method, f"http://localhost{ROOT}{path}", json=body) if body is not None else None
    content = request.content if request else b""
    found = problems_of_request(method, ROOT + path, "application/json" if request else "", content)
    assert (told in " ".join(found)) if told else found == []


def test_a_body_says_that_it_is_json() -> None:
    assert "application/json" in problems_of_request("POST", f"{ROOT}/runs", "text/plain", b"{}")[0]
    assert "no JSON" in problems_of_request("POST", f"{ROOT}/runs", "application/json", b"{")[0]


def test_responses() -> None:
    assert not problems_of_response("GET", f"{ROOT}/healthz", '{"multi_user": false, "tag_name": "2.17.0"}')
    assert problems_of_response("GET", f"{ROOT}/runs", '{"runs": [{"id": "1"}]}')
    assert problems_of_response("GET", f"{ROOT}/runs", '{"runs": [{"created_at": 5}]}')


def test_the_server_refuses_them_and_remembers() -> None:
    with kubeflow() as k:
        answer = httpx.post(f"{k.url}{ROOT}/runs", json={"name": "a"})
        assert answer.status_code == 500
        assert "not in KFP's Swagger" in answer.json()["message"]
        assert len(k.refused) == 1
        assert "'name' was unexpected" in k.refused[0]
        assert httpx.get(f"{k.url}{ROOT}/healthz").status_code == 200
        assert len(k.refused) == 1
