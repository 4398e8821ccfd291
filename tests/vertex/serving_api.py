"""Vertex AI's services for models, endpoints, predictions and custom jobs, as far as a deployment goes through them."""

import contextlib
import random
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

from google.cloud import aiplatform_v1, aiplatform_v1beta1
from google.protobuf import json_format

from tests.fakes.httpd import Request
from tests.vertex.cloud import PLACE, PROJECT, REGION, Cloud
from tests.vertex.rest import Json, RefusedError, read, told
from tests.vertex.serving import Serving

LABEL = re.compile(r"[a-z0-9_-]{0,63}")
# A version: what it answers to instances, or what it raises.
Version = Callable[[list[Any]], list[Any]]


class Deployments(Serving):
    """Models and endpoints that can be made.

    Attributes:
        versions: How a version answers, by its number; others answer each text with its second word as the label.
        jobs: The custom jobs, by name.
        run_job: Runs a custom job; it failed where this raises an error.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.versions: dict[str, Version] = {}
        self.jobs: dict[str, Any] = {}
        self.run_job: Callable[[Any], None] = lambda job: None
        self._random = random.Random(0)

    def upload(self, request: Request) -> Json:
        """Makes a model, or a version of one."""
        asked = read(aiplatform_v1.UploadModelRequest, request)
        model, full = asked.model, asked.parent_model or f"{self._place}/models/{1000 + len(self.models)}"
        full = full.replace(f"projects/{PROJECT}/", PLACE.partition("locations")[0])
        if asked.parent_model and full not in self.models:
            raise RefusedError(404, f"The Model does not exist: {asked.parent_model}")
        if not (model.display_name and model.container_spec.image_uri and model.artifact_uri.startswith("gs://")):
            raise RefusedError(400, "A Model needs display_name, container_spec.image_uri and artifact_uri.")
        if not all(LABEL.fullmatch(text) for pair in model.labels.items() for text in pair):
            raise RefusedError(400, f"Invalid labels: {model.labels}")

        def add() -> Any:
            versions = self.models.setdefault(full, [])
            model.name, model.version_id = full, str(len(versions) + 1)
            model.version_aliases = [*model.version_aliases, *(["default"] if not versions else [])]
            model.create_time = self._clock()
            versions.append(model)
            return aiplatform_v1.UploadModelResponse(model=full, model_version_id=model.version_id)

        return self._operations.begin(full, "upload", add)

    def merge_aliases(self, request: Request, name: str) -> Json:
        """Gives a version names; another one that has one loses it."""
        asked = read(aiplatform_v1.MergeVersionAliasesRequest, request)
        versions, wanted = self._version(f"{self._place}/models/{unquote(name)}")
        for one in versions:
            one.version_aliases = [alias for alias in one.version_aliases if alias not in asked.version_aliases]
        wanted.version_aliases = [*wanted.version_aliases, *asked.version_aliases]
        return told(wanted)

    def create_endpoint(self, request: Request) -> Json:
        """Makes an endpoint."""
        endpoint = read(aiplatform_v1.Endpoint, request)
        if not endpoint.display_name:
            raise RefusedError(400, "An Endpoint needs a display_name.")
        endpoint.name = f"{self._place}/endpoints/{2000 + len(self.endpoints)}"

        def add() -> Any:
            self.endpoints[endpoint.name] = endpoint
            return endpoint

        return self._operations.begin(endpoint.name, "create endpoint", add)

    def deploy(self, request: Request, name: str) -> Json:
        """Deploys a version to an endpoint."""
        endpoint, asked = self._find(name), read(aiplatform_v1.DeployModelRequest, request)
        _, version = self._version(asked.deployed_model.model)
        resources = asked.deployed_model.dedicated_resources
        if not resources.machine_spec.machine_type or resources.min_replica_count < 1:
            raise RefusedError(400, "dedicated_resources needs a machine type, and at least one replica.")
        known = {"0", *(one.id for one in endpoint.deployed_models)}
        split = dict(asked.traffic_split)
        if sum(split.values()) != 100 or not split.keys() <= known:
            raise RefusedError(400, f"The traffic split must name deployed models and add up to 100: {split}")

        def add() -> Any:
            deployed = asked.deployed_model
            deployed.id = str(3000 + len(self._operations._done))
            deployed.model, deployed.model_version_id = version.name, version.version_id
            deployed.display_name = deployed.display_name or version.display_name
            endpoint.deployed_models.append(deployed)
            self._share(endpoint, {deployed.id if one == "0" else one: share for one, share in split.items()})
            return aiplatform_v1.DeployModelResponse(deployed_model=deployed)

        return self._operations.begin(endpoint.name, "deploy", add)

    def predict(self, request: Request, name: str) -> Json:
        """Answers a request for predictions, by one of the versions that have traffic."""
        endpoint, asked = self._find(name), read(aiplatform_v1.PredictRequest, request)
        split = dict(endpoint.traffic_split)
        if not split:
            raise RefusedError(400, f"Endpoint {endpoint.name} has no deployed model.")
        (chosen,) = self._random.choices(list(split), list(split.values()))
        deployed = next(one for one in endpoint.deployed_models if one.id == chosen)
        instances = [json_format.MessageToDict(one) for one in type(asked).pb(asked).instances]
        predictions = self.versions.get(deployed.model_version_id, good)(instances)
        return {
            "predictions": predictions,
            "deployedModelId": chosen,
            "model": deployed.model,
            "modelDisplayName": deployed.display_name,
            "modelVersionId": deployed.model_version_id,
        }

    def create_job(self, request: Request) -> Json:
        """Makes a custom job, and begins to run it."""
        job = read(aiplatform_v1beta1.CustomJob, request)
        for pool in job.job_spec.worker_pool_specs:
            machine = pool.machine_spec
            if bool(machine.accelerator_type) != bool(machine.accelerator_count):
                raise RefusedError(400, "Both accelerator_type and accelerator_count should be specified or none.")
        job.name = f"{self._place}/customJobs/{4000 + len(self.jobs)}"
        self.jobs[job.name] = job
        job.state = aiplatform_v1beta1.JobState.JOB_STATE_PENDING
        threading.Thread(target=self._run, args=(job,)).start()
        return told(job)

    def _run(self, job: Any) -> None:
        try:
            self.run_job(job)
            job.state = aiplatform_v1beta1.JobState.JOB_STATE_SUCCEEDED
        except Exception as error:  # noqa: BLE001 whatever it is, whoever waits for the job must be told
            job.error = {"code": 13, "message": str(error)}
            job.state = aiplatform_v1beta1.JobState.JOB_STATE_FAILED

    def get_job(self, request: Request, name: str) -> Json:
        """Reads a custom job."""
        return told(self.jobs[f"{self._place}/customJobs/{name}"])

    def _version(self, full: str) -> tuple[list[Any], Any]:
        model, _, number = full.partition("@")
        found = self.models.get(model, [])
        if not 0 < int(number or 0) <= len(found):
            raise RefusedError(404, f"The Model does not exist: {full}")
        return found, found[int(number) - 1]


def good(instances: list[Any]) -> list[Any]:
    """Answers as a served archive does, with a text's second word as its label."""
    return [{"label": str(one).split()[1], "score": 0.9} for one in instances]


class DeployingCloud(Cloud):
    """A project in which models can be deployed.

    Attributes:
        serving: Its models and endpoints.
    """

    serving: Deployments

    def __init__(self) -> None:
        super().__init__()
        self.serving = Deployments(PLACE, self._clock, self.operations)

    def _routes(self) -> list[tuple[str, str, str, Callable[..., Any]]]:
        place = rf"/v1/projects/(?P<project>[^/]+)/locations/(?P<region>{REGION})"
        endpoint, jobs = rf"{place}/endpoints/(?P<name>[\w-]+)", place.replace("/v1/", "/v1beta1/", 1) + "/customJobs"
        serving = self.serving
        return [
            *super()._routes(),
            ("POST", f"{place}/models:upload", "", serving.upload),
            ("POST", rf"{place}/models/(?P<name>[\w%-]+):mergeVersionAliases", "", serving.merge_aliases),
            ("POST", f"{place}/endpoints", "", serving.create_endpoint),
            ("POST", f"{endpoint}:deployModel", "", serving.deploy),
            ("POST", f"{endpoint}:predict", "", serving.predict),
            ("POST", jobs, "", serving.create_job),
            ("GET", rf"{jobs}/(?P<name>\w+)", "", serving.get_job),
        ]


@contextlib.contextmanager
def deploying_cloud() -> Iterator[DeployingCloud]:
    """Starts a stand-in, and makes sure at the end that it has not broken."""
    cloud = DeployingCloud()
    cloud.start()
    try:
        yield cloud
        cloud.check()
    finally:
        cloud.stop()
