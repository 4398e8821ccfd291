"""`--download`: from a real S3 server, through a proxy that breaks transfers, told of by an emulated Kubeflow."""

import errno
import hashlib
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
from typing import Any

import pytest

from nlp_pipeline import storage
from nlp_pipeline.client.artifacts import NOTES, download
from nlp_pipeline.client.artifacts_plan import Item, Place, check_names, parse_root, plan, present
from nlp_pipeline.client.calls import NotFoundError
from nlp_pipeline.client.connection import Connection
from nlp_pipeline.client.object_store import MIB, check_content, open_store
from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.settings import Settings
from tests.client.s3_proxy import S3Proxy, s3_proxy
from tests.components.s3_server import S3Server, forget_environment, free_ports, s3_server
from tests.kubeflow.conftest import PARAMETERS, run_of, uploaded
from tests.kubeflow.conftest import client as client
from tests.kubeflow.conftest import connect as connect
from tests.kubeflow.conftest import k as k
from tests.kubeflow.emulator import Fate, Kubeflow, kubeflow

pytestmark = pytest.mark.slow
Json = dict[str, Any]
SECRET = "test-secret"
UUIDS = [f"{at}0000000-0000-4000-8000-00000000000{at}" for at in range(9)]
BIG = random.Random(1).randbytes(3 * MIB)
REPORT, METRICS, WEIGHTS = b"<html>", b'{"accuracy": 0.9}', BIG
FILES = {
    f"evaluate-model/{UUIDS[1]}/report": REPORT,
    f"evaluate-model/{UUIDS[1]}/metrics": METRICS,
    f"train-model/{UUIDS[2]}/model/model.safetensors": WEIGHTS,
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
    "train-model/model/model.safetensors": WEIGHTS,
}
MODEL = "train-model/model/model.safetensors"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_environment(monkeypatch)
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.001)


@dataclass
class Scene:
    """A run of an emulated Kubeflow whose artifacts are in a real object store.

    Attributes:
        proxy: In front of the object store.
        run_id: The run.
        target: Where to download to.
    """

    s3: S3Server
    proxy: S3Proxy
    host: str
    run_id: str
    target: Path

    @property
    def prefix(self) -> str:
        return f"v2/artifacts/nlp-pipeline/{self.run_id}/"

    def settings(self, **changed: Any) -> Settings:
        given = {"host": self.host, "s3_endpoint": self.proxy.url, "s3_access_key": "test-key", "s3_secret_key": SECRET}
        return Settings.model_validate(given | changed)

    def put(self, files: dict[str, bytes], prefix: str | None = None, bucket: str = "mlpipeline") -> None:
        for name, content in files.items():
            self.s3.put(bucket, f"{self.prefix if prefix is None else prefix}{name}", content)

    def download(self, dry_run: bool = False, **changed: Any) -> Json:
        settings = self.settings(**changed)
        return download(Connection(settings), settings, self.run_id, self.target, dry_run)

    def files(self) -> dict[str, bytes]:
        paths = [path for path in self.target.rglob("*") if path.is_file() and path.name != NOTES]
        return {str(path.relative_to(self.target)): path.read_bytes() for path in sorted(paths)}

    @property
    def asked(self) -> list[str]:
        """The names and ranges of the objects that were asked for since this was read last."""
        found = [f"{path.rpartition('/')[2]} {asked}".strip() for path, asked in self.proxy.gets]
        self.proxy.gets.clear()
        return found


@pytest.fixture
def scene(k: Kubeflow, client: Any, s3: S3Server, tmp_path: Path) -> Iterator[Scene]:
    k.api.fate = Fate(reads=1)
    for bucket in s3.client.list_buckets():
        for one in s3.client.list_objects(bucket.name, recursive=True):
            s3.client.remove_object(bucket.name, one.object_name)
    with s3_proxy(s3.address) as proxy:
        run = run_of(client)
        yield Scene(s3, proxy, k.url, run.run_id, tmp_path / "to" / "here")


def refused(function: Callable[[], Any], kind: type[PipelineError] = UsageError) -> str:
    """Returns the line with which something is refused, having made sure that it tells no secret."""
    with pytest.raises(PipelineError) as caught:
        function()
    line = str(caught.value)
    assert type(caught.value) is kind, caught.value
    assert "\n" not in line and SECRET not in line and "test-key" not in line
    return line


# What is there


def test_all_of_it_once(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.put(FILES)
    told = scene.download()
    assert scene.files() == SHORT
    size = sum(map(len, FILES.values()))
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
    json.dumps(told)
    said = capsys.readouterr()
    assert said.out == "" and f"{MODEL}: {len(BIG):,} bytes, checked by md5\n" in said.err
    assert len(scene.asked) == 5  # nothing is asked of what is empty
    again = scene.download()
    assert (again["fetched_files"], again["fetched_bytes"], again["checked"]) == (0, 0, {"md5": 6})
    (scene.target / NOTES).unlink()
    assert scene.download()["checked"] == {"md5": 6} and scene.asked == []
    assert SECRET not in said.err + str(told)


def test_a_dry_run_writes_and_asks_for_nothing(scene: Scene) -> None:
    scene.put(FILES)
    told = scene.download(dry_run=True)
    assert (told["files"], told["fetched_files"], told["checked"]) == (6, 6, {})
    assert not scene.target.parent.exists() and scene.asked == []


def test_what_is_there_so_far(scene: Scene) -> None:
    scene.put({f"evaluate-model/{UUIDS[1]}/report": REPORT})
    told = scene.download()
    assert told["artifacts"] == {"report": str(scene.target / "evaluate-model/report")}
    assert told["missing"] == ["metrics", "model", "archive"]
    scene.put(FILES)
    assert scene.download()["fetched_files"] == 5 and scene.files() == SHORT


def test_nothing_yet(scene: Scene) -> None:
    scene.put({"x": b""}, "else/")
    line = refused(scene.download, NotFoundError)
    assert line.startswith(f"run {scene.run_id} has no artifacts (yet) below minio://mlpipeline/v2/artifacts at http:")
    assert line.endswith((": it is PENDING", ": it is RUNNING")) and not scene.target.exists()


def test_no_such_run(scene: Scene) -> None:
    scene.run_id = "00000000-0000-4000-8000-000000000000"
    assert refused(scene.download, UsageError) == f"there is no run {scene.run_id}: --runs lists them"
    scene.run_id = "../../x"
    assert refused(scene.download) == "'../../x' is no id of a run: --runs lists them"


@pytest.mark.parametrize(
    ("root", "bucket", "prefix"),
    [
        ("minio://mine/", "mine", ""),
        ("minio://mine/deep/er", "mine", "deep/er/"),
        ("s3://mine/a?region=x&endpoint=y:1&disableSSL=true", "mine", "a/"),
    ],
)
def test_the_runs_own_root_and_another_name(
    k: Kubeflow, scene: Scene, root: str, bucket: str, prefix: str, client: Any
) -> None:
    k.api._store.runs[scene.run_id]["runtime_config"]["pipeline_root"] = root
    scene.put({"evaluate-model/report": b"old layout"}, f"{prefix}other/{scene.run_id}/", bucket)
    scene.put({"evaluate-model/report": b"of another run"}, f"{prefix}other/{UUIDS[0]}/", bucket)
    assert scene.download()["source"] == f"s3://{bucket}/{prefix}other/{scene.run_id}/"
    assert scene.files() == {"evaluate-model/report": b"old layout"}


def test_a_root_that_is_no_s3(k: Kubeflow, scene: Scene) -> None:
    k.api._store.runs[scene.run_id]["runtime_config"]["pipeline_root"] = "gs://bucket/x?secret=y"
    assert refused(scene.download) == "pipeline root 'gs://bucket/x': only minio:// and s3:// can be downloaded from"


def test_where_each_namespace_has_its_own(s3: S3Server, scene: Scene, connect: Any) -> None:
    with kubeflow(tokens={"ann": "team"}) as several:
        made = connect(several, existing_token="ann")
        experiment = made.create_experiment("x", namespace="team").experiment_id
        pipeline, version = uploaded(made, namespace="team")
        given = {"params": PARAMETERS, "pipeline_id": pipeline, "version_id": version}
        scene.run_id = made.run_pipeline(experiment, "a run", **given).run_id
        prefix = f"private-artifacts/team/v2/artifacts/nlp-pipeline/{scene.run_id}/"
        scene.put({"evaluate-model/report": REPORT}, prefix)
        told = scene.download(host=several.url, token="ann", namespace="team")
        assert told["source"] == f"s3://mlpipeline/{prefix}"


# Interrupted


def test_a_broken_transfer_goes_on_where_it_ended(scene: Scene) -> None:
    scene.put(FILES)
    scene.download()
    (scene.target / MODEL).unlink()
    assert scene.asked
    scene.proxy.cuts = [MIB, MIB // 2]
    assert scene.download()["checked"] == {"md5": 6}
    assert scene.asked == ["model.safetensors", f"model.safetensors bytes={MIB}-",
                           f"model.safetensors bytes={MIB + MIB // 2}-"]  # fmt: skip
    assert scene.files() == SHORT


def test_a_server_that_stays_away_and_the_same_command_again(scene: Scene) -> None:
    scene.put({f"train-model/{UUIDS[2]}/model/model.safetensors": BIG})
    scene.proxy.cuts = [100_000] * 5
    line = refused(scene.download, PipelineError)
    assert line.startswith(f"fetching 's3://mlpipeline/{scene.prefix}train-model/") and "can't be reached" in line
    assert list(scene.files()) == [f"{MODEL}.part"]
    done = len(scene.files()[f"{MODEL}.part"])
    assert done == 500_000 and scene.asked
    scene.download()
    assert scene.asked == [f"model.safetensors bytes={done}-"] and scene.files() == {MODEL: BIG}


def test_killed_in_the_middle(scene: Scene) -> None:
    scene.put({f"train-model/{UUIDS[2]}/model/model.safetensors": BIG})
    scene.proxy.hangs = 2 * MIB
    code = (
        "import sys; from pathlib import Path; from nlp_pipeline.settings import Settings\n"
        "from nlp_pipeline.client.artifacts import download; from nlp_pipeline.client.connection import Connection\n"
        "settings = Settings(); download(Connection(settings), settings, sys.argv[1], Path(sys.argv[2]))\n"
    )
    variables = {
        **{"HOST": scene.host, "S3_ENDPOINT": scene.proxy.url},
        **{"S3_ACCESS_KEY": "test-key", "S3_SECRET_KEY": SECRET},
    }
    environment = {**os.environ, **{f"NLP_PIPELINE_{name}": value for name, value in variables.items()}}
    process = subprocess.Popen([sys.executable, "-c", code, scene.run_id, str(scene.target)], env=environment)
    assert scene.proxy.hanging.wait(60)
    part = scene.target / f"{MODEL}.part"
    while not part.is_file() or part.stat().st_size < MIB:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    scene.proxy.release.set()
    done = part.stat().st_size
    assert MIB <= done <= 2 * MIB and scene.asked
    scene.download()
    assert scene.asked == [f"model.safetensors bytes={done}-"] and scene.files() == {MODEL: BIG}


def test_killed_before_the_renaming(scene: Scene) -> None:
    scene.put({f"train-model/{UUIDS[2]}/model/model.safetensors": BIG})
    scene.download()
    (scene.target / MODEL).rename(scene.target / f"{MODEL}.part")
    notes = json.loads((scene.target / NOTES).read_text())
    notes["parts"] = {MODEL: notes["done"].pop(MODEL)[0]}
    (scene.target / NOTES).write_text(json.dumps(notes))
    assert scene.asked
    scene.download()
    assert scene.asked == [] and scene.files() == {MODEL: BIG}


@pytest.mark.parametrize("notes", ["", "[]", '{"run_id": 1, "done": {"a": 1}}', '{"x": 1}', "{}"])
def test_notes_that_are_no_notes_and_a_part_of_which_nothing_is_known(scene: Scene, notes: str) -> None:
    scene.put({f"train-model/{UUIDS[2]}/model/model.safetensors": BIG})
    (scene.target / "train-model" / "model").mkdir(parents=True)
    (scene.target / f"{MODEL}.part").write_bytes(b"something else")
    (scene.target / NOTES).write_text(notes)
    scene.download()
    assert scene.asked == ["model.safetensors"] and scene.files() == {MODEL: BIG}


# Altered


def test_altered_after_a_part_was_fetched(scene: Scene) -> None:
    key = f"train-model/{UUIDS[2]}/model/model.safetensors"
    scene.put({key: BIG})
    scene.proxy.cuts = [100_000] * 5
    refused(scene.download, PipelineError)
    assert scene.asked
    scene.put({key: BIG[::-1]})
    scene.download()
    assert scene.asked == ["model.safetensors"] and scene.files() == {MODEL: BIG[::-1]}


def test_altered_between_the_listing_and_the_fetching(scene: Scene) -> None:
    key = f"train-model/{UUIDS[2]}/model/model.safetensors"
    scene.put({key: BIG})

    def alter() -> None:
        scene.put({key: BIG[:1000]})
        scene.proxy.before = lambda: None

    scene.proxy.before = alter
    told = scene.download()
    assert scene.files() == {MODEL: BIG[:1000]} and told["checked"] == {"md5": 1}


def test_altered_between_two_attempts(scene: Scene) -> None:
    key = f"train-model/{UUIDS[2]}/model/model.safetensors"
    scene.put({key: BIG})
    scene.proxy.cuts = [100_000]
    calls = []

    def alter() -> None:
        calls.append(1)
        if len(calls) == 2:
            scene.put({key: BIG[::-1]})

    scene.proxy.before = alter
    scene.download()
    assert scene.files() == {MODEL: BIG[::-1]}


def test_altered_all_the_time(scene: Scene) -> None:
    key = f"train-model/{UUIDS[2]}/model/model.safetensors"
    scene.put({key: BIG})
    scene.proxy.before = lambda: scene.put({key: random.randbytes(10)})
    assert refused(scene.download, PipelineError).endswith("or was altered, 3 times: try later")


def test_altered_after_it_was_downloaded(scene: Scene) -> None:
    scene.put(FILES)
    scene.download()
    scene.put({f"evaluate-model/{UUIDS[1]}/report": b"<HTML>"})  # of the same size
    (scene.target / "evaluate-model/metrics").write_bytes(METRICS[::-1])
    assert scene.asked and scene.download()["fetched_files"] == 2
    assert scene.asked == ["metrics", "report"]
    assert scene.files() == SHORT | {"evaluate-model/report": b"<HTML>"}


def test_what_comes_wrong_is_not_kept(scene: Scene) -> None:
    scene.put(FILES)
    scene.proxy.flips = True
    line = refused(scene.download, PipelineError)
    assert "came otherwise than its size and ETag say" in line and scene.files() == {}


def test_a_server_that_knows_no_ranges(scene: Scene) -> None:
    scene.put({f"train-model/{UUIDS[2]}/model/model.safetensors": BIG})
    scene.proxy.cuts, scene.proxy.ignores_ranges = [1000, 1000], True
    scene.download()
    assert scene.files() == {MODEL: BIG}


# Checks


def test_what_was_uploaded_in_parts(scene: Scene, s3: S3Server, tmp_path: Path) -> None:
    content = random.Random(2).randbytes(11 * MIB)
    path = tmp_path / "weights"
    path.write_bytes(content)
    s3.put("mlpipeline", "ready", b"")
    key = f"{scene.prefix}train-model/{UUIDS[2]}/model/model.safetensors"
    s3.client.fput_object("mlpipeline", key, str(path), part_size=5 * MIB)
    assert s3.client.stat_object("mlpipeline", key).etag.endswith("-3")
    assert scene.download()["checked"] == {"md5 of parts": 1}
    assert scene.download()["fetched_files"] == 0
    s3.client.fput_object("mlpipeline", key, str(path), part_size=6 * MIB)  # which no one guesses
    assert scene.asked and scene.download()["checked"] == {"size": 1} and len(scene.asked) == 1
    assert scene.download()["fetched_files"] == 0 and scene.files() == {MODEL: content}
    (scene.target / NOTES).unlink()
    line = refused(scene.download)
    assert line.endswith("is in the way, and of no download: name an empty folder with --to")


def test_an_etag_that_is_no_md5_as_it_is_encrypted(scene: Scene) -> None:
    scene.put({f"evaluate-model/{UUIDS[1]}/report": REPORT})
    scene.proxy.flips = True
    scene.proxy.headers = {"x-amz-server-side-encryption-aws-kms-key-id": "a-key"}
    assert scene.download()["checked"] == {"size": 1}
    assert scene.download()["fetched_files"] == 0


def etag_of(content: bytes, part: int) -> str:
    digests = [hashlib.md5(content[at : at + part]).digest() for at in range(0, len(content), part)]
    return f"{hashlib.md5(b''.join(digests)).hexdigest()}-{len(digests)}"


@pytest.mark.parametrize(
    ("etag", "how"),
    [
        (hashlib.md5(BIG).hexdigest(), "md5"),
        (hashlib.md5(b"").hexdigest(), ""),
        (etag_of(BIG, len(BIG)), "md5 of parts"),
        (etag_of(BIG, 5 * MIB), "md5 of parts"),
        (etag_of(BIG, MIB), "size"),
        ("", "size"),
        ("of-another-kind", "size"),
    ],
)
def test_checking_content(tmp_path: Path, etag: str, how: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(BIG)
    assert check_content(path, len(BIG), etag) == how
    assert check_content(path, len(BIG) + 1, etag) == ""


@pytest.mark.parametrize("size", [5 * MIB, 10 * MIB, 10 * MIB + 1])
def test_checking_parts_that_end_where_the_file_does(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(size))
    assert check_content(path, size, etag_of(bytes(size), 5 * MIB)) == "md5 of parts"


# Names


class Listed:
    """An object, as minio lists it."""

    def __init__(self, name: str, size: int = 1) -> None:
        self.object_name, self.size, self.etag = f"run/{name}", size, '"1f"'


def planned(*names: str) -> tuple[list[str], list[str]]:
    items, left_out = plan(Place("b", "run/", [Listed(name, int(not name.endswith("/"))) for name in names]))
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


@pytest.mark.parametrize("names", [("t/a", "t/a/b"), ("t/a", "t/A"), ("t/a", "t/a.part"), ("T/a", "t/a/b")])
def test_names_that_cannot_be_beside_each_other(names: tuple[str, ...]) -> None:
    assert "download them apart" in refused(lambda: planned(*names), PipelineError)


def test_the_kinds_that_people_want() -> None:
    a = UUIDS[0]
    paths = ["evaluate-model/report", f"train-model/{a}/model/x", "archive-model/release", "else/metrics"]
    assert present([Item("", path, 1, "") for path in paths]) == {
        "report": "evaluate-model/report",
        "model": f"train-model/{a}/model",
        "archive": "archive-model/release",
    }
    check_names([])


@pytest.mark.parametrize("name", ["../../evil", "..\\evil", "/evil", "C:evil", "a%0Ab", "%2E%2E/evil", "a%1Bb/evil"])
def test_hostile_names_in_the_store(scene: Scene, capsys: pytest.CaptureFixture[str], name: str) -> None:
    scene.put({"GOOD": b"evil", "evaluate-model/report": REPORT})
    scene.proxy.renames = {b"GOOD": name.encode()}
    told = scene.download()
    assert scene.files() == {"evaluate-model/report": REPORT} and len(told["left_out"]) == 1
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert said.startswith("left out, as it can't be the name of a file: ") and "\x1b" not in said
    assert list(scene.target.parent.parent.rglob("*evil*")) == [] and scene.asked == ["report"]


@pytest.mark.parametrize("root", ["", "file:///x", "minio://", "http://x/y", "s3:/x/y"])
def test_roots_that_are_none(root: str) -> None:
    assert "only minio:// and s3://" in refused(lambda: parse_root(root))


# Refusals


def test_settings_that_are_missing(scene: Scene) -> None:
    line = refused(lambda: scene.download(s3_endpoint="", s3_access_key="", s3_secret_key=""))
    assert line.startswith(
        "the object store is not known: set NLP_PIPELINE_S3_ENDPOINT, NLP_PIPELINE_S3_ACCESS_KEY, "
        "NLP_PIPELINE_S3_SECRET_KEY (keys: the namespace's Secret mlpipeline-minio-artifact has them; "
    )
    assert "kubectl -n kubeflow port-forward svc/minio-service 9000:9000" in line and "svc/seaweedfs" in line
    assert "set NLP_PIPELINE_S3_SECRET_KEY (" in refused(lambda: scene.download(s3_secret_key=""))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"s3_endpoint": "localhost:9000"}, "^NLP_PIPELINE_S3_ENDPOINT is no address of an object store"),
        ({"s3_endpoint": f"http://test-key:{SECRET}@localhost"}, "^NLP_PIPELINE_S3_ENDPOINT is no address"),
        ({"s3_endpoint": "http://localhost/minio/x"}, "^NLP_PIPELINE_S3_ENDPOINT is no address"),
        ({"s3_endpoint": "http://local_host:x"}, "is wrong: "),
        ({"s3_secret_key": f"{SECRET}\n"}, "^NLP_PIPELINE_S3_SECRET_KEY has a blank, a line break"),
        ({"s3_region": "a b"}, "^NLP_PIPELINE_S3_REGION has a blank"),
        ({"s3_secret_key": "wrong"}, r"refuses \(SignatureDoesNotMatch\): check NLP_PIPELINE_S3_ACCESS_KEY and NLP_"),
        ({"s3_access_key": "wrong"}, r"refuses \(InvalidAccessKeyId\): check NLP_PIPELINE_S3_ACCESS_KEY and"),
        ({"ca_cert": "/none"}, r"^ca_cert=/none can't be read"),
    ],
)
def test_settings_that_are_wrong(scene: Scene, changed: Json, says: str) -> None:
    scene.put(FILES)
    settings = scene.settings()
    connection = Connection(settings)
    changed_settings = scene.settings(**changed)
    with pytest.raises(UsageError, match=says) as caught:
        download(connection, changed_settings, scene.run_id, scene.target)
    assert SECRET not in str(caught.value) and "\n" not in str(caught.value)


def test_no_bucket(k: Kubeflow, scene: Scene) -> None:
    k.api._store.runs[scene.run_id]["runtime_config"]["pipeline_root"] = "minio://no-such-bucket/x"
    line = refused(scene.download, NotFoundError)
    assert "(NoSuchBucket): is NLP_PIPELINE_S3_ENDPOINT that of this Kubeflow's object store?" in line


def test_no_one_there(scene: Scene) -> None:
    line = refused(lambda: scene.download(s3_endpoint=f"http://127.0.0.1:{free_ports(1)[0]}"), PipelineError)
    assert "can't be reached (" in line and "Connection refused" in line and "port-forward" in line
    assert "0x" not in line


def test_no_object_store(scene: Scene) -> None:
    assert "is no object store (" in refused(lambda: scene.download(s3_endpoint=scene.host))


def test_minio_is_not_installed(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = "minio is not installed: pip install -c constraints.txt -e '.[deploy]'"
    assert refused(lambda: open_store(scene.settings())) == line


def test_a_folder_of_another_run(scene: Scene) -> None:
    scene.put(FILES)
    scene.download()
    notes = json.loads((scene.target / NOTES).read_text())
    (scene.target / NOTES).write_text(json.dumps(notes | {"run_id": "another"}))
    assert refused(scene.download) == f"{scene.target} has artifacts of run another: name another folder with --to"


def test_a_file_in_the_way(scene: Scene) -> None:
    scene.put(FILES)
    (scene.target / "evaluate-model").mkdir(parents=True)
    (scene.target / "evaluate-model/report").write_text("mine")
    assert "evaluate-model/report is in the way" in refused(scene.download)
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
    scene.put({f"train-model/{UUIDS[2]}/model/model.safetensors": BIG})
    found = Path.open

    def full(path: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
        if mode == "r+b":
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


def test_no_permission(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.put(FILES)

    def forbidden(path: Path, *more: Any, **named: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", forbidden)  # as those who run tests may be allowed everything
    assert refused(scene.download, PipelineError).startswith(f"{scene.target} can't be written (Permission denied)")
