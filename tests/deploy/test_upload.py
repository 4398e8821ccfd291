"""A release reaches the object store whole, and no byte is sent that is there already."""

import http.client
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import urllib3
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from nlp_pipeline import storage
from nlp_pipeline.deploy import upload as uploading
from nlp_pipeline.deploy.settings import DeploySettings, Target
from nlp_pipeline.deploy.upload import upload
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.release import Release, hash_files, seal, verify
from nlp_pipeline.volume import Run
from tests.fakes.s3 import S3Server, forget_environment, free_ports, s3_server
from tests.messages import one_line

MIB = 2**20
LARGE = "model-store/tiny.mar"  # the one file that is sent in parts of 5 MiB
CONTENTS = {
    "config/config.properties": b"inference_address=http://0.0.0.0:8085\n",
    "huggingface/empty": b"",
    "huggingface/\u00e4 #1?%41+.txt": b"a name that must be quoted",
    LARGE: bytes(range(256)) * (6 * MIB // 256),
}
DIGEST = "0123456789abcdef"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_environment(monkeypatch)
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(uploading, "PART_SIZE", 5 * MIB)


def make_release(folder: Path, run_id: str = "") -> Path:
    """Makes a sealed release."""
    for name, content in CONTENTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    seal(folder, Release(model_name="tiny", run_id=run_id))
    return folder


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A sealed release of the model `tiny`."""
    return make_release(tmp_path / "release")


def place_of(release: Path) -> str:
    """Returns `<model_name>/releases/<digest>`."""
    return f"tiny/releases/{json.loads((release / 'release.json').read_text())['digest']}"


def change_record(release: Path, **changes: Any) -> None:
    """Changes what release.json says."""
    path = release / "release.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# Where KServe reads it


@pytest.mark.parametrize(
    ("model_store", "uri"),
    [
        ("", "pvc://claim"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/a//", "s3://bucket/a"),
        ("s3://my.bucket-1/models", "s3://my.bucket-1/models"),
        ("s3://bucket/a/b_c.d=1/", "s3://bucket/a/b_c.d=1"),
        (f"s3://{'a' * 63}/..a", f"s3://{'a' * 63}/..a"),
    ],
)
def test_a_model_store(model_store: str, uri: str) -> None:
    settings = DeploySettings(model_store=model_store, volume_claim="claim")
    target = Target(settings=settings, run=Run(model_name="tiny", run_id="run", volume_path=""))
    assert target.uri_of(Release(model_name="tiny", digest=DIGEST)) == f"{uri}/tiny/releases/{DIGEST}"


@pytest.mark.parametrize(
    "model_store",
    [
        "bucket/models", "S3://bucket", "gs://bucket", " s3://bucket", "s3://", "s3:///models", "s3://ab",
        f"s3://{'a' * 64}", "s3://Bucket", "s3://my_bucket", "s3://a..b", "s3://-ab", "s3://10.0.0.1",
        "s3://bucket:9000/models", "s3://bucket\n", "s3://bucket/..", "s3://bucket/a/../b", "s3://bucket/./b",
        "s3://bucket//b", "s3://bucket/a b", "s3://bucket/\u00e4", "s3://bucket/a\n", "s3://bucket/a?b=c",
        "s3://me:hunter2@bucket/a",
    ],
)  # fmt: skip
def test_no_model_store(model_store: str) -> None:
    with pytest.raises(UsageError, match=r"^model_store is [^\n]*: it must be s3://bucket or s3://bucket/folder, in"):
        DeploySettings(model_store=model_store)


# The real thing


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


class Store:
    """An empty bucket of the server, whose address and credentials are in the environment; counts what is sent."""

    def __init__(self, server: S3Server, bucket: str) -> None:
        self.server, self.bucket = server, bucket
        self.requests: list[tuple[str, str]] = []
        server.client.make_bucket(bucket)

    @property
    def address(self) -> str:
        return f"s3://{self.bucket}"

    @property
    def sent(self) -> list[str]:
        """The keys of the objects that were sent or asked to be, in order; one in parts shows once a request."""
        return [
            unquote(path).removeprefix(f"/{self.bucket}/")
            for method, path in self.requests
            if method in ("PUT", "POST")
        ]

    def objects(self) -> dict[str, bytes]:
        """The content of all objects by key."""
        listed = self.server.client.list_objects(self.bucket, recursive=True)
        return {one.object_name: self.server.client.get_object(self.bucket, one.object_name).data for one in listed}

    def states(self) -> dict[str, tuple[Any, str]]:
        """When each object was sent, and its ETag."""
        listed = self.server.client.list_objects(self.bucket, recursive=True)
        return {one.object_name: (one.last_modified, one.etag) for one in listed}

    def whole(self, release: Path, prefix: str) -> bool:
        """Whether a release is there with all its files, and nothing else is."""
        names = [*CONTENTS, "release.json"]
        return self.objects() == {f"{prefix}/{name}": (release / name).read_bytes() for name in names}


@pytest.fixture
def store(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    urlopen = urllib3.PoolManager.urlopen
    made = Store(server, f"bucket-{uuid.uuid4().hex}")

    def recorded(self: Any, method: str, url: str, *arguments: Any, **options: Any) -> Any:
        made.requests.append((method, urlsplit(url).path))
        return urlopen(self, method, url, *arguments, **options)

    monkeypatch.setattr(urllib3.PoolManager, "urlopen", recorded)
    return made


def send(release: Path, store: Store, prefix: str = "") -> int:
    """Sends a release to the bucket, and returns the number of bytes."""
    return upload(release, verify(release), f"{store.address}/{prefix}{place_of(release)}")


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "models/of-team=1/"])
def test_a_large_file_is_sent_in_parts_and_the_record_last(release: Path, store: Store, prefix: str) -> None:
    place = prefix + place_of(release)
    assert send(release, store, prefix) == sum(path.stat().st_size for path in release.rglob("*") if path.is_file())
    assert store.whole(release, place)
    assert store.states()[f"{place}/{LARGE}"][1].endswith("-2")  # the ETag of two parts
    assert store.sent.count(f"{place}/{LARGE}") == 4  # begun, two parts, ended
    assert store.sent.index(f"{place}/release.json") == len(store.sent) - 1
    found = store.server.client.stat_object(store.bucket, f"{place}/{LARGE}")
    assert found.metadata["x-amz-meta-sha256"] == hash_files(release)[LARGE]


@pytest.mark.slow
def test_a_second_time_nothing_is_sent(
    release: Path, tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    send(release, store)
    before, record = store.states(), (release / "release.json").read_bytes()
    store.requests.clear()
    capsys.readouterr()
    assert send(release, store) == 0
    # Another run has made the same release: its record differs, and its files do not.
    again = make_release(tmp_path / "again", run_id="another")
    assert (again / "release.json").read_bytes() != record
    assert send(again, store) == 0
    assert len(store.requests) > 10 and store.sent == []
    assert store.states() == before
    assert store.objects()[f"{place_of(release)}/release.json"] == record
    said = f"s3://{store.bucket}/{place_of(release)} is there already: nothing is sent\n"
    assert capsys.readouterr().out == said * 2


def remove(store: Store, key: str) -> None:
    store.server.client.remove_object(store.bucket, key)


def put_another(store: Store, key: str) -> None:
    """Something of the same size, put there by something else."""
    size = store.server.client.stat_object(store.bucket, key).size
    store.server.put(store.bucket, key, b"x" * size)


def cut(store: Store, key: str) -> None:
    """A part of the content, with the metadata of the whole."""
    found = store.server.client.stat_object(store.bucket, key)
    content = store.server.client.get_object(store.bucket, key).data[:-1]
    store.server.put(store.bucket, key, content, sha256=found.metadata["x-amz-meta-sha256"])


@pytest.mark.slow
@pytest.mark.parametrize(("spoil", "says"), [(remove, "is missing"), (put_another, "is altered"), (cut, "is altered")])
def test_only_what_is_spoilt_there_is_sent_again(
    release: Path,
    store: Store,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Store, str], None],
    says: str,
) -> None:
    send(release, store)
    place, name = place_of(release), "config/config.properties"
    spoil(store, f"{place}/{name}")
    assert not store.whole(release, place)
    store.requests.clear()
    capsys.readouterr()
    assert send(release, store) == len(CONTENTS[name])
    assert store.sent == [f"{place}/{name}"]
    assert store.whole(release, place)
    assert f"{name} {says} there, and is sent again\n" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"files": {}}', {"digest": DIGEST}, {"model_name": "other"}]
)
def test_a_spoilt_record_there_is_sent_again(release: Path, store: Store, content: bytes | dict[str, str]) -> None:
    send(release, store)
    place = place_of(release)
    if isinstance(content, dict):
        content = json.dumps(json.loads((release / "release.json").read_text()) | content).encode()
    store.server.put(store.bucket, f"{place}/release.json", content)
    store.requests.clear()
    assert send(release, store) == (release / "release.json").stat().st_size
    assert store.sent == [f"{place}/release.json"]
    assert store.whole(release, place)


@pytest.mark.slow
def test_another_release_under_the_same_digest_is_an_error(release: Path, store: Store) -> None:
    place = place_of(release)
    record = json.loads((release / "release.json").read_text())
    other = record | {"files": record["files"] | {LARGE: "0" * 64}}
    store.server.put(store.bucket, f"{place}/release.json", json.dumps(other).encode())
    before = store.states()
    store.requests.clear()
    with pytest.raises(UsageError, match=f"^{store.address}/{place} holds another release under the same") as caught:
        send(release, store)
    one_line(caught, UsageError)
    assert store.sent == [] and store.states() == before


# Sends a release, and is killed before request number N that sends something.
KILLED = """
import os, signal, sys, threading
import urllib3
from pathlib import Path
from nlp_pipeline.deploy import upload
from nlp_pipeline.release import verify

left, lock = int(sys.argv[1]), threading.Lock()
urlopen = urllib3.PoolManager.urlopen

def counted(self, method, url, *arguments, **options):
    global left
    with lock:
        left -= method in ("PUT", "POST")
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return urlopen(self, method, url, *arguments, **options)

urllib3.PoolManager.urlopen = counted
upload.PART_SIZE = 5 * 2**20
upload.upload(Path(sys.argv[2]), verify(Path(sys.argv[2])), sys.argv[3])
"""


@pytest.mark.slow
def test_a_kill_at_any_point_leaves_a_release_without_a_record(release: Path, store: Store) -> None:
    place, number, kept = place_of(release), 0, []
    while True:
        number += 1
        prefix = f"kill-{number}/{place}"
        arguments = [str(number), str(release), f"{store.address}/{prefix}"]
        done = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
        there = {key for key in store.objects() if key.startswith(f"{prefix}/")}
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        assert f"{prefix}/release.json" not in there
        # Another run sends what is missing, and that alone.
        store.requests.clear()
        send(release, store, f"kill-{number}/")
        wanted = {f"{prefix}/{name}" for name in [*CONTENTS, "release.json"]}
        assert set(store.sent) == wanted - there
        kept.append(len(there))
        contents = store.objects()
        assert all(contents[key] == (release / key.removeprefix(f"{prefix}/")).read_bytes() for key in wanted)
    # Three files in one request each, one in four, and the record.
    assert number == 9 and sorted(kept) == kept and kept[0] == 0 and kept[-1] == len(CONTENTS)
    assert len(there) == len(CONTENTS) + 1


@pytest.mark.slow
def test_two_send_the_same_at_once(release: Path, tmp_path: Path, store: Store) -> None:
    releases, place = [release, make_release(tmp_path / "again", run_id="another")], place_of(release)
    for number in range(5):
        barrier = threading.Barrier(4)
        failed: list[BaseException] = []

        def try_to_send(folder: Path, prefix: str, barrier: Any = barrier, failed: Any = failed) -> None:
            barrier.wait()
            try:
                send(folder, store, prefix)
            except BaseException as error:  # noqa: BLE001, the test tells it
                failed.append(error)

        prefix = f"{number}/{place}"
        threads = [threading.Thread(target=try_to_send, args=(folder, f"{number}/")) for folder in releases * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        contents = store.objects()
        assert all(contents[f"{prefix}/{name}"] == content for name, content in CONTENTS.items())
        assert contents[f"{prefix}/release.json"] in [(one / "release.json").read_bytes() for one in releases]
        assert send(release, store, f"{number}/") == 0


# What goes wrong on the way


class Proxy:
    """A server between client and object store that passes requests on, unless it is told what to do instead."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.requests: list[Request] = []
        self.instead: Callable[[Request], Response | None] = lambda request: None

    def __call__(self, request: Request) -> Response:
        self.requests.append(request)
        body = request.get_data()
        answer = self.instead(request)
        if answer is not None:
            return answer
        connection = http.client.HTTPConnection(self.target, timeout=30)
        headers = {name: value for name, value in request.headers.items() if name.lower() != "connection"}
        connection.request(request.method, request.environ["REQUEST_URI"], body, headers)
        reply = connection.getresponse()
        response = Response(reply.read(), status=reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in ("connection", "date", "server", "transfer-encoding"):
                response.headers[name] = value
        connection.close()
        return response


@pytest.fixture
def proxy(store: Store, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Proxy:
    made = Proxy(store.server.address)
    httpserver.expect_request(re.compile(".*")).respond_with_handler(made)
    monkeypatch.setenv("AWS_ENDPOINT_URL", httpserver.url_for("").rstrip("/"))
    return made


def reset(request: Request) -> Response:
    """Ends the connection so that the client gets a reset."""
    connection: socket.socket = request.environ["werkzeug.socket"]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(socket.SHUT_RDWR)
    return Response()


def s3_error(status: int, code: str) -> Response:
    content = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>m</Message></Error>"
    return Response(content, status=status, content_type="application/xml")


@pytest.mark.slow
@pytest.mark.parametrize(
    "fail",
    [
        lambda _: s3_error(503, "SlowDown"),
        lambda _: Response("<html>", status=502, content_type="text/html"),
        lambda _: Response(status=500),
        reset,
    ],
)
def test_what_fails_for_a_moment_is_tried_again(
    release: Path, store: Store, proxy: Proxy, fail: Callable[[Request], Response]
) -> None:
    seen: set[tuple[str, str]] = set()

    def once(request: Request) -> Response | None:
        """Fails the first request of each kind for each address."""
        asked = (request.method, request.path)
        if asked in seen:
            return None
        seen.add(asked)
        return fail(request)

    proxy.instead = once
    send(release, store)
    assert store.whole(release, place_of(release))
    assert {method for method, _ in seen} >= {"GET", "HEAD", "PUT", "POST"}


@pytest.mark.slow
def test_what_fails_every_time_ends_soon(release: Path, store: Store, proxy: Proxy) -> None:
    proxy.instead = lambda request: s3_error(503, "SlowDown") if request.method == "PUT" else None
    with pytest.raises(
        PipelineError, match=r"config\.properties at http.* was refused \(SlowDown\): try later"
    ) as caught:
        send(release, store)
    one_line(caught, PipelineError, "test-secret")
    assert [request.method for request in proxy.requests].count("PUT") == 5
    assert store.objects() == {}


@pytest.mark.slow
@pytest.mark.parametrize("methods", [("PUT", "POST"), ("GET", "HEAD", "PUT", "POST"), ("HEAD",)])
def test_what_is_not_allowed_is_not_tried_again(
    release: Path, store: Store, proxy: Proxy, methods: tuple[str, ...]
) -> None:
    refused: list[Request] = []

    def refuse(request: Request) -> Response | None:
        if request.method not in methods:
            return None
        refused.append(request)
        return s3_error(403, "AccessDenied")

    proxy.instead = refuse
    with pytest.raises(PipelineError, match=r"was refused \(AccessDenied\): check AWS_ACCESS_KEY_ID and") as caught:
        send(release, store)
    assert f"{store.address}/{place_of(release)}/" in one_line(caught, PipelineError, "test-secret", "test-key")
    assert len(refused) == 1
    assert store.objects() == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config/config.properties", "release.json"])
def test_what_was_not_stored_is_noticed(release: Path, store: Store, proxy: Proxy, name: str) -> None:
    def lose(request: Request) -> Response | None:
        return Response(headers={"ETag": '"0"'}) if request.method == "PUT" and request.path.endswith(name) else None

    proxy.instead = lose
    with pytest.raises(
        PipelineError, match=rf"{name} is (missing|altered) after it was sent: does something"
    ) as caught:
        send(release, store)
    one_line(caught, PipelineError)
    assert f"{place_of(release)}/release.json" not in store.objects()


@pytest.mark.slow
def test_what_does_not_arrive_as_it_was_sent_is_noticed(release: Path, store: Store, proxy: Proxy) -> None:
    """Something else overwrites a file while the release is being sent."""
    place, name = place_of(release), "config/config.properties"

    def overwrite(request: Request) -> Response | None:
        if request.method == "PUT" and request.path.endswith(LARGE):
            put_another(store, f"{place}/{name}")
        return None

    proxy.instead = overwrite
    with pytest.raises(PipelineError, match=f"{name} is altered after it was sent: does something else write there"):
        send(release, store)
    assert f"{place}/release.json" not in store.objects()


@pytest.mark.slow
def test_a_bucket_that_is_not_there(release: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for region in ("", "us-east-1"):
        monkeypatch.setenv("AWS_REGION", region)
        with pytest.raises(UsageError, match=r"^s3://nobucket/.* is not there \(NoSuchBucket\): check the") as caught:
            upload(release, verify(release), f"s3://nobucket/{place_of(release)}")
        one_line(caught, UsageError, "test-secret")
    assert store.sent == []
    assert "nobucket" not in [one.name for one in store.server.client.list_buckets()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value", "code"),
    [
        ("AWS_SECRET_ACCESS_KEY", "hunter2", "SignatureDoesNotMatch"),
        ("AWS_ACCESS_KEY_ID", "hunter2", "InvalidAccessKeyId"),
    ],
)
def test_wrong_credentials(
    release: Path, store: Store, monkeypatch: pytest.MonkeyPatch, capfd: Any, variable: str, value: str, code: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(PipelineError, match=rf"was refused \({code}\): check AWS_ACCESS_KEY_ID and") as caught:
        send(release, store)
    said = one_line(caught, PipelineError) + "".join(capfd.readouterr())
    assert not any(secret in said for secret in ("hunter2", "test-secret", "test-key"))
    assert len(store.requests) == 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "^AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be set"),
        (["AWS_ACCESS_KEY_ID"], "^AWS_SECRET_ACCESS_KEY must be set"),
        (["AWS_SECRET_ACCESS_KEY"], "^AWS_ACCESS_KEY_ID must be set"),
    ],
)
def test_no_credentials(release: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], says: str) -> None:
    for name in given:
        monkeypatch.setenv(name, "hunter2")
    with pytest.raises(UsageError, match=says) as caught:
        upload(release, verify(release), f"s3://bucket/{place_of(release)}")
    assert "the step has them from the Secret that s3_secret names" in one_line(caught, UsageError, "hunter2")


def test_nothing_listens(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in S3Server(f"127.0.0.1:{free_ports(1)[0]}", "hunter2", "hunter2").environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(PipelineError, match=r"could not be read .*Connection refused.*: is AWS_ENDPOINT_URL") as caught:
        upload(release, verify(release), f"s3://bucket/{place_of(release)}")
    one_line(caught, PipelineError, "hunter2")


@pytest.mark.slow
def test_a_file_that_vanishes_while_it_is_sent(release: Path, store: Store, proxy: Proxy) -> None:
    def remove_large(request: Request) -> None:
        if request.method == "PUT":
            (release / LARGE).unlink(missing_ok=True)

    proxy.instead = remove_large
    with pytest.raises(PipelineError, match=rf"{LARGE} can't be read \(No such file or directory\)") as caught:
        send(release, store)
    one_line(caught, PipelineError)
    assert f"{place_of(release)}/release.json" not in store.objects()
