"""What is stored in the cluster, and how it is read and written."""

import copy
import uuid
from typing import Any

from tests.fakes.kubernetes.admission import admit
from tests.fakes.kubernetes.behaviour import Behaviour
from tests.fakes.kubernetes.controller import Controller, now
from tests.fakes.kubernetes.kinds import KINDS, Refusal, api_version, named
from tests.fakes.kubernetes.pods import pods_of
from tests.fakes.kubernetes.selection import matches

Json = dict[str, Any]


class Store:
    """Objects by plural, namespace and name, with resourceVersions. Its callers hold the cluster's lock.

    Args:
        mode: The cluster's default deployment mode.
        namespace: One that there is.
        behaviour: How willing it is.
        controller: Notices what is stored, and tells status and pods.
    """

    def __init__(self, mode: str, namespace: str, behaviour: Behaviour, controller: Controller) -> None:
        self._mode, self._behaviour, self._controller = mode, behaviour, controller
        self.namespaces = {namespace}
        self.objects: dict[tuple[str, str, str], Json] = {}
        self._version = 0

    def put(self, plural: str, found: Json) -> None:
        """Keeps an object under a new resourceVersion."""
        self._version += 1
        metadata = found["metadata"]
        metadata["resourceVersion"] = str(self._version)
        self.objects[plural, metadata.get("namespace", ""), metadata["name"]] = found

    def tick(self, service: Json) -> None:
        """Lets time pass for an InferenceService; where its status changes, so does its resourceVersion."""
        status = self._controller.tick(service)
        if status != service.get("status", {}):
            service["status"] = status
            self.put("inferenceservices", service)

    def find(self, plural: str, namespace: str, name: str) -> Json:
        """Returns an object.

        Raises:
            Refusal: There is none.
        """
        for one in self._all(plural):
            if (one["metadata"].get("namespace", ""), one["metadata"]["name"]) == (namespace, name):
                return one
        raise Refusal(404, "NotFound", f"{named(plural, name)} not found")

    def select(self, plural: str, namespace: str, labels: str, fields: str) -> Json:
        """Returns the list of the objects of a namespace, or of all, that selectors choose."""
        try:
            items = [
                one
                for one in self._all(plural)
                if namespace in ("", one["metadata"].get("namespace", "")) and matches(one, labels, fields)
            ]
        except ValueError as error:
            raise Refusal(400, "BadRequest", str(error)) from None
        metadata = {"resourceVersion": str(self._version)}
        kind = f"{KINDS[plural][0]}List"
        return {"apiVersion": api_version(plural), "kind": kind, "metadata": metadata, "items": items}

    def create(self, plural: str, namespace: str, sent: Json, dry_run: bool) -> Json:
        """Takes a new object."""
        if namespace and namespace not in self.namespaces:
            raise Refusal(404, "NotFound", f"{named('namespaces', namespace)} not found")
        if "resourceVersion" in sent["metadata"]:
            raise Refusal(500, "", "resourceVersion should not be set on objects to be created")
        found = admit(sent, None, self._mode)
        name = found["metadata"]["name"]
        if (plural, namespace, name) in self.objects:
            raise Refusal(409, "AlreadyExists", f"{named(plural, name)} already exists")
        found.pop("status", None)
        found["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "generation": 1}
        if not dry_run:
            self.put(plural, found)
            if plural == "inferenceservices":
                self._controller.changed(found)
        return found

    def update(self, plural: str, namespace: str, name: str, sent: Json, dry_run: bool) -> Json:
        """Replaces an object; its status, which has an address of its own, stays."""
        metadata = sent["metadata"]
        if metadata.get("name") != name:
            what = f"the name of the object ({metadata.get('name')}) does not match the name on the URL ({name})"
            raise Refusal(400, "BadRequest", what)
        old = self.find(plural, namespace, name)
        self._check_version(named(plural, name), metadata, old["metadata"])
        found = admit(sent, old, self._mode)
        found.pop("status", None)
        found |= {"status": copy.deepcopy(old["status"])} if "status" in old else {}
        kept = ("uid", "creationTimestamp", "generation", "resourceVersion")
        found["metadata"] |= {key: old["metadata"][key] for key in kept}
        if found["spec"] != old["spec"]:
            found["metadata"]["generation"] += 1
        if not dry_run and found != old:
            self.put(plural, found)
            self._controller.changed(found)
        return found

    def delete(self, plural: str, namespace: str, name: str) -> Json:
        """Removes an object, and what was made of it."""
        found = self.find(plural, namespace, name)
        del self.objects[plural, namespace, name]
        self._controller.deleted(found)
        details = {"name": name, "group": KINDS[plural][1], "kind": plural, "uid": found["metadata"]["uid"]}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def _check_version(self, what: str, sent: Json, old: Json) -> None:
        if not sent.get("resourceVersion"):
            why = "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update"
            raise Refusal(422, "Invalid", f"{what} is invalid: {why}")
        failed = f"Operation cannot be fulfilled on {what}: "
        if sent.get("uid", old["uid"]) != old["uid"]:
            why = f"Precondition failed: UID in precondition: {sent['uid']}, UID in object meta: {old['uid']}"
            raise Refusal(409, "Conflict", failed + why)
        if sent["resourceVersion"] == old["resourceVersion"]:
            if not self._behaviour.conflicts:
                return
            self._behaviour.conflicts -= 1
        why = "the object has been modified; please apply your changes to the latest version and try again"
        raise Refusal(409, "Conflict", failed + why)

    def _all(self, plural: str) -> list[Json]:
        if plural == "namespaces":
            return [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": one}} for one in self.namespaces]
        if plural == "events":
            return self._controller.pods.events
        if plural == "pods":
            worlds = [world for world in self._controller.worlds.values() if world.child]
            running = [(world.service, one) for world in worlds if world.child for one in world.child.running()]
            return [pod for service, one in running for pod in pods_of(service, one)]
        return [found for key, found in self.objects.items() if key[0] == plural]
