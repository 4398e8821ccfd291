"""What the doctor's checks of Vertex AI hand on to each other."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nlp_pipeline.errors import PipelineError
from nlp_pipeline.platforms.calls import NotFoundError
from nlp_pipeline.platforms.doctor import Check
from nlp_pipeline.settings import Settings
from nlp_pipeline.vertex.connection import Connection

NOT_SIGNED_IN = "not signed in, or the project is not known"


@dataclass
class Findings:
    """What was found out.

    Attributes:
        settings: The settings.
        given: The pipeline's arguments that the user set.
        values: All of them.
        checks: What was found out so far.
        connection: The connection; None where there is none.
        number: The project's number; empty where it is not known.
    """

    settings: Settings
    given: dict[str, Any]
    values: dict[str, Any]
    checks: list[Check] = field(default_factory=list)
    connection: Connection | None = None
    number: str = ""

    def add(self, name: str, ok: bool | None, detail: str, remedy: str = "", required: bool = True) -> None:
        """Notes what was found out."""
        self.checks.append(Check(name, ok, required, " ".join(detail.split()), remedy))


def answered(ask: Callable[..., Any], *values: Any, **named: Any) -> tuple[bool | None, Any]:
    """Asks something.

    Args:
        ask: Asks.
        *values: Its arguments.
        **named: Its named arguments.

    Returns:
        True and the answer; or, with what went wrong, False where it is not there, and None where that can't be known.
    """
    try:
        return True, ask(*values, **named)
    except NotFoundError as error:
        return False, str(error)
    except PipelineError as error:
        return None, str(error)
