"""`--doctor`: whether all is there that a run on Kubeflow needs, a line each; nothing is changed."""

import sys
from collections.abc import Callable
from typing import Any, TextIO

from nlp_pipeline.client.doctor_cluster import check_cluster, check_serving, check_volume
from nlp_pipeline.client.doctor_findings import Check, Findings
from nlp_pipeline.client.doctor_server import (
    check_clock,
    check_image_name,
    check_namespace,
    check_object_store,
    check_server,
    check_sign_in,
    check_version,
)
from nlp_pipeline.settings import Settings

__all__ = ["Check", "all_required", "doctor", "print_checks"]

MARKS = {True: "✓", False: "✗", None: "–"}  # noqa: RUF001
ASCII_MARKS = {True: "+", False: "x", None: "-"}
CHECKS: tuple[Callable[[Findings], None], ...] = (
    check_server,
    check_sign_in,
    check_cluster,
    check_namespace,
    check_version,
    check_clock,
    check_volume,
    check_serving,
    check_object_store,
    check_image_name,
)


def doctor(settings: Settings, values: dict[str, Any]) -> list[Check]:
    """Checks what a run on Kubeflow needs. Nothing is changed, and no failure keeps it from the other checks.

    Args:
        settings: The settings.
        values: The pipeline's parameters that the user set.

    Returns:
        The checks, in the order in which they depend on each other.

    Raises:
        UsageError: A parameter is not in its range.
    """
    from nlp_pipeline.pipeline.parameters import check_ranges, pipeline_parameters

    check_ranges(values)
    defaults = {name: one.default for name, one in pipeline_parameters().items()}
    found = Findings(settings, defaults | values)
    for check in CHECKS:
        check(found)
    return found.checks


def all_required(checks: list[Check]) -> bool:
    """Tells whether nothing that a run needs is known to be missing."""
    return not any(one.required and one.ok is False for one in checks)


def print_checks(checks: list[Check], stream: TextIO | None = None) -> None:
    """Prints the checks, a line each: a mark, what was looked at, what was found, and what mends it.

    Args:
        checks: The checks.
        stream: Where to; stdout by default.
    """
    stream = stream or sys.stdout
    encoding = stream.encoding or "ascii"
    try:
        "".join(MARKS.values()).encode(encoding)
        marks = MARKS
    except UnicodeEncodeError:
        marks = ASCII_MARKS
    width = max((len(one.name) for one in checks), default=0)
    for one in checks:
        mend = f": {one.mend}" if one.mend and one.ok is False else ""
        optional = "" if one.required or one.ok is not False else " (a run can do without)"
        line = f"{marks[one.ok]} {one.name:<{width}}  {one.detail}{optional}{mend}\n"
        stream.write(line.encode(encoding, "backslashreplace").decode(encoding))
