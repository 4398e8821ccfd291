"""`--predict`: whom it asks, and what it makes of their answers."""

import json

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.serving import model
from nlp_pipeline.serving.endpoint import TEXTS, describe_answer, predict_address, predict_at

PATH = "/v1/models/tiny:predict"


def test_an_endpoint_is_asked(httpserver: HTTPServer) -> None:
    httpserver.expect_request(PATH, method="POST", json={"instances": ["é", "\ud800"]}).respond_with_json(
        {"predictions": [{"label": "ja\n", "score": 1}, {"label": "nein", "score": 0.5, "more": 1}]}
    )
    assert predict_at(httpserver.url_for(PATH), ["é", "\ud800"]) == [
        {"text": "é", "label": "ja\n", "score": 1},
        {"text": "?", "label": "nein", "score": 0.5},
    ]


def test_several_labels_a_text(httpserver: HTTPServer) -> None:
    labels = [{"label": "ja", "score": 0.75}, {"label": "nein", "score": 0.5}]
    httpserver.expect_request(PATH).respond_with_json({"predictions": [{"labels": labels}, {"labels": []}]})
    answers = predict_at(httpserver.url_for(PATH), ["a", "b"])
    assert answers == [{"text": "a", "labels": labels}, {"text": "b", "labels": []}]
    assert [describe_answer(answer, 2) for answer in answers] == [("ja, nein", "0.75, 0.50"), ("-", "")]
    assert describe_answer({"label": "1", "score": None}, 2) == ("1", "")


@pytest.mark.parametrize("count", [256, 600])
def test_many_texts_are_asked_in_requests_that_the_handler_takes(httpserver: HTTPServer, count: int) -> None:
    sizes: list[int] = []

    def answer(request: Request) -> Response:
        texts = request.get_json()["instances"]
        sizes.append(len(texts))
        return Response(json.dumps({"predictions": [{"label": f"of {text}", "score": 1} for text in texts]}))

    httpserver.expect_request(PATH).respond_with_handler(answer)
    answers = predict_at(httpserver.url_for(PATH), [str(number) for number in range(count)])
    assert [(each["text"], each["label"]) for each in answers] == [(str(at), f"of {at}") for at in range(count)]
    assert TEXTS == model.TEXTS >= max(sizes)
    assert len(sizes) == -(-count // TEXTS)


@pytest.mark.parametrize(
    ("status", "body", "headers", "advice"),
    [
        (404, "no model", {}, ": no model"),
        (404, "", {"Host": "a"}, ""),
        (404, "", {}, "; if it is a gateway, set NLP_PIPELINE_ENDPOINT_HOST to the model's host name, .*"),
        (401, "no", {}, ": no; sign in: set .*NLP_PIPELINE_ENDPOINT_TOKEN.*"),
        (302, "no", {"Cookie": "a=b"}, ": no; .*NLP_PIPELINE_ENDPOINT_TOKEN.* is not taken: set it anew"),
    ],
)
def test_an_error_of_what_stands_before_the_model_says_what_to_do(
    httpserver: HTTPServer, status: int, body: str, headers: dict[str, str], advice: str
) -> None:
    httpserver.expect_request(PATH).respond_with_data(body, status=status)
    with pytest.raises(PipelineError, match=f"answered {status}{advice}$"):
        predict_at(httpserver.url_for(PATH), ["a"], headers=headers)


@pytest.mark.parametrize("address", ["http://[", "http://127.0.0.1:1/", "http://127.0.0.1:999999/"])
def test_an_address_nobody_answers_at_is_one_line(address: str) -> None:
    with pytest.raises(PipelineError, match=r"can't be (reached|asked): .+$"):
        predict_at(address, ["a"])


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "nonsense://x"])
def test_proxies_are_for_other_machines(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, proxy)
    httpserver.expect_request(PATH).respond_with_json({"predictions": [{"label": "a", "score": 1}]})
    assert predict_at(f"http://localhost:{httpserver.port}{PATH}", ["a"])[0]["label"] == "a"
    with pytest.raises(PipelineError, match=r"^http://example\.invalid.*can't be (reached|asked): .+$"):
        predict_at(f"http://example.invalid{PATH}", ["a"])


def test_an_endpoint_is_completed() -> None:
    assert predict_address("http://host:8080/", "tiny") == f"http://host:8080{PATH}"
    assert predict_address(f"https://host{PATH}", None) == f"https://host{PATH}"
    with pytest.raises(UsageError, match="which model"):
        predict_address("http://host:8080", None)
    with pytest.raises(UsageError, match="is no address"):
        predict_address("host:8080", "tiny")
