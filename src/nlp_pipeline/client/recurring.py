"""Recurring runs, as Kubeflow keeps schedules: listed, removed, and put in an order.

Several may have the same name. Those made here carry in their description a revision, by which all agree on which is
the newest, a digest of their content, and the request that made them.
"""

import contextlib
import difflib
import re
from datetime import UTC, datetime
from typing import Any

from nlp_pipeline.client.calls import NotFoundError
from nlp_pipeline.client.connection import Connection
from nlp_pipeline.errors import UsageError

MARK = re.compile(
    r"revision (?P<revision>[0-9]+), content (?P<content>[0-9a-f]{16}), request (?P<request>[0-9a-f]{32})"
)
PAUSED, ENABLED = "DISABLE", "ENABLE"


def describe(revision: int, content: str, request: str) -> str:
    """Returns the description of a recurring run; see `MARK`."""
    return f"Made by nlp-pipeline --schedule: revision {revision}, content {content}, request {request}"


def recurring_runs(connection: Connection) -> list[Any]:
    """Returns all recurring runs of the user's namespace."""
    method = connection.recurring_runs.recurring_run_service_list_recurring_runs
    return list(connection.every("listing schedules", method, "recurring_runs", namespace=connection.namespace))


def of_name(found: list[Any], name: str) -> list[Any]:
    """Returns the recurring runs of a name, oldest first."""
    return sorted((one for one in found if one.display_name == name), key=age)


def known(connection: Connection, name: str) -> list[Any]:
    """Returns the recurring runs of a name, oldest first.

    Raises:
        UsageError: There is none.
    """
    every = recurring_runs(connection)
    found = of_name(every, name)
    if not found:
        raise unknown(name, {one.display_name or "" for one in every})
    return found


def unknown(name: str, known_names: set[str]) -> UsageError:
    """Returns what to raise where there is no schedule of a name; those there are help to find the right one."""
    names = sorted(known_names)
    near = difflib.get_close_matches(name, names, n=1)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names[:10])}{more}"
    return UsageError(f"there is no schedule {name!r}; {hint if names else 'there are none at all'}")


def remove(connection: Connection, one: Any) -> None:
    """Removes a recurring run; that it is gone already is fine."""
    method = connection.recurring_runs.recurring_run_service_delete_recurring_run
    with contextlib.suppress(NotFoundError):
        connection.call(f"removing schedule {one.display_name!r}", method, one.recurring_run_id)


def mark(one: Any, part: str) -> str:
    """Returns a part of what a recurring run that was made here carries in its description; empty for others."""
    found = MARK.search(one.description or "")
    return found[part] if found else ""


def revision(one: Any) -> int:
    """Returns a recurring run's revision; 0 for others than those made here, and for None."""
    return int(mark(one, "revision") or 0) if one is not None else 0


def age(one: Any) -> tuple[int, datetime, str]:
    """Returns what puts the recurring runs of a name in an order on which all agree, oldest first.

    Who makes one has seen those before it and gives it a higher revision; so what counts as the newest stays that until
    a newer one is made, and is removed by no one.
    """
    return revision(one), one.created_at or datetime.min.replace(tzinfo=UTC), one.recurring_run_id


def moment(time: datetime | None) -> datetime | None:
    """Returns a time; None for the beginning of 1970, by which Kubeflow means none."""
    return time if time is not None and time.timestamp() > 0 else None
