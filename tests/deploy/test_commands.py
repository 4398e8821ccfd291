"""`--deploy`, `--rollback`, `--undeploy` and `--predict --deployed`, against an emulated cluster."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.settings import settings
from tests.deploy.scene import LABELS
from tests.deploy.site import HOST, Site, answer, deployment_site
from tests.fakes.kubernetes.emulator import Fate
from tests.fakes.kubernetes.httpd import Answer, serving

BROKEN = Fate(failure="ModelLoadFailed", message="no such file: model.onnx")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Site]:
    """A cluster in which nothing is deployed."""
    with deployment_site(tmp_path, monkeypatch, capsys) as one:
        yield one


@pytest.fixture
def standard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Site]:
    """A cluster without Knative."""
    with deployment_site(tmp_path, monkeypatch, capsys, "Standard") as one:
        yield one


def writes(site: Site) -> list[tuple[str, bool]]:
    """Returns which requests wrote objects, and whether each was a dry run; reviews write nothing."""
    return [(method, dry) for method, dry, sent in site.cluster.sent if sent.get("kind") == "InferenceService"]


def marks(site: Site) -> dict[str, Any]:
    return dict(site.cluster.service("tiny")["metadata"]["annotations"])


# Deploying


def test_a_folder_is_deployed_and_asked(site: Site) -> None:
    release = site.release("a")
    site.rows(site.volume / "tiny" / "runs" / "run-1" / "datasets" / "predictions.parquet")
    said = site.deploy(release)
    assert (said.code, said.out.splitlines()[0].split()) == (0, ["outcome", "deployed"])
    told = dict(line.split(maxsplit=1) for line in said.out.splitlines())
    assert told["url"] == f"http://{HOST}" and told["agreement"] == "1" and told["release"] == release.name
    assert told["storage_uri"] == f"pvc://models/tiny/releases/{release.name}"
    assert "agreement 1" in said.err and "error" not in said.err
    assert site.serving() == release.name
    assert marks(site)["nlp-pipeline/run-id"] == "by hand" and marks(site)["nlp-pipeline/accuracy"] == "0.9000"


def test_json_is_one_document(site: Site) -> None:
    release = site.release("a")
    said = site.deploy(release, "--json")
    assert (said.code, said.json["outcome"], said.json["name"]) == (0, "deployed", "tiny")
    assert "no labelled rows to ask for" in said.err
    again = site.deploy(release, "--json")
    assert (again.code, again.json["outcome"]) == (0, "unchanged")
    assert writes(site) == [("POST", True), ("POST", False), ("PUT", False)]


def test_predict_deployed(site: Site) -> None:
    site.deploy(site.release("a"))
    said = site.predict("superb 'so so'")
    assert (said.code, said.out) == (0, "4\t0.7500\tsuperb\n0\t0.7500\tso so\n")
    told = site.predict("superb --json").json
    assert told == {"predictions": [{"text": "superb", "label": "4", "score": 0.75}]}


def test_the_host_of_an_endpoint_is_not_taken_for_that_of_what_is_deployed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.deploy(site.release("a"))
    monkeypatch.setenv("NLP_PIPELINE_ENDPOINT_HOST", "other.team.example.com")
    assert site.predict("superb").code == 0


def test_an_endpoint_behind_a_gateway(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.deploy(site.release("a"))
    line = f"--predict superb --set model_name=tiny --endpoint {site.cluster.gateway_url}"
    said = site(line)
    assert said.code == 1 and "answered 404; if it is a gateway, set NLP_PIPELINE_ENDPOINT_HOST" in said.error
    (Path.cwd() / ".env").write_text(f"NLP_PIPELINE_ENDPOINT_HOST={HOST}\n")
    settings.cache_clear()
    assert site(line).out == "4\t0.7500\tsuperb\n"


def test_a_first_deployment_that_fails_is_stopped_or_deleted(site: Site) -> None:
    release = site.release("a", BROKEN)
    said = site.deploy(release, "--json")
    assert said.code == 1 and "stopped: the model can't be loaded: ModelLoadFailed: no such file" in said.error
    assert (said.json["outcome"], said.json["error"]) == ("stopped", said.error)
    assert "condition PredictorReady: False" in said.err
    said = site.predict("superb")
    assert (said.code, said.error) == (1, "InferenceService team/tiny has no address: it is not ready")
    said = site.deploy(release, "--set first_failure=delete")
    assert said.code == 1 and "deleted (first_failure=delete)" in said.error
    assert "has no InferenceService 'tiny'" in site.undeploy().error


def test_a_first_deployment_that_takes_too_long(site: Site) -> None:
    said = site.deploy(site.release("a", Fate(ready_after=10**6)), "--set deploy_timeout=1 --json")
    assert (said.code, said.json["outcome"]) == (4, "stopped")
    assert "was not ready after 1 s" in said.error and said.err.count("error: ") == 1


def test_a_deployment_that_fails_is_rolled_back(site: Site) -> None:
    good = site.release("a")
    site.deploy(good)
    said = site.deploy(site.release("b", BROKEN), "--json")
    assert (said.code, said.json["outcome"], said.json["release"]) == (5, "rolled back", good.name)
    assert f"the former release {good.name} has been put back and serves" in said.error
    assert site.serving() == good.name


def test_a_model_that_answers_otherwise_is_rolled_back(site: Site) -> None:
    good = site.release("a")
    site.deploy(good)
    rows = site.rows(Path.cwd() / "rows.parquet", ["0", "4", "0"])
    said = site.deploy(site.release("b"), f"--rows {rows}")
    assert said.code == 5 and said.out == ""
    assert "gives the offline model's label on 0.0000 of 3 rows; min_agreement is" in said.error
    assert site.serving() == good.name


def test_a_canary_gets_its_share(site: Site) -> None:
    site.deploy(site.release("a"))
    new = site.release("b")
    said = site.deploy(new, "--set canary_percent=20 --set canary_minutes=0.005")
    assert said.code == 0 and "20% of the traffic go to it for 0.005 minutes" in said.err
    assert site.serving() == new.name


def test_a_cluster_without_knative(standard: Site) -> None:
    first, second = standard.release("a"), standard.release("b")
    said = standard.deploy(first, "--json")
    assert (said.code, said.json["url"], said.json["deployment_mode"]) == (
        0,
        "http://tiny-team.example.com",
        "Standard",
    )
    said = standard.deploy(second, "--set canary_percent=10")
    assert said.code == 2 and "is in deployment mode Standard, where KServe can't do that" in said.error
    assert standard.deploy(second).code == 0
    assert standard.deploy(second, "--dry-run --json").json["difference"] == ""
    assert (standard.deploy(standard.release("c", BROKEN)).code, standard.serving()) == (5, second.name)
    assert (standard.rollback().code, standard.serving()) == (0, first.name)
    assert standard.predict("superb").out == "4\t0.7500\tsuperb\n"
    assert standard.undeploy().code == 0


SECRETS = {"TOKEN": "token-S3CRET", "COOKIE": "session=S3CRET"}


def test_secrets_reach_the_endpoint_and_nothing_else(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str | None, str | None]] = []

    def signed(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        sent.append((headers.get("Authorization"), headers.get("Cookie")))
        return answer(method, path, headers, body) if len(sent) < 5 else (401, {}, b"")

    for name, value in SECRETS.items():
        monkeypatch.setenv(f"NLP_PIPELINE_ENDPOINT_{name}", value)
    with serving(signed) as backend:
        said = [site.deploy(site.release("a", Fate(backend=backend)), "--json --debug")]
        said += [site.predict("x --debug") for _ in range(4)]
        said += [site.deploy(site.release("b", Fate(backend=backend)), "--json --debug"), site.rollback("--debug")]
    assert [one.code for one in said] == [0, 0, 0, 1, 1, 1, 2]
    assert said[5].err.endswith("; to sign in, set NLP_PIPELINE_ENDPOINT_TOKEN or NLP_PIPELINE_ENDPOINT_COOKIE\n")
    assert "answered 401; NLP_PIPELINE_ENDPOINT_TOKEN or NLP_PIPELINE_ENDPOINT_COOKIE is not taken" in said[3].err
    assert set(sent) == {("Bearer token-S3CRET", "session=S3CRET")}
    everything = "".join(one.out + one.err for one in said) + str(site.cluster.sent)
    assert "S3CRET" not in everything and "a-token-of-the-emulated-cluster" not in everything


@pytest.mark.parametrize("value", ["S3CRET x", "S3CRET\n"])
def test_hostile_secrets_are_refused_before_the_cluster_is_asked(
    site: Site, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NLP_PIPELINE_ENDPOINT_TOKEN", value)
    for command in COMMANDS:
        said = attempt(site, command)
        assert said.code == 2 and said.error.startswith("NLP_PIPELINE_ENDPOINT_TOKEN has a blank, a line break or")
        assert "S3CRET" not in said.err and said.err.count("\n") == 1
    assert site.cluster.sent == []


# The dry run


def test_a_dry_run_of_a_first_deployment(site: Site) -> None:
    said = site.deploy(site.release("a"), "--dry-run")
    assert said.code == 0
    assert said.out.startswith("apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\n")
    assert "\n--- live\n+++ to be\n" in said.out and "\n+  name: tiny\n" in said.out
    assert writes(site) == [("POST", True)]
    assert "has no InferenceService 'tiny'" in site.undeploy().error


def test_a_dry_run_shows_what_would_change(site: Site) -> None:
    release = site.release("a")
    site.deploy(release)
    sent = len(writes(site))
    said = site.deploy(release, "--dry-run")
    assert (said.code, said.out.splitlines()[-1]) == (0, "no difference")
    said = site.deploy(release, "--dry-run --json --set serving_memory=3Gi")
    changed = [line for line in said.json["difference"].splitlines()[2:] if line[0] in "+-"]
    applied = [line for line in changed if "nlp-pipeline/applied" in line]
    assert len(applied) == 2
    assert sorted({line.strip("+- ") for line in changed if line not in applied}) == ["memory: 2Gi", "memory: 3Gi"]
    assert said.json["object"]["spec"]["predictor"]["model"]["resources"]["limits"]["memory"] == "3Gi"
    assert all(dry for _, dry in writes(site)[sent:])
    assert site.serving() == release.name


def test_a_dry_run_of_one_that_has_not_ended(site: Site) -> None:
    release = site.release("a", Fate(failure="never ready"))
    site.deploy(release, "--set deploy_timeout=1")
    assert "-    serving.kserve.io/stop: 'true'" in site.deploy(release, "--dry-run").out.splitlines()


def test_a_dry_run_of_a_rollback_and_of_a_removal(site: Site) -> None:
    first, second = site.release("a"), site.release("b")
    site.deploy(first)
    site.deploy(second)
    sent = len(writes(site))
    difference = site.rollback("--dry-run --json").json["difference"].splitlines()
    assert f"+    nlp-pipeline/release: {first.name}" in difference
    assert f"-      storageUri: pvc://models/tiny/releases/{second.name}" in difference
    said = site.undeploy("--dry-run")
    assert (said.code, said.out.splitlines()[-1]) == (0, "InferenceService team/tiny would be deleted")
    assert site.undeploy("--dry-run --json").json["difference"] == "InferenceService team/tiny would be deleted"
    assert all(dry for _, dry in writes(site)[sent:])
    assert site.serving() == second.name


# Rolling back, and removing


def test_a_rollback_done_twice_comes_back(site: Site) -> None:
    first, second = site.release("a"), site.release("b")
    site.deploy(first)
    site.deploy(second)
    for expected in (first, second, first):
        said = site.rollback("--json")
        assert (said.code, said.json["outcome"], said.json["release"]) == (0, "deployed", expected.name)
        assert site.serving() == expected.name
    assert site.deploy(first, "--json").json["outcome"] == "unchanged"


def test_a_rollback_with_nothing_to_go_back_to(site: Site) -> None:
    site.deploy(site.release("a"))
    said = site.rollback("--json")
    assert (said.code, said.json["error"]) == (2, said.error)
    assert said.error.startswith("InferenceService team/tiny has no former release noted on it: --deploy --release")


def test_a_rollback_that_fails_puts_the_present_release_back(site: Site) -> None:
    first, second = site.release("a", Fate(backend=site.cluster.default_fate.backend)), site.release("b")
    site.deploy(first)
    site.deploy(second)
    site.cluster.fates[first.name] = BROKEN
    said = site.rollback()
    assert said.code == 5 and f"the former release {second.name} has been put back and serves" in said.error
    assert site.serving() == second.name


def test_a_rollback_of_a_deployment_that_was_interrupted(site: Site) -> None:
    first = site.release("a")
    second = site.release("b", Fate(ready_after=10**6))
    site.deploy(first)
    interrupt(site, lambda: site.deploy(second))
    assert "canaryTrafficPercent" in site.cluster.service("tiny")["spec"]["predictor"]
    assert (site.rollback().code, site.serving()) == (0, first.name)
    # And there is no going back to itself.
    assert "has no former release noted on it" in site.rollback().error


def test_a_rollback_that_was_interrupted_is_taken_up(site: Site) -> None:
    slow = Fate(backend=site.cluster.default_fate.backend)
    first, second = site.release("a", slow), site.release("b")
    site.deploy(first)
    site.deploy(second)
    slow.ready_after = 10**6
    interrupt(site, site.rollback)
    slow.ready_after = 0
    assert (site.rollback().code, site.serving()) == (0, first.name)
    assert (site.rollback().code, site.serving()) == (0, second.name)


def interrupt(site: Site, command: Any) -> None:
    """Presses Ctrl-C when a command that has sent its object looks at the cluster."""
    with pytest.MonkeyPatch.context() as patch:
        before = len(site.cluster.sent)

        def press(seconds: float) -> None:
            if any(method in ("POST", "PUT") and not dry and sent.get("kind") == "InferenceService"
                   for method, dry, sent in site.cluster.sent[before:]):  # fmt: skip
                raise KeyboardInterrupt

        patch.setattr("time.sleep", press)
        said = command()
    assert (said.code, said.out) == (130, "")
    *_, how, last = said.err.splitlines()
    assert how == "what was begun in the cluster has not ended: the same command again takes it up"
    assert last == "interrupted"


def foreign(site: Site) -> None:
    """Puts an InferenceService into the cluster as someone else has made it."""
    site.cluster.add(
        {
            "kind": "InferenceService",
            "metadata": {"name": "tiny", "labels": {"team": "a"}},
            "spec": {"predictor": {"model": {"modelFormat": {"name": "pytorch"}, "storageUri": "pvc://old/tiny"}}},
        }
    )
    site.cluster.tick("tiny", 10)


def test_a_rollback_to_what_someone_else_had_made(site: Site) -> None:
    foreign(site)
    ours = site.release("a")
    assert site.deploy(ours).code == 0
    asked = len(site.cluster.answered)
    said = site.rollback("--json")
    assert (said.code, said.json["outcome"], said.json["storage_uri"]) == (0, "deployed", "pvc://old/tiny")
    assert site.serving() == "" and len(site.cluster.answered) == asked
    assert (site.rollback().code, site.serving()) == (0, ours.name)


def test_a_rollback_to_what_someone_else_had_made_fails(site: Site) -> None:
    foreign(site)
    ours = site.release("a", Fate(backend=site.cluster.default_fate.backend))
    site.deploy(ours)
    site.cluster.default_fate = BROKEN
    said = site.rollback("--json")
    assert (said.code, said.json["outcome"], said.json["release"]) == (5, "rolled back", ours.name)
    assert site.serving() == ours.name


def test_removing_it_twice(site: Site) -> None:
    release = site.release("a")
    site.deploy(release)
    said = site.undeploy("--json")
    assert (said.code, said.json["outcome"], said.json["release"]) == (0, "deleted", release.name)
    again = site.undeploy("--json")
    assert (again.code, again.json) == (2, {"error": "namespace team has no InferenceService 'tiny'"})
    assert release.is_dir()


# What is refused


COMMANDS = ["deploy", "rollback", "undeploy", "predict"]


def attempt(site: Site, command: str) -> Any:
    """Runs a command as it would be right."""
    if command == "deploy":
        return site.deploy(site.release("a"))
    return getattr(site, command)("x" if command == "predict" else "")


@pytest.mark.parametrize("command", ["rollback", "undeploy", "predict"])
def test_a_model_that_is_not_deployed(site: Site, command: str) -> None:
    said = attempt(site, command)
    assert (said.code, said.out, said.err) == (2, "", "error: namespace team has no InferenceService 'tiny'\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_no_kubeconfig(site: Site, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(Path.cwd() / "nowhere"))
    said = attempt(site, command)
    assert (said.code, said.out) == (2, "")
    assert said.error.startswith("no cluster: this is no pod of one, and there is no kubeconfig of use (")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_context_without_a_namespace(site: Site, command: str) -> None:
    site.cluster.write_kubeconfig(Path.cwd() / "kubeconfig")
    said = attempt(site, command)
    assert said.code == 2 and "the kubeconfig's context names no" in said.error and "namespace" in said.error
    if command == "deploy":
        assert site.deploy(next(site.volume.glob("tiny/releases/*")), "--set namespace=team").code == 0


@pytest.mark.parametrize("command", ["deploy", "predict"])
def test_a_server_that_is_dead(site: Site, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    site.cluster.url = "http://127.0.0.1:9"
    site.cluster.write_kubeconfig(Path.cwd() / "kubeconfig", "team")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    said = attempt(site, command)
    assert said.code == 1 and said.error.startswith("looking for KServe: the cluster can't be reached: ")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_cluster_without_kserve(site: Site, command: str) -> None:
    site.cluster.without_kserve()
    said = attempt(site, command)
    assert said.code == 2 and said.error.startswith("KServe is not installed in this cluster")


@pytest.mark.parametrize(("command", "verb"), [("deploy", "create"), ("rollback", "get"), ("undeploy", "delete")])
def test_missing_access_is_told_with_the_role_that_gives_it(site: Site, command: str, verb: str) -> None:
    site.cluster.deny(verb, "inferenceservices")
    said = attempt(site, command)
    assert (said.code, said.out) == (2, "")
    assert said.error == (
        f"namespace team: may not {verb} inferenceservices; the Role and RoleBinding that allow it stand above: "
        "kubectl apply -f -"
    )
    for line in ("kind: Role", "kind: RoleBinding", "  name: default-editor", "  - create"):
        assert line in said.err.splitlines()


def test_wrong_parameters_are_refused_before_the_cluster_is_asked(site: Site) -> None:
    release = site.release("a")
    for line, says in (
        ("--set min_replicas=3 --set max_replicas=2", "min_replicas is 3 and max_replicas 2"),
        ("--set model_name=other", "model_name is 'other', and the release's model is 'tiny'"),
        ("--set gateway=x", "gateway is 'x': it must be http://host:port"),
        ("--set deployment_mode=Fast", "deployment_mode is 'Fast'"),
    ):
        said = site.deploy(release, line)
        assert said.code == 2 and says in said.error and said.out == "", line
    assert site.deploy(release, "--set scale_target=2 --json").json["error"].startswith("scale_target is 2: of what?")
    assert site.cluster.sent == []


def test_labels_are_noted_and_class_ids_told_by_them(site: Site) -> None:
    """The Hugging Face server answers with the ids of classes."""

    def answer_ids(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        return 200, {}, b'{"predictions": [{"0": 0.125, "1": 0.875}]}'

    with serving(answer_ids) as backend:
        release = site.release("a", Fate(backend=backend))
        said = site.deploy(release, "--set serving_runtime=huggingface --json")
        assert (said.code, said.json["runtime"]) == (0, "kserve-huggingfaceserver")
        assert "--max_length=32" in site.cluster.service("tiny")["spec"]["predictor"]["model"]["args"]
        assert site.predict("x").out == f"{LABELS[1]}\t0.8750\tx\n"
        endpoint = f"--predict x --endpoint {backend} --set model_name=tiny"
        assert site(endpoint).out == "1\t0.8750\tx\n"
        assert site(f"{endpoint} --release {release}").out == f"{LABELS[1]}\t0.8750\tx\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_an_account_that_the_cluster_does_not_know(site: Site, command: str) -> None:
    path = Path.cwd() / "kubeconfig"
    path.write_text(path.read_text().replace("a-token-of-the-emulated-cluster", "expired"))
    said = attempt(site, command)
    assert (said.code, said.error) == (2, "looking for KServe: 401: Unauthorized")


def test_what_a_command_is_not_allowed_even_where_it_may_not_ask(site: Site) -> None:
    site.cluster.reviews_forbidden = True
    site.cluster.deny("create", "inferenceservices")
    said = site.deploy(site.release("a"))
    assert said.code == 2 and said.error.startswith("dry run of ") and ": 403: " in said.error


@pytest.mark.parametrize("content", ["{", "- a", "", "\x00"])
def test_a_kubeconfig_that_is_none(site: Site, content: str) -> None:
    (Path.cwd() / "kubeconfig").write_text(content)
    said = site.undeploy()
    assert (said.code > 0, said.out, said.err.count("\n")) == (True, "", 1), said
