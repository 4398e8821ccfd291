"""Samples taken in turn, their median and spread, and ratios that are given only where the machine was quiet enough.

A topic is a module of this package with

    def measure(quick: bool, folder: Path) -> list[Figure]

`quick` asks for a few seconds a sample and `FEWEST` rounds, so that all topics together stay under three minutes.
`folder` is the topic's own empty folder, removed afterwards unless `--folder` was given. What it needs from other
topics' work (the trained model, the release) it takes from `benchmarks.model`. It runs ours and the others in turn
with `alternate`, and returns a `Figure` for each thing measured. A failure is an exception: `__main__` tells it and
goes on with the next topic.
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
        samples: The samples of `OURS`, first, and of each other by its name, such as "eager fp32". The n-th samples of
            all belong to the same round.
        targets: By the other's name, how many times better ours shall be, at least.
        limit: What the median of ours must not miss: the least where more is better, else the most.
        exact: Whether the samples are counts, not timings: then one is enough for a ratio.
        shown: Whether the table has it; one with a target or a limit is there anyway.
        column: Where it has one, the figure is a column of the topic's comparison, which has a row for each name.
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
    column: str = ""
    details: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks the samples."""
        for who in {OURS, *self.targets, *self.samples}:
            samples = self.samples.get(who)
            if not samples or not all(map(math.isfinite, samples)):
                raise ValueError(f"{self.name!r} has no samples of {who!r}, or some that are no numbers: {samples}")


def alternate(rounds: int, measurements: Mapping[str, Callable[[], Sample]]) -> dict[str, list[Sample]]:
    """Takes samples in turn, A B A B ..., so that what slows the machine for a while slows all of them."""
    samples: dict[str, list[Sample]] = {name: [] for name in measurements}
    for _ in range(rounds):
        for name, sample in measurements.items():
            samples[name].append(sample())
    return samples


def ratio(figure: Figure, other: str) -> dict[str, Any]:
    """Says how many times better ours is than another: `median`, `low` and `high` of the rounds' ratios.

    Each round gives a ratio of its own, which a change of the machine's speed between rounds does not touch. Where the
    rounds' ratios contradict each other, or are too few to tell, there is only `refused`, the reason: no number is
    better than a wrong one.
    """
    pairs = list(zip(figure.samples[OURS], figure.samples[other], strict=True))
    ratios = [ours / theirs if figure.higher_is_better else theirs / ours for ours, theirs in pairs]
    low, high = min(ratios), max(ratios)
    if len(ratios) < FEWEST and not figure.exact:
        return {"refused": f"too few rounds to tell: {len(ratios)}, of at least {FEWEST}"}
    if high > NOISE * low:
        return {"refused": f"too noisy: the rounds' ratios lie between {low:.2f} and {high:.2f}"}
    return {"median": statistics.median(ratios), "low": low, "high": high}


def met(figure: Figure) -> bool | None:
    """Tells whether a figure's targets and limit are met; None where it has none, or where a ratio is refused."""
    verdicts: list[bool | None] = []
    if figure.limit is not None:
        middle = statistics.median(figure.samples[OURS])
        verdicts.append(middle >= figure.limit if figure.higher_is_better else middle <= figure.limit)
    for other, target in figure.targets.items():
        times = ratio(figure, other)
        verdicts.append(None if "refused" in times else times["median"] >= target)
    if False in verdicts:
        return False
    return None if None in verdicts or not verdicts else True


def record(figure: Figure) -> dict[str, Any]:
    """Returns a figure as results.json keeps it: every sample, and a ratio to each other that has as many."""
    medians = {who: statistics.median(samples) for who, samples in figure.samples.items()}
    return {
        **dataclasses.asdict(figure),
        "medians": medians,
        "spreads": {
            who: (max(samples) - min(samples)) / abs(medians[who]) if medians[who] else 0.0
            for who, samples in figure.samples.items()
        },
        "ratios": {
            other: ratio(figure, other)
            for other, samples in figure.samples.items()
            if other != OURS and len(samples) == len(figure.samples[OURS]) and min(*samples, *figure.samples[OURS]) > 0
        },
        "met": met(figure),
    }
