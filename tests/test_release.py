"""A release is there whole or not at all, whoever else publishes and whenever a publisher is killed."""

import json
import os
import shutil
import signal
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nlp_pipeline.errors import UsageError
from nlp_pipeline.release import CARD, Release, hash_files, publish, seal, verify

MAR = "model-store/a.mar"


def make_release(folder: Path, content: str = "content", run_id: str = "run") -> str:
    """Makes a sealed release and returns its digest."""
    for name in ("config/config.properties", MAR, "huggingface/config.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name} {content}" * 1000)
    return seal(folder, Release(model_name="a", run_id=run_id, labels=["ä", "b"])).digest


@pytest.fixture
def digest(tmp_path: Path) -> str:
    """The digest of a sealed release in the folder `a`."""
    return make_release(tmp_path / "a")


def published(model_folder: Path) -> list[str]:
    """Returns what lies under releases/, having made sure that each is whole."""
    found = sorted((model_folder / "releases").glob("*"))
    assert [verify(folder).digest for folder in found] == [folder.name for folder in found]
    return [folder.name for folder in found]


def staged(model_folder: Path) -> list[str]:
    return sorted(path.name for path in (model_folder / "staging").iterdir())


def test_the_digest_is_of_the_content_alone(tmp_path: Path, digest: str) -> None:
    assert make_release(tmp_path / "b", run_id="another") == digest != make_release(tmp_path / "c", "other")
    (tmp_path / "b" / MAR).rename(tmp_path / "b" / "renamed")
    assert seal(tmp_path / "b", Release(model_name="a")).digest != digest


def test_the_card_is_sealed_but_does_not_make_another_release(tmp_path: Path, digest: str) -> None:
    (tmp_path / "a" / CARD).write_text("# made in a minute")
    release = seal(tmp_path / "a", Release(model_name="a"))
    assert release.digest == digest and CARD in release.files
    (tmp_path / "a" / CARD).write_text("# made by another")
    with pytest.raises(UsageError, match=f"is spoilt: {CARD} is missing, altered or none"):
        verify(tmp_path / "a")


def test_the_record_is_what_was_sealed(tmp_path: Path, digest: str) -> None:
    release = verify(tmp_path / "a")
    assert release == Release(**json.loads((tmp_path / "a" / "release.json").read_text()))
    assert (release.digest, release.model_name, release.run_id, release.labels) == (digest, "a", "run", ["ä", "b"])
    assert release.files == hash_files(tmp_path / "a") and MAR in release.files
    change_record(tmp_path / "a", more=1)  # a later version may note more
    assert verify(tmp_path / "a") == release


def change_record(folder: Path, **changed: Any) -> None:
    record = json.loads((folder / "release.json").read_text())
    (folder / "release.json").write_text(json.dumps({**record, **changed}))


ILL_FORMED: list[Any] = [None, {"a": 1}]
NO_RECORDS = ["", "[]", '{"digest": "0123456789abcdef"}']
SPOILT: list[tuple[Callable[[Path], Any], str]] = [
    (lambda folder: (folder / MAR).unlink(), f"is spoilt: {MAR} is missing, altered or none"),
    (lambda folder: (folder / MAR).write_text("other"), f"is spoilt: {MAR} is missing, altered"),
    (lambda folder: (folder / "config" / "more").touch(), "is spoilt: config/more is missing, altered"),
    (lambda folder: change_record(folder, digest="0" * 16), "is spoilt: release.json is missing, altered"),
    (lambda folder: change_record(folder, files={}), "is spoilt: config/config.properties is missing, altered"),
    *[(partial(change_record, files=files), "has no sound release.json; they lie in") for files in ILL_FORMED],
    *[(lambda folder, text=text: (folder / "release.json").write_text(text), "is no release") for text in NO_RECORDS],
    (lambda folder: shutil.rmtree(folder), "is no release"),
    (lambda folder: (folder / "link").symlink_to("nowhere"), "can't be read (No such file or directory: "),
]


@pytest.mark.parametrize(("spoil", "says"), SPOILT)
def test_a_spoilt_release_is_named_in_one_line(
    tmp_path: Path, digest: str, spoil: Callable[[Path], Any], says: str
) -> None:
    spoil(tmp_path / "a")
    with pytest.raises(UsageError) as caught:
        verify(tmp_path / "a")
    assert str(caught.value).startswith(f"{tmp_path / 'a'} ") and says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_volume_the_release_stays_where_it_is(tmp_path: Path, digest: str) -> None:
    assert publish(tmp_path / "a", None, digest) == tmp_path / "a"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_the_same_content_twice_is_a_no_op(tmp_path: Path, digest: str) -> None:
    first = publish(tmp_path / "a", tmp_path / "volume", digest)
    assert first == tmp_path / "volume" / "releases" / digest
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    make_release(tmp_path / "a", run_id="the second run")
    assert publish(tmp_path / "a", tmp_path / "volume", digest) == first
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before
    assert verify(first).run_id == "run" and staged(tmp_path / "volume") == []


def test_what_lies_in_the_way_is_not_overwritten(tmp_path: Path, digest: str) -> None:
    target = tmp_path / "volume" / "releases" / digest
    target.mkdir(parents=True)
    (target / "notes").write_text("mine")
    with pytest.raises(OSError, match="not empty"):
        publish(tmp_path / "a", tmp_path / "volume", digest)
    assert [path.name for path in target.iterdir()] == ["notes"] and staged(tmp_path / "volume") == []


def test_others_can_read_it(tmp_path: Path, digest: str) -> None:
    former = os.umask(0o077)
    try:
        release = publish(tmp_path / "a", tmp_path / "volume", digest)
    finally:
        os.umask(former)
    for path in [release, *release.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path


def die_before(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends this process before call `number` of those that touch the disk; a copy halfway."""
    calls = iter(range(1, 10_000))
    copyfile = shutil.copyfile

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(calls) == number:
                if function is copyfile:
                    Path(arguments[1]).write_bytes(Path(arguments[0]).read_bytes()[:100])
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for name in ("mkdir", "rename", "fsync", "chmod"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    for name in ("copyfile", "rmtree"):
        monkeypatch.setattr(shutil, name, counted(getattr(shutil, name)))


def test_a_kill_at_any_point_leaves_nothing_half_published(
    tmp_path: Path, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[bool] = []
    status = -1
    while status != 0:
        number = len(states) + 1
        volume = tmp_path / f"volume{number}"
        child = os.fork()
        if child == 0:
            try:
                die_before(number, monkeypatch)
                publish(tmp_path / "a", volume, digest)
                os._exit(0)
            finally:
                os._exit(1)
        status = os.waitpid(child, 0)[1]
        states.append(published(volume) == [digest])
        if status != 0:
            assert os.WTERMSIG(status) == signal.SIGKILL
            for record in volume.glob("staging/*/release.json"):  # the last file: all others are there
                assert hash_files(record.parent) == hash_files(tmp_path / "a")
            # The next run publishes all the same.
            publish(tmp_path / "a", volume, digest)
            assert published(volume) == [digest]
    assert states == sorted(states) and states[0] is False and states[-1] is True
    assert len(states) > 15  # or the counting has come apart


def test_what_a_killed_run_left_is_removed_an_hour_later(tmp_path: Path, digest: str) -> None:
    staging = tmp_path / "volume" / "staging"
    for name in ("old", "new"):
        (staging / name).mkdir(parents=True)
        (staging / name / "half").write_text("half")
    os.utime(staging / "old", (time.time() - 4000, time.time() - 4000))
    publish(tmp_path / "a", tmp_path / "volume", digest)
    assert staged(tmp_path / "volume") == ["new"]


def test_two_publish_at_once(tmp_path: Path) -> None:
    digests = {name: make_release(tmp_path / name, content) for name, content in (("a", "1"), ("b", "1"), ("c", "2"))}
    for number in range(5):
        volume, barrier = tmp_path / f"volume{number}", threading.Barrier(6)

        def run(name: str, volume: Path = volume, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            publish(tmp_path / name, volume, digests[name])

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(run, "abcabc"))
        assert published(volume) == sorted(set(digests.values())) and staged(volume) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, digest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        publish(tmp_path / "a", tmp_path / "volume", digest)
    assert published(tmp_path / "volume") == staged(tmp_path / "volume") == []
