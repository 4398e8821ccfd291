"""Runs a step as a pod does, where its packages are installed: by the program that travels in its component."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nlp_pipeline.pipeline.components  # noqa: F401  registers the components
from nlp_pipeline.pipeline.embedding import ROOT, carrying_command, image_command

Json = dict[str, Any]


def run_step(
    name: str,
    folder: Path,
    parameters: Json,
    inputs: dict[str, tuple[Path, Json]],
    outputs: list[str],
    is_installed: bool = False,
) -> tuple[str, Json]:
    """Runs a step's program in a process of its own, which knows nothing of this checkout.

    Args:
        name: The component's name.
        folder: Where the outputs shall lie.
        parameters: The step's parameters.
        inputs: The path and the metadata of each input artifact.
        outputs: The names of the output artifacts.
        is_installed: Whether it runs in an image that holds the package.

    Returns:
        The step's log; the metadata of its output artifacts by name.
    """

    def artifact(name: str, uri: Path, metadata: Json) -> Json:
        kind = {"schemaTitle": "system.Artifact"}
        return {"artifacts": [{"name": name, "uri": str(uri), "metadata": metadata, "type": kind}]}

    executor_input = {
        "inputs": {
            "parameterValues": parameters,
            "artifacts": {name: artifact(name, *given) for name, given in inputs.items()},
        },
        "outputs": {
            "artifacts": {name: artifact(name, folder / name, {}) for name in outputs},
            "outputFile": str(folder / "output.json"),
        },
    }
    arguments = ["--executor_input", json.dumps(executor_input), "--function_to_execute", name]
    command = image_command(name) if is_installed else carrying_command(name)
    done = subprocess.run(
        [sys.executable, *command[1:], *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT.parent) if is_installed else ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    written = json.loads((folder / "output.json").read_text())["artifacts"]
    return done.stdout, {name: made["artifacts"][0]["metadata"] for name, made in written.items()}
