"""Runs a compiled pipeline as Vertex AI Pipelines would, on this machine: each step by its own command line.

The steps of this project run in processes of their own; Google's run in this one, by their real launchers. Buckets are
folders, which `/gcs` leads to. Into a command line texts are put as they are, all else as JSON; `.json_escape[1]` makes
a text fit for the inside of a JSON string; `{{$}}` is the executor input. Defaults that were compiled in may hold
placeholders, a user's values are never looked into.
"""

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

import google.auth
import requests
from google.cloud import aiplatform_v1beta1
from google_cloud_pipeline_components.container.preview.gcp_launcher import job_remote_runner

from tests.fakes.vertex.cloud import PROJECT, REGION
from tests.fakes.vertex.rest import Json

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
PLACEHOLDER = re.compile(r"\{\{\$(?P<path>[^{}]*)\}\}")
INPUT = re.compile(r"\.inputs\.parameters\['(?P<name>[^']+)'\]")
OUTPUT = re.compile(r"\.outputs\.parameters\['(?P<name>[^']+)'\]\.output_file")
METADATA = re.compile(r"\.inputs\.artifacts\['(?P<name>[^']+)'\]\.metadata\['(?P<key>[^']+)'\]")


class FailedError(Exception):
    """A step failed. The message is its name and the last line that it wrote."""


class Context:
    """What placeholders stand for: KFP's ExecutorInput, which parameters have the compiled default, and the run."""

    def __init__(self, executor_input: Json, defaults: Set[str] = frozenset()) -> None:
        self._given, self._defaults = executor_input, defaults

    def render(self, text: str) -> str:
        return PLACEHOLDER.sub(lambda match: self._value(match["path"]), text)

    def arguments(self, args: list[str]) -> list[str]:
        return [text for arg in args for text in self._argument(arg)]

    def _argument(self, arg: str) -> list[str]:
        if arg.startswith('{"Concat"'):
            return ["".join(self.render(part) for part in json.loads(arg)["Concat"])]
        if arg.startswith('{"IfPresent"'):
            clause, inputs = json.loads(arg)["IfPresent"], self._given["inputs"]
            is_present = clause["InputName"] in {**inputs["parameterValues"], **inputs["artifacts"]}
            return self.arguments(clause["Then"] if is_present else clause.get("Else", []))
        return [self.render(arg)]

    def _value(self, path: str) -> str:
        inputs, outputs = self._given["inputs"], self._given["outputs"]
        if path == "":
            return json.dumps(self._given)
        if path == ".json_escape[1]":
            return json.dumps(json.dumps(self._given))[1:-1]
        if match := INPUT.fullmatch(path):
            value = inputs["parameterValues"][match["name"]]
            text = value if isinstance(value, str) else json.dumps(value)
            return self.render(text) if match["name"] in self._defaults else text
        if match := OUTPUT.fullmatch(path):
            return str(outputs["parameters"][match["name"]]["outputFile"])
        if match := METADATA.fullmatch(path):
            return str(inputs["artifacts"][match["name"]]["artifacts"][0]["metadata"][match["key"]])
        return JOB[path.removeprefix(".")]


def of_run(text: str) -> str:
    """Returns a text with what is known of the run in the place of its placeholders."""
    return Context({"inputs": {}, "outputs": {}}).render(text)


class Backend:
    """A run of a compiled pipeline, which writes buckets into a folder.

    In `done` are the tasks that ran, groups among them, in order, with their inputs and outputs.
    """

    def __init__(self, ir: Json, folder: Path) -> None:
        self.ir = ir
        self.done: dict[str, tuple[Values, Values]] = {}
        self.buckets, site = folder / "gcs", folder / "site"
        site.mkdir(parents=True)
        (site / "sitecustomize.py").write_text(MOUNT)
        path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
        programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = {**os.environ, "PYTHONPATH": path, "BUCKETS": str(self.buckets), "PATH": programs}

    def run(self, parameters: Values) -> None:
        """Runs the whole pipeline with some parameters; the others have their defaults."""
        root = self.ir["root"]
        self._run_group(root["dag"], self._with_defaults(root, parameters))

    def run_component(self, name: str, inputs: Values, task: str = "") -> Values:
        component = self.ir["components"][name]
        options = self._with_defaults(component, inputs)
        if "dag" in component:
            return self._run_group(component["dag"], options)
        executor = self.ir["deploymentSpec"]["executors"][component["executorLabel"]]
        if importer := executor.get("importer"):
            context = Context({"inputs": {"parameterValues": options}, "outputs": {}})
            metadata = json.loads(context.render(json.dumps(importer.get("metadata", {}))))
            uri = options[importer["artifactUri"]["runtimeParameter"]]
            return {"artifact": {"name": "", "uri": uri, "metadata": metadata, "type": importer["typeSchema"]}}
        command, declared = self.command(name, inputs, task)
        folder = Path(declared["outputFile"]).parent
        folder.mkdir(parents=True, exist_ok=True)
        if command[:3] == ["python3", "-u", "-m"]:
            try:
                importlib.import_module(command[3]).main(command[4:])
            except (Exception, SystemExit) as error:
                raise FailedError(f"{task}: {error}") from error
        else:
            self.start(command, task)
        return self._outputs(declared, folder)

    @staticmethod
    def _with_defaults(component: Json, inputs: Values) -> Values:
        parameters = component.get("inputDefinitions", {}).get("parameters", {})
        values = {name: item["defaultValue"] for name, item in parameters.items() if "defaultValue" in item} | inputs
        for name, item in parameters.items():
            if item["parameterType"] == "NUMBER_INTEGER" and name in values:
                values[name] = int(values[name])
            if item["parameterType"] == "STRING" and name not in inputs and name in values:
                values[name] = of_run(values[name])
        return values

    def _run_group(self, dag: Json, inputs: Values) -> Values:
        outputs: dict[str, Values | None] = {}

        def run_with_those_before(name: str) -> None:
            for other in dag["tasks"][name].get("dependentTasks", []):
                run_with_those_before(other)
            if name not in outputs:
                outputs[name] = self._run_task(name, dag["tasks"][name], inputs, outputs)

        for name in sorted(dag["tasks"]):
            run_with_those_before(name)
        result = {}
        for key, item in dag.get("outputs", {}).get("artifacts", {}).items():
            for selector in item["artifactSelectors"]:
                if produced := outputs[selector["producerSubtask"]]:
                    result[key] = produced[selector["outputArtifactKey"]]
        return result

    def _run_task(self, name: str, task: Json, outer: Values, outputs: dict[str, Values | None]) -> Values | None:
        """Runs a task unless its condition, or one of a task before it, is not fulfilled; returns its outputs."""
        if any(outputs[other] is None for other in task.get("dependentTasks", [])):
            return None
        inputs: Values = {}
        options = task.get("inputs", {})
        for key, item in [*options.get("parameters", {}).items(), *options.get("artifacts", {}).items()]:
            if "runtimeValue" in item:
                constant = item["runtimeValue"]["constant"]
                inputs[key] = of_run(constant) if isinstance(constant, str) else constant
            elif source := item.get("taskOutputParameter") or item.get("taskOutputArtifact"):
                produced = outputs[source["producerTask"]]
                assert produced is not None, source
                inputs[key] = produced[source.get("outputParameterKey") or source["outputArtifactKey"]]
            else:
                inputs[key] = outer[item.get("componentInputParameter") or item["componentInputArtifact"]]
        if (condition := task.get("triggerPolicy", {}).get("condition")) and not self._holds(condition, inputs):
            return None
        produced = self.run_component(task["componentRef"]["name"], inputs, name)
        self.done[name] = inputs, produced
        return produced

    @staticmethod
    def _holds(condition: str, inputs: Values) -> bool:
        is_negated = condition.startswith("!(")
        match = CONDITION.fullmatch(condition[2:-1] if is_negated else condition)
        assert match, condition
        expected = True if match["value"] == "true" else match["value"][1:-1]
        return bool((inputs[match["name"]] == expected) is not is_negated)

    def command(self, name: str, inputs: Values, task: str = "task") -> tuple[list[str], Json]:
        """Returns the command line with which a step is run, and where it is to write its outputs."""
        component = self.ir["components"][name]
        options, declared = self._with_defaults(component, inputs), component.get("outputDefinitions", {})
        folder, known = (
            self.buckets / "bucket" / "runs" / task,
            component.get("inputDefinitions", {}).get("artifacts", {}),
        )

        def artifact(key: str, kind: Json) -> Json:
            return {"name": key, "uri": f"gs://bucket/runs/{task}/{key}", "metadata": {}, "type": kind["artifactType"]}

        artifacts = {key: {"artifacts": [artifact(key, item)]} for key, item in declared.get("artifacts", {}).items()}
        outputs: Json = {
            "parameters": {key: {"outputFile": str(folder / key)} for key in declared.get("parameters", {})},
            "artifacts": artifacts,
            "outputFile": str(folder / "executor_output.json"),
        }
        values = {key: value for key, value in options.items() if key not in known}
        result = {key: {"artifacts": [options[key]]} for key in known if key in options}
        executor_input = {"inputs": {"parameterValues": values, "artifacts": result}, "outputs": outputs}
        context = Context(executor_input, options.keys() - inputs.keys())
        container = self.ir["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        return [*container["command"], *context.arguments(container["args"])], outputs

    def start(self, command: list[str], task: str) -> None:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise FailedError(f"{task}: {done.stderr.strip().splitlines()[-1]}")

    @staticmethod
    def _outputs(declared: Json, folder: Path) -> Values:
        written = folder / "executor_output.json"
        result = json.loads(written.read_text()) if written.exists() else {}
        outcome: Values = {key: item["artifacts"][0] for key, item in declared["artifacts"].items()}
        for key, item in result.get("artifacts", {}).items():
            outcome[key] |= item["artifacts"][0]
        outcome |= {key: (folder / key).read_text() for key in declared["parameters"] if (folder / key).exists()}
        return {**outcome, **result.get("parameterValues", {})}


def through(cloud_url: str, patch: Callable[..., None]) -> None:
    """Leads Google's launchers, which know only their real address, to a stand-in, by `monkeypatch.setattr`."""
    real, send, default = f"https://{REGION}-aiplatform.googleapis.com", requests.Session.request, google.auth.default

    def redirected(session: Any, method: str, url: str, *arguments: Any, **named: Any) -> Any:
        return send(session, method, url.replace(real, cloud_url), *arguments, **named)

    patch(requests.Session, "request", redirected)
    # Google's machines give such a token unasked.
    scopes = ["https://www.googleapis.com/auth/cloud-platform"]
    patch(google.auth, "default", lambda **named: default(**{"scopes": scopes, **named}))
    # The client's own choice is gRPC.
    options: Json = {"transport": "rest", "client_options": {"api_endpoint": cloud_url}}
    service = aiplatform_v1beta1.JobServiceClient
    patch(job_remote_runner, "_POLLING_INTERVAL_IN_SECONDS", 0.1)
    patch(aiplatform_v1beta1, "JobServiceClient", lambda **_: service(**options))
