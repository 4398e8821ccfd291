"""Releases of the tiny model that real TorchServes serve, and scenes in which they are deployed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.serving.local_server import served
from tests.components.deploying import Scene, set_up, swap_labels
from tests.conftest import make_rows
from tests.serving.conftest import changed_release, made_release


@pytest.fixture(scope="session")
def good_server(model: Path) -> Iterator[str]:
    """Address of a TorchServe that serves the int8 release."""
    with served(made_release(model, "int8")) as (address, _):
        yield address.partition("/v1/")[0]


@pytest.fixture(scope="session")
def wrong_server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a TorchServe that gives each label for the other one."""
    folder = tmp_path_factory.mktemp("wrong") / "release"
    with served(changed_release(made_release(model, "int8"), folder, {"serving.json": swap_labels})) as (address, _):
        yield address.partition("/v1/")[0]


@pytest.fixture
def parts(good_server: str, wrong_server: str) -> dict[str, Any]:
    """What a scene is made of besides its cluster."""
    rows = make_rows(6, seed=5)
    labels = [label for _, label in rows]
    asked = {"text": [text for text, _ in rows], "label": labels, "predicted": labels}
    return {"good": good_server, "wrong": wrong_server, "rows": asked}


@pytest.fixture(params=["Knative", "Standard"])
def scene(
    request: pytest.FixtureRequest, parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scene]:
    """A scene in each deployment mode."""
    with set_up(request.param, tmp_path, monkeypatch, **parts) as one:
        yield one


@pytest.fixture
def knative(parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A scene in deployment mode Knative."""
    with set_up("Knative", tmp_path, monkeypatch, **parts) as one:
        yield one


@pytest.fixture
def standard(parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A scene in deployment mode Standard."""
    with set_up("Standard", tmp_path, monkeypatch, **parts) as one:
        yield one
