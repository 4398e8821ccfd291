"""The pipeline as IR YAML, the file that the dashboard takes."""

import difflib
import hashlib
import importlib
import importlib.util
import itertools
import re
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.pipeline.parameters import NAME, PIPELINES, TRAIN

# The number of a user in Kubernetes.
LAST_USER = 2**31 - 1
# Of an image's name without tag and digest, for registries: distribution/reference, NameTotalLengthMax.
LONGEST_IMAGE = 255


def version_name(ir: str, pipeline: str = NAME) -> str:
    """Returns the name of the version of a pipeline, by its name, with this content."""
    return f"{pipeline}-{hashlib.sha256(ir.encode()).hexdigest()[:12]}"


def compiled_path(pipeline: str) -> Path:
    """Returns where the compiled file of one of PIPELINES lies, relative to the repository."""
    return Path("compiled", f"{PIPELINES[pipeline].graph}.yaml")


def load_pipeline(pipeline: str) -> Any:
    """Returns one of PIPELINES, as kfp made it; raises UsageError where what it needs is not installed."""
    if pipeline == "vertex":
        check_vertex_installed()
    return getattr(importlib.import_module(f"nlp_pipeline.pipeline.{pipeline}"), PIPELINES[pipeline].graph)


def check_vertex_installed() -> None:
    """Raises UsageError where Google's libraries are missing."""
    for name in ("google.cloud.aiplatform", "google.cloud.storage", "google_cloud_pipeline_components"):
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError:  # the package above it
            spec = None
        if spec is None:
            raise UsageError("--platform vertex needs more packages: pip install -c constraints.txt -e '.[vertex]'")


def compile_pipeline(image: str | None = None, pipeline: str = "kubeflow", run_as_user: int | None = None) -> str:
    """Returns a pipeline's IR: for Vertex AI one YAML document; for Kubeflow a second, the Kubernetes platform spec.

    Args:
        image: An image that holds this package and those of all steps; None for steps that install their packages on a
            plain Python image, and carry their code.
        pipeline: One of PIPELINES.
        run_as_user: On Kubeflow, the number of the user that the steps run as; None for their image's.

    Raises:
        UsageError: The user's number can't be one, or what the platform needs is not installed.
    """
    import yaml
    from kfp import compiler

    if run_as_user is not None and not 0 <= run_as_user <= LAST_USER:
        raise UsageError(f"--run-as-user {run_as_user}: Kubernetes takes 0 to {LAST_USER}")
    from nlp_pipeline.pipeline.sharing import share_code

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(load_pipeline(pipeline), str(path))
        ir = path.read_text(encoding="utf-8")
    on_kubeflow = PIPELINES[pipeline].platform == "kubeflow"
    # kfp's prefix of the inputs of groups would be stored in many places of a workflow; see budget.py.
    documents = load_ir(ir.replace("pipelinechannel--", "") if on_kubeflow else ir)
    if image is not None:
        use_image(documents[0], image)
    elif on_kubeflow and len(documents[0]["deploymentSpec"]["executors"]) > 1:
        share_code(documents[0])
    if on_kubeflow:
        for executor in documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
            if image is None:  # it is for several processes, which need one
                executor.pop("emptyDirMounts", None)
            if run_as_user is not None:
                executor["securityContext"] = {"runAsNonRoot": run_as_user > 0, "runAsUser": str(run_as_user)}
    # The comments at the top list the parameters.
    comments = itertools.takewhile(lambda line: line.startswith("#"), ir.splitlines(keepends=True))
    return "".join(comments) + str(yaml.safe_dump_all(documents))


def load_ir(text: str) -> list[Any]:
    """Returns the documents of a pipeline's IR."""
    import yaml

    # The loader in C takes a tenth of the time of that in Python; the dumper in C breaks lines elsewhere.
    return list(yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def use_image(pipeline: dict[str, Any], image: str) -> None:
    """Lets all steps of a pipeline, an IR's first document, run in an image that holds their code and packages."""
    from nlp_pipeline.pipeline.embedding import image_command, step_containers, step_name

    for container in step_containers(pipeline):
        container["image_uri" if "image_uri" in container else "image"] = image
        container["command"] = image_command(step_name(container))


def check_image(image: str, flag: str = "--image") -> None:
    """Raises UsageError where an image's name can't be one, as registry:5000/team/image:1 or image@sha256:... can."""
    word = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
    # A first part that is no part of the path has a dot or a port, or is "localhost".
    host = r"(?:(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|localhost|[A-Za-z0-9-]+(?=:))(?::[0-9]+)?/)?"
    end = r"(?::\w[\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
    match = re.fullmatch(f"({host}{word}(?:/{word})*){end}", image, re.ASCII)
    if not match or len(match[1]) > LONGEST_IMAGE:
        raise UsageError(
            f"{flag} {image!r} is no name of an image: write it in lower case, as in registry:5000/team/nlp-pipeline:1"
        )


def find_targets(platform: str | None, output: str | None, pipeline: str | None = None) -> dict[str, Path]:
    """Returns the compiled files that are meant, by PIPELINES: all where nothing is named, so that none goes stale.

    `output` is the file of one pipeline, by default the one that trains, or a folder: one that is there, or that ends
    in a slash.

    Raises:
        UsageError: The pipeline is none of the platform, or what a platform needs is not installed; nothing has been
            written then.
    """
    names = [
        name
        for name, known in PIPELINES.items()
        if platform in (None, known.platform) and pipeline in (None, TRAIN if name == known.platform else name)
    ]
    if not names:
        raise UsageError(f"--pipeline {pipeline} is none of --platform {platform}")
    if output is None:
        targets = {name: compiled_path(name) for name in names}
    elif output.endswith("/") or Path(output).is_dir():
        targets = {name: Path(output, compiled_path(name).name) for name in names}
    else:
        targets = {names[0]: Path(output)}
    try:
        for name in targets:
            load_pipeline(name)
    except UsageError as error:
        others = "" if platform else "; or name one platform, as in --platform kubeflow"
        raise UsageError(f"{error}{others}") from None
    return targets


def write_compiled(target: Path, *options: Any) -> None:
    """Writes the pipeline's IR, as `compile_pipeline` makes it, to a file; UsageError where that can't be written."""
    text = compile_pipeline(*options)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise UsageError(f"{target} can't be written ({error.strerror}): name another file with --output") from None


def check_compiled(target: Path, *options: Any) -> str:
    """Returns how a compiled file differs from what `compile_pipeline` makes; PipelineError where it is not there."""
    if not target.is_file():
        raise PipelineError(f"{target} is not there: write it with --compile")
    former = target.read_text(encoding="utf-8")
    current = compile_pipeline(*options).splitlines()
    diff = difflib.unified_diff(former.splitlines(), current, str(target), "the code", lineterm="", n=1)
    return "\n".join(diff)


def weigh_compiled(image: str | None, targets: dict[str, Path]) -> dict[str, Any]:
    """Prints what runs of compiled files take, and returns it; PipelineError where a stock cluster can't store it."""
    from nlp_pipeline.pipeline.budget import IMAGE, weigh

    budgets: dict[str, Any] = {}
    for pipeline, target in targets.items():
        text = target.read_text(encoding="utf-8")
        texts = {"image": text} if image else {"embedded": text, "image": compile_pipeline(IMAGE, pipeline)}
        budgets[pipeline] = {}
        for kind, compiled in texts.items():
            budget, name = weigh(compiled), f"{target}{'' if kind == 'embedded' else ' with --image'}"
            print(f"{name}: {budget}", file=sys.stderr)
            if excess := budget.excess(embedded=kind == "embedded"):
                raise PipelineError(
                    f"{name} is larger than a stock cluster can store ({excess}): let steps import less"
                )
            budgets[pipeline][kind] = asdict(budget)
    return budgets
