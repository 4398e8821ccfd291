"""The order of labels, which gives each its id."""

import re
from collections.abc import Iterable


def label_order(labels: Iterable[str]) -> list[str]:
    """Returns labels in the order of their ids: integers by value where all of them are integers, else as strings."""
    labels = list(labels)
    # No more digits than a class can have: Python refuses to read integers of many thousand.
    if all(re.fullmatch(r"0|-?[1-9][0-9]{0,18}", label) for label in labels):
        return sorted(labels, key=int)
    return sorted(labels)
