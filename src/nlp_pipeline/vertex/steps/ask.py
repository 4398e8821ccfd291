"""Asks one of the versions that share an endpoint.

Which version answers a request is Vertex AI's choice, by their shares of the traffic. Each answer names the deployed
model that gave it, so the same request is sent until the one that is meant has answered it.
"""

import json
from collections.abc import Iterator
from time import monotonic, perf_counter, sleep
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Value

from nlp_pipeline.errors import PipelineError, TimedOutError
from nlp_pipeline.vertex.steps.api import Api

# Between a failure and the next request; an answer of another version is no failure.
WAIT_SECONDS = 2.0
# Texts a request, and their size as JSON, which Vertex AI limits to 1.5 MB.
BATCH, BATCH_BYTES = 10, 1_000_000


def ask_version(
    api: Api, endpoint: Any, deployed: str, texts: list[str], timeout: float
) -> tuple[list[str], list[float]]:
    """Asks a version, by its deployed model's id, for texts, all of which it must have answered in `timeout` seconds.

    Returns:
        The labels in the texts' order, and the milliseconds of each request that it answered.
    """
    until, problem = monotonic() + timeout, "only other versions answered"
    # An endpoint of its own network name can be asked nowhere else.
    predict = api.service("Prediction", endpoint.dedicated_endpoint_dns).predict
    labels: list[str] = []
    latencies: list[float] = []
    for batch in batch_texts(texts):
        asked = {"endpoint": endpoint.name, "instances": [Value(string_value=text) for text in batch], "retry": None}
        is_answered = False
        while not is_answered:
            began = perf_counter()
            try:
                answer = api.call("asking for predictions", predict, repeat=False, **asked)
                is_answered = answer.deployed_model_id == deployed
            except PipelineError as error:
                problem = str(error)  # which version failed is not known
                sleep(WAIT_SECONDS)
            if not is_answered and monotonic() > until:
                answered = f"{len(labels)} of {len(texts)} texts within {timeout:g} s"
                raise TimedOutError(f"the new version answered {answered}: {problem}")
        latencies.append(1000 * (perf_counter() - began))
        labels += read_labels(answer, len(batch))
    return labels, latencies


def batch_texts(texts: list[str]) -> Iterator[list[str]]:
    """Yields texts in groups that fit in a request; the end of one that no model would read is left out."""
    batch: list[str] = []
    size = 0
    for text in texts:
        text = text[:100_000]
        length = len(json.dumps(text))
        if batch and (len(batch) == BATCH or size + length > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += length
    yield batch


def read_labels(answer: Any, count: int) -> list[str]:
    """Returns the labels of an answer, which must be so many."""
    predictions = MessageToDict(type(answer).pb(answer)).get("predictions", [])
    try:
        labels = [item["label"] for item in predictions if float(item["score"]) >= 0]
    except (KeyError, TypeError, ValueError):
        labels = []
    if len(labels) != count:
        raise PipelineError(f"the new version does not answer with a label and a score for each of {count} texts")
    return labels
