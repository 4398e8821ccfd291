"""A release in a Kubeflow Model Registry: registered once, and noted there what became of it where it was deployed."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from nlp_pipeline.deploy.inference_service import MODEL_ID, VERSION_ID, InferenceService
from nlp_pipeline.errors import PipelineError
from nlp_pipeline.release import Release
from nlp_pipeline.storage import is_transient, retrying, status_of

NAME = "nlp-pipeline"
# Who asks: the pod's own account, or what the variable names, as the registry's own client has it.
TOKEN, TOKEN_VARIABLE = "/var/run/secrets/kubernetes.io/serviceaccount/token", "KF_PIPELINES_SA_TOKEN_PATH"
API, FORMER_API = "/api/model_registry/v1/", "/api/model_registry/v1alpha3/"
SECONDS = 30  # for a request to be answered; the client itself would wait five minutes, and that for each attempt


def register(address: str, release: Release, uri: str) -> dict[str, str]:
    """Registers a release and its model where they are not yet; returns the labels of what serves it."""
    from model_registry.types import ModelArtifact, ModelVersion, RegisteredModel

    name, digest = release.model_name, release.digest
    facts = {"run_id": release.run_id, "source": release.source, "source_sha256": release.source_sha256}
    facts |= {item: release.parameters.get(item) for item in ("base_model", "max_length", "rows")}
    facts |= {f"metrics.{item}": value for item, value in release.metrics.items()}
    known = {item: value for item, value in facts.items() if isinstance(value, str | int | float) and value != ""}
    version = ModelVersion(name=digest, author=NAME, custom_properties=known)
    artifact = ModelArtifact(name=name, uri=uri, model_format_name="pytorch", model_format_version="1")

    async def run(api: Any) -> dict[str, str]:
        model_id = await _find(api.find_registered_model, name=name)
        if model_id is None:
            model_id = (await api.create_registered_model(RegisteredModel(name=name, owner=NAME).create())).id
        version_id = await _find(api.find_model_version, name=digest, parent_resource_id=model_id)
        if version_id is None:
            version_id = (await api.create_model_version(version.create(registered_model_id=model_id))).id
        if await _find(api.find_model_artifact, name=name, parent_resource_id=version_id) is None:
            await api.upsert_model_version_artifact(version_id, artifact.wrap())
        return {MODEL_ID: model_id, VERSION_ID: version_id}

    labels: dict[str, str] = _ask(address, f"registering {name} {digest}", run)
    print(f"registered at {address}: model {labels[MODEL_ID]}, version {labels[VERSION_ID]}", flush=True)
    return labels


def follow(address: str, live: InferenceService | None, failed: InferenceService | None = None) -> None:
    """Notes in a registry what is live now, what was before, and what was to take its place and failed."""
    states: dict[str, str] = {}
    if live:
        states = {former.labels.get(VERSION_ID, ""): "former" for former in live.formers}
        states[live.labels.get(VERSION_ID, "")] = "stopped" if live.is_stopped else "live"
    if failed and states.get(version := failed.labels.get(VERSION_ID, "")) != "live":
        states[version] = "failed"
    if service := live or failed:
        note_states(address, service, states)


def note_states(address: str, service: InferenceService, states: dict[str, str]) -> None:
    """Notes at versions in a registry, by their ids, what became of them in an InferenceService's place.

    A version that failed is archived, one that is live is not; a former one, which may be gone back to, is left as it
    is. What is deployed does not depend on it: where the registry can't be asked, that is said, and no more.
    """
    from mr_openapi import MetadataStringValue, MetadataValue, ModelVersionState, ModelVersionUpdate

    place = f"{service.namespace}/{service.name}"
    registered = {number: state for number, state in states.items() if number}

    async def run(api: Any) -> None:
        for number, state in registered.items():
            version = await api.get_model_version(number)
            value = MetadataStringValue(string_value=state, metadataType="MetadataStringValue")
            properties = {**(version.custom_properties or {}), place: MetadataValue(value)}
            kept = {"live": ModelVersionState.LIVE, "failed": ModelVersionState.ARCHIVED}.get(state, version.state)
            await api.update_model_version(number, ModelVersionUpdate(state=kept, customProperties=properties))

    try:
        _ask(address, f"noting what serves {place}", run)
    except PipelineError as error:
        print(f"note: {error}; what is deployed does not depend on it", flush=True)


async def _find(find: Callable[..., Awaitable[Any]], **values: str) -> str | None:
    """Returns the id of what a registry finds by its name; None where there is nothing."""
    from mr_openapi.exceptions import NotFoundException

    try:
        return str((await find(**values)).id)
    except NotFoundException:
        return None


def _ask(address: str, doing: str, ask: Callable[[Any], Awaitable[Any]]) -> Any:
    """Asks a registry, again where it fails for a moment; a PipelineError of one line where it does not answer."""
    import aiohttp
    from mr_openapi import ApiClient, Configuration, ModelRegistryServiceApi
    from mr_openapi.exceptions import OpenApiException

    class Client(ApiClient):  # type: ignore[misc]  # it has no types
        async def call_api(self, method: str, url: str, *values: Any, **named: Any) -> Any:
            """Asks a registry that does not know the API by its name of today, as older ones, by the former."""
            named["_request_timeout"] = SECONDS
            answer = await super().call_api(method, url, *values, **named)
            if answer.status == 404:
                return await super().call_api(method, url.replace(API, FORMER_API), *values, **named)
            return answer

    async def run() -> Any:
        path = Path(os.environ.get(TOKEN_VARIABLE, TOKEN))
        token = path.read_text(encoding="utf-8").strip() if path.is_file() else None
        client = Client(Configuration(host=address.rstrip("/"), access_token=token))
        try:
            return await ask(ModelRegistryServiceApi(client))
        finally:
            await client.close()

    def may_pass(error: BaseException) -> bool:
        is_lost = isinstance(error, aiohttp.ClientConnectionError | TimeoutError)
        # With 409, another run has just made the same.
        return is_lost or status_of(error) == 409 or is_transient(error)

    try:
        return retrying(doing, may_pass)(lambda: asyncio.run(run()))()
    except (aiohttp.ClientError, OpenApiException, OSError, ValueError) as error:
        status = getattr(error, "status", None)
        reason = f"{status} {getattr(error, 'body', '')}" if status else f"{type(error).__name__} {error}"
        raise PipelineError(f"model_registry={address}: {doing}: {' '.join(reason.split())[:300]}") from None
