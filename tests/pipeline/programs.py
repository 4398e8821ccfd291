"""Runs a step's program in a process of its own, as its pod does; of the notice, what it is given."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

STATUS = {"state": "COMPLETE", "pipelineJobResourceName": "workflow", "pipelineTaskName": "exit-handler-1"}
NOTICE = {"model_name": "reviews", "run_id": "run", "status": STATUS}


def run_program(
    program: str, name: str, folder: Path, values: dict[str, Any], python: str = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs the program of a component's function in a folder, where its output goes too, with its parameters."""
    executor_input = {"inputs": {"parameterValues": values}, "outputs": {"outputFile": str(folder / "output.json")}}
    return subprocess.run(
        [python, "-c", program, "--executor_input", json.dumps(executor_input), "--function_to_execute", name],
        cwd=folder,
        env={**os.environ, "KUBECONFIG": "/nowhere", **environment},
        capture_output=True,
        text=True,
    )
