"""What a doctor finds: whether all is there that a run needs, a line each; nothing is changed."""

import sys
from dataclasses import dataclass, field
from typing import Any, TextIO

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


@dataclass
class Findings:
    """What a doctor's checks find out and hand on to each other; `values` are all of the pipeline's arguments."""

    settings: Settings
    values: dict[str, Any]
    checks: list[Check] = field(default_factory=list)

    def add(self, name: str, ok: bool | None, detail: str, remedy: str = "", required: bool = True) -> None:
        """Notes what was found out."""
        self.checks.append(Check(name, ok, required, " ".join(detail.split()), remedy))


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
