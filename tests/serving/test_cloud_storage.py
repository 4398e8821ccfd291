"""Releases come from a stand-in for Cloud Storage, over HTTP and by Google's own client."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.errors import PipelineError
from nlp_pipeline.release import verify
from nlp_pipeline.serving.cloud_storage import download_release
from tests.fakes.cloud_storage import DENIED, TOKEN, CloudStorage

MAR = "bucket/models/tiny/model-store/tiny.mar"


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudStorage]:
    """An empty Cloud Storage that lets everyone in."""
    cloud = CloudStorage()
    cloud.host.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", cloud.host.url)
    monkeypatch.setenv("NO_PROXY", "*")
    yield cloud
    cloud.host.stop()
    assert not cloud.host.broken


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("place", "uri"),
    [
        ("bucket/a b#c?d%2Fé", "gs://bucket/a b#c?d%2Fé/"),
        ("bucket", "gs://bucket"),
    ],
)
def test_what_serving_needs_is_downloaded(
    place: str, uri: str, release: Path, cloud: CloudStorage, tmp_path: Path
) -> None:
    cloud.upload(release, place)
    assert download_release(uri, tmp_path) == verify(release)
    whole = files_of(release)
    assert files_of(tmp_path) == {name: data for name, data in whole.items() if not name.startswith("huggingface/")}
    assert len(cloud.asked) == 3 < len(whole)


def test_a_download_that_breaks_off_is_resumed(release: Path, cloud: CloudStorage, tmp_path: Path) -> None:
    cloud.upload(release, "bucket/models/tiny")
    cloud.cut.add(MAR)
    download_release("gs://bucket/models/tiny", tmp_path)
    assert (tmp_path / "model-store" / "tiny.mar").read_bytes() == cloud.objects[MAR]
    ranges = [request.headers.get("range") for request in cloud.asked if "tiny.mar" in request.path]
    assert ranges == [None, f"bytes={len(cloud.objects[MAR]) // 2}-"]


def record(change: Callable[[dict[str, Any]], Any]) -> Callable[[CloudStorage], None]:
    """Returns what changes a release's record."""

    def changed(cloud: CloudStorage) -> None:
        content = json.loads(cloud.objects["bucket/models/tiny/release.json"])
        cloud.objects["bucket/models/tiny/release.json"] = json.dumps(change(content)).encode()

    return changed


RECORD = "gs://bucket/models/tiny/release.json"
NO_RECORD = f"{RECORD} is not the record of a release: upload the release again"
NOT_WHOLE = "the Model's artifactUri must be the folder of a whole release"
INCOMPLETE = f"{RECORD} does not name what serving needs, such as model-store/"


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda cloud: cloud.objects.pop(MAR), f"gs://{MAR} is not there: {NOT_WHOLE}"),
        (lambda cloud: cloud.denied.add(MAR), "; the account that serves needs the role "),
        (lambda cloud: setattr(cloud, "signed_in", True), f"{RECORD} can't be read: Anonymous credentials "),
        (lambda cloud: cloud.objects.update({MAR: b"other"}), "tiny.mar is altered; upload the release again"),
        (lambda cloud: cloud.mixed_up.add(MAR), f"gs://{MAR} can't be read: Checksum mismatch"),
        (record(lambda content: []), NO_RECORD),
        (record(lambda content: {**content, "files": {}}), INCOMPLETE + "tiny.mar"),
        (record(lambda content: {**content, "files": {**content["files"], "config/../../x": "1"}}), INCOMPLETE),
    ],
)
def test_what_is_wrong_is_one_line(
    harm: Callable[[CloudStorage], Any], problem: str, release: Path, cloud: CloudStorage, tmp_path: Path
) -> None:
    cloud.upload(release, "bucket/models/tiny")
    harm(cloud)
    with pytest.raises(PipelineError) as raised:
        download_release("gs://bucket/models/tiny", tmp_path)
    assert problem in str(raised.value) and "\n" not in str(raised.value)
    assert not cloud.denied or DENIED.strip() in str(raised.value)
    assert TOKEN not in str(raised.value)


@pytest.mark.parametrize("uri", ["s3://bucket/x", "gs:///x", ""])
def test_an_address_must_be_one_of_cloud_storage(uri: str, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="it must be a release's folder, as in gs://bucket/folder"):
        download_release(uri, tmp_path)
