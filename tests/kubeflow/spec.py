"""Pipelines as the API server understands them: two YAML documents read as protobuf, and parameters checked.

After backend/src/apiserver/template/v2_template.go.
"""

import dataclasses
import functools
import json
from typing import Any

import yaml

from tests.kubeflow.errors import Refused, invalid

Json = dict[str, Any]
BROKEN = "InvalidInputError: {}: invalid pipeline spec"
TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "NUMBER_DOUBLE": ((int, float), "double or integer, but the parameter value is not of number value type"),
    "NUMBER_INTEGER": ((int, float), "double or integer, but the parameter value is not of number value type"),
    "STRING": (str, "string, but the input parameter is not of string value type"),
    "BOOLEAN": (bool, "bool, but the input parameter is not of bool value type"),
    "LIST": (list, "list, but the input parameter is not of list value type"),
    "STRUCT": (dict, "struct, but the input parameter is not of struct value type"),
}


@dataclasses.dataclass(frozen=True)
class Template:
    """A pipeline.

    Attributes:
        pipeline: Its spec, with protobuf's names.
        platform: The Kubernetes part; empty where there is none.
    """

    pipeline: Json
    platform: Json

    @property
    def name(self) -> str:
        """The pipeline's own name."""
        return str(self.pipeline["pipelineInfo"]["name"])

    @property
    def json(self) -> Json:
        """The `pipeline_spec` that the server answers with: both parts under their names, or the only one itself."""
        return {"pipeline_spec": self.pipeline, "platform_spec": self.platform} if self.platform else self.pipeline

    def check(self, parameters: Json) -> None:
        """Raises `Refused` for parameters that are missing, of a wrong type, or unknown."""
        known = self.pipeline["root"].get("inputDefinitions", {}).get("parameters", {})
        for name, definition in known.items():
            if name not in parameters:
                if not definition.get("isOptional") and "defaultValue" not in definition:
                    raise invalid(f"parameter {name} is not optional, yet has neither default value nor user "
                                  "provided value")  # fmt: skip
                continue
            value = parameters[name]
            kinds, told = TYPES[definition["parameterType"]]
            if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
                raise invalid(f"input parameter {name} requires type {told}")
        extra = [name for name in parameters if name not in known]
        if extra:
            raise invalid(f"parameter(s) provided are not required by pipeline: {', '.join(extra)}")


def broken(text: str) -> Refused:
    """Returns the error for a pipeline that can't be read."""
    return Refused("InvalidArgument", text, BROKEN.format(text))


@functools.lru_cache(maxsize=64)
def parse(text: bytes) -> Template:
    """Returns the pipeline of an uploaded file.

    Raises:
        Refused: It is none.
    """
    try:
        documents = [one for one in yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if one]
    except yaml.YAMLError as error:
        raise broken(f"failed to parse pipeline spec YAML: {error}") from error
    return template(documents)


def of_struct(told: Json) -> Template:
    """Returns the pipeline that a run brings along as `pipeline_spec`."""
    if "pipeline_spec" in told:
        return template([told["pipeline_spec"], *([told["platform_spec"]] if told.get("platform_spec") else [])])
    return template([told])


def template(documents: list[Any]) -> Template:
    """Returns the pipeline of a file's documents."""
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    pipeline: Json = {}
    platform: Json = {}
    for document in documents:
        if not isinstance(document, dict) or not {"pipelineInfo", "platforms", "pipeline_info"} & set(document):
            raise broken("unknown template format")
        is_platform = "platforms" in document
        if platform if is_platform else pipeline:
            raise broken(f"multiple {'platform' if is_platform else 'pipeline'} specs provided")
        message = pipeline_spec_pb2.PlatformSpec() if is_platform else pipeline_spec_pb2.PipelineSpec()
        try:
            found = json_format.MessageToDict(json_format.Parse(json.dumps(document), message))
        except json_format.ParseError as error:
            raise broken(f"invalid v2 pipeline spec: {error}") from error
        pipeline, platform = (pipeline, found) if is_platform else (found, platform)
    if not pipeline:
        raise broken("no pipeline spec is provided")
    version = pipeline.get("schemaVersion", "")
    if version != "2.1.0":
        raise broken(f"KFP only supports schema version 2.1.0, but the pipeline spec has version {version}")
    if not pipeline["pipelineInfo"].get("name"):
        raise broken("invalid v2 pipeline spec: name is empty")
    if not pipeline.get("root"):
        raise broken("invalid v2 pipeline spec: root component is empty")
    return Template(pipeline, platform if "kubernetes" in platform.get("platforms", {}) else {})
