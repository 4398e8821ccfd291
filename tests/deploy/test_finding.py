"""Where `--deploy` takes a release from, and the rows that it asks for."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.site import Said, Site, deployment_site
from tests.fakes.s3 import S3Server, s3_server

ADDRESS = "pvc://models/tiny/releases/0123456789abcdef"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Site]:
    """A cluster in which nothing is deployed."""
    with deployment_site(tmp_path, monkeypatch, capsys) as one:
        yield one


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        running.client.make_bucket("models")
        yield running


@pytest.fixture
def store(server: S3Server, monkeypatch: pytest.MonkeyPatch, site: Site) -> S3Server:
    """The object store, which the environment names."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


def storage_uri(site: Site) -> str:
    return str(site.cluster.service("tiny")["spec"]["predictor"]["model"]["storageUri"])


def is_unharmed(site: Site) -> bool:
    """Tells whether nothing was sent to the cluster but questions."""
    return all(sent.get("kind") != "InferenceService" for _, _, sent in site.cluster.sent)


def refused(site: Site, said: Said, code: int, *parts: str) -> None:
    """Makes sure that a command was refused in one line, and the cluster left alone."""
    assert (said.code, said.out) == (code, ""), said
    assert all(part in said.error for part in parts), said.error
    assert is_unharmed(site)


# Folders


def test_a_folder_whose_place_in_the_cluster_is_not_told(site: Site) -> None:
    release = site.release("a")
    says = "is a folder here: say where KServe reads it, with --set volume_claim=NAME where it lies on that claim"
    refused(site, site(f"--deploy --release {release}"), 2, f"--release {release} {says}")


def test_a_spoilt_folder(site: Site) -> None:
    release = site.release("a")
    (release / "model-store" / "tiny.mar").write_text("junk")
    refused(site, site.deploy(release), 2, "is spoilt: model-store/tiny.mar is altered")


def test_a_claim_that_is_not_in_the_namespace(site: Site) -> None:
    said = site.deploy(site.release("a"), "--set volume_claim=other")
    refused(site, said, 2, "volume_claim=other: namespace team has no such PersistentVolumeClaim")


# Addresses


def test_a_release_on_a_claim(site: Site) -> None:
    said = site.deploy(f"{ADDRESS}/", "--json")
    assert (said.code, said.json["storage_uri"], said.json["release"]) == (0, ADDRESS, "0123456789abcdef")
    assert "no labelled rows to ask for" in said.err


@pytest.mark.parametrize(
    ("release", "line", "parts"),
    [
        (ADDRESS, "--set model_name=other", ["--set model_name=other contradicts --release", "leave it out"]),
        (ADDRESS, "--set volume_claim=other", ["--set volume_claim=other contradicts --release"]),
        (ADDRESS, "--set model_store=s3://models", ["--set model_store=s3://models contradicts --release"]),
        (ADDRESS, "--set serving_runtime=huggingface", ["serving_runtime=huggingface needs --release DIR"]),
        ("pvc://models/a/b/releases/0123456789abcdef", "", ["volume_claim is 'models/a': it must be the name of a"]),
        ("pvc://models/Tiny/releases/0123456789abcdef", "", ["model_name is 'Tiny'"]),
        ("pvc://models/tiny/releases/latest", "", ["is no release: give its folder, pvc://claim/model/releases/"]),
        ("gs://models/tiny/releases/0123456789abcdef", "", ["is no release: give its folder"]),
        ("s3://tiny/releases/0123456789abcdef", "", ["is no release: give its folder"]),
    ],
)
def test_addresses_that_are_refused(site: Site, release: str, line: str, parts: list[str]) -> None:
    refused(site, site.deploy(release, line), 2, *parts)


def test_settings_that_an_address_confirms(site: Site) -> None:
    assert site.deploy(ADDRESS, "--set model_name=tiny --set volume_claim=models").code == 0


# The object store


@pytest.mark.slow
def test_a_folder_is_uploaded_and_deployed(site: Site, store: S3Server) -> None:
    release = site.release("a")
    line = "--set model_store=s3://models/of-a/"
    address = f"s3://models/of-a/tiny/releases/{release.name}"
    assert site.deploy(release, f"{line} --dry-run").code == 0
    assert list(store.client.list_objects("models", "of-a/", recursive=True)) == []
    said = site.deploy(release, f"{line} --json")
    assert (said.code, said.json["storage_uri"]) == (0, address)
    assert f"{address}: sent 2 of 2 files" in said.err
    assert site.cluster.service("tiny")["spec"]["predictor"]["serviceAccountName"] == "nlp-pipeline-serving"
    # From elsewhere, where there is no such folder.
    shutil.rmtree(site.volume)
    said = site.deploy(f"{address}/", "--set model_store=s3://models/of-a --json")
    assert (said.code, said.json["outcome"]) == (0, "unchanged")
    assert site.undeploy().code == 0
    said = site.deploy(address, "--json")
    assert (said.code, said.json["storage_uri"]) == (0, address)
    assert json.loads(site.cluster.service("tiny")["metadata"]["annotations"]["nlp-pipeline/labels"]) == ["0", "4"]


def test_no_credentials_to_upload_with(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    release = site.release("a")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    said = site.deploy(release, "--set model_store=s3://models")
    says = "AWS_SECRET_ACCESS_KEY must be set in the environment to upload to s3://models/tiny/releases/"
    refused(site, said, 2, says, "and AWS_ENDPOINT_URL where the object store is not Amazon's")


def test_an_account_that_is_not_in_the_namespace(site: Site) -> None:
    site.cluster.remove("serviceaccounts", "nlp-pipeline-serving")
    said = site.deploy(site.release("a"), "--set model_store=s3://models")
    refused(site, said, 2, "service_account=nlp-pipeline-serving: namespace team has no such ServiceAccount")


@pytest.mark.slow
def test_addresses_at_which_there_is_nothing(site: Site, store: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "s3://models/tiny/releases/0123456789abcdef"
    refused(site, site.deploy(address), 2, f"--release {address} has no sound release.json: was its upload finished?")
    nowhere = "s3://no-such-bucket/tiny/releases/0123456789abcdef"
    refused(site, site.deploy(nowhere), 2, f"{nowhere}/release.json at {store.environment['AWS_ENDPOINT_URL']} is not")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "S3CRET")
    said = site.deploy(address)
    refused(site, said, 1, f"{address}/release.json", "was refused (", "check AWS_ACCESS_KEY_ID and")
    assert "S3CRET" not in said.err
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    refused(site, site.deploy(address), 2, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    refused(site, site.deploy(address), 1, "was refused (AccessDenied): check AWS_ACCESS_KEY_ID")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "0000000000000000"},
        {"model_name": "other"},
        {"model_name": None},
        {"labels": []},
        {"labels": "04"},
        {"labels": [1, 2]},
        {"metrics": {}},
        {"metrics": {"accuracy": "high"}},
        None,
    ],
    ids=repr,
)
def test_a_spoilt_record_in_the_store(site: Site, store: S3Server, changes: dict[str, Any] | None) -> None:
    record = {"digest": "0123456789abcdef", "model_name": "tiny", "labels": ["0", "4"], "metrics": {"accuracy": 0.9}}
    content = json.dumps({**record, **changes}) if changes else json.dumps([record])
    store.put("models", "spoilt/tiny/releases/0123456789abcdef/release.json", content.encode())
    said = site.deploy("s3://models/spoilt/tiny/releases/0123456789abcdef")
    refused(site, said, 2, "has no sound release.json: was its upload finished?")


# Rows


def test_rows_of_a_file(site: Site) -> None:
    rows = site.rows(Path("rows.parquet"))
    said = site.deploy(ADDRESS, f"--rows {rows} --set endpoint_rows=2 --json")
    assert (said.code, said.json["rows"], said.json["agreement"]) == (0, 2, 1.0)


def test_rows_beside_a_release_that_is_named_from_within(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    release = site.release("a")
    site.rows(site.volume / "tiny" / "runs" / "run-1" / "datasets" / "predictions.parquet")
    monkeypatch.chdir(release)
    assert site.deploy(".", "--json").json["rows"] == 3


def unreadable(folder: Path) -> dict[str, tuple[Path, str]]:
    """Returns files that hold no rows, and what is told of each."""
    import pyarrow
    import pyarrow.parquet

    tables = {
        "columns": ({"text": ["a"], "label": ["0"]}, "predicted"),
        "types": ({"text": ["a"], "label": [0], "predicted": [0]}, "text, label and predicted must all be strings"),
        "blank": ({"text": [None], "label": ["0"], "predicted": ["0"]}, "text, label and predicted must all be"),
        "empty": ({"text": [], "label": [], "predicted": []}, "there are no predictions"),
        "nested": ({"text": [[{"a": 1}]], "label": ["0"], "predicted": ["0"]}, "text, label and predicted must all be"),
    }
    found = {name: (path, "there is no such file") for name, path in (("missing", folder / "x"), ("folder", folder))}
    for name, (columns, says) in tables.items():
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / name)
        found[name] = (folder / name, says)
    (folder / "csv").write_text("text,label,predicted\na,0,0\n")
    return {**found, "csv": (folder / "csv", "Parquet")}


@pytest.mark.parametrize("kind", ["missing", "folder", "columns", "types", "blank", "empty", "nested", "csv"])
def test_rows_that_can_not_be_read(site: Site, kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    path, says = unreadable(folder)[kind]
    said = site.deploy(ADDRESS, f"--rows {path}")
    refused(site, said, 2, f"--rows {path}", "give a run's datasets/predictions.parquet", says)
