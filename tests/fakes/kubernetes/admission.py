"""What the API server and KServe's webhooks refuse in an object, and what they add to it.

The webhooks are inference_service_defaults.go and inference_service_validation.go of KServe, as far as tests need them.
"""

import copy
import functools
import gzip
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

Json = dict[str, Any]
MODE = "serving.kserve.io/deploymentMode"
SCHEMAS = Path(__file__).parents[3].parent / "shared" / "api"
FILES = {
    "InferenceService": "inferenceservice-v1beta1.schema.json.gz",
    "ServingRuntime": "servingruntime-v1alpha1.schema.json.gz",
}
needs_schemas = pytest.mark.skipif(not SCHEMAS.is_dir(), reason=f"no folder {SCHEMAS} with KServe's API schemas")
QUALIFIED_NAME = r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
LABEL_VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
LONGEST_ANNOTATIONS = 256 * 1024


class Refusal(Exception):  # noqa: N818
    """A request that is not served: HTTP status, and reason and message of the `Status` object that is the answer."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message


def admit(sent: Json, old: Json | None, mode: str, has_canary: bool = True) -> Json:
    """Returns an object as it is to be stored; raises where the API server or the webhook does not take it.

    Args:
        sent: As it was sent.
        old: What is stored under its name.
        mode: The cluster's default deployment mode.
        has_canary: Whether its InferenceServices have `spec.canary`; else it is dropped, as all that is not known.
    """
    kind, name = sent["kind"], sent["metadata"].get("name", "")
    for error in _validator(kind).iter_errors(sent) if SCHEMAS.is_dir() and kind in FILES else ():
        where = ".".join(str(part) for part in error.absolute_path)
        if error.validator == "additionalProperties":
            raise Refusal(
                400, "BadRequest", f"{kind}: strict decoding error: unknown field in {where}: {error.message}"
            )
        raise Refusal(422, "Invalid", f'{kind} "{name}" is invalid: {where}: Invalid value: {error.message}')
    if problem := _metadata_problem(sent["metadata"]):
        raise Refusal(422, "Invalid", f'{kind} "{name}" is invalid: {problem}')
    if kind != "InferenceService":
        return copy.deepcopy(sent)
    admitted = default(sent, mode)
    if not has_canary:
        admitted["spec"].pop("canary", None)
    if problem := _webhook_problem(admitted, old or {}):
        # The webhook's library answers with a 403, which has nothing to do with what the account may do.
        by = 'admission webhook "inferenceservice.kserve-webhook-server.validator" denied the request'
        raise Refusal(403, "Forbidden", f"{by}: {problem}")
    return admitted


def default(sent: Json, mode: str) -> Json:
    """Returns an InferenceService with what the defaulting webhook adds."""
    found = copy.deepcopy(sent)
    annotations = found["metadata"].get("annotations") or {}
    if MODE in annotations or mode == "Standard":
        known = {"RawDeployment": "Standard", "Serverless": "Knative"}
        annotations[MODE] = known.get(annotations.get(MODE, mode), annotations.get(MODE, mode))
    predictor = found["spec"]["predictor"]
    if "pytorch" in predictor:  # the old form
        predictor["model"] = {"modelFormat": {"name": "pytorch"}, **predictor.pop("pytorch")}
    if "model" in predictor:
        predictor["model"] = {"name": "", "resources": {}, **predictor["model"]}
        annotations.setdefault("modelFormat", predictor["model"]["modelFormat"]["name"])
    if annotations:
        found["metadata"]["annotations"] = annotations
    return found


def _webhook_problem(service: Json, old: Json) -> str:
    metadata, predictor = service["metadata"], service["spec"]["predictor"]
    was, desired = old.get("status", {}).get("deploymentMode"), metadata.get("annotations", {}).get(MODE)
    if was and desired and was != desired:
        return f"update rejected: deploymentMode cannot be changed from '{was}' to '{desired}'"
    if not re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", metadata["name"]):
        return f'the InferenceService "{metadata["name"]}" is invalid: it must start with alphabetical character'
    if "model" not in predictor:
        return "exactly one of [Model, PodSpec, ...] must be specified in PredictorSpec"
    if predictor.get("minReplicas", 1) > predictor.get("maxReplicas", 0) != 0:
        return "'MinReplicas' cannot be greater than MaxReplicas"
    for canary in service["spec"].get("canary", []):
        own = canary["predictor"]
        if metadata.get("annotations", {}).get(MODE) != "Standard":
            return "canary is only supported in Standard deployment mode"
        if not own.get("name"):
            return "canary[0] predictor.name is required"
        if scaled := {"maxReplicas", "scaleMetric", "scaleTarget"} & own.keys():
            return f"canary {own['name']!r} must not set {min(scaled)} (canary uses fixed replicas)"
        if own.get("minReplicas", 0) > predictor.get("minReplicas", 1):
            return f"canary {own['name']!r} minReplicas must not exceed stable predictor minReplicas"
    return ""


def _metadata_problem(metadata: Json) -> str:
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    for key, value in [*labels.items(), *annotations.items()]:
        if not isinstance(value, str) or not re.fullmatch(QUALIFIED_NAME, key):
            return f"metadata: Invalid value: {key}: {value!r}"
    for value in labels.values():
        if not re.fullmatch(LABEL_VALUE, value):
            return f"metadata.labels: Invalid value: {value!r}: must be no more than 63 characters"
    if sum(len((key + value).encode()) for key, value in annotations.items()) > LONGEST_ANNOTATIONS:
        return f"metadata.annotations: Too long: may not be more than {LONGEST_ANNOTATIONS} bytes"
    return ""


@functools.cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(_strict(json.loads(gzip.decompress((SCHEMAS / FILES[kind]).read_bytes()))))


def _strict(schema: Json) -> Json:
    """Returns a schema that refuses fields it does not name, as the README.md of the schemas says how."""
    found = dict(schema)
    if "properties" in schema:
        found["properties"] = {name: _strict(one) for name, one in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            found["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            found[key] = _strict(schema[key])
    return found
