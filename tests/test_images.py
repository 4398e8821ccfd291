"""The Dockerfile, as far as it can be tested without building it."""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nlp_pipeline import __version__, packages
from nlp_pipeline.manifests import RUNTIME_IMAGE
from nlp_pipeline.pipeline.compiling import compile_pipeline
from nlp_pipeline.pipeline.parameters import PLATFORMS

ROOT = Path(__file__).parents[1]
INSTRUCTIONS = [
    (line.split(maxsplit=1)[0], line.split(maxsplit=1)[1])
    for line in re.sub(
        r"\\\n\s*", "", "\n".join(x for x in (ROOT / "Dockerfile").read_text().splitlines() if x[:1] != "#")
    ).splitlines()
    if line
]


def stage(name: str) -> list[tuple[str, str]]:
    """Returns the instructions of a stage."""
    start = next(at for at, (word, rest) in enumerate(INSTRUCTIONS) if word == "FROM" and rest.endswith(f" AS {name}"))
    rest = INSTRUCTIONS[start + 1 :]
    return rest[: next((at for at, (word, _) in enumerate(rest) if word == "FROM"), len(rest))]


def ignored(path: str) -> bool:
    """Tells whether .dockerignore leaves a path out: the last line that fits it or a folder of it decides."""
    parts = path.split("/")
    folders = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    left_out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            if any(fnmatch.fnmatch(one, pattern) and one.count("/") == pattern.count("/") for one in folders):
                left_out = not line.startswith("!")
    return left_out


def test_what_is_copied_exists_and_nothing_else_is_sent() -> None:
    sources = {
        source for word, rest in INSTRUCTIONS if word == "COPY" for source in shlex.split(rest)[:-1] if source[0] != "-"
    }
    assert {"constraints.txt", "src/nlp_pipeline/packages.py", "src/nlp_pipeline/serving/runtime.py"} <= sources
    for source in sources:
        assert (ROOT / source).is_file() and not ignored(source), source
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert {path for path in tracked if not ignored(path)} <= sources
    assert ignored(".env") and ignored("outputs/x") and ignored(".git/config")


def test_the_steps_image_holds_what_the_pods_would_install() -> None:
    printed = subprocess.run(
        [sys.executable, ROOT / "src/nlp_pipeline/packages.py", "steps"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert printed == packages.IMAGES["steps"]
    compiled = [next(iter(yaml.safe_load_all(compile_pipeline(platform=platform)))) for platform in PLATFORMS]
    containers = [
        one["container"]
        for document in compiled
        for one in document["deploymentSpec"]["executors"].values()
        if "container" in one
    ]
    in_pods = {pin for one in containers for pin in re.findall(r"'([\w-]+==[\w.]+)'", json.dumps(one))}
    assert in_pods == {*printed, packages.KFP}
    # What calls Vertex AI has an image of Google's, and installs nothing.
    base_images = {one["image"] for one in containers if "google-cloud-pipeline-components" not in one["image"]}
    assert base_images == {packages.BASE_IMAGE}
    assert ("ARG", f"PYTHON_IMAGE={packages.BASE_IMAGE}") in INSTRUCTIONS


def test_every_list_of_pins_is_one_of_packages_and_held_to_the_constraints() -> None:
    runs = [rest for word, rest in INSTRUCTIONS if word == "RUN"]
    read = {name for run in runs for name in re.findall(r'packages\.py "?([\w$-]+)', run)}
    both = {name.replace("$ACCELERATOR", accelerator) for name in read for accelerator in ("cpu", "cuda")}
    assert both == set(packages.IMAGES)
    installs = [part for run in runs for part in run.split("&&") if "pip install" in part]
    assert len(installs) == 4
    for part in installs:
        assert "==" not in part
        assert "--constraint constraints.txt --requirement" in part or "--no-deps" in part
    environment = next(rest for word, rest in stage("base") if word == "ENV")
    assert "PIP_NO_CACHE_DIR=1" in environment and "HF_HUB_DISABLE_TELEMETRY=1" in environment


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
def test_the_torchserve_image_has_versions_that_are_tested(accelerator: str) -> None:
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    pins = set(packages.IMAGES[f"torchserve-{accelerator}"])
    assert pins - set(constraints) == ({packages.ONNXRUNTIME_GPU} if accelerator == "cuda" else set())


def test_the_torchserve_image_holds_all_that_its_entry_point_imports(tmp_path: Path) -> None:
    for word, rest in stage("torchserve"):
        if word == "COPY":
            *sources, target = shlex.split(rest)
            for source in sources:
                (tmp_path / target).mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, tmp_path / target)
    entry_point = json.loads(next(rest for word, rest in stage("torchserve") if word == "ENTRYPOINT"))
    assert entry_point[0] == "python"
    # Two ways in: of what KServe mounts, and of what Vertex AI names.
    for changed, told in (
        ({}, "/mnt/models/config/config.properties can't be read"),
        ({"AIP_STORAGE_URI": "x"}, "AIP_STORAGE_URI is 'x'"),
    ):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "TMPDIR": str(tmp_path), **changed}
        done = subprocess.run(
            [sys.executable, *entry_point[1:]], env=environment, cwd="/", capture_output=True, text=True
        )
        assert done.stderr.startswith(f"error: {told}")


def test_no_address_of_a_package_index_is_written_down() -> None:
    assert "://" not in (ROOT / "Dockerfile").read_text()
    assert ("ARG", "TORCH_INDEX=") in stage("base")


@pytest.mark.parametrize(
    ("accelerator", "index", "told"),
    [
        ("cpu", "", 'pass --build-arg TORCH_INDEX=ADDRESS of PyTorch\'s CPU builds (pytorch.org, "Get started"), or '),
        ("cpu", "an address", ""),
        ("cuda", "", ""),
        ("cuda", "an address", ""),
        ("gpu", "an address", "ACCELERATOR is 'gpu': it must be cpu or cuda"),
        ("", "", "ACCELERATOR is '': it must be cpu or cuda"),
    ],
)
def test_the_build_stops_where_the_build_of_torch_is_not_known(accelerator: str, index: str, told: str) -> None:
    check = next(rest for word, rest in stage("base") if word == "RUN")
    environment = {**os.environ, "ACCELERATOR": accelerator, "TORCH_INDEX": index}
    done = subprocess.run(["sh", "-c", check], env=environment, capture_output=True, text=True)
    assert done.returncode == (1 if told else 0)
    assert done.stderr.startswith(told) and done.stderr.count("\n") == (1 if told else 0)


def test_torch_is_the_one_that_was_asked_for() -> None:
    import torch

    check = next(
        part for word, rest in stage("base") if word == "RUN" for part in rest.split(" && ") if "import os" in part
    )
    here, other = ("cuda", "cpu") if torch.version.cuda else ("cpu", "cuda")
    told = f"this torch is for {here}, not for {other}: is TORCH_INDEX right?\n"
    for accelerator, expected in {here: (0, ""), other: (1, told)}.items():
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "ACCELERATOR": accelerator, "PATH": path}
        done = subprocess.run(["sh", "-c", check], env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == expected


@pytest.mark.parametrize("name", ["steps", "torchserve"])
def test_no_image_runs_as_root(name: str) -> None:
    instructions = stage(name)
    user = next(rest for word, rest in instructions if word == "USER")
    arguments = dict(rest.split("=") for word, rest in instructions if word == "ARG")
    assert re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], user) == "1000"
    assert instructions[-1][0] in ("USER", "ENTRYPOINT")


def test_the_names_of_the_images_are_of_this_version() -> None:
    text = (ROOT / "Dockerfile").read_text() + (ROOT / "README.md").read_text()
    found = set(re.findall(r"nlp-pipeline-(?:steps|torchserve):([\d.]+\d)", text))
    assert found == {__version__} and RUNTIME_IMAGE in text
