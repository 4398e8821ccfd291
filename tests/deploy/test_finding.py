"""Where `--deploy` takes a release from, and the rows that it asks for."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tests.deploy.site import Result, Site
from tests.fakes.s3 import S3Server

ADDRESS = "pvc://models/tiny/releases/0123456789abcdef"


@pytest.fixture
def store(server: S3Server, monkeypatch: pytest.MonkeyPatch, site: Site) -> S3Server:
    """The object store, which the environment names."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.put("models", "ready", b"")
    return server


def refused(site: Site, result: Result, code: int, *parts: str) -> None:
    """Makes sure that a command was refused in one line, and the cluster left alone."""
    assert (result.code, result.out, site.written()) == (code, "", [])
    assert all(part in result.error for part in parts), result.error


def test_folders_that_are_refused(site: Site) -> None:
    release = site.release("a")
    says = "is a folder here: say where KServe reads it, with --set volume_claim=NAME where it lies on that claim"
    refused(site, site(f"--deploy --release {release}"), 2, f"--release {release} {says}")
    (release / "model-store" / "tiny.mar").write_text("junk")
    refused(site, site.deploy(release), 2, "is spoilt: model-store/tiny.mar is missing, altered or")


def test_a_release_on_a_claim(site: Site) -> None:
    result = site.deploy(f"{ADDRESS}/", "--json --set model_name=tiny --set volume_claim=models")
    assert (result.code, result.json["storage_uri"], result.json["release"]) == (0, ADDRESS, "0123456789abcdef")
    assert "no labelled rows to ask for" in result.err


@pytest.mark.parametrize(
    ("release", "line", "says"),
    [
        (ADDRESS, "--set volume_claim=other", "--set volume_claim=other contradicts --release"),
        (ADDRESS, "--set serving_runtime=huggingface", "serving_runtime=huggingface needs --release DIR"),
        ("pvc://models/a/b/releases/0123456789abcdef", "", "volume_claim is 'models/a': it must be the name of a"),
        ("pvc://models/Tiny/releases/0123456789abcdef", "", "model_name is 'Tiny'"),
        ("pvc://models/tiny/releases/latest", "", "is no release: give its folder, pvc://claim/model/releases/"),
        ("s3://tiny/releases/0123456789abcdef", "", "is no release: give its folder"),
    ],
)
def test_addresses_that_are_refused(site: Site, release: str, line: str, says: str) -> None:
    refused(site, site.deploy(release, line), 2, says)


@pytest.mark.slow
def test_through_an_object_store(site: Site, store: S3Server) -> None:
    release = site.release("a")
    line, address = "--set model_store=s3://models/of-a/", f"s3://models/of-a/tiny/releases/{release.name}"
    assert site.deploy(release, f"{line} --dry-run").code == 0
    assert list(store.client.list_objects("models", "of-a/", recursive=True)) == []
    result = site.deploy(release, f"{line} --json")
    assert result.json["storage_uri"] == address and f"{address}: sending 2 of 2 files" in result.err
    assert site.cluster.after("tiny")["spec"]["predictor"]["serviceAccountName"] == "nlp-pipeline-serving"
    # From elsewhere, where there is no such folder.
    shutil.rmtree(site.volume)
    assert site.deploy(f"{address}/", "--set model_store=s3://models/of-a --json").json["outcome"] == "unchanged"
    assert json.loads(site.cluster.after("tiny")["metadata"]["annotations"]["nlp-pipeline/labels"]) == ["0", "4"]


@pytest.mark.slow
def test_addresses_at_which_there_is_nothing(site: Site, store: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "s3://models/tiny/releases/0123456789abcdef"
    refused(site, site.deploy(address), 2, f"--release {address} has no sound release.json: was its upload finished?")
    nowhere = "s3://no-such-bucket/tiny/releases/0123456789abcdef"
    refused(site, site.deploy(nowhere), 2, f"{nowhere}/release.json at {store.environment['AWS_ENDPOINT_URL']} is not")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "S3CRET")
    result = site.deploy(address)
    refused(site, result, 1, f"{address}/release.json", "was refused (", "check AWS_ACCESS_KEY_ID and")
    assert "S3CRET" not in result.err
    result = site.deploy(site.release("a"), "--set model_store=s3://models/other")
    refused(site, result, 1, "s3://models/other/tiny/releases/", "was refused (")
    assert "S3CRET" not in result.err


RECORD = {"digest": "0123456789abcdef", "model_name": "tiny", "labels": ["0", "4"], "metrics": {"accuracy": 0.9}}


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"digest": "0" * 16}, {"model_name": "other"}, {"labels": [1, 2]}], ids=repr)
def test_a_spoilt_record_in_the_store(site: Site, store: S3Server, changes: dict[str, Any]) -> None:
    content = json.dumps({**RECORD, **changes}).encode()
    store.put("models", "spoilt/tiny/releases/0123456789abcdef/release.json", content)
    result = site.deploy("s3://models/spoilt/tiny/releases/0123456789abcdef")
    refused(site, result, 2, "has no sound release.json: was its upload finished?")


def test_rows(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    release = site.release("a")
    rows = site.rows(site.volume / "tiny" / "runs" / "run-1" / "datasets" / "predictions.parquet")
    assert site.deploy(ADDRESS, f"--rows {rows} --set endpoint_rows=2 --json").json["rows"] == 2
    # Beside a release that is named from within.
    monkeypatch.chdir(release)
    assert site.deploy(".", "--json").json["rows"] == 3


STRINGS = "text, label and predicted must all be strings"


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (None, "rows"),
        ({"text": ["a"], "label": [0], "predicted": [0]}, STRINGS),
        ({"text": [], "label": [], "predicted": []}, " has no rows"),
        (b"text,label,predicted\na,0,0\n", "Parquet"),
    ],
)
def test_rows_that_can_not_be_read(site: Site, columns: dict[str, list[Any]] | bytes | None, says: str) -> None:
    path = Path.cwd() / "rows"
    if isinstance(columns, bytes):
        path.write_bytes(columns)
    elif columns:
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    refused(site, site.deploy(ADDRESS, f"--rows {path}"), 2, f"--rows {path}", says)
