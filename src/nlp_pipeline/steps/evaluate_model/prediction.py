"""What a model says of texts, offline."""

from pathlib import Path
from typing import Any

from nlp_pipeline.steps.classes import MULTIPLE

BATCH_SIZE = 32


def predict(model_path: str | Path, texts: list[str], max_length: int) -> Any:
    """Computes class probabilities in float32, of shape (texts, classes): what served models must agree with.

    Those of one label a text sum to 1.
    """
    import torch
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_path)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(model_path, dtype=torch.float32)
    model.eval().to(device)
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
    probabilities = torch.zeros(len(texts), model.config.num_labels, dtype=torch.float64)
    for start in range(0, len(order), BATCH_SIZE):
        batch = order[start : start + BATCH_SIZE]
        tokens = tokenizer(
            [texts[at] for at in batch],
            truncation=True,
            max_length=max_length,
            padding=True,
            return_tensors="pt",
            return_token_type_ids=False,
        ).to(device)
        with torch.inference_mode():
            logits = model(**tokens).logits
        is_multiple = model.config.problem_type == MULTIPLE
        probabilities[batch] = (logits.double().sigmoid() if is_multiple else logits.double().softmax(dim=-1)).cpu()
        if start // BATCH_SIZE % 50 == 49:
            print(f"predicted {start + len(batch)} of {len(texts)}", flush=True)
    return probabilities.numpy()
