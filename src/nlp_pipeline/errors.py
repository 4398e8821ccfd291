"""What can go wrong, in one line and with an exit code.

PipelineError                 1  a run failed
├── UsageError                2  bad usage or configuration
├── GateNotPassedError        3  the model did not pass the gate, or data have moved
├── TimedOutError             4  it was not ready in time
└── RolledBackError           5  the new release failed; what was there before serves again
"""

from typing import Any


class PipelineError(Exception):
    """A run failed.

    Args:
        message: One line: what is wrong, the offending value, what to do.
        facts: What `--json` has besides.
    """

    exit_code = 1

    def __init__(self, message: str, facts: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.facts = facts or {}


class UsageError(PipelineError):
    """The command line or the configuration can't be acted on."""

    exit_code = 2


class GateNotPassedError(PipelineError):
    """The model is not good enough to be archived."""

    exit_code = 3


class TimedOutError(PipelineError):
    """Something was not ready in time."""

    exit_code = 4


class RolledBackError(PipelineError):
    """A deployment failed, and what was there before was put back."""

    exit_code = 5


class StoppedWaitingError(KeyboardInterrupt):
    """Someone does not want to wait any longer; what they waited for goes on. See PipelineError."""

    def __init__(self, message: str, facts: dict[str, Any]) -> None:
        super().__init__(message)
        self.facts = facts
