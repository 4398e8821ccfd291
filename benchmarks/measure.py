"""Samples taken in turn, their median and spread, and ratios that are told only where the machine was quiet enough.

A topic is a module of this package with

    def measure(quick: bool, folder: Path) -> list[Figure]

`quick` asks for a few seconds a sample and `FEWEST` rounds, so that all topics together stay under three minutes.
`folder` is the topic's own empty folder, removed afterwards unless `--folder` was given. What it needs from other
topics' work (the trained model, the release) it takes from `benchmarks.model`. It runs ours and the others in turn
with `alternate`, and returns a `Figure` for each thing measured. It prints nothing but what happens, a line at a time,
with `print(..., file=sys.stderr)`; a failure is an exception: `__main__` tells it and goes on with the next topic.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

OURS = "ours"
FEWEST = 3  # rounds, for a ratio
NOISE = 1.3  # a ratio is refused where the highest of the rounds' ratios is more than so many times the lowest

Sample = TypeVar("Sample")


@dataclasses.dataclass(frozen=True)
class Figure:
    """One thing measured: ours, and what it is held against.

    Attributes:
        name: What was measured, such as "reviews, 32 clients".
        unit: The samples' unit, such as "requests/s" or "ms".
        samples: The samples of `OURS`, first, and of each other by its name, such as "eager fp32". The n-th samples of
            all belong to the same round.
        higher_is_better: Whether more is better, as with requests/s; false for seconds, memory, loss.
        targets: By the other's name, how many times better ours shall be, at least.
        limit: What the median of ours must not miss: the least where more is better, else the most.
        exact: Whether the samples are counts, not timings: then one is enough for a ratio.
        shown: Whether the table has it; one with a target or a limit is there anyway.
        note: What a reader must know, a sentence or nothing.
        details: What else is worth keeping in results.json, as JSON values.
    """

    name: str
    unit: str
    samples: dict[str, list[float]]
    higher_is_better: bool = True
    targets: dict[str, float] = dataclasses.field(default_factory=dict)
    limit: float | None = None
    exact: bool = False
    shown: bool = False
    note: str = ""
    details: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks that the figure makes sense.

        Raises:
            ValueError: It does not; the message says what is wrong.
        """
        if OURS not in self.samples:
            raise ValueError(f"{self.name!r} has no samples of {OURS!r}")
        for other in self.targets:
            if other not in self.samples:
                raise ValueError(f"{self.name!r} has a target against {other!r}, and no samples of it")
        for who, samples in self.samples.items():
            if not samples or not all(math.isfinite(one) for one in samples):
                raise ValueError(f"{self.name!r} has no samples of {who!r}, or some that are no numbers: {samples}")


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times better ours is than another: the median of the rounds' ratios, the lowest and the highest.

    `refused` is why it must not be told, or nothing.
    """

    median: float
    low: float
    high: float
    refused: str = ""


def alternate(rounds: int, measurements: Mapping[str, Callable[[], Sample]]) -> dict[str, list[Sample]]:
    """Takes samples in turn, A B A B ..., so that what slows the machine for a while slows all of them.

    Args:
        rounds: How many samples of each.
        measurements: What takes one sample, by name; in this order.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in measurements}
    for _ in range(rounds):
        for name, sample in measurements.items():
            samples[name].append(sample())
    return samples


def spread(samples: list[float]) -> float:
    """Returns how far samples lie apart, as a share of their median."""
    middle = statistics.median(samples)
    return (max(samples) - min(samples)) / abs(middle) if middle else 0.0


def ratio(figure: Figure, other: str) -> Ratio:
    """Returns how many times better ours is than another.

    Each round gives a ratio of its own, which a change of the machine's speed between rounds does not touch. Where the
    rounds' ratios contradict each other, or are too few to tell, the ratio is refused: no number is better than a
    wrong one.

    Args:
        figure: The figure.
        other: The name of the other.

    Raises:
        ValueError: The samples are not in pairs, or some are not positive.
    """
    ours, theirs = figure.samples[OURS], figure.samples[other]
    if len(ours) != len(theirs):
        raise ValueError(f"{figure.name!r} has {len(ours)} samples of {OURS!r} and {len(theirs)} of {other!r}")
    if min(*ours, *theirs) <= 0:
        raise ValueError(f"{figure.name!r} has samples that are not positive: there is no ratio of them")
    ratios = [(one / two if figure.higher_is_better else two / one) for one, two in zip(ours, theirs, strict=True)]
    low, high = min(ratios), max(ratios)
    refused = ""
    if len(ratios) < FEWEST and not figure.exact:
        refused = f"too few rounds to tell: {len(ratios)}, of at least {FEWEST}"
    elif high > NOISE * low:
        refused = f"too noisy: the rounds' ratios lie between {low:.2f} and {high:.2f}"
    return Ratio(statistics.median(ratios), low, high, refused)


def met(figure: Figure) -> bool | None:
    """Tells whether a figure's targets and limit are met; None where it has none, or where a ratio is refused."""
    middle = statistics.median(figure.samples[OURS])
    verdicts: list[bool | None] = []
    if figure.limit is not None:
        verdicts.append(middle >= figure.limit if figure.higher_is_better else middle <= figure.limit)
    for other, target in figure.targets.items():
        found = ratio(figure, other)
        verdicts.append(None if found.refused else found.median >= target)
    if False in verdicts:
        return False
    return None if None in verdicts or not verdicts else True


def record(figure: Figure) -> dict[str, Any]:
    """Returns a figure as results.json keeps it: every sample, and a ratio to each other that has as many."""
    ratios: dict[str, Any] = {}
    for other, samples in figure.samples.items():
        if other == OURS or len(samples) != len(figure.samples[OURS]):
            continue
        if min(*samples, *figure.samples[OURS]) <= 0:
            continue
        found = ratio(figure, other)
        ratios[other] = (
            {"refused": found.refused}
            if found.refused
            else {
                "median": found.median,
                "low": found.low,
                "high": found.high,
            }
        )
    return {
        **dataclasses.asdict(figure),
        "medians": {who: statistics.median(samples) for who, samples in figure.samples.items()},
        "spreads": {who: spread(samples) for who, samples in figure.samples.items()},
        "ratios": ratios,
        "met": met(figure),
    }
