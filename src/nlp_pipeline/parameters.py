"""How a parameter of the pipeline is declared: in one line, in the settings of the step that takes it.

A step's settings are a frozen dataclass derived from `Settings`, whose fields are declared by `parameter`. All else is
derived from that line: the component's signature (`flatten`), the pipeline's, `--set`, the checks before a run is
submitted and at the start of the step, and the table of parameters in the documentation.
"""

import contextlib
import inspect
import re
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Self

from nlp_pipeline.errors import UsageError

# Whether a value is allowed, and what is, as a sentence ends that begins with "it must be".
Range = tuple[Callable[[Any], bool], str]

REQUIRED: Any = MISSING
ANYTHING: Range = (lambda value: True, "")
SHARE: Range = (lambda value: 0 <= value <= 1, "from 0 to 1, as 0.05 for 5%")
COUNT: Range = (lambda value: value >= 0, "0 or more")
POSITIVE: Range = (lambda value: value >= 1, "1 or more")


def matches(pattern: str, meaning: str) -> Range:
    """Returns the range of texts that a regular expression matches whole."""
    return (lambda value: re.fullmatch(pattern, value, re.ASCII) is not None, meaning)


# It names the InferenceService too: a DNS-1035 label, of which KServe makes isvc.NAME-predictor, of 63 at most.
MODEL_NAME = matches(
    r"[a-z]([-a-z0-9]{0,46}[a-z0-9])?",
    "lower-case letters, digits and hyphens, a letter first, 48 at most, as in 'movie-reviews'",
)


def one_of(*values: str) -> Range:
    """Returns the range of a few texts, the empty one among them perhaps."""
    return (lambda value: value in values, " or ".join(value or "empty" for value in values))


def parameter(default: Any, description: str, allowed: Range = ANYTHING) -> Any:
    """Declares a parameter of the pipeline, as a field of settings; REQUIRED where it has no default.

    The description is a sentence, with unit or range where they are not plain.
    """
    metadata = {"description": description, "allowed": allowed}
    if isinstance(default, dict | list):  # which a dataclass makes anew for each
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The base of a step's settings.

    Raises:
        UsageError: A value is not in its range; the message names it, and what it may be.
    """

    def __post_init__(self) -> None:
        for item in fields(self):
            value, (is_allowed, meaning) = getattr(self, item.name), item.metadata.get("allowed", ANYTHING)
            if not is_allowed(value):
                raise UsageError(f"{item.name} is {value!r}: it must be {meaning}")

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """Returns settings of those values that they have a field for."""
        return cls(**{item.name: values[item.name] for item in fields(cls) if item.name in values})

    def during(self, step: str) -> contextlib.AbstractContextManager[None]:
        """Returns what surrounds a step that is called with the settings."""
        return contextlib.nullcontext()


def inputs_of(kind: type[Settings]) -> list[Field[Any]]:
    """Returns the fields of settings that a component has as inputs: all but those that a step finds out by itself."""
    return [item for item in fields(kind) if item.metadata or item.default_factory is MISSING]


def is_settings(kind: Any) -> bool:
    """Says whether a type is a class of settings."""
    return inspect.isclass(kind) and issubclass(kind, Settings)


def flatten(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a component's function a parameter for each input of the settings that it takes.

    kfp knows neither dataclasses nor their fields. The function is called with the settings made anew, in their order.
    """
    signature = inspect.signature(function)
    types = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    settings = {name: types.pop(name) for name, kind in signature.parameters.items() if is_settings(kind.annotation)}

    def call(**values: Any) -> Any:
        with contextlib.ExitStack() as stack:
            for name, kind in settings.items():
                values[name] = kind.of(values)
                stack.enter_context(values[name].during(function.__name__))
            return function(**{name: values[name] for name in signature.parameters})

    types = {item.name: item.type for kind in settings.values() for item in inputs_of(kind)} | types
    call.__annotations__ = types
    call.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=types[name]) for name in types]
    )
    return call
