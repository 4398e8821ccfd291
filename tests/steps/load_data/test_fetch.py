import gzip
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from nlp_pipeline import storage
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.serving.torchserve import free_ports
from nlp_pipeline.steps.load_data import fetch
from nlp_pipeline.steps.load_data.fetch import fetch_source, list_sources, without_secrets
from tests.fakes.s3 import forget_environment, s3_server
from tests.messages import one_line

CONTENT = b"text,label\n" + b"a film,1\n" * 10_000


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what the machine's own environment says of object stores and proxies, and without long waits."""
    forget_environment(monkeypatch)
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.001)


def cut() -> Response:
    """A response that ends before the length that it promised."""
    response = Response(CONTENT[:5000])
    response.headers["Content-Length"] = str(len(CONTENT))
    return response


def refusal(source: str, target: Path, kind: type[Exception], *secrets: str) -> str:
    """Returns the line with which a source is refused."""
    with pytest.raises(kind) as caught:
        fetch_source(source, target)
    return one_line(caught, kind, *secrets)


def test_a_path_and_a_file_url(tmp_path: Path) -> None:
    path = tmp_path / "ä #1?%41.csv"
    path.write_bytes(CONTENT)
    for address in (str(path), path.as_uri(), path.as_uri().replace("file://", "FILE://localhost")):
        source = fetch_source(address, tmp_path / "unused")
        assert (source.path, source.name) == (path, str(path))


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("{}/none.csv", r"can't be read \(No such file or directory\): give a CSV, TSV, JSONL or Parquet file"),
        ("{}/folder.csv", r"can't be read \(Is a directory\)"),
        ("file://none.csv", r"'none.csv' can't be read \(No such file or directory\)"),
        ("gs://bucket/none.csv", r"can't be read \(No such file or directory\): only Vertex AI has buckets, at /gcs"),
    ],
)
def test_a_path_to_no_file(tmp_path: Path, address: str, says: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    address = address.format(tmp_path)
    with pytest.raises(UsageError, match=says) as caught:
        fetch_source(address, tmp_path / "unused")
    assert address.removeprefix("file://") in one_line(caught, UsageError)


@pytest.mark.parametrize("address", ["htps://me:hunter2@host/x.csv", "://hunter2"])
def test_an_unknown_scheme(tmp_path: Path, address: str) -> None:
    message = refusal(address, tmp_path / "x", UsageError, "hunter2")
    assert f"{address.partition('://')[0]!r}://: use a path, file://, http(s)://, s3://, gs:// or hf://" in message


def test_folders_patterns_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that is a file is itself, whatever its name; one that is named twice is read once. gs:// is mounted."""
    monkeypatch.setattr(fetch, "BUCKETS", tmp_path)
    for name in ("a/2.csv", "a/1.csv.gz", "a/b/3.JSONL", "a/README.md", "a/_log/4.parquet", "a/.5.csv", "a/6, *.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    folder = [f"{tmp_path}/a/{name}" for name in ("1.csv.gz", "2.csv", "6, *.csv", "b/3.JSONL")]
    url = "https://host/x,y.csv?sig=a*"
    for data, files in (
        (f" {tmp_path}/a\n", folder),
        (f"file://{tmp_path}/a/", folder),
        ("gs://a", folder),
        (f"{tmp_path}/a/*", folder[:3]),
        (f"{tmp_path}/a/**", folder),
        (f"{tmp_path}/a/6, *.csv", folder[2:3]),
        (json.dumps([folder[1], f"{tmp_path}/a/*.csv", url]), [*folder[1:3], url]),
        (url, [url]),
        ("[x].csv", ["[x].csv"]),
        ("none.csv", ["none.csv"]),
    ):
        assert list_sources(data) == files
    source = fetch_source("gs://a/2.csv", tmp_path / "unused")
    assert (source.path, source.name) == (tmp_path / "a" / "2.csv", "gs://a/2.csv")
    for data in (f"{tmp_path}/empty", f"{tmp_path}/*.csv"):
        with pytest.raises(UsageError, match=r"has no CSV, TSV, JSONL or Parquet file: is it right\?$") as caught:
            list_sources(data)
        assert repr(data) in one_line(caught, UsageError)


@pytest.mark.parametrize("address", ["x", "{}", "http://host/data?file=x.csv&token=hunter2", "s3://bucket/folder/"])
def test_a_name_that_tells_no_form_shows_before_the_download(tmp_path: Path, address: str) -> None:
    assert "its name must end in" in refusal(address.format(tmp_path), tmp_path / "x", UsageError, "hunter2")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://me:hunter2@host:80/x%20y.csv?sig=hunter2#hunter2", "http://host/x%20y.csv"),
        ("http://hunter2@[::1]:8000/x.csv", "http://[::1]:8000/x.csv"),
        ("http://host/a@b/x.csv?a=b@c/hunter2", "http://host/a@b/x.csv"),
    ],
)
def test_a_url_is_shown_without_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


@pytest.mark.parametrize(
    "rest",
    ["/x.csv", "me:hunter2/x@host/x.csv", "me:hunter2?x@host/x.csv", "[::1/x.csv", "host/a\nb.csv"],
)
def test_a_url_that_cannot_be_read(tmp_path: Path, rest: str) -> None:
    assert "has no host, or can't be read" in refusal(f"http://{rest}", tmp_path / "x", UsageError, "hunter2")


@pytest.fixture
def serve(httpserver: HTTPServer) -> Callable[..., tuple[str, list[Request]]]:
    """A function that serves responses at a path, one a request, and returns the URL and the requests to come."""

    def serve_responses(path: str, *responses: Response) -> tuple[str, list[Request]]:
        requests: list[Request] = []

        def answer(request: Request) -> Response:
            requests.append(request)
            return responses[len(requests) - 1]

        httpserver.expect_request(path).respond_with_handler(answer)
        return httpserver.url_for(path), requests

    return serve_responses


Serve = Callable[..., tuple[str, list[Request]]]


def test_http(tmp_path: Path, serve: Serve) -> None:
    url, requests = serve("/data/x_y.csv", Response(CONTENT))
    source = fetch_source(url.replace("://", "://me:hunter%402@") + "?download=true", tmp_path / "x")
    assert source.name == url and source.path.read_bytes() == CONTENT
    assert requests[0].args["download"] == "true" and requests[0].headers["Accept-Encoding"] == "identity"
    assert requests[0].authorization is not None and requests[0].authorization.password == "hunter@2"


def test_what_fails_for_a_moment_is_tried_again(tmp_path: Path, serve: Serve) -> None:
    failures = [Response(status=status) for status in (500, 408, 429)]
    url, requests = serve("/x.csv", *failures, cut(), Response(CONTENT))
    assert fetch_source(url, tmp_path / "x").path.read_bytes() == CONTENT
    assert len(requests) == 5


@pytest.mark.parametrize(
    ("response", "says", "kind", "attempts"),
    [
        (Response(status=503), "/x.csv could not be downloaded (it answered 503)", PipelineError, 5),
        (cut(), "could not be downloaded (peer closed connection", PipelineError, 5),
        *[(Response(status=status), f"/x.csv answered {status} ", UsageError, 1) for status in (404, 204)],
    ],
)
def test_what_fails_for_good(
    tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
    response: Response, says: str, kind: type[Exception], attempts: int,
) -> None:  # fmt: skip
    """No secret is shown: not by the errors, not by the log."""
    caplog.set_level(logging.INFO)  # as kfp sets it in a step
    url, requests = serve("/x.csv", *[response] * attempts)
    address = url.replace("://", "://me:hunter2@") + "?signature=hunter2"
    assert says in refusal(address, tmp_path / "x", kind, "hunter2")
    assert len(requests) == attempts
    out, err = capsys.readouterr()
    assert err.count(f"{url}: attempt ") == attempts - 1
    logged = [record.getMessage() for record in caplog.records if record.name != "werkzeug"]  # the server's own
    assert "hunter2" not in " ".join([*logged, out, err])


def test_redirects(tmp_path: Path, serve: Serve, httpserver: HTTPServer) -> None:
    target, _ = serve("/other", Response(CONTENT))
    url, _ = serve("/x.csv", Response(status=302, headers={"Location": target}))
    source = fetch_source(url, tmp_path / "x")
    assert source.name == url and source.path.read_bytes() == CONTENT
    httpserver.expect_request("/circle.csv").respond_with_data(status=302, headers={"Location": "/circle.csv"})
    assert "maximum allowed redirects" in refusal(httpserver.url_for("/circle.csv"), tmp_path / "x", PipelineError)


def test_nothing_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    message = refusal(f"http://me:hunter2@{address}/x.csv?signature=hunter2", tmp_path / "x", PipelineError, "hunter2")
    assert "could not be downloaded " in message and ": is its host right, and up?" in message
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}")
    message = refusal("s3://bucket/x.csv", tmp_path / "x", PipelineError)
    assert "Connection refused" in message and ": is AWS_ENDPOINT_URL right" in message


@pytest.mark.parametrize("address", ["s3:///x.csv", "s3://me:hunter2@bucket/x.csv"])
def test_s3_a_wrong_bucket(tmp_path: Path, address: str) -> None:
    assert "write s3://bucket/key" in refusal(address, tmp_path / "x", UsageError, "hunter2")
    with pytest.raises(UsageError) as caught:
        list_sources(address.removesuffix("x.csv") + "/*.csv")
    assert "write s3://bucket/key" in one_line(caught, UsageError, "hunter2")


def test_what_is_declared_packed_is_kept_as_it_is_sent(
    tmp_path: Path, serve: Serve, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", httpserver.url_for(""))  # which plays an object store
    packed = Response(gzip.compress(CONTENT), headers={"Content-Encoding": "gzip"})
    url, _ = serve("/bucket/x.csv", packed, packed)
    for address in (url, "s3://bucket/x.csv"):
        with fetch_source(address, tmp_path / "x").open() as file:
            assert file.read() == CONTENT


@pytest.mark.slow
def test_real_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s3").mkdir()
    with s3_server(tmp_path / "s3") as server:
        server.put("bucket", "ä ?#%41+.csv.gz", gzip.compress(CONTENT), Content_Encoding="gzip")
        server.put("bucket", "folder/large.csv", CONTENT * 150)  # several of SeaweedFS's chunks
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        for key, times in (("ä ?#%41+.csv.gz", 1), ("folder/large.csv", 150)):
            source = fetch_source(f"s3://bucket/{key}", tmp_path / "x")
            assert source.name == f"s3://bucket/{key}"
            with source.open() as file:
                assert file.read() == CONTENT * times
        server.put("bucket", "folder/b/small.csv", CONTENT)
        files = ["s3://bucket/folder/b/small.csv", "s3://bucket/folder/large.csv"]
        assert list_sources("s3://bucket/folder/") == files
        assert list_sources('["s3://bucket/fol*ge.csv", "s3://bucket/folder/"]') == files[::-1]
        with pytest.raises(UsageError, match="NoSuchBucket"):
            list_sources("s3://nobucket/")
        for place, code in (("bucket/none\n.csv", "NoSuchKey"), ("nobucket/x.csv", "NoSuchBucket")):
            message = refusal(f"s3://{place}", tmp_path / "x", UsageError)
            says = f"is not there ({code}): check the bucket and the key"
            assert message == f"{f's3://{place}'!r} at http://{server.address} {says}"
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
        message = refusal("s3://bucket/folder/large.csv", tmp_path / "x", PipelineError, "hunter2", "test-secret")
        assert "was refused (SignatureDoesNotMatch): check AWS_ACCESS_KEY_ID" in message
