"""What may be sent to a served model, in any encoding and of any content type, and what every server makes of it."""

import gzip
import json
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import strategies as st

from nlp_pipeline.serving.model import SIZE
from tests.conftest import make_rows
from tests.serving.conftest import load_handler

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["instances", "data", "text", "body", ""]) | st.text(max_size=3), inner)
    ),
    max_leaves=6,
)
# Texts of any characters, half surrogate pairs among them: JSON can say "\ud800".
TEXT = st.text(st.characters(exclude_categories=[]), max_size=20)
INSTANCE = TEXT | st.fixed_dictionaries({}, optional={"data": TEXT, "text": TEXT | st.none()})
INSTANCES = st.lists(INSTANCE, max_size=4) | st.lists(INSTANCE | JSON, max_size=4)

# What writes JSON as bytes, and what makes no JSON of it.
ENCODINGS: list[Callable[[str], bytes]] = [
    str.encode,
    lambda text: text.encode("utf-8-sig"),
    lambda text: text.encode("utf-16"),
    lambda text: text.encode("utf-16-le"),
    lambda text: text.encode("utf-32-be"),
    lambda text: f"\r\n {text}\t\n".encode(),
    lambda text: gzip.compress(text.encode(), mtime=0),
]
SPOILERS: list[Callable[[str], bytes]] = [
    lambda text: text[:-1].encode(),
    lambda text: f"{text},{text}".encode(),
    lambda text: f"instances={text}".encode(),
    lambda text: zlib.compress(text.encode()),
    lambda text: gzip.compress(text.encode(), mtime=0)[:-9],
    lambda text: gzip.compress(gzip.compress(text.encode(), mtime=0), mtime=0),
]
# Asks a server on this machine; without reading certificates, which takes longer than most answers.
get, post = (partial(httpx.request, method, trust_env=False, verify=False, timeout=300) for method in ("GET", "POST"))
FORM = "application/x-www-form-urlencoded"
packed = partial(gzip.compress, mtime=0)
BODY = b'{"instances": ["superb"]}'
# Bodies with their headers that are answered with "4", and bodies with their content types that get a 400: besides
# those that `sent` draws.
WELL_FORMED: list[tuple[bytes, dict[str, str]]] = [
    (BODY, {}),
    (BODY, {"Content-Type": "application/octet-stream"}),
    (packed(BODY), {"Content-Type": "application/json", "Content-Encoding": "gzip"}),
    (packed(BODY), {"Content-Type": "text/plain", "content-encoding": "gzip"}),
]
MALFORMED = [
    (b"", "application/json"),
    (BODY, FORM),
    (b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--x--', "multipart/form-data; boundary=x"),
]
CONTENT_TYPES = ["application/json", "application/json; charset=utf-8", "text/plain", "application/gzip", "", FORM]


def right_status(body: Any, limit: int) -> int:
    """Returns the status that a request of any JSON deserves, where so many texts are allowed."""
    instances = body.get("instances") if isinstance(body, dict) else None
    if not isinstance(instances, list):
        return 400
    if len(instances) > limit:
        return 413
    texts = [each.get("data", each.get("text")) if isinstance(each, dict) else each for each in instances]
    return 200 if all(isinstance(text, str) for text in texts) else 400


# Texts that all servers are asked for.
ASKED = [text for text, _ in make_rows(60, seed=31)]
ASKED += ["", "  ", "unknown Wörter 文本 🙂", "superb " * 300, "\ud800 awful"]


@st.composite
def sent(draw: st.DrawFn, limit: int) -> tuple[bytes, str, int]:
    """A body, its content type, and the status that it deserves, where so many texts are allowed."""
    content_type = draw(st.sampled_from(CONTENT_TYPES))
    kind = draw(st.sampled_from(["request", "request", "JSON", "many", "spoilt", "bytes", "bomb"]))
    instances = draw(INSTANCES)
    value: Any = {"instances": instances}
    if kind == "JSON":
        value = draw(JSON)
    elif kind == "many":
        value = {"instances": (instances or [""]) * (limit + 1)}
    if kind == "spoilt":
        body, status = draw(st.sampled_from(SPOILERS))(json.dumps(value)), 400
    elif kind == "bytes":
        # No number, word or list of them is a request.
        body, status = draw(st.binary(max_size=9)), 400
    elif kind == "bomb":
        body, status = gzip.compress(json.dumps(value).encode() + b" " * SIZE, 1, mtime=0), 413
    else:
        body, status = draw(st.sampled_from(ENCODINGS))(json.dumps(value)), right_status(value, limit)
    return body, content_type, 400 if content_type == FORM else status


def handed_over(body: bytes, content_type: str) -> dict[str, Any]:
    """Returns what TorchServe's worker makes of a body for the handler."""
    if content_type == FORM:
        return {body.decode("latin-1"): bytearray()}
    try:
        if content_type == "application/json":
            return {"body": json.loads(body.decode())}
        if content_type.startswith("text"):
            return {"body": body.decode()}
    except ValueError:
        pass
    return {"body": bytearray(body)}


def labels(response: httpx.Response) -> list[str]:
    """Returns the labels of an answer by v1."""
    assert (response.status_code, response.headers["Content-Type"]) == (200, "application/json"), response.text
    return [prediction["label"] for prediction in response.json()["predictions"]]


def require_as_offline(answers: list[dict[str, Any]], release: Path) -> None:
    """Makes sure that a server's answers to ASKED are those of the release's archive in this process."""
    offline = load_handler(release).classify([text.encode("utf-8", "replace").decode() for text in ASKED])
    assert [item["label"] for item in answers] == [item["label"] for item in offline]
    assert [item["score"] for item in answers] == pytest.approx([item["score"] for item in offline], abs=1e-3)


def require_bodies_read(address: str, *more: tuple[bytes, dict[str, str]]) -> None:
    """Makes sure that a body is read however it is sent, and that a malformed one gets a sentence."""
    for body, headers in (*WELL_FORMED, *more):
        assert labels(post(address, content=body, headers=headers)) == ["4"]
    for body, content_type in MALFORMED:
        response = post(address, content=body, headers={"Content-Type": content_type})
        assert (response.status_code, response.headers["Content-Type"]) == (400, "application/json")
        assert " " in response.json()["error"]


def require_status(address: str, body: bytes, content_type: str, status: int) -> None:
    """Makes sure that a request gets its own status, and JSON."""
    response = post(address, content=body, headers={"Content-Type": content_type})
    assert (response.status_code, response.headers["Content-Type"]) == (status, "application/json")
    assert response.json().keys() == ({"predictions"} if status == 200 else {"error"})


def require_large_refused(address: str, *more: Any) -> httpx.Response:
    """Makes sure that requests too large, by texts, unpacked or in bytes, harm none beside them; returns the last's."""
    many, bomb = json.dumps({"instances": ["ok"] * 130_000}).encode(), packed(b" " * 9_000_000 + BODY)
    contents = [many, bomb, b" " * 7_000_000 + BODY, *more]
    with ThreadPoolExecutor(16) as pool:
        answers = pool.map(lambda content: post(address, content=content), [*contents, *[BODY] * 20])
        refused, small = [next(answers) for _ in contents], list(answers)
    assert {response.status_code for response in refused} == {413}
    assert all(labels(response) == ["4"] for response in small)
    assert refused[0].json()["error"] == "130000 texts, and a request may hold 256: send it in parts"
    assert refused[1].json()["error"] == "more than 6553500 bytes, unpacked: send it in parts"
    return refused[2]
