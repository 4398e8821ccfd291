from pathlib import Path

import pytest

from nlp_pipeline.steps.train_model.trainer import checkpoint_folder, last_checkpoint
from nlp_pipeline.volume import Run


def run(volume: object, run_id: str) -> Run:
    return Run(model_name="tiny", run_id=run_id, volume_path=str(volume))


def test_only_a_repeated_run_finds_the_checkpoints_of_one_that_failed(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gone"), checkpoint_folder(run(tmp_path, "first"), ["rows", 1.0]) as first:
        (first / "checkpoint-9").mkdir()
        raise OSError("gone")
    with checkpoint_folder(run(tmp_path, "second"), ["rows", 2.0]) as other:
        assert other != first
    with checkpoint_folder(run(tmp_path, "third"), ["rows", 1.0]) as again:
        assert again == first and (again / "checkpoint-9").is_dir()
        with checkpoint_folder(run(tmp_path, "fourth"), ["rows", 1.0]) as meanwhile:
            assert meanwhile.name == f"{again.name}-fourth"
    assert list((tmp_path / "tiny" / "checkpoints").iterdir()) == []


def test_without_a_volume_checkpoints_are_a_runs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with checkpoint_folder(run("", "first"), []) as first, checkpoint_folder(run("", "second"), []) as second:
        assert first != second and first.is_relative_to(tmp_path) and second.is_relative_to(tmp_path)


def test_the_last_complete_checkpoint_is_by_number_not_by_name(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) == 0
    for number in (9, 10, 100):
        (tmp_path / f"checkpoint-{number}").mkdir()
        if number != 100:
            (tmp_path / f"checkpoint-{number}" / "complete").touch()
    assert last_checkpoint(tmp_path) == 10
