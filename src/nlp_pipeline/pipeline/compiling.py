"""The pipeline as IR YAML, the file that the dashboard takes."""

import difflib
import hashlib
import importlib.util
import itertools
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.pipeline.parameters import NAME, SETTINGS

if TYPE_CHECKING:
    from nlp_pipeline.pipeline.budget import Budget

PLATFORMS = tuple(SETTINGS)


def version_name(ir: str) -> str:
    """Returns the name of the pipeline's version with this content."""
    return f"{NAME}-{hashlib.sha256(ir.encode()).hexdigest()[:12]}"


def compiled_path(platform: str) -> Path:
    """Returns where a platform's compiled file lies, relative to the repository.

    Args:
        platform: One of PLATFORMS.
    """
    return Path("compiled") / {"kubeflow": "nlp_pipeline.yaml", "vertex": "nlp_pipeline_vertex.yaml"}[platform]


def load_pipeline(platform: str) -> Any:
    """Returns a platform's pipeline, as kfp made it.

    Args:
        platform: One of PLATFORMS.

    Raises:
        UsageError: What the platform needs is not installed.
    """
    if platform == "kubeflow":
        from nlp_pipeline.pipeline.kubeflow import nlp_pipeline

        return nlp_pipeline
    check_vertex_installed()
    from nlp_pipeline.pipeline.vertex import nlp_pipeline_vertex

    return nlp_pipeline_vertex


def check_vertex_installed() -> None:
    """Makes sure that Google's libraries are there.

    Raises:
        UsageError: They are not.
    """
    for name in ("google.cloud.aiplatform", "google.cloud.storage", "google_cloud_pipeline_components"):
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:  # the package above it
            found = None
        if found is None:
            raise UsageError("--platform vertex needs more packages: pip install -c constraints.txt -e '.[vertex]'")


def compile_pipeline(image: str | None = None, platform: str = "kubeflow") -> str:
    """Returns the pipeline's IR: for Vertex AI one YAML document; for Kubeflow a second, the Kubernetes platform spec.

    Args:
        image: An image that holds the packages of every step, for steps that install nothing; None for steps that
            install their packages on a plain Python image.
        platform: One of PLATFORMS.

    Raises:
        UsageError: What the platform needs is not installed.
    """
    from kfp import compiler

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(load_pipeline(platform), str(path))
        ir = path.read_text(encoding="utf-8")
    if image is not None:
        return with_image(ir, image)
    return with_shared_code(ir) if platform == "kubeflow" else ir


def with_image(ir: str, image: str) -> str:
    """Returns the IR with an image for all steps that holds their packages, and this one: nothing is embedded any more.

    Args:
        ir: The pipeline's IR.
        image: The image.
    """
    from nlp_pipeline.pipeline.embedding import image_command, step_containers, step_name

    documents = read_documents(ir)
    for container in step_containers(documents[0]):
        container["image_uri" if "image_uri" in container else "image"] = image
        container["command"] = image_command(step_name(container))
    return write_documents(documents, ir)


def with_shared_code(ir: str) -> str:
    """Returns the IR with the code of all steps in one; see sharing.py."""
    from nlp_pipeline.pipeline.sharing import share_code

    documents = read_documents(ir)
    share_code(documents[0])
    return write_documents(documents, ir)


def read_documents(ir: str) -> list[Any]:
    """Returns the documents of an IR."""
    import yaml

    # The loader in C, which PyYAML's wheels have, takes a tenth of the time of that in Python.
    return list(yaml.load_all(ir, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def write_documents(documents: list[Any], former: str = "") -> str:
    """Returns documents as YAML, after the comments that a former IR begins with, which list the parameters."""
    import yaml

    comments = "".join(itertools.takewhile(lambda line: line.startswith("#"), former.splitlines(keepends=True)))
    # The dumper in C breaks lines elsewhere, and is not everywhere.
    return comments + str(yaml.safe_dump_all(documents))


def check_image(image: str, flag: str = "--image") -> None:
    """Makes sure that an image's name can be one.

    Args:
        image: The name, as in registry:5000/team/nlp-pipeline:1 or nlp-pipeline@sha256:...
        flag: What it was given as.

    Raises:
        UsageError: It can't.
    """
    word = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
    # A first part that is no part of the path has a dot or a port, or is "localhost".
    host = r"(?:(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|localhost|[A-Za-z0-9-]+(?=:))(?::[0-9]+)?/)?"
    if not re.fullmatch(
        rf"{host}{word}(?:/{word})*(?::\w[\w.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?", image, re.ASCII
    ):
        raise UsageError(
            f"{flag} {image!r} is no name of an image: write it in lower case, as in registry:5000/team/nlp-pipeline:1"
        )


def find_targets(platform: str | None, output: Path | None) -> dict[str, Path]:
    """Returns the compiled files that are meant, by platform: all of them where none is named, so that none goes stale.

    Raises:
        UsageError: What a platform needs is not installed; nothing is written then.
    """
    if output:
        targets = {platform or PLATFORMS[0]: output}
    else:
        targets = {name: compiled_path(name) for name in ((platform,) if platform else PLATFORMS)}
    try:
        for name in targets:
            load_pipeline(name)
    except UsageError as error:
        others = "" if platform else f"; or name one platform, as in --platform {PLATFORMS[0]}"
        raise UsageError(f"{error}{others}") from None
    return targets


def find_stale(targets: dict[str, Path], image: str | None) -> dict[Path, str]:
    """Returns the differences of compiled files, given by platform, that are not current."""
    found = {target: check_compiled(target, image, platform) for platform, target in targets.items()}
    return {target: difference for target, difference in found.items() if difference}


def weigh_compiled(target: Path, image: str | None, platform: str) -> "dict[str, Budget]":
    """Returns what a run of a compiled file takes, as it is and how it would be with an image.

    Its steps' code is "embedded" unless it was compiled with an image, when only "image" is there.
    """
    from nlp_pipeline.pipeline.budget import IMAGE, weigh

    text = target.read_text(encoding="utf-8")
    if image:
        return {"image": weigh(text)}
    return {"embedded": weigh(text), "image": weigh(compile_pipeline(IMAGE, platform))}


def write_compiled(target: Path, image: str | None = None, platform: str = "kubeflow") -> None:
    """Writes the pipeline's IR.

    Args:
        target: The file.
        image: The steps' image; see `compile_pipeline`.
        platform: One of PLATFORMS.

    Raises:
        UsageError: The file can't be written.
    """
    text = compile_pipeline(image, platform)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise UsageError(f"{target} can't be written ({error.strerror}): name another file with --output") from None


def check_compiled(target: Path, image: str | None = None, platform: str = "kubeflow") -> str:
    """Compares a compiled file with the code.

    Args:
        target: The file.
        image: The steps' image; see `compile_pipeline`.
        platform: One of PLATFORMS.

    Returns:
        The difference as a unified diff; empty where the file is current.

    Raises:
        PipelineError: The file is not there.
    """
    if not target.is_file():
        raise PipelineError(f"{target} is not there: write it with --compile")
    former = target.read_text(encoding="utf-8")
    current = compile_pipeline(image, platform).splitlines()
    diff = difflib.unified_diff(former.splitlines(), current, str(target), "the code", lineterm="", n=1)
    return "\n".join(diff)
