"""Knative's living condition set: one condition, Ready, follows some others."""

from typing import Any

Json = dict[str, Any]


class Conditions:
    """Conditions of a status, which change as those of `knative.dev/pkg/apis/condition_set.go` do.

    Args:
        stored: The conditions so far.
        dependents: The types that Ready follows; all others are told with severity Info.
    """

    def __init__(self, stored: list[Json], *dependents: str) -> None:
        self._stored = {one["type"]: one for one in stored}
        self._dependents = dependents
        self._now: dict[str, Json] = {one["type"]: dict(one) for one in stored}
        if "Ready" not in self._now:
            for kind in ("Ready", *dependents):
                self._set(kind, "Unknown")

    def status(self, kind: str) -> str:
        """Returns True, False, Unknown, or an empty string where there is no such condition."""
        return str(self._now.get(kind, {}).get("status", ""))

    def copy_to(self, other: "Conditions", kind: str, other_kind: str) -> None:
        """Marks a condition of another set as one of this set is."""
        one = self._now[kind]
        other.mark(other_kind, one["status"], one.get("reason", ""), one.get("message", ""))

    def mark(self, kind: str, status: str, reason: str = "", message: str = "") -> None:
        """Sets a condition, and Ready as far as it follows."""
        self._set(kind, status, reason, message)
        if status == "True":
            unhappy = self._unhappy()
            if unhappy:
                self._set("Ready", unhappy["status"], unhappy.get("reason", ""), unhappy.get("message", ""))
            else:
                self._set("Ready", "True")
        elif status == "False":
            if kind in self._dependents:
                self._set("Ready", status, reason, message)
        elif not any(self.status(one) == "False" for one in self._dependents) and kind in self._dependents:
            self._set("Ready", status, reason, message)

    def as_list(self, now: str) -> list[Json]:
        """Returns the conditions in the order of their types; those that have changed did so now."""
        found = []
        for kind, one in sorted(self._now.items()):
            before = self._stored.get(kind, {})
            same = {**before, "lastTransitionTime": ""} == {**one, "lastTransitionTime": ""}
            found.append({**one, "lastTransitionTime": before["lastTransitionTime"] if same else now})
        return found

    def _set(self, kind: str, status: str, reason: str = "", message: str = "") -> None:
        severity = "" if kind in ("Ready", *self._dependents) else "Info"
        told = {"reason": reason, "message": message, "severity": severity}
        self._now[kind] = {"type": kind, "status": status, **{key: value for key, value in told.items() if value}}

    def _unhappy(self) -> Json | None:
        for status in ("False", "Unknown"):
            for kind in self._dependents:
                if self.status(kind) == status:
                    return self._now[kind]
        return None
