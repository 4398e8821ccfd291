"""What a model says of texts, offline."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy

from nlp_pipeline.serving.model import Encoder
from nlp_pipeline.steps.classes import MULTIPLE

BATCH_SIZE = 32
# So many texts are in memory at a time, sorted by length.
CHUNK = 1 << 14


def read_parts(tokenizer: Any, texts: list[str], max_length: int, long_texts: str) -> list[list[list[int]]]:
    """Returns the ids of what a model reads of each text, part by part: those that `Encoder` gives where it serves."""
    if long_texts == "cut":  # all texts at once, which is faster
        # Types tell two texts of a row apart, and there is one.
        encoded = tokenizer(texts, truncation=True, max_length=max_length, return_token_type_ids=False)
        return [[ids] for ids in encoded["input_ids"]]
    encoder = Encoder()
    encoder.prepare(tokenizer.backend_tokenizer.to_str(), max_length, long_texts)
    return [encoder.parts(text) for text in texts]


def predict(model_path: str | Path, texts: Iterable[str], max_length: int) -> Any:
    """Computes class probabilities in float32, of shape (texts, classes): what served models must agree with.

    Those of one label a text sum to 1. Of a long text's windows the mean of the logits counts.
    """
    import torch
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_path)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(model_path, dtype=torch.float32)
    model.eval().to(device)
    long_texts = getattr(model.config, "long_texts", "cut")
    is_multiple = model.config.problem_type == MULTIPLE
    results = [numpy.zeros((0, model.config.num_labels))]
    texts, done = iter(texts), 0
    while chunk := list(itertools.islice(texts, CHUNK)):
        order = sorted(range(len(chunk)), key=lambda at: len(chunk[at]))
        logits = torch.zeros(len(chunk), model.config.num_labels, dtype=torch.float64)
        for start in range(0, len(order), BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE]
            parts = read_parts(tokenizer, [chunk[at] for at in batch], max_length, long_texts)
            rows = [(at, ids, len(text)) for at, text in zip(batch, parts, strict=True) for ids in text]
            for first in range(0, len(rows), BATCH_SIZE):
                places, ids, counts = zip(*rows[first : first + BATCH_SIZE], strict=True)
                tokens = tokenizer.pad({"input_ids": list(ids)}, return_tensors="pt").to(device)
                with torch.inference_mode():
                    found = model(**tokens).logits.double().cpu()
                logits.index_add_(0, torch.tensor(places), found / torch.tensor(counts)[:, None])
            done += len(batch)
            if done % (50 * BATCH_SIZE) == 0:
                print(f"predicted {done} rows", flush=True)
        results.append((logits.sigmoid() if is_multiple else logits.softmax(dim=-1)).numpy())
    return numpy.concatenate(results)
