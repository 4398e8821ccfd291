"""What a model's folder says of the rows that it was trained on: which texts they were, some of them, a profile."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy
import pyarrow.parquet

from nlp_pipeline.labels import count_labels
from nlp_pipeline.steps.parquet import list_parts, read_batches

HASHES, PROFILE, TEXTS = "trained-on.npy", "profile.json", "texts.parquet"
# Ends of the lengths, in characters, that are counted together.
LENGTHS = [0, 25, 50, 100, 200, 400, 800, 1600, 3200, 6400, numpy.inf]
SAMPLE = 2000
# A population stability index below the first is called stable, above the second moved: Siddiqi 2006, "Credit Risk
# Scorecards".
STABLE, MOVED = 0.1, 0.25


def record_training_data(rows: str | Path, folder: Path, tokenizer: Any) -> None:
    """Writes into a model's folder 8 bytes for each text of labelled rows, some 2,000 of the texts, and a profile.

    The profile has how often each of the `labels` occurs, how many texts are in each span of `lengths`, and the share
    of tokens that are `unknown`.
    """
    step = max(1, sum(pyarrow.parquet.read_metadata(part).num_rows for part in list_parts(rows)) // SAMPLE)
    hashes, lengths, sample, labels = [], [], [], Counter[str]()
    for batch in read_batches(rows):
        texts = batch["text"]
        hashes.append(hash_texts(texts))
        lengths.append(numpy.histogram([len(text) for text in texts], LENGTHS)[0])
        sample += texts[::step]
        labels.update(count_labels(batch["label"]))
    known = numpy.concatenate(hashes)
    known.sort()
    numpy.save(folder / HASHES, known)
    pyarrow.parquet.write_table(pyarrow.table({"text": sample}), folder / TEXTS)
    tokens = Counter(token for tokens in tokenizer(sample, truncation=True)["input_ids"] for token in tokens)
    unknown = tokens[tokenizer.unk_token_id] / tokens.total()
    profile = {"labels": labels, "lengths": numpy.sum(lengths, axis=0).tolist(), "unknown": unknown}
    (folder / PROFILE).write_text(json.dumps(profile, indent=1), encoding="utf-8")


def hash_texts(texts: Iterable[str]) -> Any:
    """Returns 8 bytes for each text, as uint64; blanks around a text don't count."""
    digests = b"".join(hashlib.blake2b(text.strip().encode(), digest_size=8).digest() for text in texts)
    return numpy.frombuffer(digests, dtype="<u8")


def was_trained_on(folder: Path, texts: Iterable[str]) -> Any:
    """Returns for each text whether the model in a folder was trained on it; folders of old do not know: False."""
    hashes = hash_texts(texts)
    if not (folder / HASHES).exists():
        return numpy.zeros(len(hashes), bool)
    known = numpy.load(folder / HASHES, mmap_mode="r")
    return known.take(known.searchsorted(hashes), mode="clip") == hashes


def stability_index(former: list[int], later: list[int]) -> float:
    """Returns the population stability index of two histograms; a span that one lacks counts as half a row."""
    shares = [numpy.maximum(counts, 0.5) / max(1, sum(counts)) for counts in (former, later)]
    return float(((shares[1] - shares[0]) * numpy.log(shares[1] / shares[0])).sum())


def is_less_known(former: float, later: float) -> bool:
    """Says whether a share of unknown tokens is much larger than a former one."""
    return later > 2 * former + 0.01


def compare_profiles(*models: Path) -> dict[str, Any]:
    """Returns how the rows differ that two models were trained on, a former and a later one, where known.

    These are the population stability indices of `labels` and `lengths`, and as `moved` a sentence for what has moved.
    """
    if not all((folder / PROFILE).exists() for folder in models):
        return {}
    former, later = (json.loads((folder / PROFILE).read_bytes()) for folder in models)
    names = [*dict.fromkeys([*former["labels"], *later["labels"]])]
    counts = [[profile["labels"].get(name, 0) for name in names] for profile in (former, later)]
    result = {"labels": stability_index(*counts), "lengths": stability_index(former["lengths"], later["lengths"])}
    moved = [
        f"the {name} {'moved' if value > MOVED else 'moved a little'}: population stability index {value:.2f}"
        for name, value in result.items()
        if value > STABLE
    ]
    if is_less_known(former["unknown"], later["unknown"]):
        moved.append(f"of the tokens {later['unknown']:.1%} are unknown, formerly {former['unknown']:.1%}")
    return result | {"moved": moved}
