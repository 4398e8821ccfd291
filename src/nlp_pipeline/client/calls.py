"""What calls of a server's API end with where they fail, and how something is made just once all the same."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from nlp_pipeline.errors import PipelineError, UsageError


class NotFoundError(PipelineError):
    """What was asked for is not there."""


class ConflictError(PipelineError):
    """What was to be made is there already."""


class UnansweredError(PipelineError):
    """No answer came in time; what was asked for may still be done."""


def make_once(
    doing: str, send: Callable[[], Any], find: Callable[[], Any], waits: Iterable[float | None], unique: bool
) -> Any:
    """Makes something, once: where an answer is lost, it is looked for before it is made again.

    Args:
        doing: What is made, for messages.
        send: Asks for it to be made, one time.
        find: Looks for it; returns None where it is not there.
        waits: Seconds to wait after each attempt; None for the last one.
        unique: Whether there can't be two of its name. What is not so isn't made again after a silence, as the
            server may still be making it.

    Returns:
        What `send` or `find` returned.

    Raises:
        PipelineError: What `send` raised, where it is not there; or it is not known whether it is.
    """
    failed: PipelineError | None = None
    for wait in waits:
        try:
            if unique or not isinstance(failed, UnansweredError):
                return send()
        except (UsageError, NotFoundError):
            raise
        except PipelineError as error:
            failed = error
        is_taken = isinstance(failed, ConflictError)
        if not is_taken:
            time.sleep(wait or 0)
        try:
            found = find()
        except PipelineError as error:
            told = str(failed).removeprefix(f"{doing}: ")
            raise PipelineError(f"{doing}: {told}; whether it was done is not known: {error}") from None
        if found is not None:
            return found
        if is_taken and failed:
            raise failed
    if isinstance(failed, UnansweredError):
        told = str(failed).removeprefix(f"{doing}: ")
        failed = PipelineError(f"{doing}: {told}; it may yet be done: look before you do it again")
    raise failed or AssertionError("unreachable")
