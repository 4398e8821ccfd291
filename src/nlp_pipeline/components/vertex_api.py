"""Vertex AI's API as the steps use it: its clients, and its errors in one line.

Hermetic helpers, inlined into the steps as `additional_funcs`.
"""

from typing import Any


def vertex_client(kind: str, location: str, host: str = "") -> Any:
    """Returns a client of Vertex AI's API, which talks REST.

    Args:
        kind: "Model", "Endpoint" or "Prediction".
        location: The region.
        host: Where the API is asked; empty for the region's own, or for what the variable VERTEX_ENDPOINT names.
    """
    import os

    from google.cloud import aiplatform_v1

    address = host or os.environ.get("VERTEX_ENDPOINT") or f"{location}-aiplatform.googleapis.com"
    client = getattr(aiplatform_v1, f"{kind}ServiceClient")
    return client(transport="rest", client_options={"api_endpoint": address})


def call_vertex(doing: str, method: Any, **request: Any) -> Any:
    """Calls Vertex AI's API, and waits for the end of what it begins.

    Args:
        doing: What is done, for messages, as in "listing models".
        method: A method of a client.
        **request: The fields of its request.

    Returns:
        What it returned; a list where that comes in pages; the result where it is a long-running operation.

    Raises:
        LookupError: There is no such thing.
        RuntimeError: Vertex AI refuses, fails or can't be reached.
    """
    from google.api_core import exceptions, operation
    from google.auth.exceptions import GoogleAuthError

    try:
        answer = method(request=request, timeout=60)
        is_operation = isinstance(answer, operation.Operation)
        if is_operation:
            return answer.result(timeout=1800)
        return list(answer) if hasattr(answer, "pages") else answer
    except exceptions.NotFound as error:
        raise LookupError(f"{doing}: {line_of_vertex(error)}") from None
    except (exceptions.GoogleAPIError, GoogleAuthError, OSError) as error:
        raise RuntimeError(f"{doing}: {line_of_vertex(error)}") from None


def line_of_vertex(error: BaseException) -> str:
    """Returns an error of Vertex AI's clients in one line, with what to do where an account lacks a role."""
    said = " ".join(str(getattr(error, "message", "") or error).split())[:500] or type(error).__name__
    code = getattr(error, "code", None)
    if code in (401, 403):
        return f"{said} (the run's service account needs the role Vertex AI User, roles/aiplatform.user)"
    return said
