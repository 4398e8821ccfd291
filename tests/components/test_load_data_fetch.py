import gzip
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from nlp_pipeline import storage
from nlp_pipeline.components.load_data_fetch import (
    download_http,
    download_s3,
    fetch_source,
    file_path,
    file_sha256,
    mounted_path,
    shown_url,
)
from nlp_pipeline.errors import PipelineError, UsageError
from tests.components.s3_server import S3Server, forget_environment, free_ports, s3_server
from tests.messages import one_line

CONTENT = b"text,label\n" + b"a film,1\n" * 10_000


def cut() -> Response:
    """A response that ends before the length that it promised."""
    response = Response(CONTENT[:5000])
    response.headers["Content-Length"] = str(len(CONTENT))
    return response


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out what the machine's own environment says of object stores and proxies."""
    forget_environment(monkeypatch)
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.01)


# Paths


def test_a_path_and_a_file_url(tmp_path: Path) -> None:
    path = tmp_path / "ä #1?%41.csv"
    path.write_bytes(CONTENT)
    for source in (str(path), path.as_uri(), path.as_uri().replace("file://", "FILE://localhost")):
        assert fetch_source(source, "unused") == (str(path), str(path))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{}/none.csv", "is not there: give the path"),
        ("file://{}/none.csv", "is not there: give the path"),
        ("{}", "is a folder, not a file"),
        ("file://reviews.csv", "names the host 'reviews.csv': a file URL has three slashes"),
        ("{}/a\0b.csv", "is not there"),
        (" ", "is not there"),
    ],
)
def test_a_path_to_no_file(tmp_path: Path, source: str, says: str) -> None:
    source = source.format(tmp_path)
    with pytest.raises(ValueError, match=says) as caught:
        file_path(source)
    assert repr(source) in one_line(caught, ValueError)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.csv").touch()
    monkeypatch.setattr("os.access", lambda path, mode: False)  # the tests may run as root
    with pytest.raises(ValueError, match="may not be read"):
        file_path(str(tmp_path / "x.csv"))


@pytest.mark.parametrize("source", ["ftp://me:hunter2@host/x.csv", "htps://me:hunter2@host/x.csv", "://hunter2"])
def test_an_unknown_scheme(source: str) -> None:
    with pytest.raises(ValueError, match=r"use a path, file://, http\(s\)://, s3:// or gs://") as caught:
        fetch_source(source, "unused")
    assert repr(source.partition("://")[0]) in one_line(caught, ValueError, "hunter2")


def test_a_file_in_cloud_storage_is_read_through_its_mount(tmp_path: Path) -> None:
    (tmp_path / "bucket" / "folder").mkdir(parents=True)
    path = tmp_path / "bucket" / "folder" / "x.csv"
    path.touch()
    assert mounted_path("gs://bucket/folder/x.csv", str(tmp_path)) == str(path)
    with pytest.raises(ValueError, match=r"'gs://bucket/y\.csv' is not there, or the run's service account may not"):
        mounted_path("gs://bucket/y.csv", str(tmp_path))
    with pytest.raises(ValueError, match="where Vertex AI mounts buckets, and here is none"):
        mounted_path("gs://bucket/x.csv", str(tmp_path / "none"))


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(str(tmp_path / "x")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# HTTP


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/a/x.csv", "https://host/a/x.csv"),
        ("http://me:hunter2@host:80/x%20y.csv?sig=hunter2#hunter2", "http://host:80/x%20y.csv"),
        ("http://hunter2@[::1]:8000/x.csv", "http://[::1]:8000/x.csv"),
        ("http://host/a@b/x.csv?a=b@c/hunter2", "http://host/a@b/x.csv"),
        ("http://bücher.example", "http://bücher.example/"),
    ],
)
def test_a_url_is_shown_without_secrets(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "https:///x.csv",
        "http://me:hunter2/x@host/x.csv",
        "http://me:hunter2?x@host/x.csv",
        "http://me:hunter2#@host/x.csv",
        "http://[::1/x.csv",
        "http://a b/x.csv",
        "http://host/a\nb.csv",
        "http://host:port/x.csv",
    ],
)
def test_a_url_that_cannot_be_read(url: str) -> None:
    with pytest.raises(ValueError, match="has no host, or can't be read") as caught:
        fetch_source(url, "unused")
    one_line(caught, ValueError, "hunter2")


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
    url, requests = serve("/data/x y.csv", Response(CONTENT))
    path, name = fetch_source(url + "?download=true", str(tmp_path))
    assert name == url
    assert Path(path).read_bytes() == CONTENT
    assert requests[0].args["download"] == "true"


def test_a_user_and_a_password_are_sent(tmp_path: Path, serve: Serve) -> None:
    url, requests = serve("/x.csv", Response(CONTENT))
    fetch_source(url.replace("://", "://me:hunter%402@"), str(tmp_path))
    assert requests[0].authorization is not None
    assert requests[0].authorization.password == "hunter@2"


def test_a_name_that_tells_no_format_shows_before_the_download(tmp_path: Path, serve: Serve) -> None:
    url, requests = serve("/data", Response(CONTENT))
    with pytest.raises(ValueError, match="its name must end in") as caught:
        fetch_source(url + "?file=x.csv&token=hunter2", str(tmp_path))
    one_line(caught, ValueError, "hunter2")
    assert requests == []


def test_what_fails_for_a_moment_is_tried_again(tmp_path: Path, serve: Serve) -> None:
    failures = [Response(status=status) for status in (500, 408, 429)]
    url, requests = serve("/x.csv", *failures, cut(), Response(CONTENT))
    download_http(url, str(tmp_path / "x"))
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert len(requests) == 5


def test_what_fails_every_time(tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    url, requests = serve("/x.csv", *[Response(status=503)] * 5)
    with pytest.raises(RuntimeError, match=r"/x\.csv answered 503 5 times; try later"):
        download_http(url, str(tmp_path / "x"))
    assert len(requests) == 5
    assert f"{url}: attempt 4 failed, trying again" in capsys.readouterr().out


def test_a_body_that_is_cut_every_time(tmp_path: Path, serve: Serve) -> None:
    url, requests = serve("/x.csv", *[cut()] * 5)
    with pytest.raises(RuntimeError, match="could not be downloaded") as caught:
        download_http(url, str(tmp_path / "x"))
    assert "received 5000 bytes, expected 90011" in one_line(caught, RuntimeError)
    assert len(requests) == 5


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 204, 304])
def test_what_is_refused_is_not_tried_again(tmp_path: Path, serve: Serve, status: int) -> None:
    url, requests = serve("/x.csv", *[Response(status=status)] * 2)
    with pytest.raises(ValueError, match=rf"/x\.csv answered {status} "):
        download_http(url, str(tmp_path / "x"))
    assert len(requests) == 1


def test_redirects(tmp_path: Path, serve: Serve, httpserver: HTTPServer) -> None:
    target, _ = serve("/other", Response(CONTENT))
    url, _ = serve("/x.csv", Response(status=302, headers={"Location": target}))
    path, name = fetch_source(url, str(tmp_path))
    assert name == url
    assert Path(path).read_bytes() == CONTENT
    httpserver.expect_request("/circle.csv").respond_with_data(status=302, headers={"Location": "/circle.csv"})
    with pytest.raises(RuntimeError, match="maximum allowed redirects"):
        fetch_source(httpserver.url_for("/circle.csv"), str(tmp_path))


def test_nothing_listens(tmp_path: Path) -> None:
    url = f"http://me:hunter2@127.0.0.1:{free_ports(1)[0]}/x.csv?signature=hunter2"
    with pytest.raises(RuntimeError, match=r"could not be downloaded .*: is its host right, and up") as caught:
        download_http(url, str(tmp_path / "x"))
    one_line(caught, RuntimeError, "hunter2")


def test_no_secret_is_shown(
    tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)  # as kfp sets it in a step
    for status, kind in ((200, None), (404, ValueError), (500, RuntimeError)):
        url, _ = serve(f"/{status}.csv", *[Response(status=status)] * 5)
        url = url.replace("://", "://me:hunter2@") + "?signature=hunter2"
        if kind is None:
            download_http(url, str(tmp_path / "x"))
        else:
            with pytest.raises(kind) as caught:
                download_http(url, str(tmp_path / "x"))
            one_line(caught, kind, "hunter2")
    logged = [record.getMessage() for record in caplog.records if record.name != "werkzeug"]  # the server's own
    assert "hunter2" not in " ".join([*logged, *capsys.readouterr()])


def test_encodings_of_a_server(tmp_path: Path, serve: Serve) -> None:
    packed = Response(gzip.compress(CONTENT), headers={"Content-Encoding": "gzip"})
    url, requests = serve("/x.csv", packed)
    assert Path(fetch_source(url, str(tmp_path))[0]).read_bytes() == CONTENT
    assert requests[0].headers["Accept-Encoding"] == "identity"
    url, _ = serve("/x.csv.gz", packed)
    assert gzip.decompress(Path(fetch_source(url, str(tmp_path))[0]).read_bytes()) == CONTENT


def test_a_disk_that_takes_no_more(tmp_path: Path, serve: Serve) -> None:
    url, requests = serve("/x.csv", *[Response(CONTENT)] * 2)
    with pytest.raises(RuntimeError, match="could not be written to /dev/full: No space left"):
        download_http(url, "/dev/full")
    assert len(requests) == 1


# S3, as a server that a test can make fail


@pytest.fixture
def endpoint(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a server that plays an object store, for anonymous access."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", httpserver.url_for(""))
    return httpserver.url_for("")


def s3_error(status: int, code: str) -> Response:
    content = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>m</Message></Error>"
    return Response(content, status=status, content_type="application/xml")


def test_s3_tries_again(tmp_path: Path, serve: Serve, endpoint: str) -> None:
    failures = [s3_error(503, "SlowDown"), Response("<html>", status=502, content_type="text/html")]
    _, requests = serve("/bucket/x.csv", *failures, cut(), Response(CONTENT))
    download_s3("bucket", "x.csv", str(tmp_path / "x"))
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert len(requests) == 4


@pytest.mark.parametrize(
    ("response", "says"),
    [
        (s3_error(503, "SlowDown"), r"was refused \(SlowDown\): try later"),
        (cut(), r"IncompleteRead\(5000 bytes read, 85011 more expected\)"),
        (Response("<html>\n", status=404, content_type="text/html"), "its answer is not S3's.*: is AWS_ENDPOINT_URL"),
        (Response("<html>\n<p", status=500, content_type="application/xml"), "its answer is not S3's"),
        (Response(status=403), "its answer is not S3's"),
    ],
)
def test_s3_fails_every_time(tmp_path: Path, serve: Serve, endpoint: str, response: Response, says: str) -> None:
    serve("/bucket/x.csv", *[response] * 5)
    with pytest.raises(PipelineError, match=says) as caught:
        download_s3("bucket", "x.csv", str(tmp_path / "x"))
    assert f"'s3://bucket/x.csv' at {endpoint}" in one_line(caught, PipelineError)


def test_s3_object_that_is_declared_packed(tmp_path: Path, serve: Serve, endpoint: str) -> None:
    packed = Response(gzip.compress(CONTENT), headers={"Content-Encoding": "gzip"})
    for name in ("x.csv", "x.csv.gz"):
        serve(f"/bucket/{name}", packed)
        download_s3("bucket", name, str(tmp_path / name))
    assert (tmp_path / "x.csv").read_bytes() == CONTENT
    assert gzip.decompress((tmp_path / "x.csv.gz").read_bytes()) == CONTENT


def test_s3_a_disk_that_takes_no_more(serve: Serve, endpoint: str) -> None:
    serve("/bucket/x.csv", Response(CONTENT))
    with pytest.raises(RuntimeError, match="could not be written to /dev/full: No space left"):
        download_s3("bucket", "x.csv", "/dev/full")


@pytest.mark.parametrize("source", ["s3://", "s3:///x.csv", "s3://me:hunter2@bucket/x.csv", "s3://a/x.csv"])
def test_s3_a_wrong_bucket(source: str) -> None:
    with pytest.raises(ValueError, match="write s3://bucket/key") as caught:
        fetch_source(source, "unused")
    one_line(caught, ValueError, "hunter2")


@pytest.mark.parametrize("key", ["", "folder/", "x.txt"])
def test_s3_a_key_that_tells_no_format(key: str) -> None:
    with pytest.raises(ValueError, match="its name must end in"):
        fetch_source(f"s3://bucket/{key}", "unused")


def test_s3_nothing_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(PipelineError, match=r"Connection refused.*: is AWS_ENDPOINT_URL right") as caught:
        download_s3("bucket", "x.csv", str(tmp_path / "x"))
    one_line(caught, PipelineError)


# S3, the real thing


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        running.put("bucket", "folder/x.csv", CONTENT)
        running.put("bucket", "ä ?#%41+.csv.gz", gzip.compress(CONTENT), Content_Encoding="gzip")
        running.put("bucket", "large.csv", CONTENT * 150)  # several of SeaweedFS's chunks
        yield running


@pytest.fixture
def store(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, and its address and credentials in the environment."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.mark.slow
@pytest.mark.parametrize("key", ["folder/x.csv", "ä ?#%41+.csv.gz", "large.csv"])
def test_real_s3(tmp_path: Path, store: S3Server, key: str) -> None:
    path, name = fetch_source(f"s3://bucket/{key}", str(tmp_path))
    assert name == f"s3://bucket/{key}"
    content = Path(path).read_bytes()
    content = gzip.decompress(content) if key.endswith(".gz") else content
    assert content == CONTENT * (150 if key == "large.csv" else 1)


@pytest.mark.slow
@pytest.mark.parametrize(("source", "code"), [("bucket/none\n.csv", "NoSuchKey"), ("nobucket/x.csv", "NoSuchBucket")])
def test_real_s3_what_is_not_there(tmp_path: Path, store: S3Server, source: str, code: str) -> None:
    with pytest.raises(UsageError, match=rf"is not there \({code}\): check the bucket and the key") as caught:
        fetch_source(f"s3://{source}", str(tmp_path))
    assert f"{f's3://{source}'!r} at http://{store.address}" in one_line(caught, UsageError)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "secret", "code"),
    [
        ("test-key", "hunter2", "SignatureDoesNotMatch"),
        ("no-key", "hunter2", "InvalidAccessKeyId"),
        ("", "", "AccessDenied"),
    ],
)
def test_real_s3_wrong_credentials(
    tmp_path: Path, store: S3Server, monkeypatch: pytest.MonkeyPatch, key: str, secret: str, code: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    with pytest.raises(PipelineError, match=rf"was refused \({code}\): check AWS_ACCESS_KEY_ID") as caught:
        fetch_source("s3://bucket/folder/x.csv", str(tmp_path))
    one_line(caught, PipelineError, "hunter2", "test-secret")
