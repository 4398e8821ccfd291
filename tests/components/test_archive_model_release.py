"""A release is there whole or not at all, whoever else publishes and whenever a publisher is killed."""

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.components.archive_model_release import (
    publish_release,
    release_digest,
    release_files,
    seal_release,
)


def make_folder(folder: Path, content: str = "content") -> str:
    """Makes a sealed release and returns its digest."""
    for name in ("config/config.properties", "model-store/a.mar", "huggingface/config.json"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(f"{name} {content}" * 1000)
    return seal_release(str(folder), {"model_name": "a"})


def whole_releases(model_folder: Path) -> list[str]:
    """Returns what lies under releases/, having made sure that each is whole."""
    found = sorted((model_folder / "releases").glob("*"))
    for release in found:
        record = json.loads((release / "release.json").read_text())
        assert record["digest"] == release.name
        assert record["files"] == release_files(str(release))
    return [release.name for release in found]


def test_the_digest_is_of_the_content_alone(tmp_path: Path) -> None:
    digests = [make_folder(tmp_path / "a"), make_folder(tmp_path / "b"), make_folder(tmp_path / "c", "other")]
    assert digests[0] == digests[1] != digests[2]
    # A file by another name is another release.
    (tmp_path / "b" / "config" / "config.properties").rename(tmp_path / "b" / "config" / "other")
    assert release_digest(release_files(str(tmp_path / "b"))) != digests[0]
    # What the record says is no content.
    assert seal_release(str(tmp_path / "a"), {"model_name": "a", "run_id": "other"}) == digests[0]


def test_without_a_volume_the_release_is_the_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    digest = make_folder(tmp_path / "a")
    assert publish_release(str(tmp_path / "a"), "", digest) == str(tmp_path / "a")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_the_same_content_twice_is_a_no_op(tmp_path: Path) -> None:
    digest = make_folder(tmp_path / "a")
    first = Path(publish_release(str(tmp_path / "a"), str(tmp_path / "volume"), digest))
    assert first == tmp_path / "volume" / "releases" / digest
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    record = (first / "release.json").read_bytes()
    seal_release(str(tmp_path / "a"), {"model_name": "a", "run_id": "the second run"})
    assert publish_release(str(tmp_path / "a"), str(tmp_path / "volume"), digest) == str(first)
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before
    assert (first / "release.json").read_bytes() == record
    assert list((tmp_path / "volume" / "staging").iterdir()) == []


def test_what_lies_in_the_way_is_not_overwritten(tmp_path: Path) -> None:
    digest = make_folder(tmp_path / "a")
    target = tmp_path / "volume" / "releases" / digest
    target.mkdir(parents=True)
    (target / "notes").write_text("mine")
    with pytest.raises(OSError, match="not empty"):
        publish_release(str(tmp_path / "a"), str(tmp_path / "volume"), digest)
    assert [path.name for path in target.iterdir()] == ["notes"]
    assert list((tmp_path / "volume" / "staging").iterdir()) == []


def test_others_can_read_it(tmp_path: Path) -> None:
    former = os.umask(0o077)
    try:
        digest = make_folder(tmp_path / "a")
        release = Path(publish_release(str(tmp_path / "a"), str(tmp_path / "volume"), digest))
    finally:
        os.umask(former)
    for path in [release, *release.rglob("*")]:
        wanted = 0o755 if path.is_dir() else 0o644
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


# Counts what touches the disk, and kills the process before call number N; copies are killed halfway.
KILLED = """
import os, shutil, signal, sys
from nlp_pipeline.components.archive_model_release import publish_release

left = int(sys.argv[1])

def counted(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            if function is copyfile:
                with open(arguments[1], "wb") as file:
                    file.write(open(arguments[0], "rb").read()[:100])
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call

copyfile = shutil.copyfile
for module, names in ((os, ["mkdir", "rename", "fsync", "chmod"]), (shutil, ["copyfile", "rmtree"])):
    for name in names:
        setattr(module, name, counted(getattr(module, name)))
publish_release(*sys.argv[2:])
"""


def test_a_kill_at_any_point_leaves_nothing_half_published(tmp_path: Path) -> None:
    digest = make_folder(tmp_path / "a")
    number, states = 0, []
    while True:
        number += 1
        volume = tmp_path / f"volume{number}"
        arguments = [str(number), str(tmp_path / "a"), str(volume), digest]
        done = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
        states.append(whole_releases(volume) == [digest])
        if done.returncode == 0:
            break
        assert done.returncode == -9
        for left in volume.glob("staging/*/release.json"):  # the last file: all others are there
            assert release_files(str(left.parent)) == release_files(str(tmp_path / "a"))
        # The next run publishes all the same.
        publish_release(str(tmp_path / "a"), str(volume), digest)
        assert whole_releases(volume) == [digest]
        shutil.rmtree(volume)
    assert states == sorted(states) and states[0] is False and states[-1] is True
    assert number > 15  # or the counting has come apart


def test_what_a_killed_run_left_is_removed_an_hour_later(tmp_path: Path) -> None:
    digest = make_folder(tmp_path / "a")
    staging = tmp_path / "volume" / "staging"
    for name in ("old", "new"):
        (staging / name).mkdir(parents=True)
        (staging / name / "half").write_text("half")
    os.utime(staging / "old", (time.time() - 4000, time.time() - 4000))
    publish_release(str(tmp_path / "a"), str(tmp_path / "volume"), digest)
    assert [path.name for path in staging.iterdir()] == ["new"]


def test_two_publish_at_once(tmp_path: Path) -> None:
    digests = [make_folder(tmp_path / name, content) for name, content in (("a", "1"), ("b", "1"), ("c", "2"))]
    volume = tmp_path / "volume"
    for _ in range(20):
        barrier = threading.Barrier(6)
        failed: list[BaseException] = []

        def publish(name: str, digest: str, barrier: Any = barrier, failed: Any = failed) -> None:
            barrier.wait()
            try:
                publish_release(str(tmp_path / name), str(volume), digest)
            except BaseException as error:  # noqa: BLE001, the test tells it
                failed.append(error)

        threads = [
            threading.Thread(target=publish, args=(name, digest))
            for name, digest in zip("abcabc", digests * 2, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert whole_releases(volume) == sorted(set(digests))
        assert list((volume / "staging").iterdir()) == []
        shutil.rmtree(volume)


def test_another_run_may_publish_while_staging_is_tidied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = make_folder(tmp_path / "a")
    (tmp_path / "volume" / "staging" / "another").mkdir(parents=True)
    scandir = os.scandir

    def vanishing(path: Any) -> Any:
        entries = scandir(path)
        if path != str(tmp_path / "volume" / "staging"):
            return entries
        with entries:
            listed = list(entries)
        (tmp_path / "volume" / "staging" / "another").rmdir()
        return listed

    monkeypatch.setattr(os, "scandir", vanishing)
    publish_release(str(tmp_path / "a"), str(tmp_path / "volume"), digest)
    assert whole_releases(tmp_path / "volume") == [digest]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = make_folder(tmp_path / "a")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        publish_release(str(tmp_path / "a"), str(tmp_path / "volume"), digest)
    assert whole_releases(tmp_path / "volume") == []
    assert list((tmp_path / "volume" / "staging").iterdir()) == []
