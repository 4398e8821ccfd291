"""What Kubeflow's controller makes of a cron expression: `Parse` and `Next` of github.com/robfig/cron 1.2.

Written from parser.go and spec.go, apart from `nlp_pipeline.platforms.cron`, which is compared with it.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
BOUNDS = [(0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6)]
STAR = -1


class Schedule:
    """A schedule.

    Args:
        line: Six fields, or five, which lack the day of the week.

    Raises:
        ValueError: It is none.
    """

    def __init__(self, line: str) -> None:
        fields = line.split()
        if len(fields) not in (5, 6):
            raise ValueError(f"Expected 5 to 6 fields, found {len(fields)}: {line}")
        self._bits = [_bits(at, text) for at, text in enumerate([*fields, "*"][:6])]

    def next(self, time: datetime) -> datetime | None:
        """Returns the next time; None where there is none within five years."""
        time = time.replace(microsecond=0) + timedelta(seconds=1)
        limit = time.year + 5
        levels: list[tuple[Callable[[datetime], bool], Callable[[datetime], datetime]]] = [
            (lambda at: at.month in self._bits[4], _next_month),
            (self._is_day, lambda at: at.replace(hour=0, minute=0, second=0) + timedelta(days=1)),
            (lambda at: at.hour in self._bits[2], lambda at: at.replace(minute=0, second=0) + timedelta(hours=1)),
            (lambda at: at.minute in self._bits[1], lambda at: at.replace(second=0) + timedelta(minutes=1)),
            (lambda at: at.second in self._bits[0], lambda at: at + timedelta(seconds=1)),
        ]
        while time.year <= limit:
            later = next((add(time) for matches, add in levels if not matches(time)), None)
            if later is None:
                return time
            time = later
        return None

    def _is_day(self, time: datetime) -> bool:
        day, week = time.day in self._bits[3], time.isoweekday() % 7 in self._bits[5]
        return (day and week) if STAR in self._bits[3] | self._bits[5] else (day or week)


def _next_month(time: datetime) -> datetime:
    return (time.replace(day=1, hour=0, minute=0, second=0) + timedelta(days=32)).replace(day=1)


def _bits(at: int, text: str) -> set[int]:
    least, most = BOUNDS[at]
    names = {4: dict(zip(MONTHS, range(1, 13), strict=True)), 5: dict(zip(DAYS, range(7), strict=True))}.get(at, {})
    result: set[int] = set()
    for part in filter(None, text.split(",")):
        bounds, *steps = part.split("/")
        ends = [names.get(end.lower(), end) for end in bounds.split("-")]
        if ends[0] in ("*", "?"):
            result.add(STAR)
            first, last = least, most
        else:
            first, last = int(ends[0]), int(ends[-1])
            last = most if steps and len(ends) == 1 else last
        if not least <= first <= last <= most:
            raise ValueError(f"out of range: {part}")
        result |= set(range(first, last + 1, int(steps[0]) if steps else 1))
    return result
