"""Runs a compiled pipeline as a cluster would: each step by its compiled command line, in an environment of its own.

An environment is a virtual environment that holds pip, kfp and the step's pins with what they require, and nothing
else: no checkout of the project, nor any other package. It is made of links to what is installed here.
"""

import importlib.metadata
import json
import re
import subprocess
import tempfile
import venv
from collections import Counter
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from nlp_pipeline.volume import VARIABLE, VOLUME_PATH

Json = dict[str, Any]


def required(pins: list[str]) -> dict[str, importlib.metadata.Distribution]:
    """Returns distributions and all that they require, by name."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [Requirement(pin) for pin in pins]
    while waiting:
        requirement = waiting.pop()
        if requirement.marker and not any(
            requirement.marker.evaluate({"extra": extra}) for extra in requirement.extras or {""}
        ):
            continue
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name not in found or requirement.extras:
            found[name] = importlib.metadata.distribution(name)
            for line in found[name].requires or []:
                needed = Requirement(line)
                extras = requirement.extras or {""}
                if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                    needed.marker = None
                    if re.sub(r"[-_.]+", "-", needed.name).lower() not in found:
                        waiting.append(needed)
    return found


def make_environment(folder: Path, pins: list[str]) -> Path:
    """Makes a virtual environment by links.

    Args:
        folder: Where it shall lie.
        pins: What it holds besides pip and kfp, of which kfp comes without what it requires, as in a pod.

    Returns:
        The folder of its programs.
    """
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    alone = {name: importlib.metadata.distribution(name) for name in ("pip", "kfp")}
    distributions = required(pins) | alone
    everywhere = Counter(
        top for one in importlib.metadata.distributions() for top in {file.parts[0] for file in one.files or []}
    )
    for one in distributions.values():
        for file in one.files or []:
            top = file.parts[0]
            if top == ".." or file.suffix == ".pyc":
                continue
            # A folder that distributions share, such as google/, is linked file by file.
            name = Path(*file.parts) if everywhere[top] > 1 else Path(top)
            if not (site / name).exists():
                (site / name).parent.mkdir(parents=True, exist_ok=True)
                (site / name).symlink_to(Path(str(one.locate_file(name))))
    return folder / "bin"


def as_json(value: Any) -> Any:
    """Returns a parameter's value as KFP's launcher writes it: protobuf knows no integers, and writes 42.0 as 42."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Pods:
    """A run of a compiled pipeline.

    Args:
        ir: The pipeline, the first document of the compiled file.
        folder: Where everything is written.
        pins: By component, what its environment holds.

    Attributes:
        logs: By task, in the order in which they ran, what the step printed.
        outputs: By task, what its executor wrote.
    """

    def __init__(self, ir: Json, folder: Path, pins: dict[str, list[str]]) -> None:
        self.ir, self.folder, self.pins = ir, folder, pins
        self.volume = folder / "volume"  # mounted at VOLUME_PATH in a cluster
        self.volume.mkdir()
        self.logs: dict[str, str] = {}
        self.outputs: dict[str, Json] = {}

    def run(self, arguments: Json) -> None:
        """Runs the pipeline; tasks behind a condition on a parameter that is false are left out."""
        parameters = self.ir["root"]["inputDefinitions"]["parameters"]
        defaults = {name: one["defaultValue"] for name, one in parameters.items() if "defaultValue" in one}
        self.run_dag(self.ir["root"]["dag"]["tasks"], {**defaults, **arguments})

    def run_dag(self, tasks: Json, inputs: Json) -> None:
        """Runs a group's tasks, each after those that it depends on."""
        done: dict[str, Json] = {}
        while waiting := [name for name in tasks if name not in done]:
            name = next(one for one in waiting if done.keys() >= set(tasks[one].get("dependentTasks", [])))
            done[name] = self.run_task(name, tasks[name], inputs, done)

    def run_task(self, name: str, task: Json, inputs: Json, done: dict[str, Json]) -> Json:
        """Runs a task and returns its outputs, parameters and artifacts, by name."""
        given: Json = {}
        for key, one in task.get("inputs", {}).get("parameters", {}).items():
            if "runtimeValue" in one:
                given[key] = one["runtimeValue"]["constant"].replace("{{$.pipeline_job_uuid}}", "run-1")
            elif "componentInputParameter" in one:
                given[key] = inputs[one["componentInputParameter"]]
            else:
                given[key] = done[one["taskOutputParameter"]["producerTask"]]["Output"]
        for key, one in task.get("inputs", {}).get("artifacts", {}).items():
            produced = one.get("taskOutputArtifact")
            given[key] = (
                done[produced["producerTask"]][produced["outputArtifactKey"]]
                if produced
                else inputs[one["componentInputArtifact"]]
            )
        condition = task.get("triggerPolicy", {}).get("condition", "true")
        match = re.fullmatch(r"inputs\.parameter_values\['(.+)'\] == true", condition)
        if match and not given[match[1]]:
            return {}
        component = self.ir["components"][task["componentRef"]["name"]]
        if "dag" in component:
            self.run_dag(component["dag"]["tasks"], given)
            return {}
        return self.run_step(name, component, given)

    def run_step(self, name: str, component: Json, given: Json) -> Json:
        """Runs a step's compiled command line, and returns its outputs."""
        place = self.folder / "artifacts" / name
        place.mkdir(parents=True)
        declared = component.get("outputDefinitions", {})
        made = {
            key: {"name": key, "uri": str(place / key), "metadata": {}, "type": one["artifactType"]}
            for key, one in declared.get("artifacts", {}).items()
        }
        artifacts = component["inputDefinitions"].get("artifacts", {})
        executor_input = {
            "inputs": {
                "parameterValues": {key: as_json(one) for key, one in given.items() if key not in artifacts},
                "artifacts": {key: {"artifacts": [given[key]]} for key in artifacts},
            },
            "outputs": {
                "parameters": {key: {"outputFile": str(place / key)} for key in declared.get("parameters", {})},
                "artifacts": {key: {"artifacts": [one]} for key, one in made.items()},
                "outputFile": str(place / "executor_output.json"),
            },
        }
        container = self.ir["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        arguments = [json.dumps(executor_input) if one == "{{$}}" else one for one in container["args"]]
        programs = make_environment(self.folder / "environments" / name, self.pins[name])
        # The folder's path is short: TorchServe's sockets lie below it.
        with tempfile.TemporaryDirectory(prefix="pod-") as empty:
            environment = {
                "PATH": f"{programs}:/usr/bin:/bin",
                "HOME": empty,
                "TMPDIR": empty,
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "1",
                VARIABLE: str(self.volume),
                "PIP_NO_INDEX": "1",  # all that the command asks pip for must be there
            }
            command = [*(part.replace(VOLUME_PATH, str(self.volume)) for part in container["command"]), *arguments]
            done = subprocess.run(
                command, cwd=empty, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        self.logs[name] = done.stdout
        assert done.returncode == 0, f"{name} failed:\n{done.stdout}"
        self.outputs[name] = written = json.loads((place / "executor_output.json").read_text(encoding="utf-8"))
        for key, one in written.get("artifacts", {}).items():
            made[key] |= one["artifacts"][0]
        return {**made, **written.get("parameterValues", {})}
