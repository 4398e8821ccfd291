"""Vertex AI's services for models, endpoints, predictions and custom jobs."""

import random
import re
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from google.cloud import aiplatform_v1, aiplatform_v1beta1
from google.protobuf import empty_pb2, json_format

from tests.fakes.vertex.rest import Json, Operations, RefusedError, Request, as_json, list_of, plain, read

LABEL = re.compile(r"[a-z0-9_-]{0,63}")
JobState = aiplatform_v1beta1.JobState


def good(instances: list[Any]) -> list[Any]:
    """Answers as a served archive does, with a text's second word as its label."""
    return [{"label": str(item).split()[1], "score": 0.9} for item in instances]


class Serving:
    """Models' versions, endpoints and custom jobs of a place, by name.

    What a version answers to instances, or raises, stands in `versions` by its number; others answer as `good` does. A
    custom job fails where `run_job` raises an error.
    """

    def __init__(self, place: str, clock: Any, operations: Operations) -> None:
        self._place, self._clock, self._operations = place, clock, operations
        self.models: dict[str, list[Any]] = {}
        self.endpoints: dict[str, Any] = {}
        self.versions: dict[str, Callable[[list[Any]], list[Any]]] = {}
        self.jobs: dict[str, Any] = {}
        self.run_job: Callable[[Any], None] = lambda job: None
        self._random = random.Random(0)

    def add_model(self, number: str, name: str, versions: int) -> str:
        full = f"{self._place}/models/{number}"
        self.models[full] = [
            aiplatform_v1.Model(name=full, display_name=name, version_id=str(at + 1), create_time=self._clock())
            for at in range(versions)
        ]
        return full

    def add_endpoint(self, number: str, name: str, deployed: dict[str, tuple[str, str, int]]) -> Any:
        """Adds an endpoint; `deployed` has model's name, version and share of the traffic by deployed models' ids."""
        endpoint = aiplatform_v1.Endpoint(name=f"{self._place}/endpoints/{number}", display_name=name)
        for id, (model, version, share) in deployed.items():
            about = {"display_name": name, "model_version_id": version}
            endpoint.deployed_models.append(aiplatform_v1.DeployedModel(id=id, model=f"{model}@{version}", **about))
            if share:
                endpoint.traffic_split[id] = share
        self.endpoints[endpoint.name] = endpoint
        return endpoint

    def list_models(self, request: Request) -> Json:
        result = [versions[-1] for versions in self.models.values()]
        return list_of(aiplatform_v1.ListModelsRequest, request, result, "models", ("display_name",), 100)

    def upload(self, request: Request) -> Json:
        asked = read(aiplatform_v1.UploadModelRequest, request)
        model, full = asked.model, asked.parent_model or f"{self._place}/models/{1000 + len(self.models)}"
        if asked.parent_model and full not in self.models:
            raise RefusedError(404, f"The Model does not exist: {asked.parent_model}")
        if not (model.display_name and model.container_spec.image_uri and model.artifact_uri.startswith("gs://")):
            raise RefusedError(400, "A Model needs display_name, container_spec.image_uri and artifact_uri.")
        if not all(LABEL.fullmatch(text) for pair in model.labels.items() for text in pair):
            raise RefusedError(400, f"Invalid labels: {model.labels}")

        def add() -> Any:
            versions = self.models.setdefault(full, [])
            model.name, model.version_id, model.create_time = full, str(len(versions) + 1), self._clock()
            model.version_aliases = [*model.version_aliases, *(["default"] if not versions else [])]
            versions.append(model)
            return aiplatform_v1.UploadModelResponse(model=full, model_version_id=model.version_id)

        return self._operations.begin(full, "upload", add)

    def merge_aliases(self, request: Request, name: str) -> Json:
        """Gives a version names; another one that has one loses it."""
        asked = read(aiplatform_v1.MergeVersionAliasesRequest, request)
        versions, expected = self._version(f"{self._place}/models/{unquote(name)}")
        for item in versions:
            item.version_aliases = [alias for alias in item.version_aliases if alias not in asked.version_aliases]
        expected.version_aliases = [*expected.version_aliases, *asked.version_aliases]
        return as_json(expected)

    def list_endpoints(self, request: Request) -> Json:
        result = self.endpoints.values()
        return list_of(aiplatform_v1.ListEndpointsRequest, request, result, "endpoints", ("display_name",), 100)

    def get_endpoint(self, request: Request, name: str) -> Json:
        return as_json(self._find(name))

    def create_endpoint(self, request: Request) -> Json:
        endpoint = read(aiplatform_v1.Endpoint, request)
        endpoint.name = f"{self._place}/endpoints/{2000 + len(self.endpoints)}"

        def add() -> Any:
            self.endpoints[endpoint.name] = endpoint
            return endpoint

        return self._operations.begin(endpoint.name, "create endpoint", add)

    def update_endpoint(self, request: Request, name: str) -> Json:
        endpoint, expected = self._find(name), read(aiplatform_v1.Endpoint, request)
        if dict(request.query)["updateMask"] != "trafficSplit":
            raise RefusedError(400, "Invalid update mask.")
        self._share(endpoint, dict(expected.traffic_split))
        return as_json(endpoint)

    def delete_endpoint(self, request: Request, name: str) -> Json:
        endpoint = self._find(name)
        if endpoint.deployed_models:
            raise RefusedError(400, f"Endpoint {endpoint.name} has deployed models.")

        def remove() -> Any:
            del self.endpoints[endpoint.name]
            return empty_pb2.Empty()

        return self._operations.begin(endpoint.name, "delete endpoint", remove)

    def deploy(self, request: Request, name: str) -> Json:
        endpoint, asked = self._find(name), read(aiplatform_v1.DeployModelRequest, request)
        _, version = self._version(asked.deployed_model.model)
        resources, split = asked.deployed_model.dedicated_resources, dict(asked.traffic_split)
        if not resources.machine_spec.machine_type or resources.min_replica_count < 1:
            raise RefusedError(400, "dedicated_resources needs a machine type, and at least one replica.")

        def add() -> Any:
            deployed = asked.deployed_model
            deployed.id = str(3000 + random.randrange(1000))
            deployed.model, deployed.model_version_id = version.name, version.version_id
            deployed.display_name = deployed.display_name or version.display_name
            endpoint.deployed_models.append(deployed)
            self._share(endpoint, {deployed.id if item == "0" else item: share for item, share in split.items()})
            return aiplatform_v1.DeployModelResponse(deployed_model=deployed)

        return self._operations.begin(endpoint.name, "deploy", add)

    def undeploy(self, request: Request, name: str) -> Json:
        """Takes a version off an endpoint, which may have no traffic then."""
        endpoint, asked = self._find(name), read(aiplatform_v1.UndeployModelRequest, request)
        gone, split = asked.deployed_model_id, dict(asked.traffic_split)
        left = [item for item in endpoint.deployed_models if item.id != gone]
        if len(left) == len(endpoint.deployed_models):
            raise RefusedError(404, f"DeployedModel {gone} is not found.")
        if left and (split or endpoint.traffic_split).get(gone):
            raise RefusedError(400, f"DeployedModel {gone} has traffic, and can't be undeployed.")

        def remove() -> Any:
            endpoint.deployed_models = left
            if split or not left:
                self._share(endpoint, split if left else {})
            return aiplatform_v1.UndeployModelResponse()

        return self._operations.begin(endpoint.name, f"undeploy {gone}", remove)

    def predict(self, request: Request, name: str) -> Json:
        endpoint, asked = self._find(name), read(aiplatform_v1.PredictRequest, request)
        split = dict(endpoint.traffic_split)
        (chosen,) = self._random.choices(list(split), list(split.values()))
        deployed = next(item for item in endpoint.deployed_models if item.id == chosen)
        instances = [json_format.MessageToDict(item) for item in plain(asked).instances]
        predictions = self.versions.get(deployed.model_version_id, good)(instances)
        return {"predictions": predictions, "deployedModelId": chosen, "model": deployed.model}

    def create_job(self, request: Request) -> Json:
        job = read(aiplatform_v1beta1.CustomJob, request)
        for pool in job.job_spec.worker_pool_specs:
            if bool(pool.machine_spec.accelerator_type) != bool(pool.machine_spec.accelerator_count):
                raise RefusedError(400, "Both accelerator_type and accelerator_count should be specified or none.")
        job.name, job.state = f"{self._place}/customJobs/{4000 + len(self.jobs)}", JobState.JOB_STATE_PENDING
        self.jobs[job.name] = job
        threading.Thread(target=self._run, args=(job,)).start()
        return as_json(job)

    def _run(self, job: Any) -> None:
        try:
            self.run_job(job)
            job.state = JobState.JOB_STATE_SUCCEEDED
        except Exception as error:  # noqa: BLE001 whatever it is, whoever waits for the job must be told
            job.error, job.state = {"code": 13, "message": str(error)}, JobState.JOB_STATE_FAILED

    def get_job(self, request: Request, name: str) -> Json:
        return as_json(self.jobs[f"{self._place}/customJobs/{name}"])

    def _version(self, full: str) -> tuple[list[Any], Any]:
        model, _, number = full.partition("@")
        versions = self.models.get(model, [])
        if not 0 < int(number or 0) <= len(versions):
            raise RefusedError(404, f"The Model does not exist: {full}")
        return versions, versions[int(number) - 1]

    def _find(self, name: str) -> Any:
        full = f"{self._place}/endpoints/{name}"
        if full not in self.endpoints:
            raise RefusedError(404, f"Endpoint {full} is not found.")
        return self.endpoints[full]

    @staticmethod
    def _share(endpoint: Any, split: dict[str, int]) -> None:
        known = {item.id for item in endpoint.deployed_models}
        if split and (sum(split.values()) != 100 or not split.keys() <= known):
            raise RefusedError(400, f"The traffic split must name deployed models and add up to 100: {split}")
        endpoint.traffic_split = split
