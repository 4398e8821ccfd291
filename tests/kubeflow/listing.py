"""Pages of lists: filtered, sorted, and continued from a token that names the next record.

After backend/src/apiserver/list/list.go, filter/filter.go and server/list_request_util.go.
"""

import base64
import binascii
import json
import operator
import re
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Any

from tests.kubeflow.errors import invalid
from tests.kubeflow.store import public, seconds

Json = dict[str, Any]
DEFAULT_SIZE, LARGEST_SIZE = 20, 200
OPERATIONS = [
    *("OPERATION_UNSPECIFIED", "EQUALS", "NOT_EQUALS", "GREATER_THAN", "4", "GREATER_THAN_EQUALS"),
    *("LESS_THAN", "LESS_THAN_EQUALS", "IN", "IS_SUBSTRING"),
]
COMPARING: dict[str, Callable[[Any, Any], bool]] = {
    "EQUALS": operator.eq,
    "NOT_EQUALS": operator.ne,
    "GREATER_THAN": operator.gt,
    "GREATER_THAN_EQUALS": operator.ge,
    "LESS_THAN": operator.lt,
    "LESS_THAN_EQUALS": operator.le,
}
VALUES: dict[str, Callable[[Any], Any]] = {
    **{"stringValue": str, "intValue": int, "longValue": int, "timestampValue": seconds},
    **{"stringValues": str, "intValues": int, "longValues": int},
}


class Listing:
    """How records of a kind are listed.

    Args:
        title: The kind's name in the server's source.
        plural: The list's name in the answer.
        key: The field with the id.
        fields: Names that may be sorted and filtered by, with those of the record where they differ.
        fold: How texts compare.
    """

    def __init__(self, title: str, plural: str, key: str, fields: Json, fold: Callable[[str], str]) -> None:
        self._title, self._plural, self._key, self._fold = title, plural, key, fold
        self._fields = {"id": key, key: key, "created_at": "created_at", "description": "description", **fields}

    def check(self, query: dict[str, str]) -> None:
        """Raises `Refused` where the query can't be understood, which the server does before all else."""
        self._options(query)

    def page(self, records: Iterable[Json], query: dict[str, str]) -> Json:
        """Returns the page of a list that a query asks for."""
        size, by, desc, predicates, start = self._options(query)
        found = [record for record in records if all(self._holds(record, one) for one in predicates)]
        found.sort(key=lambda record: (self._value(record, by), record[self._key]), reverse=desc)
        total = len(found)
        if start:
            at = (start["SortByFieldValue"], start["KeyFieldValue"])
            later = operator.le if desc else operator.ge
            found = [record for record in found if later((self._value(record, by), record[self._key]), at)]
        token = ""
        if len(found) > size:
            following = {
                **{"SortByFieldName": by, "SortByFieldValue": self._value(found[size], by), "IsDesc": desc},
                **{"KeyFieldValue": found[size][self._key], "Filter": predicates},
            }
            token = base64.b64encode(json.dumps(following).encode()).decode()
        answer = {self._plural: [public(record) for record in found[:size]], "total_size": total}
        return {key: value for key, value in {**answer, "next_page_token": token}.items() if value}

    def _options(self, query: dict[str, str]) -> tuple[int, str, bool, list[Json], Json | None]:
        size = int(query.get("page_size") or 0)
        if size < 0:
            raise invalid(f"The page size should be greater than 0. Got {size}")
        size = min(size or DEFAULT_SIZE, LARGEST_SIZE)
        by, desc = self._order(query.get("sort_by", ""))
        predicates = self._predicates(query.get("filter", ""))
        if not query.get("page_token"):
            return size, by, desc, predicates, None
        try:
            start = json.loads(base64.b64decode(query["page_token"], validate=True))
            known = (start["SortByFieldName"], start["IsDesc"], start["Filter"])
        except (binascii.Error, ValueError, KeyError, TypeError) as error:
            raise invalid("Invalid page token") from error
        if (query.get("sort_by") or query.get("filter")) and known != (by, desc, predicates):
            raise invalid("page token does not match the supplied sort by and/or filtering criteria. Either specify "
                          "the same criteria or leave the latter empty if page token is specified")  # fmt: skip
        return size, *known, start

    def _order(self, text: str) -> tuple[str, bool]:
        words = text.lower().split()
        if len(words) > 2 or (len(words) == 2 and words[1] not in ("asc", "desc")):
            raise invalid(f'Received invalid sort by format "{text}". Supported format: "field_name", '
                          '"field_name desc", or "field_name asc"')  # fmt: skip
        if words and words[0] not in self._fields:
            raise invalid(f'Invalid sorting field: "{words[0]}" on listable type {self._title}')
        return self._fields[words[0]] if words else "created_at", words[1:] == ["desc"]

    def _predicates(self, encoded: str) -> list[Json]:
        if not encoded:
            return []
        # The query was decoded once already: a plus sign or a percent sign in a name doesn't survive the second time.
        text = urllib.parse.unquote_plus(encoded)
        try:
            if re.search(r"%(?![0-9a-fA-F]{2})", encoded):
                raise ValueError("invalid URL escape")
            told = json.loads(text)
            if set(told) - {"predicates"}:
                raise ValueError("unknown field")
            return [self._predicate(one) for one in told.get("predicates", [])]
        except (ValueError, TypeError, AttributeError) as error:
            raise invalid(f"failed to parse valid filter from {json.dumps(encoded)}: {error}") from error

    def _predicate(self, told: Json) -> Json:
        given = {re.sub("_([a-z])", lambda found: found[1].upper(), name): value for name, value in told.items()}
        operation = given.pop("operation", 0)
        operation = OPERATIONS[operation] if isinstance(operation, int) else operation
        key = given.pop("key", "")
        if len(given) != 1 or set(given) - set(VALUES):
            raise ValueError(f"unknown fields or not one value: {sorted(given)}")
        name, value = given.popitem()
        if not key or operation not in OPERATIONS[1:]:
            raise invalid(f"Predicate key cannot be empty for operation {operation} and value {value}")
        if (operation == "IN") != name.endswith("s") or (operation == "IS_SUBSTRING" and name != "stringValue"):
            raise invalid(f"cannot use operator {operation} with {name}")
        if key not in self._fields and not key.startswith("tags."):
            raise invalid(f'no support for filtering on unrecognized field "{key}"')
        convert = VALUES[name]
        wanted = [convert(one) for one in value["values"]] if name.endswith("s") else convert(value)
        return {"operation": operation, "key": key, "value": wanted}

    def _holds(self, record: Json, predicate: Json) -> bool:
        key, wanted, operation = predicate["key"], predicate["value"], predicate["operation"]
        has = record.get("tags", {}).get(key[5:]) if key.startswith("tags.") else record.get(self._fields[key], "")
        if has is None:
            return False
        if operation == "IN":
            return self._comparable(has) in [self._comparable(one) for one in wanted]
        if operation == "IS_SUBSTRING":
            return str(wanted).casefold() in str(has).casefold()
        return COMPARING[operation](self._comparable(has), self._comparable(wanted))

    def _value(self, record: Json, field: str) -> Any:
        return self._comparable(record.get(field, ""))

    def _comparable(self, value: Any) -> Any:
        return self._fold(value) if isinstance(value, str) else value
