import os
import shutil
from pathlib import Path

import pytest

from nlp_pipeline.errors import PipelineError
from nlp_pipeline.volume import VARIABLE, Run, put


def run_on(volume: Path | str, name: str = "model") -> Run:
    return Run(model_name=name, run_id="run", volume_path=str(volume))


def test_a_runs_folder_is_made_where_the_volume_is(tmp_path: Path) -> None:
    run = run_on(tmp_path)
    for _ in range(2):
        run.prepare_folder()
        assert run.folder == tmp_path / "model" / "runs" / "run" and run.folder.is_dir()
    (tmp_path / "other").touch()
    with pytest.raises(PipelineError, match=r"can't be made on the volume .*: user \d+ must be able to write"):
        run_on(tmp_path, "other").prepare_folder()


def test_the_volume_is_where_it_is_mounted_or_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert Run(model_name="model", run_id="run").model_folder == tmp_path / "model"
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    assert Run(model_name="model", run_id="run").volume_path == ""


def test_without_a_volume_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "source").touch()
    run = run_on("")
    run.prepare_folder()
    assert run.folder is run.model_folder is None
    assert run.keep("source", "deep/target") == Path("source")
    assert list(tmp_path.iterdir()) == [tmp_path / "source"]


def test_a_file_is_copied_and_replaced(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "volume" / "deep" / "target"
    for content in ("one", "two"):
        source.write_text(content)
        assert put(source, target) == target
        assert target.read_text() == content
        assert list(target.parent.iterdir()) == [target]
    assert source.exists()


def test_a_folder_is_copied_and_replaced(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "volume" / "target"
    (source / "sub" / "empty").mkdir(parents=True)
    (source / "sub" / "file").write_text("one")
    (source / "link").symlink_to(source / "sub" / "file")
    put(source, target)
    (source / "sub" / "file").unlink()
    (source / "link").unlink()
    (source / "other").write_text("two")
    assert (target / "sub" / "file").read_text() == (target / "link").read_text() == "one"
    assert (target / "sub" / "empty").is_dir()
    put(source, target)
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
        put(source, target)
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
    put(source, target)
    assert (target / "sub" / "file").read_text() == "one"
