"""What may be sent to a served model: bodies right and wrong, in any encoding and of any content type."""

import functools
import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from nlp_pipeline.serving.model import SIZE

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

# The kinds of text that json.dumps makes in, and what makes no JSON of it.
ENCODINGS: list[Callable[[str], bytes]] = [
    str.encode,
    lambda text: text.encode("utf-8-sig"),
    lambda text: text.encode("utf-16"),
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
FORM = "application/x-www-form-urlencoded"
packed = functools.partial(gzip.compress, mtime=0)
BODY = b'{"instances": ["superb"]}'
# Bodies with their headers that are answered with "4", and bodies with their content types that get a 400.
WELL_FORMED: list[tuple[bytes, dict[str, str]]] = [
    (BODY, {"Content-Type": "application/json; charset=utf-8"}),
    (BODY, {"Content-Type": "text/plain"}),
    (BODY, {"Content-Type": "application/octet-stream"}),
    (BODY, {}),
    (BODY + b"\r\n", {"Content-Type": "application/json"}),
    (b"\xef\xbb\xbf" + BODY, {"Content-Type": "application/json"}),
    (b"\xef\xbb\xbf" + BODY, {"Content-Type": "text/plain"}),
    (packed(BODY), {"Content-Type": "application/json", "Content-Encoding": "gzip"}),
    (packed(BODY), {"Content-Type": "text/plain", "content-encoding": "gzip"}),
    (packed(BODY), {}),
]
MALFORMED = [
    (b'{"instances": [', "application/json"),
    (b'{"instances": [1]}', "application/json"),
    (b'"superb"', "application/json"),
    (b"\xff\xfe", "application/json"),
    (b"", "application/json"),
    (b"superb", "text/plain"),
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
        body, status = gzip.compress(json.dumps(value).encode() + b" " * SIZE, mtime=0), 413
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
