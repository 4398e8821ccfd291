"""The doctor on either platform: whether all is there that a run needs, a line each; nothing is changed."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TextIO

from nlp_pipeline.deploy.cluster import NotThereError
from nlp_pipeline.errors import PipelineError
from nlp_pipeline.pipeline.parameters import pipeline_parameters
from nlp_pipeline.platforms.calls import NotFoundError
from nlp_pipeline.settings import Settings

MARKS = {True: "✓", False: "✗", None: "–"}  # noqa: RUF001
ASCII_MARKS = {True: "+", False: "x", None: "-"}


@dataclass(frozen=True)
class Check:
    """What was found out: `ok` is None where it can't be known, and `required` what a run can't go well without."""

    name: str
    ok: bool | None
    required: bool
    detail: str
    remedy: str = ""


class Finding(NamedTuple):
    """What a check finds; see `Check`."""

    ok: bool | None
    detail: str
    remedy: str = ""
    required: bool = True


class Doctor(ABC):
    """The checks of a platform. Each finds something, or raises why it can't be known, and may hand on what it knows.

    Attributes:
        platform: Its name.
        optional: Checks of what a run can do without.
        certain: Checks whose errors say that it is not as it should be, not that it can't be known.
        given: The parameters that the user set.
        values: All parameters, the others with their defaults.
    """

    platform: ClassVar[str]
    optional: ClassVar[tuple[str, ...]] = ()
    certain: ClassVar[tuple[str, ...]] = ()

    def __init__(self, settings: Settings, given: dict[str, Any]) -> None:
        self.settings, self.given = settings, given
        self.values = {name: item.default for name, item in pipeline_parameters(self.platform).items()} | given
        self.checks: list[Check] = []

    @abstractmethod
    def plan(self) -> Iterator[tuple[str, Callable[[], Finding]]]:
        """Yields the checks by name, in the order in which they depend on each other."""

    def examine(self) -> list[Check]:
        """Does all checks; no failure keeps it from the others."""
        for name, check in self.plan():
            try:
                finding = check()
            except PipelineError as error:
                is_known = isinstance(error, NotFoundError | NotThereError) or name in self.certain
                finding = Finding(False if is_known else None, str(error))
            required = finding.required and name not in self.optional
            self.checks.append(Check(name, finding.ok, required, " ".join(finding.detail.split()), finding.remedy))
        return self.checks

    def result(self, name: str) -> bool | None:
        """Returns what a check of a name came to; None also where it was not done."""
        return next((check.ok for check in self.checks if check.name == name), None)


def missing(checks: list[Check]) -> list[str]:
    """Returns the names of what a run needs and is known not to be there."""
    return [check.name for check in checks if check.required and check.ok is False]


def print_checks(checks: list[Check], stream: TextIO | None = None) -> None:
    """Prints the checks, a line each: a mark, what was looked at, what was found, and what remedies it."""
    stream = stream or sys.stdout
    encoding = stream.encoding or "ascii"
    try:
        "".join(MARKS.values()).encode(encoding)
        marks = MARKS
    except UnicodeEncodeError:
        marks = ASCII_MARKS
    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        remedy = f": {check.remedy}" if check.remedy and check.ok is False else ""
        optional = "" if check.required or check.ok is not False else " (a run can do without)"
        line = f"{marks[check.ok]} {check.name:<{width}}  {check.detail}{optional}{remedy}\n"
        stream.write(line.encode(encoding, "backslashreplace").decode(encoding))
