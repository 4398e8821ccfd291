"""What the API server has stored: records by id, whose times are whole seconds, on a clock that tests own."""

import dataclasses
import datetime
import uuid
from collections.abc import Callable
from typing import Any

from tests.kubeflow.errors import Refused, not_found

Json = dict[str, Any]


@dataclasses.dataclass
class Clock:
    """The server's time; it passes with each record that is made.

    Attributes:
        now: Seconds since 1970.
        step: Seconds that pass with a record; 0 for all in the same second, where ids alone tell an order.
    """

    now: int = 1_767_225_600
    step: int = 1

    def tick(self) -> int:
        """Lets time pass, and returns what it is then."""
        self.now += self.step
        return self.now


@dataclasses.dataclass
class Access:
    """Who may do what where.

    Attributes:
        multi_user: Whether namespaces matter at all.
        namespaces: The namespaces of each user.
        system: The server's own namespace, whose members may change shared pipelines.
    """

    multi_user: bool
    namespaces: dict[str, set[str]]
    system: str = "kubeflow"

    @property
    def runner(self) -> str:
        """The service account of runs that name none."""
        return "default-editor" if self.multi_user else "pipeline-runner"

    def namespace(self, asked: str) -> str:
        """Returns the namespace that is meant: none at all where there is a single user."""
        return asked if self.multi_user else ""

    def check(self, user: str, verb: str, resource: str, namespace: str) -> None:
        """Raises `Refused` unless a user may do something in a namespace."""
        if not self.multi_user:
            return
        if not user:
            text = "Failed to check authorization. User identity is empty in the request header"
            raise Refused("Unauthenticated", text, f"Unauthenticated: {text}: Request header error: there is no user "
                          "identity header.: Request header error: there is no user identity header.")  # fmt: skip
        if namespace not in self.namespaces.get(user, set()):
            attributes = f"&ResourceAttributes{{Namespace:{namespace},Verb:{verb},Group:pipelines.kubeflow.org,"
            attributes += f"Version:v1beta1,Resource:{resource},Subresource:,Name:,}}"
            text = f"User '{user}' is not authorized with reason:  (request: {attributes})"
            raise Refused("PermissionDenied", text, f"PermissionDenied: {text}: Unauthorized access")


class Store:
    """Records of each kind by id, in the order in which they were made.

    A record has the names of the API; what begins with an underscore is not told.

    Attributes:
        clock: The server's time.
        fold: How names compare: as MySQL does, which Kubeflow brings along, without regard to case.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.fold: Callable[[str], str] = str.casefold
        self.experiments: dict[str, Json] = {}
        self.pipelines: dict[str, Json] = {}
        self.versions: dict[str, Json] = {}
        self.runs: dict[str, Json] = {}
        self.recurring_runs: dict[str, Json] = {}
        self._made = 0

    def new_id(self) -> str:
        """Returns an id that there isn't yet; ids have no order, and are the same each time."""
        self._made += 1
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"tests.kubeflow {self._made}"))

    def find(self, records: dict[str, Json], kind: str, key: str) -> Json:
        """Returns a record, or raises `Refused`."""
        if key not in records:
            raise not_found(kind, key)
        return records[key]

    def named(self, records: dict[str, Json], name: str, field: str, **same: str) -> Json | None:
        """Returns the record of a name among those that have the same values in other fields."""
        wanted = self.fold(name)
        for record in records.values():
            if self.fold(record[field]) == wanted and all(record.get(key) == value for key, value in same.items()):
                return record
        return None


def public(record: Json) -> Json:
    """Returns a record as the API tells it: what is empty is left out, times are text, also those that never came."""
    found: Json = {}
    for key, value in record.items():
        if key.startswith("_"):
            continue
        if key.endswith(("_at", "_time")) and isinstance(value, int):
            found[key] = rfc3339(value)
        elif key not in OPAQUE and isinstance(value, dict):
            if value:
                found[key] = public(value)
        elif isinstance(value, list) and value:
            found[key] = [public(one) if isinstance(one, dict) else one for one in value]
        elif value not in ("", 0, False, None, [], {}):
            found[key] = value
    return found


OPAQUE = {"pipeline_spec", "parameters", "tags"}


def rfc3339(seconds: int) -> str:
    """Returns a time as protobuf's JSON writes it."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(text: str) -> int:
    """Returns the time that RFC 3339 tells."""
    return int(datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp())
