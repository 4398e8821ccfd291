"""`deploy_model`, the step: from a release on the volume to an endpoint that was asked, and what it writes down."""

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from kfp import dsl

from nlp_pipeline.components.deploy_model import deploy_model, deploy_release
from nlp_pipeline.components.deploy_model_object import is_unfinished, release_of
from tests.cluster.emulator import Fate
from tests.cluster.httpd import Answer, serving
from tests.components.deploying import HOSTS, NAME, PARAMETERS, Scene
from tests.components.s3_server import S3Server, forget_environment, s3_server
from tests.conftest import make_rows, write_parquet
from tests.serving.conftest import made_release, run_in_local_runner

pytestmark = pytest.mark.slow
Json = dict[str, Any]


@pytest.fixture
def volume(model: Path, tmp_path: Path) -> Path:
    """A volume with the int8 release."""
    release = made_release(model, "int8")
    shutil.copytree(release, tmp_path / "volume" / NAME / "releases" / release.name)
    return tmp_path / "volume"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step looks every two seconds; these clusters are faster."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.02)))


def predictions(folder: Path) -> Path:
    rows = make_rows(20, seed=8)
    return write_parquet(folder / "predictions.parquet", rows, predicted=[label for _, label in rows])


def release_in(volume: Path) -> Path:
    (release,) = (volume / NAME / "releases").iterdir()
    return release


def step(scene: Scene, volume: Path, **changed: Any) -> tuple[Json, Json]:
    """Runs the step, and returns the metadata of its two artifacts."""
    release = release_in(volume)
    scene.cluster.fates.setdefault(release.name, Fate(backend=scene.good))
    endpoint = dsl.Artifact(uri=str(volume.parent / "endpoint"))
    deployment = dsl.Metrics(uri=str(volume.parent / "deployment"))
    parameters = {**PARAMETERS, "volume_path": str(volume), "gateway": scene.cluster.gateway_url, **changed}
    with contextlib.ExitStack() as stack:
        # What is on the volume and in the artifacts is the same, whether it was deployed or not.
        stack.callback(lambda: agrees(volume, endpoint, deployment) if endpoint.metadata else None)
        deploy_model(
            release=dsl.Model(uri=str(volume.parent / "release"), metadata={"digest": release.name}),
            predictions=dsl.Dataset(uri=str(predictions(volume.parent))),
            endpoint=endpoint,
            deployment=deployment,
            **parameters,
        )
    return dict(endpoint.metadata), dict(deployment.metadata)


def agrees(volume: Path, endpoint: dsl.Artifact, deployment: dsl.Metrics) -> None:
    for artifact, name in ((endpoint, "endpoint.json"), (deployment, "deployment.json")):
        assert json.loads(Path(artifact.path).read_text()) == artifact.metadata
        assert json.loads((volume / NAME / "runs" / "run" / name).read_text()) == artifact.metadata


def test_a_release_becomes_an_endpoint(scene: Scene, volume: Path, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint, deployment = step(scene, volume)
    digest = release_in(volume).name
    inside = "tiny" if scene.mode == "Knative" else "tiny-predictor"
    assert endpoint == {
        "outcome": "deployed",
        "name": "tiny",
        "namespace": "team",
        "url": f"http://{HOSTS[scene.mode]}",
        "in_cluster_url": f"http://{inside}.team.svc.cluster.local",
        "revision": "tiny-predictor-00001" if scene.mode == "Knative" else "",
        "release": digest,
        "runtime": "kserve-torchserve",
        "storage_uri": f"pvc://data/tiny/releases/{digest}",
        "deployment_mode": scene.mode,
    }
    assert (deployment["rows"], deployment["agreement"], deployment["accuracy"]) == (6, 1, 1)
    assert deployment["seconds_to_ready"] > 0 and deployment["p50_ms"] > 0
    output = capsys.readouterr().out
    assert f"release {digest}, which KServe reads at pvc://data/tiny/releases/{digest}\n" in output
    assert output.endswith(f"deployed: http://{HOSTS[scene.mode]}\n")
    assert json.loads(scene.live["metadata"]["annotations"]["nlp-pipeline/labels"]) == ["0", "4"]
    again, _ = step(scene, volume)
    assert again == {**endpoint, "outcome": "unchanged"}
    assert capsys.readouterr().out.endswith(f"unchanged: http://{HOSTS[scene.mode]}\n")


def test_a_step_that_fails_says_so_in_one_line(scene: Scene, volume: Path) -> None:
    scene.deploy("b")
    digest = release_in(volume).name
    scene.cluster.fates[digest] = Fate(backend=scene.wrong)
    with pytest.raises(
        RuntimeError, match=r"^rolled back: the served model gives the offline model's label on [^\n]*$"
    ):
        step(scene, volume)
    endpoint = json.loads((volume / NAME / "runs" / "run" / "endpoint.json").read_text())
    assert (endpoint["outcome"], endpoint["release"]) == ("rolled back", "b" * 16)
    assert scene.is_settled("b")


@pytest.mark.parametrize("first_failure", ["stop", "delete"])
def test_a_first_step_that_fails(scene: Scene, volume: Path, first_failure: str) -> None:
    scene.cluster.fates[release_in(volume).name] = Fate(failure="ModelLoadFailed")
    outcome = {"stop": "stopped", "delete": "deleted"}[first_failure]
    with pytest.raises(RuntimeError, match=rf"^{outcome}: the model can't be loaded: [^\n]*$"):
        step(scene, volume, first_failure=first_failure)
    endpoint = json.loads((volume / NAME / "runs" / "run" / "endpoint.json").read_text())
    assert (endpoint["outcome"], endpoint["name"]) == (outcome, "tiny" if first_failure == "stop" else "")
    assert json.loads((volume / NAME / "runs" / "run" / "deployment.json").read_text()) == {}


def test_a_step_that_is_refused_writes_nothing_down(knative: Scene, volume: Path) -> None:
    with pytest.raises(LookupError, match=r"^volume_claim=other: "):
        step(knative, volume, volume_claim="other")
    assert not knative.sent and not list((volume / NAME / "runs").glob("*/*"))


def test_a_release_that_is_not_on_the_volume(knative: Scene, volume: Path) -> None:
    other = volume.parent / "other"
    (other / NAME / "releases" / "0123456789abcdef").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"/0123456789abcdef is no release: "):
        step(knative, other)


def test_in_kfps_local_runner(knative: Scene, volume: Path, tmp_path: Path) -> None:
    """The source as it is compiled, in a process of its own."""
    digest = release_in(volume).name
    knative.cluster.fates[digest] = Fate(backend=knative.good, ready_after=1)

    @dsl.pipeline(name="deploy")
    def pipeline(release_uri: str, predictions_uri: str) -> None:
        imported = dsl.importer(artifact_uri=release_uri, artifact_class=dsl.Model, metadata={"digest": digest})
        deploy_model(
            release=imported.output,
            predictions=dsl.importer(artifact_uri=predictions_uri, artifact_class=dsl.Dataset).output,
            **{**PARAMETERS, "volume_path": str(volume), "gateway": knative.cluster.gateway_url},
        )

    arguments = {"release_uri": str(release_in(volume)), "predictions_uri": str(predictions(tmp_path))}
    run_in_local_runner(pipeline, arguments, tmp_path)
    endpoint = json.loads((volume / NAME / "runs" / "run" / "endpoint.json").read_text())
    assert (endpoint["outcome"], endpoint["url"]) == ("deployed", f"http://{knative.host}")
    assert release_of(knative.live) == digest and not is_unfinished(knative.live)


def test_through_an_object_store(
    knative: Scene, volume: Path, store: S3Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forget_environment(monkeypatch)
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    if not store.client.bucket_exists("models"):
        store.client.make_bucket("models")
    parameters = {"model_store": "s3://models/served", "deployment_mode": "Knative"}
    # Nothing is uploaded for pods that could not read it.
    with pytest.raises(LookupError, match=r"^service_account=nlp-pipeline-serving: "):
        step(knative, volume, **parameters)
    assert not list(store.client.list_objects("models", recursive=True))
    knative.cluster.add({"kind": "ServiceAccount", "metadata": {"name": "nlp-pipeline-serving"}})
    digest = release_in(volume).name
    endpoint, _ = step(knative, volume, **parameters)
    keys = [one.object_name for one in store.client.list_objects("models", recursive=True)]
    assert f"served/tiny/releases/{digest}/release.json" in keys
    assert endpoint["storage_uri"] == f"s3://models/served/tiny/releases/{digest}"
    predictor = knative.live["spec"]["predictor"]
    assert predictor["serviceAccountName"] == "nlp-pipeline-serving"
    assert predictor["model"]["storageUri"] == endpoint["storage_uri"]
    capsys.readouterr()
    sent = len(knative.cluster.sent)
    assert step(knative, volume, **parameters)[0]["outcome"] == "unchanged"
    output = capsys.readouterr()
    assert "is there already: nothing is sent" in output.out and len(knative.cluster.sent) == sent
    # A service account of one's own is asked for instead.
    knative.cluster.add({"kind": "ServiceAccount", "metadata": {"name": "reader"}})
    assert step(knative, volume, **parameters, service_account="reader")[0]["outcome"] == "deployed"
    assert knative.live["spec"]["predictor"]["serviceAccountName"] == "reader"
    told = output.out + output.err + json.dumps(knative.cluster.sent) + json.dumps(endpoint)
    assert store.secret_key not in told and store.access_key not in told


def test_credentials_are_never_told(
    knative: Scene, volume: Path, store: S3Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forget_environment(monkeypatch)
    secrets = {"AWS_ACCESS_KEY_ID": "a-wrong-key-id", "AWS_SECRET_ACCESS_KEY": "a-wrong-secret-key"}
    for name, value in (store.environment | secrets).items():
        monkeypatch.setenv(name, value)
    knative.cluster.add({"kind": "ServiceAccount", "metadata": {"name": "nlp-pipeline-serving"}})
    with pytest.raises(RuntimeError) as caught:
        step(knative, volume, model_store="s3://models")
    output = capsys.readouterr()
    for value in secrets.values():
        assert value not in output.out + output.err + str(caught.value)
    assert not knative.sent and "\n" not in str(caught.value)


@pytest.mark.parametrize(("ids", "outcome"), [(["0", "4"], "deployed"), (["4", "0"], "stopped")])
def test_the_hugging_face_server(scene: Scene, volume: Path, ids: list[str], outcome: str) -> None:
    """It answers with probabilities by class ids; here the real server's answers are told so, rightly or wrongly."""

    def answer(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        found = httpx.post(scene.good + path, content=body, headers={"Content-Type": "application/json"}).json()
        told = [
            {str(ids.index(one["label"])): one["score"], str(1 - ids.index(one["label"])): 1 - one["score"]}
            for one in found["predictions"]
        ]
        return 200, {"Content-Type": "application/json"}, json.dumps({"predictions": told}).encode()

    release = release_in(volume)
    settings = scene.settings(serving_runtime="huggingface")
    with serving(answer) as backend:
        scene.cluster.fates[release.name] = Fate(backend=backend)
        done = deploy_release(str(release), settings, scene.rows)
    assert done["outcome"] == outcome
    assert done["facts"].get("accuracy") == (1 if outcome == "deployed" else None)
    model = scene.live["spec"]["predictor"]["model"]
    assert model["modelFormat"] == {"name": "huggingface"} and model["runtime"] == "kserve-huggingfaceserver"
    assert model["storageUri"] == f"pvc://data/tiny/releases/{release.name}/huggingface"
    # The tiny model's tokenizer lower-cases, as the server does unless it is told not to.
    assert model["args"] == [
        "--model_name=tiny", "--backend=huggingface", "--task=sequence_classification", "--return_probabilities",
        "--max_length=32",
    ]  # fmt: skip
