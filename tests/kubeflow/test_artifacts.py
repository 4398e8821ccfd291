"""`--download`: from a real S3 server, through a proxy that breaks transfers, of runs of a Kubeflow."""

import hashlib
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.kubeflow.artifacts import download, parse_root, plan_files
from nlp_pipeline.kubeflow.pipelines import get_experiment, start_run, upload_version
from nlp_pipeline.platforms.calls import NotFoundError
from nlp_pipeline.serving.torchserve import free_ports
from nlp_pipeline.settings import Settings
from tests.fakes.kfp import Fate, Kubeflow, kubeflow
from tests.fakes.s3 import S3Server, s3_server
from tests.fakes.s3_proxy import S3Proxy, s3_proxy
from tests.kubeflow.test_pipelines import SMALL
from tests.kubeflow.users import connected, settings_of

pytestmark = pytest.mark.slow
SECRET = "test-secret"
MIB = 1 << 20
UUIDS = [f"{at}0000000-0000-4000-8000-00000000000{at}" for at in range(9)]
BIG = random.Random(1).randbytes(3 * MIB)
REPORT, METRICS = b"<html>", b'{"accuracy": 0.9}'
MODEL, KEY = "train-model/model/model.safetensors", f"train-model/{UUIDS[2]}/model/model.safetensors"
FILES = {
    f"evaluate-model/{UUIDS[1]}/report": REPORT,
    f"evaluate-model/{UUIDS[1]}/metrics": METRICS,
    KEY: BIG,
    f"train-model/{UUIDS[2]}/model/empty": b"",
    f"archive-model/{UUIDS[3]}/release/release.json": b"{}",
}
SHORT = {"/".join(part for part in key.split("/") if part not in UUIDS): content for key, content in FILES.items()}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@dataclass
class Scene:
    """A run of a Kubeflow whose artifacts are in a real object store, with a proxy in front of it."""

    s3: S3Server
    proxy: S3Proxy
    k: Kubeflow
    run_id: str
    target: Path

    @property
    def prefix(self) -> str:
        return f"v2/artifacts/nlp-pipeline/{self.run_id}/"

    def settings(self, **changed: Any) -> Settings:
        keys = {"s3_endpoint": self.proxy.url, "s3_access_key": "test-key", "s3_secret_key": SECRET}
        return settings_of(self.k, **keys | changed)

    def put(self, files: dict[str, bytes], prefix: str | None = None, bucket: str = "mlpipeline") -> None:
        for name, content in files.items():
            self.s3.put(bucket, f"{self.prefix if prefix is None else prefix}{name}", content)

    def download(self, dry_run: bool = False, **changed: Any) -> dict[str, Any]:
        return download(self.settings(**changed), self.run_id, self.target, dry_run)

    def files(self) -> dict[str, bytes]:
        paths = [path for path in self.target.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.target)): path.read_bytes() for path in sorted(paths)}

    @property
    def asked(self) -> list[str]:
        """The names and ranges of the objects that were asked for since this was read last."""
        asked = [f"{path.rpartition('/')[2]} {span}".strip() for path, span in self.proxy.gets]
        self.proxy.gets.clear()
        return asked


def make_run(k: Kubeflow, **options: Any) -> str:
    connection = connected(k, **options)
    run = start_run(connection, upload_version(connection, SMALL), get_experiment(connection, "films"), {})
    return str(run.run_id)


@pytest.fixture
def scene(alone: Kubeflow, s3: S3Server, tmp_path: Path) -> Iterator[Scene]:
    alone.api.fate = Fate(at_once=True)
    for bucket in s3.client.list_buckets():
        for item in s3.client.list_objects(bucket.name, recursive=True):
            s3.client.remove_object(bucket.name, item.object_name)
    with s3_proxy(s3.address) as proxy:
        yield Scene(s3, proxy, alone, make_run(alone), tmp_path / "to" / "here")


def refused(function: Callable[[], Any], kind: type[PipelineError] = UsageError) -> str:
    """Returns the line with which something is refused, having made sure that it tells no secret."""
    with pytest.raises(PipelineError) as caught:
        function()
    line = str(caught.value)
    assert issubclass(type(caught.value), kind), caught.value
    assert "\n" not in line and SECRET not in line and "test-key" not in line
    return line


def test_all_of_it_once(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.put(FILES)
    size = sum(map(len, FILES.values()))
    dry = scene.download(dry_run=True)
    assert (dry["files"], dry["fetched_files"]) == (5, 5)
    assert not scene.target.parent.exists() and scene.asked == []
    result = scene.download()
    assert scene.files() == SHORT
    assert result.pop("state") in ("PENDING", "RUNNING", "SUCCEEDED")
    assert result == {
        "run_id": scene.run_id,
        "source": f"s3://mlpipeline/{scene.prefix}",
        "folder": str(scene.target),
        **{"files": 5, "bytes": size, "fetched_files": 5, "fetched_bytes": size},
        "artifacts": {
            "report": str(scene.target / "evaluate-model/report"),
            "metrics": str(scene.target / "evaluate-model/metrics"),
            "model": str(scene.target / "train-model/model"),
            "archive": str(scene.target / "archive-model/release"),
        },
        **{"missing": [], "left_out": []},
    }
    printed = capsys.readouterr()
    assert printed.out == "" and f"{MODEL}: {len(BIG):,} bytes\n" in printed.err
    assert SECRET not in printed.err + str(result)
    assert len(scene.asked) == 4  # nothing is asked of what is empty
    again = scene.download()
    assert (again["fetched_files"], again["fetched_bytes"]) == (0, 0) and scene.asked == []


def test_what_is_there_so_far(scene: Scene) -> None:
    scene.put({"x": b""}, "v2/artifacts/nlp-pipeline/other/")
    line = refused(scene.download, NotFoundError)
    assert line.startswith(f"run {scene.run_id} has no artifacts (yet) in s3://mlpipeline/{scene.prefix}: it is ")
    assert line.endswith("SUCCEEDED") and not scene.target.exists()
    scene.put({f"evaluate-model/{UUIDS[1]}/report": REPORT})
    result = scene.download()
    assert result["artifacts"] == {"report": str(scene.target / "evaluate-model/report")}
    assert result["missing"] == ["metrics", "model", "archive"]
    scene.put(FILES)
    assert scene.download()["fetched_files"] == 4 and scene.files() == SHORT


def test_no_such_run(scene: Scene) -> None:
    for run_id, message in ((UUIDS[0], f"there is no run {UUIDS[0]}"), ("../../x", "'../../x' is no id of a run")):
        scene.run_id = run_id
        assert refused(scene.download) == f"{message}: --runs lists them"


def test_the_runs_own_root(scene: Scene) -> None:
    root = "s3://mine/deep/er?region=x&endpoint=y:1&disableSSL=true"
    scene.k.api.records["runs"][scene.run_id]["runtime_config"] = {"pipeline_root": root}
    scene.put({"evaluate-model/report": b"old layout"}, f"deep/er/nlp-pipeline/{scene.run_id}/", "mine")
    scene.put({"evaluate-model/report": b"of another run"}, f"deep/er/nlp-pipeline/{UUIDS[0]}/", "mine")
    assert scene.download()["source"] == f"s3://mine/deep/er/nlp-pipeline/{scene.run_id}/"
    assert scene.files() == {"evaluate-model/report": b"old layout"}


def test_where_each_namespace_has_its_own(scene: Scene) -> None:
    with kubeflow(tokens={"ann": "team"}) as several:
        scene.k, scene.run_id = several, make_run(several, token="ann")
        prefix = f"private-artifacts/team/v2/artifacts/nlp-pipeline/{scene.run_id}/"
        scene.put({"evaluate-model/report": REPORT}, prefix)
        assert scene.download(token="ann")["source"] == f"s3://mlpipeline/{prefix}"


def test_a_broken_transfer_goes_on_where_it_ended(scene: Scene) -> None:
    scene.put({KEY: BIG})
    scene.proxy.cuts = [MIB, MIB // 2]
    scene.download()
    rest = [f"model.safetensors bytes={MIB}-", f"model.safetensors bytes={MIB + MIB // 2}-"]
    assert scene.asked == ["model.safetensors", *rest] and scene.files() == {MODEL: BIG}


@pytest.mark.parametrize("altered", [False, True])
def test_a_server_that_stays_away_and_the_same_command_again(scene: Scene, altered: bool) -> None:
    scene.put({KEY: BIG})
    scene.proxy.cuts = [100_000] * 5
    line = refused(scene.download, PipelineError)
    assert line.startswith(f"fetching 's3://mlpipeline/{scene.prefix}train-model/") and "can't be reached" in line
    assert list(map(len, scene.files().values())) == [500_000]
    assert scene.asked
    content = BIG[::-1] if altered else BIG
    scene.put({KEY: content})
    scene.download()
    assert scene.asked == ["model.safetensors" if altered else "model.safetensors bytes=500000-"]
    assert scene.files()[MODEL] == content and len(scene.files()) == 1 + altered


def test_killed_before_a_whole_part_was_renamed(scene: Scene) -> None:
    scene.put({KEY: BIG})
    scene.download()
    part = (scene.target / MODEL).with_name(f".model.safetensors.{hashlib.md5(BIG).hexdigest()}.part")
    (scene.target / MODEL).rename(part)
    assert scene.asked
    scene.download()
    assert scene.asked == [] and scene.files() == {MODEL: BIG}


def test_altered_while_it_is_fetched(scene: Scene) -> None:
    scene.put({KEY: BIG})
    scene.proxy.cuts = [100_000]

    def alter() -> None:
        if len(scene.proxy.gets) > 1:
            scene.put({KEY: BIG[::-1]})

    scene.proxy.before = alter
    line = refused(scene.download, PipelineError)
    assert "has it altered meanwhile: the same command again fetches it anew" in line
    scene.download()
    assert scene.files()[MODEL] == BIG[::-1]


def test_what_comes_wrong_and_what_is_encrypted(scene: Scene) -> None:
    scene.put({KEY: BIG})
    scene.proxy.flips = True
    line = refused(scene.download, PipelineError)
    assert "came otherwise than its size and ETag say: the same command" in line and scene.files() == {}
    # An ETag that is no MD5, as the content is encrypted.
    scene.proxy.headers = {"x-amz-server-side-encryption-aws-kms-key-id": "a-key"}
    assert scene.download()["fetched_files"] == 1 and list(scene.files()) == [MODEL]


def test_what_was_uploaded_in_parts(scene: Scene, tmp_path: Path) -> None:
    content = random.Random(2).randbytes(6 * MIB)
    path = tmp_path / "weights"
    path.write_bytes(content)
    scene.s3.put("mlpipeline", "ready", b"")
    scene.s3.client.fput_object("mlpipeline", f"{scene.prefix}{KEY}", str(path), part_size=5 * MIB)
    assert scene.download()["fetched_files"] == 1 and scene.files() == {MODEL: content}
    assert scene.download()["fetched_files"] == 0


def planned(*names: str) -> list[str]:
    items = plan_files("run/", [SimpleNamespace(object_name=f"run/{name}", size=1, etag='"1f"') for name in names])
    return sorted(item.path for item in items)


def test_ids_are_left_out_unless_there_are_several() -> None:
    a, b = UUIDS[:2]
    assert planned(f"t/{a}/x", f"t/{a}/y/z", f"s/{a}/x", f"s/{b}/x", "r/x", f"q/{a}/x", "q/x", f"p/{a}") == [
        *("p/" + a, f"q/{a}/x", "q/x", "r/x", f"s/{a}/x", f"s/{b}/x", "t/x", "t/y/z")
    ]
    assert planned("t/", f"t/{a}/", f"t/{a}/x") == ["t/", "t/", "t/x"]


def test_hostile_names_in_the_store(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.put({"GOOD": b"evil", "evaluate-model/report": REPORT})
    scene.proxy.renames = {b"GOOD": b"../%1Bb/evil"}
    result = scene.download()
    assert scene.files() == {"evaluate-model/report": REPORT} and len(result["left_out"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert line.startswith("left out, as it can't be the name of a file: ") and "\x1b" not in line
    assert list(scene.target.parent.parent.rglob("*evil*")) == [] and scene.asked == ["report"]


def test_roots_that_are_none() -> None:
    assert parse_root("minio://mine/") == ("mine", "")
    for root in ("minio://", "gs://bucket/x?secret=y"):
        line = refused(partial(parse_root, root))
        assert line.endswith(": only minio:// and s3:// can be downloaded from") and "secret" not in line


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"s3_endpoint": "", "s3_access_key": "", "s3_secret_key": ""},
            "the object store is not known: set NLP_PIPELINE_S3_ENDPOINT, NLP_PIPELINE_S3_ACCESS_KEY, "
            "NLP_PIPELINE_S3_SECRET_KEY (keys: the namespace's Secret mlpipeline-minio-artifact has them; ",
        ),
        ({"s3_endpoint": f"http://test-key:{SECRET}@localhost"}, "NLP_PIPELINE_S3_ENDPOINT is no address"),
        ({"s3_secret_key": f"{SECRET}\n"}, "NLP_PIPELINE_S3_SECRET_KEY has a blank, a line break"),
        ({"s3_region": "a b"}, "NLP_PIPELINE_S3_REGION or a key is wrong: "),
        ({"s3_secret_key": "wrong"}, "refuses (SignatureDoesNotMatch): check NLP_PIPELINE_S3_ACCESS_KEY and NLP_"),
    ],
)
def test_settings_that_are_wrong(scene: Scene, changed: dict[str, Any], message: str) -> None:
    scene.put(FILES)
    assert message in refused(lambda: scene.download(**changed))


def test_no_bucket_no_one_there_no_object_store_and_no_minio(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    line = refused(lambda: scene.download(s3_endpoint=f"http://127.0.0.1:{free_ports(1)[0]}"), PipelineError)
    assert "can't be reached (" in line and "Connection refused" in line and "port-forward" in line
    assert "0x" not in line
    assert "is no object store (" in refused(lambda: scene.download(s3_endpoint=scene.k.url))
    scene.k.api.records["runs"][scene.run_id]["runtime_config"] = {"pipeline_root": "minio://no-such-bucket/x"}
    line = refused(scene.download, NotFoundError)
    assert "(NoSuchBucket): is NLP_PIPELINE_S3_ENDPOINT that of this Kubeflow's object store?" in line
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert refused(scene.download) == "minio is not installed: pip install -c constraints.txt -e '.[deploy]'"


def test_files_in_the_way(scene: Scene) -> None:
    scene.put(FILES)
    (scene.target / "evaluate-model").mkdir(parents=True)
    (scene.target / "evaluate-model/report").write_text("mine")
    assert "evaluate-model/report is in the way, and not this run's: name an empty fo" in refused(scene.download)
    assert scene.files() == {"evaluate-model/report": b"mine"}
    shutil.rmtree(scene.target)
    scene.target.write_text("a file")
    assert refused(scene.download, PipelineError).startswith(f"{scene.target}")
    assert scene.asked == []
