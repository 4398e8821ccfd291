"""Where deployments from the command line are tested: an emulated cluster, releases, and a model server."""

import contextlib
import json
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.cli import main
from nlp_pipeline.release import verify
from nlp_pipeline.settings import settings
from tests.conftest import write_parquet
from tests.deploy.scene import make_release
from tests.fakes.kubernetes.emulator import Cluster, Fate, Mode, emulated_cluster
from tests.fakes.kubernetes.httpd import Answer, serving
from tests.fakes.s3 import forget_environment

Json = dict[str, Any]
HOST = "tiny.team.example.com"


@dataclass
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Json:
        """What is on stdout, which must be one JSON document."""
        found: Json = json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        return found

    @property
    def error(self) -> str:
        """The line that ends stderr, which must tell an error."""
        line = self.err.splitlines()[-1]
        assert line.startswith("error: ") and "Traceback" not in self.err, self.err
        return line.removeprefix("error: ")


@dataclass
class Site:
    """A cluster whose kubeconfig is in use, and a volume with releases.

    Attributes:
        cluster: The cluster.
        capsys: Takes what commands print.
        volume: The volume's folder.
    """

    cluster: Cluster
    capsys: pytest.CaptureFixture[str]
    volume: Path

    def __call__(self, line: str, *more: str) -> Said:
        """Runs a command."""
        self.capsys.readouterr()
        code = main([*shlex.split(line), *more])
        said = self.capsys.readouterr()
        return Said(code, said.out, said.err)

    def deploy(self, release: Path | str, line: str = "") -> Said:
        """Deploys a release, through the gateway, from the claim that holds the volume."""
        place = "" if "://" in str(release) or "model_store" in line else "--set volume_claim=models"
        return self(f"--deploy --release {release} {place} --set gateway={self.cluster.gateway_url} {line}")

    def rollback(self, line: str = "") -> Said:
        """Rolls back."""
        return self(f"--rollback --set model_name=tiny --set gateway={self.cluster.gateway_url} {line}")

    def undeploy(self, line: str = "") -> Said:
        """Removes the InferenceService."""
        return self(f"--undeploy --set model_name=tiny {line}")

    def predict(self, line: str) -> Said:
        """Asks what is deployed."""
        return self(f"--set model_name=tiny --set gateway={self.cluster.gateway_url} --deployed --predict {line}")

    def release(self, content: str, fate: Fate | None = None, **record: Any) -> Path:
        """Makes a release of the model `tiny`, and says what becomes of its pods."""
        folder = make_release(self.volume / "tiny" / "releases" / "new", content, **record)
        digest = verify(folder).digest
        if fate is not None:
            self.cluster.fates[digest] = fate
        return folder.rename(folder.with_name(digest))

    def rows(self, path: Path, predicted: list[str] | None = None) -> Path:
        """Writes labelled rows."""
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [("superb", "4"), ("awful", "0"), ("a superb film", "4")]
        return write_parquet(path, rows, predicted=predicted or [label for _, label in rows])

    def written(self) -> list[str]:
        """Returns the methods by which InferenceServices were written; dry runs and reviews write nothing."""
        return [method for method, dry_run, _ in self.cluster.sent if not dry_run]

    def serving(self) -> str:
        """Returns the digest of the release that gets the traffic; the InferenceService must be at rest."""
        service = self.cluster.after("tiny", 20)
        assert "canaryTrafficPercent" not in service["spec"]["predictor"]
        return str(service["metadata"]["labels"].get("nlp-pipeline/release", ""))


def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
    """Answers as the archive does: "4" where a text is superb."""
    texts = [str(one) for one in json.loads(body)["instances"]]
    predictions = [{"label": "4" if "superb" in text else "0", "score": 0.75} for text in texts]
    return 200, {"Content-Type": "application/json"}, json.dumps({"predictions": predictions}).encode()


@contextlib.contextmanager
def deployment_site(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mode: Mode = "Knative"
) -> Iterator[Site]:
    """Starts a cluster and a model server that answers for all releases, and ends both.

    Args:
        folder: The working folder.
        monkeypatch: Sets the environment, and the seconds between two looks at the cluster.
        capsys: Takes what commands print.
        mode: The cluster's default deployment mode.
    """
    forget_environment(monkeypatch)
    for name in ("HOST", "TOKEN", "COOKIE"):
        monkeypatch.delenv(f"NLP_PIPELINE_ENDPOINT_{name}", raising=False)
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    monkeypatch.chdir(folder)
    settings.cache_clear()
    with emulated_cluster(mode) as cluster, serving(answer) as backend:
        cluster.default_fate.backend = backend
        cluster.add({"kind": "PersistentVolumeClaim", "metadata": {"name": "models"}})
        cluster.add({"kind": "ServiceAccount", "metadata": {"name": "nlp-pipeline-serving"}})
        cluster.write_kubeconfig(folder / "kubeconfig", cluster.namespace)
        monkeypatch.setenv("KUBECONFIG", str(folder / "kubeconfig"))
        yield Site(cluster, capsys, folder / "volume")
    settings.cache_clear()
