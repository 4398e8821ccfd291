"""Deploying as a user types it: processes of their own, real waits, and real TorchServes behind the cluster."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from nlp_pipeline.serving.local_server import served
from tests.conftest import make_rows, write_parquet
from tests.deploy.site import Site
from tests.fakes.httpd import Request, Response
from tests.fakes.kubernetes.emulator import Fate
from tests.serving.conftest import made_release

PROGRAM = Path(__file__).parents[2] / "pipeline_v2.py"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def servers(model: Path) -> Iterator[dict[Path, str]]:
    """Addresses of the models of TorchServes, by the releases that they serve."""
    with contextlib.ExitStack() as stack:
        releases = [made_release(model, precision) for precision in ("int8", "fp32")]
        yield {release: stack.enter_context(served(release))[0] for release in releases}


@pytest.fixture
def releases(site: Site, servers: dict[Path, str]) -> list[Path]:
    """Two releases, whose pods are TorchServes."""
    for release, address in servers.items():
        site.cluster.fates[release.name] = Fate(backend=partial(forward, address))
    return list(servers)


def forward(address: str, request: Request) -> Response:
    """Returns what a real server answers."""
    headers = {"Content-Type": request.headers["content-type"]}
    response = httpx.post(address, content=request.body, headers=headers, timeout=60)
    return Response(response.status_code, response.content)


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Runs the program in a process of its own, and ends it."""
    command = [sys.executable, str(PROGRAM), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as one:
        try:
            yield one
        finally:
            one.kill()


def typed(*arguments: str) -> tuple[int, str, str]:
    """Runs the program to its end, and returns its exit code and what it printed."""
    with process(*arguments) as one:
        out, err = one.communicate(timeout=120)
    return one.returncode, out, err


def test_as_a_user_types_it(site: Site, releases: list[Path], tmp_path: Path) -> None:
    labelled = make_rows(20, seed=7)
    rows = write_parquet(tmp_path / "rows.parquet", labelled, predicted=[label for _, label in labelled])
    place = ("--set", "volume_claim=models", "--set", f"gateway={site.cluster.gateway_url}")
    code, out, err = typed("--deploy", "--release", str(releases[0]), *place, "--rows", str(rows), "--json")
    report = json.loads(out)
    assert (code, report["outcome"], report["rows"], report["release"]) == (0, "deployed", 20, releases[0].name), err
    assert report["agreement"] >= 0.9 and report["p50_ms"] > 0 and report["seconds_to_ready"] >= 2
    assert "has been created; waiting for its pods" in err and "agreement" in err and "error" not in err
    # kserve would take --predict for its own.
    code, out, err = typed("--predict", "superb", "awful", "--deployed", "--set", "model_name=tiny", *place[2:])
    assert (code, [line.split("\t")[::2] for line in out.splitlines()]) == (0, [["4", "superb"], ["0", "awful"]])
    assert err == ""


def test_releases_answer_in_turn(site: Site, releases: list[Path]) -> None:
    first, second = releases
    assert [site.deploy(one, "--json").json["outcome"] for one in releases] == ["deployed", "deployed"]
    for expected, command in ((second, None), (first, site.rollback), (second, site.rollback)):
        assert command is None or command().code == 0
        site.cluster.answered.clear()
        assert [one["label"] for one in site.predict("superb awful --json").json["predictions"]] == ["4", "0"]
        assert [(release, status) for _, release, status in site.cluster.answered] == [(expected.name, 200)]


def test_ctrl_c_while_it_waits(site: Site) -> None:
    fate = Fate(ready_after=10**6, backend=site.cluster.default_fate.backend)
    release = site.release("a", fate)
    place = ["--set", "volume_claim=models", "--set", f"gateway={site.cluster.gateway_url}"]
    with process("--deploy", "--release", str(release), *place, "--json") as one:
        assert one.stderr is not None
        lines: list[str] = []
        while not lines or "waiting for its pods" not in lines[-1]:
            lines.append(one.stderr.readline())
            assert lines[-1], lines
        one.send_signal(signal.SIGINT)
        out, err = one.communicate(timeout=30)
    assert (one.returncode, json.loads(out)) == (130, {"error": "interrupted"})
    assert err == ("what was begun in the cluster has not ended: the same command again takes it up\ninterrupted\n")
    fate.ready_after = 0
    result = site.deploy(release, "--json")
    assert (result.code, result.json["outcome"]) == (0, "deployed") and "whose deployment goes on" in result.err
    assert site.serving() == release.name


def test_there_is_no_kubeconfig_at_all(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    code, out, err = typed("--undeploy", "--set", "model_name=tiny")
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert err.startswith("error: no cluster: this is no pod of one, and there is no kubeconfig of use (")
    (tmp_path / ".kube").mkdir()
    site.cluster.write_kubeconfig(tmp_path / ".kube" / "config", "team")
    assert typed("--undeploy", "--set", "model_name=tiny")[2] == (
        "error: namespace team has no InferenceService 'tiny'\n"
    )
