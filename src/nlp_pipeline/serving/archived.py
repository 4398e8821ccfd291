"""A release's model in this process, as the servers have it."""

import json
import zipfile
from pathlib import Path

from nlp_pipeline.serving.model import TextClassifier


def load_archived(release: Path, model_name: str) -> TextClassifier:
    """Returns the model of a release's archive, which is read in memory."""
    with zipfile.ZipFile(release / "model-store" / f"{model_name}.mar") as archive:
        names = ("model.onnx", "tokenizer.json", "serving.json")
        model, tokenizer, settings = (archive.read(name) for name in names)
    classifier = TextClassifier()
    classifier.load(model, tokenizer.decode(), json.loads(settings))
    return classifier
