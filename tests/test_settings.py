"""The environment and `.env`, and that no secret is ever shown."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer

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


def test_the_environment_wins_over_the_file_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings().endpoint_headers() == {}
    settings.cache_clear()
    lines = [f"NLP_PIPELINE_ENDPOINT_TOKEN={TOKEN}", f"NLP_PIPELINE_ENDPOINT_COOKIE='{COOKIE}'", "OTHER=x"]
    (tmp_path / ".env").write_text("\n".join(["# a comment", "NLP_PIPELINE_ENDPOINT_HOST=of-file", *lines]))
    assert settings().endpoint_headers() == {"Host": "of-file", "Authorization": f"Bearer {TOKEN}", "Cookie": COOKIE}
    monkeypatch.setenv("NLP_PIPELINE_ENDPOINT_HOST", "of-environment:8080")
    settings.cache_clear()
    assert settings().endpoint_headers()["Host"] == "of-environment:8080"
    assert set(settings().sign_in_headers()) == {"Authorization", "Cookie"}
    assert "S3CRET" not in repr(settings()) + settings().model_dump_json()


ODD = "has a blank, a line break or another odd character in it: set it anew without"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *[("TOKEN", value, ODD) for value in ("S3CRET\r\nHost: x", "S3CRETé")],
        *[("COOKIE", value, ODD) for value in ("a=S3CRET\nb", "a=S3CRET  b")],
    ],
)
def test_hostile_values_are_one_line_and_not_shown(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"NLP_PIPELINE_ENDPOINT_{name}", value)
    for debug in ([], ["--debug"]):
        assert main(["--predict", "x", "--endpoint", f"http://127.0.0.1:9{PATH}", *debug]) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and "S3CRET" not in printed.err
        assert printed.err.splitlines()[-1] == f"error: NLP_PIPELINE_ENDPOINT_{name} {message}"
        assert debug or printed.err.count("\n") == 1


def test_a_host_name_is_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLP_PIPELINE_ENDPOINT_HOST", "http://host/")
    with pytest.raises(UsageError, match=r"^endpoint_host, from the environment: String should match pattern"):
        settings()


def test_what_is_no_file_of_settings(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    assert settings() == Settings()
    settings.cache_clear()
    (tmp_path / ".env").rmdir()
    (tmp_path / ".env").write_bytes(b"NLP_PIPELINE_ENDPOINT_TOKEN=S3CRET\xff")
    with pytest.raises(UsageError, match=r"^\.env can't be read \(UnicodeDecodeError\): write NAME=VALUE lines in UTF"):
        settings()


@pytest.mark.parametrize(
    ("status", "body"), [(200, json.dumps({"predictions": [{"label": "a", "score": 1}]})), (200, "junk"), (401, "no")]
)
def test_secrets_are_sent_and_never_shown(
    status: int, body: str, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"TOKEN": TOKEN, "COOKIE": COOKIE, "HOST": "tiny.team.example.com"}.items():
        monkeypatch.setenv(f"NLP_PIPELINE_ENDPOINT_{name}", value)
    httpserver.expect_request(PATH).respond_with_data(body, status)
    code = main(["--predict", "x", "--endpoint", httpserver.url_for(PATH), "--json", "--debug"])
    assert code == (0 if '"label"' in body else 1)
    [(request, _)] = httpserver.log
    assert (request.headers["Authorization"], request.headers["Cookie"]) == (f"Bearer {TOKEN}", COOKIE)
    assert request.headers["Host"] == "tiny.team.example.com"
    printed = capsys.readouterr()
    assert "S3CRET" not in printed.out + printed.err
