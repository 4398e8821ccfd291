"""What serving costs in accuracy: the archive's answers against the fp32 model's, on rows that were held out."""

from pathlib import Path

from benchmarks.measure import OURS, Figure
from benchmarks.model import LABELS, MAX_LENGTH, labelled_rows, load_classifier, release, trained_model
from benchmarks.peers import equal_share, write_requests
from benchmarks.processes import tell
from benchmarks.servers import Running, torchserve
from nlp_pipeline.steps.evaluate_model.prediction import predict

FP32 = "fp32, transformers"
LOST = 0.3  # points of accuracy, at most


def torchserve_labels(release_folder: Path, folder: Path, texts: list[str]) -> list[str]:
    """Returns the labels that TorchServe answers with, asked by eight clients at once."""
    with Running(torchserve(release_folder), folder / "server") as server:
        labels: list[str] = server.load(write_requests(folder, "rows", texts), 8)
        return labels


def measure(quick: bool, folder: Path) -> list[Figure]:
    """Measures the accuracy of what is served; the quick way on 400 rows instead of all 5,000."""
    rows = labelled_rows()[1][: 400 if quick else None]
    texts, labels = [text for text, _ in rows], [label for _, label in rows]
    tell(f"asking for {len(rows)} rows")
    ours = [prediction["label"] for prediction in load_classifier(release(quick)).classify(texts)]
    fp32 = [LABELS[at] for at in predict(trained_model(quick), texts, MAX_LENGTH).argmax(axis=1)]
    step = max(1, len(texts) // (100 if quick else 500))
    served = torchserve_labels(release(quick), folder, texts[::step])
    accuracy = {OURS: [equal_share(ours, labels)], FP32: [equal_share(fp32, labels)]}
    lost = {OURS: [accuracy[FP32][0] - accuracy[OURS][0]]}
    note = f"{len(rows)} rows" + ("; few, as this is the quick way" if quick else "")
    equal = {OURS: [equal_share(served, ours[::step])]}
    as_served = "TorchServe's answers equal to the model's in process"
    return [
        Figure("accuracy", "%", accuracy, exact=True, shown=True, note=note),
        Figure("accuracy lost by serving", "points", lost, False, limit=LOST, exact=True, note=note),
        Figure("answers equal to fp32's", "%", {OURS: [equal_share(ours, fp32)]}, limit=98.0, exact=True, note=note),
        Figure(as_served, "%", equal, limit=99.0, exact=True, note=f"{len(served)} rows"),
    ]
