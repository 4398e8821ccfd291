"""Pipelines and their versions, after server/pipeline_server.go and server/pipeline_upload_server.go."""

import json
from typing import Any

from tests.kubeflow.asked import Asked
from tests.kubeflow.errors import Refused, already_exists, as_internal, context, invalid, not_found
from tests.kubeflow.httpd import Response
from tests.kubeflow.listing import Listing
from tests.kubeflow.spec import Template, parse
from tests.kubeflow.store import Access, Store, public

Json = dict[str, Any]
FIELDS = {"name": "name", "display_name": "display_name", "namespace": "namespace"}
VERSION_FIELDS = {"name": "name", "display_name": "display_name"}


class Pipelines:
    """The pipeline service and the upload of files."""

    def __init__(self, store: Store, access: Access) -> None:
        self._store, self._access = store, access
        fold = lambda text: store.fold(text)  # noqa: E731  # tests may change how names compare
        self._listing = Listing("Pipeline", "pipelines", "pipeline_id", FIELDS, fold)
        self._versions = Listing("PipelineVersion", "pipeline_versions", "pipeline_version_id", VERSION_FIELDS, fold)

    def upload(self, asked: Asked) -> Json | Response:
        """Makes a pipeline with a first version of the same name from a file."""
        failed = "Failed to create a pipeline and a pipeline version"
        if asked.file is None:
            return upload_error(400, "Failed to read pipeline from file")
        if not _is_readable(*asked.file):
            return upload_error(400, "Failed to read a pipeline spec file")
        namespace = self._access.namespace(asked.query.get("namespace", ""))
        try:
            if namespace:  # without one it is shared, which is left to anyone
                self._access.check(asked.user, "create", "pipelines", namespace)
        except Refused:
            return upload_error(400, "Failed to create a pipeline")
        name = asked.query.get("name") or asked.query.get("display_name") or asked.file[0]
        if len(name.encode()) > 128:
            return plain_error("Invalid input error: Pipeline.Name length cannot exceed 128")
        try:
            template = parse(asked.file[1])
            pipeline = self._make(asked.query, name, namespace)
            self._make_version(asked.query, name, pipeline, template)
        except Refused as error:
            return upload_error(error.status, error.told if error.code == "InvalidArgument" else failed)
        return public(pipeline)

    def upload_version(self, asked: Asked) -> Json | Response:
        """Makes a version of a pipeline from a file."""
        failed = "Failed to create a pipeline version"
        pipeline = self._store.pipelines.get(asked.query.get("pipelineid", ""))
        if asked.file is None or not _is_readable(*asked.file) or pipeline is None:
            return upload_error(400, failed)
        name = asked.query.get("name") or asked.query.get("display_name") or asked.file[0]
        if len(name.encode()) > 127:
            return plain_error("Invalid input error: PipelineVersion.Name length cannot exceed 127")
        try:
            if pipeline["namespace"]:
                self._access.check(asked.user, "create", "pipelines", pipeline["namespace"])
        except Refused:
            return upload_error(400, failed)
        try:
            return public(self._make_version(asked.query, name, pipeline, parse(asked.file[1])))
        except Refused as error:
            return upload_error(error.status, error.told if error.code == "InvalidArgument" else failed)

    def create(self, asked: Asked) -> Json:
        """Makes a pipeline without any version."""
        with context("Failed to create a pipeline due to server error"):
            namespace = self._access.namespace(asked.body.get("namespace", ""))
            name = asked.body.get("name") or asked.body.get("display_name", "")
            if not name:
                raise invalid("name is required")
            with context(f"Failed to create a pipeline due to authorization error. Check if you have write permissions "
                         f"to namespace {namespace}"):  # fmt: skip
                self._check(asked.user, "create", namespace)
            return public(self._make(asked.body, name, namespace))

    def get(self, asked: Asked) -> Json:
        key = asked.path[0]
        with (
            context(f"Failed to get a pipeline {key}. Check error stack"),
            context(f"Failed to get a pipeline due authorization error for pipeline id {key}"),
        ):
            return public(self._find(asked.user, "get", key))

    def get_by_name(self, asked: Asked) -> Json:
        name, namespace = asked.path[0], self._access.namespace(asked.query.get("namespace", ""))
        with context(f"Failed to get a pipeline with name {name} and namespace {namespace}. Check error stack."):
            self._check(asked.user, "get", namespace)
            found = self._store.named(self._store.pipelines, name, "name", namespace=namespace)
            if found is None:
                raise not_found("Namespace/Pipeline", f"{namespace}/{name}")
            return public(found)

    def list_some(self, asked: Asked) -> Json:
        with context("Failed to list pipelines due invalid list options"):
            self._listing.check(asked.query)
        namespace = self._access.namespace(asked.query.get("namespace", ""))
        with (
            context(f"Failed to list pipelines in namespace {namespace}. Check error stack"),
            context(f"Failed to list pipelines due to authorization error. Check if you have read permission to "
                    f"namespace {namespace}"),
        ):  # fmt: skip
            self._check(asked.user, "list", namespace)
        found = [one for one in self._store.pipelines.values() if one["namespace"] == namespace]
        return self._listing.page(found, asked.query)

    def delete(self, asked: Asked) -> Json:
        key = asked.path[0]
        with context(f"Failed to delete pipeline {key}. Check error stack"):
            self._find(asked.user, "delete", key)
            versions = [one["pipeline_version_id"] for one in self.versions_of(key)]
            if versions and asked.query.get("cascade") != "true":
                raise invalid(f"Failed to delete pipeline with id {key} as it has existing pipeline versions (e.g. "
                              f"{versions[-1]}). Set cascade=true to delete all versions")  # fmt: skip
            for version in versions:
                del self._store.versions[version]
            del self._store.pipelines[key]
        return {}

    def get_version(self, asked: Asked) -> Json:
        with context(f"Failed to get a pipeline version {asked.path[1]}"):
            return public(self._find_version(asked, "get"))

    def list_versions(self, asked: Asked) -> Json:
        with context("Failed to list pipeline versions due invalid list options"):
            self._versions.check(asked.query)
        with (
            context(f"Failed to list pipeline versions for pipeline {asked.path[0]}"),
            context(f"Failed to list pipeline versions due to error fetching the namespace for pipeline "
                    f"{asked.path[0]}"),
        ):  # fmt: skip
            self._find(asked.user, "list", asked.path[0])
        return self._versions.page(self.versions_of(asked.path[0]), asked.query)

    def delete_version(self, asked: Asked) -> Json:
        with context(f"Failed to delete a pipeline version id {asked.path[1]} under pipeline id {asked.path[0]}. "
                     "Check error stack"):  # fmt: skip
            del self._store.versions[self._find_version(asked, "delete")["pipeline_version_id"]]
        return {}

    def versions_of(self, key: str) -> list[Json]:
        """Returns a pipeline's versions, oldest first."""
        return [one for one in self._store.versions.values() if one["pipeline_id"] == key]

    def referred(self, reference: Json, failed: str) -> Json:
        """Returns the version that a run refers to; whatever is wrong with it is told as a 500.

        Args:
            reference: A `pipeline_version_reference`; without a version the pipeline's newest is meant.
            failed: What failed by it.
        """
        with as_internal(failed), context("Failed to fetch a template due to error retrieving pipeline version"):
            pipeline, version = reference.get("pipeline_id", ""), reference.get("pipeline_version_id", "")
            if version:
                found = self._store.find(self._store.versions, "PipelineVersion", version)
                if pipeline and found["pipeline_id"] != pipeline:
                    raise invalid(f"Pipeline version {version} belongs to pipeline {found['pipeline_id']} (not "
                                  f"{pipeline})")  # fmt: skip
                return found
            self._store.find(self._store.pipelines, "Pipeline", pipeline)
            versions = sorted(self.versions_of(pipeline), key=lambda one: one["created_at"])
            if not versions:
                raise not_found("PipelineVersion", f"of pipeline {pipeline}")
            return versions[-1]

    def _make(self, told: Json, name: str, namespace: str) -> Json:
        if self._store.named(self._store.pipelines, name, "name", namespace=namespace):
            raise already_exists(f"Failed to create a new pipeline. The name {name} already exist. "
                                 "Please specify a new name")  # fmt: skip
        key = self._store.new_id()
        self._store.pipelines[key] = {
            "pipeline_id": key,
            "name": name,
            "display_name": told.get("display_name") or name,
            "description": told.get("description", ""),
            "created_at": self._store.clock.tick(),
            "namespace": namespace,
            "tags": _tags(told.get("tags")),
        }
        return self._store.pipelines[key]

    def _make_version(self, told: Json, name: str, pipeline: Json, template: Template) -> Json:
        key = self._store.new_id()
        if self._store.named(self._store.versions, name, "name", pipeline_id=pipeline["pipeline_id"]):
            raise already_exists(f"Failed to create a new pipeline version. The name {name} already exist. "
                                 "Specify a new name")  # fmt: skip
        self._store.versions[key] = {
            "pipeline_id": pipeline["pipeline_id"],
            "pipeline_version_id": key,
            "name": name,
            "display_name": told.get("display_name") or name,
            "description": told.get("description", ""),
            "created_at": self._store.clock.tick(),
            "code_source_url": told.get("code_source_url", ""),
            "pipeline_spec": template.json,
            "tags": _tags(told.get("tags")),
            "_template": template,
        }
        return self._store.versions[key]

    def _find(self, user: str, verb: str, key: str) -> Json:
        with context(f"Failed to access pipeline {key}. Check if it exists and have a namespace assigned"):
            found = self._store.find(self._store.pipelines, "Pipeline", key)
        self._check(user, verb, found["namespace"])
        return found

    def _find_version(self, asked: Asked, verb: str) -> Json:
        # The pipeline's id of the path is not looked at.
        with context(f"Failed to get a pipeline version with id {asked.path[1]}"):
            found = self._store.find(self._store.versions, "PipelineVersion", asked.path[1])
        self._find(asked.user, verb, found["pipeline_id"])
        return found

    def _check(self, user: str, verb: str, namespace: str) -> None:
        if not namespace and verb in ("get", "list"):
            return
        with context(f"Failed to access pipeline . Check if you have access to namespace {namespace}"):
            self._access.check(user, verb, "pipelines", namespace or self._access.system)


def upload_error(status: int, text: str) -> Response:
    """Returns an error as uploads tell it, unlike all else."""
    told = {"error_message": text, "error_details": text}
    return Response(status, json.dumps(told), [("Content-Type", "application/json")])


def plain_error(text: str) -> Response:
    """Returns an error as Go's `http.Error` writes it."""
    return Response(400, text + "\n", [("Content-Type", "text/plain; charset=utf-8")])


def _is_readable(name: str, content: bytes) -> bool:
    """Returns whether a file is what uploads take; here, YAML and JSON only, no archives."""
    return name.endswith((".yaml", ".yml", ".json")) and len(content) <= 32 << 20


def _tags(told: Any) -> Json:
    found: Json = json.loads(told) if isinstance(told, str) and told else told or {}
    return found
