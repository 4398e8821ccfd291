"""The object that is sent: what it holds, what is kept of the live one, and how the same is known again."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.components.deploy_model_object import (
    former_of,
    formers_after,
    formers_of,
    huggingface_args,
    is_same,
    is_unfinished,
    kept_metadata,
    lower_cased,
    mark_of,
    mode_of,
    restored,
    service_object,
    successor,
)
from nlp_pipeline.components.deploy_model_rollout import check_way
from tests.cluster.admission import admit
from tests.components.deploying import PARAMETERS

Json = dict[str, Any]
RECORD: Json = {"digest": "a" * 16, "labels": ["neg", "pos"], "metrics": {"accuracy": 0.91234}, "model_name": "tiny"}
STOP = "serving.kserve.io/stop"


def made(letter: str = "a", args: list[str] | None = None, record: Json | None = None, **changed: Any) -> Json:
    settings = {**PARAMETERS, "namespace": "team", "runtime": "kserve-torchserve", **changed}
    whole = {**RECORD, "digest": letter * 16, **(record or {})}
    found: Json = service_object(settings, whole, f"pvc://data/tiny/releases/{letter * 16}", args or [])
    admit(found, None, "Knative")
    return found


def live(letter: str = "a", ready: bool = True, **changed: Any) -> Json:
    """Returns an object as the server keeps it, with what it adds."""
    found = made(letter, **changed)
    found["metadata"] |= {"resourceVersion": "7", "uid": "u", "generation": 3}
    found["spec"]["predictor"]["model"]["env"] = []
    found["status"] = {
        "conditions": [{"type": "Ready", "status": str(ready)}],
        "components": {"predictor": {"latestCreatedRevision": "tiny-predictor-00003"}},
    }
    return found


def unfinished(letter: str, *formers: Json) -> Json:
    found = successor(live("z"), live(letter), list(formers))
    return found | {"status": live()["status"]}


@pytest.mark.parametrize(
    ("normalizer", "config", "lower"),
    [
        ({"type": "BertNormalizer", "lowercase": True}, None, True),
        ({"type": "BertNormalizer", "lowercase": False}, None, False),
        ({"type": "Lowercase"}, None, True),
        ({"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Lowercase"}]}, None, True),
        ({"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}]}, None, False),
        (None, None, False),
        (None, {"do_lower_case": True}, True),
        (None, {"do_lower_case": False}, False),
        ({"type": "NFC"}, {}, False),
    ],
)
def test_whether_a_tokenizer_lower_cases(tmp_path: Path, normalizer: Json, config: Json | None, lower: bool) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"normalizer": normalizer}))
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert lower_cased(str(tmp_path)) is lower


def test_arguments_of_the_hugging_face_server() -> None:
    args = ["--model_name=tiny", "--backend=huggingface", "--task=sequence_classification", "--return_probabilities"]
    assert huggingface_args("tiny", 128, True) == [*args, "--max_length=128"]
    assert huggingface_args("tiny", 128, False) == [*args, "--max_length=128", "--disable_lower_case"]


def test_the_object_of_a_release() -> None:
    body = made()
    metadata, predictor = body["metadata"], body["spec"]["predictor"]
    assert (metadata["name"], metadata["namespace"]) == ("tiny", "team")
    assert metadata["labels"] == {
        "app.kubernetes.io/managed-by": "nlp-pipeline",
        "nlp-pipeline/release": "a" * 16,
        "sidecar.istio.io/inject": "false",
    }
    applied = metadata["annotations"].pop("nlp-pipeline/applied")
    assert len(applied) == 16
    assert metadata["annotations"] == {
        "serving.kserve.io/enable-tag-routing": "true",
        "sidecar.istio.io/inject": "false",
        "nlp-pipeline/run-id": "run",
        "nlp-pipeline/accuracy": "0.9123",
        "nlp-pipeline/labels": '["neg", "pos"]',
    }
    resources = {"cpu": "1", "memory": "2Gi"}
    assert predictor == {
        "minReplicas": 1,
        "maxReplicas": 1,
        "model": {
            "name": "",
            "modelFormat": {"name": "pytorch"},
            "runtime": "kserve-torchserve",
            "protocolVersion": "v1",
            "storageUri": f"pvc://data/tiny/releases/{'a' * 16}",
            "resources": {"requests": resources, "limits": resources},
        },
    }


def test_the_object_of_a_hugging_face_server() -> None:
    model = made(serving_runtime="huggingface", args=["--a"])["spec"]["predictor"]["model"]
    assert (model["modelFormat"], model["args"]) == ({"name": "huggingface"}, ["--a"])
    assert model["storageUri"] == f"pvc://data/tiny/releases/{'a' * 16}/huggingface"


def test_what_settings_make_of_it() -> None:
    body = made(
        serving_gpus=2, istio_sidecar=True, deployment_mode="Standard", service_account="reader", min_replicas=0,
        max_replicas=0, scale_metric="concurrency", scale_target=5,
    )  # fmt: skip
    predictor = body["spec"]["predictor"]
    for kind in ("requests", "limits"):
        assert predictor["model"]["resources"][kind]["nvidia.com/gpu"] == "2"
    assert body["metadata"]["labels"]["sidecar.istio.io/inject"] == "true"
    assert body["metadata"]["annotations"]["sidecar.istio.io/inject"] == "true"
    assert body["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"
    assert predictor["serviceAccountName"] == "reader"
    assert (predictor["minReplicas"], predictor.get("maxReplicas")) == (0, None)
    assert (predictor["scaleMetric"], predictor["scaleTarget"]) == ("concurrency", 5)


def test_very_many_labels_are_left_out() -> None:
    many = {"labels": [f"label {number}" for number in range(2000)]}
    assert "nlp-pipeline/labels" not in made(record=many)["metadata"]["annotations"]


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"run_id": "another"}, True),
        ({"record": {"metrics": {"accuracy": 0.5}}}, True),
        ({"canary_percent": 10}, True),
        ({"max_replicas": 2}, False),
        ({"serving_memory": "4Gi"}, False),
        ({"runtime": "mine"}, False),
        ({"istio_sidecar": True}, False),
        ({"letter": "b"}, False),
        ({"args": ["--a"]}, False),
    ],
)
def test_the_same_request_has_the_same_mark(changed: Json, same: bool) -> None:
    assert (mark_of(made(**changed), "applied") == mark_of(made(), "applied")) is same
    assert is_same(live(), made(**changed)) is same


def test_what_is_the_same() -> None:
    assert is_same(live(), made()) and not is_same(None, made())
    stopped, edited, foreign = live(), live(), live()
    stopped["metadata"]["annotations"][STOP] = "true"
    edited["spec"]["predictor"]["minReplicas"] = 4
    del foreign["metadata"]["annotations"]
    assert not is_same(stopped, made()) and not is_same(edited, made()) and not is_same(foreign, made())
    added = live()
    added["spec"]["predictor"]["model"]["env"] = [{"name": "A", "value": "b"}]
    assert is_same(added, made())


@pytest.mark.parametrize(
    ("sent", "kept"), [("0.5", "500m"), ("1000m", "1"), ("2048Mi", "2Gi"), ("1.5", "1500m"), ("3000M", "3G")]
)
def test_quantities_that_the_server_writes_in_another_form(sent: str, kept: str) -> None:
    name = "serving_memory" if sent[-1] in "iM" else "serving_cpu"
    setting: Json = {name: sent}
    there = live(**setting)
    for kind in ("requests", "limits"):
        there["spec"]["predictor"]["model"]["resources"][kind][name.removeprefix("serving_")] = kept
    assert is_same(there, made(**setting))
    there["spec"]["predictor"]["model"]["resources"]["limits"][name.removeprefix("serving_")] = "7"
    assert not is_same(there, made(**setting))


@pytest.mark.parametrize(("live_list", "same"), [(["--a", "--b"], True), (["--a"], False), (["--b", "--a"], False)])
def test_lists_are_compared_whole(live_list: list[str], same: bool) -> None:
    there = live(args=["--a", "--b"])
    there["spec"]["predictor"]["model"]["args"] = live_list
    assert is_same(there, made(args=["--a", "--b"])) is same


def test_a_first_object_gets_all_the_traffic() -> None:
    body = successor(None, made(), [])
    assert body["spec"]["predictor"]["canaryTrafficPercent"] == 100 and is_unfinished(body)
    assert not {"nlp-pipeline/former", "nlp-pipeline/replaces"} & set(body["metadata"]["annotations"])
    assert "resourceVersion" not in body["metadata"]


def test_a_later_object_gets_none_at_first() -> None:
    there = live()
    body = successor(there, made("b"), formers_after(there))
    assert body["spec"]["predictor"]["canaryTrafficPercent"] == 0 and is_unfinished(body)
    assert (mark_of(body, "replaces"), body["metadata"]["resourceVersion"]) == ("tiny-predictor-00003", "7")
    assert [one["labels"]["nlp-pipeline/release"][0] for one in formers_of(body)] == ["a"]
    assert made("b") == made("b")


def test_what_follows_a_stopped_one_counts_anew() -> None:
    there = live()
    there["metadata"]["annotations"][STOP] = "true"
    body = successor(there, made("b"), formers_after(there))
    assert body["spec"]["predictor"]["canaryTrafficPercent"] == 100 and mark_of(body, "replaces") == ""
    assert STOP not in body["metadata"]["annotations"]


def test_what_is_kept_of_the_live_objects_metadata() -> None:
    there = live()["metadata"]
    there["labels"]["networking.knative.dev/visibility"] = "cluster-local"
    there["annotations"] |= {
        "example.com/a": "b", "kubectl.kubernetes.io/last-applied-configuration": "{}", STOP: "true",
        "serving.kserve.io/deploymentMode": "Standard", "nlp-pipeline/old": "note", "modelFormat": "sklearn",
    }  # fmt: skip
    there |= {"finalizers": ["one"], "ownerReferences": [{"name": "owner"}]}
    wanted = {"labels": {"mine": "1"}, "annotations": {"nlp-pipeline/run-id": "new"}}
    assert kept_metadata(there, wanted) == {
        "resourceVersion": "7",
        "labels": {"networking.knative.dev/visibility": "cluster-local", "mine": "1"},
        "annotations": {
            "serving.kserve.io/enable-tag-routing": "true",
            "example.com/a": "b",
            "serving.kserve.io/deploymentMode": "Standard",
            "nlp-pipeline/run-id": "new",
        },
        "finalizers": ["one"],
        "ownerReferences": [{"name": "owner"}],
    }
    assert kept_metadata({"resourceVersion": "1"}, {"name": "x"}) == {
        "resourceVersion": "1", "labels": {}, "annotations": {},
    }  # fmt: skip


def test_what_there_is_to_go_back_to() -> None:
    assert formers_after(None) == []
    first = live("a")
    assert formers_after(first) == [former_of(first)]
    second = successor(first, live("b"), formers_after(first))
    # Not found good yet: what stood before it stays the one.
    assert formers_after(second) == [former_of(first)]
    del second["spec"]["predictor"]["canaryTrafficPercent"]
    found = formers_after(second)
    assert [one["labels"]["nlp-pipeline/release"][0] for one in found] == ["b", "a"]
    assert all("nlp-pipeline/former" not in one["annotations"] for one in found)
    for letter in "cde":
        second = successor(second, live(letter), formers_after(second))
        del second["spec"]["predictor"]["canaryTrafficPercent"]
    assert [one["labels"]["nlp-pipeline/release"][0] for one in formers_of(second)] == ["d", "c", "b"]


def test_what_is_put_back_is_noted_on_itself_until_it_has_the_traffic() -> None:
    former = former_of(live("a"))
    back = successor(live("b"), restored(former, "tiny", "team"), [former, former_of(live("x"))])
    assert [one["labels"]["nlp-pipeline/release"][0] for one in formers_after(back)] == ["a", "x"]
    del back["spec"]["predictor"]["canaryTrafficPercent"]
    assert [one["labels"]["nlp-pipeline/release"][0] for one in formers_of(back)] == ["x"]
    assert [one["labels"]["nlp-pipeline/release"][0] for one in formers_after(back)] == ["a", "x"]


def test_a_former_object() -> None:
    there = live()
    former = former_of(there)
    assert (former["ready"], former["serves"], former["spec"]) == (True, True, there["spec"])
    waiting = live(ready=False)
    assert (former_of(waiting)["ready"], former_of(waiting)["serves"]) == (False, False)
    waiting["status"]["components"]["predictor"]["traffic"] = [{"revisionName": "one", "percent": 100}]
    assert (former_of(waiting)["ready"], former_of(waiting)["serves"]) == (False, True)
    # A share by which a deployment of ours is known as unfinished is not kept; someone's own is.
    assert "canaryTrafficPercent" not in former_of(unfinished("b"))["spec"]["predictor"]
    foreign: Json = {"metadata": {}, "spec": {"predictor": {"canaryTrafficPercent": 20}}}
    assert former_of(foreign)["spec"]["predictor"] == {"canaryTrafficPercent": 20}
    assert former_of(foreign) | {"spec": 0} == {
        "labels": {}, "annotations": {}, "spec": 0, "ready": False, "serves": False,
    }  # fmt: skip


def test_a_former_object_that_is_put_back() -> None:
    former = former_of(live())
    before = copy.deepcopy(former)
    back = restored(former, "tiny", "team")
    assert (back["kind"], back["metadata"]["name"], back["metadata"]["namespace"]) == (
        "InferenceService", "tiny", "team",
    )  # fmt: skip
    assert back["spec"] == live()["spec"] and is_same(live(), back)
    assert former == before
    foreign = restored({"labels": {}, "annotations": {}, "spec": {"predictor": {"canaryTrafficPercent": 20}}}, "x", "y")
    assert foreign["spec"] == {"predictor": {}}
    assert foreign["metadata"]["annotations"] == {"serving.kserve.io/enable-tag-routing": "true"}


@pytest.mark.parametrize(
    ("annotated", "told", "mode"),
    [
        ("", "", "Knative"),
        ("Standard", "", "Standard"),
        ("RawDeployment", "", "Standard"),
        ("", "RawDeployment", "Standard"),
        ("Serverless", "", "Knative"),
        ("Standard", "Knative", "Knative"),
    ],
)
def test_the_deployment_mode(annotated: str, told: str, mode: str) -> None:
    service: Json = {"metadata": {}, "status": {"deploymentMode": told} if told else {}}
    if annotated:
        service["metadata"]["annotations"] = {"serving.kserve.io/deploymentMode": annotated}
    assert mode_of(service) == mode


def test_the_annotations_stay_small() -> None:
    """With as many labels as are noted, full of what JSON escapes, on four objects: an API server takes 256 KiB."""
    record = {"labels": ["é" * 1000 + '"' * 50] * 3}
    body = live("a", record=record)
    assert len(mark_of(body, "labels")) > 15_000
    for letter in "bcde":
        body = successor(body, live(letter, record=record), formers_after(body))
        del body["spec"]["predictor"]["canaryTrafficPercent"]
    assert len(formers_of(body)) == 3
    assert sum(len(key) + len(value) for key, value in body["metadata"]["annotations"].items()) < 200_000


def test_an_endpoint_whose_name_is_not_known_here_is_told_before_it_is_asked() -> None:
    service = {"metadata": {"name": "tiny", "namespace": "team"}, "status": {"url": "http://tiny.team.invalid"}}
    with pytest.raises(ValueError, match=r"^tiny\.team\.invalid, the name of InferenceService team/tiny, is not known"):
        check_way(service, {"gateway": ""})
    check_way(service, {"gateway": "http://127.0.0.1:8080"})
    check_way({**service, "status": {"url": "http://localhost:1"}}, {"gateway": ""})
    check_way({**service, "status": {}}, {"gateway": ""})
