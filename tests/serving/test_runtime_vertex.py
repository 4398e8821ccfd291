"""The TorchServe image as a prediction container of Vertex AI: its variables, its requests, its service account."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from nlp_pipeline.serving.runtime import PORTS
from nlp_pipeline.serving.torchserve import free_ports
from tests.serving import containers
from tests.serving.cloud_storage import TOKEN, CloudStorage
from tests.serving.conftest import changed_release

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
    ports = free_ports(len(PORTS))
    metadata = cloud.metadata.url.removeprefix("http://")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GOOGLE_", "STORAGE_", "HOME"))}
    return {
        **kept,
        **{name: str(port) for name, port in zip(PORTS, ports, strict=True) if name != "PORT_INFERENCE"},
        "AIP_MODE": "PREDICTION",
        "AIP_HTTP_PORT": str(ports[0]),
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
        with containers.container([], environment, tmp_path / "log") as process:
            until = time.monotonic() + 60
            while (told := containers.probe("tiny", environment)).returncode != 0:
                assert process.poll() is None and time.monotonic() < until, (tmp_path / "log").read_text()
                assert told.stderr.startswith("model 'tiny' is not loaded: ")
                time.sleep(0.2)
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
            containers.end(process)
    assert {one.headers["authorization"] for one in cloud.asked} == {f"Bearer {TOKEN}"}
    assert not [one for one in cloud.asked if "huggingface" in one.target]
    assert TOKEN not in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_a_model_that_can_not_be_loaded_is_never_ready(cloud: CloudStorage, release: Path, tmp_path: Path) -> None:
    def broken(source: bytes) -> bytes:
        return source.replace(
            b"        folder = Path(", b"        raise RuntimeError('too little memory')\n        folder = Path(", 1
        )

    cloud.upload(changed_release(release, tmp_path / "broken", {"handler.py": broken}), URI.removeprefix("gs://"))
    with tempfile.TemporaryDirectory(prefix="nlp-") as temporary:
        environment = variables(cloud, temporary)
        with containers.container([], environment, tmp_path / "log") as process:
            until = time.monotonic() + 60
            while (tmp_path / "log").read_text().count("Backend worker process died") < 2:
                assert process.poll() is None and time.monotonic() < until, (tmp_path / "log").read_text()
                assert containers.probe("tiny", environment).returncode == 1
            address = f"http://127.0.0.1:{environment['AIP_HTTP_PORT']}{environment['AIP_HEALTH_ROUTE']}"
            assert httpx.get(address, trust_env=False).status_code == 200, "where /ping tells it, no probe is needed"
            containers.end(process)


@pytest.mark.parametrize(
    ("changed", "told"),
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
    changed: dict[str, str], told: str, cloud: CloudStorage, release: Path, tmp_path: Path
) -> None:
    cloud.upload(release, "managed-by-vertex/tiny")
    environment = {**variables(cloud, str(tmp_path)), **changed}
    done = subprocess.run(containers.COMMAND, env=environment, cwd="/", capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    # Google's client may warn before that.
    assert done.stderr.splitlines()[-1].startswith(f"error: {told}") and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
