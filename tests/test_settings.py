"""The environment and `.env`, and that no secret is ever shown."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from nlp_pipeline.cli import main
from nlp_pipeline.errors import UsageError
from nlp_pipeline.settings import Settings, settings

TOKEN, COOKIE = "token-S3CRET", "session=S3CRET; other=S3CRET"
PATH = "/v1/models/tiny:predict"


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither the environment nor the working folder says anything, and nothing is remembered."""
    for name in ("HOST", "TOKEN", "COOKIE"):
        monkeypatch.delenv(f"NLP_PIPELINE_ENDPOINT_{name}", raising=False)
    monkeypatch.chdir(tmp_path)
    settings.cache_clear()
    yield
    settings.cache_clear()


def test_nothing_is_set() -> None:
    assert settings().endpoint_headers() == {}


def test_the_environment_wins_over_the_file_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"NLP_PIPELINE_ENDPOINT_TOKEN={TOKEN}", f"NLP_PIPELINE_ENDPOINT_COOKIE='{COOKIE}'", "OTHER=x"]
    (tmp_path / ".env").write_text("\n".join(["# a comment", "NLP_PIPELINE_ENDPOINT_HOST=of-file", *lines]))
    assert settings().endpoint_headers() == {"Host": "of-file", "Authorization": f"Bearer {TOKEN}", "Cookie": COOKIE}
    monkeypatch.setenv("NLP_PIPELINE_ENDPOINT_HOST", "of-environment:8080")
    settings.cache_clear()
    assert settings().endpoint_headers()["Host"] == "of-environment:8080"
    assert set(settings().sign_in_headers()) == {"Authorization", "Cookie"}


def test_a_repr_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLP_PIPELINE_ENDPOINT_TOKEN", TOKEN)
    monkeypatch.setenv("NLP_PIPELINE_ENDPOINT_COOKIE", COOKIE)
    for shown in (repr(settings()), str(settings()), settings().model_dump_json(), f"{settings().model_dump()}"):
        assert "S3CRET" not in shown


ODD = "has a blank, a line break or another odd character in it: set it anew without"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *[("TOKEN", value, ODD) for value in ("S3CRET x", "S3CRET\n", "S3CRET\r\nHost: x", "S3CRETé", " S3CRET", "\t")],
        *[("COOKIE", value, ODD) for value in ("a=S3CRET\nb", "a=S3CRET ", "a=S3CRET  b", "a=S3CRET\x1b", "ü=S3CRET")],
        ("HOST", "http://host/", "is 'http://host/': it must be a host name alone, as in model.namespace.example.com"),
        ("HOST", "a\nb", r"is 'a\nb': it must be a host name alone, as in model.namespace.example.com"),
    ],
)
@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_hostile_values_are_one_line_and_not_shown(
    name: str,
    value: str,
    message: str,
    debug: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(f"NLP_PIPELINE_ENDPOINT_{name}", value)
    assert main(["--predict", "x", "--endpoint", f"http://127.0.0.1:9{PATH}", *debug]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines()[-1] == f"error: NLP_PIPELINE_ENDPOINT_{name} {message}"
    assert debug or said.err.count("\n") == 1
    assert "S3CRET" not in said.err


def test_a_file_that_can_not_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"NLP_PIPELINE_ENDPOINT_TOKEN=S3CRET\xff")
    with pytest.raises(UsageError, match=r"^\.env can't be read \(UnicodeDecodeError\): write NAME=VALUE lines in UTF"):
        settings()


def test_a_folder_named_so_is_no_file(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    assert settings() == Settings()


def sent_headers(httpserver: HTTPServer, status: int, body: str = "", **headers: str) -> dict[str, str]:
    """Lets an endpoint answer so, and returns what will hold the headers that it is sent."""
    seen: dict[str, str] = {}

    def answer(request: Request) -> Response:
        seen.update(request.headers.items())
        return Response(body, status=status, headers=headers)

    httpserver.expect_request(PATH).respond_with_handler(answer)
    return seen


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, json.dumps({"predictions": [{"label": "a", "score": 1}]})), (200, "junk"), (401, "no"), (500, "broken")],
)
def test_secrets_are_sent_and_never_shown(
    httpserver: HTTPServer,
    status: int,
    body: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("NLP_PIPELINE_ENDPOINT_TOKEN", TOKEN)
    monkeypatch.setenv("NLP_PIPELINE_ENDPOINT_COOKIE", COOKIE)
    monkeypatch.setenv("NLP_PIPELINE_ENDPOINT_HOST", "tiny.team.example.com")
    seen = sent_headers(httpserver, status, body)
    code = main(["--predict", "x", "--endpoint", httpserver.url_for(PATH), "--json", "--debug"])
    assert code == (0 if '"label"' in body else 1)
    sent = {name: seen[name] for name in ("Authorization", "Cookie", "Host")}
    assert sent == {"Authorization": f"Bearer {TOKEN}", "Cookie": COOKIE, "Host": "tiny.team.example.com"}
    said = capsys.readouterr()
    assert "S3CRET" not in said.out + said.err


@pytest.mark.parametrize(
    ("status", "body", "environment", "advice"),
    [
        (401, "", {}, "answered 401; sign in: set NLP_PIPELINE_ENDPOINT_TOKEN or NLP_PIPELINE_ENDPOINT_COOKIE"),
        (403, "RBAC: access denied", {}, "answered 403: RBAC: access denied; sign in: set NLP_PIPELINE_ENDPOINT_TOKEN"),
        (302, "", {}, "answered 302; sign in: set NLP_PIPELINE_ENDPOINT_TOKEN or NLP_PIPELINE_ENDPOINT_COOKIE"),
        (401, "", {"TOKEN": "x"}, "NLP_PIPELINE_ENDPOINT_COOKIE is not taken: set it anew"),
        (403, "", {"COOKIE": "x=y"}, "NLP_PIPELINE_ENDPOINT_COOKIE is not taken: set it anew"),
        (404, "", {}, "answered 404; if it is a gateway, set NLP_PIPELINE_ENDPOINT_HOST to the model's host name"),
        (404, "", {"HOST": "x"}, "answered 404\n"),
        (404, "no such model", {}, "answered 404: no such model\n"),
        (500, "", {}, "answered 500\n"),
    ],
)
def test_what_stands_before_an_endpoint_is_told_with_what_to_do(
    httpserver: HTTPServer,
    status: int,
    body: str,
    environment: dict[str, str],
    advice: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"NLP_PIPELINE_ENDPOINT_{name}", value)
    sent_headers(httpserver, status, body, **({"Location": "/login"} if status == 302 else {}))
    assert main(["--predict", "x", "--endpoint", httpserver.url_for(PATH)]) == 1
    said = capsys.readouterr()
    assert advice in said.err and said.err.count("\n") == 1 and said.out == ""
