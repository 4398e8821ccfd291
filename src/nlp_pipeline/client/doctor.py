"""`--doctor`: whether all is there that a run on Kubeflow needs, a line each; nothing is changed."""

from collections.abc import Callable
from typing import Any

from nlp_pipeline.client.doctor_cluster import check_cluster, check_serving, check_volume
from nlp_pipeline.client.doctor_findings import Findings
from nlp_pipeline.client.doctor_server import (
    check_clock,
    check_image_name,
    check_namespace,
    check_object_store,
    check_server,
    check_sign_in,
    check_version,
)
from nlp_pipeline.platforms.doctor import Check
from nlp_pipeline.settings import Settings

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
