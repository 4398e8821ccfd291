"""The KFP API server, v2beta1: which request goes where, what it is refused for, and what it is answered."""

import dataclasses
import json
import re
import threading
import urllib.parse
from collections.abc import Callable
from typing import Any

from tests.kubeflow.asked import Asked
from tests.kubeflow.errors import Refused
from tests.kubeflow.experiments import Experiments
from tests.kubeflow.httpd import Request, Response
from tests.kubeflow.pipelines import Pipelines
from tests.kubeflow.recurring import RecurringRuns
from tests.kubeflow.runs import Runs
from tests.kubeflow.store import Access, Store, public
from tests.kubeflow.swagger import problems_of_request, problems_of_response
from tests.kubeflow.tasks import Fate, pod_of

Json = dict[str, Any]
ROOT = "/apis/v2beta1"


@dataclasses.dataclass(frozen=True)
class Seen:
    """A request that came as far as the API server.

    Attributes:
        method: GET, POST ...
        path: From `/apis/v2beta1` on, without that.
        query: The query, by names.
        body: The JSON document, or the uploaded file's name and content.
        user: Who asked.
        status: What was answered.
    """

    method: str
    path: str
    query: dict[str, str]
    body: Any
    user: str
    status: int

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Api:
    """The server, and what tests may ask it unseen.

    Args:
        access: Who may do what where.

    Attributes:
        requests: All requests that came this far.
        refused: Why requests were refused that the Swagger description does not allow; tests assert that it's empty.
        broken: What the server itself did that the description does not allow.
        old_errors: Whether errors are told as before KFP 2.5, with `error` besides `message`.
    """

    def __init__(self, access: Access) -> None:
        self._access, self._store, self._lock = access, Store(), threading.RLock()
        self.clock = self._store.clock
        self.requests: list[Seen] = []
        self.refused: list[str] = []
        self.broken: list[str] = []
        self.old_errors = False
        self._experiments = Experiments(self._store, access)
        self._pipelines = Pipelines(self._store, access)
        self._runs = Runs(self._store, access, self._experiments, self._pipelines)
        self._recurring = RecurringRuns(self._store, access, self._experiments, self._pipelines, self._runs)
        self._routes = self._make_routes()

    @property
    def fate(self) -> Fate:
        """What becomes of runs that are made from now on."""
        return self._runs.fate

    @fate.setter
    def fate(self, fate: Fate) -> None:
        self._runs.fate = fate

    @property
    def case_matters(self) -> bool:
        """Whether names that differ in case alone are two names; not so with MySQL, so with PostgreSQL."""
        return self._store.fold is _as_it_is

    @case_matters.setter
    def case_matters(self, matters: bool) -> None:
        self._store.fold = _as_it_is if matters else str.casefold

    @property
    def experiments(self) -> list[Json]:
        """All experiments, oldest first, as the API tells them."""
        return self._all(self._store.experiments)

    @property
    def pipelines(self) -> list[Json]:
        """All pipelines, oldest first."""
        return self._all(self._store.pipelines)

    @property
    def versions(self) -> list[Json]:
        """All versions of all pipelines, oldest first."""
        return self._all(self._store.versions)

    @property
    def runs(self) -> list[Json]:
        """All runs, oldest first; no time passes."""
        return self._all(self._store.runs)

    @property
    def recurring_runs(self) -> list[Json]:
        """All recurring runs, oldest first."""
        return self._all(self._store.recurring_runs)

    def pod_of(self, run_id: str, task: str) -> str:
        """Returns the name of the pod of a run's task, as in "train-model"."""
        with self._lock:
            return pod_of(self._store.runs[run_id], task)

    def fire(self, recurring_run_id: str) -> Json:
        """Makes the next run of a recurring run, and returns it; nothing if that is disabled."""
        with self._lock:
            return self._recurring.fire(recurring_run_id)

    def answer(self, request: Request, user: str) -> Response:
        """Answers a request.

        Args:
            request: With a path from `/apis/` on.
            user: Who asks, as the gateway found; empty for no one.
        """
        kind = request.headers.get("content-type", "")
        with self._lock:
            wrong = problems_of_request(request.method, request.target, kind, request.body)
            self.refused += wrong
            if wrong:
                response = Response(500, json.dumps({"code": 13, "message": f"not in KFP's Swagger: {wrong}"}))
            else:
                response = self._answer(request, user)
            if response.status == 200:
                self.broken += problems_of_response(request.method, request.target, response.body)
            file = _file_of(kind, request.body)
            path = urllib.parse.unquote(request.path.removeprefix(ROOT))
            body: Any = file or (json.loads(request.body) if request.body and not wrong else {})
            self.requests.append(Seen(request.method, path, dict(request.query), body, user, response.status))
        return response

    def _answer(self, request: Request, user: str) -> Response:
        path = request.path.removeprefix(ROOT)
        known = False
        for method, pattern, handle in self._routes:
            found = re.fullmatch(pattern, path)
            known = known or bool(found)
            if found and method == request.method:
                names = tuple(urllib.parse.unquote(one) for one in found.groups())
                return self._handle(handle, request, user, names)
        code, status = ((12, 501), "Method Not Allowed") if known else ((5, 404), "Not Found")
        return _json({"code": code[0], "message": status, "details": []}, code[1])

    def _handle(
        self, handle: Callable[[Asked], Json | Response], request: Request, user: str, names: tuple[str, ...]
    ) -> Response:
        file = _file_of(request.headers.get("content-type", ""), request.body)
        try:
            body = json.loads(request.body) if request.body and file is None else {}
            told = handle(Asked(user, names, dict(request.query), body, file))
        except ValueError as error:
            return _json({"code": 3, "message": str(error), "details": []}, 400)
        except Refused as error:
            return _json(error.json(self.old_errors), error.status)
        return told if isinstance(told, Response) else _json(told)

    def _health(self, asked: Asked) -> Json:
        del asked
        return {"commit_sha": "0" * 40, "tag_name": "2.17.0", "multi_user": self._access.multi_user,
                "pipeline_store": "database"}  # fmt: skip

    def _all(self, records: dict[str, Json]) -> list[Json]:
        with self._lock:
            return [public(one) for one in records.values()]

    def _make_routes(self) -> list[tuple[str, str, Callable[[Asked], Json | Response]]]:
        experiments, pipelines, runs, recurring = self._experiments, self._pipelines, self._runs, self._recurring
        one = "([^/:]+)"
        return [
            ("GET", "/healthz", self._health),
            ("GET", "/experiments", experiments.list_some),
            ("POST", "/experiments", experiments.create),
            ("GET", f"/experiments/{one}", experiments.get),
            ("DELETE", f"/experiments/{one}", experiments.delete),
            ("POST", f"/experiments/{one}:archive", experiments.archive),
            ("POST", f"/experiments/{one}:unarchive", experiments.unarchive),
            ("POST", "/pipelines/upload", pipelines.upload),
            ("POST", "/pipelines/upload_version", pipelines.upload_version),
            ("GET", "/pipelines", pipelines.list_some),
            ("POST", "/pipelines", pipelines.create),
            ("GET", f"/pipelines/names/{one}", pipelines.get_by_name),
            ("GET", f"/pipelines/{one}", pipelines.get),
            ("DELETE", f"/pipelines/{one}", pipelines.delete),
            ("GET", f"/pipelines/{one}/versions", pipelines.list_versions),
            ("GET", f"/pipelines/{one}/versions/{one}", pipelines.get_version),
            ("DELETE", f"/pipelines/{one}/versions/{one}", pipelines.delete_version),
            ("GET", "/runs", runs.list_some),
            ("POST", "/runs", runs.create),
            ("GET", f"/runs/{one}", runs.get),
            ("DELETE", f"/runs/{one}", runs.delete),
            ("POST", f"/runs/{one}:terminate", runs.terminate),
            ("POST", f"/runs/{one}:archive", runs.archive),
            ("POST", f"/runs/{one}:unarchive", runs.unarchive),
            ("GET", "/recurringruns", recurring.list_some),
            ("POST", "/recurringruns", recurring.create),
            ("GET", f"/recurringruns/{one}", recurring.get),
            ("DELETE", f"/recurringruns/{one}", recurring.delete),
            ("POST", f"/recurringruns/{one}:enable", recurring.enable),
            ("POST", f"/recurringruns/{one}:disable", recurring.disable),
        ]


def _as_it_is(text: str) -> str:
    return text


def _json(told: Json, status: int = 200) -> Response:
    return Response(status, json.dumps(told), [("Content-Type", "application/json")])


def _file_of(kind: str, body: bytes) -> tuple[str, bytes] | None:
    """Returns name and content of the `uploadfile` of a multipart body."""
    boundary = re.search(r'boundary="?([^";]+)', kind)
    if not kind.startswith("multipart/form-data") or boundary is None:
        return None
    for part in body.split(b"--" + boundary[1].encode()):
        head, _, content = part.partition(b"\r\n\r\n")
        if b'name="uploadfile"' in head:
            name = re.search(r'filename="([^"]*)"', head.decode())
            return (name[1] if name else ""), content.removesuffix(b"\r\n")
    return None
