"""The object that is sent: what it holds, what is kept of the live one, and how the same is known again."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.deploy.deployment import server_args, service_for
from nlp_pipeline.deploy.inference_service import InferenceService, make, successor
from nlp_pipeline.deploy.settings import DeploySettings, Target
from nlp_pipeline.errors import UsageError
from nlp_pipeline.release import Release
from nlp_pipeline.volume import Run
from tests.deploy.scene import make_release
from tests.fakes.kubernetes.admission import admit

Json = dict[str, Any]
RELEASE = Release(digest="a" * 16, labels=["neg", "pos"], metrics={"accuracy": 0.91234}, model_name="tiny")
STOP = "serving.kserve.io/stop"


def made(
    letter: str = "a", *, folder: Path | None = None, release: Json | None = None, **changed: Any
) -> InferenceService:
    """Returns the object of a release, which an API server must take."""
    target = Target(
        settings=DeploySettings(
            volume_claim="data", **{key: value for key, value in changed.items() if key not in ("runtime", "run_id")}
        ),
        run=Run(model_name="tiny", run_id=changed.get("run_id", "run"), volume_path=""),
        namespace="team",
        runtime=changed.get("runtime", "kserve-torchserve"),
    )
    whole = replace(RELEASE, digest=letter * 16, **(release or {}))
    found = service_for(whole, folder, target)
    admit(found.body, None, "Knative")
    return found


def live(letter: str = "a", **changed: Any) -> InferenceService:
    """Returns an object as the server keeps it, with what it adds."""
    found = made(letter, **changed)
    found.body["metadata"] |= {"resourceVersion": "7", "uid": "u", "generation": 3}
    found.predictor["model"]["env"] = []
    found.body["status"] = {
        "conditions": [{"type": "Ready", "status": "True"}],
        "components": {"predictor": {"latestCreatedRevision": "tiny-predictor-00003"}},
    }
    return InferenceService(found.body)


@pytest.mark.parametrize(
    ("normalizer", "lower"),
    [
        ({"type": "BertNormalizer", "lowercase": True}, True),
        ({"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Lowercase"}]}, True),
        (None, False),
    ],
)
def test_arguments_of_the_hugging_face_server(tmp_path: Path, normalizer: Json | None, lower: bool) -> None:
    (tmp_path / "huggingface").mkdir()
    (tmp_path / "huggingface" / "tokenizer.json").write_text(json.dumps({"normalizer": normalizer}))
    release = replace(RELEASE, parameters={"max_length": 128})
    args = ["--model_name=tiny", "--backend=huggingface", "--task=sequence_classification", "--return_probabilities"]
    desired = [*args, "--max_length=128", *([] if lower else ["--disable_lower_case"])]
    assert server_args(release, tmp_path) == desired


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [({"thresholds": [0.5]}, "gives a text one label"), ({"long_texts": "windows"}, "cuts long texts")],
)
def test_what_the_hugging_face_server_can_not_do(tmp_path: Path, parameters: Json, problem: str) -> None:
    with pytest.raises(UsageError, match=f"^serving_runtime=huggingface {problem}, this release does not: take onnx"):
        server_args(replace(RELEASE, parameters={"max_length": 128} | parameters), tmp_path)


def test_the_object_of_a_release() -> None:
    body = made().body
    assert len(body["metadata"]["annotations"].pop("nlp-pipeline/applied")) == 16
    resources = {"requests": {"cpu": "250m", "memory": "2Gi"}, "limits": {"cpu": "1", "memory": "4Gi"}}
    assert body == {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": "tiny",
            "namespace": "team",
            "labels": {
                "app.kubernetes.io/managed-by": "nlp-pipeline",
                "nlp-pipeline/release": "a" * 16,
                "sidecar.istio.io/inject": "false",
            },
            "annotations": {
                "serving.kserve.io/enable-tag-routing": "true",
                "sidecar.istio.io/inject": "false",
                "nlp-pipeline/again": "run",
                "nlp-pipeline/accuracy": "0.9123",
                "nlp-pipeline/labels": '["neg", "pos"]',
            },
        },
        "spec": {
            "predictor": {
                "minReplicas": 1,
                "maxReplicas": 1,
                "model": {
                    "name": "",
                    "modelFormat": {"name": "pytorch"},
                    "runtime": "kserve-torchserve",
                    "protocolVersion": "v1",
                    "storageUri": f"pvc://data/tiny/releases/{'a' * 16}",
                    "resources": resources,
                },
            }
        },
    }


def test_what_settings_make_of_it(tmp_path: Path) -> None:
    folder = make_release(tmp_path)
    service = made(
        serving_gpus=2, istio_sidecar=True, deployment_mode="Standard", service_account="reader", min_replicas=0,
        max_replicas=0, scale_metric="concurrency", scale_target=5, serving_runtime="huggingface", folder=folder,
        release={"parameters": {"max_length": 32}},
    )  # fmt: skip
    predictor, model = service.predictor, service.predictor["model"]
    assert model["resources"]["requests"]["nvidia.com/gpu"] == model["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert service.labels["sidecar.istio.io/inject"] == service.annotations["sidecar.istio.io/inject"] == "true"
    assert service.is_standard and predictor["serviceAccountName"] == "reader"
    assert (predictor["minReplicas"], predictor.get("maxReplicas")) == (0, None)
    assert (predictor["scaleMetric"], predictor["scaleTarget"]) == ("concurrency", 5)
    assert (model["modelFormat"], model["args"][0]) == ({"name": "huggingface"}, "--model_name=tiny")
    assert model["storageUri"] == f"pvc://data/tiny/releases/{'a' * 16}/huggingface"


def test_very_many_labels_are_left_out() -> None:
    assert made(release={"labels": [f"label {number}" for number in range(2000)]}).note("labels") == ""


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"run_id": "another"}, True),
        ({"release": {"metrics": {"accuracy": 0.5}}}, True),
        ({"canary_percent": 10}, True),
        ({"max_replicas": 2}, False),
        ({"runtime": "mine"}, False),
        ({"letter": "b"}, False),
    ],
)
def test_the_same_request_is_known_again(changed: Json, same: bool) -> None:
    assert (made(**changed).note("applied") == made().note("applied")) is same
    assert live().serves(made(**changed)) is same


@pytest.mark.parametrize(
    ("field", "value", "same"),
    [
        ("metadata.annotations", {}, False),
        ("metadata.annotations", {**made().annotations, STOP: "true"}, False),
        ("spec.predictor.model.env", [{"name": "A", "value": "b"}], True),  # added, by KServe or by a webhook
        ("spec.predictor.model.args", ["--a"], False),
        ("spec.predictor.model.args", ["--b", "--a"], False),
        # The server writes quantities in another form.
        ("spec.predictor.model.resources.limits.cpu", "500m", True),
        ("spec.predictor.model.resources.limits.memory", "2Gi", True),
    ],
)
def test_what_is_the_same(field: str, value: Any, same: bool) -> None:
    asked: Json = {"serving_cpu": "0.5", "serving_memory": "2048Mi"}
    there, desired = live(**asked), made(**asked)
    for service in (there, desired):
        service.predictor["model"]["args"] = ["--a", "--b"]
    *path, last = field.split(".")
    place = there.body
    for name in path:
        place = place[name]
    place[last] = value
    assert InferenceService(there.body).serves(desired) is same


@pytest.mark.parametrize(
    ("annotated", "status", "standard"),
    [("", "", False), ("Standard", "", True), ("", "RawDeployment", True), ("Standard", "Knative", False)],
)
def test_the_deployment_mode(annotated: str, status: str, standard: bool) -> None:
    service = make("x", "y", {}, {"serving.kserve.io/deploymentMode": annotated} if annotated else {}, {})
    body = {**service.body, "status": {"deploymentMode": status} if status else {}}
    assert InferenceService(body).is_standard is standard


def test_the_annotations_stay_small() -> None:
    """With as many labels as are noted, full of what JSON escapes, on four objects: an API server takes 256 KiB."""
    release = {"labels": ["é" * 1000 + '"' * 50] * 3}
    body = live("a", release=release)
    assert len(body.note("labels")) > 15_000
    for letter in "bcde":
        body = InferenceService(successor(body, live(letter, release=release)))
        body.predictor.pop("canaryTrafficPercent")
    assert len(body.formers) == 3
    assert sum(len(key) + len(value) for key, value in body.annotations.items()) < 200_000
