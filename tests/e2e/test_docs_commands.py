"""The commands of docs/cluster.md, run by bash as they stand; only addresses are those of the emulator."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.kfp import Fate, Kubeflow, kubeflow

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
ADDRESSES = ("https://kubeflow.example.com",)
OUTSIDE, INSIDE, CI, SCHEDULE = (
    "From outside, with a terminal",
    "From a notebook inside",
    "From CI",
    "On a schedule",
)


def commands(section: str, k: Kubeflow) -> str:
    """Returns the commands of a section, with the emulator's address."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    (script,) = re.findall(r"```bash\n(.*?)```", text, re.S)
    for address in ADDRESSES:
        script = script.replace(address, k.url)
    # A run's id is nothing that a page can know; what --download does is tested with a real object store. That compiled
    # files are current, which takes as long as all else, `make lint` looks.
    left_out = re.compile(r"--download|--compile --check")
    return "\n".join(line for line in script.splitlines() if not left_out.search(line))


def run(script: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Runs commands in a folder that looks like the repository, with a kubectl that knows one token."""
    for name in ("pipeline_v2.py", "compiled"):
        (folder / name).symlink_to(ROOT / name)
    programs = folder / "programs"
    programs.mkdir()
    bodies = {
        "python": f'exec "{sys.executable}" "$@"',
        "kubectl": '[ "$*" = "-n team create token default-editor" ] && echo tok',
    }
    for name, body in bodies.items():
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NLP_PIPELINE_", "KF_"))}
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env={**kept, "PATH": path, "KUBECONFIG": str(folder / "none"), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_the_loop_of_the_page_on_sweeps_submits_a_run_for_each_value(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```bash\n(.*?)```", page, re.S)
    with kubeflow("dex", tokens={"tok": "team"}, namespaces={"ann@example.com": "team"}) as k:
        known = {"NLP_PIPELINE_HOST": k.url, "NLP_PIPELINE_NAMESPACE": "team", "NLP_PIPELINE_TOKEN": "tok"}
        done = run(script, tmp_path, **known)
        assert done.returncode == 0, done.stdout + done.stderr
        sent = [one["runtime_config"]["parameters"] for one in k.api.runs]
    assert sorted(values["learning_rate"] for values in sent) == [1e-5, 3e-5, 5e-5]
    assert len({values["model_name"] for values in sent}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("section", [OUTSIDE, INSIDE, CI, SCHEDULE])
def test_the_commands_do_what_the_page_says(section: str, tmp_path: Path) -> None:
    with kubeflow("dex", tokens={"tok": "team"}, namespaces={"ann@example.com": "team"}) as k:
        k.api.fate = Fate(at_once=True)
        known = {"NLP_PIPELINE_HOST": k.url, "NLP_PIPELINE_NAMESPACE": "team"}
        (tmp_path / "token").write_text("tok\n")
        environment = {
            OUTSIDE: {},
            INSIDE: {**known, "KF_PIPELINES_SA_TOKEN_PATH": str(tmp_path / "token")},
            CI: {**known, "NLP_PIPELINE_TOKEN": "tok"},
            SCHEDULE: {**known, "NLP_PIPELINE_TOKEN": "tok"},
        }[section]
        done = run(commands(section, k), tmp_path, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        if section == SCHEDULE:
            assert "nightly" in done.stdout and k.api.recurring_runs == []
        else:
            assert [one["state"] for one in k.api.runs] == ["SUCCEEDED"]
        if section == CI:
            assert json.loads((tmp_path / "run.json").read_text())["state"] == "SUCCEEDED"
