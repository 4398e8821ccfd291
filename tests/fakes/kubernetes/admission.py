"""What the API server and KServe's webhooks refuse in an object, and what they add to it."""

import copy
import functools
import gzip
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.fakes.kubernetes.controller import MODE
from tests.fakes.kubernetes.kinds import GROUP, Refusal

Json = dict[str, Any]
SCHEMAS = Path(__file__).parents[3].parent / "shared" / "api"
FILES = {
    "InferenceService": "inferenceservice-v1beta1.schema.json.gz",
    "ServingRuntime": "servingruntime-v1alpha1.schema.json.gz",
    "ClusterServingRuntime": "servingruntime-v1alpha1.schema.json.gz",
}
needs_schemas = pytest.mark.skipif(not SCHEMAS.is_dir(), reason=f"no folder {SCHEMAS} with KServe's API schemas")
FORMATS = ["xgboost", "pytorch", "triton", "sklearn", "tensorflow", "onnx", "pmml", "lightgbm", "paddle", "huggingface"]
LEGACY_MODES = {"RawDeployment": "Standard", "Serverless": "Knative"}
QUALIFIED_NAME = r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
LABEL_VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
ISVC_NAME = r"[a-z]([-a-z0-9]*[a-z0-9])?"
LONGEST_ANNOTATIONS = 256 * 1024
OBJECT_META = {
    *("name", "generateName", "namespace", "selfLink", "uid", "resourceVersion", "generation", "creationTimestamp"),
    *("deletionTimestamp", "deletionGracePeriodSeconds", "labels", "annotations", "ownerReferences", "finalizers"),
    "managedFields",
}


def admit(sent: Json, old: Json | None, mode: str) -> Json:
    """Returns an object as it is to be stored.

    Args:
        sent: As it was sent.
        old: What is stored under its name.
        mode: The cluster's default deployment mode.

    Raises:
        Refusal: The API server or the webhook does not take it.
    """
    kind = sent["kind"]
    invalid = []
    unknown = [f"metadata.{key}" for key in sent["metadata"] if key not in OBJECT_META]
    for error in _errors(kind, sent):
        path = ".".join(str(part) for part in error.absolute_path)
        value: Any = error.instance
        schema: Any = error.schema
        if error.validator == "additionalProperties":
            unknown += [f"{path}.{key}".lstrip(".") for key in value if key not in schema["properties"]]
        else:
            invalid.append(f"{path}: Invalid value: {json.dumps(value)}: {error.message}")
    if unknown:
        what = f'{kind} in version "{sent["apiVersion"].rpartition("/")[2]}" cannot be handled as a {kind}'
        listed = ", ".join(f'unknown field "{one}"' for one in unknown)
        raise Refusal(400, "BadRequest", f"{what}: strict decoding error: {listed}")
    invalid += _invalid_metadata(sent["metadata"])
    if invalid:
        listed = invalid[0] if len(invalid) == 1 else f"[{', '.join(invalid)}]"
        text = f'{kind}.{GROUP} "{sent["metadata"].get("name", "")}" is invalid: {listed}'
        raise Refusal(422, "Invalid", text)
    if kind != "InferenceService":
        return copy.deepcopy(sent)
    admitted = default(sent, mode)
    problem = webhook(admitted, old or {})
    if problem:
        # The webhook's library answers with a 403, which has nothing to do with what the account may do.
        by = 'admission webhook "inferenceservice.kserve-webhook-server.validator" denied the request'
        raise Refusal(403, "Forbidden", f"{by}: {problem}")
    return admitted


def default(sent: Json, mode: str) -> Json:
    """Returns an InferenceService with what `DefaultInferenceService` of inference_service_defaults.go adds."""
    found = copy.deepcopy(sent)
    annotations = found["metadata"].get("annotations") or {}
    if MODE in annotations:
        annotations[MODE] = LEGACY_MODES.get(annotations[MODE], annotations[MODE])
    elif mode == "Standard":
        annotations[MODE] = mode
    predictor = found.get("spec", {}).get("predictor", {})
    for name in FORMATS:
        if name in predictor:
            predictor["model"] = {"modelFormat": {"name": name}, **predictor.pop(name)}
    if "model" in predictor:
        model = predictor["model"]
        model.setdefault("name", "")
        model.setdefault("resources", {})
        if model.get("modelFormat", {}).get("name"):
            annotations.setdefault("modelFormat", model["modelFormat"]["name"])
    if annotations:
        found["metadata"]["annotations"] = annotations
    return found


def webhook(service: Json, old: Json) -> str:
    """Returns why inference_service_validation.go and component.go refuse an InferenceService; empty if they don't."""
    metadata, predictor = service["metadata"], service.get("spec", {}).get("predictor", {})
    was, wanted = old.get("status", {}).get("deploymentMode"), metadata.get("annotations", {}).get(MODE)
    if was and wanted and was != wanted:
        return f"update rejected: deploymentMode cannot be changed from '{was}' to '{wanted}'"
    if not re.fullmatch(ISVC_NAME, metadata["name"]):
        return (
            f'the InferenceService "{metadata["name"]}" is invalid: a InferenceService name must consist of lower case '
            "alphanumeric characters or '-', and must start with alphabetical character. (e.g. \"my-name\" or "
            f"\"abc-123\", regex used for validation is '{ISVC_NAME}')"
        )
    model = predictor.get("model")
    if model is not None and model["name"]:
        return "the 'name' field is not allowed in standard predictor"
    if (model is not None) + bool(predictor.get("containers")) != 1:
        return (
            "exactly one of [SKLearn, XGBoost, Tensorflow, PyTorch, Triton, ONNX, HuggingFace, PMML, LightGBM, Paddle, "
            "Model, PodSpec] must be specified in PredictorSpec"
        )
    if model is not None and not model.get("modelFormat", {}).get("name"):
        return "a predictor's model must have a modelFormat with a name"
    least, most = predictor.get("minReplicas", 1), predictor.get("maxReplicas", 0)
    if least < 0 or most < 0:
        return f"'{'MinReplicas' if least < 0 else 'MaxReplicas'}' cannot be less than 0"
    if least > most != 0:
        return "'MinReplicas' cannot be greater than MaxReplicas"
    # Knative's webhook refuses it rather than KServe's, when the controller makes the Knative Service.
    if not 0 <= predictor.get("canaryTrafficPercent", 0) <= 100:
        return f"canaryTrafficPercent must be between 0 and 100, got {predictor['canaryTrafficPercent']}"
    return ""


def _invalid_metadata(metadata: Json) -> list[str]:
    """Returns what apimachinery refuses in names, labels and annotations."""
    found = []
    name, labels, annotations = (metadata.get(key) or {} for key in ("name", "labels", "annotations"))
    if not isinstance(name, str) or len(name) > 253 or not re.fullmatch(SUBDOMAIN, name):
        found.append(f"metadata.name: Invalid value: {json.dumps(name)}: a lowercase RFC 1123 subdomain must consist of"
                     " lower case alphanumeric characters, '-' or '.'")  # fmt: skip
    for field, pairs in (("labels", labels), ("annotations", annotations)):
        for key, value in pairs.items():
            if not isinstance(value, str):
                text = "cannot be handled: json: cannot unmarshal into Go struct field ObjectMeta.metadata."
                raise Refusal(400, "BadRequest", f"{text}{field} of type string: {json.dumps(value)}")
            if not re.fullmatch(QUALIFIED_NAME, key):
                found.append(f"metadata.{field}: Invalid value: {json.dumps(key)}: name part must consist of "
                             "alphanumeric characters, '-', '_' or '.'")  # fmt: skip
            elif field == "labels" and not re.fullmatch(LABEL_VALUE, value):
                why = "must be no more than 63 characters" if len(value) > 63 else (
                    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.'"
                )  # fmt: skip
                found.append(f"metadata.labels: Invalid value: {json.dumps(value)}: {why}")
    if sum(len((key + value).encode()) for key, value in annotations.items()) > LONGEST_ANNOTATIONS:
        found.append(f"metadata.annotations: Too long: may not be more than {LONGEST_ANNOTATIONS} bytes")
    return found


def _errors(kind: str, sent: Json) -> list[jsonschema.ValidationError]:
    return list(_validator(kind).iter_errors(sent)) if SCHEMAS.is_dir() else []


@functools.cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    schema = json.loads(gzip.decompress((SCHEMAS / FILES[kind]).read_bytes()))
    return jsonschema.Draft202012Validator(_strict(schema))


def _strict(schema: Json) -> Json:
    """Returns a schema that refuses fields it does not name, as the folder's README.md says how."""
    found = dict(schema)
    if "properties" in schema:
        found["properties"] = {name: _strict(one) for name, one in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            found["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            found[key] = _strict(schema[key])
    return found
