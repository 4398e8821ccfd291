"""A stand-in for Google Cloud that the environment leads to, and nothing else that says something."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nlp_pipeline import storage
from nlp_pipeline.cli import main
from nlp_pipeline.platforms import waiting
from nlp_pipeline.settings import settings
from tests.fakes.vertex.cloud import BUCKET, PROJECT, Cloud, google_cloud

SAID = (
    *("NLP_PIPELINE_", "KF_PIPELINES_", "GOOGLE_", "CLOUDSDK_", "GCLOUD_", "CLOUD_ML_", "GCE_"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "STORAGE_EMULATOR"),
)
# What a run can't do without.
TRAIN = ("--set", "train_data=gs://films/reviews.csv", "--set", "serving_image=registry.example.com/torchserve:1")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is around the tests says nothing to them; what is waited for comes at once."""
    for name in list(os.environ):
        if name.upper().startswith(SAID):
            monkeypatch.delenv(name)
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    # No host of Google's own is asked for anything: the library does so in the background for service accounts.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    # It also asks the machine's own network whether this is one of Google's machines.
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setattr("google.auth.compute_engine._metadata._NO_GCE_CHECK", True)
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.001)
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """A project of Google Cloud's, with a service account's key."""
    with google_cloud() as cloud:
        cloud.identity.write_key(tmp_path / "key.json", cloud.url)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
        for name in ("NLP_PIPELINE_VERTEX_ENDPOINT", "VERTEX_ENDPOINT"):  # of the command line, and of steps
            monkeypatch.setenv(name, cloud.url)
        monkeypatch.setenv("NLP_PIPELINE_PLATFORM", "vertex")
        monkeypatch.setenv("NLP_PIPELINE_PROJECT", PROJECT)
        monkeypatch.setenv("NLP_PIPELINE_BUCKET", f"gs://{BUCKET}/runs")
        yield cloud


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line; returns the exit code, stdout and stderr, whoever wrote there."""

    def run(*argv: str) -> tuple[int, str, str]:
        code = main(argv)
        said = capfd.readouterr()
        return code, said.out, said.err

    return run
