import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nlp_pipeline.cli import main
from nlp_pipeline.errors import UsageError
from nlp_pipeline.pipeline.compiling import check_image, compile_pipeline, compiled_path
from nlp_pipeline.pipeline.embedding import image_command, step_containers, step_name
from nlp_pipeline.pipeline.parameters import PIPELINES
from tests.conftest import compile_anew

ROOT = Path(__file__).parents[2]
WRITE = """
from nlp_pipeline.pipeline.compiling import PIPELINES, compiled_path, write_compiled
for pipeline in PIPELINES:
    write_compiled(compiled_path(pipeline), None, pipeline)
"""


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_committed_files_are_current(pipeline: str) -> None:
    assert (ROOT / compiled_path(pipeline)).read_text(encoding="utf-8") == compile_pipeline(pipeline=pipeline)


def test_the_same_bytes_from_another_folder_language_and_hash_seed(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Asia/Tokyo", "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", WRITE], cwd=tmp_path, env=environment, check=True)
    for pipeline in PIPELINES:
        assert (tmp_path / compiled_path(pipeline)).read_bytes() == (ROOT / compiled_path(pipeline)).read_bytes()


def test_check_tells_what_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line, target = ["--compile", "--pipeline", "drift"], compiled_path("drift")
    assert main([*line, "--check"]) == 1
    assert "is not there: write it with --compile" in capsys.readouterr().err
    assert main(line) == main([*line, "--check"]) == 0
    text = target.read_text(encoding="utf-8")
    target.write_text(text.replace("defaultValue: text-classifier", "defaultValue: x"))
    capsys.readouterr()
    assert main([*line, "--check"]) == 1
    said = capsys.readouterr()
    assert "-        defaultValue: x" in said.out and "+        defaultValue: text-classifier" in said.out
    assert said.err == f"error: {target} is stale: write it anew with --compile\n"


def test_no_path_of_this_machine_is_compiled_in() -> None:
    text = "".join((ROOT / compiled_path(pipeline)).read_text(encoding="utf-8") for pipeline in PIPELINES)
    assert str(ROOT) not in text and str(Path.home()) not in text and sys.prefix not in text


def test_what_a_platform_needs_and_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name.startswith("google") else find(name))
    with pytest.raises(UsageError, match=r"^--platform vertex needs more packages: pip install "):
        compile_anew(pipeline="vertex")


IMAGE = "registry.example:5000/team/nlp-pipeline:1"


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_with_an_image_no_step_installs_or_carries_anything(pipeline: str) -> None:
    ir = compile_pipeline(IMAGE, pipeline)
    containers = step_containers(next(yaml.safe_load_all(ir)))
    assert "pip install" not in ir
    for container in containers:
        assert container.get("image", container.get("image_uri")) == IMAGE
        assert container["command"] == image_command(step_name(container))
        assert len(container["command"][2]) < 2000
    plain = step_containers(next(yaml.safe_load_all(compile_pipeline(pipeline=pipeline))))
    assert [one["args"] for one in containers] == [one["args"] for one in plain]


def test_the_file_with_an_image_is_one_that_kfp_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from kfp import components

    file = tmp_path / "made" / "imaged.yaml"
    line = ["--compile", "--image", IMAGE, "--output", str(file)]
    assert main(line) == 0
    assert capsys.readouterr().out == f"{file}\n"
    component = components.load_component_from_text(file.read_text(encoding="utf-8"))
    assert component.pipeline_spec.pipeline_info.name == "nlp-pipeline"
    assert file.read_text(encoding="utf-8").startswith("# PIPELINE DEFINITION\n# Name: nlp-pipeline\n")
    assert main([*line, "--check"]) == 0
    assert main(["--compile", "--check", "--output", str(file)]) == 1
    assert main([*line, "--image", "other", "--check"]) == 1
    assert "other" in capsys.readouterr().out


def test_names_of_images() -> None:
    longest = "registry:5000/" + "a" * (255 - 14)  # without tag and digest
    for image in (
        "team/nlp_pipeline:v1.2-CUDA",
        "localhost/x",
        "registry:5000/a/b/c",
        "GCR.example/a__b/c.d:1",
        f"x:1@sha256:{'0a' * 32}",
        f"{longest}:{'t' * 128}",
    ):
        check_image(image)
    wrong = ["", "a b", "x\n", "Team/x", "registry:5000/Team/x", "x:", "x:a/b", "/x", "x/", "a//b", "é", "x@1"]
    for image in (*wrong, f"{longest}a", f"image:{'t' * 129}"):
        with pytest.raises(UsageError, match="is no name of an image"):
            check_image(image)
