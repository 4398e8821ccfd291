"""What servers answer, and which of their errors may pass."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pytest_httpserver import HTTPServer

from nlp_pipeline.errors import PipelineError
from nlp_pipeline.serving.client import UnreachableError, ask, read_prediction

PATH = "/v1/models/tiny:predict"


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=60) as client:
        yield client


@pytest.mark.parametrize(
    ("prediction", "labels", "read"),
    [
        ({"label": "a", "score": 0.5}, ["b"], ("a", 0.5)),
        # Of the Hugging Face server: probabilities by class ids, or a class id.
        ({"0": 0.1, "1": 0.9}, ["a", "b"], ("b", 0.9)),
        ({"9": 0.2, "10": 0.7, "2": 0.1}, [], ("10", 0.7)),
        (1, ["a", "b"], ("b", None)),
        (0, [], ("0", None)),
    ],
)
def test_predictions(prediction: Any, labels: list[str], read: tuple[str, float | None]) -> None:
    assert tuple(read_prediction(prediction, labels).values()) == read


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("<html>\nsign in</html>", "Expecting value"),
        ('{"predictions": null}', "NoneType"),
        ('{"predictions": [0, 1]}', "2 predictions"),
        ('{"predictions": [{"0": 0.1, "7": 0.9}]}', "class id 7 of 2 classes"),
        ('{"predictions": [-1]}', "class id -1 of "),
        ('{"predictions": [{}]}', "empty"),
        ('{"predictions": [{"0": NaN, "1": 0.5}]}', "the score is nan"),
        ('{"predictions": [{"label": "a", "score": null}]}', "must be real number"),
        ('{"predictions": [{"label": "a", "score": 1%s}]}' % ("0" * 400), "too large"),
    ],
)
def test_what_is_no_prediction(httpserver: HTTPServer, client: httpx.Client, body: str, problem: str) -> None:
    httpserver.expect_request(PATH).respond_with_data(body)
    pattern = rf"^http.* did not answer with a label and a score for each of 1 texts \(.*{problem}.*\): .*$"
    with pytest.raises(PipelineError, match=pattern):
        ask(client, httpserver.url_for(PATH), ["x"], ["a", "b"])


@pytest.mark.parametrize("status", [404, 503])
def test_no_way_to_the_model_may_pass(httpserver: HTTPServer, client: httpx.Client, status: int) -> None:
    httpserver.expect_request(PATH).respond_with_data("no\thealthy\r\nupstream\x1b", status=status)
    with pytest.raises(UnreachableError, match=f"^http.*{PATH} answered {status}: no healthy upstream"):
        ask(client, httpserver.url_for(PATH), ["x"], [])


@pytest.mark.parametrize(
    ("status", "body", "shown"),
    [(302, "", ""), (500, '{"message":\n"why"}', ': {"message": "why"}')],
)
def test_other_errors_stay(httpserver: HTTPServer, client: httpx.Client, status: int, body: str, shown: str) -> None:
    httpserver.expect_request(PATH).respond_with_data(body, status=status)
    with pytest.raises(PipelineError, match=f"{PATH} answered {status}{shown}$") as caught:
        ask(client, httpserver.url_for(PATH), ["x"], [])
    assert not isinstance(caught.value, UnreachableError)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "ftp://x"])
def test_an_address_that_can_not_be_reached_may_pass(client: httpx.Client, url: str) -> None:
    with pytest.raises(UnreachableError, match=r"can't be reached: .+$"):
        ask(client, url, ["x"], [])
