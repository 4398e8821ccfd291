"""The Dockerfile, as far as it can be tested without building it."""

import json
import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from nlp_pipeline import __version__, packages
from nlp_pipeline.deploy.manifests import IMAGES
from nlp_pipeline.pipeline.compiling import compile_pipeline
from nlp_pipeline.pipeline.embedding import requirements_of, step_containers, step_name
from nlp_pipeline.pipeline.parameters import PIPELINES

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
INSTRUCTIONS = [
    tuple(line.split(maxsplit=1))
    for line in re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", TEXT, flags=re.M)).splitlines()
    if line
]


def stage(name: str) -> list[tuple[str, ...]]:
    """Returns the instructions of a stage; those before the first stage for an empty name."""
    starts = [at for at, (word, _) in enumerate(INSTRUCTIONS) if word == "FROM"]
    if not name:
        return INSTRUCTIONS[: starts[0]]
    (start,) = (at for at in starts if INSTRUCTIONS[at][1].endswith(f" AS {name}"))
    return INSTRUCTIONS[start + 1 : next((at for at in starts if at > start), len(INSTRUCTIONS))]


def test_every_stage_declares_the_arguments_that_it_uses() -> None:
    """Docker lets a stage see its parent's; buildah, podman and kaniko do not."""
    known = {rest.partition("=")[0] for word, rest in stage("") if word == "ARG"}
    for name in ("server", "base", "torchserve", "steps"):
        declared: set[str] = set()
        for word, rest in stage(name):
            if word == "ARG":
                declared.add(rest.partition("=")[0])
            used = set(re.findall(r"\$\{?([A-Z][A-Z_]+)", rest)) & (known | {"STEPS_USER"})
            assert used <= declared, (name, rest)


def test_what_is_copied_exists_and_nothing_else_is_sent() -> None:
    copied = {one for word, rest in INSTRUCTIONS if word == "COPY" for one in shlex.split(rest)[:-1]}
    assert all((ROOT / one).exists() for one in copied)
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert rules[1] == "*"
    sent = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert {one for one in copied if not one.startswith("src/")} == sent


def test_the_steps_image_holds_what_the_pods_would_install() -> None:
    printed = subprocess.run(
        [sys.executable, ROOT / "src/nlp_pipeline/packages.py", "steps"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    containers = [
        one
        for pipeline in PIPELINES
        for one in step_containers(next(yaml.safe_load_all(compile_pipeline(pipeline=pipeline))))
    ]
    pods = {pin for one in containers for pin in requirements_of(step_name(one))}
    assert {*pods, *packages.INSTALLED} == {*printed, packages.KFP}
    assert {one.get("image") or one["image_uri"] for one in containers} == {packages.BASE_IMAGE}
    assert ("ARG", f"PYTHON_IMAGE={packages.BASE_IMAGE}") in stage("")


def test_every_list_of_pins_is_one_of_packages_and_held_to_the_constraints() -> None:
    runs = [rest for word, rest in INSTRUCTIONS if word == "RUN"]
    read = {name for run in runs for name in re.findall(r'packages\.py "?([\w$-]+)', run)}
    assert {name.replace("$ACCELERATOR", one) for name in read for one in ("cpu", "cuda")} == set(packages.IMAGES)
    for part in (part for run in runs for part in run.split("&&") if "pip install" in part):
        assert "==" not in part and ("--constraint constraints.txt --requirement" in part or "--no-deps" in part)


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
@pytest.mark.parametrize("image", ["torchserve", "server"])
def test_the_serving_images_have_versions_that_are_tested(image: str, accelerator: str) -> None:
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    pins = set(packages.IMAGES[f"{image}-{accelerator}"])
    assert pins - set(constraints) == ({packages.ONNXRUNTIME_GPU} if accelerator == "cuda" else set())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "No such file or directory: '/mnt/models/config/config.properties'"),  # KServe mounts a release
        ({"AIP_STORAGE_URI": "x"}, "AIP_STORAGE_URI is 'x'"),  # Vertex AI names one
    ],
)
def test_the_entry_point_of_the_torchserve_image(changed: dict[str, str], said: str, tmp_path: Path) -> None:
    entry_point = json.loads(next(rest for word, rest in stage("torchserve") if word == "ENTRYPOINT"))
    assert entry_point[0] == "python"
    done = subprocess.run(
        [sys.executable, *entry_point[1:]],
        env={**os.environ, "TMPDIR": str(tmp_path), **changed},
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert done.stderr.startswith("error: ") and said in done.stderr


def test_the_entry_point_of_the_server_image() -> None:
    entry_point = json.loads(next(rest for word, rest in stage("server") if word == "ENTRYPOINT"))
    done = subprocess.run([sys.executable, *entry_point[1:]], cwd="/", capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error: /mnt/models can't be served: ")


def test_no_address_of_a_package_index_is_written_down() -> None:
    assert "://" not in TEXT and ("ARG", "TORCH_INDEX=") in stage("")


@pytest.mark.parametrize(
    ("accelerator", "index", "said"),
    [
        ("cpu", "", 'pass --build-arg TORCH_INDEX=ADDRESS of PyTorch\'s CPU builds (pytorch.org, "Get started"), or '),
        ("cpu", "an address", ""),
        ("cuda", "", ""),
        ("cuda", "an address", ""),
        ("gpu", "an address", "ACCELERATOR is 'gpu': it must be cpu or cuda"),
        ("", "", "ACCELERATOR is '': it must be cpu or cuda"),
    ],
)
def test_the_build_stops_where_the_build_of_torch_is_not_known(accelerator: str, index: str, said: str) -> None:
    check = next(rest for word, rest in stage("base") if word == "RUN")
    environment = {**os.environ, "ACCELERATOR": accelerator, "TORCH_INDEX": index}
    done = subprocess.run(["sh", "-c", check], env=environment, capture_output=True, text=True)
    assert done.returncode == (1 if said else 0)
    assert done.stderr.startswith(said) and done.stderr.count("\n") == (1 if said else 0)


def test_torch_is_the_one_that_was_asked_for() -> None:
    check = next(
        part for word, rest in stage("base") if word == "RUN" for part in rest.split(" && ") if "import os" in part
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    here, other = ("cpu", "cuda") if version("torch").endswith("+cpu") else ("cuda", "cpu")
    environment = {**os.environ, "ACCELERATOR": other, "PATH": path}
    done = subprocess.run(["sh", "-c", check], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"this torch is for {here}, not for {other}: is TORCH_INDEX right?\n"


@pytest.mark.parametrize("name", ["steps", "torchserve", "server"])
def test_no_image_runs_as_root(name: str) -> None:
    instructions = stage(name)
    user = next(rest for word, rest in instructions if word == "USER")
    arguments = dict(rest.split("=") for word, rest in instructions if word == "ARG" and "=" in rest)
    assert re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], user) == "1000"
    assert instructions[-1][0] in ("USER", "ENTRYPOINT")


def test_the_names_of_the_images_are_of_this_version() -> None:
    text = TEXT + (ROOT / "docs/cluster.md").read_text()
    found = set(re.findall(r"nlp-pipeline-(?:steps|server|torchserve):([\d.]+\d)", text))
    assert found == {__version__} and IMAGES["onnx"] in text
