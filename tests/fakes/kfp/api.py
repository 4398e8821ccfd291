"""The KFP API server, v2beta1: what is stored, who may see it, and what requests are refused for.

After backend/src/apiserver of KFP 2.17.0. Filters, orders and pages are those that the client asks for, no others.
"""

import copy
import dataclasses
import datetime
import functools
import json
import re
import threading
import urllib.parse
import uuid
from typing import Any

import yaml

from tests.fakes.httpd import Request, Response
from tests.fakes.kfp.argo import Fate, advance, pod_of
from tests.fakes.kfp.robfig import Schedule

Json = dict[str, Any]
ROOT = "/apis/v2beta1"
NUMBER, TYPES = (int, float), {"STRING": str, "BOOLEAN": bool, "LIST": list, "STRUCT": dict}
OPAQUE = {"pipeline_spec", "parameters"}
# The id's name of each collection.
IDS = {
    "experiments": "experiment_id",
    "pipelines": "pipeline_id",
    "pipeline_versions": "pipeline_version_id",
    "runs": "run_id",
    "recurringRuns": "recurring_run_id",
}


class Refused(Exception):  # noqa: N818
    """A request that the server refuses: a status, and what the caller is told."""

    def __init__(self, status: int, told: str) -> None:
        super().__init__(told)
        self.status = status


@dataclasses.dataclass
class Access:
    """Who may do what where: whether namespaces matter at all, and those of each user."""

    multi_user: bool
    namespaces: dict[str, set[str]]

    def check(self, user: str, verb: str, resource: str, namespace: str) -> None:
        if self.multi_user and namespace not in self.namespaces.get(user, set()):
            asked = f"Namespace:{namespace},Verb:{verb},Group:pipelines.kubeflow.org,Resource:{resource}"
            raise Refused(403 if user else 401, f"User '{user}' is not authorized with reason:  (request: {asked})")


@dataclasses.dataclass
class Clock:
    """The server's time, in seconds; so many pass with a record. With 0, ids alone tell an order."""

    now: int = 1_767_225_600
    step: int = 1

    def tick(self) -> int:
        self.now += self.step
        return self.now


class Api:
    """The server, and what tests may ask it unseen.

    Attributes:
        health: What it says of itself.
        fate: What becomes of runs that are made from now on.
        case_matters: Whether names that differ in case alone are two names; not so with MySQL, so with PostgreSQL.
        requests: Method, path and user of all requests that came this far.
        records: All records of each collection by id, oldest first; what begins with an underscore is not told.
    """

    def __init__(self, access: Access) -> None:
        self._access, self._lock, self._made = access, threading.RLock(), 0
        self.clock, self.fate, self.case_matters = Clock(), Fate(), False
        self.health: Json = {"tag_name": "2.17.0", "multi_user": access.multi_user, "pipeline_store": "database"}
        self.requests: list[tuple[str, str, str]] = []
        self.records: dict[str, dict[str, Json]] = {kind: {} for kind in IDS}
        if not access.multi_user:
            self._add("experiments", {"display_name": "Default", "storage_state": "AVAILABLE"}, "")

    @property
    def experiments(self) -> list[Json]:
        return self._all("experiments")

    @property
    def pipelines(self) -> list[Json]:
        return self._all("pipelines")

    @property
    def versions(self) -> list[Json]:
        return self._all("pipeline_versions")

    @property
    def runs(self) -> list[Json]:
        return self._all("runs")

    @property
    def recurring_runs(self) -> list[Json]:
        return self._all("recurringRuns")

    def _all(self, kind: str) -> list[Json]:
        """Returns all of a collection, oldest first, as the API tells them."""
        with self._lock:
            return [public(record) for record in self.records[kind].values()]

    def pod_of(self, run_id: str, task: str) -> str:
        """Returns the name of the pod of a run's task, as in "train-model"."""
        return pod_of(self.records["runs"][run_id], task)

    def fire(self, recurring_run_id: str) -> Json:
        """Makes the next run of a recurring run, and returns it; nothing if that is disabled."""
        found = self.records["recurringRuns"][recurring_run_id]
        return public(self._run({**found, "display_name": "fired"})) if found["mode"] == "ENABLE" else {}

    def answer(self, request: Request, user: str) -> Response:
        """Answers a request with a path from `/apis/` on."""
        path = urllib.parse.unquote(request.path.removeprefix(ROOT)) if "%2F" not in request.path else "/none"
        with self._lock:
            self.requests.append((request.method, path, user))
            try:
                return _json(200, self._dispatch(request, path, user))
            except Refused as error:
                told = {"code": 0, "message": f"Failed: {error}", "details": [{"message": str(error)}]}
                if "upload" in path:
                    told = {"error_message": str(error), "error_details": str(error)}
                return _json(error.status, told)

    def _dispatch(self, request: Request, path: str, user: str) -> Json:
        query = dict(request.query)
        if path == "/healthz":
            return self.health
        if path == "/pipelines/upload_version":
            return self._upload(request, query, user)
        if found := re.fullmatch("/pipelines/([^/]+)/versions", path):
            self._find("pipelines", found[1], user, "list")
            of_it = [one for one in self.records["pipeline_versions"].values() if one["pipeline_id"] == found[1]]
            return _page("pipeline_versions", of_it, query)
        if found := re.fullmatch("/pipelines/[^/]+/versions/([^/]+)", path):
            return self._do(request.method, "pipeline_versions", found[1], "", user)
        found = re.fullmatch("/(experiments|pipelines|runs|recurringruns)(?:/([^/:]+)(?::([a-z]+))?)?", path)
        if not found:
            raise Refused(404, "Not Found")
        kind = found[1].replace("recurringruns", "recurringRuns")
        if found[2]:
            return self._do(request.method, kind, found[2], found[3] or "", user)
        if request.method == "GET":
            return self._list(kind, query, user)
        told = json.loads(request.body)
        make = {"runs": self._create_run, "recurringRuns": self._create_recurring_run}.get(kind)
        return public(make(told, user) if make else self._create(kind, told, user))

    def _do(self, method: str, kind: str, key: str, action: str, user: str) -> Json:
        """Reads, deletes or changes one record."""
        found = self._find(kind, key, user, action or method.lower())
        if method == "DELETE":
            del self.records[kind][key]
            return {}
        if action in ("enable", "disable"):
            found["mode"], found["status"] = action.upper(), f"{action.upper()}D"
        elif action == "archive":
            found["storage_state"] = "ARCHIVED"
        elif action == "terminate":
            found["state"] = "CANCELING"
            found["state_history"].append({"state": "CANCELING"})
        elif kind == "runs":
            advance(found, self.clock.tick())
        return public(found) if not action else {}

    def _list(self, kind: str, query: dict[str, str], user: str) -> Json:
        namespace = query.get("namespace", "") if self._access.multi_user else ""
        if experiment := query.get("experiment_id"):
            namespace = self._find("experiments", experiment, user, "get")["_namespace"]
        self._access.check(user, "list", kind, namespace)
        found = [one for one in self.records[kind].values() if one["_namespace"] == namespace]
        return _page(kind, [one for one in found if not experiment or one["experiment_id"] == experiment], query)

    def _create(self, kind: str, told: Json, user: str) -> Json:
        """Makes an experiment or a pipeline."""
        namespace = told.get("namespace", "") if self._access.multi_user else ""
        self._access.check(user, "create", kind, namespace)
        more = {"storage_state": "AVAILABLE"} if kind == "experiments" else {"name": told.get("name")}
        named = {"display_name": told["display_name"], **more, "namespace": namespace}
        self._check_free(kind, told["display_name"], _namespace=namespace)
        return self._add(kind, named, namespace)

    def _upload(self, request: Request, query: dict[str, str], user: str) -> Json:
        pipeline = self._find("pipelines", query["pipelineid"], user, "create")
        self._check_free("pipeline_versions", query["name"], pipeline_id=query["pipelineid"])
        spec = parse(_uploaded(request))
        told = {"name": query["name"], "display_name": query["display_name"], "pipeline_id": query["pipelineid"]}
        return public(self._add("pipeline_versions", {**told, "pipeline_spec": spec}, pipeline["_namespace"]))

    def _create_run(self, told: Json, user: str) -> Json:
        self._find("experiments", told["experiment_id"], user, "create")
        return self._run(told)

    def _run(self, told: Json) -> Json:
        version = self._version(told)
        namespace = self.records["experiments"][told["experiment_id"]]["_namespace"]
        now, pipeline = self.clock.tick(), version["pipeline_spec"]["pipeline_spec"]
        kept = ("display_name", "experiment_id", "recurring_run_id", "pipeline_version_reference", "runtime_config")
        run = {
            **{name: told[name] for name in kept if name in told},
            "service_account": told.get("service_account") or self._runner,
            **{"storage_state": "AVAILABLE", "state": "PENDING", "finished_at": 0, "run_details": {}},
            "state_history": [{"update_time": now, "state": "PENDING"}],
            **{"_pipeline": pipeline, "_fate": self.fate, "_reads": 0},
        }
        made = self._add("runs", run, namespace)
        made["_workflow"] = f"nlp-pipeline-{made['run_id'][:5]}"
        return made

    def _create_recurring_run(self, told: Json, user: str) -> Json:
        experiment = self._find("experiments", told["experiment_id"], user, "create")
        when = told["trigger"].get("cron_schedule", {})
        try:
            Schedule(when["cron"]) if when else None
        except ValueError as error:
            raise Refused(400, f"Schedule cron is not a supported format: {error}") from error
        if not 1 <= int(told.get("max_concurrency", 0)) <= 10:
            raise Refused(400, "Max concurrency of a recurring run must be at least 1 and at most 10")
        self._version(told)
        mode = told.get("mode", "DISABLE")
        for name in ("start_time", "end_time"):
            if name in when:
                when[name] = int(datetime.datetime.fromisoformat(when[name]).timestamp())
        account = told.get("service_account") or self._runner
        more = {"service_account": account, "mode": mode, "status": f"{mode}D", "no_catchup": told.get("no_catchup")}
        more["namespace"] = experiment["_namespace"] or "kubeflow"
        return self._add("recurringRuns", {**told, **more}, experiment["_namespace"])

    @property
    def _runner(self) -> str:
        return "default-editor" if self._access.multi_user else "pipeline-runner"

    def _version(self, told: Json) -> Json:
        """Returns the version that a run or a recurring run is of, having checked its parameters."""
        version = self.records["pipeline_versions"].get(told["pipeline_version_reference"]["pipeline_version_id"])
        if version is None:
            raise Refused(500, "Internal Server Error")
        parameters = told.get("runtime_config", {}).get("parameters", {})
        known = version["pipeline_spec"]["pipeline_spec"]["root"].get("inputDefinitions", {}).get("parameters", {})
        for name, definition in known.items():
            if name not in parameters:
                if not definition.get("isOptional") and "defaultValue" not in definition:
                    raise Refused(
                        400, f"parameter {name} is not optional, yet has neither default value nor user value"
                    )
                continue
            kind = TYPES.get(definition["parameterType"], NUMBER)
            if not isinstance(parameters[name], kind) or (isinstance(parameters[name], bool) and kind is not bool):
                raise Refused(400, f"input parameter {name} requires type {definition['parameterType']}")
        if extra := [name for name in parameters if name not in known]:
            raise Refused(400, f"parameter(s) provided are not required by pipeline: {', '.join(extra)}")
        return version

    def _add(self, kind: str, told: Json, namespace: str) -> Json:
        self._made += 1
        key = str(uuid.uuid5(uuid.NAMESPACE_URL, f"tests.fakes.kfp {self._made}"))  # ids have no order
        record = {IDS[kind]: key, **told, "created_at": self.clock.tick(), "_namespace": namespace}
        self.records[kind][key] = record
        return record

    def _find(self, kind: str, key: str, user: str, verb: str) -> Json:
        if key not in self.records[kind]:
            raise Refused(404, f"{kind} {key} not found")
        found = self.records[kind][key]
        self._access.check(user, verb, kind, found["_namespace"])
        return found

    def _check_free(self, kind: str, name: str, **same: str) -> None:
        fold = str if self.case_matters else str.casefold
        for record in self.records[kind].values():
            if fold(record["display_name"]) == fold(name) and same.items() <= record.items():
                raise Refused(409, f"The name {name} already exist. Please specify a new name")


def _page(kind: str, found: list[Json], query: dict[str, str]) -> Json:
    # What comes in a query is unquoted once more.
    told = json.loads(urllib.parse.unquote(query.get("filter", "")) or "{}")
    for one in told.get("predicates", []):
        wanted, equals = one.get("string_value", one.get("stringValue")), one["operation"] == "EQUALS"
        found = [record for record in found if (record.get(one["key"], "") == wanted) is equals]
    by = query.get("sort_by", "created_at").split()
    found = sorted(found, key=lambda record: (record[by[0]], record[IDS[kind]]), reverse="desc" in by)
    start, size = int(query.get("page_token") or 0), min(int(query.get("page_size") or 20), 200)
    rest = {"next_page_token": str(start + size)} if start + size < len(found) else {}
    page = {kind: [public(record) for record in found[start : start + size]], "total_size": len(found), **rest}
    return {name: value for name, value in page.items() if value}


def public(record: Json) -> Json:
    """Returns a record as the API tells it: what is empty is left out, times are text, also those that never came."""
    found: Json = {}
    for key, value in record.items():
        if key.startswith("_"):
            continue
        if key.endswith(("_at", "_time")) and isinstance(value, int):
            time = datetime.datetime.fromtimestamp(value, datetime.UTC)
            found[key] = time.strftime("%Y-%m-%dT%H:%M:%SZ")
        elif key not in OPAQUE and isinstance(value, dict):
            found[key] = public(value)
        elif isinstance(value, list):
            found[key] = [public(one) if isinstance(one, dict) else one for one in value]
        else:
            found[key] = copy.copy(value)
    return {key: value for key, value in found.items() if value not in ("", 0, False, None, [], {})}


@functools.lru_cache(maxsize=64)
def parse(text: bytes) -> Json:
    """Returns the `pipeline_spec` that the server answers with: both parts of a pipeline under their names."""
    documents = [one for one in yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if one]
    if not documents or any("root" not in one and "platforms" not in one for one in documents):
        raise Refused(400, "unknown template format")
    platform = documents[1] if len(documents) > 1 else {}
    return {"pipeline_spec": documents[0], "platform_spec": platform}


def _uploaded(request: Request) -> bytes:
    """Returns the content of the `uploadfile` of a multipart body."""
    boundary = re.search(r'boundary="?([^";]+)', request.headers["content-type"])
    assert boundary
    for part in request.body.split(b"--" + boundary[1].encode()):
        head, _, content = part.partition(b"\r\n\r\n")
        if b'name="uploadfile"' in head and b".yaml" in head:
            return content.removesuffix(b"\r\n")
    raise Refused(400, "Failed to read pipeline from file")


def _json(status: int, told: Json) -> Response:
    return Response(status, json.dumps(told), [("Content-Type", "application/json")])
