"""Asks a served model over the KServe v1 protocol.

The protocol: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
"""

import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from nlp_pipeline.errors import PipelineError
from nlp_pipeline.serving.agreement import label_of


class UnreachableError(PipelineError, ConnectionError):
    """There is no way to the model; this may pass while a route comes up."""


def finite(value: Any) -> float:
    """Returns a number; ValueError where it is NaN or infinite, which JSON as Python reads it can be."""
    if not math.isfinite(value):
        raise ValueError(f"the score is {value}")
    return float(value)


def read_prediction(prediction: Any, labels: list[str]) -> dict[str, Any]:
    """Returns the `label` and the `score` of a prediction, or its `labels`; an error of Python's where it has none.

    It is the archive's `{"label": ..., "score": ...}`, or `{"labels": [...]}` with a list of such; or of KServe's
    Hugging Face server probabilities by class ids, `{"0": 0.1, "1": 0.9}`, or a class id alone, which has no score
    (None). Where there are no labels, ids stay.
    """
    if isinstance(prediction, int):
        number, score = prediction, None
    elif "labels" in prediction:
        return {"labels": [read_prediction(item, labels) for item in prediction["labels"]]}
    elif prediction.keys() >= {"label", "score"}:
        return {"label": str(prediction["label"]), "score": finite(prediction["score"])}
    else:
        best = max(prediction, key=prediction.__getitem__)
        number, score = int(best), finite(prediction[best])
    if number < 0 or (labels and number >= len(labels)):
        raise ValueError(f"class id {number} of {len(labels)} classes")
    return {"label": labels[number] if labels else str(number), "score": score}


def ask(client: httpx.Client, url: str, instances: list[Any], labels: list[str]) -> list[dict[str, Any]]:
    """Sends instances to a model, and returns what `read_prediction` does of each, in order.

    Instances are texts, or objects with a text as "data" or "text"; the labels, in the order of their ids, are for a
    server that answers with ids.

    Raises:
        UnreachableError: The server can't be reached, or there is no way to the model (404, 502, 503, 504).
        PipelineError: The server answers with another error, or with something else than predictions.
    """
    try:
        # Not httpx's own JSON: it can't write half a surrogate pair, which a command line can hold.
        body = json.dumps({"instances": instances})
        response = client.post(url, content=body, headers={"Content-Type": "application/json"})
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UnreachableError(f"{url} can't be reached: {str(error) or type(error).__name__}") from None
    excerpt = " ".join(response.text[:300].split())
    if response.status_code != 200:
        kind = UnreachableError if response.status_code in (404, 502, 503, 504) else PipelineError
        raise kind(f"{url} answered {response.status_code}{excerpt and ': '}{excerpt}")
    try:
        predictions = response.json()["predictions"]
        if len(predictions) != len(instances):
            raise ValueError(f"{len(predictions)} predictions")
        return [read_prediction(prediction, labels) for prediction in predictions]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        wanted = f"a label and a score for each of {len(instances)} texts"
        raise PipelineError(f"{url} did not answer with {wanted} ({error}): {excerpt}") from None


def replay(url: str, texts: list[str], clients: int) -> tuple[list[Any], list[float], float]:
    """Asks a server on this machine for texts, one a request, so many at once; for what may go wrong, see `ask`.

    Returns:
        The labels in the texts' order; each request's seconds; the seconds of all of them together.
    """

    def timed_label(text: str) -> tuple[Any, float]:
        start = time.perf_counter()
        label = label_of(ask(client, url, [text], [])[0])
        return label, time.perf_counter() - start

    start = time.perf_counter()
    # Proxies of the environment are for other machines.
    with httpx.Client(timeout=60, trust_env=False) as client, ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(timed_label, texts))
    return [label for label, _ in answers], [seconds for _, seconds in answers], time.perf_counter() - start
