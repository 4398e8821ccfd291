"""The KFP API server, v2beta1: what is stored, who may see it, and what requests are refused for.

After backend/src/apiserver of KFP 2.17.0. Filters, orders and pages are those that the client asks for, no others.
"""

import copy
import datetime
import functools
import itertools
import json
import re
import threading
import urllib.parse
import uuid
from collections.abc import Callable
from typing import Any

import yaml

from tests.fakes.httpd import Request, Response
from tests.fakes.kfp.argo import NEVER, Fate, advance, pod_of, workflow_of

Json = dict[str, Any]
NUMBER, TYPES = (int, float), {"STRING": str, "BOOLEAN": bool, "LIST": list, "STRUCT": dict}
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

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """The server, and what tests may ask it unseen; where there are several users, each has a namespace."""

    def __init__(self, namespaces: dict[str, str]) -> None:
        self._namespaces, self.multi_user = namespaces, bool(namespaces)
        self._lock, self._count = threading.RLock(), itertools.count()
        self._now, self.fate = datetime.datetime(2026, 1, 1), Fate()  # of runs that are made from now on
        self.cluster: Any = None  # where the runs' Workflows are kept
        self.started: Callable[[Json], object] = lambda record: None  # called with each run that is made
        self.health: Json = {"tag_name": "2.17.0", "multi_user": self.multi_user, "pipeline_store": "database"}
        self.requests: list[tuple[str, str, str]] = []  # method, path and user
        # All of each collection by id, oldest first; what begins with an underscore is the stand-in's own.
        self.records: dict[str, dict[str, Json]] = {kind: {} for kind in IDS}
        if not self.multi_user:
            self._add("experiments", {"display_name": "Default", "storage_state": "AVAILABLE"}, "")

    def _all(self, kind: str) -> list[Json]:
        with self._lock:
            return [public(record) for record in self.records[kind].values()]

    experiments = property(lambda self: self._all("experiments"))
    pipelines = property(lambda self: self._all("pipelines"))
    versions = property(lambda self: self._all("pipeline_versions"))
    runs = property(lambda self: self._all("runs"))
    recurring_runs = property(lambda self: self._all("recurringRuns"))

    def pod_of(self, run_id: str, task: str) -> str:
        """Returns the name of the pod of a run's task, as in "train-model"."""
        return pod_of(self.records["runs"][run_id], task)

    def workflow_of(self, run_id: str) -> Json:
        return workflow_of(self.records["runs"][run_id])

    def fire(self, recurring_run_id: str) -> Json:
        """Makes the next run of a recurring run, and returns it; nothing if that is disabled."""
        result = self.records["recurringRuns"][recurring_run_id]
        return public(self._run({**result, "display_name": "fired"})) if result["mode"] == "ENABLE" else {}

    def answer(self, request: Request, user: str) -> Response:
        """Answers a request with a path from `/apis/` on."""
        path = urllib.parse.unquote(request.path.removeprefix("/apis/v2beta1"))
        with self._lock:
            self.requests.append((request.method, path, user))
            try:
                return _json(200, self._dispatch(request, path if "%2F" not in request.path else "/none", user))
            except Refused as error:
                answer = {"code": 0, "message": f"Failed: {error}", "details": [{"message": str(error)}]}
                if "upload" in path:
                    answer = {"error_message": str(error), "error_details": str(error)}
                return _json(error.status, answer)

    def _dispatch(self, request: Request, path: str, user: str) -> Json:
        query = dict(request.query)
        if path == "/healthz":
            return self.health
        if path == "/pipelines/upload_version":
            return self._upload(request, query, user)
        if match := re.fullmatch("/pipelines/([^/]+)/versions", path):
            self._find("pipelines", match[1], user)
            versions = self.records["pipeline_versions"].values()
            return _page("pipeline_versions", [item for item in versions if item["pipeline_id"] == match[1]], query)
        if match := re.fullmatch("/pipelines/[^/]+/versions/([^/]+)", path):
            return public(self._find("pipeline_versions", match[1], user))
        match = re.fullmatch("/(experiments|pipelines|runs|recurringruns)(?:/([^/:]+)(?::([a-z]+))?)?", path)
        if not match:
            raise Refused(404, "Not Found")
        kind = match[1].replace("recurringruns", "recurringRuns")
        if match[2]:
            orphan = query.get("propagation_policy") == "ORPHAN"
            return self._do(request.method, kind, match[2], match[3] or "", user, orphan)
        if request.method == "GET":
            return self._list(kind, query, user)
        body = json.loads(request.body)
        make = {"runs": self._create_run, "recurringRuns": self._create_recurring_run}.get(kind)
        return public(make(body, user) if make else self._create(kind, body, user))

    def _do(self, method: str, kind: str, key: str, action: str, user: str, orphan: bool) -> Json:
        record = self._find(kind, key, user)
        if method == "DELETE":
            del self.records[kind][key]
            for run in self.records["runs"].values():  # of a recurring run: its Workflows go, and no one tells the runs
                run["_killed"] = run.get("_killed") or (run.get("recurring_run_id") == key and not orphan)
            return {}
        if action in ("enable", "disable"):
            record["mode"], record["status"] = action.upper(), f"{action.upper()}D"
        elif action == "archive":
            record["storage_state"] = "ARCHIVED"
        elif action == "terminate":
            record["state"] = "CANCELING"
            record["state_history"].append({"state": "CANCELING"})
        elif action == "retry":
            if record["state"] != "FAILED":
                raise Refused(400, "Workflow must be Failed/Error to retry")
            record |= {"state": "RUNNING", "finished_at": NEVER, "_fate": self.fate}
            record["state_history"].append({"state": "RUNNING"})
        elif kind == "runs":
            advance(record, self._tick())
            if self.cluster:
                self.cluster.add(workflow_of(record))
        return public(record) if not action else {}

    def _check(self, user: str, namespace: str) -> None:
        if self.multi_user and self._namespaces.get(user) != namespace:
            asked = f"Namespace:{namespace},Group:pipelines.kubeflow.org"
            raise Refused(403 if user else 401, f"User '{user}' is not authorized with reason:  (request: {asked})")

    def _list(self, kind: str, query: dict[str, str], user: str) -> Json:
        namespace = query.get("namespace", "") if self.multi_user else ""
        if experiment := query.get("experiment_id"):
            namespace = self._find("experiments", experiment, user)["_namespace"]
        self._check(user, namespace)
        result = [item for item in self.records[kind].values() if item["_namespace"] == namespace]
        return _page(kind, [item for item in result if not experiment or item["experiment_id"] == experiment], query)

    def _create(self, kind: str, body: Json, user: str) -> Json:
        namespace = body.get("namespace", "") if self.multi_user else ""
        self._check(user, namespace)
        self._check_free(kind, body["display_name"], _namespace=namespace)
        more = {"storage_state": "AVAILABLE"} if kind == "experiments" else {"name": body.get("name")}
        return self._add(kind, {"display_name": body["display_name"], **more, "namespace": namespace}, namespace)

    def _upload(self, request: Request, query: dict[str, str], user: str) -> Json:
        pipeline = self._find("pipelines", query["pipelineid"], user)
        names = {"name": query["name"], "display_name": query["display_name"], "pipeline_id": query["pipelineid"]}
        self._check_free("pipeline_versions", query["name"], pipeline_id=query["pipelineid"])
        file = re.search(
            rb'name="uploadfile"; filename="[^"]+\.yaml"\r\n.*?\r\n\r\n(.*)\r\n--', request.body, re.DOTALL
        )
        if not file:
            raise Refused(400, "Failed to read pipeline from file")
        record = {**names, "pipeline_spec": parse(file[1])}
        return public(self._add("pipeline_versions", record, pipeline["_namespace"]))

    def _create_run(self, body: Json, user: str) -> Json:
        self._find("experiments", body["experiment_id"], user)
        return self._run(body)

    def _run(self, body: Json) -> Json:
        pipeline = self._version(body)["pipeline_spec"]["pipeline_spec"]
        kept = ("display_name", "experiment_id", "recurring_run_id", "pipeline_version_reference", "runtime_config")
        run = {
            **{name: body[name] for name in kept if name in body},
            "service_account": body.get("service_account") or self._runner,
            **{"storage_state": "AVAILABLE", "state": "PENDING", "finished_at": NEVER, "run_details": {}},
            "state_history": [{"update_time": self._tick(), "state": "PENDING"}],
            **{"_pipeline": pipeline, "_fate": self.fate, "_reads": 0},
        }
        made = self._add("runs", run, self.records["experiments"][body["experiment_id"]]["_namespace"])
        made["_workflow"] = f"nlp-pipeline-{made['run_id'][:5]}"
        self.started(made)
        return made

    def _create_recurring_run(self, body: Json, user: str) -> Json:
        namespace = self._find("experiments", body["experiment_id"], user)["_namespace"]
        when = body["trigger"].get("cron_schedule", {})
        if when and len(when["cron"].split()) not in (5, 6):
            raise Refused(400, f"Schedule cron is not a supported format: {when['cron']}")
        if not 1 <= int(body.get("max_concurrency", 0)) <= 10:
            raise Refused(400, "Max concurrency of a recurring run must be at least 1 and at most 10")
        self._version(body)
        for name in {"start_time", "end_time"} & when.keys():
            when[name] = when[name].replace("+00:00", "Z")
        mode = body.get("mode", "DISABLE")
        more = {"mode": mode, "status": f"{mode}D", "no_catchup": body.get("no_catchup")}
        more["service_account"] = body.get("service_account") or self._runner
        return self._add("recurringRuns", {**body, **more, "namespace": namespace or "kubeflow"}, namespace)

    @property
    def _runner(self) -> str:
        return "default-editor" if self.multi_user else "pipeline-runner"

    def _version(self, body: Json) -> Json:
        """Returns the version that a run or a recurring run is of, having checked its parameters."""
        version = self.records["pipeline_versions"].get(body["pipeline_version_reference"]["pipeline_version_id"])
        if version is None:
            raise Refused(500, "Internal Server Error")
        parameters = body.get("runtime_config", {}).get("parameters", {})
        known = version["pipeline_spec"]["pipeline_spec"]["root"].get("inputDefinitions", {}).get("parameters", {})
        for name, definition in known.items():
            if name not in parameters and not definition.get("isOptional") and "defaultValue" not in definition:
                raise Refused(400, f"parameter {name} is not optional, yet has neither default value nor user value")
            kind, value = TYPES.get(definition["parameterType"], NUMBER), parameters.get(name)
            if name in parameters and (not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool)):
                raise Refused(400, f"input parameter {name} requires type {definition['parameterType']}")
        if extra := parameters.keys() - known.keys():
            raise Refused(400, f"parameter(s) provided are not required by pipeline: {', '.join(extra)}")
        return version

    def _tick(self) -> str:
        """Returns the time, which passes with each record."""
        self._now += datetime.timedelta(seconds=1)
        return f"{self._now.isoformat()}Z"

    def _add(self, kind: str, record: Json, namespace: str) -> Json:
        key = str(uuid.uuid5(uuid.NAMESPACE_URL, f"tests.fakes.kfp {next(self._count)}"))  # ids have no order
        self.records[kind][key] = {IDS[kind]: key, **record, "created_at": self._tick(), "_namespace": namespace}
        return self.records[kind][key]

    def _find(self, kind: str, key: str, user: str) -> Json:
        if key not in self.records[kind]:
            raise Refused(404, f"{kind} {key} not found")
        self._check(user, self.records[kind][key]["_namespace"])
        return self.records[kind][key]

    def _check_free(self, kind: str, name: str, **same: str) -> None:
        for record in self.records[kind].values():
            # MySQL has no regard to case.
            if record["display_name"].casefold() == name.casefold() and same.items() <= record.items():
                raise Refused(409, f"The name {name} already exist. Please specify a new name")


def _page(kind: str, result: list[Json], query: dict[str, str]) -> Json:
    # What comes in a query is unquoted once more.
    only = json.loads(urllib.parse.unquote(query.get("filter", "")) or "{}")
    for item in only.get("predicates", []):
        expected, equals = item.get("string_value", item.get("stringValue")), item["operation"] == "EQUALS"
        result = [record for record in result if (record.get(item["key"], "") == expected) is equals]
    by = query.get("sort_by", "created_at").split()
    result = sorted(result, key=lambda record: (record[by[0]], record[IDS[kind]]), reverse="desc" in by)
    start, size = int(query.get("page_token") or 0), min(int(query.get("page_size") or 20), 200)
    page = {kind: [public(record) for record in result[start : start + size]], "total_size": len(result)}
    page["next_page_token"] = str(start + size) if start + size < len(result) else ""
    return {name: value for name, value in page.items() if value}


def public(record: Json) -> Json:
    """Returns a record as the API tells it: what is empty is left out."""
    shown = {key: value for key, value in record.items() if not key.startswith("_")}
    return copy.deepcopy({key: value for key, value in shown.items() if value not in ("", 0, False, None, [], {})})


@functools.lru_cache(maxsize=64)
def parse(text: bytes) -> Json:
    """Returns the `pipeline_spec` that the server answers with: both parts of a pipeline under their names."""
    documents = [item for item in yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if item]
    if not documents or any("root" not in item and "platforms" not in item for item in documents):
        raise Refused(400, "unknown template format")
    return {"pipeline_spec": documents[0], "platform_spec": documents[1] if len(documents) > 1 else {}}


def _json(status: int, answer: Json) -> Response:
    return Response(status, json.dumps(answer), [("Content-Type", "application/json")])
