"""An empty home and working folder, an environment that says nothing, no waiting; and Kubeflows to speak to."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nlp_pipeline import storage
from nlp_pipeline.platforms import waiting
from nlp_pipeline.settings import settings
from tests.fakes.kfp import Kubeflow, kubeflow
from tests.fakes.tls import Authority
from tests.kubeflow.users import team

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
SAID = ("NLP_PIPELINE_", "KF_PIPELINES_", *PROXIES, "AWS_", "KUBERNETES_")


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is around the tests says nothing to them, and they leave nothing there."""
    for name in list(os.environ):
        if name.upper().startswith(SAID):
            monkeypatch.delenv(name)
    for name in ("home", "work", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    monkeypatch.chdir(tmp_path / "work")
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again is tried again at once."""
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.005)


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def k() -> Iterator[Kubeflow]:
    """A Kubeflow of several users behind oauth2-proxy, in which Ann has the namespace "team"."""
    with team() as k:
        yield k


@pytest.fixture
def alone() -> Iterator[Kubeflow]:
    """KFP on its own: a single user, no sign-in."""
    with kubeflow() as k:
        yield k


@pytest.fixture(params=["several users", "one user"])
def either(request: pytest.FixtureRequest) -> Iterator[Kubeflow]:
    """Each of both."""
    with team() if request.param == "several users" else kubeflow() as k:
        yield k
