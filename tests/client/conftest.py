"""An empty home and working folder, an environment that says nothing, no waiting; and Kubeflows to speak to."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nlp_pipeline.client import connection, sign_in
from nlp_pipeline.settings import settings
from tests.kubeflow.conftest import ca as ca

SAID = ("NLP_PIPELINE_", "KF_PIPELINES_", "SSL_CERT_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is around the tests says nothing to them, and they leave nothing there."""
    for name in list(os.environ):
        if name.upper().startswith(SAID):
            monkeypatch.delenv(name)
    for name in ("home", "work", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again is tried again at once."""
    monkeypatch.setattr(connection, "WAITS", (0.01, 0.01, 0.01, 0.01, None))
    monkeypatch.setattr(sign_in, "WAITS", (0.01, 0.01, None))
