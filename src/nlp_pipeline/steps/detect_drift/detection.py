"""Compares texts with the profile that a release has of its training data, and of what it answered when it was new."""

import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy

from nlp_pipeline.errors import UsageError
from nlp_pipeline.labels import count_labels, labels_of
from nlp_pipeline.release import verify
from nlp_pipeline.serving.agreement import label_of
from nlp_pipeline.serving.archived import load_archived
from nlp_pipeline.steps.load_data.fetch import fetch_source, list_sources
from nlp_pipeline.steps.load_data.rows import Source, read_rows
from nlp_pipeline.steps.training_data import LENGTHS, PROFILE, SAMPLE, STABLE, is_less_known, stability_index

FIGURES = ("what", "formerly", "now", "index", "by_chance", "verdict")
TOO_FEW = "too few to tell"


@dataclass
class Texts:
    """What was read of texts."""

    source: str  # their file's name
    lengths: list[int] = field(default_factory=list)  # in characters
    labels: Counter[str] = field(default_factory=Counter)
    sample: list[str] = field(default_factory=list)  # chosen by chance, to ask a model for
    missing: int = 0  # rows without a text
    unlabelled: str = ""  # why they have no labels; empty where they have some


def detect_drift(folder: Path, data: str, columns: tuple[str, str], separator: str, threshold: float) -> dict[str, Any]:
    """Compares texts with those that the release in a folder was trained on.

    The columns are those of texts and of labels, between which, where a text has several, a separator stands. Above the
    threshold of the population stability index they have moved.

    Returns:
        Whether they have `moved`; the `figures`, each as FIGURES; the `release`'s folder, its `model_name` and
        `digest`; the `source`, its `rows`, how many more are `missing` a text, and why they are `unlabelled`, empty
        where they are not.

    Raises:
        UsageError: The texts can't be read, or are too few to tell; or the release is not whole, or has no profile.
    """
    release = verify(folder)
    path = folder / "huggingface" / PROFILE
    if not path.exists():
        raise UsageError(f"{folder} has no {PROFILE} of its training data, as it is an older release: train it anew")
    former = json.loads(path.read_bytes())
    texts = read_texts(data, columns, separator, "thresholds" in release.parameters)
    spans = numpy.histogram(texts.lengths, LENGTHS)[0].tolist()
    lengths = compare_counts("lengths", former["lengths"], spans, threshold)
    if lengths["verdict"] == TOO_FEW:
        raise UsageError(
            f"{texts.source!r} has {len(texts.lengths)} texts, too few to tell: the index of so few is up to "
            f"{lengths['by_chance']:.2f} by chance, and threshold is {threshold}"
        )
    figures = [lengths]
    if texts.labels:
        figures.append(compare_counts("labels", former["labels"], texts.labels, threshold))
    print(f"asking release {release.digest} for {len(texts.sample)} of {len(texts.lengths)} texts", flush=True)
    classifier = load_archived(folder, release.model_name)
    if "predicted" in former:
        predicted = count_labels(map(label_of, classifier.classify(texts.sample)))
        figures.append(compare_counts("predictions", former["predicted"], predicted, threshold))
    tokens = Counter(token for text in texts.sample for token in classifier.encode(text).ids)
    unknown = json.loads((folder / "huggingface" / "tokenizer_config.json").read_bytes()).get("unk_token")
    share = tokens[classifier.tokenizer.token_to_id(unknown)] / tokens.total() if unknown else 0.0
    verdict = "moved" if is_less_known(former["unknown"], share) else "stable"
    shares = {"what": "unknown tokens", "formerly": f"{former['unknown']:.1%}", "now": f"{share:.1%}"}
    figures.append({**dict.fromkeys(FIGURES), **shares, "verdict": verdict})
    return {
        "moved": any(figure["verdict"] == "moved" for figure in figures),
        "figures": figures,
        "release": str(folder),
        "model_name": release.model_name,
        "digest": release.digest,
        "source": texts.source,
        "rows": len(texts.lengths),
        "missing": texts.missing,
        "unlabelled": texts.unlabelled,
    }


def read_texts(data: str, columns: tuple[str, str], separator: str, has_several: bool) -> Texts:
    """Reads texts, with their labels where they have some, and these are such as the release gives: one or several."""
    with tempfile.TemporaryDirectory() as folder:
        sources = [fetch_source(address, Path(folder, str(at))) for at, address in enumerate(list_sources(data))]
        try:
            return collect_texts(sources, columns, separator, has_several)
        except UsageError as error:
            texts = collect_texts(sources, (columns[0], columns[0]), "", has_several=False)
            texts.labels.clear()
            texts.unlabelled = str(error)
            return texts


def collect_texts(sources: list[Source], columns: tuple[str, str], separator: str, has_several: bool) -> Texts:
    """Collects what is compared of the texts and labels in two columns; labels are lists where texts have several."""
    more = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
    texts, generator = Texts(f"{sources[0].name}{more}"), random.Random(0)  # noqa: S311, rows, not secrets
    rows = ((source, row) for source in sources for row in read_rows(source, columns, separator))
    for source, (line, text, label) in rows:
        if text is None:
            texts.missing += 1
            continue
        if label is not None and isinstance(label, tuple) != has_several:
            kind = "several labels: set label_separator" if has_several else "one label"
            raise UsageError(
                f"{source.name!r} has in line {line} the label {repr(label)[:50]}, and the release gives a text {kind}"
            )
        # Each text comes into the sample with the same probability: Vitter 1985, "Random sampling with a reservoir".
        place = generator.randrange(len(texts.lengths) + 1)
        texts.lengths.append(len(text))
        if len(texts.sample) < SAMPLE:
            texts.sample.append(text)
        elif place < SAMPLE:
            texts.sample[place] = text
        texts.labels.update(labels_of(label) if label else [])
    return texts


def compare_counts(what: str, former: Any, later: Any, threshold: float) -> dict[str, Any]:
    """Compares two histograms, each as counts by name, or of the spans of lengths.

    Returns:
        FIGURES: the population stability index, which is up to `by_chance` 19 times of 20 where nothing has moved; the
        verdict ("moved", "moved a little", "stable" or TOO_FEW); and what share has moved most, `formerly` and `now`.
    """
    if isinstance(former, list):
        former, later = (dict(zip(span_names(), counts, strict=True)) for counts in (former, later))
    names = [name for name in dict.fromkeys([*former, *later]) if former.get(name) or later.get(name)]
    counts = [[profile.get(name, 0) for name in names] for profile in (former, later)]
    rows = [max(1, sum(column)) for column in counts]
    index, chance = stability_index(*counts), chance_index(len(names), *rows)
    if chance > threshold:
        verdict = TOO_FEW
    elif index > threshold:
        verdict = "moved"
    else:
        verdict = "moved a little" if index > max(STABLE, chance) else "stable"
    shares = [(name, first / rows[0], then / rows[1]) for name, first, then in zip(names, *counts, strict=True)]
    name, *most = max(shares, key=lambda share: abs(share[2] - share[1]), default=("", 0.0, 0.0))
    formerly, now = (f"{share:.1%} {name}" for share in most)
    return dict(zip(FIGURES, (what, formerly, now, index, chance, verdict), strict=True))


def span_names() -> Iterator[str]:
    """Yields the names of the spans of lengths, in characters."""
    for low, high in pairwise(LENGTHS):
        yield f"{low} to {high - 1} characters" if high < numpy.inf else f"{low} characters and more"


def chance_index(spans: int, former: int, later: int) -> float:
    """Returns what a population stability index is up to, 19 times of 20, of rows that are alike.

    It is about chi-squared: Yurdakul 2018, "Statistical properties of population stability index". The quantile is that
    of Wilson and Hilferty 1931, "The distribution of chi-square".
    """
    if spans < 2:
        return 0.0
    part = 2 / (9 * (spans - 1))
    return float((spans - 1) * (1 - part + 1.645 * part**0.5) ** 3 * (1 / former + 1 / later))


def rounded(figure: dict[str, Any]) -> dict[str, Any]:
    """Returns a figure as people read it."""
    return {name: f"{value:.2f}" if isinstance(value, float) else value for name, value in figure.items()}


def describe(result: dict[str, Any]) -> str:
    """Returns in a line what `detect_drift` has found."""
    moved = [figure["what"] for figure in result["figures"] if figure["verdict"] == "moved"]
    verdict = f"moved: {', '.join(moved)}" if moved else "not moved"
    more = f", {result['missing']} more without a text" if result["missing"] else ""
    why = f"; labels are not compared: {result['unlabelled']}" if result["unlabelled"] else ""
    return f"{verdict}; {result['rows']:,} texts of {result['source']}{more}, release {result['digest']}{why}"
