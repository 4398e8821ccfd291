"""Calls of a server's API: what they end with, when they are tried again, and how something is made just once."""

from collections.abc import Callable
from typing import Any

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.storage import retrying


class NotFoundError(PipelineError):
    """What was asked for is not there."""


class ConflictError(PipelineError):
    """What was to be made is there already."""


class UnansweredError(PipelineError):
    """No answer came in time; what was asked for may still be done."""


def make_once(doing: str, send: Callable[[], Any], find: Callable[[], Any], unique: bool) -> Any:
    """Makes something, once: where an answer is lost, it is looked for before it is made again.

    Args:
        doing: What is made, for messages.
        send: Asks for it to be made, one time.
        find: Looks for it; returns None where it is not there.
        unique: Whether there can't be two of its name. What is not so isn't made again after a silence, as the
            server may still be making it.

    Returns:
        What `send` or `find` returned.

    Raises:
        PipelineError: What `send` raised, where it is not there; or it is not known whether it is.
    """
    return _Making(doing, send, find, unique)()


class _Making:
    """Makes something, once; see `make_once`."""

    def __init__(self, doing: str, send: Callable[[], Any], find: Callable[[], Any], unique: bool) -> None:
        self._doing, self._send, self._find, self._unique = doing, send, find, unique
        self._failed: PipelineError | None = None

    def __call__(self) -> Any:
        try:
            return retrying(self._is_transient)(self._attempt)()
        except PipelineError as error:
            if not self._is_transient(error):
                raise
        if (found := self._look()) is not None:
            return found
        if isinstance(self._failed, UnansweredError):
            raise self._unsure("it may yet be done: look before you do it again")
        raise self._failed or AssertionError("unreachable")

    def _is_transient(self, error: BaseException) -> bool:
        return error is self._failed and not isinstance(error, ConflictError)

    def _attempt(self) -> Any:
        if self._failed is not None and (found := self._look()) is not None:
            return found
        if isinstance(self._failed, UnansweredError) and not self._unique:
            raise self._failed
        try:
            return self._send()
        except (UsageError, NotFoundError):
            raise
        except PipelineError as error:
            self._failed = error
            if isinstance(error, ConflictError) and (found := self._look()) is not None:
                return found
            raise

    def _look(self) -> Any:
        try:
            return self._find()
        except PipelineError as error:
            raise self._unsure(f"whether it was done is not known: {error}") from None

    def _unsure(self, what: str) -> PipelineError:
        return PipelineError(f"{self._doing}: {str(self._failed).removeprefix(f'{self._doing}: ')}; {what}")
