"""The baseline's `.mar`, packed by torch-model-archiver: the model folder and the handler."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("handler.py")
FILES = ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]


def baseline_config(config: str) -> str:
    """Returns our release's config.properties with one worker that answers one request at a time, whatever ours has."""
    return re.sub(r'"(minWorkers|maxWorkers|batchSize|maxBatchDelay)": ?\d+', r'"\1":1', config)


def build(model: Path, folder: Path, model_name: str, config: str, max_length: int) -> None:
    """Builds config/ and model-store/ as a release with our config.properties has them, with the baseline's handler.

    Args:
        model: The model as save_pretrained writes it.
        folder: The release's folder.
        model_name: The model's name.
        config: Our release's config.properties.
        max_length: Tokens at which a text is cut.
    """
    (folder / "config").mkdir()
    (folder / "model-store").mkdir()
    (folder / "config" / "config.properties").write_text(baseline_config(config), encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        for name in FILES:
            shutil.copyfile(model / name, work / name)
        shutil.copyfile(SOURCE, work / "handler.py")
        (work / "serving.json").write_text(json.dumps({"max_length": max_length}), encoding="utf-8")
        command = ["--model-name", model_name, "--version", "1.0", "--serialized-file", FILES[0]]
        command += ["--handler", "handler.py", "--extra-files", ",".join([*FILES[1:], "serving.json"])]
        command += ["--export-path", str((folder / "model-store").resolve())]
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "model_archiver.model_packaging", *command],
            cwd=work,
            env={**os.environ, "TMPDIR": scratch},
            capture_output=True,
            text=True,
        )
    if done.returncode != 0 or not (folder / "model-store" / f"{model_name}.mar").is_file():
        raise RuntimeError(f"torch-model-archiver failed: {(done.stderr or done.stdout).strip()[-300:]}")
