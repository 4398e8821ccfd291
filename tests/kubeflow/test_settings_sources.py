"""Where settings come from, in which order, and how --print-config shows that."""

import contextlib
import json
import os
import pty
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.cli import main, make_parser
from nlp_pipeline.settings import Settings, load_settings
from tests.kubeflow.users import ANN, PASSWORD, team

ROOT = Path(__file__).parents[2]
SECRETS = [name for name, field in Settings.model_fields.items() if "Secret" in str(field.annotation)]


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, tuple[Any, str]]:
    assert main(["--print-config", "--json", *argv]) == 0
    return {row["setting"]: (row["value"], row["from"]) for row in json.loads(capsys.readouterr().out)}


def test_flags_then_environment_then_file_then_defaults(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(capsys)["host"] == ("", "default") and shown(capsys)["experiment"] == ("nlp-pipeline", "default")
    Path(".env").write_text("NLP_PIPELINE_HOST=http://of-file\nNLP_PIPELINE_EXPERIMENT=of file\nOTHER=x\n")
    assert shown(capsys)["host"] == ("http://of-file", ".env")
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "http://of-kubeflow")
    monkeypatch.setenv("KF_PIPELINES_DEFAULT_EXPERIMENT_NAME", "of kubeflow")
    assert shown(capsys)["host"] == ("http://of-kubeflow", "Kubeflow's environment")
    assert shown(capsys)["experiment"] == ("of kubeflow", "Kubeflow's environment")
    monkeypatch.setenv("NLP_PIPELINE_HOST", "http://of-environment")
    assert shown(capsys)["host"] == ("http://of-environment", "the environment")
    assert shown(capsys, "--host", "http://of-flag")["host"] == ("http://of-flag", "a flag")
    assert shown(capsys, "--experiment", "of flag")["experiment"] == ("of flag", "a flag")


def test_a_file_that_is_named_is_read_instead_of_the_working_folders(capsys: pytest.CaptureFixture[str]) -> None:
    Path(".env").write_text("NLP_PIPELINE_HOST=http://of-env\nNLP_PIPELINE_NAMESPACE=env\n")
    Path("my.conf").write_text("# mine\nexport NLP_PIPELINE_HOST='http://of-conf'\nnlp_pipeline_insecure=true\n\n")
    result = shown(capsys, "--config", "my.conf")
    assert result["host"] == ("http://of-conf", "my.conf") and result["namespace"] == ("", "default")
    assert result["insecure"] == (True, "my.conf")
    assert main(["--print-config", "--config", "none.conf"]) == 2
    assert "--config none.conf: there is no such file" in capsys.readouterr().err


def test_all_settings_are_shown_and_secrets_masked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in Settings.model_fields:
        value = {"insecure": "true", "platform": "kubeflow", "run_as_user": "7"}.get(name, f"s3cret.{name}")
        monkeypatch.setenv(f"NLP_PIPELINE_{name.upper()}", value)
    result = shown(capsys)
    assert list(result) == list(Settings.model_fields)
    assert {result[name] for name in SECRETS} == {("********", "the environment")} and len(SECRETS) == 7
    assert main(["--print-config"]) == 0
    out = capsys.readouterr().out
    assert out.count("********") == 7 and all(f"s3cret.{name}" not in out for name in SECRETS)
    # One whose length would tell of it is masked alike; one that isn't set is seen not to be.
    monkeypatch.setenv("NLP_PIPELINE_TOKEN", "")
    assert shown(capsys)["token"] == ("", "the environment")


def test_what_a_file_says_is_taken_as_it_stands(tmp_path: Path) -> None:
    odd = ["pa$HOME${HOME}ss", "a#b", "a=b=c", "\\n", "$(id)", "wörd", "`x`", "%s{}", "a'b"]
    for value in odd:
        file = tmp_path / "x.conf"
        file.write_text(f'NLP_PIPELINE_PASSWORD="{value}"\n'.replace("\\", "\\\\"), encoding="utf-8")
        assert load_settings({}, file)[0].password.get_secret_value() == value


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("INSECURE", "S3CRET", "insecure, from the environment: Input should be a valid boolean"),
        ("HOST", "https://u:S3CRET@h", "host, from the environment: an address with a user name or a password in it"),
        ("S3_ENDPOINT", "u:S3CRET@h", "s3_endpoint, from the environment: an address with a user name or a password"),
        ("IMAGE", "No Image", "--image 'No Image' is no name of an image"),
    ],
)
def test_wrong_values_are_one_line(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"NLP_PIPELINE_{name}", value)
    assert main(["--print-config"]) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and said.out == "" and "S3CRET" not in said.err


@pytest.mark.parametrize("flag", ["password", "s3-access-key"])
def test_no_flag_takes_a_secret(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert not {name for name in vars(make_parser().parse_args([])) if name in SECRETS}
    for argv in ([f"--{flag}", "S3CRET"], [f"--{flag}=S3CRET"]):
        assert main(["--runs", *argv]) == 2
        err = capsys.readouterr().err
        variable = f"NLP_PIPELINE_{flag.replace('-', '_').upper()}"
        assert f"--{flag}: secrets have no flag" in err and variable in err and "S3CRET" not in err


def typed(answer: str, *argv: str) -> tuple[int, str]:
    """Runs the command line on a terminal; answers its prompt; returns the exit code and what was seen."""
    # `pty` makes the terminal that of the process, so that Ctrl-C is a signal.
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, str(ROOT / "pipeline_v2.py"), *argv])
    stop = threading.Timer(120, os.kill, (pid, signal.SIGKILL))
    stop.start()
    seen, is_answered = b"", False
    with contextlib.suppress(OSError):  # how the end of a terminal is told
        while piece := os.read(terminal, 4096):
            seen += piece
            if not is_answered and seen.endswith(b": ") and b"password of" in seen:
                os.write(terminal, f"{answer}\n".encode())
                is_answered = True
    _, status = os.waitpid(pid, 0)
    stop.cancel()
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), seen.decode()


def test_a_password_is_asked_for_on_a_terminal() -> None:
    with team() as k:
        argv = ["--runs", "--host", k.url, "--username", ANN, "--namespace", "team"]
        code, text = typed(PASSWORD, *argv)
        assert code == 0 and f"password of {ANN}: " in text and f"{k.url}, as {ANN}, by password" in text
        assert "S3CRET" not in text and k.passwords_sent == 1
        code, text = typed("\x03", *argv)
        assert code == 130 and "interrupted; " in text and "Traceback" not in text


def test_no_password_is_given(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def end(*_: Any) -> str:
        raise EOFError

    monkeypatch.setattr("getpass.getpass", end)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert main(["--runs", "--host", "http://127.0.0.1:9", "--username", ANN]) == 2
    assert "no password was given" in capsys.readouterr().err


def test_no_one_is_asked_where_there_is_no_terminal_or_no_need(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> str:
        raise AssertionError("asked")

    monkeypatch.setattr("getpass.getpass", refuse)
    assert main(["--runs", "--host", "http://127.0.0.1:9", "--username", ANN]) == 2
    assert "a username is set, and no password: set NLP_PIPELINE_PASSWORD too" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    submit = ["--submit", "--dry-run", "--set", "train_data=s3://b/x.csv", "--username", ANN]
    assert main(submit) == 0 and main(["--upload", "--dry-run", "--username", ANN]) == 0
    assert main(["--print-config", "--username", ANN]) == 0
    for name in ("TOKEN", "COOKIES", "PASSWORD"):
        with monkeypatch.context() as context:
            context.setenv(f"NLP_PIPELINE_{name}", "a=b")
            assert main(["--runs", "--host", "http://127.0.0.1:9", "--username", ANN]) == 1
