"""Time that passes at once, and the scenes in which releases are deployed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nlp_pipeline.release import verify
from tests.deploy.scene import NAME, Clock, Scene, make_release, set_up
from tests.deploy.site import Site, deployment_site
from tests.fakes.s3 import S3Server, s3_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An object store."""
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What is waited is over at once, in this process."""
    return Clock(monkeypatch)


@pytest.fixture(params=["Knative", "Standard"])
def scene(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> Iterator[Scene]:
    """A scene in each deployment mode."""
    with set_up(request.param, tmp_path, monkeypatch, clock) as made:
        yield made


@pytest.fixture
def knative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[Scene]:
    """A scene in deployment mode Knative."""
    with set_up("Knative", tmp_path, monkeypatch, clock) as made:
        yield made


@pytest.fixture
def dark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[Scene]:
    """A scene in deployment mode Standard with KServe 0.20; that of `scene` is older."""
    with set_up("Standard", tmp_path, monkeypatch, clock) as made:
        made.cluster.has_canary = True
        yield made


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A volume with a release."""
    folder = make_release(tmp_path / "volume" / NAME / "releases" / "new")
    folder.rename(folder.with_name(verify(folder).digest))
    return tmp_path / "volume"


@pytest.fixture
def site(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Site]:
    """A cluster in which nothing is deployed, for the command line; on Knative where a test does not ask otherwise."""
    with deployment_site(tmp_path, monkeypatch, capsys, getattr(request, "param", "Knative")) as made:
        yield made
