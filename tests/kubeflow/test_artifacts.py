"""`--download`: from a real S3 server, through a proxy that breaks transfers, of runs of a Kubeflow."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.kubeflow.artifacts import download, open_store, parse_root, plan_files
from nlp_pipeline.kubeflow.pipelines import get_experiment, start_run, upload_version
from nlp_pipeline.platforms.calls import NotFoundError
from nlp_pipeline.platforms.downloads import MIB, NOTES
from nlp_pipeline.settings import Settings
from tests.fakes.kfp import Fate, Kubeflow, kubeflow
from tests.fakes.s3 import S3Server, free_ports, s3_server
from tests.fakes.s3_proxy import S3Proxy, s3_proxy
from tests.kubeflow.test_pipelines import SMALL
from tests.kubeflow.users import connected, settings_of

pytestmark = pytest.mark.slow
Json = dict[str, Any]
SECRET = "test-secret"
UUIDS = [f"{at}0000000-0000-4000-8000-00000000000{at}" for at in range(9)]
BIG = random.Random(1).randbytes(3 * MIB)
REPORT, METRICS = b"<html>", b'{"accuracy": 0.9}'
MODEL, KEY = "train-model/model/model.safetensors", f"train-model/{UUIDS[2]}/model/model.safetensors"
FILES = {
    f"evaluate-model/{UUIDS[1]}/report": REPORT,
    f"evaluate-model/{UUIDS[1]}/metrics": METRICS,
    KEY: BIG,
    f"train-model/{UUIDS[2]}/model/empty": b"",
    f"archive-model/{UUIDS[3]}/release/model-store/tiny.mar": BIG[:1000],
    f"archive-model/{UUIDS[3]}/release/release.json": b"{}",
}
SHORT = {
    "archive-model/release/model-store/tiny.mar": BIG[:1000],
    "archive-model/release/release.json": b"{}",
    "evaluate-model/metrics": METRICS,
    "evaluate-model/report": REPORT,
    "train-model/model/empty": b"",
    MODEL: BIG,
}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@dataclass
class Scene:
    """A run of a Kubeflow whose artifacts are in a real object store.

    Attributes:
        s3: The object store.
        proxy: In front of it.
        k: The Kubeflow.
        run_id: The run.
        target: Where to download to.
    """

    s3: S3Server
    proxy: S3Proxy
    k: Kubeflow
    run_id: str
    target: Path

    @property
    def prefix(self) -> str:
        return f"v2/artifacts/x/{self.run_id}/"

    def settings(self, **changed: Any) -> Settings:
        given = {"s3_endpoint": self.proxy.url, "s3_access_key": "test-key", "s3_secret_key": SECRET}
        return settings_of(self.k, **given | changed)

    def put(self, files: dict[str, bytes], prefix: str | None = None, bucket: str = "mlpipeline") -> None:
        for name, content in files.items():
            self.s3.put(bucket, f"{self.prefix if prefix is None else prefix}{name}", content)

    def put_model(self, content: bytes) -> None:
        self.put({KEY: content})

    def download(self, dry_run: bool = False, **changed: Any) -> Json:
        return download(self.settings(**changed), self.run_id, self.target, dry_run)

    def files(self) -> dict[str, bytes]:
        paths = [path for path in self.target.rglob("*") if path.is_file() and path.name != NOTES]
        return {str(path.relative_to(self.target)): path.read_bytes() for path in sorted(paths)}

    @property
    def asked(self) -> list[str]:
        """The names and ranges of the objects that were asked for since this was read last."""
        found = [f"{path.rpartition('/')[2]} {asked}".strip() for path, asked in self.proxy.gets]
        self.proxy.gets.clear()
        return found


def make_run(k: Kubeflow, **given: Any) -> str:
    """Makes a run, and returns its id."""
    connection = connected(k, **given)
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


# What is there


def test_all_of_it_once(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.put(FILES)
    size = sum(map(len, FILES.values()))
    dry = scene.download(dry_run=True)
    assert (dry["files"], dry["fetched_files"], dry["checked"]) == (6, 6, {})
    assert not scene.target.parent.exists() and scene.asked == []
    told = scene.download()
    assert scene.files() == SHORT
    assert told.pop("state") in ("PENDING", "RUNNING", "SUCCEEDED")
    assert told == {
        "run_id": scene.run_id,
        "source": f"s3://mlpipeline/{scene.prefix}",
        "folder": str(scene.target),
        **{"files": 6, "bytes": size, "fetched_files": 6, "fetched_bytes": size},
        "artifacts": {
            "report": str(scene.target / "evaluate-model/report"),
            "metrics": str(scene.target / "evaluate-model/metrics"),
            "model": str(scene.target / "train-model/model"),
            "archive": str(scene.target / "archive-model/release"),
        },
        **{"missing": [], "left_out": [], "checked": {"md5": 6}},
    }
    said = capsys.readouterr()
    assert said.out == "" and f"{MODEL}: {len(BIG):,} bytes, checked by md5\n" in said.err
    assert len(scene.asked) == 5  # nothing is asked of what is empty
    again = scene.download()
    assert (again["fetched_files"], again["fetched_bytes"], again["checked"]) == (0, 0, {"md5": 6})
    (scene.target / NOTES).unlink()
    assert scene.download()["checked"] == {"md5": 6} and scene.asked == []
    assert SECRET not in said.err + str(told)


def test_what_is_there_so_far(scene: Scene) -> None:
    scene.put({"x": b""}, "else/")
    line = refused(scene.download, NotFoundError)
    assert line.startswith(f"run {scene.run_id} has no artifacts (yet) below minio://mlpipeline/v2/artifacts at http:")
    assert line.endswith(": it is SUCCEEDED") and not scene.target.exists()
    scene.put({f"evaluate-model/{UUIDS[1]}/report": REPORT})
    told = scene.download()
    assert told["artifacts"] == {"report": str(scene.target / "evaluate-model/report")}
    assert told["missing"] == ["metrics", "model", "archive"]
    scene.put(FILES)
    assert scene.download()["fetched_files"] == 5 and scene.files() == SHORT


@pytest.mark.parametrize(
    ("run_id", "message"),
    [
        (UUIDS[0], f"there is no run {UUIDS[0]}: --runs lists them"),
        ("../../x", "'../../x' is no id of a run: --runs lists them"),
    ],
)
def test_no_such_run(scene: Scene, run_id: str, message: str) -> None:
    scene.run_id = run_id
    assert refused(scene.download) == message


@pytest.mark.parametrize(
    ("root", "bucket", "prefix"),
    [
        ("minio://mine/", "mine", ""),
        ("minio://mine/deep/er", "mine", "deep/er/"),
        ("s3://mine/a?region=x&endpoint=y:1&disableSSL=true", "mine", "a/"),
    ],
)
def test_the_runs_own_root_and_another_name(scene: Scene, root: str, bucket: str, prefix: str) -> None:
    scene.k.api.records["runs"][scene.run_id]["runtime_config"] = {"pipeline_root": root}
    scene.put({"evaluate-model/report": b"old layout"}, f"{prefix}other/{scene.run_id}/", bucket)
    scene.put({"evaluate-model/report": b"of another run"}, f"{prefix}other/{UUIDS[0]}/", bucket)
    assert scene.download()["source"] == f"s3://{bucket}/{prefix}other/{scene.run_id}/"
    assert scene.files() == {"evaluate-model/report": b"old layout"}


def test_where_each_namespace_has_its_own(scene: Scene) -> None:
    with kubeflow(tokens={"ann": "team"}) as several:
        scene.k, scene.run_id = several, make_run(several, token="ann")
        prefix = f"private-artifacts/team/v2/artifacts/x/{scene.run_id}/"
        scene.put({"evaluate-model/report": REPORT}, prefix)
        assert scene.download(token="ann")["source"] == f"s3://mlpipeline/{prefix}"


# Interrupted


def test_a_broken_transfer_goes_on_where_it_ended(scene: Scene) -> None:
    scene.put_model(BIG)
    scene.proxy.cuts = [MIB, MIB // 2]
    assert scene.download()["checked"] == {"md5": 1}
    rest = [f"model.safetensors bytes={MIB}-", f"model.safetensors bytes={MIB + MIB // 2}-"]
    assert scene.asked == ["model.safetensors", *rest] and scene.files() == {MODEL: BIG}


def test_a_server_that_stays_away_and_the_same_command_again(scene: Scene) -> None:
    scene.put_model(BIG)
    scene.proxy.cuts = [100_000] * 5
    line = refused(scene.download, PipelineError)
    assert line.startswith(f"fetching 's3://mlpipeline/{scene.prefix}train-model/") and "can't be reached" in line
    assert {name: len(content) for name, content in scene.files().items()} == {f"{MODEL}.part": 500_000}
    assert scene.asked
    scene.download()
    assert scene.asked == ["model.safetensors bytes=500000-"] and scene.files() == {MODEL: BIG}


def test_killed_in_the_middle(scene: Scene) -> None:
    scene.put_model(BIG)
    scene.proxy.hangs = 2 * MIB
    code = (
        "import sys; from pathlib import Path; from nlp_pipeline.settings import Settings\n"
        "from nlp_pipeline.kubeflow.artifacts import download\n"
        "download(Settings(), sys.argv[1], Path(sys.argv[2]), False)\n"
    )
    names = {"HOST": scene.k.url, "S3_ENDPOINT": scene.proxy.url, "S3_ACCESS_KEY": "test-key", "S3_SECRET_KEY": SECRET}
    environment = {**os.environ, **{f"NLP_PIPELINE_{name}": value for name, value in names.items()}}
    process = subprocess.Popen([sys.executable, "-c", code, scene.run_id, str(scene.target)], env=environment)
    try:
        assert scene.proxy.hanging.wait(120)
        part = scene.target / f"{MODEL}.part"
        while not part.is_file() or part.stat().st_size < MIB:
            assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    scene.proxy.release.set()
    done = part.stat().st_size
    assert MIB <= done <= 2 * MIB and scene.asked
    scene.download()
    assert scene.asked == [f"model.safetensors bytes={done}-"] and scene.files() == {MODEL: BIG}
    # And as if it had been killed before the renaming.
    (scene.target / MODEL).rename(part)
    notes = json.loads((scene.target / NOTES).read_text())
    (scene.target / NOTES).write_text(json.dumps(notes | {"done": {}, "parts": {MODEL: notes["done"][MODEL][0]}}))
    scene.download()
    assert scene.asked == [] and scene.files() == {MODEL: BIG}


@pytest.mark.parametrize("notes", ["", "[]", '{"x": 1}'])
def test_notes_that_are_no_notes_and_a_part_of_which_nothing_is_known(scene: Scene, notes: str) -> None:
    scene.put_model(BIG)
    (scene.target / MODEL).parent.mkdir(parents=True)
    (scene.target / f"{MODEL}.part").write_bytes(b"something else")
    (scene.target / NOTES).write_text(notes)
    scene.download()
    assert scene.asked == ["model.safetensors"] and scene.files() == {MODEL: BIG}


# Altered


def test_altered_after_a_part_was_fetched(scene: Scene) -> None:
    scene.put_model(BIG)
    scene.proxy.cuts = [100_000] * 5
    refused(scene.download, PipelineError)
    assert scene.asked
    scene.put_model(BIG[::-1])
    scene.download()
    assert scene.asked == ["model.safetensors"] and scene.files() == {MODEL: BIG[::-1]}


@pytest.mark.parametrize(("cuts", "at", "content"), [([], 1, BIG[:1000]), ([100_000], 2, BIG[::-1])])
def test_altered_while_it_is_fetched(scene: Scene, cuts: list[int], at: int, content: bytes) -> None:
    scene.put_model(BIG)
    scene.proxy.cuts = cuts
    calls = []

    def alter() -> None:
        calls.append(1)
        if len(calls) == at:
            scene.put_model(content)

    scene.proxy.before = alter
    assert scene.download()["checked"] == {"md5": 1} and scene.files() == {MODEL: content}


def test_altered_all_the_time_or_wrong(scene: Scene) -> None:
    scene.put_model(BIG)
    scene.proxy.before = lambda: scene.put_model(random.randbytes(10))
    assert refused(scene.download, PipelineError).endswith("or was altered, 3 times: try later")
    scene.proxy.before = lambda: None
    scene.proxy.flips = True
    line = refused(scene.download, PipelineError)
    assert "came otherwise than its size and ETag say" in line and scene.files() == {}
    # An ETag that is no MD5, as the content is encrypted.
    scene.proxy.headers = {"x-amz-server-side-encryption-aws-kms-key-id": "a-key"}
    assert scene.download()["checked"] == {"size": 1}
    assert scene.download()["fetched_files"] == 0


def test_altered_after_it_was_downloaded(scene: Scene) -> None:
    scene.put(FILES)
    scene.download()
    scene.put({f"evaluate-model/{UUIDS[1]}/report": b"<HTML>"})  # of the same size
    (scene.target / "evaluate-model/metrics").write_bytes(METRICS[::-1])
    assert scene.asked and scene.download()["fetched_files"] == 2
    assert scene.asked == ["metrics", "report"]
    assert scene.files() == SHORT | {"evaluate-model/report": b"<HTML>"}


def test_a_server_that_knows_no_ranges(scene: Scene) -> None:
    scene.put_model(BIG)
    scene.proxy.cuts, scene.proxy.ignores_ranges = [1000, 1000], True
    scene.download()
    assert scene.files() == {MODEL: BIG}


def test_what_was_uploaded_in_parts(scene: Scene, tmp_path: Path) -> None:
    content = random.Random(2).randbytes(11 * MIB)
    path = tmp_path / "weights"
    path.write_bytes(content)
    scene.s3.put("mlpipeline", "ready", b"")
    scene.s3.client.fput_object("mlpipeline", f"{scene.prefix}{KEY}", str(path), part_size=5 * MIB)
    assert scene.download()["checked"] == {"md5 of parts": 1}
    assert scene.download()["fetched_files"] == 0
    scene.s3.client.fput_object("mlpipeline", f"{scene.prefix}{KEY}", str(path), part_size=6 * MIB)  # no one guesses
    assert scene.asked and scene.download()["checked"] == {"size": 1} and len(scene.asked) == 1
    assert scene.download()["fetched_files"] == 0 and scene.files() == {MODEL: content}
    (scene.target / NOTES).unlink()
    line = refused(scene.download)
    assert line.endswith("is in the way, and of no download: name an empty folder with --to")


# Names


def planned(*names: str) -> tuple[list[str], list[str]]:
    objects = [
        SimpleNamespace(object_name=f"run/{name}", size=int(not name.endswith("/")), etag='"1f"') for name in names
    ]
    items, left_out = plan_files("run/", objects)
    return [item.path for item in items], left_out


@pytest.mark.parametrize(
    "name",
    [
        *("../x", "a/../../x", "a/..", "./x", "/etc/x", "a//b", "..\\x", "C:\\x", "C:x", "a/con", "a/NUL.txt"),
        *("a\nb", "a\x00b", "a\x1b[2J", "a/\x9b", NOTES, f"{NOTES}.new", "..", "."),
    ],
)
def test_names_that_lead_elsewhere_are_left_out(name: str) -> None:
    assert planned(name, "good/one") == (["good/one"], [repr(f"run/{name}")])


def test_ids_are_left_out_unless_there_are_several() -> None:
    a, b = UUIDS[:2]
    assert planned(f"t/{a}/x", f"t/{a}/y/z", f"s/{a}/x", f"s/{b}/x", "r/x", f"q/{a}/x", "q/x", f"p/{a}") == (
        ["p/" + a, f"q/{a}/x", "q/x", "r/x", f"s/{a}/x", f"s/{b}/x", "t/x", "t/y/z"],
        [],
    )
    assert planned("t/", "t/x/", "t/x/y") == (["t/x/y"], [])


@pytest.mark.parametrize("name", ["../../evil", "/evil", "C:evil", "%2E%2E/evil", "a%1Bb/evil"])
def test_hostile_names_in_the_store(scene: Scene, capsys: pytest.CaptureFixture[str], name: str) -> None:
    scene.put({"GOOD": b"evil", "evaluate-model/report": REPORT})
    scene.proxy.renames = {b"GOOD": name.encode()}
    told = scene.download()
    assert scene.files() == {"evaluate-model/report": REPORT} and len(told["left_out"]) == 1
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert said.startswith("left out, as it can't be the name of a file: ") and "\x1b" not in said
    assert list(scene.target.parent.parent.rglob("*evil*")) == [] and scene.asked == ["report"]


@pytest.mark.parametrize("root", ["", "file:///x", "minio://", "s3:/x/y", "gs://bucket/x?secret=y"])
def test_roots_that_are_none(root: str) -> None:
    assert refused(lambda: parse_root(root)).endswith(": only minio:// and s3:// can be downloaded from")


# Refusals


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {"s3_endpoint": "", "s3_access_key": "", "s3_secret_key": ""},
            "the object store is not known: set NLP_PIPELINE_S3_ENDPOINT, NLP_PIPELINE_S3_ACCESS_KEY, "
            "NLP_PIPELINE_S3_SECRET_KEY (keys: the namespace's Secret mlpipeline-minio-artifact has them; ",
        ),
        ({"s3_secret_key": ""}, "set NLP_PIPELINE_S3_SECRET_KEY ("),
        ({"s3_secret_key": ""}, "kubectl -n kubeflow port-forward svc/minio-service 9000:9000"),
        ({"s3_endpoint": "localhost:9000"}, "NLP_PIPELINE_S3_ENDPOINT is no address of an object store"),
        ({"s3_endpoint": f"http://test-key:{SECRET}@localhost"}, "NLP_PIPELINE_S3_ENDPOINT is no address"),
        ({"s3_endpoint": "http://localhost/minio/x"}, "NLP_PIPELINE_S3_ENDPOINT is no address"),
        ({"s3_endpoint": "http://local_host:x"}, "is wrong: "),
        ({"s3_secret_key": f"{SECRET}\n"}, "NLP_PIPELINE_S3_SECRET_KEY has a blank, a line break"),
        ({"s3_region": "a b"}, "NLP_PIPELINE_S3_REGION has a blank"),
        ({"s3_secret_key": "wrong"}, "refuses (SignatureDoesNotMatch): check NLP_PIPELINE_S3_ACCESS_KEY and NLP_"),
        ({"s3_access_key": "wrong"}, "refuses (InvalidAccessKeyId): check NLP_PIPELINE_S3_ACCESS_KEY and"),
        ({"ca_cert": "/none"}, "ca_cert=/none can't be read"),
    ],
)
def test_settings_that_are_wrong(scene: Scene, changed: Json, says: str) -> None:
    scene.put(FILES)
    assert says in refused(lambda: scene.download(**changed))


def test_no_bucket_no_one_there_and_no_object_store(scene: Scene) -> None:
    line = refused(lambda: scene.download(s3_endpoint=f"http://127.0.0.1:{free_ports(1)[0]}"), PipelineError)
    assert "can't be reached (" in line and "Connection refused" in line and "port-forward" in line
    assert "0x" not in line
    assert "is no object store (" in refused(lambda: scene.download(s3_endpoint=scene.k.url))
    scene.k.api.records["runs"][scene.run_id]["runtime_config"] = {"pipeline_root": "minio://no-such-bucket/x"}
    line = refused(scene.download, NotFoundError)
    assert "(NoSuchBucket): is NLP_PIPELINE_S3_ENDPOINT that of this Kubeflow's object store?" in line


def test_minio_is_not_installed(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = "minio is not installed: pip install -c constraints.txt -e '.[deploy]'"
    assert refused(lambda: open_store(scene.settings())) == line


def test_a_folder_of_another_run_and_files_in_the_way(scene: Scene) -> None:
    scene.put(FILES)
    scene.download()
    notes = json.loads((scene.target / NOTES).read_text())
    (scene.target / NOTES).write_text(json.dumps(notes | {"run_id": "another"}))
    assert refused(scene.download) == f"{scene.target} has artifacts of run another: name another folder with --to"
    shutil.rmtree(scene.target)
    (scene.target / "evaluate-model").mkdir(parents=True)
    (scene.target / "evaluate-model/report").write_text("mine")
    assert scene.asked and "evaluate-model/report is in the way" in refused(scene.download)
    assert scene.files() == {"evaluate-model/report": b"mine"} and scene.asked == []
    shutil.rmtree(scene.target)
    scene.target.write_text("a file")
    assert refused(scene.download, PipelineError).startswith(f"{scene.target} can't be written (")


def test_no_room_beforehand(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.put(FILES)
    usage = shutil.disk_usage(scene.target.parent.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert f"{scene.target} has room for 1,000 bytes, and 3,146,7" in refused(scene.download)
    assert scene.asked == []


def test_a_full_disk_and_the_same_command_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.put_model(BIG)
    found = Path.open

    def full(path: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
        if mode == "ab":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return found(path, mode, *more, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        line = refused(scene.download, PipelineError)
    assert line == (
        f"{scene.target}/{MODEL}.part can't be written (No space left on device): the same command goes on where this "
        "one ended"
    )
    scene.download()
    assert scene.files() == {MODEL: BIG}
