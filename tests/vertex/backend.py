"""Runs a compiled pipeline as Vertex AI Pipelines would, on this machine: each step by its own command line.

The steps of this project run in processes of their own; Google's run in this one, by their real launchers. Buckets are
folders, which `/gcs` leads to.
"""

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google.auth
import requests
from google.cloud import aiplatform_v1beta1
from google_cloud_pipeline_components.container.preview.gcp_launcher import job_remote_runner

from tests.vertex.cloud import PROJECT, REGION
from tests.vertex.placeholders import Context

Json = dict[str, Any]
# What a step's or a group's inputs and outputs are: values of parameters, and artifacts.
Values = dict[str, Any]
JOB = {
    "pipeline_job_uuid": "8675309",
    "pipeline_google_cloud_project_id": PROJECT,
    "pipeline_google_cloud_location": REGION,
    "pipeline_persistent_resource_id": "",
}
# In the steps' processes, buckets are mounted elsewhere than at /gcs.
MOUNT = """
import os
import kfp.dsl.types.artifact_types as types
types._GCS_LOCAL_MOUNT_PREFIX = os.environ["BUCKETS"] + "/"
"""
CONDITION = re.compile(r"inputs\.parameter_values\['(?P<name>[^']+)'\] == (?P<value>true|'[^']*')")


def of_run(text: str) -> str:
    """Returns a text with what is known of the run in the place of its placeholders."""
    return Context({"inputs": {}, "outputs": {}}, JOB).render(text)


class FailedError(Exception):
    """A step failed. The message is its name and the last line that it wrote."""


class Backend:
    """A run of a pipeline.

    Args:
        ir: The compiled pipeline.
        folder: Where everything is written.

    Attributes:
        done: The tasks that ran, groups among them, in order, with their inputs and outputs.
        buckets: The folder with the buckets.
    """

    def __init__(self, ir: Json, folder: Path) -> None:
        self.ir = ir
        self.done: dict[str, tuple[Values, Values]] = {}
        self.buckets = folder / "gcs"
        site = folder / "site"
        site.mkdir(parents=True)
        (site / "sitecustomize.py").write_text(MOUNT)
        path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.environment = {
            **{**os.environ, "PYTHONPATH": path, "BUCKETS": str(self.buckets)},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }

    def run(self, parameters: Values) -> None:
        """Runs the whole pipeline with some parameters; the others have their defaults."""
        root = self.ir["root"]
        self._run_group(root["dag"], self._with_defaults(root, parameters))

    def run_component(self, name: str, inputs: Values, task: str = "") -> Values:
        """Runs a step or a group.

        Args:
            name: The component's name.
            inputs: Its inputs.
            task: The task's name.

        Returns:
            Its outputs.

        Raises:
            FailedError: A step failed.
        """
        component = self.ir["components"][name]
        given = self._with_defaults(component, inputs)
        if "dag" in component:
            return self._run_group(component["dag"], given)
        executor = self.ir["deploymentSpec"]["executors"][component["executorLabel"]]
        if "importer" in executor:
            return self._import(executor["importer"], given)
        command, declared = self.command(name, inputs, task)
        folder = Path(declared["outputFile"]).parent
        folder.mkdir(parents=True, exist_ok=True)
        if command[:3] == ["python3", "-u", "-m"]:
            self._launch(command[3], command[4:], task)
        else:
            self.start(command, task)
        return self._outputs(declared, folder)

    @staticmethod
    def _with_defaults(component: Json, inputs: Values) -> Values:
        parameters = component.get("inputDefinitions", {}).get("parameters", {})
        values = {name: one["defaultValue"] for name, one in parameters.items() if "defaultValue" in one}
        values |= inputs
        for name, one in parameters.items():
            if one["parameterType"] == "NUMBER_INTEGER" and name in values:
                values[name] = int(values[name])
            if one["parameterType"] == "STRING" and name not in inputs and name in values:
                values[name] = of_run(values[name])
        return values

    def _run_group(self, dag: Json, inputs: Values) -> Values:
        outputs: dict[str, Values | None] = {}
        for name in self._order(dag["tasks"]):
            self._run_task(name, dag["tasks"][name], inputs, outputs)
        found = {}
        for key, one in dag.get("outputs", {}).get("artifacts", {}).items():
            for selector in one["artifactSelectors"]:
                if produced := outputs[selector["producerSubtask"]]:
                    found[key] = produced[selector["outputArtifactKey"]]
        return found

    @staticmethod
    def _order(tasks: Json) -> list[str]:
        ordered: list[str] = []

        def add(name: str) -> None:
            for other in tasks[name].get("dependentTasks", []):
                add(other)
            if name not in ordered:
                ordered.append(name)

        for name in sorted(tasks):
            add(name)
        return ordered

    def _run_task(self, name: str, task: Json, outer: Values, outputs: dict[str, Values | None]) -> None:
        """Runs a task unless its condition, or one of a task before it, is not fulfilled; notes its outputs."""
        outputs[name] = None
        if any(outputs[other] is None for other in task.get("dependentTasks", [])):
            return
        inputs: Values = {}
        for key, one in task.get("inputs", {}).get("parameters", {}).items():
            if "runtimeValue" in one:
                constant = one["runtimeValue"]["constant"]
                inputs[key] = of_run(constant) if isinstance(constant, str) else constant
            else:
                inputs[key] = self._found(one, "componentInputParameter", "taskOutputParameter", outer, outputs)
        for key, one in task.get("inputs", {}).get("artifacts", {}).items():
            inputs[key] = self._found(one, "componentInputArtifact", "taskOutputArtifact", outer, outputs)
        condition = task.get("triggerPolicy", {}).get("condition", "")
        if condition and not self._holds(condition, inputs):
            return
        produced = self.run_component(task["componentRef"]["name"], inputs, name)
        outputs[name] = produced
        self.done[name] = inputs, produced

    @staticmethod
    def _found(one: Json, outer_key: str, task_key: str, outer: Values, outputs: dict[str, Values | None]) -> Any:
        if outer_key in one:
            return outer[one[outer_key]]
        source = one[task_key]
        produced = outputs[source["producerTask"]]
        assert produced is not None, source
        return produced[source.get("outputParameterKey") or source["outputArtifactKey"]]

    @staticmethod
    def _holds(condition: str, inputs: Values) -> bool:
        negated = condition.startswith("!(")
        match = CONDITION.fullmatch(condition[2:-1] if negated else condition)
        assert match, condition
        wanted = True if match["value"] == "true" else match["value"][1:-1]
        return bool((inputs[match["name"]] == wanted) is not negated)

    @staticmethod
    def _import(importer: Json, inputs: Values) -> Values:
        context = Context({"inputs": {"parameterValues": inputs}, "outputs": {}}, JOB)
        metadata = json.loads(context.render(json.dumps(importer.get("metadata", {}))))
        uri = inputs[importer["artifactUri"]["runtimeParameter"]]
        return {"artifact": {"name": "", "uri": uri, "metadata": metadata, "type": importer["typeSchema"]}}

    def command(self, name: str, inputs: Values, task: str = "task") -> tuple[list[str], Json]:
        """Returns the command line with which a step is run, and where it is to write its outputs.

        Args:
            name: The component's name.
            inputs: Its inputs.
            task: The task's name.
        """
        component = self.ir["components"][name]
        given = self._with_defaults(component, inputs)
        artifacts, parameters = (
            component.get("outputDefinitions", {}).get(one, {}) for one in ("artifacts", "parameters")
        )
        folder = self.buckets / "bucket" / "runs" / task
        known = component.get("inputDefinitions", {}).get("artifacts", {})
        outputs: Json = {
            "parameters": {key: {"outputFile": str(folder / key)} for key in parameters},
            "artifacts": {key: {"artifacts": [self._artifact(task, key, one)]} for key, one in artifacts.items()},
            "outputFile": str(folder / "executor_output.json"),
        }
        values = {key: value for key, value in given.items() if key not in known}
        found = {key: {"artifacts": [given[key]]} for key in known if key in given}
        executor_input = {"inputs": {"parameterValues": values, "artifacts": found}, "outputs": outputs}
        context = Context(executor_input, JOB, given.keys() - inputs.keys())
        container = self.ir["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        return [*container["command"], *context.arguments(container["args"])], outputs

    @staticmethod
    def _artifact(task: str, key: str, definition: Json) -> Json:
        return {
            "name": key,
            "uri": f"gs://bucket/runs/{task}/{key}",
            "metadata": {},
            "type": definition["artifactType"],
        }

    @staticmethod
    def _launch(module: str, args: list[str], task: str) -> None:
        try:
            importlib.import_module(module).main(args)
        except (Exception, SystemExit) as error:
            raise FailedError(f"{task}: {error}") from error

    def start(self, command: list[str], task: str) -> None:
        """Runs a step's command line.

        Args:
            command: The command line.
            task: The task's name.

        Raises:
            FailedError: It failed.
        """
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise FailedError(f"{task}: {done.stderr.strip().splitlines()[-1]}")

    @staticmethod
    def _outputs(declared: Json, folder: Path) -> Values:
        written = folder / "executor_output.json"
        told = json.loads(written.read_text()) if written.exists() else {}
        found: Values = {key: one["artifacts"][0] for key, one in declared["artifacts"].items()}
        for key, one in told.get("artifacts", {}).items():
            found[key] |= one["artifacts"][0]
        found |= {key: (folder / key).read_text() for key in declared["parameters"] if (folder / key).exists()}
        return {**found, **told.get("parameterValues", {})}


def through(cloud_url: str, patch: Callable[..., None]) -> None:
    """Leads Google's launchers, which know only their real address, to a stand-in.

    Args:
        cloud_url: The stand-in's address.
        patch: Sets an attribute for the time of a test, as `monkeypatch.setattr` does.
    """
    real, send, default = f"https://{REGION}-aiplatform.googleapis.com", requests.Session.request, google.auth.default

    def led(session: Any, method: str, url: str, *arguments: Any, **named: Any) -> Any:
        return send(session, method, url.replace(real, cloud_url), *arguments, **named)

    patch(requests.Session, "request", led)
    # Google's machines give such a token unasked.
    scopes = ["https://www.googleapis.com/auth/cloud-platform"]
    patch(google.auth, "default", lambda **named: default(**{"scopes": scopes, **named}))
    # The client's own choice is gRPC.
    options: Json = {"transport": "rest", "client_options": {"api_endpoint": cloud_url}}
    service = aiplatform_v1beta1.JobServiceClient
    patch(job_remote_runner, "_POLLING_INTERVAL_IN_SECONDS", 0.1)
    patch(aiplatform_v1beta1, "JobServiceClient", lambda **_: service(**options))
