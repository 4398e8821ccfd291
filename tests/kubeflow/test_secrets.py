"""A secret appears in no output, file or traceback of any command, however it was given and whatever goes wrong."""

import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.cli import main
from nlp_pipeline.platforms import waiting
from tests.fakes.httpd import Response
from tests.fakes.kfp import Kubeflow, kubeflow
from tests.fakes.tls import Authority
from tests.kubeflow.test_commands import COMMANDS
from tests.kubeflow.users import ANN, team

PASSWORD, TOKEN = "pass-S3CRET", "token-S3CRET"
ALL = {
    "TOKEN": TOKEN,
    "COOKIES": 'a=S3CRET; b="S3CRET,%7B"; c=S3CRET{}',
    "PASSWORD": PASSWORD,
    "S3_ACCESS_KEY": "access-S3CRET",
    "S3_SECRET_KEY": "key-S3CRET",
    "ENDPOINT_TOKEN": "endpoint-S3CRET",
    "ENDPOINT_COOKIE": "e=S3CRET",
}
# What signs in, by what is left out.
WAYS = {"token": (), "cookies": ("TOKEN",), "password": ("TOKEN", "COOKIES")}
SOURCES = ("environment", ".env", "--config")
FAILURES = ("none", "refused", "500", "dropped", "TLS", "other page", "unknown sign-in", "echo")
# Each failure, and each command where a server repeats what it was sent; with each way, source and form of the output.
TURNS = itertools.cycle(itertools.product(WAYS, SOURCES, [(), ("--json",)]))
PAIRS = [(failure, COMMANDS[1]) for failure in FAILURES] + [("echo", command) for command in COMMANDS[2:]]
CASES = [(*pair, *next(TURNS)) for pair in PAIRS]


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left in the temporary folder is seen; nothing is waited for that does not come back by itself."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(waiting, "PATIENCE_SECONDS", 0.05)


@contextlib.contextmanager
def failing(failure: str, ca: Authority) -> Iterator[Kubeflow]:
    if failure in ("other page", "unknown sign-in"):
        with kubeflow("no kubeflow" if failure == "other page" else "unknown") as k:
            yield k
        return
    users = {} if failure == "refused" else {ANN: PASSWORD}
    tokens = {"other": "team"} if failure == "refused" else {TOKEN: "team"}
    with team(users=users, namespaces={ANN: "team"}, tokens=tokens, tls=ca if failure == "TLS" else None) as k:
        answer, key = k.gateway, k.sessions.open(ANN, 16)

        def accepting(request: Any) -> Any:
            """Takes the browser's cookies for a session of Ann's, but where nothing is taken."""
            if users and "c=S3CRET" in request.headers.get("cookie", ""):
                return k.behind(request, k.sessions.user(key))
            return answer(request)

        def echoing(request: Any) -> Any:
            is_api = "/apis/" in request.path and "healthz" not in request.path
            return Response(400, f"bad: {request.headers} {request.body!r}") if is_api else accepting(request)

        k.gateway = echoing if failure == "echo" else accepting
        if failure == "500":
            k.faults.fail(500, times=99)
        elif failure == "dropped":
            k.faults.drop(times=99, on="/apis/v2beta1/[^h]")
        yield k


def give(values: dict[str, str], source: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Gives settings, and returns the arguments that it takes."""
    if source == "environment":
        for name, value in values.items():
            monkeypatch.setenv(f"NLP_PIPELINE_{name}", value)
        return []
    path = Path(".env") if source == ".env" else Path("my.conf")
    path.write_text("".join(f"NLP_PIPELINE_{name}='{value}'\n" for name, value in values.items()))
    return [] if source == ".env" else ["--config", str(path)]


@pytest.mark.parametrize(("failure", "command", "way", "source", "form"), CASES, ids=str)
def test_no_secret_is_shown_or_left(
    failure: str,
    command: tuple[str, ...],
    way: str,
    source: str,
    form: tuple[str, ...],
    ca: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    with failing(failure, ca) as k:
        values = {name: value for name, value in ALL.items() if name not in WAYS[way]}
        values |= {"HOST": k.url, "NAMESPACE": "team", "USERNAME": ANN, "S3_ENDPOINT": "http://127.0.0.1:9"}
        code = main([*command, *give(values, source, monkeypatch), "--debug", *form])
        captured = capfd.readouterr()
        output = captured.out + captured.err + caplog.text
        assert output and "S3CRET" not in output
        assert not any(session[:40] in output for session in k.sessions.users)
        if failure != "none" and command != ("--print-config",):
            assert code != 0
    for file in tmp_path.rglob("*"):
        if file.is_file() and file.name not in (".env", "my.conf"):
            assert b"S3CRET" not in file.read_bytes(), file
    assert not any("S3CRET" in value for name, value in os.environ.items() if not name.startswith("NLP_PIPELINE_"))
