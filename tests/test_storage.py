"""The client is as the environment says, what may pass by itself is tried again, and errors are one line."""

import time
from typing import Any

import minio
import pytest
import urllib3

from nlp_pipeline import storage
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.storage import s3_call, s3_client, s3_endpoint
from tests.fakes.s3 import forget_environment
from tests.messages import one_line


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_environment(monkeypatch)
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.001)


def test_the_endpoint_is_amazons_unless_the_environment_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert s3_endpoint() == "https://s3.amazonaws.com"
    for name, address in (("AWS_ENDPOINT_URL", "http://store:9000"), ("AWS_ENDPOINT_URL_S3", "http://s3:9000")):
        monkeypatch.setenv(name, address)
        assert s3_endpoint() == address


@pytest.mark.parametrize("address", ["host:9000", "http://me:hunter2@host", "http://h/a", "http://h:x"])
def test_a_wrong_endpoint(address: str) -> None:
    with pytest.raises(UsageError, match="AWS_ENDPOINT_URL") as caught:
        s3_client(address)
    one_line(caught, UsageError, "hunter2")


def test_half_the_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "hunter2")
    with pytest.raises(UsageError, match="a key is wrong: secret key must be provided with access key") as caught:
        s3_client("http://host")
    one_line(caught, UsageError, "hunter2")


@pytest.mark.parametrize("name", ["ACCESS_KEY_ID", "SESSION_TOKEN", "REGION"])
def test_settings_with_odd_characters(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As a Secret has them that was made with `echo x | base64`: the HTTP client would show the whole signature."""
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "hunter2")
    s3_client("http://host")
    for end in ("\n", " ", "\u2026"):
        monkeypatch.setenv(f"AWS_{name}", f"hunter2{end}")
        with pytest.raises(UsageError, match=f"^AWS_{name} has a blank, a line break or another odd") as caught:
            s3_client("http://host")
        one_line(caught, UsageError, "hunter2")


def refused(status: int, code: str) -> minio.error.S3Error:
    return minio.error.S3Error(urllib3.HTTPResponse(status=status), code, "m\nm", "/", "1", "2")


def invalid(status: int) -> minio.error.InvalidResponseError:
    return minio.error.InvalidResponseError(status, "text/html", "<html>\nhunter2")


@pytest.mark.parametrize(
    ("error", "says", "attempts"),
    [
        (refused(503, "SlowDown"), r"was refused \(SlowDown\): try later$", 5),
        (refused(404, "NoSuchUpload"), r"was refused \(NoSuchUpload\): try later$", 5),
        (refused(403, "AccessDenied"), r"was refused \(AccessDenied\): check AWS_ACCESS_KEY_ID and", 1),
        (refused(301, "PermanentRedirect"), r"was refused \(PermanentRedirect\): set AWS_REGION", 1),
        (refused(404, "NoSuchBucket"), r"is not there \(NoSuchBucket\): check the bucket and the key$", 1),
        (minio.error.ServerError("m\nm", 503), r"could not be sent \(its answer, of status 503, is not S3's\)", 5),
        (invalid(413), r"could not be sent \(its answer, of status 413, is not S3's\): is AWS_ENDPOINT_URL right", 1),
        (urllib3.exceptions.ProtocolError("cut"), r"could not be sent \(cut\): is AWS_ENDPOINT_URL right", 5),
        (SyntaxError("no XML\nhunter2"), r"could not be sent \(its answer, of status 200,", 1),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "hunter2"), r"could not be sent \(its answer, of status 200,", 1),
    ],
)
def test_what_may_be_gone_the_next_time_is_tried_again(
    error: Exception, says: str, attempts: int, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise error

    with pytest.raises(PipelineError, match=says) as caught:
        s3_call(fail, "s3://a/b", "sent")
    one_line(caught, UsageError if "NoSuchBucket" in says else PipelineError, "hunter2")
    assert len(calls) == attempts
    assert capsys.readouterr().err.count("s3://a/b: attempt") == attempts - 1


def test_what_is_none_of_the_object_stores_passes() -> None:
    def fail() -> None:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        s3_call(fail, "x", "sent")


def test_an_address_that_does_not_answer_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a firewall does it that drops what it gets: the client's own five minutes are not waited for."""
    waited: list[float] = []

    def connect(address: Any, timeout: Any, *_: Any, **__: Any) -> None:
        waited.append(timeout)
        raise TimeoutError

    monkeypatch.setattr("urllib3.util.connection.create_connection", connect)
    client = s3_client("http://192.0.2.1:9000")
    began = time.monotonic()
    with pytest.raises(PipelineError, match=r"timed out.*: is AWS_ENDPOINT_URL right") as caught:
        s3_call(lambda: client.stat_object("bucket", "x"), "x", "read")
    one_line(caught, PipelineError)
    assert waited == [5] * 5 and time.monotonic() - began < 60
