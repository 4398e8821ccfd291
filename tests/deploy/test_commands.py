"""`--deploy`, `--rollback`, `--undeploy` and `--predict --deployed`, against an emulated cluster."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.cli import main
from nlp_pipeline.serving.torchserve import free_ports
from nlp_pipeline.settings import settings
from tests.deploy.scene import HOSTS, LABELS, Clock, predict
from tests.deploy.site import Result, Site
from tests.fakes.httpd import Host, Request, Response
from tests.fakes.kubernetes.emulator import Fate

HOST = HOSTS["Knative"]
BROKEN = Fate(failure="ModelLoadFailed", message="no such file: model.onnx")


# Deploying


def test_a_folder_is_deployed_and_asked(site: Site) -> None:
    release = site.release("a")
    site.rows(site.volume / "tiny" / "runs" / "run-1" / "datasets" / "predictions.parquet")
    result = site.deploy(release)
    assert result.code == 0 and "agreement 1" in result.err and "error" not in result.err
    shown = dict(line.split(maxsplit=1) for line in result.out.splitlines())
    assert (shown["outcome"], shown["url"], shown["agreement"]) == ("deployed", f"http://{HOST}", "1")
    assert shown["storage_uri"] == f"pvc://models/tiny/releases/{release.name}" and site.serving() == release.name
    notes = site.cluster.after("tiny")["metadata"]["annotations"]
    # What differs from run to run would make new pods.
    assert notes["nlp-pipeline/accuracy"] == "0.9000" and "nlp-pipeline/again" not in notes
    sent = site.written()
    assert site.deploy(release, "--json").json["outcome"] == "unchanged" and site.written() == sent


def test_what_is_deployed_is_asked(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.deploy(site.release("a"))
    # The host of another endpoint is not taken for its own.
    monkeypatch.setenv("NLP_PIPELINE_ENDPOINT_HOST", "other.team.example.com")
    settings.cache_clear()
    assert site.predict("superb 'so so'").out == "4\t0.7500\tsuperb\n0\t0.7500\tso so\n"
    assert site.predict("superb --json").json == {"predictions": [{"text": "superb", "label": "4", "score": 0.75}]}
    # As an endpoint like any other, behind a gateway.
    monkeypatch.delenv("NLP_PIPELINE_ENDPOINT_HOST")
    settings.cache_clear()
    line = f"--predict superb --set model_name=tiny --endpoint {site.cluster.gateway_url}"
    assert "answered 404; if it is a gateway, set NLP_PIPELINE_ENDPOINT_HOST" in site(line).error
    (Path.cwd() / ".env").write_text(f"NLP_PIPELINE_ENDPOINT_HOST={HOST}\n")
    settings.cache_clear()
    assert site(line).out == "4\t0.7500\tsuperb\n"


def test_a_first_deployment_that_fails(site: Site) -> None:
    release = site.release("a", BROKEN)
    result = site.deploy(release, "--json")
    assert result.code == 1 and "stopped: the model can't be loaded: ModelLoadFailed: no such file" in result.error
    assert (result.json["outcome"], result.json["error"]) == ("stopped", result.error)
    assert "condition PredictorReady: False" in result.err
    assert site.predict("superb").error == "InferenceService team/tiny has no address: it is not ready"
    result = site.deploy(release, "--set first_failure=delete")
    assert result.code == 1 and "it has been deleted" in result.error and not site.cluster.has("tiny")
    slow = site.deploy(site.release("b", Fate(ready_after=10**6)), "--set deploy_timeout=1 --json")
    assert (slow.code, slow.json["outcome"], slow.err.count("error: ")) == (4, "stopped", 1)
    assert "was not ready after 1 s" in slow.error


def test_a_deployment_that_fails_is_rolled_back(site: Site) -> None:
    good, back = site.release("a"), "the former release {} has been put back and serves"
    site.deploy(good)
    result = site.deploy(site.release("b", BROKEN), "--json")
    assert (result.code, result.json["outcome"], result.json["release"]) == (5, "rolled back", good.name)
    assert back.format(good.name) in result.error
    rows = site.rows(Path.cwd() / "rows.parquet", ["0", "4", "0"])
    result = site.deploy(site.release("c"), f"--rows {rows}")
    assert (result.code, result.out, site.serving()) == (5, "", good.name)
    assert "3 of 3 answers differ from those before it was deployed; by min_agreement" in result.error


@pytest.mark.parametrize("site", ["Standard"], indirect=True)
def test_a_cluster_without_knative(site: Site) -> None:
    site.cluster.has_canary = True
    first, second = site.release("a"), site.release("b")
    shown = site.deploy(first, "--json").json
    assert (shown["url"], shown["deployment_mode"]) == (f"http://{HOSTS['Standard']}", "Standard")
    # What the archive answered, where it was validated, lies by the release.
    served = site.rows(site.volume / "tiny" / "runs" / "run-1" / "served.parquet")
    result = site.deploy(second)
    assert result.code == 0 and "agreement 1" in result.err and "without traffic" in result.err
    assert "can't be seen from here" in result.err and served.is_file()
    assert site.deploy(second, "--dry-run --json").json["difference"] == ""
    assert (site.rollback().code, site.serving()) == (0, first.name)
    assert site.predict("superb").out == "4\t0.7500\tsuperb\n" and site.undeploy().code == 0


def test_an_endpoint_that_can_not_be_asked_from_here(site: Site) -> None:
    site.deploy(site.release("b"))
    release = site.release("a")
    site.deploy(release)
    sent = site.written()
    line = f"--deploy --release {release} --set volume_claim=models"
    says = f"{HOST}, the name of InferenceService team/tiny, is not known here: set gateway=http://... to the address"
    assert site(line).code == 2 and site(line).error.startswith(says) and site.written() == sent
    for command in ("--rollback", "--deployed --predict superb"):
        assert site(f"{command} --set model_name=tiny").error.startswith(says)


@pytest.mark.parametrize("site", ["Standard"], indirect=True)
def test_on_standard_what_has_no_name_here_is_asked_through_the_api_server(site: Site) -> None:
    first, second = site.release("a"), site.release("b")
    site.deploy(first)
    result = site("--deployed --predict superb awful --set model_name=tiny")
    assert result.out == "4\t0.7500\tsuperb\n0\t0.7500\tawful\n"
    assert result.err == (
        f"note: {HOSTS['Standard']} is not known here: InferenceService team/tiny is asked through the cluster's API "
        "server\n"
    )
    assert site(f"--deploy --release {second} --set volume_claim=models").code == 0 and site.serving() == second.name
    assert site("--rollback --set model_name=tiny").code == 0 and site.serving() == first.name
    site.cluster.deny("create", "services/proxy")
    sent = site.written()
    for command in ("--rollback", "--deployed --predict superb"):
        refused = site(f"{command} --set model_name=tiny")
        assert "the right to create services/proxy in namespace team" in refused.error and refused.code == 2
    assert site.written() == sent


def test_secrets_reach_the_endpoint_and_nothing_else(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str | None, str | None]] = []

    def signed(request: Request) -> Response:
        sent.append((request.headers.get("authorization"), request.headers.get("cookie")))
        return predict(request) if len(sent) < 5 else Response(401)

    for name, value in {"TOKEN": "token-S3CRET", "COOKIE": "session=S3CRET"}.items():
        monkeypatch.setenv(f"NLP_PIPELINE_ENDPOINT_{name}", value)
    settings.cache_clear()
    results = [site.deploy(site.release("a", Fate(backend=signed)), "--json --debug")]
    results += [site.predict("x --debug") for _ in range(4)]
    results += [site.deploy(site.release("b", Fate(backend=signed)), "--json --debug"), site.rollback("--debug")]
    assert [result.code for result in results] == [0, 0, 0, 1, 1, 1, 2]
    assert results[5].err.endswith("; to sign in, set NLP_PIPELINE_ENDPOINT_TOKEN or NLP_PIPELINE_ENDPOINT_COOKIE\n")
    assert "answered 401; NLP_PIPELINE_ENDPOINT_TOKEN or NLP_PIPELINE_ENDPOINT_COOKIE is not taken" in results[3].err
    assert set(sent) == {("Bearer token-S3CRET", "session=S3CRET")}
    everything = "".join(result.out + result.err for result in results) + str(site.cluster.sent)
    assert "S3CRET" not in everything and "a-token-of-the-emulated-cluster" not in everything


def test_labels_are_noted_and_class_ids_read_by_them(site: Site) -> None:
    """The Hugging Face server answers with the ids of classes."""

    def predict_ids(request: Request) -> Response:
        return Response(200, b'{"predictions": [{"0": 0.125, "1": 0.875}]}')

    backend = Host(predict_ids)
    backend.start()
    release = site.release("a", Fate(backend=predict_ids))
    shown = site.deploy(release, "--set serving_runtime=huggingface --json").json
    assert shown["runtime"] == "kserve-huggingfaceserver"
    assert site.predict("x").out == f"{LABELS[1]}\t0.8750\tx\n"
    endpoint = f"--predict x --endpoint {backend.url} --set model_name=tiny"
    assert site(endpoint).out == "1\t0.8750\tx\n"
    assert site(f"{endpoint} --release {release}").out == f"{LABELS[1]}\t0.8750\tx\n"
    backend.stop()


# The dry run


def test_a_dry_run_shows_what_would_change(site: Site) -> None:
    first, second = site.release("a"), site.release("b")
    result = site.deploy(first, "--dry-run")
    assert result.code == 0 and "\n--- live\n+++ to be\n" in result.out and "\n+  name: tiny\n" in result.out
    assert result.out.startswith("apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\n")
    assert site.written() == [] and not site.cluster.has("tiny")
    site.deploy(first)
    site.deploy(second)
    sent = site.written()
    assert site.deploy(second, "--dry-run").out.splitlines()[-1] == "no difference"
    found = site.deploy(second, "--dry-run --json --set serving_memory=3Gi").json
    changed = [line for line in found["difference"].splitlines()[2:] if line[0] in "+-" and "applied" not in line]
    assert sorted({line.strip("+- ") for line in changed}) == ["memory: 3Gi", "memory: 4Gi"]
    assert found["object"]["spec"]["predictor"]["model"]["resources"]["limits"]["memory"] == "3Gi"
    difference = site.rollback("--dry-run --json").json["difference"].splitlines()
    assert f"+    nlp-pipeline/release: {first.name}" in difference
    assert f"-      storageUri: pvc://models/tiny/releases/{second.name}" in difference
    assert site.undeploy("--dry-run").out.splitlines()[-1] == "InferenceService team/tiny would be deleted"
    assert site.written() == sent and site.serving() == second.name


def test_a_dry_run_of_one_that_was_stopped(site: Site) -> None:
    release = site.release("a", BROKEN)
    site.deploy(release)
    assert "-    serving.kserve.io/stop: 'true'" in site.deploy(release, "--dry-run").out.splitlines()


# Rolling back, and removing


def test_a_rollback_done_twice_comes_back(site: Site) -> None:
    first, second = site.release("a"), site.release("b")
    site.deploy(first)
    assert site.rollback("--json").code == 2
    assert site.rollback().error.startswith("InferenceService team/tiny has no former release noted on it: --deploy --")
    site.deploy(second)
    for expected in (first, second, first):
        shown = site.rollback("--json").json
        assert (shown["outcome"], shown["release"], site.serving()) == ("deployed", expected.name, expected.name)
    assert site.deploy(first, "--json").json["outcome"] == "unchanged"
    # And where it fails, the present release is put back.
    site.cluster.fates[second.name] = BROKEN
    result = site.rollback()
    assert result.code == 5 and f"the former release {first.name} has been put back and serves" in result.error


def test_what_was_interrupted(site: Site, clock: Clock) -> None:
    slow = Fate(backend=site.cluster.default_fate.backend)
    first, second = site.release("a", slow), site.release("b", Fate(ready_after=10**6))
    site.deploy(first)
    interrupt(site, clock, lambda: site.deploy(second))
    assert "canaryTrafficPercent" in site.cluster.after("tiny")["spec"]["predictor"]
    assert (site.rollback().code, site.serving()) == (0, first.name)
    # There is no going back to itself.
    assert "has no former release noted on it" in site.rollback().error
    site.cluster.fates[second.name] = Fate(backend=slow.backend)
    site.deploy(second)
    slow.ready_after = 10**6
    interrupt(site, clock, site.rollback)
    slow.ready_after = 0
    # It is resumed; the next one goes the other way.
    assert (site.rollback().code, site.serving()) == (0, first.name)
    assert (site.rollback().code, site.serving()) == (0, second.name)


def interrupt(site: Site, clock: Clock, command: Callable[[], Result]) -> None:
    """Presses Ctrl-C when a command that has sent its object looks at the cluster."""
    before = site.written()

    def press() -> None:
        if site.written() != before:
            raise KeyboardInterrupt

    clock.before_wait = press
    result = command()
    clock.before_wait = None
    assert (result.code, result.out) == (130, "") and result.err.endswith(
        "what was begun in the cluster has not ended: the same command again takes it up\ninterrupted\n"
    )


def test_what_someone_else_had_made(site: Site) -> None:
    spec = {"predictor": {"model": {"modelFormat": {"name": "pytorch"}, "storageUri": "pvc://old/tiny"}}}
    site.cluster.add({"kind": "InferenceService", "metadata": {"name": "tiny"}, "spec": spec})
    site.cluster.after("tiny", 10)
    ours = site.release("a", Fate(backend=site.cluster.default_fate.backend))
    assert site.deploy(ours).code == 0
    asked = len(site.cluster.answered)
    shown = site.rollback("--json").json
    assert (shown["outcome"], shown["storage_uri"], site.serving()) == ("deployed", "pvc://old/tiny", "")
    assert len(site.cluster.answered) == asked  # it may speak another protocol
    assert (site.rollback().code, site.serving()) == (0, ours.name)
    site.cluster.default_fate = BROKEN
    assert (site.rollback().code, site.serving()) == (5, ours.name)


def test_removing_it_twice(site: Site) -> None:
    release = site.release("a")
    site.deploy(release)
    shown = site.undeploy("--json").json
    assert (shown["outcome"], shown["release"], release.is_dir()) == ("deleted", release.name, True)
    again = site.undeploy("--json")
    assert (again.code, again.json) == (2, {"error": "namespace team has no InferenceService 'tiny'"})


# What is refused


def no_kubeconfig(site: Site) -> None:
    (Path.cwd() / "kubeconfig").unlink()


def no_namespace(site: Site) -> None:
    site.cluster.write_kubeconfig(Path.cwd() / "kubeconfig")


def no_server(site: Site) -> None:
    site.cluster.url = f"http://127.0.0.1:{free_ports(1)[0]}"
    site.cluster.write_kubeconfig(Path.cwd() / "kubeconfig", "team")


def no_kserve(site: Site) -> None:
    site.cluster.kserve_installed = False


def no_account(site: Site) -> None:
    path = Path.cwd() / "kubeconfig"
    path.write_text(path.read_text().replace("a-token-of-the-emulated-cluster", "expired"))


def no_right(site: Site) -> None:
    for verb in ("get", "create", "delete"):
        site.cluster.deny(verb, "inferenceservices")


@pytest.mark.parametrize(
    ("command", "prepare", "code", "says"),
    [
        ("deploy", no_kubeconfig, 2, "no cluster: this is no pod, and there is no kubeconfig of use ("),
        ("undeploy", no_namespace, 2, "the kubeconfig's context names no namespace: set namespace"),
        ("deploy", no_server, 1, "looking for KServe: the cluster can't be reached: "),
        ("predict", no_kserve, 2, "KServe is not installed in this cluster"),
        ("deploy", no_account, 2, "looking for KServe: 401: Unauthorized"),
        ("undeploy", no_right, 2, "namespace team: may not get inferenceservices, create inferenceservices, delete in"),
        ("predict", no_right, 2, "reading InferenceService team/tiny: 403: "),
    ],
)
def test_refused(site: Site, command: str, prepare: Callable[[Site], None], code: int, says: str) -> None:
    prepare(site)
    arguments: tuple[Any, ...] = (site.release("a"),) if command == "deploy" else ("x",) if command == "predict" else ()
    result: Result = getattr(site, command)(*arguments)
    assert (result.code, result.out, site.written()) == (code, "", [])
    assert result.error.startswith(says)
    assert "may not" not in says or "--steps-account team/default-editor | kubectl apply" in result.error


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--set min_replicas=3 --set max_replicas=2", "min_replicas is 3, above max_replicas, 2"),
        ("--set model_store=s3://me:hunter2@models", "model_store holds a user or a password"),
    ],
)
def test_wrong_parameters(site: Site, line: str, says: str) -> None:
    result = site.deploy(site.release("a"), f"{line} --json")
    assert result.code == 2 and says in result.json["error"] and "hunter2" not in result.err and site.cluster.sent == []


def test_that_kserve_is_missing_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: (name != "kserve" and found(name, *more)) or None
    )
    assert main(["--deploy", "--release", "pvc://claim/tiny/releases/0123456789abcdef"]) == 2
    says = "error: kserve is not installed: pip install -c constraints.txt -e '.[deploy]'\n"
    assert capsys.readouterr().err == says


def test_kserve_leaves_the_command_line_alone() -> None:
    """In a process of its own: kserve, when it is imported first, would take `--predict` and others for its own."""
    arguments = ["--predict", "superb", "--http_port=nonsense", "--help"]
    code = "import sys; from nlp_pipeline.deploy.commands import import_kserve; import_kserve(); print(sys.argv[1:])"
    guarded = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert (guarded.returncode, guarded.stdout, guarded.stderr) == (0, f"{arguments}\n", "")
