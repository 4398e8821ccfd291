"""`--predict`: whom it asks, and what comes back."""

import re
from collections.abc import Sequence
from typing import Any

from nlp_pipeline.errors import PipelineError, UsageError

TEXTS = 256  # a request: more are refused by the handler


def predict_address(endpoint: str, model_name: str | None) -> str:
    """Completes what `--endpoint` was given, a model's whole address or the server's; UsageError where it can't."""
    if not re.match(r"https?://[^/]", endpoint):
        raise UsageError(f"--endpoint {endpoint!r} is no address: write http://host:port or https://host")
    if endpoint.endswith(":predict"):
        return endpoint
    if not model_name:
        raise UsageError(
            f"--endpoint {endpoint}: which model? add --set model_name=NAME, or give the whole address, "
            "which ends in /v1/models/NAME:predict"
        )
    return f"{endpoint.rstrip('/')}/v1/models/{model_name}:predict"


def predict_at(
    address: str,
    texts: list[str],
    labels: Sequence[str] = (),
    headers: dict[str, str] | None = None,
    transport: Any = None,
) -> list[dict[str, Any]]:
    """Asks a served model for any number of texts; a PipelineError says how to reach it where it can't be.

    The labels, in the order of their ids, are for a server that answers with ids; the headers are what the way to it
    needs: a host, a token, cookies; the transport is httpx's, where the address is none of the network's. Returns for
    each text, in order, `text`, and what `read_prediction` does.
    """
    import httpx

    from nlp_pipeline.serving.client import ask

    responses: list[httpx.Response] = []
    hooks = {"response": [responses.append]}
    try:
        # Proxies of the environment are for other machines.
        is_local = httpx.URL(address).host in ("127.0.0.1", "localhost", "::1")
        reach = {"transport": transport, "trust_env": not (is_local or transport)}
        with httpx.Client(timeout=60, headers=headers, event_hooks=hooks, **reach) as client:
            parts = [texts[start : start + TEXTS] for start in range(0, len(texts), TEXTS)]
            answers = [answer for part in parts for answer in ask(client, address, part, list(labels))]
    except PipelineError as error:
        advice = advise(responses[-1], headers or {}) if responses else ""
        raise PipelineError(f"{error}{advice}") from None
    except (httpx.InvalidURL, ImportError, OSError, ValueError) as error:  # the address, or the environment's proxies
        raise PipelineError(f"{address} can't be asked: {error}") from None
    # What a command line holds need not be UTF-8, and what is printed must be.
    printable = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
    return [{"text": text, **answer} for text, answer in zip(printable, answers, strict=True)]


def describe_answer(answer: dict[str, Any], digits: int) -> tuple[str, str]:
    """Returns the label of an answer, or its labels, and the score of each, as they are printed."""
    items = answer.get("labels", [answer])
    scores = ["" if item.get("score") is None else f"{item['score']:.{digits}f}" for item in items]
    return ", ".join(item["label"] for item in items) or "-", ", ".join(scores)


def advise(response: Any, headers: dict[str, str]) -> str:
    """Returns what to do about an answer that is not the model's but of what stands before it; empty where it is."""
    from nlp_pipeline.settings import SIGN_IN

    if response.status_code in (401, 403) or response.is_redirect:
        is_signed_in = headers.keys() & {"Authorization", "Cookie"}
        return f"; {SIGN_IN} is not taken: set it anew" if is_signed_in else f"; sign in: set {SIGN_IN}"
    if response.status_code == 404 and not response.content and "Host" not in headers:
        return "; if it is a gateway, set NLP_PIPELINE_ENDPOINT_HOST to the model's host name, by which it finds it"
    return ""
