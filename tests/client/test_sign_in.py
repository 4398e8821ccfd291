"""Signing in: each way, what is told of each failure, and that a password is sent once and nowhere else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.client import sign_in
from nlp_pipeline.client.connection import Connection
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.settings import Settings
from tests.client.signed_in import (
    ANN,
    BY_PASSWORD,
    PASSWORD,
    TOKEN,
    connected,
    list_experiments,
    passwords_sent,
    settings_of,
    team,
)
from tests.kubeflow.emulator import kubeflow
from tests.kubeflow.httpd import Host, Request, Response, page, redirect
from tests.kubeflow.tls import Authority

DEXES: list[dict[str, Any]] = [
    {},
    {"approval": True},
    {"connectors": ("github", "local", "ldap")},
    {"connectors": ("ldap", "github")},
    {"connectors": ("ldap",), "approval": True},
    {"invalid_status": 200},
]


@pytest.mark.parametrize("unauthenticated", ["page", "redirect", "direct"])
@pytest.mark.parametrize("api_routes", [True, False])
@pytest.mark.parametrize("dex", DEXES, ids=str)
def test_through_oauth2_proxy_and_dex(
    unauthenticated: str, api_routes: bool, dex: dict[str, Any], ca: Authority
) -> None:
    username = ANN if "local" in dex.get("connectors", ("local",)) else "ann"
    with team(dex=dex, unauthenticated=unauthenticated, api_routes=api_routes, tls=ca) as k:
        connection = connected(k, username=username, password=PASSWORD, ca_cert=str(ca.path))
        assert connection.sign_in.how == f"as {username}, by password"
        assert (connection.url, connection.multi_user) == (f"{k.url}/pipeline", True)
        assert list_experiments(connection) == [] and k.requests[-1].user == ANN
        assert passwords_sent(k) == 1


@pytest.mark.parametrize("dex", [{}, {"approval": True}], ids=str)
def test_through_the_older_authservice(dex: dict[str, Any], ca: Authority) -> None:
    with team("authservice", dex=dex, tls=ca) as k:
        connection = connected(k, **BY_PASSWORD, ca_cert=str(ca.path))
        assert list_experiments(connection) == [] and passwords_sent(k) == 1


def test_by_token_which_wins_over_all_else() -> None:
    with team() as k:
        connection = connected(k, token=TOKEN, cookies="a=b", **BY_PASSWORD)
        assert connection.sign_in.how == "by bearer token" and connection.sign_in.renew is None
        assert k.requests[-1].user == "system:serviceaccount:team:default-editor" and passwords_sent(k) == 0


def test_by_the_cookies_of_a_browser() -> None:
    with team() as k:
        cookies = connected(k).sign_in.headers["Cookie"]
        connection = connected(k, cookies=cookies, **BY_PASSWORD)
        assert connection.sign_in.how == "by cookies" and list_experiments(connection) == []
        # Their end is not ours to mend.
        k.sessions.expire()
        with pytest.raises(UsageError, match=r"lets no one in by cookies \(401\): has the browser's session expired"):
            list_experiments(connection)
        assert passwords_sent(k) == 1


def test_inside_a_pod_by_its_token_which_the_kubelet_renews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(file))
    with team() as k:
        connection = connected(k, username="")
        assert connection.sign_in.how == "by this pod's token"
        k.sessions.tokens = {"new": k.sessions.tokens[TOKEN]}
        file.write_text("new\n")
        assert list_experiments(connection) == []
        k.sessions.tokens = {}
        with pytest.raises(UsageError, match=r"lets no one in by this pod's token"):
            list_experiments(connection)


def test_where_pods_have_their_token_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sign_in.POD_TOKEN == "/var/run/secrets/kubeflow/pipelines/token"
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setattr(sign_in, "POD_TOKEN", str(tmp_path / "token"))
    assert sign_in.pod_token() == TOKEN
    monkeypatch.setattr(sign_in, "POD_TOKEN", str(tmp_path / "nothing"))
    assert sign_in.pod_token() == ""


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


def test_no_sign_in_where_none_is_needed() -> None:
    with kubeflow() as k:
        connection = Connection(Settings(host=k.url))
        assert (connection.sign_in.how, connection.multi_user) == ("without sign-in", False)
        assert len(list_experiments(connection)) == 1
        # A password that no one asks for stays at home.
        connection = Connection(Settings.model_validate({"host": k.url, **BY_PASSWORD}))
        assert connection.sign_in.how == f"without sign-in, as no one asked for the password of {ANN}"
        assert connection.sign_in.headers == {} and len(list_experiments(connection)) == 1


@pytest.mark.parametrize("kind", ["dex", "authservice"])
@pytest.mark.parametrize("dex", [{}, {"invalid_status": 200}, {"connectors": ("local", "ldap")}], ids=str)
def test_a_wrong_password_is_sent_once(kind: Any, dex: dict[str, Any]) -> None:
    with team(kind, dex=dex) as k:
        with pytest.raises(UsageError, match=rf"^127.0.0.1:\d+ refuses user '{ANN}' with this password$"):
            connected(k, username=ANN, password="wrong")
        assert passwords_sent(k) == 1 and k.requests == []


def test_a_password_that_is_changed_meanwhile_is_sent_once_more() -> None:
    with team() as k:
        connection = connected(k)
        k.dex.users[ANN] = "changed"
        k.sessions.expire()
        with pytest.raises(UsageError, match=r"with this password"):
            list_experiments(connection)
        assert passwords_sent(k) == 2


@pytest.mark.parametrize("kind", ["dex", "authservice"])
def test_a_session_that_has_expired_is_renewed_once(kind: Any) -> None:
    with team(kind) as k:
        connection = connected(k)
        for count in (2, 3):
            k.sessions.expire()
            assert list_experiments(connection) == [] and passwords_sent(k) == count


@pytest.mark.parametrize("kind", ["dex", "authservice"])
def test_sessions_that_never_hold_are_not_renewed_for_ever(kind: Any) -> None:
    with team(kind) as k:
        connection = connected(k)
        k.sessions.user = lambda key: ""  # type: ignore[method-assign]
        with pytest.raises(UsageError, match=rf"wants the password of '{ANN}' again: it is wrong, or the session"):
            list_experiments(connection)
        assert passwords_sent(k) == 2


@pytest.mark.parametrize(
    ("given", "message"),
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
def test_half_or_wrong_credentials_are_told_apart(given: dict[str, str], message: str) -> None:
    with team() as k:
        with pytest.raises(UsageError) as caught:
            connected(k, **given)
        assert message in str(caught.value) and "S3CRET" not in str(caught.value)
        assert k.requests == []


def test_a_login_page_that_no_one_knows_and_an_endpoint_that_is_no_kubeflow() -> None:
    with kubeflow("unknown") as k, pytest.raises(PipelineError, match=r"/sso/login shows no form .* of another kind"):
        connected(k)
    with kubeflow("unknown") as k, pytest.raises(UsageError, match=r"lets no one in without sign-in"):
        connected(k, username="")
    for given in (BY_PASSWORD, {"username": ""}, {"token": "x"}):
        with kubeflow("no kubeflow") as k, pytest.raises(UsageError, match=r"is no Kubeflow Pipelines: it does not"):
            connected(k, **given)


@pytest.mark.parametrize("kind", ["dex", "authservice"])
@pytest.mark.parametrize("on", ["GET /$", "GET /dex/auth/local/login", "GET .*/healthz"])
def test_a_server_that_stumbles_while_signing_in(kind: Any, on: str) -> None:
    with team(kind) as k:
        k.faults.fail(503, on=on)
        k.faults.drop(on=on)
        connection = connected(k)
        assert k.faults.left == 0 and list_experiments(connection) == [] and passwords_sent(k) == 1


def test_a_password_whose_answer_is_lost_is_not_sent_again() -> None:
    with team() as k:
        k.faults.drop(on="POST /dex")
        with pytest.raises(PipelineError, match=r"can't be reached: Server disconnected"):
            connected(k)
        assert passwords_sent(k) == 1
        k.faults.fail(500, on="POST /dex")
        with pytest.raises(PipelineError, match=rf"signing in as '{ANN}' ended with 500"):
            connected(k)
        assert passwords_sent(k) == 2
        k.faults.fail(503, on="GET /$", times=9)
        with pytest.raises(PipelineError, match=r"the sign-in ended with 503: upstream connect error"):
            connected(k)


def test_approval_that_is_refused_ends_at_once() -> None:
    with team(dex={"approval": True}) as k:
        k.faults.fail(403, on="POST /dex/approval")
        with pytest.raises(PipelineError, match=r"ended with 403"):
            connected(k)


def served(answering: Callable[[Request], Response]) -> Host:
    host = Host(answering)
    host.start()
    return host


LOGIN = '<form method="{}" action="{}"><input name="login"><input type="password" name="password"></form>'


@pytest.mark.parametrize(
    ("method", "action", "message"),
    [
        ("post", "http://127.0.0.2/login", "wants the password sent to http://127.0.0.2: it is not"),
        ("get", "/login", "wants the password in an address: it is not sent"),
        ("", "/login", "wants the password in an address: it is not sent"),
    ],
)
def test_a_password_goes_nowhere_else(method: str, action: str, message: str) -> None:
    seen: list[Request] = []

    def answer(request: Request) -> Response:
        seen.append(request)
        return page(LOGIN.format(method, action))

    host = served(answer)
    try:
        with pytest.raises(PipelineError, match=message):
            Connection(Settings.model_validate({"host": host.url, **BY_PASSWORD}))
        assert len(seen) == 1
    finally:
        host.stop()


@pytest.mark.parametrize("status", [400, 500])
def test_a_server_that_repeats_the_password_is_not_quoted(status: int) -> None:
    def answer(request: Request) -> Response:
        if request.method == "POST":
            return Response(status, f"wrong: {request.form}", [("Content-Type", "text/plain")])
        return page(LOGIN.format("post", "/login"))

    host = served(answer)
    try:
        with pytest.raises(PipelineError, match=r"wrong: .*\*{8}") as caught:
            Connection(Settings.model_validate({"host": host.url, "username": ANN, "password": "S3CRET"}))
        assert "S3CRET" not in str(caught.value)
    finally:
        host.stop()


def test_pages_that_lead_round_in_a_circle_come_to_an_end() -> None:
    count = 0

    def answer(request: Request) -> Response:
        nonlocal count
        count += 1
        if request.path.endswith("local"):
            return page(f'<a href="/dex/auth/local?{count}">x</a>')
        return redirect("/dex/auth/local")

    host = served(answer)
    try:
        with pytest.raises(PipelineError, match=r"shows no form for a user name and a password"):
            Connection(Settings.model_validate({"host": host.url, **BY_PASSWORD}))
        assert count < 40
    finally:
        host.stop()


def test_nothing_of_it_shows_a_secret() -> None:
    with team() as k:
        settings = settings_of(k)
        connection = Connection(settings)
        shown = [repr(connection), repr(connection.sign_in), str(connection.sign_in), repr(settings), str(settings)]
        shown.append(f"{connection.sign_in.how} {settings.model_dump()}")
        cookie = connection.sign_in.headers["Cookie"]
        assert not any("S3CRET" in one or cookie in one for one in shown)
