"""How Vertex AI puts values into the command line of a step, as far as the compiled pipeline and Google's steps use it.

The syntax is KFP's (https://www.kubeflow.org/docs/components/pipelines/): texts are put in as they are, all else as
JSON; `.json_escape[1]` makes a text fit for the inside of a JSON string; `{{$}}` is the executor input, all of a step's
inputs and outputs as JSON. Defaults that were compiled in may hold placeholders, a user's values are never looked into.
"""

import json
import re
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Any

PLACEHOLDER = re.compile(r"\{\{\$(?P<path>[^{}]*)\}\}")
INPUT = re.compile(r"\.inputs\.parameters\['(?P<name>[^']+)'\]")
OUTPUT = re.compile(r"\.outputs\.parameters\['(?P<name>[^']+)'\]\.output_file")
METADATA = re.compile(r"\.inputs\.artifacts\['(?P<name>[^']+)'\]\.metadata\['(?P<key>[^']+)'\]")


@dataclass
class Context:
    """What placeholders stand for.

    Attributes:
        executor_input: KFP's ExecutorInput, as JSON.
        job: What is known of the run, as in `pipeline_job_uuid`.
        defaults: Names of the parameters that have the value that was compiled in.
    """

    executor_input: dict[str, Any]
    job: dict[str, str]
    defaults: Set[str] = field(default_factory=frozenset)

    def render(self, text: str) -> str:
        """Returns a text with values in the place of its placeholders."""
        return PLACEHOLDER.sub(lambda match: self._value(match["path"]), text)

    def arguments(self, args: list[str]) -> list[str]:
        """Returns a command line with values in the place of placeholders."""
        return [text for arg in args for text in self._argument(arg)]

    def _argument(self, arg: str) -> list[str]:
        if arg.startswith('{"Concat"'):
            return ["".join(self.render(part) for part in json.loads(arg)["Concat"])]
        if arg.startswith('{"IfPresent"'):
            clause = json.loads(arg)["IfPresent"]
            inputs = self.executor_input["inputs"]
            present = {**inputs["parameterValues"], **inputs["artifacts"]}
            return self.arguments(clause["Then"] if clause["InputName"] in present else clause.get("Else", []))
        return [self.render(arg)]

    def _value(self, path: str) -> str:
        inputs, outputs = self.executor_input["inputs"], self.executor_input["outputs"]
        if path == "":
            return json.dumps(self.executor_input)
        if path == ".json_escape[1]":
            return json.dumps(json.dumps(self.executor_input))[1:-1]
        if match := INPUT.fullmatch(path):
            value = inputs["parameterValues"][match["name"]]
            text = value if isinstance(value, str) else json.dumps(value)
            return self.render(text) if match["name"] in self.defaults else text
        if match := OUTPUT.fullmatch(path):
            return str(outputs["parameters"][match["name"]]["outputFile"])
        if match := METADATA.fullmatch(path):
            return str(inputs["artifacts"][match["name"]]["artifacts"][0]["metadata"][match["key"]])
        return self.job[path.removeprefix(".")]
