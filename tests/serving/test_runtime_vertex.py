"""The TorchServe image as a prediction container of Vertex AI: its variables, its requests, its service account."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.cloud_storage import TOKEN, CloudStorage
from tests.serving.conftest import changed_release
from tests.serving.containers import chosen_ports, container, failure

URI = "gs://managed-by-vertex/models/1234/artifacts"


@pytest.fixture
def cloud() -> Iterator[CloudStorage]:
    """A Cloud Storage that the service account alone may read, and the metadata server that knows the account."""
    cloud = CloudStorage(signed_in=True)
    hosts = [cloud.host, cloud.metadata]
    for host in hosts:
        host.start()
    yield cloud
    for host in hosts:
        host.stop()
        assert not host.broken


def variables(cloud: CloudStorage, temporary: str) -> dict[str, str]:
    """Returns the environment as Vertex AI sets it, with the addresses of the stand-ins."""
    ports = chosen_ports()
    metadata = cloud.metadata.url.removeprefix("http://")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GOOGLE_", "STORAGE_", "HOME"))}
    return {
        **kept,
        **ports,
        "AIP_MODE": "PREDICTION",
        "AIP_HTTP_PORT": ports.pop("PORT_INFERENCE"),
        "AIP_HEALTH_ROUTE": "/ping",
        "AIP_PREDICT_ROUTE": "/v1/models/tiny:predict",
        "AIP_STORAGE_URI": URI,
        "TMPDIR": temporary,
        "HOME": temporary,
        "NO_PROXY": "*",
        "API_ENDPOINT_OVERRIDE": cloud.host.url,  # of Google's client; the emulator's variable would leave sign-in out
        "GCE_METADATA_HOST": metadata,
        "GCE_METADATA_IP": metadata,
    }


@pytest.mark.slow
def test_it_fetches_its_release_serves_and_ends(cloud: CloudStorage, release: Path, tmp_path: Path) -> None:
    cloud.upload(release, URI.removeprefix("gs://"))
    with tempfile.TemporaryDirectory(prefix="nlp-") as temporary:
        environment = variables(cloud, temporary)
        address = f"http://127.0.0.1:{environment['AIP_HTTP_PORT']}"
        with container([], environment, tmp_path / "log") as pod:
            for _ in pod.polls():
                probed = pod.probe()
                if probed.returncode == 0:
                    break
                assert probed.stderr.startswith("model 'tiny' is not loaded: ")
            with httpx.Client(base_url=address, trust_env=False, timeout=60) as client:
                assert client.get(environment["AIP_HEALTH_ROUTE"]).status_code == 200
                asked: dict[str, Any] = {"instances": ["superb", {"text": "awful"}], "parameters": {"any": 1}}
                answer = client.post(environment["AIP_PREDICT_ROUTE"], json=asked)
                assert answer.status_code == 200
                assert answer.json().keys() == {"predictions"}
                assert [one["label"] for one in answer.json()["predictions"]] == ["4", "0"]
                # The largest request that a shared endpoint lets through.
                asked = {"instances": ["superb " * 2000] * 105}
                assert 1_450_000 < len(json.dumps(asked)) < 1_500_000
                answer = client.post(environment["AIP_PREDICT_ROUTE"], json=asked)
                assert [one["label"] for one in answer.json()["predictions"]] == ["4"] * 105
            pod.end()
    assert {one.headers["authorization"] for one in cloud.asked} == {f"Bearer {TOKEN}"}
    assert not [one for one in cloud.asked if "huggingface" in one.target]
    assert TOKEN not in pod.log


@pytest.mark.slow
def test_a_model_that_can_not_be_loaded_is_never_ready(cloud: CloudStorage, release: Path, tmp_path: Path) -> None:
    def broken(source: bytes) -> bytes:
        return source.replace(
            b"        folder = Path(", b"        raise RuntimeError('too little memory')\n        folder = Path(", 1
        )

    cloud.upload(changed_release(release, tmp_path / "broken", {"handler.py": broken}), URI.removeprefix("gs://"))
    with tempfile.TemporaryDirectory(prefix="nlp-") as temporary:
        environment = variables(cloud, temporary)
        with container([], environment, tmp_path / "log") as pod:
            for _ in pod.polls():
                if pod.log.count("Backend worker process died") > 1:
                    break
                assert pod.probe().returncode == 1
            address = f"http://127.0.0.1:{environment['AIP_HTTP_PORT']}{environment['AIP_HEALTH_ROUTE']}"
            assert httpx.get(address, trust_env=False).status_code == 200, "where /ping tells it, no probe is needed"
            pod.end()


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({}, f"{URI}/release.json is not there: "),
        ({"PORT_METRICS": "x"}, "PORT_METRICS is 'x': it must be the number of a port"),
        (
            {
                "AIP_STORAGE_URI": "gs://managed-by-vertex/tiny",
                "AIP_PREDICT_ROUTE": "/v1/endpoints/1/deployedModels/2:predict",
            },
            "AIP_PREDICT_ROUTE is '/v1/endpoints/1/deployedModels/2:predict': "
            "the Model's predictRoute must be /v1/models/tiny:predict",
        ),
        (
            {"AIP_STORAGE_URI": "gs://-/x"},
            "gs://- can't be read: Bucket names must start and end with a number or letter",
        ),
        ({"AIP_STORAGE_URI": "gs:managed"}, "AIP_STORAGE_URI is 'gs:managed': it must be a release's folder, as in "),
        ({"NO_GCE_CHECK": "true"}, "gs://managed-by-vertex can't be read: Your default credentials were not found"),
    ],
)
def test_what_it_can_not_do_is_one_line(
    changed: dict[str, str], problem: str, cloud: CloudStorage, release: Path, tmp_path: Path
) -> None:
    cloud.upload(release, "managed-by-vertex/tiny")
    environment = {**variables(cloud, str(tmp_path)), **changed}
    # Google's client may warn before that.
    assert failure([], environment).startswith(f"error: {problem}")
    assert not list(tmp_path.iterdir())
