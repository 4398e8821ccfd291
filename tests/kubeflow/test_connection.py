"""The connection: addresses, TLS, proxies, what is tried again, and what each failure is told as."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from nlp_pipeline import storage
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.kubeflow import connection as module
from nlp_pipeline.kubeflow.connection import Connection
from nlp_pipeline.kubeflow.http import explain, read_host
from nlp_pipeline.platforms.calls import ConflictError, NotFoundError, UnansweredError
from nlp_pipeline.settings import Settings
from tests.fakes.httpd import Host, Request, Response, page, redirect
from tests.fakes.kfp import Kubeflow
from tests.fakes.tls import Authority
from tests.kubeflow.users import BY_PASSWORD, TOKEN, connected, list_experiments, team


@contextlib.contextmanager
def answering(answer: Any) -> Iterator[Host]:
    host = Host(answer)
    host.start()
    try:
        yield host
    finally:
        host.stop()


@pytest.fixture
def one_user(alone: Kubeflow) -> Connection:
    connection = connected(alone)
    alone.visits.clear()
    return connection


@pytest.mark.parametrize(
    ("host", "read"),
    [
        ("https://k.example.com:8443//", "https://k.example.com:8443"),
        ("http://10.0.0.1/pipeline/", "http://10.0.0.1/pipeline"),
        ("https://k.example.com/_/pipeline/?ns=team#/runs/details/x", "https://k.example.com"),
        ("https://example.com/kubeflow/_/jupyter/", "https://example.com/kubeflow"),
        ("http://[::1]:8888/#/pipelines", "http://[::1]:8888"),
    ],
)
def test_addresses_as_people_copy_them(host: str, read: str) -> None:
    assert read_host(host) == read


@pytest.mark.parametrize(
    "host", ["kubeflow:443", "https:///x", "ftp://x", "http://[x", "http://x:0", "http://x\n/", "http://x:99999"]
)
def test_what_is_no_address(host: str) -> None:
    with pytest.raises(UsageError, match=r"is no address: write https://kubeflow.example.com"):
        Connection(Settings(host=host))


def test_the_api_is_found_behind_a_gateway(k: Kubeflow) -> None:
    for ending, options in (("", BY_PASSWORD), ("/pipeline/", {"token": TOKEN}), ("/_/pipeline/#/runs", BY_PASSWORD)):
        connection = connected(k, host=k.url + ending, **options)
        assert (connection.url, connection.multi_user) == (f"{k.url}/pipeline", True)
        assert list_experiments(connection) == []
        assert connection.run_url("id") == f"{k.url}/_/pipeline/?ns=team#/runs/details/id"


def test_the_api_is_found_at_the_root(alone: Kubeflow) -> None:
    alone.faults.fail(404, on="GET /pipeline/")
    connection = connected(alone)
    assert (connection.url, connection.multi_user) == (alone.url, False)
    assert len(list_experiments(connection)) == 1
    assert connection.run_url("id") == f"{alone.url}/#/runs/details/id"


def test_several_users_need_a_namespace_of_theirs(k: Kubeflow) -> None:
    with pytest.raises(UsageError, match=r"several users: give --namespace NAME"):
        module.connect(connected(k, namespace="", token=TOKEN).settings)
    message = r"^listing experiments: 403: User 'ann@example.com' is not authorized.*; is --namespace 'other' yours\?"
    with pytest.raises(UsageError, match=message):
        list_experiments(connected(k, namespace="other", **BY_PASSWORD))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"\(unable to get local issuer certificate\): give its authority with --ca-cert FILE$"),
        ({"hosts": ("k.example.com",)}, r"\(IP address mismatch, .*: use the name in --host that it is for$"),
        ({"expired": True}, r"\(certificate has expired\): it must be renewed$"),
    ],
)
def test_certificates_that_can_not_be_verified(options: dict[str, Any], message: str, ca: Authority) -> None:
    with team(tls=ca, **options) as k:
        trusted = {"ca_cert": str(ca.path)} if options else {}
        with pytest.raises(UsageError, match=r"^127.0.0.1:\d+: its certificate can't be verified " + message):
            connected(k, **BY_PASSWORD, **trusted)
        assert k.visits == []
        assert list_experiments(connected(k, insecure=True, **BY_PASSWORD)) == []


def test_files_that_hold_no_certificates(tmp_path: Any) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for file in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        with pytest.raises(UsageError, match=rf"^ca_cert={file} can't be read as certificates in PEM form"):
            Connection(Settings(host="https://127.0.0.1:9", ca_cert=str(file)))


def test_hosts_that_are_not_there(alone: Kubeflow, ca: Authority) -> None:
    with pytest.raises(UsageError, match=r"^127.0.0.1:\d+ does not speak TLS: write http:// in --host https://"):
        Connection(Settings(host=alone.url.replace("http:", "https:")))
    with team(tls=ca) as secure, pytest.raises(PipelineError, match=r"if it speaks TLS, write https:// in --host"):
        Connection(Settings(host=secure.url.replace("https:", "http:")))
    alone.stop()
    with pytest.raises(PipelineError, match=r"^127.0.0.1:\d+ can't be reached: \[Errno 111\] Connection refused$"):
        Connection(Settings(host=alone.url))
    unknown = explain("http://k", OSError("[Errno -2] Name or service not known"))
    assert str(unknown) == "k: there is no such host; check --host http://k" and type(unknown) is UsageError
    offline = explain("http://k", OSError("[Errno -3] Temporary failure in name resolution"))
    assert "its name can't be looked up now" in str(offline) and type(offline) is PipelineError


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Response(200, '{"multi_user": false}', [("Content-Type", "application/json")]), ""),
        (Response(200, "{}", [("Content-Type", "application/json")]), ""),
        (Response(200, '{"apiServerReady": true, "frontendTagName": "2"}'), ""),
        (Response(200, '{"apiServerReady": false}'), "Kubeflow's API server is away; its user interface is there"),
        (Response(200, '{"status": "ok"}'), "is no Kubeflow Pipelines"),
        (Response(404), "is no Kubeflow Pipelines"),
        (page('<form method="post"><input type="password" name="p"></form>'), "lets no one in without sign-in"),
        (redirect("https://login.example.com/"), "lets no one in without sign-in (302)"),
        (Response(403, "RBAC: access denied"), "lets no one in without sign-in (403)"),
        (Response(503), "fails: it answers 503 at /pipeline/apis/v2beta1/healthz"),
        (None, "can't be reached: Server disconnected"),
    ],
)
def test_what_answers_in_the_place_of_kubeflow(answer: Response | None, message: str) -> None:
    with answering(lambda request: answer) as host:
        if not message:
            assert Connection(Settings(host=host.url)).multi_user is False
            return
        with pytest.raises(PipelineError) as caught:
            Connection(Settings(host=host.url))
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_host_that_leads_to_https() -> None:
    def answer(request: Request) -> Response:
        return redirect(f"https://{request.headers['host']}{request.target}", 308)

    message = r"^http://127.0.0.1:\d+ leads to https: write https:// in --host$"
    with answering(answer) as host, pytest.raises(UsageError, match=message):
        Connection(Settings(host=host.url))


def test_a_proxy_of_the_environment_is_used_for_all(k: Kubeflow, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str]] = []

    def forward(request: Request) -> Response:
        """Answers for http://kubeflow.test, which there isn't."""
        seen.append((f"{request.method} {request.target}", request.headers.get("proxy-authorization", "")))
        headers = {name: value for name, value in request.headers.items() if name not in ("connection", "host")}
        path = request.target.removeprefix("http://kubeflow.test")
        answer = httpx.request(request.method, k.url + path, headers=headers, content=request.body, trust_env=False)
        kept = [item for item in answer.headers.multi_items() if item[0] in ("content-type", "set-cookie", "location")]
        return Response(answer.status_code, answer.content, kept)

    with answering(forward) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("http://", "http://user:p%40S3CRET@"))
        assert list_experiments(connected(k, host="http://kubeflow.test", **BY_PASSWORD)) == []
        assert seen[-1][0].startswith("GET http://kubeflow.test/pipeline/apis/v2beta1/experiments")
        assert {authorization for _, authorization in seen} == {"Basic dXNlcjpwQFMzQ1JFVA=="}
        # Neither for what is exempt, nor for this machine.
        seen.clear()
        assert list_experiments(connected(k)) == []
        monkeypatch.setenv("no_proxy", "kubeflow.test")
        with pytest.raises(PipelineError, match=r"kubeflow.test"):
            connected(k, host="http://kubeflow.test")
        assert seen == []


@pytest.mark.parametrize(
    ("proxy", "message"),
    [
        ("http://user:S3CRET@127.0.0.1:9", "k.example.com can't be reached"),
        ("nonsense://user:S3CRET@127.0.0.1:9", "the environment's proxy can't be used: Unknown scheme"),
    ],
)
def test_a_proxy_that_is_none_is_one_line_without_its_password(
    proxy: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(PipelineError, match=f"^{message}") as caught:
        Connection(Settings(host="https://k.example.com"))
    assert "S3CRET" not in str(caught.value)


def test_reading_goes_on_through_failures(alone: Kubeflow, one_user: Connection) -> None:
    alone.faults.fail(500)
    alone.faults.drop()
    alone.faults.fail(503)
    alone.faults.fail(429)
    assert len(list_experiments(one_user)) == 1 and len(alone.visits) == 5


def test_reading_gives_up_in_one_line(alone: Kubeflow, one_user: Connection) -> None:
    alone.faults.drop(times=9)
    with pytest.raises(PipelineError, match=r"^127.0.0.1:\d+ can't be reached: Server disconnected without sending a"):
        list_experiments(one_user)
    assert len(alone.visits) == 5


def test_what_never_answers_is_given_up(alone: Kubeflow, one_user: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    monkeypatch.setattr(storage, "ATTEMPTS", 1)
    alone.faults.hold()
    with pytest.raises(UnansweredError, match=r"does not answer in time"):
        list_experiments(one_user)


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (404, '{"code": 5, "message": "m", "details": [{"message": "no\\n such"}]}', NotFoundError, "404: no such"),
        (404, "<html>", PipelineError, "404: a page, not an answer"),
        (409, '{"error_message": "there", "error_details": "x"}', ConflictError, "409: there"),
        (400, '{"details": "x", "message": 1}', UsageError, "400"),
        (418, "x" * 999, PipelineError, f"418: {'x' * 400}$"),
        (501, b"\xff\xfe", PipelineError, "501: "),
        (403, "RBAC: access denied", UsageError, "403: RBAC: access denied"),
        (403, "<html>Sign in", UsageError, r"lets no one in without sign-in \(403\): set NLP_PIPELINE_TOKEN"),
        (401, "Jwt is expired", UsageError, r"lets no one in without sign-in \(401\)"),
        (200, "<html>Sign in", UsageError, r"lets no one in without sign-in \(200\)"),
    ],
)
def test_errors_of_all_forms(
    status: int, body: Any, kind: type, message: str, alone: Kubeflow, one_user: Connection
) -> None:
    answer = Response(status, body, [("Content-Type", "text/html; charset=x-none" if status == 200 else "text/plain")])
    alone.faults.around = lambda name, make: answer  # type: ignore[method-assign]
    with pytest.raises(PipelineError, match=rf"^listing experiments: .*{message}") as caught:
        list_experiments(one_user)
    assert type(caught.value) is kind and "\n" not in str(caught.value)


def test_a_server_that_repeats_a_secret_is_not_quoted(k: Kubeflow) -> None:
    connection = connected(k, token=TOKEN, s3_secret_key="key-S3CRET", endpoint_cookie="a=S3CRET; b=cookie-S3CRET")
    answer = Response(400, json.dumps({"message": f"bad: Bearer {TOKEN}, key-S3CRET, cookie-S3CRET S3CRET"}))
    k.faults.around = lambda name, make: answer  # type: ignore[method-assign]
    with pytest.raises(UsageError, match=r"400: bad: \*{8}, \*{8}, \*{8} \*{8}$"):
        list_experiments(connection)


def test_texts_of_the_user_interface(k: Kubeflow) -> None:
    connection = connected(k)
    k.logs["team", "pod"] = "a\nb\n"
    asked = {"podname": "pod", "podnamespace": "team"}
    assert connection.read_text("/k8s/pod/logs", asked) == "a\nb\n"
    assert connection.read_text("/k8s/pod/logs", {**asked, "podname": "other"}) == ""
    assert connection.read_text("/some/page", {}) == ""
    k.sessions.expire()
    assert connection.read_text("/k8s/pod/logs", asked) == ""
    k.stop()
    assert connection.read_text("/k8s/pod/logs", asked) == ""
