"""A cluster, and what the tests of it send there."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.kubernetes.emulator import Cluster, emulated_cluster
from tests.fakes.kubernetes.httpd import Answer, serving

Json = dict[str, Any]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster whose default is Knative."""
    with emulated_cluster("Knative") as one:
        yield one


@pytest.fixture
def standard() -> Iterator[Cluster]:
    """A cluster whose default is Standard."""
    with emulated_cluster("Standard") as one:
        yield one


@pytest.fixture
def client(cluster: Cluster, tmp_path: Path) -> Any:
    """The real `KServeClient`, of the Knative cluster."""
    return client_of(cluster, tmp_path)


def client_of(cluster: Cluster, folder: Path) -> Any:
    """Returns the real `KServeClient` of a cluster."""
    from kserve import KServeClient

    cluster.write_kubeconfig(folder / "kubeconfig", cluster.namespace)
    return KServeClient(config_file=str(folder / "kubeconfig"))


@pytest.fixture
def backend() -> Iterator[Callable[[str], str]]:
    """Starts servers that say who they are, and tell what they were asked."""
    with contextlib.ExitStack() as stack:

        def start(name: str) -> str:
            def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
                asked = {"server": name, "method": method, "path": path, "body": body.decode(), "headers": headers}
                return 418 if path == "/teapot" else 200, {"X-Server": name}, json.dumps(asked).encode()

            return stack.enter_context(serving(answer))

        yield start


def inference_service(release: str = "a", annotations: Json | None = None, **predictor: Any) -> Json:
    """Returns an InferenceService named reviews of a release; what else is given goes into its predictor."""
    model = {"modelFormat": {"name": "pytorch"}, "runtime": "kserve-torchserve", "storageUri": "pvc://data/reviews"}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": "reviews",
            "namespace": "team",
            "labels": {"nlp-pipeline/release": release},
            "annotations": {"serving.kserve.io/enable-tag-routing": "true", **(annotations or {})},
        },
        "spec": {"predictor": {"model": model, **predictor}},
    }
