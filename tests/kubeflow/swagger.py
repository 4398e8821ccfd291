"""Refuses requests that KFP's Swagger description does not allow, and answers that it doesn't."""

import functools
import gzip
import json
import re
import urllib.parse
from pathlib import Path
from typing import Any

import jsonschema
import pytest

Json = dict[str, Any]
FILE = Path(__file__).parents[2].parent / "shared" / "api" / "kfp-v2beta1.swagger.json.gz"
needs_swagger = pytest.mark.skipif(not FILE.is_file(), reason=f"no file {FILE} with KFP's Swagger description")
DATE_TIME = r"^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$"
# protobuf's JSON takes numbers where the description says text, and writes text.
INT64 = {"type": ["integer", "string"], "pattern": r"^-?\d+$"}
# The server's health names its build, too, which the description doesn't know.
MORE_THAN_TOLD = {"HealthzService_GetHealthz"}


def problems_of_request(method: str, target: str, content_type: str, body: bytes) -> list[str]:
    """Returns why a request is not allowed; nothing if it is, or if there is no description.

    Args:
        method: GET, POST ...
        target: The path from `/apis/` on, with its query.
        content_type: The header.
        body: The content.
    """
    if not FILE.is_file():
        return []
    path, _, query = target.partition("?")
    found = _operation(method, path)
    if found is None:
        return [f"there is no {method} {path}"]
    parameters = found.get("parameters", [])
    problems = _of_query(query, [one for one in parameters if one["in"] == "query"])
    schema = next((one["schema"] for one in parameters if one["in"] == "body"), None)
    if any(one["in"] == "formData" for one in parameters):
        if not content_type.startswith("multipart/form-data"):
            problems.append(f"Content-Type is {content_type!r}, not multipart/form-data")
        elif b'name="uploadfile"' not in body:
            problems.append("there is no uploadfile")
    elif schema is None:
        if body:
            problems.append("a body where there is none to be")
    else:
        if content_type.partition(";")[0] != "application/json":
            problems.append(f"Content-Type is {content_type!r}, not application/json")
        try:
            problems += _of_document(schema, json.loads(body), sent=True)
        except ValueError as error:
            problems.append(f"the body is no JSON: {error}")
    return [f"{method} {path}: {one}" for one in problems]


def problems_of_response(method: str, target: str, body: bytes | str) -> list[str]:
    """Returns why the answer of a request that went well is not what the description promises."""
    found = _operation(method, target.partition("?")[0]) if FILE.is_file() else None
    if found is None:
        return []
    schema, document = found["responses"]["200"]["schema"], json.loads(body)
    if found["operationId"] in MORE_THAN_TOLD:
        document = {key: value for key, value in document.items() if key not in ("commit_sha", "tag_name")}
    return [f"{method} {target}: {one}" for one in _of_document(schema, document, sent=False)]


def _operation(method: str, path: str) -> Json | None:
    # A path without a name in it goes before one with: "pipelines/upload" is no pipeline's id.
    for pattern, _, methods in _patterns():
        if re.fullmatch(pattern, path):
            found: Json | None = methods.get(method.lower())
            if found is not None:
                return found
    return None


def _of_query(query: str, parameters: list[Json]) -> list[str]:
    known = {one["name"]: one for one in parameters}
    problems = []
    for name, value in urllib.parse.parse_qsl(query, keep_blank_values=True):
        if name not in known:
            problems.append(f"query parameter {name} is unknown")
        elif known[name]["type"] == "integer" and not re.fullmatch(r"-?\d+", value):
            problems.append(f"query parameter {name} is no integer: {value!r}")
        elif known[name]["type"] == "boolean" and value not in ("true", "false"):
            problems.append(f"query parameter {name} is no boolean: {value!r}")
        elif value not in known[name].get("enum", [value]):
            problems.append(f"query parameter {name} is none of {known[name]['enum']}: {value!r}")
    given = {name for name, _ in urllib.parse.parse_qsl(query, keep_blank_values=True)}
    return problems + [f"query parameter {name} is missing" for name, one in known.items()
                       if one.get("required") and name not in given]  # fmt: skip


def _of_document(schema: Json, document: Any, sent: bool) -> list[str]:
    whole = {**_strict(schema, sent), "definitions": _definitions(sent)}
    errors = jsonschema.Draft4Validator(whole).iter_errors(document)
    return [
        f"{'.'.join(str(part) for part in error.absolute_path) or 'body'}: {error.message[:300]}" for error in errors
    ]


def _strict(schema: Json, sent: bool) -> Json:
    """Returns a schema that refuses fields which it does not name, and knows protobuf's formats."""
    if schema.get("format") == "int64":
        return INT64
    if schema.get("format") == "date-time":
        return {"type": "string", "pattern": DATE_TIME}
    found = {key: value for key, value in schema.items() if key in ("type", "$ref", "enum", "pattern")}
    if "properties" in schema:
        named = {
            name: one for name, one in schema["properties"].items() if not (sent and one.get("readOnly"))
        }  # fmt: skip
        found["properties"] = {name: _strict(one, sent) for name, one in named.items()}
        found["additionalProperties"] = False
    if "items" in schema:
        found["items"] = _strict(schema["items"], sent)
    more = schema.get("additionalProperties")
    if more is not None:
        found["additionalProperties"] = _strict(more, sent) if isinstance(more, dict) else more
    return found


@functools.cache
def _description() -> Json:
    found: Json = json.loads(gzip.decompress(FILE.read_bytes()))
    return found


@functools.cache
def _definitions(sent: bool) -> Json:
    return {name: _strict(one, sent) for name, one in _description()["definitions"].items()}


@functools.cache
def _patterns() -> list[tuple[str, str, Json]]:
    found = []
    for path, methods in _description()["paths"].items():
        pattern = re.sub(r"\\\{[^}]*\\\}", "[^/:]+", re.escape(path))
        found.append((pattern, path, methods))
    return sorted(found, key=lambda one: (one[1].count("{"), one[1]))
