import re
import sys
from pathlib import Path

import pytest

from nlp_pipeline import readme


def test_the_generated_parts_are_current() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert readme.generate(text) == text


def test_a_stale_readme_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = tmp_path / "README.md"
    stale.write_text(readme.README.read_text(encoding="utf-8").replace("| `epochs` | float | `2.0` |", "| `epochs` |"))
    monkeypatch.setattr(readme, "README", stale)
    monkeypatch.setattr(sys, "argv", ["readme", "--check"])
    with pytest.raises(SystemExit, match="make readme"):
        readme.main()
    assert "+| `epochs` | float | `2.0` |" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["readme"])
    readme.main()
    assert stale.read_text(encoding="utf-8") == readme.README.read_text(encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["readme", "--check"])
    readme.main()
    assert "| `epochs` | float | `2.0` |" in stale.read_text(encoding="utf-8")


def test_what_the_readme_names_exists() -> None:
    text = readme.README.read_text(encoding="utf-8")
    for path in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (readme.README.parent / path).exists(), path
    makefile = (readme.README.parent / "Makefile").read_text()
    for target in re.findall(r"`?make (\w+)", text):
        assert f"\n{target}:" in makefile, target


def test_missing_markers_are_told() -> None:
    with pytest.raises(SystemExit, match="lacks the markers"):
        readme.generate("# no markers\n")
