"""Deploying as a user types it: processes of their own, real waits, and a real TorchServe behind the cluster."""

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


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Runs the program in a process of its own, and ends it."""
    command = [sys.executable, str(PROGRAM), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


def typed(*arguments: str) -> tuple[int, str, str]:
    """Runs the program to its end, and returns its exit code and what it printed."""
    with process(*arguments) as running:
        out, err = running.communicate(timeout=120)
    return running.returncode, out, err


def place(site: Site) -> list[str]:
    return ["--set", "volume_claim=models", "--set", f"gateway={site.cluster.gateway_url}"]


def forward(address: str, request: Request) -> Response:
    """Returns what a real server answers."""
    headers = {"Content-Type": request.headers["content-type"]}
    response = httpx.post(address, content=request.body, headers=headers, timeout=60)
    return Response(response.status_code, response.content)


@pytest.fixture(scope="module")
def served_release(model: Path) -> Iterator[tuple[Path, str]]:
    """A release, and the address of its model in a TorchServe."""
    release = made_release(model, "int8")
    with served(release) as server:
        yield release, server.address


def test_as_a_user_types_it(site: Site, served_release: tuple[Path, str], tmp_path: Path) -> None:
    release, address = served_release
    site.cluster.fates[release.name] = Fate(backend=partial(forward, address))
    labelled = make_rows(20, seed=7)
    rows = write_parquet(tmp_path / "rows.parquet", labelled, predicted=[label for _, label in labelled])
    code, out, err = typed("--deploy", "--release", str(release), *place(site), "--rows", str(rows), "--json")
    report = json.loads(out)
    assert (code, report["outcome"], report["rows"], report["release"]) == (0, "deployed", 20, release.name), err
    assert report["agreement"] >= 0.9 and report["p50_ms"] > 0 and report["seconds_to_ready"] >= 2
    assert "has been created; waiting for its pods" in err and "agreement" in err and "error" not in err
    code, out, err = typed("--predict", "superb", "awful", "--deployed", "--set", "model_name=tiny", *place(site)[2:])
    assert (code, [line.split("\t")[::2] for line in out.splitlines()]) == (0, [["4", "superb"], ["0", "awful"]])
    assert err == ""


def test_ctrl_c_while_it_waits(site: Site) -> None:
    fate = Fate(ready_after=10**6, backend=site.cluster.default_fate.backend)
    release = site.release("a", fate)
    with process("--deploy", "--release", str(release), *place(site), "--json") as running:
        assert running.stderr is not None
        lines: list[str] = []
        while not lines or "waiting for its pods" not in lines[-1]:
            lines.append(running.stderr.readline())
            assert lines[-1], lines
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, json.loads(out)) == (130, {"error": "interrupted"})
    assert err == ("what was begun in the cluster has not ended: the same command again takes it up\ninterrupted\n")
    fate.ready_after = 0
    result = site.deploy(release, "--json")
    assert (result.code, result.json["outcome"]) == (0, "deployed") and "its deployment goes on" in result.err
    assert site.serving() == release.name


def test_the_kubeconfig_where_the_environment_names_none(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".kube").mkdir()
    site.cluster.write_kubeconfig(tmp_path / ".kube" / "config", "team")
    missing = "error: namespace team has no InferenceService 'tiny'\n"
    assert typed("--undeploy", "--set", "model_name=tiny") == (2, "", missing)
