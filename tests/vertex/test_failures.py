"""What goes wrong with Google Cloud: one line that says what to do, the right exit code, and never a secret."""

import importlib.util
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nlp_pipeline.cli import main
from nlp_pipeline.platforms import waiting
from nlp_pipeline.vertex.steps import api
from tests.fakes.vertex.cloud import Cloud
from tests.fakes.vertex.pipelines import Fate
from tests.fakes.vertex.rest import Request, Response
from tests.vertex.conftest import TRAIN, Run

SIGN_IN = "run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS to a key file"
COMMANDS: list[tuple[str, ...]] = [
    ("--submit", *TRAIN),
    ("--submit", "--wait", *TRAIN),
    ("--wait", "unknown"),
    ("--schedule", "0 0 2 * * *", *TRAIN),
    ("--schedules",),
    ("--unschedule", "unknown"),
    ("--pause", "unknown"),
    ("--resume", "unknown"),
    ("--runs",),
    ("--download", "unknown"),
    ("--undeploy", "--set", "model_name=films"),
]
LOCAL: list[tuple[str, ...]] = [("--doctor", *TRAIN), ("--print-config",)]
# Whatever is no request for a token.
API = "/v|/storage"
Fault = Callable[[Cloud], None]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """No one is waited for who does not come back."""
    monkeypatch.setattr(waiting, "PATIENCE_SECONDS", 0.01)


def page(status: int) -> Callable[[Request], Response]:
    return lambda request: Response(status, "<html>Sign in</html>", [("Content-Type", "text/html")])


def echo(request: Request) -> Response:
    """Tells what was sent, as a careless server may."""
    message = f"bad request: {request.headers} {request.body!r}"
    return Response(400, json.dumps({"error": {"code": 400, "message": message}}), [("Content-Type", "text/json")])


def no_token(cloud: Cloud) -> None:
    cloud.identity.revoked = True


FAILURES: dict[str, tuple[Fault, int, str]] = {
    "denied": (
        lambda cloud: cloud.refuse(403, "Permission denied.", 999, API),
        2,
        "403: Permission denied.; --doctor shows what is missing",
    ),
    "401": (lambda cloud: cloud.refuse(401, "Invalid.", 999, API), 2, f"401: Invalid.: {SIGN_IN}"),
    "400": (lambda cloud: cloud.refuse(400, "Some field\nis wrong.", 999, API), 2, "400: Some field is wrong."),
    "429": (
        lambda cloud: cloud.refuse(429, "Quota exceeded.", 999, API),
        1,
        "429: Quota exceeded.; a quota is used up, or too much was asked at once: "
        "https://console.cloud.google.com/iam-admin/quotas?project=my-project",
    ),
    "500": (lambda cloud: cloud.refuse(500, "Internal error.", 999, API), 1, "500: Internal error."),
    "dropped": (lambda cloud: cloud.drop(999), 1, "can't be reached: "),
    "away": (lambda cloud: cloud.host.stop(), 1, "can't be reached: "),
    "a page": (lambda cloud: cloud.say(page(200), 999, API), 1, "what answers is not Google's API; is a proxy in"),
    "a gateway": (lambda cloud: cloud.say(page(502), 999, API), 1, "502: a page, not an answer"),
    "no token": (no_token, 2, f": {SIGN_IN}"),
}


@pytest.mark.parametrize(
    ("failure", "command"),
    [(failure, COMMANDS[0]) for failure in FAILURES] + [("denied", command) for command in COMMANDS[1:]],
    ids=str,
)
def test_each_failure_is_one_line(failure: str, command: tuple[str, ...], cloud: Cloud, run: Run) -> None:
    fail, code, message = FAILURES[failure]
    fail(cloud)
    result, out, err = run(*command, "--json")
    line = err.splitlines()[-1]
    assert result == code and line == f"error: {json.loads(out)['error']}" and message in line
    assert "Traceback" not in err and "127.0.0.1:9" not in err
    assert cloud.pipelines.jobs == {} and cloud.pipelines.schedules == {}


@pytest.mark.parametrize("command", [COMMANDS[1], COMMANDS[-1]], ids=lambda command: command[0])
def test_what_passes_is_waited_for(
    command: tuple[str, ...], cloud: Cloud, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "PATIENCE_SECONDS", 900)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # as Google's library does between its own attempts
    cloud.pipelines.fate = Fate(not_triggered=("condition-5", "condition-8"))
    well = run(*command)[0]
    cloud.drop()
    cloud.refuse(503, "away")
    cloud.refuse(429, "no")
    code, _, err = run(*command)
    assert code == well, err


def test_an_answer_that_does_not_come(cloud: Cloud, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "TIMEOUT", 0.05)
    hold = threading.Event()

    def wait(request: Request) -> None:
        hold.wait(30)

    cloud.say(wait, 999)
    try:
        code, _, err = run("--runs")
    finally:
        hold.set()
    assert code == 1 and err.splitlines()[-1].endswith(" does not answer in time")


def test_a_token_that_does_not_come_now(cloud: Cloud, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # as Google's library does between its own attempts
    cloud.refuse(503, "away", 999, "/token")
    code, _, err = run("--submit", *TRAIN)
    assert code == 1 and "looking for bucket films: Google gives no token now (" in err and cloud.tokens > 1


def test_an_address_that_is_none(cloud: Cloud, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLP_PIPELINE_VERTEX_ENDPOINT", "http://vertex.example.com")
    code, _, err = run("--runs")
    assert code == 2 and "it must be an address that begins with https://" in err
    monkeypatch.setenv("NLP_PIPELINE_VERTEX_ENDPOINT", "https://ann:S3CRET@x")
    code, _, err = run("--runs")
    assert code == 2 and "an address with a user name or a password" in err and "S3CRET" not in err


def test_googles_own_address(cloud: Cloud, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # There is no way out of here: the proxy that the fixture names answers no one.
    monkeypatch.delenv("NLP_PIPELINE_VERTEX_ENDPOINT")
    code, _, err = run("--runs", "--region", "europe-west4")
    assert code == 1 and "listing runs: europe-west4-aiplatform.googleapis.com can't be reached: " in err
    code, _, err = run("--submit", *TRAIN)
    assert code == 1 and "looking for bucket films: storage.googleapis.com can't be reached: " in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "Your default credentials were not found"),
        ("", "was not found"),
        ("S3CRET {", "is not a valid json file"),
        (
            '{"type": "service_account", "client_email": "a@b", "token_uri": "http://x", "private_key": "S3CRET"}',
            "no credentials for Google Cloud",
        ),
    ],
)
def test_credentials_that_are_none(
    text: str | None, message: str, cloud: Cloud, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "other.json"
    if text:
        path.write_text(text)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    if text is None:
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    code, out, err = run("--runs")
    assert (code, out) == (2, "") and err.startswith("error: no credentials for Google Cloud: ")
    assert message in err and err.endswith(f": {SIGN_IN}\n") and err.count("\n") == 1
    assert "S3CRET {" not in err and cloud.requests == []


def test_a_users_credentials(cloud: Cloud, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of gcloud: a token is asked for at Google alone, where there is no way to from here."""
    path = tmp_path / "home" / ".config" / "gcloud" / "application_default_credentials.json"
    path.parent.mkdir(parents=True)
    user = {"type": "authorized_user", "client_id": "x", "client_secret": "S3CRET", "refresh_token": "S3CRET"}
    path.write_text(json.dumps(user))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    code, _, err = run("--runs")
    assert code == 1 and err.startswith("project my-project, region us-central1, by the credentials of gcloud\n")
    assert "error: listing runs: oauth2.googleapis.com can't be reached: " in err and "S3CRET" not in err


def test_where_the_libraries_are_not_installed(cloud: Cloud, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    missing = "google.cloud.aiplatform"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else real(name))
    line = "--platform vertex needs more packages: pip install -c constraints.txt -e '.[vertex]'"
    for command in (COMMANDS[0], LOCAL[0]):
        assert run(*command) == (2, "", f"error: {line}\n")


LEAKS: dict[str, Fault] = {
    "echo": lambda cloud: cloud.say(echo, 999),
    "echo but for tokens": lambda cloud: cloud.say(echo, 999, API),
    "no token": no_token,
    "dropped": lambda cloud: cloud.drop(999),
}


@pytest.mark.parametrize(
    ("command", "failure"),
    [(command, "echo but for tokens") for command in (COMMANDS[1], *LOCAL)]
    + [(("--runs",), failure) for failure in LEAKS],
    ids=str,
)
def test_no_secret_is_shown_or_left(
    command: tuple[str, ...],
    failure: str,
    cloud: Cloud,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    key = cloud.identity.private.splitlines()[1]
    for fail in (None, LEAKS[failure]):  # first where nothing is wrong
        if fail:
            fail(cloud)
        main([*command, "--debug", "--json"])
        said = capfd.readouterr()
        seen = said.out + said.err + caplog.text
        assert seen and "S3CRET" not in seen and "eyJ" not in seen and key not in seen
    for file in tmp_path.rglob("*"):
        if file.is_file() and file.name != "key.json":
            assert b"S3CRET" not in file.read_bytes() and key.encode() not in file.read_bytes()
