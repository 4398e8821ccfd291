"""Asks one of the versions that share an endpoint on Vertex AI.

Which version answers a request is Vertex AI's choice, by their shares of the traffic. Each answer names the deployed
model that gave it, so the same request is sent until the one that is meant has answered it.

Hermetic helpers, inlined into the step as `additional_funcs`; `settings` has `endpoint_timeout` (seconds within which
all must have been answered), `poll_seconds` (between a failure and the next request), `min_agreement` and
`max_accuracy_drop`.
"""

from typing import Any

from nlp_pipeline.components.agreement import compare_answers, require_agreement
from nlp_pipeline.components.vertex_api import line_of_vertex
from nlp_pipeline.serving.client import read_prediction


def batch_texts(texts: list[str], most: int = 10, most_bytes: int = 1_000_000) -> list[list[str]]:
    """Groups texts into requests, which Vertex AI limits to 1.5 MB.

    Args:
        texts: The texts; the end of one that is longer than all that a model reads is left out.
        most: Texts a request.
        most_bytes: Their size as JSON.
    """
    import json

    batches: list[list[str]] = []
    size = most_bytes
    for text in texts:
        text = text[:100_000]
        length = len(json.dumps(text))
        if size + length > most_bytes or len(batches[-1]) == most:
            batches.append([])
            size = 0
        batches[-1].append(text)
        size += length
    return batches


def ask_endpoint(client: Any, endpoint: str, texts: list[str]) -> tuple[str, list[str]]:
    """Sends texts to an endpoint, once.

    Args:
        client: A client of the prediction service.
        endpoint: The endpoint's resource name.
        texts: The texts.

    Returns:
        The id of the deployed model that answered, and a label for each text; none where it did not give that.

    Raises:
        GoogleAPIError, GoogleAuthError, OSError: It did not answer, or with an error.
    """
    from google.protobuf import json_format, struct_pb2

    instances = [struct_pb2.Value(string_value=text) for text in texts]
    answer = client.predict(endpoint=endpoint, instances=instances, timeout=60, retry=None)
    predictions = json_format.MessageToDict(type(answer).pb(answer)).get("predictions", [])
    try:
        labels = [str(read_prediction(one, [])["label"]) for one in predictions]
    except (ValueError, TypeError):
        labels = []
    return str(answer.deployed_model_id), labels if len(labels) == len(texts) else []


def ask_version(
    client: Any, endpoint: str, deployed: str, texts: list[str], settings: dict[str, Any]
) -> tuple[list[str], list[float]]:
    """Asks a version for texts.

    Args:
        client: A client of the prediction service.
        endpoint: The endpoint's resource name.
        deployed: The deployed model's id.
        texts: The texts.
        settings: See the module.

    Returns:
        The labels in the texts' order, and the milliseconds of each request that it answered.

    Raises:
        RuntimeError: It answers with something else than predictions.
        TimeoutError: It did not answer all of them in time.
    """
    import time

    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    until = time.monotonic() + settings["endpoint_timeout"]
    labels: list[str] = []
    latencies: list[float] = []
    others, problem = 0, ""
    for batch in batch_texts(texts):
        by = ""
        while by != deployed:
            if time.monotonic() > until:
                why = problem or f"other versions gave {others} answers"
                raise TimeoutError(
                    f"the new version answered {len(labels)} of {len(texts)} texts within "
                    f"{settings['endpoint_timeout']:g} s: {why}"
                )
            began = time.perf_counter()
            try:
                by, answered = ask_endpoint(client, endpoint, batch)
            except (GoogleAPIError, GoogleAuthError, OSError) as error:
                # Which version failed is not told; while one comes up, this is what the way to it says, too.
                problem = line_of_vertex(error)
                time.sleep(settings["poll_seconds"])
            else:
                others += by != deployed
        if not answered:
            raise RuntimeError(
                f"the new version does not answer with a label and a score for each of {len(batch)} texts"
            )
        labels += answered
        latencies.append(1000 * (time.perf_counter() - began))
    return labels, latencies


def check_version(
    client: Any, endpoint: str, deployed: str, rows: dict[str, list[str]], settings: dict[str, Any]
) -> dict[str, float]:
    """Asks a version for labelled rows and holds its answers against the offline model's.

    Args:
        client: A client of the prediction service.
        endpoint: The endpoint's resource name.
        deployed: The deployed model's id.
        rows: `text`, `label` and `predicted`.
        settings: See the module.

    Returns:
        `rows`, `agreement`, `accuracy`, `offline_accuracy`, and `p50_ms`, the median of the requests' milliseconds.

    Raises:
        ValueError: It does not say what the offline model says.
        RuntimeError, TimeoutError: See `ask_version`.
    """
    labels, latencies = ask_version(client, endpoint, deployed, rows["text"], settings)
    compared = compare_answers(labels, rows["predicted"], rows["label"])
    facts = {**compared, "p50_ms": sorted(latencies)[len(latencies) // 2]}
    print(", ".join(f"{key} {value:.4g}" for key, value in facts.items()), flush=True)
    require_agreement(compared, settings["min_agreement"], settings["max_accuracy_drop"])
    return facts
