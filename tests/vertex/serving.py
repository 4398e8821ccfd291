"""Vertex AI's services for models and endpoints, as far as what is deployed is taken away again."""

from typing import Any

from google.cloud import aiplatform_v1
from google.protobuf import empty_pb2

from tests.fakes.httpd import Request
from tests.vertex.rest import Json, Operations, RefusedError, chosen, page_of, read, read_query, told


class Serving:
    """Models and endpoints of one project and region.

    Args:
        place: The beginning of their names, with the project's number.
        clock: Tells the time.
        operations: Where long-running operations are.

    Attributes:
        models: The versions of each model, by the model's name.
        endpoints: The endpoints, by name.
    """

    def __init__(self, place: str, clock: Any, operations: Operations) -> None:
        self._place, self._clock, self._operations = place, clock, operations
        self.models: dict[str, list[Any]] = {}
        self.endpoints: dict[str, Any] = {}

    def add_model(self, number: str, name: str, versions: int) -> str:
        """Adds a model, and returns its name."""
        full = f"{self._place}/models/{number}"
        self.models[full] = [
            aiplatform_v1.Model(name=full, display_name=name, version_id=str(at + 1), create_time=self._clock())
            for at in range(versions)
        ]
        return full

    def add_endpoint(self, number: str, name: str, deployed: dict[str, tuple[str, str, int]]) -> Any:
        """Adds an endpoint.

        Args:
            number: Its id.
            name: Its display name.
            deployed: The model's name, the version and the share of the traffic, by deployed models' ids.
        """
        endpoint = aiplatform_v1.Endpoint(name=f"{self._place}/endpoints/{number}", display_name=name)
        for id, (model, version, share) in deployed.items():
            endpoint.deployed_models.append(
                aiplatform_v1.DeployedModel(id=id, model=f"{model}@{version}", model_version_id=version)
            )
            if share:
                endpoint.traffic_split[id] = share
        self.endpoints[endpoint.name] = endpoint
        return endpoint

    def list_models(self, request: Request) -> Json:
        """Lists models, each by its last version."""
        asked = read_query(aiplatform_v1.ListModelsRequest, request)
        found = chosen([versions[-1] for versions in self.models.values()], asked.filter, ("display_name",))
        return page_of(found, asked, "models")

    def list_versions(self, request: Request, name: str) -> Json:
        """Lists a model's versions."""
        asked = read_query(aiplatform_v1.ListModelVersionsRequest, request)
        return page_of(self.models[f"{self._place}/models/{name}"], asked, "models")

    def list_endpoints(self, request: Request) -> Json:
        """Lists endpoints."""
        asked = read_query(aiplatform_v1.ListEndpointsRequest, request)
        return page_of(chosen(self.endpoints.values(), asked.filter, ("display_name",)), asked, "endpoints")

    def get_endpoint(self, request: Request, name: str) -> Json:
        """Reads an endpoint."""
        return told(self._find(name))

    def update_endpoint(self, request: Request, name: str) -> Json:
        """Changes an endpoint's traffic."""
        endpoint, wanted = self._find(name), read(aiplatform_v1.Endpoint, request)
        if dict(request.query)["updateMask"] != "trafficSplit":
            raise RefusedError(400, "Invalid update mask.")
        self._share(endpoint, dict(wanted.traffic_split))
        return told(endpoint)

    def undeploy(self, request: Request, name: str) -> Json:
        """Takes a version off an endpoint, which may have no traffic then."""
        endpoint, asked = self._find(name), read(aiplatform_v1.UndeployModelRequest, request)
        gone = asked.deployed_model_id
        left = [one for one in endpoint.deployed_models if one.id != gone]
        if len(left) == len(endpoint.deployed_models):
            raise RefusedError(404, f"DeployedModel {gone} is not found.")
        split = dict(asked.traffic_split)
        if left and (split or endpoint.traffic_split).get(gone):
            raise RefusedError(400, f"DeployedModel {gone} has traffic, and can't be undeployed.")

        def remove() -> Any:
            endpoint.deployed_models = left
            if split or not left:
                self._share(endpoint, split if left else {})
            return aiplatform_v1.UndeployModelResponse()

        return self._operations.begin(endpoint.name, f"undeploy {gone}", remove)

    def delete_endpoint(self, request: Request, name: str) -> Json:
        """Deletes an endpoint."""
        endpoint = self._find(name)
        if endpoint.deployed_models:
            raise RefusedError(400, f"Endpoint {endpoint.name} has deployed models.")

        def remove() -> Any:
            del self.endpoints[endpoint.name]
            return empty_pb2.Empty()

        return self._operations.begin(endpoint.name, "delete endpoint", remove)

    @staticmethod
    def _share(endpoint: Any, split: dict[str, int]) -> None:
        known = {one.id for one in endpoint.deployed_models}
        if split and (sum(split.values()) != 100 or not split.keys() <= known):
            raise RefusedError(400, f"The traffic split must name deployed models and add up to 100: {split}")
        endpoint.traffic_split = split

    def _find(self, name: str) -> Any:
        full = f"{self._place}/endpoints/{name}"
        if full not in self.endpoints:
            raise RefusedError(404, f"Endpoint {full} is not found.")
        return self.endpoints[full]
