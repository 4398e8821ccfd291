"""A release's model in this process, as the servers have it."""

import json
import zipfile
from pathlib import Path

from nlp_pipeline.serving.model import TextClassifier


def load_archived(release: Path, model_name: str) -> TextClassifier:
    """Returns the model of a release's archive, which is read in memory."""
    classifier = TextClassifier()
    with zipfile.ZipFile(release / "model-store" / f"{model_name}.mar") as archive:
        settings = json.loads(archive.read("serving.json"))
        classifier.load(archive.read("model.onnx"), archive.read("tokenizer.json").decode(), settings)
    return classifier
