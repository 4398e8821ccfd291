"""The API server: what a request asks for, and who may."""

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.fakes.kubernetes.behaviour import Behaviour
from tests.fakes.kubernetes.kinds import GROUP, KINDS, OF_CLUSTER, REVIEWS, Refusal, api_version, named
from tests.fakes.kubernetes.store import Store

Json = dict[str, Any]
TOKEN = "a-token-of-the-emulated-cluster"
PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[^/]+)/(?P<version>[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?"
)
VERBS = {
    ("GET", True): "get",
    ("GET", False): "list",
    ("POST", False): "create",
    ("PUT", True): "update",
    ("DELETE", True): "delete",
    ("PATCH", True): "patch",
}
REASONS = {429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}


class NoSuchPathError(Exception):
    """Not known to the server at all, which it tells in plain text."""


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    verb: str
    plural: str
    namespace: str
    name: str
    query: dict[str, str]


class Api:
    """Answers as the API server of a cluster with KServe. Its callers hold the cluster's lock.

    Args:
        namespace: That of the account that asks.
        behaviour: How willing it is.
        store: What is in the cluster.
    """

    def __init__(self, namespace: str, behaviour: Behaviour, store: Store) -> None:
        self._behaviour, self._store = behaviour, store
        self.user = f"system:serviceaccount:{namespace}:default-editor"
        self.sent: list[tuple[str, bool, Json]] = []

    def answer(self, method: str, target: str, token: str, body: bytes) -> tuple[int, Json | str]:
        """Returns the status and the body of the answer to a request."""
        try:
            self._check_caller(token)
            url = urlsplit(target)
            discovered = re.fullmatch(rf"/apis/{GROUP}/([^/]+)", url.path)
            if discovered:
                return 200, self._discover(discovered[1])
            request = self._request(method, url.path, url.query)
            return (201 if request.verb == "create" else 200), self._do(request, body)
        except NoSuchPathError:
            return 404, "404 page not found\n"
        except Refusal as refusal:
            return refusal.code, refusal.status()

    def _check_caller(self, token: str) -> None:
        if self._behaviour.failures:
            self._behaviour.failures -= 1
            code = self._behaviour.failure_status
            raise Refusal(code, REASONS[code], "the server is currently unable to handle the request")
        if token != f"Bearer {TOKEN}":
            raise Refusal(401, "Unauthorized", "Unauthorized")

    def _request(self, method: str, path: str, query: str) -> Request:
        """Finds out what is asked, and whether it may be, in the order in which an API server does."""
        found = PATH.fullmatch(path)
        if not found:
            raise NoSuchPathError
        group, plural, namespace, name = (found[key] or "" for key in ("group", "plural", "namespace", "name"))
        verb = VERBS.get((method, bool(name)), method.lower())
        if KINDS.get(plural, ("",))[1:] != (group, found["version"] or "v1"):
            raise NoSuchPathError
        if not self._permitted(verb, group, plural):
            where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
            what = f'cannot {verb} resource "{plural}" in API group "{group}" {where}'
            raise Refusal(403, "Forbidden", f'{named(plural, name)} is forbidden: User "{self.user}" {what}')
        if group == GROUP and not self._behaviour.kserve_installed:
            raise NoSuchPathError
        return Request(verb, plural, namespace, name, {key: values[-1] for key, values in parse_qs(query).items()})

    def _permitted(self, verb: str, group: str, plural: str) -> bool:
        if self._behaviour.reviews_forbidden and plural in REVIEWS:
            return False
        return KINDS.get(plural, ("", None))[1] == group and (verb, plural) not in self._behaviour.denied

    def _do(self, request: Request, body: bytes) -> Json:
        verb, plural, namespace, name = request.verb, request.plural, request.namespace, request.name
        if verb == "get":
            found = self._store.find(plural, namespace, name)
            if plural == "inferenceservices":
                self._store.tick(found)
            return found
        if verb == "list" and "watch" not in request.query:
            selectors = (request.query.get(key, "") for key in ("labelSelector", "fieldSelector"))
            return self._store.select(plural, namespace, *selectors)
        if verb == "create" and plural in REVIEWS:
            return self._review(plural, self._decode(body, plural, namespace))
        dry_run = request.query.get("dryRun") == "All"
        if verb == "create" and KINDS[plural][1] == GROUP:
            self.sent.append(("POST", dry_run, json.loads(body)))
            return self._store.create(plural, namespace, self._decode(body, plural, namespace), dry_run)
        if verb == "update" and plural == "inferenceservices":
            self.sent.append(("PUT", dry_run, json.loads(body)))
            return self._store.update(plural, namespace, name, self._decode(body, plural, namespace), dry_run)
        if verb == "delete" and plural == "inferenceservices":
            return self._store.delete(plural, namespace, name)
        raise Refusal(405, "MethodNotAllowed", f"the emulated cluster knows no {verb} of {plural}")

    def _discover(self, version: str) -> Json:
        known = [plural for plural in KINDS if api_version(plural) == f"{GROUP}/{version}"]
        if not known or not self._behaviour.kserve_installed:
            raise NoSuchPathError
        verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
        resources = [
            {
                "name": plural,
                "singularName": KINDS[plural][0].lower(),
                "namespaced": plural not in OF_CLUSTER,
                "kind": KINDS[plural][0],
                "verbs": verbs,
            }
            for plural in known
        ]
        of_list = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{GROUP}/{version}"}
        return {**of_list, "resources": resources}

    def _decode(self, body: bytes, plural: str, namespace: str) -> Json:
        sent: Json = json.loads(body)
        wanted, given = (api_version(plural), KINDS[plural][0]), (sent.get("apiVersion"), sent.get("kind"))
        # Of its own kinds an API server knows by the address what it is sent; not of those of custom resources.
        if wanted != given and (plural not in REVIEWS or given != (None, None)):
            what = f"{wanted[0]}, Kind={wanted[1]} was sent an object of {given[0]}, Kind={given[1]}"
            raise Refusal(400, "BadRequest", f"the API of {what}")
        metadata = sent.setdefault("metadata", {})
        if namespace and metadata.setdefault("namespace", namespace) != namespace:
            what = "the namespace of the provided object does not match the namespace sent on the request"
            raise Refusal(400, "BadRequest", what)
        return sent

    def _review(self, plural: str, sent: Json) -> Json:
        if plural == "selfsubjectreviews":
            groups = ["system:serviceaccounts", "system:authenticated"]
            return {**sent, "status": {"userInfo": {"username": self.user, "groups": groups}}}
        asked = sent["spec"].get("resourceAttributes", {})
        allowed = self._permitted(asked.get("verb", ""), asked.get("group", ""), asked.get("resource", ""))
        return {**sent, "status": {"allowed": allowed}}
