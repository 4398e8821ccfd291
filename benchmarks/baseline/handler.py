"""The former pipeline's TorchServe handler: transformers in eager mode, one instance at a time, one worker.

It answers the KServe v1 protocol as ours does. `serving.json` holds `max_length`.
"""

import json
from pathlib import Path
from typing import Any

import torch
import transformers


class EagerHandler:
    """Classifies texts with transformers."""

    def initialize(self, context: Any) -> None:
        """Loads the model folder that the archive holds."""
        folder = Path(context.system_properties["model_dir"])
        settings = json.loads((folder / "serving.json").read_text(encoding="utf-8"))
        self.max_length = settings["max_length"]
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
        self.classify("a short text")

    @torch.inference_mode()
    def classify(self, text: str) -> dict[str, Any]:
        """Classifies one text."""
        tokens = self.tokenizer(text, truncation=True, max_length=self.max_length, return_tensors="pt")
        probabilities = self.model(**tokens).logits[0].float().softmax(-1)
        best = int(probabilities.argmax())
        return {"label": self.model.config.id2label[best], "score": float(probabilities[best])}

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        """Answers the requests of a batch, which holds one."""
        bodies = [row.get("body", row.get("data")) for row in data]
        bodies = [json.loads(body) if isinstance(body, (bytes, bytearray, str)) else body for body in bodies]
        return [{"predictions": [self.classify(text) for text in body["instances"]]} for body in bodies]
