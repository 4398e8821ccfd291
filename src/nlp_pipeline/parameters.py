"""The pipeline's parameters: what there is, and what `--set NAME=VALUE` makes of it."""

import difflib
import math
from dataclasses import dataclass
from typing import Any

from nlp_pipeline.compiling import load_pipeline
from nlp_pipeline.errors import UsageError

KINDS: dict[str, type] = {"String": str, "Integer": int, "Float": float, "Boolean": bool}


@dataclass(frozen=True)
class Parameter:
    """A parameter of the pipeline.

    Attributes:
        name: Its name.
        kind: `str`, `int`, `float` or `bool`.
        default: Its default; None where a value must be given.
        description: What it is, a sentence.
    """

    name: str
    kind: type
    default: Any
    description: str


def pipeline_parameters(platform: str = "kubeflow") -> dict[str, Parameter]:
    """Returns the pipeline's parameters by name, in the order of its signature.

    Args:
        platform: One of `compiling.PLATFORMS`.

    Raises:
        UsageError: What the platform needs is not installed.
    """
    inputs = load_pipeline(platform).component_spec.inputs or {}
    return {name: Parameter(name, KINDS[one.type], one.default, one.description or "") for name, one in inputs.items()}


def parse_settings(settings: list[str], platform: str = "kubeflow") -> dict[str, Any]:
    """Reads what `--set` was given.

    Args:
        settings: `NAME=VALUE` each; of a name that stands twice the last counts.
        platform: One of `compiling.PLATFORMS`.

    Returns:
        The values, in the parameters' types.

    Raises:
        UsageError: There is no "=", the name is unknown (the message has the nearest one), or the value is not of the
            parameter's type.
    """
    parameters = pipeline_parameters(platform)
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting!r} has no '=': write --set NAME=VALUE, as in --set epochs=3")
        if name not in parameters:
            near = difflib.get_close_matches(name, parameters, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the parameters are {', '.join(parameters)}"
            raise UsageError(f"--set {setting!r}: the pipeline has no parameter {name!r}; {hint}")
        kind = parameters[name].kind
        try:
            values[name] = {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
            if kind is float and not math.isfinite(values[name]):
                raise ValueError
        except (ValueError, KeyError):
            what = {int: "an integer", float: "a number", bool: "true or false"}[kind]
            raise UsageError(
                f"--set {setting!r}: {name} is {what}, as in --set {name}={str(parameters[name].default).lower()}"
            ) from None
    return values


def refuse_passwords(values: dict[str, Any]) -> None:
    """Makes sure that no address among the parameters holds a password: parameters are stored and shown.

    Raises:
        UsageError: One does; the message does not show it.
    """
    for name, value in values.items():
        if isinstance(value, str) and "@" in value.partition("://")[2].partition("/")[0]:
            raise UsageError(
                f"{name} holds a user or a password, and parameters are stored and shown: leave it out of the address; "
                "for s3:// put it into the Secret that s3_secret names"
            )


def check_ranges(values: dict[str, Any], platform: str = "kubeflow") -> None:
    """Makes sure that parameters are in their ranges: a step would find out too, but maybe an hour later.

    Args:
        values: Some of the pipeline's arguments.
        platform: One of `compiling.PLATFORMS`.

    Raises:
        UsageError: One is not in its range.
    """
    from nlp_pipeline.components.ranges import check_parameters
    from nlp_pipeline.components.vertex_ranges import check_vertex_settings

    check = {"kubeflow": check_parameters, "vertex": check_vertex_settings}[platform]
    try:
        check(**values)
    except ValueError as error:
        raise UsageError(str(error)) from None
