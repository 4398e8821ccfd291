"""Asks a served model over the KServe v1 protocol.

Hermetic helpers: the command line uses them, and `validate_archive` inlines them as `additional_funcs`.
"""

from typing import Any


def ask(client: Any, url: str, instances: list[Any]) -> list[dict[str, Any]]:
    """Sends instances to a model and returns its predictions.

    The protocol: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol

    Args:
        client: An `httpx.Client`.
        url: The model's address, `http://host:port/v1/models/<name>:predict`.
        instances: Texts, or objects with a text as "data" or "text".

    Returns:
        A prediction for each instance, in order: its `label` and its `score`.

    Raises:
        RuntimeError: The server can't be reached, answers with an error, or with something else than predictions.
    """
    import json

    import httpx

    try:
        # Not httpx's own JSON: it can't write half a surrogate pair, which a command line can hold.
        body = json.dumps({"instances": instances})
        response = client.post(url, content=body, headers={"Content-Type": "application/json"})
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise RuntimeError(f"{url} can't be reached: {str(error) or type(error).__name__}") from None
    shown = response.text[:300].replace("\n", " ")
    if response.status_code != 200:
        raise RuntimeError(f"{url} answered {response.status_code}: {shown}")
    try:
        predictions = response.json()["predictions"]
        if len(predictions) == len(instances) and all(one.keys() >= {"label", "score"} for one in predictions):
            return list(predictions)
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise RuntimeError(f"{url} did not answer with a label and a score for each of {len(instances)} texts: {shown}")


def replay(url: str, texts: list[str], clients: int) -> tuple[list[str], list[float], float]:
    """Asks for texts one by one, from a number of clients at once.

    Args:
        url: The model's address, `http://host:port/v1/models/<name>:predict`.
        texts: The texts, one a request.
        clients: How many requests are under way at once, each over a connection of its own.

    Returns:
        The labels in the texts' order; each request's seconds; the seconds of all of them together.

    Raises:
        RuntimeError: A request failed; see `ask`.
    """
    import time
    from concurrent.futures import ThreadPoolExecutor

    import httpx

    def ask_some(start: int) -> list[tuple[str, float]]:
        answers = []
        with httpx.Client(timeout=60, trust_env=False) as client:
            for text in texts[start::clients]:
                began = time.perf_counter()
                label = ask(client, url, [text])[0]["label"]
                answers.append((label, time.perf_counter() - began))
        return answers

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        parts = list(pool.map(ask_some, range(clients)))
    seconds = time.perf_counter() - began
    answers = [parts[at % clients][at // clients] for at in range(len(texts))]
    return [label for label, _ in answers], [each for _, each in answers], seconds


HELPERS = [ask, replay]
