"""The kserve SDK is imported without harm, or told to be missing."""

import importlib.util
import subprocess
import sys
from typing import Any

import pytest

from nlp_pipeline.cli import main
from nlp_pipeline.deploy.kserve_sdk import import_kserve
from nlp_pipeline.errors import UsageError


@pytest.mark.parametrize(
    "line",
    [
        "--deploy --release pvc://claim/tiny/releases/0123456789abcdef",
        "--manifests --set namespace=team",
    ],
)
def test_that_it_is_missing_is_one_line(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec

    def find(name: str, *more: Any) -> Any:
        return None if name == "kserve" else found(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    with pytest.raises(UsageError, match="kserve is not installed"):
        import_kserve()
    assert main(line.split()) == 2
    said = capsys.readouterr()
    assert said.err == "error: kserve is not installed: pip install -c constraints.txt -e '.[deploy]'\n"


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


def test_its_mistakes_leave_the_command_line_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["program", "--predict"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "kserve", None)  # an import of it fails
    with pytest.raises(ImportError):
        import_kserve()
    assert sys.argv == ["program", "--predict"]
