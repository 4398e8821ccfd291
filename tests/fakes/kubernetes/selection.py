"""The labelSelector and the fieldSelector of list requests."""

import re
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]


def matches(found: Json, labels: str, fields: str) -> bool:
    """Tells whether an object is selected.

    Args:
        found: The object.
        labels: A label selector of `=`, `==`, `!=`, `key` and `!key`, joined by commas; empty for any.
        fields: A field selector of `=`, `==` and `!=`, joined by commas; empty for any.

    Raises:
        ValueError: A selector is none that is understood here.
    """
    own = found["metadata"].get("labels", {})
    for part in filter(None, labels.split(",")):
        if not _matches(own.get, part):
            return False
    return all(_matches(lambda path: _field(found, path), part) for part in filter(None, fields.split(",")))


def _matches(value_of: Callable[[str], str | None], part: str) -> bool:
    understood = re.fullmatch(r"\s*(!?)([\w./-]+)\s*(?:(==|=|!=)\s*([\w.-]*)\s*)?", part)
    if not understood:
        raise ValueError(f"unable to parse requirement: {part!r}")
    no, key, operator, value = understood.groups()
    if operator is None:
        return (value_of(key) is None) == bool(no)
    return (value_of(key) == value) == (operator != "!=")


def _field(found: Any, path: str) -> str | None:
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, str) else None
