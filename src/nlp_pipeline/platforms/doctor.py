"""The doctor on either platform: whether all is there that a run needs, a line each; nothing is changed."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from nlp_pipeline.deploy.cluster import NotThereError
from nlp_pipeline.errors import PipelineError
from nlp_pipeline.pipeline.parameters import find_pipeline, with_defaults
from nlp_pipeline.platforms.calls import NotFoundError
from nlp_pipeline.settings import Settings

MARKS = {True: "✓", False: "✗", None: "–"}  # noqa: RUF001


@dataclass(frozen=True)
class Finding:
    """What a check finds: `ok` is None where it can't be known, and `required` what a run can't go well without."""

    ok: bool | None
    detail: str
    remedy: str = ""
    required: bool = True
    name: str = ""


class Doctor(ABC):
    """The checks of a platform. Each finds something, or raises why it can't be known, and may hand on what it knows.

    Attributes:
        chosen: The parameters that the user set.
        values: All parameters, the others with their defaults.
    """

    platform: ClassVar[str]
    optional: ClassVar[tuple[str, ...]] = ()  # checks of what a run can do without
    # Checks whose errors say that it is not as it should be, not that it can't be known.
    certain: ClassVar[tuple[str, ...]]

    def __init__(self, settings: Settings, chosen: dict[str, Any]) -> None:
        self.settings, self.chosen = settings, chosen
        pipeline = find_pipeline(self.platform, settings.pipeline)
        self.values = with_defaults(chosen, pipeline)
        self.findings: list[Finding] = []

    @abstractmethod
    def plan(self) -> Iterator[tuple[str, Callable[[], Finding]]]:
        """Yields the checks by name, in the order in which they depend on each other."""

    def examine(self) -> list[Finding]:
        """Does all checks; no failure keeps it from the others."""
        for name, check in self.plan():
            try:
                finding = check()
            except PipelineError as error:
                is_known = isinstance(error, NotFoundError | NotThereError) or name in self.certain
                finding = Finding(False if is_known else None, str(error))
            required = finding.required and name not in self.optional
            detail = " ".join(finding.detail.split())
            self.findings.append(replace(finding, name=name, required=required, detail=detail))
        return self.findings

    def result(self, name: str) -> bool | None:
        """Returns what a check of a name came to; None also where it was not done."""
        return next((finding.ok for finding in self.findings if finding.name == name), None)


def missing(findings: list[Finding]) -> list[str]:
    """Returns the names of what a run needs and is known not to be there."""
    return [finding.name for finding in findings if finding.required and finding.ok is False]


def print_findings(findings: list[Finding]) -> None:
    """Prints a line for each check: a mark, what was looked at, what was found, and what remedies it."""
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        line = f"{MARKS[finding.ok]} {finding.name:<{width}}  {finding.detail}"
        if finding.ok is False:
            line += "" if finding.required else " (a run can do without)"
            line += f": {finding.remedy}" if finding.remedy else ""
        print(line)
