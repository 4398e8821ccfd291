"""What serving costs in accuracy: the archive's answers against the fp32 model's, on rows that were held out."""

import json
import sys
from pathlib import Path

from benchmarks.handlers import answer, load_handler
from benchmarks.measure import OURS, Figure
from benchmarks.model import MAX_LENGTH, labelled_rows, release, trained_model, unpacked
from benchmarks.processes import run_module, tell
from benchmarks.servers import Server
from nlp_pipeline.serving.client import replay

FP32 = "fp32, transformers"
LOST = 0.5  # points of accuracy, at most
BATCH = 32


def served_labels(archive: Path, texts: list[str]) -> list[str]:
    """Returns the labels that the archive's handler gives, a text a request."""
    handler = load_handler(archive)
    return [answer(handler, archive, [text])[0]["label"] for text in texts]


def reference_labels(model: Path, texts: list[str]) -> list[str]:
    """Returns the labels that the model gives in fp32 by transformers; texts of like length share a batch."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    network = transformers.AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32).eval()
    labels = [""] * len(texts)
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
    for start in range(0, len(order), BATCH):
        chunk = order[start : start + BATCH]
        tokens = tokenizer(
            [texts[at] for at in chunk], truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="pt"
        )
        with torch.inference_mode():
            for at, best in zip(chunk, network(**tokens).logits.argmax(-1).tolist(), strict=True):
                labels[at] = network.config.id2label[best]
    return labels


def torchserve_labels(release_folder: Path, folder: Path, texts: list[str]) -> list[str]:
    """Returns the labels that TorchServe answers with, asked by eight clients at once."""
    server = Server(release_folder, folder / "server")
    server.boot()
    try:
        with server.running() as url:
            return replay(url, texts, clients=8)[0]
    finally:
        server.end()


def share(one: list[str], other: list[str]) -> float:
    """Returns on how many of 100 both lists agree."""
    return 100 * sum(map(str.__eq__, one, other)) / len(one)


def measure(quick: bool, folder: Path) -> list[Figure]:
    """Measures the accuracy of what is served.

    Args:
        quick: Ask for 400 rows instead of all 5,000.
        folder: An empty folder.
    """
    rows = labelled_rows()[1][: 400 if quick else None]
    texts, labels = [text for text, _ in rows], [label for _, label in rows]
    asked = folder / "texts.json"
    asked.write_text(json.dumps(texts), encoding="utf-8")
    tell(f"asking for {len(rows)} rows")
    archive = unpacked(release(quick), folder / "unpacked")
    ours: list[str] = json.loads(run_module("benchmarks.accuracy", "served", archive, asked))
    fp32: list[str] = json.loads(run_module("benchmarks.accuracy", "fp32", trained_model(quick), asked))
    sample = texts[:: max(1, len(texts) // (100 if quick else 500))]
    served = torchserve_labels(release(quick), folder, sample)
    in_process = ours[:: max(1, len(texts) // (100 if quick else 500))]
    found = {OURS: share(ours, labels), FP32: share(fp32, labels)}
    note = f"{len(rows)} rows" + ("; few, as this is the quick way" if quick else "")
    accuracy = {who: [points] for who, points in found.items()}
    lost = {OURS: [found[FP32] - found[OURS]]}
    return [
        Figure("accuracy", "%", accuracy, exact=True, shown=True, note=note),
        Figure("accuracy lost by serving", "points", lost, False, limit=LOST, exact=True, note=note),
        Figure("answers equal to fp32's", "%", {OURS: [share(ours, fp32)]}, limit=98.0, exact=True, note=note),
        Figure(
            "TorchServe's answers equal to the handler's own",
            "%",
            {OURS: [share(served, in_process)]},
            limit=99.0,
            exact=True,
            note=f"{len(sample)} rows",
        ),
    ]


if __name__ == "__main__":
    who, where, asked = sys.argv[1:]
    asker = {"served": served_labels, "fp32": reference_labels}[who]
    print(json.dumps(asker(Path(where), json.loads(Path(asked).read_text(encoding="utf-8")))))
