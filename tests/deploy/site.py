"""Where deployments from the command line are tested: an emulated cluster, releases, and what answers for them."""

import contextlib
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.cli import main
from nlp_pipeline.release import verify
from nlp_pipeline.settings import settings
from tests.conftest import write_parquet
from tests.deploy.scene import make_release, predict
from tests.fakes.kubernetes.emulator import Cluster, Fate, Mode, emulated_cluster
from tests.fakes.s3 import forget_environment

Json = dict[str, Any]


@dataclass
class Result:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Json:
        """What is on stdout, which must be one JSON document."""
        document: Json = json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        return document

    @property
    def error(self) -> str:
        """The line that ends stderr, which must tell an error."""
        line = self.err.splitlines()[-1]
        assert line.startswith("error: ") and "Traceback" not in self.err, self.err
        return line.removeprefix("error: ")


@dataclass
class Site:
    """A cluster whose kubeconfig is in use, and a volume with releases; `capsys` takes what commands print."""

    cluster: Cluster
    capsys: pytest.CaptureFixture[str]
    volume: Path

    def __call__(self, line: str) -> Result:
        self.capsys.readouterr()
        code = main(shlex.split(line))
        printed = self.capsys.readouterr()
        return Result(code, printed.out, printed.err)

    @property
    def gateway(self) -> str:
        return f"--set gateway={self.cluster.gateway_url}"

    def deploy(self, release: Path | str, line: str = "") -> Result:
        """Deploys a release, through the gateway, from the claim that holds the volume."""
        place = "" if "://" in str(release) or "model_store" in line else "--set volume_claim=models"
        return self(f"--deploy --release {release} {place} {self.gateway} {line}")

    def rollback(self, line: str = "") -> Result:
        return self(f"--rollback --set model_name=tiny {self.gateway} {line}")

    def undeploy(self, line: str = "") -> Result:
        return self(f"--undeploy --set model_name=tiny {line}")

    def predict(self, line: str) -> Result:
        return self(f"--set model_name=tiny {self.gateway} --deployed --predict {line}")

    def release(self, content: str, fate: Fate | None = None) -> Path:
        """Makes a release of the model `tiny`, and says what becomes of its pods."""
        folder = make_release(self.volume / "tiny" / "releases" / "new", content)
        digest = verify(folder).digest
        if fate is not None:
            self.cluster.fates[digest] = fate
        return folder.rename(folder.with_name(digest))

    def rows(self, path: Path, predicted: list[str] | None = None) -> Path:
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


@contextlib.contextmanager
def deployment_site(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mode: Mode = "Knative"
) -> Iterator[Site]:
    """Starts a cluster whose pods all answer, with the folder as the working folder, and ends it."""
    forget_environment(monkeypatch)
    for name in ("HOST", "TOKEN", "COOKIE"):
        monkeypatch.delenv(f"NLP_PIPELINE_ENDPOINT_{name}", raising=False)
    monkeypatch.chdir(folder)
    settings.cache_clear()
    with emulated_cluster(mode) as cluster:
        cluster.default_fate.backend = predict
        cluster.add({"kind": "PersistentVolumeClaim", "metadata": {"name": "models"}})
        cluster.add({"kind": "ServiceAccount", "metadata": {"name": "nlp-pipeline-serving"}})
        cluster.write_kubeconfig(folder / "kubeconfig", cluster.namespace)
        monkeypatch.setenv("KUBECONFIG", str(folder / "kubeconfig"))
        yield Site(cluster, capsys, folder / "volume")
    settings.cache_clear()
