"""The pipeline as IR YAML, the file that the dashboard takes."""

import difflib
import tempfile
from pathlib import Path

from nlp_pipeline.errors import PipelineError

COMPILED = Path("compiled") / "nlp_pipeline.yaml"


def compile_pipeline() -> str:
    """Returns the pipeline's IR: two YAML documents, the pipeline and its Kubernetes platform spec."""
    from kfp import compiler

    from nlp_pipeline.pipeline import nlp_pipeline

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(nlp_pipeline, str(path))
        return path.read_text(encoding="utf-8")


def write_compiled(target: Path) -> None:
    """Writes the pipeline's IR.

    Args:
        target: The file.
    """
    text = compile_pipeline()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8", newline="\n")


def check_compiled(target: Path) -> str:
    """Compares a compiled file with the code.

    Args:
        target: The file.

    Returns:
        The difference as a unified diff; empty where the file is current.

    Raises:
        PipelineError: The file is not there.
    """
    if not target.is_file():
        raise PipelineError(f"{target} is not there: write it with --compile")
    former = target.read_text(encoding="utf-8")
    diff = difflib.unified_diff(
        former.splitlines(), compile_pipeline().splitlines(), str(target), "the code", lineterm="", n=1
    )
    return "\n".join(diff)
