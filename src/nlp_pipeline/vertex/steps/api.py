"""Vertex AI's API as the steps use it: over REST, as the run's service account."""

import os
from typing import Any

from google.api_core.exceptions import GoogleAPIError, NotFound
from google.api_core.operation import Operation
from google.auth.exceptions import GoogleAuthError

from nlp_pipeline.errors import PipelineError

FAILURES = (GoogleAPIError, GoogleAuthError, OSError)


class NotFoundError(PipelineError):
    """What was asked for is not there."""


def connect(client: Any, location: str, host: str = "") -> Any:
    """Returns a client of one of the API's services.

    Args:
        client: Its class, as in `aiplatform_v1.ModelServiceClient`.
        location: The region.
        host: Where the API is asked; empty for the region's own, or for what the variable VERTEX_ENDPOINT names.
    """
    address = host or os.environ.get("VERTEX_ENDPOINT") or f"{location}-aiplatform.googleapis.com"
    return client(transport="rest", client_options={"api_endpoint": address})


def call(doing: str, method: Any, **request: Any) -> Any:
    """Calls the API, and waits for the end of what it begins.

    Args:
        doing: What is done, for messages, as in "listing models".
        method: A method of a client.
        **request: The fields of its request.

    Returns:
        What it returned; a list where that comes in pages; the result where it is a long-running operation.

    Raises:
        NotFoundError: There is no such thing.
        PipelineError: Vertex AI refuses, fails or can't be reached.
    """
    try:
        answer = method(request=request, timeout=60)
        if isinstance(answer, Operation):
            return answer.result(timeout=1800)
        return list(answer) if hasattr(answer, "pages") else answer
    except FAILURES as error:
        kind = NotFoundError if isinstance(error, NotFound) else PipelineError
        raise kind(f"{doing}: {describe(error)}") from None


def describe(error: Any) -> str:
    """Returns an error of the clients in one line, with what to do where an account lacks a role."""
    line = " ".join(str(error).split())[:500] or type(error).__name__
    if getattr(error, "code", None) in (401, 403):
        line += " (the run's service account needs the role Vertex AI User, roles/aiplatform.user)"
    return line
