"""`--doctor` on Vertex AI: whether all is there that a run needs, a line each; nothing is changed."""

from collections.abc import Callable
from typing import Any

from nlp_pipeline.platforms.doctor import Check
from nlp_pipeline.settings import Settings
from nlp_pipeline.vertex.doctor_findings import Findings
from nlp_pipeline.vertex.doctor_pipeline import check_compiled_file, check_images, check_values
from nlp_pipeline.vertex.doctor_project import check_apis, check_credentials, check_project, check_region, check_rights
from nlp_pipeline.vertex.doctor_resources import check_account, check_bucket, check_quotas

CHECKS: tuple[Callable[[Findings], None], ...] = (
    check_credentials,
    check_project,
    check_apis,
    check_region,
    check_rights,
    check_bucket,
    check_account,
    check_quotas,
    check_values,
    check_compiled_file,
    check_images,
)


def doctor(settings: Settings, values: dict[str, Any]) -> list[Check]:
    """Checks what a run on Vertex AI needs. Nothing is changed, and no failure keeps it from the other checks.

    Args:
        settings: The settings.
        values: The pipeline's parameters that the user set.

    Returns:
        The checks, in the order in which they depend on each other.
    """
    from nlp_pipeline.pipeline.parameters import pipeline_parameters

    defaults = {name: one.default for name, one in pipeline_parameters("vertex").items()}
    found = Findings(settings, values, defaults | values)
    for check in CHECKS:
        check(found)
    return found.checks
