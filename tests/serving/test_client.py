"""What servers answer, and which of their errors may pass."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pytest_httpserver import HTTPServer

from nlp_pipeline.errors import PipelineError
from nlp_pipeline.serving.client import UnreachableError, ask, read_prediction, replay

PATH = "/v1/models/tiny:predict"
HUGE = 10**400


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=5) as one:
        yield one


@pytest.mark.parametrize(
    ("prediction", "labels", "read"),
    [
        ({"label": "a", "score": 0.5}, ["b"], ("a", 0.5)),
        ({"label": "", "score": 1, "more": None}, [], ("", 1)),
        # Of the Hugging Face server: probabilities by class ids, or a class id.
        ({"0": 0.1, "1": 0.9}, ["a", "b"], ("b", 0.9)),
        ({"9": 0.2, "10": 0.7, "2": 0.1}, [], ("10", 0.7)),
        ({"9": 0.7, "10": 0.2}, [], ("9", 0.7)),
        ({"0": 0, "1": 1}, ["a", "b"], ("b", 1.0)),
        ({"0": 1e-9}, ["a"], ("a", 1e-9)),
        ({"0": -4.5, "1": -0.5}, ["a", "b"], ("b", -0.5)),
        (1, ["a", "b"], ("b", None)),
        (0, [], ("0", None)),
    ],
)
def test_predictions(prediction: Any, labels: list[str], read: tuple[str, float | None]) -> None:
    assert tuple(read_prediction(prediction, labels).values()) == read


@pytest.mark.parametrize(
    "prediction",
    [
        {},
        None,
        "a",
        0.5,
        True,
        -1,
        2,
        {"0": 0.1, "2": 0.9},
        {"0": True, "1": False},
        {"0": "0.9"},
        {"0": float("nan"), "1": 0.5},
        {"0": HUGE},
        {"²": 0.5},
        {"9" * 5000: 0.5},
        {"label": "a"},
        {"label": "a", "score": None},
        {"label": "a", "score": float("inf")},
        {"label": "a", "score": True},
        {"label": 1, "score": 0.5},
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_prediction(prediction: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_prediction(prediction, ["a", "b"])


@pytest.mark.parametrize("status", [404, 502, 503, 504])
def test_no_way_to_the_model_may_pass(httpserver: HTTPServer, client: httpx.Client, status: int) -> None:
    httpserver.expect_request(PATH).respond_with_data("no\thealthy\r\nupstream\x1b", status=status)
    with pytest.raises(UnreachableError, match=f"^http.*{PATH} answered {status}: no healthy upstream"):
        ask(client, httpserver.url_for(PATH), ["x"], [])


def test_an_empty_answer_is_told_without_a_colon(httpserver: HTTPServer, client: httpx.Client) -> None:
    httpserver.expect_request(PATH).respond_with_data(status=404)
    with pytest.raises(UnreachableError, match=f"{PATH} answered 404$"):
        ask(client, httpserver.url_for(PATH), ["x"], [])


@pytest.mark.parametrize("status", [201, 302, 400, 401, 403, 413, 418, 500])
def test_other_errors_stay(httpserver: HTTPServer, client: httpx.Client, status: int) -> None:
    httpserver.expect_request(PATH).respond_with_data('{"message": "why"}', status=status)
    with pytest.raises(PipelineError, match=f'answered {status}: {{"message": "why"}}$') as caught:
        ask(client, httpserver.url_for(PATH), ["x"], [])
    assert not isinstance(caught.value, UnreachableError)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "http://", "ftp://x", "http://example.invalid/"])
def test_an_address_that_can_not_be_reached_may_pass(client: httpx.Client, url: str) -> None:
    with pytest.raises(UnreachableError, match=r"can't be reached: .+$"):
        ask(client, url, ["x"], [])


def test_it_is_told_what_is_wrong_with_a_prediction(httpserver: HTTPServer, client: httpx.Client) -> None:
    httpserver.expect_request(PATH).respond_with_json({"predictions": [{"0": 0.1, "7": 0.9}]})
    with pytest.raises(PipelineError, match=r"each of 1 texts \(class id 7, and the model has 2 classes\): {"):
        ask(client, httpserver.url_for(PATH), ["x"], ["a", "b"])


def test_labels_come_in_the_texts_order_from_several_clients(httpserver: HTTPServer) -> None:
    for at in range(7):
        asked = httpserver.expect_request(PATH, json={"instances": [f"text {at}"]})
        asked.respond_with_json({"predictions": [{"label": str(at), "score": 1.0}]})
    labels, each, seconds = replay(httpserver.url_for(PATH), [f"text {at}" for at in range(7)], clients=3)
    assert (labels, len(each)) == (list("0123456"), 7) and 0 < min(each) <= max(each) <= seconds
