"""The API server: what a request asks for, who may, and what is stored."""

import copy
import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.fakes.kubernetes.admission import Refusal, admit
from tests.fakes.kubernetes.kserve import Fate, World
from tests.fakes.kubernetes.trainer import JOB_LABEL, Nodes, admit_train_job

Json = dict[str, Any]
GROUP, TRAINER = "serving.kserve.io", "trainer.kubeflow.org"
TOKEN = "a-token-of-the-emulated-cluster"
# Plural: kind, group, version.
KINDS = {
    "inferenceservices": ("InferenceService", GROUP, "v1beta1"),
    "servingruntimes": ("ServingRuntime", GROUP, "v1alpha1"),
    "clusterservingruntimes": ("ClusterServingRuntime", GROUP, "v1alpha1"),
    "trainjobs": ("TrainJob", TRAINER, "v1alpha1"),
    "trainingruntimes": ("TrainingRuntime", TRAINER, "v1alpha1"),
    "clustertrainingruntimes": ("ClusterTrainingRuntime", TRAINER, "v1alpha1"),
    "workflows": ("Workflow", "argoproj.io", "v1alpha1"),
    "pods": ("Pod", "", "v1"),
    "events": ("Event", "", "v1"),
    "serviceaccounts": ("ServiceAccount", "", "v1"),
    "secrets": ("Secret", "", "v1"),
    "persistentvolumeclaims": ("PersistentVolumeClaim", "", "v1"),
    "configmaps": ("ConfigMap", "", "v1"),
    "nodes": ("Node", "", "v1"),
    "roles": ("Role", "rbac.authorization.k8s.io", "v1"),
    "rolebindings": ("RoleBinding", "rbac.authorization.k8s.io", "v1"),
    "subjectaccessreviews": ("SubjectAccessReview", "authorization.k8s.io", "v1"),
    "selfsubjectaccessreviews": ("SelfSubjectAccessReview", "authorization.k8s.io", "v1"),
    "selfsubjectreviews": ("SelfSubjectReview", "authentication.k8s.io", "v1"),
}
REVIEWS = {"subjectaccessreviews", "selfsubjectaccessreviews", "selfsubjectreviews"}
PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[^/]+)/(?P<version>[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+)(?:/log)?)?"
)
VERBS = {"GET": "get", "POST": "create", "PUT": "update", "DELETE": "delete"}
REASONS = {429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}


class NoSuchPathError(Exception):
    """Not known to the server at all, which it says in plain text."""


@dataclass
class Api:
    """Answers as the API server of a cluster with KServe. Its callers hold the cluster's lock."""

    mode: str  # the default deployment mode
    namespace: str  # the one that there is, in which the account that asks is at home
    # What becomes of pods, by the value of their label `nlp-pipeline/release`, "" where they have none; and of others.
    # It is looked up when pods start.
    fates: dict[str, Fate] = field(default_factory=dict)
    default_fate: Fate = field(default_factory=Fate)
    lag: int = 1  # for how many ticks the controller does not notice a change, so that the status stays the former one
    conflicts: int = 0  # how many of the next PUTs answer 409 though the resourceVersion is right
    failures: int = 0  # how many of the next requests to the API server fail, with
    failure_status: int = 503  # 429, 500 or 503
    denied: set[tuple[str, str]] = field(default_factory=set)  # what the account may not do: verbs and plurals
    others: dict[str, set[tuple[str, str]]] = field(default_factory=dict)  # the same of other accounts, by their names
    reviews_forbidden: bool = False  # whether the account may not even ask who it is and what it may do
    kserve_installed: bool = True
    trainer_installed: bool = False
    has_canary: bool = False  # whether KServe is 0.20 or later, whose InferenceServices have `spec.canary`
    user: str = "system:serviceaccount:team:default-editor"  # the account that asks
    # Method, whether it was a dry run, and the object of each POST and PUT of KServe's, refused ones too.
    sent: list[tuple[str, bool, Json]] = field(default_factory=list)
    start_nodes: Callable[[Json], Nodes] | None = None  # runs a TrainJob's here; without it tests put pods and status
    nodes: dict[str, Nodes] = field(default_factory=dict)
    deleted_jobs: list[str] = field(default_factory=list)
    objects: dict[tuple[str, str, str], Json] = field(default_factory=dict)
    worlds: dict[str, World] = field(default_factory=dict)
    version: int = 0

    def put(self, plural: str, found: Json) -> None:
        self.version += 1
        metadata = found["metadata"]
        metadata["resourceVersion"] = str(self.version)
        self.objects[plural, metadata.get("namespace", ""), metadata["name"]] = found

    def runtimes(self, namespace: str) -> set[tuple[str, str]]:
        """Returns the kinds and names of the training runtimes that a TrainJob of a namespace may have."""
        places = {"trainingruntimes": namespace, "clustertrainingruntimes": ""}
        return {(KINDS[plural][0], name) for plural, place, name in self.objects if places.get(plural) == place}

    def changed(self, service: Json) -> None:
        """Hands an InferenceService that was created or replaced to the controller."""
        world = self.worlds.setdefault(
            service["metadata"]["uid"], World(service, lambda release: self.fates.get(release, self.default_fate))
        )
        world.service, world.lag = service, self.lag

    def tick(self, service: Json) -> None:
        """Lets time pass for an InferenceService; where its status changes, so does its resourceVersion."""
        status = self.worlds[service["metadata"]["uid"]].tick(self.mode)
        if status != service.get("status", {}):
            service["status"] = status
            self.put("inferenceservices", service)

    def find(self, plural: str, namespace: str, name: str) -> Json:
        if (plural, namespace, name) not in self.objects:
            raise Refusal(404, "NotFound", f'{resource(plural)} "{name}" not found')
        return self.objects[plural, namespace, name]

    def answer(self, method: str, target: str, token: str, body: bytes) -> tuple[int, Json | str]:
        try:
            if self.failures:
                self.failures -= 1
                message = "the server is currently unable to handle the request"
                raise Refusal(self.failure_status, REASONS[self.failure_status], message)
            if token != f"Bearer {TOKEN}":
                raise Refusal(401, "Unauthorized", "Unauthorized")
            return 201 if method == "POST" else 200, self._do(method, urlsplit(target), body)
        except NoSuchPathError:
            return 404, "404 page not found\n"
        except Refusal as refusal:
            status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
            return refusal.code, status | {"message": str(refusal), "reason": refusal.reason, "code": refusal.code}

    def _do(self, method: str, url: Any, body: bytes) -> Json | str:
        installed = [f"{GROUP}/v1beta1"] * self.kserve_installed + [f"{TRAINER}/v1alpha1"] * self.trainer_installed
        if url.path.removeprefix("/apis/") in installed:
            return {"kind": "APIResourceList", "groupVersion": url.path.removeprefix("/apis/"), "resources": []}
        verb, plural, namespace, name = self._asked(method, url.path)
        self._follow_nodes(namespace)
        sent: Json = json.loads(body) if method in ("POST", "PUT") else {}
        if plural in REVIEWS:
            return self._review(plural, sent)
        if verb == "list":
            query = parse_qs(url.query)
            label, _, value = query.get("labelSelector", [""])[0].rpartition("=")
            about = query.get("fieldSelector", [""])[0].partition(",")[0].removeprefix("involvedObject.name=")
            return {"items": [*self._list(plural, value), *self._stored(plural, namespace, label, value, about)]}
        if method in ("POST", "PUT"):
            dry_run = "dryRun=All" in url.query
            self.sent.append((method, dry_run, copy.deepcopy(sent)))
            return self._write(verb, plural, namespace, name, sent, dry_run)
        service = self.find(plural, namespace, name)
        if url.path.endswith("/log"):
            return str(service["previous" if "previous=True" in url.query else "log"])
        if verb == "delete":
            del self.objects[plural, namespace, name]
            if plural == "trainjobs":
                self._delete_nodes(name)
            self.worlds.pop(service["metadata"].get("uid", ""), None)
        elif plural == "inferenceservices":
            self.tick(service)
        return service

    def _asked(self, method: str, path: str) -> tuple[str, str, str, str]:
        """Returns verb, plural, namespace and name of what is asked for, which must be known and permitted."""
        found = PATH.fullmatch(path)
        if not found:
            raise NoSuchPathError
        group, version, namespace, plural, name = (part or "" for part in found.groups())
        if KINDS.get(plural, ("",))[1:] != (group, version or "v1"):
            raise NoSuchPathError
        verb = "list" if method == "GET" and not name else VERBS[method]
        if not self._permitted(verb, group, plural):
            what = f'User "{self.user}" cannot {verb} resource "{plural}" in API group "{group}"'
            raise Refusal(403, "Forbidden", f"{resource(plural)} is forbidden: {what}")
        if (group == GROUP and not self.kserve_installed) or (group == TRAINER and not self.trainer_installed):
            raise NoSuchPathError
        return verb, plural, namespace, name

    def _permitted(self, verb: str, group: str, plural: str) -> bool:
        if self.reviews_forbidden and plural in REVIEWS:
            return False
        return KINDS.get(plural, ("", None))[1] == group and (verb, plural) not in self.denied

    def _review(self, plural: str, sent: Json) -> Json:
        if plural == "selfsubjectreviews":
            return {**sent, "status": {"userInfo": {"username": self.user}}}
        asked = sent["spec"]["resourceAttributes"]
        if "subresource" in asked:
            allowed = (asked["verb"], f"{asked['resource']}/{asked['subresource']}") not in self.denied
        elif plural == "subjectaccessreviews" and sent["spec"]["user"] != self.user:
            allowed = (asked["verb"], asked["resource"]) not in self.others.get(sent["spec"]["user"], set())
        else:
            allowed = self._permitted(asked["verb"], asked.get("group", ""), asked["resource"])
        return {**sent, "status": {"allowed": allowed}}

    def _stored(self, plural: str, namespace: str, label: str, value: str, about: str) -> list[Json]:
        """Returns what was put there of a kind with this label, and of events those about an object."""
        items = [item for (kind, place, _), item in self.objects.items() if (kind, place) == (plural, namespace)]
        items = [item for item in items if not label or item["metadata"].get("labels", {}).get(label) == value]
        return [item for item in items if not about or item.get("involvedObject", {}).get("name") == about]

    def _list(self, plural: str, service: str) -> list[Json]:
        worlds = [one for one in self.worlds.values() if service in ("", one.service["metadata"]["name"])]
        if plural not in ("pods", "events"):
            return []
        if plural == "pods":
            return [pod for world in worlds for pod in world.pods()]
        events = [event for world in worlds for event in world.events.items()]
        return [
            {"metadata": {}, "involvedObject": {"name": about}, "reason": reason, "message": message}
            for (about, reason), message in events
        ]

    def _write(self, verb: str, plural: str, namespace: str, name: str, sent: Json, dry_run: bool) -> Json:
        sent["metadata"].setdefault("namespace", namespace)
        if plural == "events":
            return self._write_event(namespace, sent)
        if verb == "create":
            name = sent["metadata"]["name"]
            if (plural, namespace, name) in self.objects:
                raise Refusal(409, "AlreadyExists", f'{resource(plural)} "{name}" already exists')
            found = admit_train_job(sent, self.runtimes(namespace)) if plural == "trainjobs" else None
            found = found or admit(sent, None, self.mode, self.has_canary)
            found["metadata"] |= {"uid": str(uuid.uuid4()), "generation": 1}
            found.pop("status", None)
            old: Json = {}
        else:
            old = self.find(plural, namespace, name)
            self._check_version(f'{resource(plural)} "{name}"', sent["metadata"], old["metadata"])
            found = admit(sent, old, self.mode, self.has_canary)
            found |= {"status": copy.deepcopy(old.get("status", {}))}  # which has an address of its own
            found["metadata"] |= {key: old["metadata"][key] for key in ("uid", "generation", "resourceVersion")}
            found["metadata"]["generation"] += found["spec"] != old["spec"]
        if not dry_run and found != old:
            self.put(plural, found)
            if plural == "inferenceservices":
                self.changed(found)
            if plural == "trainjobs" and self.start_nodes:
                self.nodes[name] = self.start_nodes(found)
        return found

    def _follow_nodes(self, namespace: str) -> None:
        """Takes over what has become of the nodes that run here."""
        for name, nodes in self.nodes.items():
            self.objects["trainjobs", namespace, name]["status"] = nodes.status()
            for pod in nodes.pods():
                pod["metadata"]["namespace"] = namespace
                self.put("pods", pod)

    def _delete_nodes(self, job: str) -> None:
        """Takes the pods of a TrainJob away."""
        self.deleted_jobs.append(job)
        if nodes := self.nodes.pop(job, None):
            nodes.end()
        for key, item in list(self.objects.items()):
            if key[0] == "pods" and item["metadata"].get("labels", {}).get(JOB_LABEL) == job:
                del self.objects[key]

    def _write_event(self, namespace: str, sent: Json) -> Json:
        """Creates an Event, which is of its object's namespace."""
        if sent["involvedObject"]["namespace"] != namespace or len(sent["message"]) > 1024:
            raise Refusal(422, "Invalid", "Event is invalid: involvedObject.namespace or message")
        sent["metadata"]["name"] = f"{sent['metadata']['generateName']}{len(self.objects)}"
        self.put("events", sent)
        return sent

    def _check_version(self, what: str, sent: Json, old: Json) -> None:
        if not sent.get("resourceVersion"):
            raise Refusal(422, "Invalid", f"{what} is invalid: metadata.resourceVersion: must be specified")
        if sent["resourceVersion"] == old["resourceVersion"] and sent.get("uid", old["uid"]) == old["uid"]:
            if not self.conflicts:
                return
            self.conflicts -= 1
        raise Refusal(409, "Conflict", f"Operation cannot be fulfilled on {what}: the object has been modified")


def resource(plural: str) -> str:
    return f"{plural}.{KINDS[plural][1]}".rstrip(".")
