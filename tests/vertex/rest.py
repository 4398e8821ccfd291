"""How Google's APIs speak over REST: messages as JSON, errors, pages, filters, masks, and long-running operations."""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf import field_mask_pb2, json_format

from tests.fakes.httpd import Request, Response

Json = dict[str, Any]
STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class RefusedError(Exception):
    """A request is answered with an error.

    Args:
        code: HTTP's status.
        message: What is told.
        reason: Of `google.rpc.ErrorInfo`; empty for none.
        metadata: Its metadata.
    """

    def __init__(self, code: int, message: str, reason: str = "", metadata: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.reason, self.metadata = code, message, reason, metadata or {}

    def response(self) -> Response:
        """Returns the answer."""
        error: Json = {"code": self.code, "message": self.message, "status": STATUS[self.code]}
        if self.reason:
            kind = "type.googleapis.com/google.rpc.ErrorInfo"
            info = {"@type": kind, "reason": self.reason, "domain": "googleapis.com", "metadata": self.metadata}
            error["details"] = [info]
        return answer({"error": error}, self.code)


def answer(body: Any, status: int = 200) -> Response:
    """Returns an answer in JSON."""
    return Response(status, json.dumps(body), [("Content-Type", "application/json; charset=UTF-8")])


def told(message: Any) -> Json:
    """Returns a message, of proto-plus or of protobuf, as JSON has it."""
    plain = type(message).pb(message) if hasattr(type(message), "pb") else message
    found: Json = json_format.MessageToDict(plain)
    return found


def read(kind: Any, request: Request) -> Any:
    """Reads a request's content as a message; unknown fields are refused, as Google does."""
    try:
        return kind(json_format.ParseDict(json.loads(request.body), kind.pb(kind())))
    except (json_format.ParseError, ValueError) as error:
        raise RefusedError(400, f"Invalid JSON payload received. {error}") from None


def read_query(kind: Any, request: Request, **path: str) -> Any:
    """Reads what a request's path and query say as a message."""
    fields: Json = {**path}
    for name, value in request.query:
        if name != "$alt":
            fields[name] = value
    try:
        return kind(json_format.ParseDict(fields, kind.pb(kind())))
    except json_format.ParseError as error:
        raise RefusedError(400, f"Invalid value. {error}") from None


FILTER = re.compile(r'(?P<field>[a-z_]+)(?:=(?:"(?P<quoted>[^"]*)"|(?P<plain>\S+))|:\*)')


def chosen(found: Iterable[Any], expression: str, fields: tuple[str, ...]) -> list[Any]:
    """Returns the messages that a filter takes.

    Args:
        found: The messages.
        expression: The filter: one comparison, or one question whether a field is there.
        fields: The fields that it may name.
    """
    if not expression:
        return list(found)
    parts = FILTER.fullmatch(expression)
    if not parts or parts["field"] not in fields:
        raise RefusedError(400, f"Invalid filter: {expression}")
    if parts["quoted"] is None and parts["plain"] is None:
        return [one for one in found if parts["field"] in one]
    wanted = parts["quoted"] if parts["quoted"] is not None else parts["plain"]
    return [one for one in found if getattr(one, parts["field"]) == wanted]


def page_of(found: list[Any], asked: Any, name: str, most: int = 100) -> Json:
    """Returns a page of a list.

    Args:
        found: All of it.
        asked: The request, with `page_size`, `page_token`, `order_by` and maybe `read_mask`.
        name: The list's name in the answer.
        most: How many a page has at most.
    """
    if asked.order_by:
        field, _, direction = asked.order_by.partition(" ")
        found = sorted(found, key=lambda one: getattr(one, field), reverse=direction == "desc")
    start = int(asked.page_token or 0)
    end = start + min(asked.page_size or most, most)
    mask = getattr(asked, "read_mask", None)
    shown = [told(masked(one, list(mask.paths)) if mask and mask.paths else one) for one in found[start:end]]
    return {name: shown, **({"nextPageToken": str(end)} if end < len(found) else {})}


def masked(message: Any, paths: list[str]) -> Any:
    """Returns of a message only the fields that a mask names; one that is none is refused."""
    kind, mask = type(message), field_mask_pb2.FieldMask(paths=paths)
    plain = kind.pb(message)
    if not mask.IsValidForDescriptor(plain.DESCRIPTOR):
        raise RefusedError(400, f"Invalid field mask: {paths}")
    kept = kind.pb(kind())
    mask.MergeMessage(plain, kept)
    return kept


class Operations:
    """Long-running operations: what each does is done when it has been asked for often enough.

    Attributes:
        reads: How often an operation is asked for before it is done.
        failing: Tells by its name what an operation ends with instead: a code of gRPC's and a message.
    """

    def __init__(self) -> None:
        self.reads = 0
        self.failing: dict[str, tuple[int, str]] = {}
        self._waiting: dict[str, tuple[int, str, Callable[[], Any]]] = {}
        self._done: dict[str, operations_pb2.Operation] = {}

    def begin(self, resource: str, what: str, do: Callable[[], Any]) -> Json:
        """Begins one.

        Args:
            resource: The name of what it is about.
            what: What it does, as in "undeploy 1".
            do: Does it, and returns its result, a message.
        """
        name = f"{resource}/operations/{len(self._waiting) + len(self._done) + 1}"
        self._waiting[name] = (self.reads, what, do)
        return self.look(name)

    def look(self, name: str) -> Json:
        """Returns how far an operation is."""
        if name in self._waiting:
            left, what, do = self._waiting[name]
            if left:
                self._waiting[name] = (left - 1, what, do)
                return told(operations_pb2.Operation(name=name))
            del self._waiting[name]
            operation = operations_pb2.Operation(name=name, done=True)
            if what in self.failing:
                operation.error.code, operation.error.message = self.failing[what]
            else:
                result = do()
                operation.response.Pack(type(result).pb(result) if hasattr(type(result), "pb") else result)
            self._done[name] = operation
        if name not in self._done:
            raise RefusedError(404, f"Operation {name} not found.")
        return told(self._done[name])
