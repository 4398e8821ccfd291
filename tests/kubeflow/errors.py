"""Errors as KFP's API server tells them: a gRPC code, what the caller is told, and a chain of what went wrong.

After backend/src/common/util/error.go, as grpc-gateway v2 makes JSON of it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

CODES = {
    "InvalidArgument": (3, 400),
    "NotFound": (5, 404),
    "AlreadyExists": (6, 409),
    "PermissionDenied": (7, 403),
    "Aborted": (10, 409),
    "Unimplemented": (12, 501),
    "Internal": (13, 500),
    "Unauthenticated": (16, 401),
}


class Refused(Exception):  # noqa: N818
    """A request that the API server refuses.

    Args:
        code: The name of its gRPC code.
        told: What the caller is told, in `details`.
        message: The chain of errors, outermost first.
    """

    def __init__(self, code: str, told: str, message: str) -> None:
        super().__init__(message)
        self.code, self.told, self.message = code, told, message

    @property
    def status(self) -> int:
        """The HTTP status."""
        return CODES[self.code][1]

    def json(self, old: bool) -> dict[str, Any]:
        """Returns the body of the answer; before grpc-gateway v2, old servers also had `error`."""
        number = CODES[self.code][0]
        details = [{"@type": "type.googleapis.com/google.rpc.Status", "code": number, "message": self.told}]
        return {**({"error": self.message} if old else {}), "code": number, "message": self.message, "details": details}


def invalid(text: str) -> Refused:
    """Returns the error for input that is wrong."""
    return Refused("InvalidArgument", text, f"Invalid input error: {text}")


def not_found(kind: str, name: str) -> Refused:
    """Returns the error for what there isn't."""
    text = f"{kind} {name} not found"
    return Refused("NotFound", text, f"ResourceNotFoundError: {text}")


def already_exists(text: str) -> Refused:
    """Returns the error for a name that is taken."""
    return Refused("AlreadyExists", text, f"Already exist error: {text}")


@contextlib.contextmanager
def context(text: str) -> Iterator[None]:
    """Puts `text` before the chain of an error that is raised within."""
    try:
        yield
    except Refused as error:
        error.message = f"{text}: {error.message}"
        raise


@contextlib.contextmanager
def as_internal(text: str) -> Iterator[None]:
    """Makes a 500 of any error that is raised within, as the real server does at some places."""
    try:
        yield
    except Refused as error:
        raise Refused("Internal", "Internal Server Error", f"InternalServerError: {text}: {error.message}") from error
