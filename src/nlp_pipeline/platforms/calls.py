"""Calls of a server's API: what they end with, when they are tried again, and how something is made just once."""

import time
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from nlp_pipeline import storage
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.settings import Settings
from nlp_pipeline.storage import retrying

T = TypeVar("T")

# Statuses of a server that fails for a moment.
TRANSIENT = (429, 500, 502, 503, 504)


class NotFoundError(PipelineError):
    """What was asked for is not there."""


class ConflictError(PipelineError):
    """What was to be made is there already."""


class UnansweredError(PipelineError):
    """No answer came in time; what was asked for may still be done."""


def once_per_settings(connect: Callable[[Settings], T]) -> Callable[[Settings], T]:
    """Decorates a function that connects: for the same settings, as a command has them, it returns the same again."""
    last: list[tuple[Settings, T]] = []

    @wraps(connect)
    def connect_once(settings: Settings) -> T:
        if not last or last[0][0] is not settings:
            last[:] = [(settings, connect(settings))]
        return last[0][1]

    return connect_once


# What an answer's status means; others are failures.
ERRORS: dict[int, type[PipelineError]] = {
    400: UsageError,
    401: UsageError,
    403: UsageError,
    404: NotFoundError,
    409: ConflictError,
    504: UnansweredError,
}


def make_once(doing: str, send: Callable[[], Any], find: Callable[[], Any], unique: bool) -> Any:
    """Makes something, once: where an answer is lost, it is looked for before it is sent again.

    Args:
        doing: What is made, for messages.
        send: Asks for it to be made, one time.
        find: Looks for it; returns None where it is not there.
        unique: Whether there can't be two of it. What is not so is not sent again after a silence, as the server may
            still be at it.

    Returns:
        What `send` or `find` returned.

    Raises:
        UnansweredError: It is not known whether it was made: looking for it failed, or no answer came in time.
        PipelineError: What `send` raised, where it is not there.
    """

    def attempt() -> Any:
        try:
            return send()
        except (UsageError, NotFoundError):
            raise
        except PipelineError as failure:
            reason = str(failure).removeprefix(f"{doing}: ")
            time.sleep(storage.FIRST_WAIT)  # the server may still be at it
            try:
                item = find()
            except PipelineError as error:
                raise UnansweredError(f"{doing}: {reason}; whether it was done is not known: {error}") from None
            if item is not None:
                return item
            if isinstance(failure, UnansweredError):
                raise UnansweredError(f"{doing}: {reason}; it may yet be done: look before you do it again") from None
            raise

    def may_repeat(error: BaseException) -> bool:
        if isinstance(error, UnansweredError):
            return unique
        return isinstance(error, PipelineError) and not isinstance(error, UsageError | NotFoundError | ConflictError)

    return retrying(may_pass=may_repeat)(attempt)()
