import os
import subprocess
import sys
from pathlib import Path

import pytest

from nlp_pipeline.cli import main
from nlp_pipeline.compiling import COMPILED, compile_pipeline

ROOT = Path(__file__).parents[1]


def test_the_committed_file_is_current() -> None:
    assert (ROOT / COMPILED).read_text(encoding="utf-8") == compile_pipeline()


def test_the_same_bytes_from_another_folder_language_and_hash_seed(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Asia/Tokyo", "HOME": str(tmp_path)}
    subprocess.run(
        [sys.executable, str(ROOT / "pipeline_v2.py"), "--compile"], cwd=tmp_path, env=environment, check=True
    )
    assert (tmp_path / COMPILED).read_bytes() == (ROOT / COMPILED).read_bytes()


def test_check_tells_what_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--compile", "--check"]) == 1
    assert "is not there: write it with --compile" in capsys.readouterr().err
    assert main(["--compile"]) == 0
    assert main(["--compile", "--check"]) == 0
    text = COMPILED.read_text(encoding="utf-8")
    COMPILED.write_text(text.replace("Defines the", "").replace("defaultValue: 0.97", "defaultValue: 0.5"))
    capsys.readouterr()
    assert main(["--compile", "--check"]) == 1
    said = capsys.readouterr()
    assert "-        defaultValue: 0.5" in said.out and "+        defaultValue: 0.97" in said.out
    assert said.err == "error: compiled/nlp_pipeline.yaml is stale: write it anew with --compile\n"


def test_no_path_of_this_machine_is_compiled_in() -> None:
    text = (ROOT / COMPILED).read_text(encoding="utf-8")
    assert str(ROOT) not in text and str(Path.home()) not in text and sys.prefix not in text
