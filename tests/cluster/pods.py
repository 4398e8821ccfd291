"""Runs compiled pipelines as a cluster would: each step by its compiled command line, in an environment of its own.

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

from nlp_pipeline import packages
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
        pins: What it holds besides pip and what runs a step; of that, kfp comes without what it requires, as in a pod.

    Returns:
        The folder of its programs.
    """
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    names = ["pip", *(pin.partition("==")[0] for pin in packages.EVERY_STEP)]
    alone = {name: importlib.metadata.distribution(name) for name in names}
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
    """A node on which runs of compiled pipelines are run, each step's pod a process.

    Args:
        folder: Where everything is written.
        pins: By component, what its environment holds.
        variables: What the pods have in their environment besides.

    Attributes:
        volume: What pods have at VOLUME_PATH in a cluster.
        logs: What the steps printed, by run and step, in the order in which they ran.
        outputs: What their executors wrote, by run and step.
    """

    def __init__(self, folder: Path, pins: dict[str, list[str]], variables: dict[str, str]) -> None:
        self.folder, self.pins, self.variables = folder, pins, variables
        self.volume = folder / "volume"
        self.volume.mkdir(parents=True)
        self.logs: dict[tuple[str, str], str] = {}
        self.outputs: dict[tuple[str, str], Json] = {}

    def artifacts_of(self, run_id: str) -> Path:
        """Returns the folder of a run's artifacts, by step."""
        return self.folder / "artifacts" / run_id

    def run(self, run_id: str, ir: Json, arguments: Json) -> None:
        """Runs a pipeline, the first document of a compiled file.

        Tasks behind a condition on a parameter that is false are left out.
        """
        parameters = ir["root"]["inputDefinitions"]["parameters"]
        defaults = {name: item["defaultValue"] for name, item in parameters.items() if "defaultValue" in item}
        self._run_dag(run_id, ir, ir["root"]["dag"]["tasks"], {**defaults, **arguments})

    def _run_dag(self, run_id: str, ir: Json, tasks: Json, inputs: Json) -> None:
        """Runs a group's tasks, each after those that it depends on."""
        done: dict[str, Json] = {}
        while waiting := [name for name in tasks if name not in done]:
            name = next(item for item in waiting if done.keys() >= set(tasks[item].get("dependentTasks", [])))
            done[name] = self._run_task(run_id, ir, name, tasks[name], inputs, done)

    def _run_task(self, run_id: str, ir: Json, name: str, task: Json, inputs: Json, done: dict[str, Json]) -> Json:
        """Runs a task and returns its outputs, parameters and artifacts, by name."""
        given: Json = {}
        for key, item in task.get("inputs", {}).get("parameters", {}).items():
            if "runtimeValue" in item:
                given[key] = item["runtimeValue"]["constant"].replace("{{$.pipeline_job_uuid}}", run_id)
            elif "componentInputParameter" in item:
                given[key] = inputs[item["componentInputParameter"]]
            elif "taskFinalStatus" in item:  # as KFP 2.17 has it of what has succeeded
                given[key] = {"state": "COMPLETE", "pipelineJobResourceName": run_id, "pipelineTaskName": name}
            else:
                given[key] = done[item["taskOutputParameter"]["producerTask"]]["Output"]
        for key, item in task.get("inputs", {}).get("artifacts", {}).items():
            produced = item.get("taskOutputArtifact")
            given[key] = (
                done[produced["producerTask"]][produced["outputArtifactKey"]]
                if produced
                else inputs[item["componentInputArtifact"]]
            )
        condition = task.get("triggerPolicy", {}).get("condition", "true")
        match = re.fullmatch(r"inputs\.parameter_values\['(.+)'\] == true", condition)
        if match and not given[match[1]]:
            return {}
        component = ir["components"][task["componentRef"]["name"]]
        if "dag" in component:
            self._run_dag(run_id, ir, component["dag"]["tasks"], given)
            return {}
        container = ir["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        return self.run_step(run_id, name, component, container, given)

    def run_step(self, run_id: str, name: str, component: Json, container: Json, given: Json) -> Json:
        """Runs a step's compiled command line, and returns its outputs."""
        place = self.artifacts_of(run_id) / name
        place.mkdir(parents=True)
        declared = component.get("outputDefinitions", {})
        made = {
            key: {"name": key, "uri": str(place / key), "metadata": {}, "type": item["artifactType"]}
            for key, item in declared.get("artifacts", {}).items()
        }
        artifacts = component["inputDefinitions"].get("artifacts", {})
        executor_input = {
            "inputs": {
                "parameterValues": {key: as_json(item) for key, item in given.items() if key not in artifacts},
                "artifacts": {key: {"artifacts": [given[key]]} for key in artifacts},
            },
            "outputs": {
                "parameters": {key: {"outputFile": str(place / key)} for key in declared.get("parameters", {})},
                "artifacts": {key: {"artifacts": [item]} for key, item in made.items()},
                "outputFile": str(place / "executor_output.json"),
            },
        }
        arguments = [json.dumps(executor_input) if item == "{{$}}" else item for item in container["args"]]
        command = [part.replace(VOLUME_PATH, str(self.volume)) for part in [*container["command"], *arguments]]
        self.logs[run_id, name] = self._run_process(name, command)
        written = json.loads((place / "executor_output.json").read_text(encoding="utf-8"))
        self.outputs[run_id, name] = written
        for key, item in written.get("artifacts", {}).items():
            made[key] |= item["artifacts"][0]
        return {**made, **written.get("parameterValues", {})}

    def _run_process(self, name: str, command: list[str]) -> str:
        """Runs a command in a step's environment, which is made once, and returns what it printed."""
        environment = self.folder / "environments" / name
        programs = environment / "bin" if environment.is_dir() else make_environment(environment, self.pins[name])
        # The folder's path is short: TorchServe's sockets lie below it.
        with tempfile.TemporaryDirectory(prefix="pod-") as empty:
            variables = {
                "PATH": f"{programs}:/usr/bin:/bin",
                "HOME": empty,
                "TMPDIR": empty,
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": "1",
                VARIABLE: str(self.volume),
                "PIP_NO_INDEX": "1",  # all that the command asks pip for must be there
                **self.variables,
            }
            done = subprocess.run(
                command, cwd=empty, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        assert done.returncode == 0, f"{name} failed:\n{done.stdout}"
        return done.stdout
