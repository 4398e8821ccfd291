"""The kserve SDK is imported without harm, or told to be missing."""

import importlib.util
import subprocess
import sys

import pytest

from nlp_pipeline.cli import main


def test_that_it_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: (name != "kserve" and found(name, *more)) or None
    )
    assert main(["--deploy", "--release", "pvc://claim/tiny/releases/0123456789abcdef"]) == 2
    says = "error: kserve is not installed: pip install -c constraints.txt -e '.[deploy]'\n"
    assert capsys.readouterr().err == says


def test_it_leaves_the_command_line_alone() -> None:
    """In a process of its own, as it reads the command line when it is imported first."""
    arguments = ["--predict", "superb", "--http_port=nonsense", "--help"]
    code = "import sys; from nlp_pipeline.deploy.kserve_sdk import import_kserve; import_kserve(); print(sys.argv[1:])"
    guarded = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert (guarded.returncode, guarded.stdout, guarded.stderr) == (0, f"{arguments}\n", "")


def test_the_guard_is_needed() -> None:
    """Where this fails, kserve has mended it, and the guard can go."""
    code = "import kserve"
    done = subprocess.run([sys.executable, "-c", code, "--predict", "superb"], capture_output=True, text=True)
    assert done.returncode == 2 and "ambiguous option: --predict could match" in done.stderr
