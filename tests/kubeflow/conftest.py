"""Kubeflows, and the real clients of them."""

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kubeflow.emulator import Kubeflow, kubeflow
from tests.kubeflow.tls import Authority

PIPELINE = str(Path(__file__).parents[2] / "compiled" / "nlp_pipeline.yaml")
PARAMETERS = {"train_data": "/mnt/nlp-pipeline/reviews.csv"}
Connect = Callable[..., Any]


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A private certificate authority."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def k() -> Iterator[Kubeflow]:
    """KFP on its own: a single user, no sign-in."""
    with kubeflow() as one:
        yield one
        assert not one.refused


@pytest.fixture
def team() -> Iterator[Kubeflow]:
    """A Kubeflow of several users, behind nothing: Ann of "team" and Bob of "other" have tokens."""
    with kubeflow(tokens={"ann": "team", "bob": "other"}) as one:
        yield one
        assert not one.refused


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Connect:
    """Makes the real `kfp.Client` of a Kubeflow, which must not see or change the user's own settings."""
    import kfp
    from kfp.client import client

    monkeypatch.setattr(client.Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "kfp" / "context.json"))
    for name in ("KF_PIPELINES_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT", "KF_PIPELINES_IAP_OAUTH2_CLIENT_ID"):
        monkeypatch.delenv(name, raising=False)

    def make(kubeflow: Kubeflow, **options: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return kfp.Client(host=kubeflow.api_url, **options)

    return make


@pytest.fixture
def client(k: Kubeflow, connect: Connect) -> Any:
    """The real client of `k`."""
    return connect(k)


def refusal(function: Callable[..., Any], *values: Any, **named: Any) -> tuple[int, str]:
    """Returns status and message with which a call of the client is refused."""
    error = raised(function, *values, **named)
    told = json.loads(error.body)
    return error.status, told["details"][0]["message"] if "details" in told else told["error_message"]


def raised(function: Callable[..., Any], *values: Any, **named: Any) -> Any:
    """Returns the `ApiException` that a call of the client raises."""
    from kfp_server_api import ApiException  # type: ignore[import-untyped]

    with pytest.raises(ApiException) as caught:
        function(*values, **named)
    return caught.value


def uploaded(client: Any, name: str = "nlp-pipeline", **options: Any) -> tuple[str, str]:
    """Uploads the project's own pipeline, and returns the ids of it and of its version."""
    pipeline = client.upload_pipeline(PIPELINE, pipeline_name=name, **options)
    versions = client.list_pipeline_versions(pipeline.pipeline_id).pipeline_versions
    return pipeline.pipeline_id, versions[0].pipeline_version_id


def run_of(client: Any, experiment: str = "experiment", **options: Any) -> Any:
    """Uploads the pipeline and runs it."""
    pipeline, version = uploaded(client)
    made = client.create_experiment(experiment)
    given = {"params": PARAMETERS, "pipeline_id": pipeline, "version_id": version, **options}
    return client.run_pipeline(made.experiment_id, "a run", **given)
