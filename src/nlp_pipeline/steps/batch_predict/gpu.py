"""A release's model computed by torch on a GPU, from its Hugging Face folder: int8 as in the archive is for CPUs."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers

from nlp_pipeline.serving.model import TextClassifier

TEXTS = 1024  # are tokenised at once, by one thread
TOKENS = 32_768  # of a model call, with padding


class TorchSession:
    """Computes what an `onnxruntime.InferenceSession` of the same model does, of any number of texts.

    In float16, which is twice as fast as float32 or more, and rounds to an eighth of what bfloat16 does: scores move
    by less than they do in the archive's int8. A model whose numbers are too large for it is computed in float32.
    """

    def __init__(self, model: Path, device: str, dtype: torch.dtype = torch.float16) -> None:
        self.model, self.device = model, device
        self.lock = threading.Lock()  # so that one call's activations are in memory, while other threads tokenise
        self.load(dtype)

    def load(self, dtype: torch.dtype) -> None:
        """Loads the model in a number format."""
        transformers.logging.disable_progress_bar()
        network = transformers.AutoModelForSequenceClassification.from_pretrained(self.model, dtype=dtype)
        self.network = network.eval().to(self.device)

    def get_inputs(self) -> list[Any]:
        """Returns the inputs, by their `name`."""
        return [SimpleNamespace(name=name) for name in ("input_ids", "attention_mask")]

    def run(self, _: None, columns: dict[str, Any]) -> list[Any]:
        """Returns the logits, in a list."""
        with self.lock, torch.inference_mode():
            logits = self.compute(columns)
            if self.network.dtype == torch.float16 and not np.isfinite(logits).all():
                print("numbers are too large for float16: computes in float32", flush=True)
                self.load(torch.float32)
                logits = self.compute(columns)
        return [logits]

    def compute(self, columns: dict[str, Any]) -> Any:
        """Returns the logits; texts alike in length share calls, of `TOKENS` tokens each."""
        lengths = columns["attention_mask"].sum(axis=1)
        order, done = np.argsort(-lengths, kind="stable"), 0
        found: list[Any] = []
        while done < len(order):
            longest = lengths[order[done]]
            rows = order[done : done + max(1, TOKENS // longest)]
            inputs = {name: torch.from_numpy(values[rows, :longest]) for name, values in columns.items()}
            found.append(self.network(**{name: ids.to(self.device) for name, ids in inputs.items()}).logits)
            done += len(rows)
        logits = torch.cat(found).float().cpu().numpy()
        return logits[np.argsort(order)]


class SharedTokenizer:
    """A tokenizer whose `encode` lets other threads run meanwhile, which only its `encode_batch` does by itself."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def encode(self, text: str) -> Any:
        """Returns the encoding of a text."""
        return self.tokenizer.encode_batch([text])[0]


def use_torch(classifier: TextClassifier, session: TorchSession) -> None:
    """Has a classifier compute by torch; tokens, parts of long texts and what comes of logits stay as they are."""
    classifier.single = classifier.together = session
    classifier.tokenizer = SharedTokenizer(classifier.tokenizer)  # type: ignore[assignment]  # it has what is asked
    classifier.on_gpu, classifier.chunk = False, TEXTS  # so that each call has a thread, which tokenises


def use_gpu(classifier: TextClassifier, release: Path) -> None:
    """Has a classifier compute on this machine's GPU, where torch can use it."""
    if not torch.cuda.is_available():
        print("classifies on the CPU: this torch can't use the GPU", flush=True)
        return
    use_torch(classifier, TorchSession(release / "huggingface", "cuda"))
    print(f"classifies on {torch.cuda.get_device_name()}", flush=True)
