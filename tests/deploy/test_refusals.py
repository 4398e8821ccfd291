"""Deployments that are refused: each says what to do, and leaves cluster and volume as they were."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.deploy.deployment import deploy_release
from nlp_pipeline.deploy.inference_service import MODE, make
from nlp_pipeline.deploy.settings import DeploySettings
from nlp_pipeline.deploy.transaction import check_mode
from nlp_pipeline.errors import UsageError
from nlp_pipeline.release import verify
from tests.deploy.scene import ROWS, Scene, make_release

Json = dict[str, Any]
MANIFESTS = "python pipeline_v2.py --manifests --set namespace=team"


def refused(scene: Scene, folder: Path, **changed: Any) -> str:
    """Deploys a release, which must be refused, and returns the line."""
    release = make_release(folder)
    before, sent = (scene.live if scene.is_there else None), len(scene.sent)
    with pytest.raises(UsageError, match=r"^[^\n]*$") as caught:
        deploy_release(verify(release), release, scene.target(**changed), ROWS)
    assert len(scene.sent) == sent and scene.is_there == bool(before)
    # What is asked of the cluster lets time pass there: the status may change, nothing else.
    if before:
        assert scene.live["spec"] == before["spec"]
        assert scene.live["metadata"]["generation"] == before["metadata"]["generation"]
    return str(caught.value)


def no_runtime(scene: Scene) -> None:
    scene.cluster.remove("clusterservingruntimes", "kserve-torchserve")


def too_many_annotations(scene: Scene) -> None:
    scene.flawed = True
    scene.edit(lambda live: live["metadata"]["annotations"].update({"example.com/a": "x" * 261_000}))


@pytest.mark.parametrize(
    ("changed", "prepare", "says"),
    [
        ({}, no_runtime, rf"namespace team has no ServingRuntime kserve-torchserve, .*: {MANIFESTS} .* makes .*"),
        ({"volume_claim": "other"}, None, rf"volume_claim=other: .*: {MANIFESTS} \| kubectl apply -f -"),
        ({"service_account": "other"}, None, r"service_account=other: namespace team has no such ServiceAccount: .*"),
        (
            {"model_store": "s3://models"},
            None,
            rf"service_account=nlp-pipeline-serving: .*: {MANIFESTS} --set model_store=s3://models \| kubectl .*",
        ),
        ({}, too_many_annotations, r"dry run of InferenceService team/tiny: 422: .*Too long.*"),
    ],
)
def test_over_a_former_release(
    knative: Scene, tmp_path: Path, changed: Json, prepare: Callable[[Scene], None] | None, says: str
) -> None:
    knative.deploy("a")
    if prepare:
        prepare(knative)
    assert re.fullmatch(says, refused(knative, tmp_path / "release", **changed))


@pytest.mark.parametrize(("mode", "length", "most"), [("RawDeployment", 22, 25), ("", 63, 46)])
def test_a_name_with_no_room_for_its_host_name(mode: str, length: int, most: int) -> None:
    """What mode the cluster has by default is known from a dry run only."""
    for name in ("m" * most, "m" * (most + 1)):
        service = make(name, "n" * length, {}, {MODE: mode} if mode else {}, {})
        if len(name) == most:
            check_mode(service, DeploySettings())
            continue
        with pytest.raises(UsageError, match=rf"^model_name={name} is too long by 1: \S+, which KServe"):
            check_mode(service, DeploySettings())


@pytest.mark.parametrize("changed", [{"canary_percent": 10}, {"min_replicas": 0}, {"scale_metric": "rps"}])
def test_what_standard_can_not_do(scene: Scene, tmp_path: Path, changed: Json) -> None:
    """Whether it is the cluster's mode or asked for; KServe itself would ignore a canary's share silently."""
    mode = {} if scene.mode == "Standard" else {"deployment_mode": "Standard"}
    ((name, value),) = changed.items()
    says = f"{name}={value} needs deployment_mode=Knative, and InferenceService team/tiny is in Standard"
    if name == "canary_percent":
        says += ", where KServe 0.20 splits nothing"
    assert refused(scene, tmp_path / "release", **mode, **changed) == says
