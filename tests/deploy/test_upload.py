"""A release reaches the object store whole, and no byte is sent that is there already."""

import hashlib
import json
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import urllib3

from nlp_pipeline.deploy import upload as uploading
from nlp_pipeline.deploy.settings import DeploySettings, Target
from nlp_pipeline.deploy.upload import upload
from nlp_pipeline.errors import UsageError
from nlp_pipeline.release import Release, hash_files, seal, verify
from nlp_pipeline.volume import Run
from tests.fakes.s3 import S3Server, forget_environment
from tests.messages import one_line

MIB = 2**20
CONFIG, LARGE = "config/config.properties", "model-store/tiny.mar"  # the one file that is sent in parts of 5 MiB
CONTENTS = {
    CONFIG: b"inference_address=http://0.0.0.0:8085\n",
    "huggingface/empty": b"",
    "huggingface/\u00e4 #1?%41+.txt": b"a name that must be quoted",
    LARGE: bytes(range(256)) * (6 * MIB // 256),
}
NAMES = [*CONTENTS, "release.json"]
DIGEST = "0123456789abcdef"


def make_release(folder: Path, run_id: str = "") -> Path:
    """Makes a sealed release of the model `tiny`."""
    for name, content in CONTENTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    seal(folder, Release(model_name="tiny", run_id=run_id))
    return folder


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return make_release(tmp_path / "release")


def test_where_kserve_reads_a_release() -> None:
    for model_store, uri in {"": "pvc://claim", "s3://bucket/a/b_c.d=1//": "s3://bucket/a/b_c.d=1"}.items():
        settings = DeploySettings(model_store=model_store, volume_claim="claim")
        target = Target(settings=settings, run=Run(model_name="tiny", run_id="run", volume_path=""))
        assert target.uri_of(Release(model_name="tiny", digest=DIGEST)) == f"{uri}/tiny/releases/{DIGEST}"


@pytest.mark.parametrize(
    "name",
    ["", "/models", "ab", "Bucket", "my_bucket", "bucket:9000/models", "bucket\n", "bucket/a/../b", "bucket//b",
     "bucket/a b", "bucket/\u00e4", "bucket/a?b=c", "me:hunter2@bucket/a"],
)  # fmt: skip
def test_no_model_store(name: str) -> None:
    with pytest.raises(UsageError, match=r"^model_store is [^\n]*: it must be s3://bucket/folder, or"):
        DeploySettings(model_store=f"s3://{name}")


def test_no_credentials(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_environment(monkeypatch)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "hunter2")
    with pytest.raises(UsageError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; steps") as caught:
        upload(release, verify(release), f"s3://bucket/tiny/releases/{DIGEST}")
    one_line(caught, UsageError, "hunter2")


class Store:
    """An empty bucket of a real server, whose address and credentials are in the environment; notes what is sent."""

    def __init__(self, server: S3Server, release: Path) -> None:
        self.server, self.bucket, self.sent = server, f"bucket-{uuid.uuid4().hex}", list[str]()
        self.release, self.place = release, f"tiny/releases/{verify(release).digest}"
        server.client.make_bucket(self.bucket)

    def upload(self, folder: Path | None = None, prefix: str = "") -> None:
        """Sends a release into the bucket; notes anew what is sent."""
        self.sent.clear()
        folder = folder or self.release
        upload(folder, verify(folder), f"s3://{self.bucket}/{prefix}{self.place}")

    def objects(self) -> dict[str, bytes]:
        """The content of all objects by their keys below the release's place, or by whole keys elsewhere."""
        listed = self.server.client.list_objects(self.bucket, recursive=True)
        keys = [one.object_name for one in listed]
        read = self.server.client.get_object
        return {key.removeprefix(f"{self.place}/"): read(self.bucket, key).data for key in keys}

    def put(self, name: str, content: bytes, **metadata: str) -> None:
        """Puts a file in a release's place, as something else might."""
        self.server.put(self.bucket, f"{self.place}/{name}", content, **metadata)

    def is_whole(self) -> bool:
        """Whether the release is there with all its files, and nothing else is."""
        return self.objects() == {name: (self.release / name).read_bytes() for name in NAMES}


@pytest.fixture
def store(server: S3Server, release: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    forget_environment(monkeypatch)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(uploading, "PART_SIZE", 5 * MIB)
    urlopen, made = urllib3.PoolManager.urlopen, Store(server, release)

    def recorded(self: Any, method: str, url: str, *arguments: Any, **options: Any) -> Any:
        name = unquote(urlsplit(url).path).partition(f"{made.place}/")[2]
        if method in ("PUT", "POST") and name:
            made.sent.append(name)
        return urlopen(self, method, url, *arguments, **options)

    monkeypatch.setattr(urllib3.PoolManager, "urlopen", recorded)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "models/of-team=1/"])
def test_a_large_file_is_sent_in_parts_and_the_record_last(store: Store, prefix: str) -> None:
    store.upload(prefix=prefix)
    assert {key.removeprefix(f"{prefix}{store.place}/") for key in store.objects()} == set(NAMES)
    assert store.sent.count(LARGE) == 4  # begun, two parts, ended
    assert store.sent.index("release.json") == len(store.sent) - 1
    found = store.server.client.stat_object(store.bucket, f"{prefix}{store.place}/{LARGE}")
    assert found.metadata["x-amz-meta-sha256"] == hash_files(store.release)[LARGE]


@pytest.mark.slow
def test_a_second_time_nothing_is_sent(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store.upload()
    # Another run has made the same release: its record differs, and its files do not.
    for folder in (store.release, make_release(tmp_path / "again", run_id="another")):
        store.upload(folder)
        assert store.sent == []
    assert store.is_whole()
    assert capsys.readouterr().out.endswith(f"s3://{store.bucket}/{store.place}: sending 0 of 4 files\n" * 2)


SHA256 = hashlib.sha256(CONTENTS[CONFIG]).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "metadata"),
    [
        (CONFIG, None, {}),
        (CONFIG, CONTENTS[CONFIG][:-1], {"sha256": SHA256}),
        ("release.json", json.dumps({"digest": DIGEST, "model_name": "tiny", "files": {LARGE: "0" * 64}}).encode(), {}),
    ],
)
def test_only_what_is_spoilt_there_is_sent_again(
    store: Store, name: str, content: bytes | None, metadata: dict[str, str], capsys: Any
) -> None:
    store.upload()
    if content is None:
        store.server.client.remove_object(store.bucket, f"{store.place}/{name}")
    else:
        store.put(name, content, **metadata)
    capsys.readouterr()
    store.upload()
    assert store.sent == [name] and store.is_whole()
    assert f": sending {int(name == CONFIG)} of 4 files\n" in capsys.readouterr().out
