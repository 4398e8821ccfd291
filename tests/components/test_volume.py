import os
import shutil
from pathlib import Path

import pytest

from nlp_pipeline.components.volume import model_folder, put_on_volume, run_folder


@pytest.mark.parametrize("name", ["a", "movie-reviews", "a" * 63, "a1"])
def test_run_folder_is_made(tmp_path: Path, name: str) -> None:
    folder = run_folder(str(tmp_path), name, "run")
    assert Path(folder) == tmp_path / name / "runs" / "run"
    assert Path(folder).is_dir()
    assert run_folder(str(tmp_path), name, "run") == folder


@pytest.mark.parametrize("name", ["", "A", "1a", "-a", "a-", "a_b", "a.b", "a/b", "../a", "a" * 64, "a\n"])
def test_a_wrong_model_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="it must be lower-case letters, digits and hyphens") as caught:
        run_folder(str(tmp_path), name, "run")
    assert repr(name) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_volume_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is the volume claim mounted there"):
        run_folder(str(tmp_path / "none"), "model", "run")


def test_a_volume_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "model").touch()
    with pytest.raises(RuntimeError, match="can't be made on the volume"):
        run_folder(str(tmp_path), "model", "run")


def test_without_a_volume_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "source").touch()
    assert run_folder("", "model", "run") == model_folder("", "model") == ""
    assert put_on_volume("source", "", "deep/target") == "source"
    assert list(tmp_path.iterdir()) == [tmp_path / "source"]
    with pytest.raises(ValueError, match="model_name is 'No Name'"):
        run_folder("", "No Name", "run")


def test_a_file_is_copied_and_replaced(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "volume" / "deep" / "target"
    for content in ("one", "two"):
        source.write_text(content)
        assert put_on_volume(str(source), str(tmp_path / "volume"), "deep/target") == str(target)
        assert target.read_text() == content
        assert list(target.parent.iterdir()) == [target]
    assert source.exists()


def test_a_folder_is_copied_and_replaced(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "volume" / "target"
    (source / "sub" / "empty").mkdir(parents=True)
    (source / "sub" / "file").write_text("one")
    (source / "link").symlink_to(source / "sub" / "file")
    put_on_volume(str(source), str(target.parent), target.name)
    (source / "sub" / "file").unlink()
    (source / "link").unlink()
    (source / "other").write_text("two")
    assert (target / "sub" / "file").read_text() == (target / "link").read_text() == "one"
    assert (target / "sub" / "empty").is_dir()
    put_on_volume(str(source), str(target.parent), target.name)
    assert sorted(path.name for path in target.iterdir()) == ["other", "sub"]
    assert list((target / "sub").iterdir()) == [target / "sub" / "empty"]
    assert list(target.parent.iterdir()) == [target]


def test_a_failed_copy_leaves_the_former_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "source", tmp_path / "volume" / "target"
    source.mkdir()
    for name in "ab":
        (source / name).write_text("new")
    target.mkdir(parents=True)
    (target / "a").write_text("former")
    copyfile = shutil.copyfile

    def full(source: str, target: str) -> None:
        copyfile(source, target)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        put_on_volume(str(source), str(target.parent), target.name)
    assert list(target.parent.iterdir()) == [target]
    assert (target / "a").read_text() == "former"


def test_a_volume_with_fixed_modes_and_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "source", tmp_path / "volume" / "target"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "file").write_text("one")

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    for name in ("chmod", "utime", "chown"):
        monkeypatch.setattr(os, name, refuse)
    put_on_volume(str(source), str(target.parent), target.name)
    assert (target / "sub" / "file").read_text() == "one"
