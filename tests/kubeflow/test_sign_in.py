"""Signing in: each way, what is told of each failure, and that a password is sent once and nowhere else."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kfp import Client

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.kubeflow import connection as connection_module
from nlp_pipeline.kubeflow import sign_in
from nlp_pipeline.kubeflow.connection import Connection
from nlp_pipeline.settings import Settings, load_settings
from tests.fakes.httpd import Request, Response, page, redirect
from tests.fakes.kfp import Kubeflow, kubeflow
from tests.fakes.tls import Authority
from tests.kubeflow.test_connection import answering
from tests.kubeflow.users import ANN, BY_PASSWORD, PASSWORD, TOKEN, connected, list_experiments, settings_of, team

LOGIN = '<form method="{}" action="{}"><input name="login"><input type="password" name="password"></form>'


@pytest.mark.parametrize(
    ("kind", "gateway", "dex"),
    [
        ("dex", {}, {}),
        ("dex", {"redirects": True}, {"connectors": ("github", "local", "ldap")}),
        ("dex", {}, {"connectors": ("ldap",), "approval": True}),
        ("authservice", {}, {}),
        ("authservice", {}, {"connectors": ("github", "local", "ldap"), "approval": True}),
    ],
    ids=str,
)
def test_by_password_through_each_gateway(
    kind: Any, gateway: dict[str, Any], dex: dict[str, Any], ca: Authority
) -> None:
    username = ANN if "local" in dex.get("connectors", ("local",)) else "ann"
    with team(kind, dex=dex, tls=ca, **gateway) as k:
        connection = connected(k, username=username, password=PASSWORD, ca_cert=str(ca.path))
        assert connection.sign_in.how == f"as {username}, by password"
        assert (connection.url, connection.multi_user) == (f"{k.url}/pipeline", True)
        assert list_experiments(connection) == [] and k.api.requests[-1][2] == ANN
        assert k.passwords_sent == 1


def test_by_token_which_wins_over_all_else(k: Kubeflow) -> None:
    connection = connected(k, token=TOKEN, cookies="a=b", **BY_PASSWORD)
    assert connection.sign_in.how == "by bearer token" and connection.sign_in.renew is None
    assert k.api.requests[-1][2] == "system:serviceaccount:team:default-editor" and k.passwords_sent == 0


def test_by_the_cookies_of_a_browser(k: Kubeflow) -> None:
    cookies = connected(k).sign_in.headers["Cookie"]
    connection = connected(k, cookies=cookies, **BY_PASSWORD)
    assert connection.sign_in.how == "by cookies" and list_experiments(connection) == []
    # Their end is not ours to remedy.
    k.sessions.expire()
    with pytest.raises(UsageError, match=r"lets no one in by cookies \(401\): has the browser's session expired"):
        list_experiments(connection)
    assert k.passwords_sent == 1


def test_inside_a_pod_neither_host_nor_namespace_need_be_named(
    k: Kubeflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As kfp.Client() in a pod: the service's own address, the pod's token and namespace."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    values, origins = load_settings({}, None)
    service = Client._IN_CLUSTER_DNS_NAME.format(inspect.signature(Client).parameters["namespace"].default)
    assert (values.host, origins["host"]) == (f"http://{service}", "this pod")
    for name, text in (("token", TOKEN), ("namespace", "team\n")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(sign_in, "POD_TOKEN", str(tmp_path / "token"))
    monkeypatch.setattr(connection_module, "POD_NAMESPACE", tmp_path / "namespace")
    connection = Connection(values.model_copy(update={"host": k.url}))
    assert connection.sign_in.how == "by this pod's token" and connection.namespace == "team"
    assert list_experiments(connection) == []
    with kubeflow() as alone:
        assert Connection(values.model_copy(update={"host": alone.url})).namespace == ""


def test_inside_a_pod_by_its_token(k: Kubeflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    monkeypatch.setattr(sign_in, "POD_TOKEN", str(file))
    connection = connected(k, username="")
    assert connection.sign_in.how == "by this pod's token"
    k.sessions.tokens = {"new": k.sessions.tokens[TOKEN]}
    file.write_text("new\n")  # as the kubelet does before the old one expires
    assert list_experiments(connection) == []
    k.sessions.tokens = {}
    with pytest.raises(UsageError, match=r"lets no one in by this pod's token"):
        list_experiments(connection)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"S3CRET\nS3CRET", "^the token in .*token has a blank, a line break or another odd character"),
        (b"S3CRET\xff", "^the token in .*token has a blank"),
        (None, r"^KF_PIPELINES_SA_TOKEN_PATH=.*token can't be read \(No such file or directory\)$"),
    ],
)
def test_a_pods_token_that_can_not_be_one(
    content: bytes | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        Connection(Settings(host="http://127.0.0.1:9"))
    assert "S3CRET" not in str(caught.value)


def test_no_sign_in_where_none_is_needed(alone: Kubeflow) -> None:
    assert connected(alone).sign_in.how == "without sign-in"
    # A password that no one asks for stays at home.
    connection = connected(alone, **BY_PASSWORD)
    assert connection.sign_in.how == f"without sign-in, as no one asked for the password of {ANN}"
    assert connection.sign_in.headers == {} and len(list_experiments(connection)) == 1


@pytest.mark.parametrize(("kind", "status"), [("dex", 401), ("authservice", 200)])
def test_a_wrong_password_is_sent_once(kind: Any, status: int) -> None:
    with team(kind, dex={"invalid_status": status}) as k:
        with pytest.raises(UsageError, match=rf"^127.0.0.1:\d+ refuses user '{ANN}' with this password$"):
            connected(k, username=ANN, password="wrong")
        assert k.passwords_sent == 1 and k.api.requests == []


@pytest.mark.parametrize("kind", ["dex", "authservice"])
def test_a_session_that_has_expired_is_renewed_once(kind: Any) -> None:
    with team(kind) as k:
        connection = connected(k)
        for count in (2, 3):
            k.sessions.expire()
            assert list_experiments(connection) == [] and k.passwords_sent == count
        # It is no attempt of its own.
        k.faults.fail(500, times=4, on="GET .*/experiments")
        k.sessions.expire()
        assert list_experiments(connection) == [] and k.passwords_sent == 4
        k.dex.users[ANN] = "changed"
        k.sessions.expire()
        with pytest.raises(UsageError, match=r"with this password"):
            list_experiments(connection)
        assert k.passwords_sent == 5


def test_sessions_that_never_hold_are_not_renewed_for_ever(k: Kubeflow) -> None:
    connection = connected(k)
    k.sessions.user = lambda key: ""  # type: ignore[method-assign]
    with pytest.raises(UsageError, match=rf"wants the password of '{ANN}' again: it is wrong, or the session"):
        list_experiments(connection)
    assert k.passwords_sent == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"username": ANN}, "a username is set, and no password: set NLP_PIPELINE_PASSWORD too"),
        ({"password": "S3CRET"}, "a password is set, and no username: set NLP_PIPELINE_USERNAME too"),
        ({"token": "S3CRET\n"}, "NLP_PIPELINE_TOKEN has a blank, a line break or another odd character"),
        ({"cookies": "a=S3CRET\nb"}, "NLP_PIPELINE_COOKIES has a blank, a line break or another odd character"),
        ({"token": "S3CRET"}, "lets no one in by bearer token (401): is the token meant for this cluster"),
        ({"cookies": 'a=S3CRET; b="x,y"; c={%}'}, "lets no one in by cookies (401): has the browser's session"),
        ({"username": ""}, "lets no one in without sign-in (401): set NLP_PIPELINE_TOKEN"),
    ],
)
def test_half_or_wrong_credentials_are_told_apart(changed: dict[str, str], message: str, k: Kubeflow) -> None:
    with pytest.raises(UsageError) as caught:
        connected(k, **changed)
    assert message in str(caught.value) and "S3CRET" not in str(caught.value)
    assert k.api.requests == []


@pytest.mark.parametrize(
    ("kind", "changed", "message"),
    [
        ("unknown", BY_PASSWORD, r"/sso/login shows no form .* of another kind"),
        ("no kubeflow", BY_PASSWORD, r"is no Kubeflow Pipelines: it does not"),
    ],
)
def test_pages_that_no_one_knows(kind: Any, changed: dict[str, str], message: str) -> None:
    with kubeflow(kind) as k, pytest.raises(PipelineError, match=message):
        connected(k, **changed)


def test_a_server_that_stumbles_while_signing_in(k: Kubeflow) -> None:
    for on in ("GET /$", "GET /dex/auth/local/login", "GET .*/healthz"):
        k.faults.fail(503, on=on)
        k.faults.drop(on=on)
    connection = connected(k)
    assert k.faults.left == 0 and list_experiments(connection) == [] and k.passwords_sent == 1


@pytest.mark.parametrize(
    ("fault", "on", "message", "sent"),
    [
        (None, "POST /dex", r"can't be reached: Server disconnected", 1),
        (500, "POST /dex", rf"signing in as '{ANN}' ended with 500", 1),
        (403, "POST /dex/approval", rf"signing in as '{ANN}' ended with 403", 1),
        (503, "GET /$", r"the sign-in ended with 503: upstream connect error", 0),
    ],
)
def test_what_fails_for_good_while_signing_in(fault: int | None, on: str, message: str, sent: int) -> None:
    with team(dex={"approval": True}) as k:
        k.faults.fail(fault, times=9, on=on) if fault else k.faults.drop(on=on)
        with pytest.raises(PipelineError, match=message):
            connected(k)
        assert k.passwords_sent == sent


def refusal(answer: Callable[[Request], Response]) -> tuple[str, int]:
    """Signs in where a server answers so; returns what is said of it, and how many requests were sent."""
    requests: list[Request] = []

    def record(request: Request) -> Response:
        requests.append(request)
        return answer(request)

    with answering(record) as host, pytest.raises(PipelineError) as caught:
        Connection(Settings.model_validate({"host": host.url, "username": ANN, "password": "S3CRET"}))
    assert "S3CRET" not in str(caught.value)
    return str(caught.value), len(requests)


@pytest.mark.parametrize(
    ("method", "action", "message"),
    [
        ("post", "http://127.0.0.2/login", "wants the password sent to http://127.0.0.2: it is not"),
        ("", "/login", "wants the password in an address: it is not sent"),
    ],
)
def test_a_password_goes_nowhere_else(method: str, action: str, message: str) -> None:
    text, count = refusal(lambda request: page(LOGIN.format(method, action)))
    assert text.endswith(message) and count == 1


def test_a_server_that_repeats_the_password_is_not_quoted() -> None:
    echo = [("Content-Type", "text/plain")]
    login = page(LOGIN.format("post", "/login"))
    text, _ = refusal(lambda sent: Response(400, f"wrong: {sent.form}", echo) if sent.method == "POST" else login)
    assert re.search(r"wrong: .*\*{8}", text)


def test_pages_that_lead_round_in_a_circle_come_to_an_end() -> None:
    link = page('<a href="/dex/auth/local">x</a>')
    text, count = refusal(lambda sent: link if sent.path.endswith("local") else redirect("/dex/auth/local"))
    assert "shows no form for a user name and a password" in text and count < 40


def test_nothing_of_it_shows_a_secret(k: Kubeflow) -> None:
    settings = settings_of(k)
    connection = Connection(settings)
    shown = f"{connection!r} {connection.sign_in!r} {connection.sign_in} {settings!r} {settings.model_dump()}"
    assert "S3CRET" not in shown and connection.sign_in.headers["Cookie"] not in shown
