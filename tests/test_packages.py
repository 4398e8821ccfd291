"""The pins stand in packages.py; constraints.txt and this environment agree with them."""

import importlib.metadata
import re
from pathlib import Path

import pytest

from nlp_pipeline import packages
from nlp_pipeline.errors import UsageError
from nlp_pipeline.local import check_packages

ROOT = Path(__file__).parents[1]
PINS = sorted({packages.KFP, *packages.IMAGES["steps"]})


@pytest.mark.parametrize("pin", PINS)
def test_pin_is_what_is_tested(pin: str) -> None:
    name, _, version = pin.partition("==")
    constraints = (ROOT / "constraints.txt").read_text().lower().splitlines()
    assert pin in constraints
    assert importlib.metadata.version(name).partition("+")[0] == version


def test_constraints_name_versions_only() -> None:
    """No address, no path, no build of this machine's."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()[1:]
    assert lines and all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)


def test_a_local_run_needs_nothing_of_a_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make demo` installs the extra `local` only."""
    find = importlib.metadata.version

    def without(name: str) -> str:
        if name in ("kserve", "kubernetes"):
            raise importlib.metadata.PackageNotFoundError(name)
        return find(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    check_packages()
    monkeypatch.setitem(packages.STEPS, "archive_model", ["kserve==0.21.0"])
    with pytest.raises(UsageError, match="kserve is not installed: pip install"):
        check_packages()
