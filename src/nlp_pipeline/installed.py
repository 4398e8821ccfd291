"""What works only where this package is installed: on a laptop, and in steps that have an image of ours (`--image`).

The workflow of a run has no room for all of the code (see pipeline/budget.py), so what few need does not travel.
"""

import importlib
from typing import Any

from nlp_pipeline.errors import UsageError


def import_installed(module: str, parameter: str) -> Any:
    """Returns a module of the package that embedding does not follow; it is needed where a parameter is set.

    Raises:
        UsageError: The package is not installed, as where the step carries its code; the message names the parameter.
    """
    try:
        return importlib.import_module(f"nlp_pipeline.{module}")
    except ModuleNotFoundError:
        raise UsageError(f"{parameter} needs steps in an image of ours: compile with --image") from None
