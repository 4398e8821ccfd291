import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from nlp_pipeline.progress import Progress

PRINTED = """13:04:16.058 - INFO - Running pipeline: \x1b[95m'nlp-pipeline'\x1b[0m
13:04:16.058 - INFO - Executing task \x1b[96m'load-data'\x1b[0m
13:04:16.059 - INFO - Streamed logs:

    [markup] 12 rows

13:04:34.327 - INFO - Task \x1b[96m'load-data'\x1b[0m finished with status \x1b[92mSUCCESS\x1b[0m
13:04:34.327 - INFO - Task \x1b[96m'load-data'\x1b[0m outputs:
    train: Dataset( name='train',
13:04:35.000 - INFO - Executing task \x1b[96m'train-model'\x1b[0m
    Traceback (most recent call last):
      File "x.py", line 1, in <module>
    FileNotFoundError: the first
    During handling of the above exception, another exception occurred:
    some.module.TooBadError: batch_size is 0: it must be 1 or more
13:04:36.000 - ERROR - Task \x1b[96m'train-model'\x1b[0m finished with status \x1b[91mFAILURE\x1b[0m
"""


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_steps_are_told_apart_in_pieces_of_any_size(tmp_path: Path, size: int) -> None:
    shown = io.StringIO()
    with Progress(tmp_path / "log", shown) as progress:
        for at in range(0, len(PRINTED), size):
            progress.write(PRINTED[at : at + size])
    assert list(progress.seconds) == ["load_data", "train_model"]
    assert progress.error_messages == {"train_model": "batch_size is 0: it must be 1 or more"}
    lines = [re.sub(r"[\d.]+ s$", "N s", line) for line in shown.getvalue().splitlines()]
    assert lines[:4] == ["load_data ...", "  [markup] 12 rows", "load_data done after N s", "train_model ..."]
    assert lines[-1] == "train_model failed after N s"
    # A traceback is for the log, which keeps everything, without colours.
    assert "File" not in shown.getvalue() and "Traceback" not in shown.getvalue()
    assert (tmp_path / "log").read_text() == re.sub(r"\x1b\[\d+m", "", PRINTED)


def test_a_terminal_gets_a_line_a_step(tmp_path: Path) -> None:
    shown = io.StringIO()
    with Progress(tmp_path / "log", shown) as progress:
        progress.console = Console(file=shown, force_terminal=True, width=100)
        progress.write(PRINTED)
    assert "✓" in shown.getvalue() and "✗" in shown.getvalue()
    assert "[markup] 12 rows" in shown.getvalue()
    assert progress.live is None
