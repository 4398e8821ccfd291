"""A release's model in this process, as the servers have it."""

import json
import zipfile
from pathlib import Path
from typing import Any

from nlp_pipeline.serving.model import TextClassifier


def read_settings(release: Path, model_name: str) -> dict[str, Any]:
    """Returns how the model of a release's archive is used, without loading it."""
    with zipfile.ZipFile(release / "model-store" / f"{model_name}.mar") as archive:
        settings: dict[str, Any] = json.loads(archive.read("serving.json"))
    return settings


def load_archived(release: Path, model_name: str) -> TextClassifier:
    """Returns the model of a release's archive, which is read in memory."""
    classifier = TextClassifier()
    settings = read_settings(release, model_name)
    with zipfile.ZipFile(release / "model-store" / f"{model_name}.mar") as archive:
        classifier.load(archive.read("model.onnx"), archive.read("tokenizer.json").decode(), settings)
    return classifier
