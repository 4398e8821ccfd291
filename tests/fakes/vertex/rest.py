"""How Google's APIs speak over REST: messages as JSON, errors, pages, filters, masks, and long-running operations."""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf import field_mask_pb2, json_format

from tests.fakes.httpd import Host, Request, Response

__all__ = ["Host", "Json", "Operations", "RefusedError", "Request", "Response", "answer", "as_json", "read"]

Json = dict[str, Any]
STATUS = {
    **{400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"},
    **{409: "ALREADY_EXISTS", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE"},
}
FILTER = re.compile(r'(?P<field>[a-z_]+)(?:=(?:"(?P<quoted>[^"]*)"|(?P<plain>\S+))|:\*)')


class RefusedError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message

    def response(self) -> Response:
        return answer({"error": {"code": self.code, "message": self.message, "status": STATUS[self.code]}}, self.code)


def answer(body: Any, status: int = 200) -> Response:
    return Response(status, json.dumps(body), [("Content-Type", "application/json; charset=UTF-8")])


def plain(message: Any) -> Any:
    """Returns a message of proto-plus or protobuf as one of protobuf."""
    return type(message).pb(message) if hasattr(type(message), "pb") else message


def as_json(message: Any) -> Json:
    result: Json = json_format.MessageToDict(plain(message))
    return result


def parse(kind: Any, fields: Any) -> Any:
    """Reads JSON as a message; unknown fields are refused, as Google does."""
    try:
        return kind(json_format.ParseDict(fields, kind.pb(kind())))
    except json_format.ParseError as error:
        raise RefusedError(400, f"Invalid JSON payload received. {error}") from None


def read(kind: Any, request: Request) -> Any:
    return parse(kind, json.loads(request.body))


def list_of(kind: Any, request: Request, result: Iterable[Any], name: str, fields: tuple[str, ...], most: int) -> Json:
    """Answers a request, of a kind, for a list of what was `found`, at most so many a page.

    A filter is one comparison of one of some `fields`, or one question whether a field is there.
    """
    asked = parse(kind, {name: value for name, value in request.query if name != "$alt"})
    chosen = list(result)
    if asked.filter:
        parts = FILTER.fullmatch(asked.filter)
        if not parts or parts["field"] not in fields:
            raise RefusedError(400, f"Invalid filter: {asked.filter}")
        expected = parts["plain"] if parts["quoted"] is None else parts["quoted"]
        field = parts["field"]
        chosen = [item for item in chosen if (field in item if expected is None else getattr(item, field) == expected)]
    if asked.order_by:
        field, _, direction = asked.order_by.partition(" ")
        chosen.sort(key=lambda item: getattr(item, field), reverse=direction == "desc")
    start = int(asked.page_token or 0)
    end = start + min(asked.page_size or most, most)
    mask = getattr(asked, "read_mask", None)
    paths = list(mask.paths) if mask else []
    shown = [as_json(masked(item, paths) if paths else item) for item in chosen[start:end]]
    return {name: shown, **({"nextPageToken": str(end)} if end < len(chosen) else {})}


def masked(message: Any, paths: list[str]) -> Any:
    """Returns of a message only the fields that a mask names; one that is none is refused."""
    kind, mask = type(message), check_mask(message, paths)
    kept = kind.pb(kind())
    mask.MergeMessage(kind.pb(message), kept)
    return kept


def check_mask(message: Any, paths: list[str]) -> Any:
    """Returns a mask; one that names nothing, or what a message does not have, is refused."""
    mask = field_mask_pb2.FieldMask(paths=paths)
    if not paths or not mask.IsValidForDescriptor(plain(message).DESCRIPTOR):
        raise RefusedError(400, f"Invalid field mask: {paths}")
    return mask


class Operations:
    """Long-running operations: each is done when it has been asked for so many times as `reads`.

    In `failing` stands by what an operation does, as in "undeploy 1", what it ends with instead: a code of gRPC's and a
    message.
    """

    def __init__(self) -> None:
        self.reads = 0
        self.failing: dict[str, tuple[int, str]] = {}
        self._begun: dict[str, tuple[list[int], str, Callable[[], Any]]] = {}
        self._done: dict[str, operations_pb2.Operation] = {}

    def begin(self, resource: str, what: str, do: Callable[[], Any]) -> Json:
        """Begins an operation on a resource, which does what `do` does and has its result."""
        name = f"{resource}/operations/{len(self._begun) + 1}"
        self._begun[name] = ([self.reads], what, do)
        return self.look(name)

    def look(self, name: str) -> Json:
        left, what, do = self._begun[name]
        if left[0]:
            left[0] -= 1
            return as_json(operations_pb2.Operation(name=name))
        if name not in self._done:
            operation = operations_pb2.Operation(name=name, done=True)
            if what in self.failing:
                operation.error.code, operation.error.message = self.failing[what]
            else:
                operation.response.Pack(plain(do()))
            self._done[name] = operation
        return as_json(self._done[name])
