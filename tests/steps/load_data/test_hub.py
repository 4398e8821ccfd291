"""Data sets of a hub: a server that answers as huggingface.co does what is asked of it here."""

import json
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from nlp_pipeline import storage
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.serving.torchserve import free_ports
from nlp_pipeline.steps.load_data.fetch import fetch_source, list_sources
from nlp_pipeline.steps.load_data.settings import LoadSettings
from tests.conftest import make_rows
from tests.messages import one_line
from tests.steps.load_data.test_load import Loaded, write

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = ["README.md", ".gitattributes", "data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl",
         "data/test.jsonl"]  # fmt: skip
ADDRESS = "hf://datasets/owner/reviews"


class Hub:
    """Has a data set, and another one with terms; notes the tokens that it and its store are sent."""

    def __init__(self, server: HTTPServer, folder: Path) -> None:
        self.folder, self.tokens, self.stored = folder, set[str | None](), set[str | None]()
        server.expect_request("/api/datasets/owner/reviews/revision/main").respond_with_json({"sha": COMMIT})
        branch = "/api/datasets/owner/reviews/revision/refs/convert/parquet"
        self.port = server.port
        for path in ("", "/data"):
            tree = f"/api/datasets/owner/reviews/tree/{COMMIT}{path}"
            server.expect_request(tree).respond_with_handler(self.list)
        server.expect_request(branch).respond_with_json({"sha": COMMIT})
        server.expect_request("/api/datasets/owner/gated/revision/main").respond_with_handler(self.refuse)
        server.expect_request("/api/datasets/owner/busy/revision/main").respond_with_data(status=503)
        for file in FILES:
            resolve = f"/datasets/owner/reviews/resolve/{COMMIT}/{file}"
            server.expect_request(resolve).respond_with_handler(self.redirect)
            server.expect_request(f"/store/{file}").respond_with_handler(self.send)
        server.expect_request("/datasets/owner/gated/resolve/main/x.csv").respond_with_handler(self.refuse)
        self.asked: list[str] = []

    def list(self, request: Request) -> Response:
        """Lists a folder, two files a page, and folders too."""
        self.asked.append(request.full_path)
        self.tokens.add(request.headers.get("Authorization"))
        folder = request.path.partition(COMMIT)[2].lstrip("/")
        entries: list[dict[str, Any]] = [{"type": "directory", "path": "data", "oid": "a", "size": 0}]
        entries += [{"type": "file", "path": file, "oid": "a", "size": 1} for file in FILES if file.startswith(folder)]
        start = int(request.args.get("cursor", 0))
        response = Response(json.dumps(entries[start : start + 2]), content_type="application/json")
        if start + 2 < len(entries):
            response.headers["Link"] = f'<{request.base_url}?recursive=true&cursor={start + 2}>; rel="next"'
        return response

    def redirect(self, request: Request) -> Response:
        """Sends to the store, which is another host, as that of large files is."""
        self.tokens.add(request.headers.get("Authorization"))
        file = request.path.partition(f"{COMMIT}/")[2]
        return Response(status=302, headers={"Location": f"http://127.0.0.1:{self.port}/store/{file}"})

    def send(self, request: Request) -> Response:
        self.stored.add(request.headers.get("Authorization"))
        return Response((self.folder / Path(request.path).name).read_bytes())

    def refuse(self, request: Request) -> Response:
        return Response(status=403, headers={"X-Error-Code": "GatedRepo"})


@pytest.fixture
def hub(httpserver: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub, which has rows."""
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.001)
    monkeypatch.setenv("HF_ENDPOINT", f"http://localhost:{httpserver.port}/")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    rows = make_rows(90)
    for at, file in enumerate(FILES[2:]):
        write(tmp_path / Path(file).name, rows[at * 30 : at * 30 + 30])
    return Hub(httpserver, tmp_path)


def test_the_files_of_a_data_set(hub: Hub) -> None:
    test, *train = [f"{ADDRESS}@{COMMIT}/{file}" for file in sorted(FILES[2:])]
    for address, files in (
        (ADDRESS, [test, *train]),
        (f"{ADDRESS}/data/", [test, *train]),
        (f"{ADDRESS}/data/train-*", train),
        (f"{ADDRESS}@~parquet/*/test*", [test]),
        (f"{ADDRESS}/data/test.jsonl", [f"{ADDRESS}/data/test.jsonl"]),
        (json.dumps([test, ADDRESS]), [test, *train]),
    ):
        assert list_sources(address) == files
    with pytest.raises(UsageError, match=r"'hf://datasets/owner/reviews/data/none\*' has no CSV, TSV, JSONL or"):
        list_sources(f"{ADDRESS}/data/none*")


def test_rows_of_a_data_set(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token goes to the hub, and to no other host."""
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    data = {"train_data": f"{ADDRESS}/data/train-*", "evaluation_data": f"{ADDRESS}@{COMMIT}/data/test.jsonl"}
    loaded = Loaded(hub.folder, **data)
    assert loaded.train_rows + loaded.evaluation_rows == make_rows(90)
    first, last = (f"{ADDRESS}@{COMMIT}/data/train-0000{at}-of-00002.jsonl" for at in (0, 1))
    assert loaded.train["source"] == f"{first} and 1 more, to {last}"
    assert (hub.tokens, hub.stored) == ({"Bearer hunter2"}, {None})


def test_what_is_refused(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refusal(address: str, kind: type[Exception] = UsageError) -> str:
        with pytest.raises(kind) as caught:
            for file in list_sources(address):
                fetch_source(file, tmp_path / "x")
        return one_line(caught, kind, "hunter2")

    host = f"http://localhost:{hub.port}"
    advice = f"A private one, or one with terms, needs the HF_TOKEN of someone who may read {host}/datasets/owner/gated"
    listing = "the hub answered 403 (GatedRepo): are name, revision and path right?"
    assert refusal("hf://datasets/owner/gated") == f"hf://datasets/owner/gated: {listing} {advice}"
    file = "hf://datasets/owner/gated/x.csv"
    assert refusal(file) == f"{file} answered 403 FORBIDDEN: is the address right, and may it be read? {advice}"
    for address in ("hf://owner/reviews", "hf://datasets/reviews", "hf://models/owner/reviews/x.csv"):
        assert "names no data set of the hub: write hf://datasets/OWNER/NAME" in refusal(address)
    assert "answered 503 (SERVICE UNAVAILABLE): try later" in refusal("hf://datasets/owner/busy", PipelineError)
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_ports(1)[0]}")
    assert "can't be asked ([Errno 111] Connection refused): is it reachable" in refusal(ADDRESS, PipelineError)
    monkeypatch.setattr("importlib.import_module", lambda name: __import__(f"{name}.none"))
    assert refusal(ADDRESS) == "hf:// needs steps in an image of ours: compile with --image"


def test_a_revision_is_no_password() -> None:
    from nlp_pipeline.pipeline.parameters import refuse_passwords

    data = LoadSettings(train_data=f"{ADDRESS}@{COMMIT}/data")
    refuse_passwords(vars(data))
