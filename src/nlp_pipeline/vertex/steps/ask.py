"""Asks one of the versions that share an endpoint.

Which version answers a request is Vertex AI's choice, by their shares of the traffic. Each answer names the deployed
model that gave it, so the same request is sent until the one that is meant has answered it.
"""

import json
from collections.abc import Iterator
from time import monotonic, perf_counter
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Value
from tenacity import RetryError, Retrying, TryAgain, retry_if_result

from nlp_pipeline.errors import PipelineError, TimedOutError
from nlp_pipeline.vertex.steps.api import FAILURES, describe

# Between a failure and the next request; an answer of another version is no failure.
WAIT_SECONDS = 2.0
# Texts a request, and their size as JSON, which Vertex AI limits to 1.5 MB.
BATCH, BATCH_BYTES = 10, 1_000_000


def ask_version(
    client: Any, endpoint: str, deployed: str, texts: list[str], timeout: float
) -> tuple[list[str], list[float]]:
    """Asks a version for texts.

    Args:
        client: A client of the prediction service.
        endpoint: The endpoint's resource name.
        deployed: The deployed model's id.
        texts: The texts.
        timeout: Seconds within which it must have answered all of them.

    Returns:
        The labels in the texts' order, and the milliseconds of each request that it answered.

    Raises:
        PipelineError: It answers with something else than predictions.
        TimedOutError: It did not answer all of them in time.
    """
    until, problem = monotonic() + timeout, "only other versions answered"
    labels: list[str] = []
    latencies: list[float] = []

    def send(instances: list[Value]) -> Any:
        nonlocal problem
        began = perf_counter()
        try:
            answer = client.predict(endpoint=endpoint, instances=instances, timeout=60, retry=None)
        except FAILURES as error:
            problem = describe(error)  # which version failed is not known
            raise TryAgain from None
        if answer.deployed_model_id != deployed:
            return None
        latencies.append(1000 * (perf_counter() - began))
        return answer

    retrying = Retrying(
        retry=retry_if_result(lambda answer: answer is None),
        wait=lambda state: WAIT_SECONDS if state.outcome.failed else 0,  # type: ignore[union-attr]
        stop=lambda _: monotonic() > until,
    )
    for batch in batch_texts(texts):
        try:
            labels += read_labels(retrying(send, [Value(string_value=text) for text in batch]), len(batch))
        except RetryError:
            answered = f"{len(labels)} of {len(texts)} texts within {timeout:g} s"
            raise TimedOutError(f"the new version answered {answered}: {problem}") from None
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
    """Returns the labels of an answer.

    Raises:
        PipelineError: It does not have so many predictions.
    """
    predictions = MessageToDict(type(answer).pb(answer)).get("predictions", [])
    try:
        labels = [item["label"] for item in predictions if float(item["score"]) >= 0]
    except (KeyError, TypeError, ValueError):
        labels = []
    if len(labels) != count:
        raise PipelineError(f"the new version does not answer with a label and a score for each of {count} texts")
    return labels
