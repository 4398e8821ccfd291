"""Scenes in which releases are deployed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.scene import Scene, answering, set_up
from tests.deploy.site import Site, deployment_site
from tests.fakes.kubernetes.httpd import serving


@pytest.fixture(scope="session")
def servers() -> Iterator[tuple[str, str]]:
    """Addresses of a model server that answers right, and of one that gives each label for the other one."""
    with serving(answering(True)) as good, serving(answering(False)) as wrong:
        yield good, wrong


@pytest.fixture(params=["Knative", "Standard"])
def scene(
    request: pytest.FixtureRequest, servers: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scene]:
    """A scene in each deployment mode."""
    with set_up(request.param, tmp_path, monkeypatch, *servers) as one:
        yield one


@pytest.fixture
def knative(servers: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A scene in deployment mode Knative."""
    with set_up("Knative", tmp_path, monkeypatch, *servers) as one:
        yield one


@pytest.fixture
def standard(servers: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A scene in deployment mode Standard."""
    with set_up("Standard", tmp_path, monkeypatch, *servers) as one:
        yield one


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Site]:
    """A cluster in which nothing is deployed, for the command line."""
    with deployment_site(tmp_path, monkeypatch, capsys) as one:
        yield one
