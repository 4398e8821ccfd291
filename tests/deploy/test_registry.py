"""A release in a Kubeflow Model Registry: registered once, and what it says of versions follows what is deployed."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.deploy.registry import register
from nlp_pipeline.errors import PipelineError, RolledBackError
from nlp_pipeline.processes import environment
from nlp_pipeline.release import Release, verify
from nlp_pipeline.volume import VARIABLE
from tests.deploy.scene import Scene, make_release, predict, predict_wrongly
from tests.deploy.site import Site
from tests.deploy.test_step import digest_in, parameters, predictions, run, step
from tests.fakes.kubernetes.emulator import Fate
from tests.fakes.model_registry import ModelRegistry, model_registry
from tests.steps.programs import run_step

PREFIX = "modelregistry.kubeflow.org/"
RELEASE = Release(
    digest="a" * 16,
    model_name="tiny",
    run_id="run-7",
    source_sha256="ab12",
    metrics={"accuracy": 0.9, "rows": 60, "majority_label": "0"},
    parameters={"base_model": "owner/encoder"},
)


@pytest.fixture
def registry() -> Iterator[ModelRegistry]:
    with model_registry() as running:
        yield running


def marks(metadata: dict[str, Any]) -> dict[str, str]:
    """Returns what of the registry stands on an InferenceService."""
    both = {**metadata["labels"], **metadata["annotations"]}
    return {key.removeprefix(PREFIX): value for key, value in both.items() if key.startswith(PREFIX)}


@pytest.mark.parametrize("api", ["v1", "v1alpha3"])
def test_a_release_is_registered_once(api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("a-token\n")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    with model_registry(api) as registry:
        labels = register(f"{registry.url}/", RELEASE, "pvc://data/tiny/releases/aaaa")
        assert labels == {f"{PREFIX}registered-model-id": "1", f"{PREFIX}model-version-id": "1"}
        assert [item["name"] for item in registry.collections["registered_models"]] == ["tiny"]
        assert registry.versions["a" * 16]["registeredModelId"] == "1"
        assert registry.properties("a" * 16) == {
            "metrics.accuracy": 0.9,
            "metrics.rows": "60",  # as the API has integers
            "metrics.majority_label": "0",
            "run_id": "run-7",
            "source_sha256": "ab12",
            "base_model": "owner/encoder",
        }
        [artifact] = registry.collections["artifacts"]
        assert (artifact["uri"], artifact["parent"]) == ("pvc://data/tiny/releases/aaaa", "1")
        assert registry.tokens == {"Bearer a-token"}
        written = list(registry.writes)
        assert register(registry.url, RELEASE, "pvc://data/tiny/releases/aaaa") == labels
        assert registry.writes == written  # again is nothing
        # What was killed on the way is completed.
        registry.collections["artifacts"].clear()
        assert register(registry.url, RELEASE, "pvc://data/tiny/releases/aaaa") == labels
        assert len(registry.collections["artifacts"]) == 1


def test_another_run_that_registers_the_same_at_once_is_no_failure(registry: ModelRegistry) -> None:
    registry.refusals = [503, 409]
    assert register(registry.url, RELEASE, "pvc://data/tiny")[f"{PREFIX}model-version-id"] == "1"


def test_a_registry_that_refuses_or_is_not_there_is_one_line(registry: ModelRegistry) -> None:
    registry.refusals = [403]
    with pytest.raises(PipelineError) as caught:
        register(registry.url, RELEASE, "pvc://data/tiny")
    assert str(caught.value).startswith(f"model_registry={registry.url}: registering tiny aaaaaaaaaaaaaaaa: 403 ")
    assert "\n" not in str(caught.value)
    registry.host.stop()
    with pytest.raises(PipelineError, match=r"^model_registry=[^\n]* ClientConnectorError Cannot connect[^\n]*$"):
        register(registry.url, RELEASE, "pvc://data/tiny")


def test_what_is_deployed_is_registered_and_its_object_says_so(
    scene: Scene, volume: Path, registry: ModelRegistry
) -> None:
    digest = digest_in(volume)
    assert step(scene, volume, model_registry=registry.url)[0]["outcome"] == "deployed"
    assert marks(scene.live["metadata"]) == {"registered-model-id": "1", "model-version-id": "1", "url": registry.url}
    [artifact] = registry.collections["artifacts"]
    assert artifact["uri"] == f"pvc://data/tiny/releases/{digest}"
    assert (registry.versions[digest]["state"], registry.properties(digest)["team/tiny"]) == ("LIVE", "live")
    sent = len(scene.sent)
    assert step(scene, volume, model_registry=registry.url)[0]["outcome"] == "unchanged"
    assert len(scene.sent) == sent and len(registry.versions) == 1
    # A release that is not registered does not carry another one's labels.
    scene.deploy("b")
    assert marks(scene.live["metadata"]) == {}


def test_without_deploying_it_is_registered_all_the_same(volume: Path, registry: ModelRegistry, knative: Scene) -> None:
    run(knative, volume, model_registry=registry.url, deploy=False)
    assert "team/tiny" not in registry.properties(digest_in(volume)) and not knative.is_there


def test_a_registry_that_fails_is_told_before_anything_is_deployed(
    knative: Scene, volume: Path, registry: ModelRegistry
) -> None:
    registry.host.stop()
    with pytest.raises(PipelineError, match=r"^model_registry=http://127\.0\.0\.1:\d+: registering tiny "):
        step(knative, volume, model_registry=registry.url)
    assert not knative.is_there
    registry.host.start()
    assert step(knative, volume, model_registry=registry.url)[0]["outcome"] == "deployed"


def test_a_version_that_was_rolled_back_is_archived(scene: Scene, volume: Path, registry: ModelRegistry) -> None:
    first = digest_in(volume)
    step(scene, volume, model_registry=registry.url)
    folder = make_release(volume / "tiny" / "releases" / "new", "worse")
    second = verify(folder).digest
    folder.rename(folder.with_name(second))
    (volume / "tiny" / "releases" / first).rename(volume / first)
    scene.cluster.fates[second] = Fate(backend=predict_wrongly)
    with pytest.raises(RolledBackError):
        step(scene, volume, model_registry=registry.url)
    states = {name: registry.properties(name)["team/tiny"] for name in (first, second)}
    assert states == {first: "live", second: "failed"}
    assert [registry.versions[name]["state"] for name in (first, second)] == ["LIVE", "ARCHIVED"]
    assert marks(scene.live["metadata"])["model-version-id"] == registry.versions[first]["id"]


def test_from_the_command_line_the_registry_follows(site: Site, registry: ModelRegistry) -> None:
    first, second = (site.release(content, Fate(backend=predict)) for content in ("one", "two"))
    for release in (first, second):
        assert site.deploy(release, f"--set model_registry={registry.url}").code == 0

    def states() -> list[str]:
        return [registry.properties(release.name)["team/tiny"] for release in (first, second)]

    assert states() == ["former", "live"]
    result = site.deploy(second, f"--set model_registry={registry.url} --dry-run")
    assert "note: a dry run registers nothing, and shows no labels of the registry's\n" in result.err
    registry.versions[second.name]["state"] = "ARCHIVED"  # as someone may have done
    assert site.rollback().code == 0  # its address is noted on the object
    assert states() == ["live", "former"] and site.serving() == first.name
    assert [registry.versions[release.name]["state"] for release in (first, second)] == ["LIVE", "ARCHIVED"]
    registry.host.stop()
    result = site.rollback()
    assert result.code == 0 and "; what is deployed does not depend on it\n" in result.err
    registry.host.start()
    assert site.undeploy().code == 0
    assert states()[1] == "undeployed"


def test_a_release_that_is_in_no_registry_takes_the_place_of_one_that_is(
    site: Site, registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (site.release(content, Fate(backend=predict)) for content in ("one", "two", "three"))
    assert site.deploy(first, f"--set model_registry={registry.url}").code == 0
    assert registry.properties(first.name)["team/tiny"] == "live"
    assert site.deploy(second).code == 0
    assert registry.properties(first.name)["team/tiny"] == "former" and len(registry.versions) == 1
    # Steps without an image of ours can't tell the registry, and deploy all the same.
    assert site.deploy(first, f"--set model_registry={registry.url}").code == 0
    monkeypatch.setitem(sys.modules, "nlp_pipeline.deploy.registry", None)
    result = site.deploy(third)
    assert result.code == 0 and f"note: {registry.url} does not know what serves now: " in result.err
    assert registry.properties(first.name)["team/tiny"] == "live"


def test_in_a_pod_without_the_package_it_is_said_what_to_do(volume: Path, knative: Scene, tmp_path: Path) -> None:
    inputs: dict[str, Any] = {
        "release": (volume, {"digest": digest_in(volume)}),
        "predictions": (predictions(volume), {}),
    }
    own = parameters(knative, model_registry="http://registry.example.com", deploy=False)
    with environment(**{VARIABLE: str(volume)}), pytest.raises(AssertionError, match="compile with --image"):
        run_step("deploy_model", tmp_path, own, inputs, ["endpoint", "deployment"])
