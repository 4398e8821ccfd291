"""The former pipeline's training loop: fp32, every row padded to the full length, plain AdamW."""

import time
from pathlib import Path
from typing import Any

import torch
import transformers


def train(folder: Path, rows: list[tuple[str, str]], encoder: str, labels: list[str], options: dict[str, Any]) -> float:
    """Fine-tunes an encoder on texts and labels, and saves it to a folder; returns rows trained on per second."""
    transformers.set_seed(options["seed"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=len(labels))
    texts = [text for text, _ in rows]
    tokens = tokenizer(
        texts, truncation=True, padding="max_length", max_length=options["max_length"], return_tensors="pt"
    )
    ids = torch.tensor([labels.index(label) for _, label in rows])
    dataset = torch.utils.data.TensorDataset(tokens["input_ids"], tokens["attention_mask"], ids)
    batches = torch.utils.data.DataLoader(dataset, options["batch_size"], shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), options["learning_rate"], weight_decay=options["weight_decay"])
    steps = int(len(batches) * options["epochs"])
    warmup = round(steps * options["warmup_share"])
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, warmup, steps)
    model.train()
    began = time.perf_counter()
    for _ in range(int(options["epochs"])):
        for input_ids, attention_mask, targets in batches:
            loss = model(input_ids=input_ids, attention_mask=attention_mask, labels=targets).loss
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    seconds = time.perf_counter() - began
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return len(rows) * int(options["epochs"]) / seconds
