"""Labels: their order, which gives each its id, and which of them are doubtful."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

# What people and programs write where a value is missing.
MISSING = "(?i)^([#<]?n/?a>?|nan|null|none)$"


def label_order(labels: Iterable[str]) -> list[str]:
    """Returns labels in the order of their ids: integers by value where all of them are integers, else as strings."""
    labels = list(labels)
    # No more digits than a class can have: Python refuses to read integers of many thousand.
    if all(re.fullmatch(r"0|-?[1-9][0-9]{0,18}", label) for label in labels):
        return sorted(labels, key=int)
    return sorted(labels)


def labels_of(label: Any) -> Any:
    """Returns the labels of a text, which has one, or a list of them."""
    return [label] if isinstance(label, str) else label


def count_labels(column: Iterable[Any]) -> Counter[str]:
    """Counts the labels of texts."""
    return Counter(label for labels in column for label in labels_of(labels))


@lru_cache(maxsize=4096)
def appearance(label: str) -> str:
    """Returns what labels that look alike have in common; nothing for those that may stand for a missing one.

    Alike are those that differ in case, width or blanks, in what can't be seen, or as `1` and `1.0` do.
    """
    letters = unicodedata.normalize("NFKC", label).casefold()
    look = "".join(letter for letter in letters if letter.isprintable() and letter not in " \ufe0f")
    return re.sub(rf"{MISSING}|[.,]0+$", "", look)


def doubtful_values(labels: Counter[str], texts: Counter[str]) -> list[str]:
    """Names labels that look alike, and those that may stand for a missing one, with their counts, as such texts."""
    groups: dict[str, list[str]] = defaultdict(list)
    for label in label_order(labels):
        groups[appearance(label)].append(f"{label[:50]!r} ({labels[label]:,})")
    doubts = [("labels look alike", group) for look, group in groups.items() if look and len(group) > 1]
    doubts += [("labels may stand for a missing one", groups[""])] if "" in groups else []
    doubts += [("texts may stand for a missing one", [f"{text!r} ({texts[text]:,})" for text in sorted(texts)])]
    return [f"{what}: {', '.join(group[:20])}" for what, group in doubts if group][:20]
