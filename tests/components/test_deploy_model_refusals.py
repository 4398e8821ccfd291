"""Deployments that are refused: each says what to do, and leaves cluster, volume and object store as they were."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nlp_pipeline.components.deploy_model import deploy_release
from tests.components.deploying import NAME, Scene, edit
from tests.serving.conftest import made_release

pytestmark = pytest.mark.slow
Json = dict[str, Any]
ROLE = "; the Role and RoleBinding that allow it stand above: kubectl apply -f -"


@pytest.fixture
def release(model: Path, tmp_path: Path) -> Path:
    """A copy of the int8 release, on a volume of its own."""
    whole = made_release(model, "int8")
    return Path(shutil.copytree(whole, tmp_path / "volume" / NAME / "releases" / whole.name))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def refused(scene: Scene, release: Path, **changed: Any) -> str:
    """Deploys a release, which must be refused, and returns the name of the error and its line."""
    volume = content(release.parents[2])
    there, sent = scene.live if scene.is_there else None, len(scene.sent)
    with pytest.raises((ValueError, PermissionError, LookupError, RuntimeError)) as caught:
        deploy_release(str(release), scene.settings(**changed), scene.rows)
    assert len(scene.sent) == sent
    # What is asked of the cluster lets time pass there: the status may change, nothing else.
    assert not there or {**scene.live, "status": 0, "metadata": scene.live["metadata"] | {"resourceVersion": 0}} == {
        **there, "status": 0, "metadata": there["metadata"] | {"resourceVersion": 0},
    }  # fmt: skip
    assert content(release.parents[2]) == volume
    assert "\n" not in str(caught.value)
    return f"{caught.type.__name__}: {caught.value}"


def no_runtime(scene: Scene) -> None:
    scene.cluster.remove("clusterservingruntimes", "kserve-torchserve")


def no_namespace(scene: Scene) -> None:
    import os

    scene.cluster.write_kubeconfig(os.environ["KUBECONFIG"])


def no_kserve(scene: Scene) -> None:
    scene.cluster.without_kserve()


def nothing(scene: Scene) -> None:
    pass


@pytest.mark.parametrize(
    ("changed", "prepare", "says"),
    [
        (
            {"model_name": "Tiny"},
            nothing,
            r"ValueError: model_name is 'Tiny': it must be lower-case letters, digits and hyphens, .*",
        ),
        (
            {"model_name": "other"},
            nothing,
            r"ValueError: model_name is 'other', and the release's model is 'tiny': the InferenceService, TorchServe's "
            r"model and the archive must have one name",
        ),
        (
            {"min_replicas": 3, "max_replicas": 2},
            nothing,
            r"ValueError: min_replicas is 3 and max_replicas 2: the first must not be the greater one",
        ),
        ({"scale_target": 5}, nothing, r"ValueError: scale_target is 5: of what\? set scale_metric too"),
        (
            {"canary_percent": 100},
            nothing,
            r"ValueError: canary_percent is 100: it must be from 0 for no canary share to 99",
        ),
        (
            {},
            no_namespace,
            r"ValueError: namespace is empty, and the kubeconfig's context names none: set namespace",
        ),
        (
            {},
            no_kserve,
            r"LookupError: KServe is not installed in this cluster \(it has no serving\.kserve\.io/v1beta1\): ask its "
            r"administrator, or set deploy=false to end at the validated release",
        ),
        (
            {},
            no_runtime,
            r"LookupError: ServingRuntime kserve-torchserve is neither in namespace team nor in the cluster: install "
            r"the project's own, nlp-pipeline-torchserve, with python pipeline_v2\.py --manifests --set namespace=team "
            r"\| kubectl apply -f -",
        ),
        ({"runtime_name": "mine"}, nothing, r"LookupError: ServingRuntime mine is neither in namespace team nor .*"),
        (
            {"volume_claim": "other"},
            nothing,
            r"LookupError: volume_claim=other: namespace team has no such PersistentVolumeClaim, and serving pods need "
            r"it there: python pipeline_v2\.py --manifests --set namespace=team \| kubectl apply -f -",
        ),
        (
            {"service_account": "other"},
            nothing,
            r"LookupError: service_account=other: namespace team has no such ServiceAccount, .*",
        ),
        (
            {"model_store": "s3://models"},
            nothing,
            r"LookupError: service_account=nlp-pipeline-serving: namespace team has no such ServiceAccount, .*",
        ),
    ],
)
@pytest.mark.parametrize("over", ["nothing", "a former release"])
def test_refused(
    knative: Scene, release: Path, over: str, changed: Json, prepare: Callable[[Scene], None], says: str
) -> None:
    if over != "nothing":
        knative.deploy("a")
    prepare(knative)
    assert re.fullmatch(says, refused(knative, release, **changed))


def test_a_release_that_is_not_there(knative: Scene, release: Path) -> None:
    line = refused(knative, release.parent / "0123456789abcdef")
    assert re.fullmatch(r"ValueError: \S+/0123456789abcdef is no release: it has no sound release\.json; .*", line)


def test_a_release_with_an_altered_file(knative: Scene, release: Path) -> None:
    with (release / "config" / "config.properties").open("a") as file:
        file.write("#")
    line = refused(knative, release)
    assert re.fullmatch(r"ValueError: \S+ is spoilt: config/config\.properties is altered; .*", line)


@pytest.mark.parametrize(
    ("changed", "lacks"),
    [
        ({"canary_percent": 10}, "canary_percent=10: {}, which has no shares of the traffic"),
        ({"min_replicas": 0}, "min_replicas=0: {}, which has no pods that come when they are asked"),
        ({"scale_metric": "concurrency"}, "scale_metric=concurrency: {}, which has no scaling by requests"),
        ({"scale_metric": "rps"}, "scale_metric=rps: {}, which has no scaling by requests"),
    ],
)
@pytest.mark.parametrize("scene", ["Knative", "Standard"], indirect=True)
def test_what_standard_can_not_do(scene: Scene, release: Path, changed: Json, lacks: str) -> None:
    """Whether it is the cluster's mode or asked for; KServe itself would ignore a canary's share silently."""
    mode = {} if scene.mode == "Standard" else {"deployment_mode": "Standard"}
    where = "InferenceService team/tiny is in deployment mode Standard"
    advice = "; leave it out, or set deployment_mode=Knative where the cluster has Knative"
    assert refused(scene, release, **mode, **changed) == f"ValueError: {lacks.format(where)}{advice}"


def roles(output: str) -> list[Json]:
    """Returns the objects that were printed, which must be once."""
    assert output.count("kind: RoleBinding") == output.count("apply this with kubectl, as someone who may:\n\n") == 1
    role, binding = yaml.safe_load_all(output.partition("as someone who may:\n\n")[2])
    return [role, binding]


def test_access_that_a_review_denies(scene: Scene, release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("create", "update"):
        scene.cluster.deny(verb, "inferenceservices")
    scene.cluster.deny("list", "events")
    line = refused(scene, release)
    assert line == (
        "PermissionError: namespace team: may not create inferenceservices, update inferenceservices, list events"
        + ROLE
    )
    role, binding = roles(capsys.readouterr().out)
    assert (role["kind"], role["metadata"]["namespace"]) == ("Role", "team")
    allowed = {(one["apiGroups"][0], one["resources"][0]): one["verbs"] for one in role["rules"]}
    assert allowed["serving.kserve.io", "inferenceservices"] == ["get", "create", "update", "delete"]
    assert allowed["", "events"] == ["list"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "default-editor", "namespace": "team"}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]


@pytest.mark.parametrize(
    ("verb", "plural", "doing"),
    [
        ("get", "persistentvolumeclaims", "looking for PersistentVolumeClaim data"),
        ("get", "servingruntimes", "looking for ServingRuntime nlp-pipeline-torchserve"),
        ("get", "inferenceservices", "reading InferenceService team/tiny"),
        ("create", "inferenceservices", "dry run of InferenceService team/tiny"),
        ("update", "inferenceservices", "dry run of InferenceService team/tiny"),
        ("list", "pods", "listing pods"),
    ],
)
def test_access_that_only_the_calls_deny(
    scene: Scene, release: Path, verb: str, plural: str, doing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where even asking what is allowed is forbidden."""
    if verb == "update":
        scene.deploy("a")
    scene.cluster.reviews_forbidden = True
    scene.cluster.deny(verb, plural)
    line = refused(scene, release)
    assert line.startswith(f"PermissionError: {doing}: 403: {plural}") and line.endswith(ROLE)
    assert f'is forbidden: User "system:serviceaccount:team:default-editor" cannot {verb} resource "{plural}"' in line
    roles(capsys.readouterr().out)


def test_a_webhooks_refusal_is_no_missing_permission(
    scene: Scene, release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.deploy("a", deployment_mode=scene.mode)
    other = "Standard" if scene.mode == "Knative" else "Knative"
    line = refused(scene, release, deployment_mode=other)
    assert re.fullmatch(
        r'ValueError: dry run of InferenceService team/tiny: 403: admission webhook "\S+" denied the request: update '
        rf"rejected: deploymentMode cannot be changed from '{scene.mode}' to '{other}'",
        line,
    )
    assert "kubectl" not in capsys.readouterr().out


def test_what_the_api_server_does_not_take(knative: Scene, release: Path) -> None:
    """So many annotations of others that there is no room for ours."""
    knative.deploy("a")
    edit(knative, lambda live: live["metadata"]["annotations"].update({"example.com/a": "x" * 261_000}))
    knative.flawed = True
    line = refused(knative, release)
    assert line.startswith("ValueError: dry run of InferenceService team/tiny: 422: ") and "Too long" in line
