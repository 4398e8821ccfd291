import json
import shutil
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from benchmarks.baseline.archive import SOURCE, baseline_config, build
from benchmarks.baseline.handler import EagerHandler
from benchmarks.model import NAME

SETTINGS = {"marName": "m.mar", "minWorkers": 2, "maxWorkers": 2, "batchSize": 8, "responseTimeout": 120}
SNAPSHOT = {"name": "startup.cfg", "modelCount": 1, "models": {"m": {"1.0": SETTINGS}}}
CONFIG = f"inference_address=http://0.0.0.0:8085\nmodel_snapshot={json.dumps(SNAPSHOT)}\n"
TEXTS = ["a superb film", "a dreadful film that was long " * 40, "é"]


def context(folder: Path) -> Any:
    return types.SimpleNamespace(system_properties={"model_dir": str(folder)})


def expected(model: Path, texts: list[str]) -> list[dict[str, Any]]:
    """What transformers' own pipeline says."""
    classify = transformers.pipeline("text-classification", model=str(model), dtype=torch.float32, device="cpu")
    return [classify(text, truncation=True, max_length=60)[0] for text in texts]


def test_the_baseline_says_what_transformers_says(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / "serving.json").write_text(json.dumps({"max_length": 60}), encoding="utf-8")
    eager = EagerHandler()
    eager.initialize(context(folder))
    body = {"instances": TEXTS}
    for sent in (body, json.dumps(body), json.dumps(body).encode()):
        (answered,) = eager.handle([{"body": sent}], context(folder))
        for prediction, reference in zip(answered["predictions"], expected(model, TEXTS), strict=True):
            assert prediction["label"] == reference["label"]
            assert prediction["score"] == pytest.approx(reference["score"], abs=1e-5)
    assert len({each["label"] for each in expected(model, TEXTS)}) > 1


def test_its_archive_holds_the_model_folder_and_answers(model: Path, tmp_path: Path) -> None:
    release = tmp_path / "release"
    release.mkdir()
    build(model, release, NAME, CONFIG, 60)
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(release / "model-store" / f"{NAME}.mar") as archive:
        archive.extractall(folder)
    assert (folder / "handler.py").read_text(encoding="utf-8") == SOURCE.read_text(encoding="utf-8")
    eager = EagerHandler()
    eager.initialize(context(folder))
    labels = [eager.classify(text)["label"] for text in TEXTS]
    assert labels == [each["label"] for each in expected(model, TEXTS)]


def test_its_configuration_differs_in_workers_and_batches_only() -> None:
    [address, snapshot] = baseline_config(CONFIG).splitlines()
    assert address == CONFIG.splitlines()[0]
    settings = json.loads(snapshot.removeprefix("model_snapshot="))["models"]["m"]["1.0"]
    assert settings == SETTINGS | {"minWorkers": 1, "maxWorkers": 1, "batchSize": 1}
