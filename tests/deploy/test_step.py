"""The step `deploy_model`: from a release on the volume to an endpoint that was asked, and what it writes down."""

import json
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from nlp_pipeline.errors import PipelineError, RolledBackError, UsageError
from nlp_pipeline.pipeline.components import deploy_model
from nlp_pipeline.pipeline.parameters import with_defaults
from nlp_pipeline.processes import environment
from nlp_pipeline.volume import VARIABLE
from tests.conftest import write_parquet
from tests.deploy.scene import HOSTS, NAME, ROWS, Scene, predict, predict_wrongly
from tests.fakes.httpd import Request, Response
from tests.fakes.kubernetes.emulator import Fate
from tests.steps.programs import run_step

Json = dict[str, Any]


def digest_in(volume: Path) -> str:
    (release,) = (volume / NAME / "releases").iterdir()
    return release.name


def parameters(scene: Scene, **changed: Any) -> Json:
    """Returns the component's parameters."""
    own = {"run_id": "run", "model_name": NAME, "volume_claim": "data", "endpoint_rows": 6}
    known = {**with_defaults(own), "gateway": scene.cluster.gateway_url, "deploy_timeout": 30, **changed}
    return {name: known[name] for name in deploy_model.component_spec.inputs if name in known}


def predictions(volume: Path) -> Path:
    rows = list(zip(ROWS["text"], ROWS["label"], strict=True))
    return write_parquet(volume.parent / "predictions.parquet", rows, predicted=ROWS["predicted"])


def run(scene: Scene, volume: Path, **changed: Any) -> tuple[dsl.Artifact, dsl.Metrics]:
    """Runs the step, and returns its two artifacts."""
    scene.cluster.fates.setdefault(digest_in(volume), Fate(backend=predict))
    endpoint = dsl.Artifact(uri=str(volume.parent / "endpoint"))
    deployment = dsl.Metrics(uri=str(volume.parent / "deployment"))
    with environment(**{VARIABLE: str(volume)}):
        deploy_model.python_func(
            release=dsl.Model(uri=str(volume.parent / "release"), metadata={"digest": digest_in(volume)}),
            predictions=dsl.Dataset(uri=str(predictions(volume))),
            endpoint=endpoint,
            deployment=deployment,
            **parameters(scene, **changed),
        )
    return endpoint, deployment


def step(scene: Scene, volume: Path, **changed: Any) -> tuple[Json, Json]:
    """Runs the step, and returns the metadata of its two artifacts, which it has written down too."""
    endpoint, deployment = run(scene, volume, **changed)
    assert json.loads(Path(deployment.path).read_text()) == deployment.metadata
    assert written(volume) == endpoint.metadata
    return dict(endpoint.metadata), dict(deployment.metadata)


def written(volume: Path) -> Json:
    """Returns what the run has written of the endpoint."""
    found: Json = json.loads((volume / NAME / "runs" / "run" / "endpoint.json").read_text())
    return found


def test_a_release_becomes_an_endpoint(scene: Scene, volume: Path, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint, deployment = step(scene, volume)
    digest = digest_in(volume)
    assert endpoint == {
        "outcome": "deployed",
        "name": "tiny",
        "namespace": "team",
        "url": f"http://{HOSTS[scene.mode]}",
        "in_cluster_url": f"http://tiny{'' if scene.mode == 'Knative' else '-predictor'}.team.svc.cluster.local",
        "revision": "tiny-predictor-00001" if scene.mode == "Knative" else "",
        "release": digest,
        "runtime": "kserve-torchserve",
        "storage_uri": f"pvc://data/tiny/releases/{digest}",
        "deployment_mode": scene.mode,
    }
    assert (deployment["rows"], deployment["agreement"], deployment["accuracy"]) == (6, 1, 1)
    assert deployment["seconds_to_ready"] > 0 and deployment["p50_ms"] > 0
    output = capsys.readouterr().out
    assert f"release {digest} at pvc://data/tiny/releases/{digest}\n" in output
    assert output.endswith(f"deployed: http://{HOSTS[scene.mode]}\n")
    assert step(scene, volume)[0] == {**endpoint, "outcome": "unchanged"}


def test_it_is_compared_with_what_the_archive_answered(knative: Scene, volume: Path) -> None:
    """The same bytes answer the same; where the offline model says otherwise, validation has accepted that."""
    served = volume / NAME / "runs" / "run" / "served.parquet"
    served.parent.mkdir(parents=True)
    rows = list(zip(ROWS["text"], ROWS["label"], strict=True))
    write_parquet(served, rows, predicted=["4"] * 6)
    with pytest.raises(PipelineError, match=r"^stopped: 3 of 6 answers differ"):
        step(knative, volume)
    write_parquet(served, rows, predicted=[*ROWS["predicted"][:5], "4"])
    assert step(knative, volume)[1]["agreement"] == pytest.approx(5 / 6)  # a single row can't fail it


def test_a_step_that_fails_says_so_in_one_line(knative: Scene, volume: Path) -> None:
    knative.deploy("b")
    knative.cluster.fates[digest_in(volume)] = Fate(backend=predict_wrongly)
    with pytest.raises(RolledBackError, match=r"^rolled back: 6 of 6 answers differ [^\n]*$"):
        step(knative, volume)
    assert (written(volume)["outcome"], written(volume)["release"]) == ("rolled back", "b" * 16)
    assert knative.is_settled("b")


def test_a_step_that_is_refused_writes_nothing_down(knative: Scene, volume: Path) -> None:
    with pytest.raises(UsageError, match=r"^volume_claim=other: "):
        step(knative, volume, volume_claim="other")
    assert not knative.sent and [path.name for path in (volume / NAME / "runs").glob("*/*")] == ["step.json"]
    (volume / NAME / "releases" / digest_in(volume) / "model-store" / "tiny.mar").write_text("junk")
    with pytest.raises(UsageError, match=r" is spoilt: model-store/tiny\.mar is missing, altered or"):
        step(knative, volume)


@pytest.mark.slow
def test_in_a_pod(knative: Scene, volume: Path, tmp_path: Path) -> None:
    digest = digest_in(volume)
    knative.cluster.fates[digest] = Fate(backend=predict, ready_after=1)
    inputs: dict[str, tuple[Path, Json]] = {
        "release": (volume, {"digest": digest}),
        "predictions": (predictions(volume), {}),
    }
    with environment(**{VARIABLE: str(volume)}):
        log, _ = run_step("deploy_model", tmp_path, parameters(knative), inputs, ["endpoint", "deployment"])
    assert "Traceback" not in log
    assert (written(volume)["outcome"], written(volume)["url"]) == ("deployed", f"http://{knative.host}")
    assert knative.service.release == digest and not knative.service.is_unfinished


@pytest.mark.parametrize(("ids", "outcome"), [(["0", "4"], "deployed"), (["4", "0"], "stopped")])
def test_the_hugging_face_server(knative: Scene, volume: Path, ids: list[str], outcome: str) -> None:
    """It answers with probabilities by class ids, here rightly or wrongly."""

    def predict_ids(request: Request) -> Response:
        ranks = [ids.index("4" if "superb" in text else "0") for text in json.loads(request.body)["instances"]]
        return Response(200, json.dumps({"predictions": [{str(rank): 0.75, str(1 - rank): 0.25} for rank in ranks]}))

    knative.cluster.fates[digest_in(volume)] = Fate(backend=predict_ids)
    if outcome == "stopped":
        with pytest.raises(PipelineError, match=r"^stopped: 6 of 6 answers differ"):
            step(knative, volume, serving_runtime="huggingface")
    else:
        assert step(knative, volume, serving_runtime="huggingface")[1]["accuracy"] == 1
    model = knative.live["spec"]["predictor"]["model"]
    assert model["modelFormat"] == {"name": "huggingface"} and model["runtime"] == "kserve-huggingfaceserver"
    assert model["storageUri"] == f"pvc://data/tiny/releases/{digest_in(volume)}/huggingface"
    assert model["args"][0] == "--model_name=tiny" and model["args"][-1] == "--max_length=32"
