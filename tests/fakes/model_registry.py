"""A Kubeflow Model Registry over HTTP, as far as releases are registered there; what it is sent must be its API's."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from mr_openapi import models

from tests.fakes.httpd import Host, Request, Response

Json = dict[str, Any]
# What a client creates, by the end of its path.
CREATES = {
    "registered_models": models.RegisteredModelCreate,
    "model_versions": models.ModelVersionCreate,
    "artifacts": models.Artifact,
}
# What is looked for by its name, in which collection.
FINDS = {"registered_model": "registered_models", "model_version": "model_versions", "model_artifact": "artifacts"}


class ModelRegistry:
    """The registry."""

    def __init__(self, api: str) -> None:
        self.prefix = f"/api/model_registry/{api}/"
        self.collections: dict[str, list[Json]] = {name: [] for name in CREATES}
        self.writes: list[str] = []  # methods and paths of requests that changed something
        self.tokens: set[str] = set()  # the Authorization headers that it was sent
        self.refusals: list[int] = []  # statuses that it answers next
        self.host = Host(self.answer)

    @property
    def url(self) -> str:
        return self.host.url

    @property
    def versions(self) -> dict[str, Json]:
        """The versions by their names."""
        return {item["name"]: item for item in self.collections["model_versions"]}

    def properties(self, version: str) -> Json:
        """Returns a version's custom properties, as plain values."""
        values = self.versions[version].get("customProperties", {})
        return {
            name: next(value for key, value in item.items() if key != "metadataType") for name, item in values.items()
        }

    def answer(self, request: Request) -> Response:
        self.tokens.add(request.headers.get("authorization", ""))
        if self.refusals:
            return _error(self.refusals.pop(0), "not now\nplease")
        if not request.path.startswith(self.prefix):
            return Response(404, "404 page not found\n", [("Content-Type", "text/plain")])
        if request.method != "GET":
            self.writes.append(f"{request.method} {request.path.removeprefix(self.prefix)}")
        *parents, last = request.path.removeprefix(self.prefix).split("/")
        if request.method == "POST":
            return self.create(CREATES[last], last, parents, json.loads(request.body))
        if last in FINDS:
            query = dict(request.query)
            parent = query.get("parentResourceId", "")
            items = [
                item
                for item in self.collections[FINDS[last]]
                if item["name"] == query["name"] and parent in ("", item.get("parent", item.get("registeredModelId")))
            ]
        else:
            items = [item for item in self.collections[parents[0]] if item["id"] == last]
        if not items:
            return _error(404, "no such thing")
        if request.method == "PATCH":
            items[0].update(_checked(models.ModelVersionUpdate, json.loads(request.body)))
        return _json(200, items[0])

    def create(self, kind: Any, collection: str, parents: list[str], body: Json) -> Response:
        items = self.collections[collection]
        item = {"id": str(len(items) + 1), "state": "LIVE", **_checked(kind, body)}
        if parents:
            item["parent"] = parents[-1]
        if any(other["name"] == item["name"] and other.get("parent") == item.get("parent") for other in items):
            return _error(409, "already exists")
        items.append(item)
        return _json(201, item)


def _checked(kind: Any, body: Json) -> Json:
    """Returns what a client sent, which its own API must know, to the last field."""
    parsed: Json = kind.from_dict(body).to_dict()
    assert parsed == body, f"{kind.__name__} is not what was sent: {body}"
    return body


def _json(status: int, body: Json) -> Response:
    return Response(status, json.dumps(body), [("Content-Type", "application/json")])


def _error(status: int, message: str) -> Response:
    return _json(status, {"code": str(status), "message": message})


@contextlib.contextmanager
def model_registry(api: str = "v1") -> Iterator[ModelRegistry]:
    """Starts a registry with an API's version, and ends it."""
    registry = ModelRegistry(api)
    registry.host.start()
    try:
        yield registry
    finally:
        registry.host.stop()
    assert not registry.host.broken
