"""The handler, on archives of the tiny model, with TorchServe's own context."""

import ast
import functools
import gzip
import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nlp_pipeline.serving import handler as handler_module
from nlp_pipeline.serving import model as model_module
from nlp_pipeline.serving.handler import TextClassificationHandler
from nlp_pipeline.serving.model import CPU, CUDA, SEND
from nlp_pipeline.steps.evaluate_model.prediction import predict
from tests.conftest import FILLER, WORDS
from tests.serving.bodies import handed_over, sent
from tests.serving.conftest import MAX_LENGTH, load_handler, made_release, make_context

Rows = Callable[..., list[tuple[str, str]]]
Handlers = dict[str, TextClassificationHandler]
PRECISIONS = ["int8", "fp32"]
NO_TEXT = "is neither a text nor an object with a text as"


def answer(handler: TextClassificationHandler, *bodies: Any) -> tuple[list[Any], list[int]]:
    """Returns the answers to a batch of requests, and their statuses."""
    return answer_rows(handler, *({"body": body} for body in bodies))


def answer_rows(handler: TextClassificationHandler, *rows: dict[str, Any]) -> tuple[list[Any], list[int]]:
    """Returns the answers to a batch of requests, as TorchServe hands them over, and their statuses."""
    context = make_context(len(rows))
    answers = handler.handle(list(rows), context)
    return answers, [context.get_response_status(at)[0] for at in range(len(rows))]


def instances(*values: Any) -> dict[str, list[Any]]:
    return {"instances": list(values)}


def labels(answer: dict[str, Any]) -> list[str]:
    return [prediction["label"] for prediction in answer["predictions"]]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_instance_is_answered_in_order(handlers: Handlers, rows: Rows, precision: str) -> None:
    texts, expected = zip(*rows(90, seed=5), strict=True)
    forms = [(text, {"data": text}, {"text": text, "more": 1})[at % 3] for at, text in enumerate(texts)]
    [found], [status] = answer(handlers[precision], instances(*forms))
    assert (status, labels(found)) == (200, list(expected))
    assert all(each.keys() == {"label", "score"} and 0.5 < each["score"] <= 1 for each in found["predictions"])
    # Answers differ where texts do: or that company changes none would say little.
    assert len({each["score"] for each in found["predictions"]}) > 80


def test_fp32_scores_are_those_of_the_offline_model(handlers: Handlers, rows: Rows, model: Path) -> None:
    texts = [text for text, _ in rows(40, seed=6)] + ["", "  ", "unknown Wörter 文本 🙂", "superb " * 200]
    [found], _ = answer(handlers["fp32"], instances(*texts))
    offline = predict(str(model), texts, MAX_LENGTH)
    assert [each["score"] for each in found["predictions"]] == pytest.approx(offline.max(axis=1), abs=1e-5)
    assert labels(found) == [("0", "4")[at] for at in offline.argmax(axis=1)]


packed = functools.partial(gzip.compress, mtime=0)
BODY = '{"instances": ["superb", "awful é"]}'


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (None, 'no list "instances"'),
        ("a text", "no JSON"),
        ({"instances": "a text"}, 'no list "instances"'),
        (instances("a", {"data": "b"}, 3), f"instance 2 {NO_TEXT}"),
        (instances({"data": ["a text"], "text": "a text"}), f"instance 0 {NO_TEXT}"),
        (b"[" * 100_000, "no JSON"),
        (b'{"instances": [' + b"1" * 10_000 + b"]}", "no JSON"),
        (bytearray(), "(Expecting value: line 1 column 1 (char 0))"),
        (BODY.encode("latin-1"), "byte 0xe9"),
        (packed(BODY.encode())[:-9], "(its gzip is cut off)"),
        (packed(BODY.encode())[:10] + b"\xff" * 9, "while decompressing"),
    ],
    ids=lambda body: repr(body)[:30],
)
def test_a_malformed_request_gets_its_own_400(handlers: Handlers, body: Any, problem: str) -> None:
    answers, statuses = answer(handlers["int8"], instances("superb"), body, instances("awful", "superb"))
    assert statuses == [200, 400, 200]
    assert [labels(answers[at]) for at in (0, 2)] == [["4"], ["0", "4"]]
    assert answers[1].keys() == {"error"} and problem in answers[1]["error"]
    assert answers[1]["error"].endswith(SEND) or NO_TEXT in problem


def test_a_body_is_read_however_it_is_written(handlers: Handlers) -> None:
    for body in ("\ufeff" + BODY, bytearray(BODY.encode("utf-16-le")), packed(BODY.encode("utf-8-sig") + b"\n")):
        [found], [status] = answer(handlers["int8"], body)
        assert (status, labels(found)) == (200, ["4", "0"])


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        (instances(*["superb"] * 5), "5 texts, and a request may hold 4"),
        (packed(b" " * 10_000_000 + BODY.encode()), "more than 6553500 bytes"),
        (packed(b"[" * 6_553_501)[:-8], "more than 6553500 bytes"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_request_that_is_too_large_is_refused_by_itself(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch, body: Any, limit: str
) -> None:
    monkeypatch.setattr(model_module, "TEXTS", 4)
    answers, statuses = answer(handlers["int8"], instances(*["superb"] * 4), body, instances("awful"))
    assert statuses == [200, 413, 200]
    assert [labels(answers[at]) for at in (0, 2)] == [["4"] * 4, ["0"]]
    assert limit in answers[1]["error"] and answers[1]["error"].endswith("send it in parts")


@pytest.mark.parametrize(("precision", "chunk"), [("int8", 1), ("fp32", 32)])
def test_a_text_that_the_model_cannot_take_fails_its_own_request(
    model: Path, monkeypatch: pytest.MonkeyPatch, precision: str, chunk: int
) -> None:
    handler = load_handler(made_release(model, precision))
    monkeypatch.setattr(handler, "chunk", chunk)
    handler.tokenizer.add_tokens(["[PRODUCT]"])  # the model has no embedding for it
    bodies = [instances("superb"), instances("awful", "a [PRODUCT]"), b"", instances("awful"), instances("[PRODUCT]")]
    answers, statuses = answer(handler, *bodies)
    assert statuses == [200, 400, 400, 200, 400]
    assert [labels(answers[at]) for at in (0, 3)] == [["4"], ["0"]]
    assert all(answers[at]["error"].startswith("[ONNXRuntimeError] ") for at in (1, 4))


def test_what_is_not_the_requests_fault_is_a_500_of_its_own(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    handler = load_handler(made_release(model, "int8"))
    encode = handler.encode

    def failing(text: str) -> Any:
        if text == "unlucky":
            raise RuntimeError("no luck today")
        return encode(text)

    monkeypatch.setattr(handler, "encode", failing)
    answers, statuses = answer(handler, instances("superb"), instances("unlucky"), instances())
    assert statuses == [200, 500, 200]
    assert answers[1:] == [{"error": "no luck today"}, {"predictions": []}]
    assert "RuntimeError: no luck today" in caplog.text


def test_every_answer_is_said_to_be_json_and_a_form_is_told_the_content_type(handlers: Handlers) -> None:
    context, form = make_context(4), {'{"instances": ["superb"]}': bytearray()}  # what curl -d sends by default
    answers = handlers["int8"].handle([{"body": BODY}, {}, form, {"body": instances(*range(300))}], context)
    assert all("came as a form" in found["error"] and found["error"].endswith(SEND) for found in answers[1:3])
    assert [context.get_response_status(at)[0] for at in range(4)] == [200, 400, 400, 413]
    assert [context.get_response_content_type(at) for at in range(4)] == ["application/json"] * 4


@pytest.fixture(scope="module")
def handlers_by_cpus(model: Path) -> dict[tuple[str, int], TextClassificationHandler]:
    """Handlers that have loaded the archives on machines with so many CPUs, by precision and CPUs."""
    handlers = {}
    for precision in PRECISIONS:
        for cpus in (1, 3):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(model_module, "usable_cpus", lambda cpus=cpus: cpus)
                handlers[precision, cpus] = load_handler(made_release(model, precision))
    return handlers


KNOWN = [word for words in WORDS.values() for word in words] + FILLER
TEXTS = (
    st.lists(st.sampled_from(KNOWN), max_size=40).map(" ".join)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
    | st.sampled_from(["", " ", "\n\t ", "\u200b", "x" * 5000, "文" * 300, "é" * 40, "🙂 " * 50])
    | st.builds(lambda word, count: f"{word} " * count, st.sampled_from(KNOWN), st.integers(1, 400))
)


@pytest.mark.parametrize("precision", PRECISIONS)
@given(requests=st.lists(st.lists(TEXTS, max_size=6), min_size=1, max_size=6), data=st.data())
@settings(max_examples=20, deadline=None)
def test_company_and_order_change_no_bit_of_an_answer(
    handlers_by_cpus: dict[tuple[str, int], TextClassificationHandler],
    precision: str,
    requests: list[list[str]],
    data: st.DataObject,
) -> None:
    known: dict[str, Any] = {}
    for cpus in (1, 3):
        handler = handlers_by_cpus[precision, cpus]
        for text in {text for request in requests for text in request}:
            [[alone], _] = answer(handler, instances(text))
            assert known.setdefault(text, alone["predictions"][0]) == alone["predictions"][0]
        shuffled = [data.draw(st.permutations(request)) for request in data.draw(st.permutations(requests))]
        for batch in (requests, shuffled, [[text for request in requests for text in request]]):
            answers, _ = answer(handler, *(instances(*request) for request in batch))
            assert [each["predictions"] for each in answers] == [[known[text] for text in request] for request in batch]


def test_texts_that_share_calls_on_a_gpu_are_answered_each_for_itself(
    model: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU texts are padded to the longest beside them; the same is done here on the CPU."""
    texts = [text for text, _ in rows(75, seed=9)] + ["", "superb " * 50, "🙂"]
    random.Random(1).shuffle(texts)
    handler = load_handler(made_release(model, "fp32"))
    alone = [handler.classify([text])[0] for text in texts]
    calls: list[int] = []
    run = handler.probabilities

    def noted(texts: list[str], session: Any) -> Any:
        calls.append(len(texts))
        return run(texts, session)

    monkeypatch.setattr(handler, "chunk", 32)
    monkeypatch.setattr(handler, "probabilities", noted)
    together = handler.classify(texts)
    assert [each["label"] for each in together] == [each["label"] for each in alone]
    assert [each["score"] for each in together] == pytest.approx([each["score"] for each in alone], abs=1e-5)
    assert calls == [32, 32, 14]  # as many texts a call as are allowed
    assert handler.classify([]) == []


@pytest.mark.parametrize(
    ("precision", "available", "reason"),
    [
        ("int8", [CPU], "this onnxruntime knows no GPU"),
        ("int8", [CUDA, CPU], "int8 is for CPUs; a GPU takes fp32"),
        # This machine's onnxruntime knows no GPU: it takes the CPU, as one does that finds no driver.
        ("fp32", [CUDA, CPU], "the GPU can't be used: see ONNX Runtime's lines above"),
    ],
)
@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider' is not in available")
def test_the_provider_is_chosen_and_its_reason_logged(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    precision: str, available: list[str], reason: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(model_module, "usable_cpus", lambda: 3)
    with caplog.at_level("INFO", model_module.__name__):
        handler = load_handler(made_release(model, precision))
    assert caplog.messages[-1] == f"2 labels, {CPU} ({reason}), 3 CPUs"
    assert not handler.on_gpu and handler.chunk == 1
    sessions = (handler.together, handler.single)
    assert [session.get_providers() for session in sessions] == [[CPU], [CPU]]
    assert [session.get_session_options().intra_op_num_threads for session in sessions] == [3, 1]
    assert [each["label"] for each in handler.classify(["superb", "awful"])] == ["4", "0"]


@given(requests=st.lists(sent(limit=4), max_size=4))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_body_is_answered_as_it_would_be_alone(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch, requests: list[tuple[bytes, str, int]]
) -> None:
    monkeypatch.setattr(model_module, "TEXTS", 4)
    expected = [*(status for _, _, status in requests), 200]
    batch = [handed_over(body, content_type) for body, content_type, _ in requests]
    batch.append({"body": instances("superb \ud800", "awful \x00\U0010ffff\u2028")})
    answers, statuses = answer_rows(handlers["int8"], *batch)
    assert statuses == expected
    assert [found.keys() for found in answers] == [
        {"predictions"} if status == 200 else {"error"} for status in expected
    ]
    assert labels(answers[-1]) == ["4", "0"]
    json.dumps(answers, allow_nan=False).encode()
    assert [answer_rows(handlers["int8"], row)[0] for row in batch] == [[found] for found in answers]


def test_it_warms_up_when_it_loads(model: Path) -> None:
    texts: list[str] = []

    class Spy(TextClassificationHandler):
        def encode(self, text: str) -> Any:
            texts.append(text)
            return super().encode(text)

    spy = load_handler(made_release(model, "int8"), Spy)
    lengths = [len(encoding) for encoding in spy.tokenizer.encode_batch(texts)]
    assert min(lengths) < MAX_LENGTH == max(lengths)


@pytest.mark.parametrize(("quota", "expected"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 4)])
def test_threads_are_those_of_the_container(monkeypatch: pytest.MonkeyPatch, quota: str, expected: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: quota)
    assert model_module.usable_cpus() == expected


def test_it_needs_little_and_is_python_3_9() -> None:
    imported = set()
    for module in (model_module, handler_module):
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"), feature_version=(3, 9))
        imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        # feature_version does not tell of these.
        assert not any(isinstance(node, ast.Match | ast.BitOr) for node in ast.walk(tree))
    imported.remove(model_module.__name__)
    modules = {name.split(".")[0] for name in imported}
    assert modules - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "tokenizers"}
    # TorchServe takes the one class of the file.
    assert [node.name for node in tree.body if isinstance(node, ast.ClassDef)] == ["TextClassificationHandler"]
