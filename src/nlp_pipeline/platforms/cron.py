"""When a schedule runs: cron expressions as Kubeflow Pipelines reads them, evaluated by cronsim.

Kubeflow's server and controller read them with `cron.Parse` of github.com/robfig/cron 1.2: six fields, of which the
first is the second, Sunday is 0, and a line of five fields lacks the day of the week. What people mean by five fields
is Unix cron, so these are turned into six. As cronsim reads some of it in another way, each field is read here,
strictly, and handed to cronsim in a form that both understand alike.
"""

import contextlib
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from nlp_pipeline.errors import UsageError

EXAMPLE = 'write six fields, the second first, as in "0 0 2 * * *" (every night at two)'
ITEM = re.compile(r"(?P<first>[*?]|[a-z0-9]+)(?:-(?P<last>[a-z0-9]+))?(?:/(?P<step>[0-9]{1,4}))?", re.ASCII)
# The controller looks no further than the end of the fifth year from now: what comes later hangs it.
YEARS = 5


@dataclass(frozen=True)
class Cron:
    """When a schedule runs.

    Attributes:
        expression: As the platform gets it: six fields for Kubeflow, a time zone and five for Vertex AI.
        became: Whether the user wrote five fields, of Unix cron.
        note: What is odd about it; empty where nothing is.
        evaluated: The same for cronsim.
        zone: The time zone that the fields are meant in.
    """

    expression: str
    became: bool = False
    note: str = ""
    evaluated: str = field(default="", repr=False, compare=False)
    zone: str = "UTC"


@dataclass(frozen=True)
class _Field:
    """A field's name, its least and largest value, and names of values from the least on."""

    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()


FIELDS = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")),
    _Field("day of the week", 0, 6, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)
WEEK = FIELDS[-1]


def read_cron(text: str) -> Cron:
    """Reads six fields, the second first, or five of Unix cron; a UsageError says what is wrong with it."""
    parts = text.lower().split()
    became = len(parts) == 5
    try:
        _check_form(parts)
        if became:
            parts = ["0", *map(_from_unix, parts, FIELDS[1:])]
        seconds, *others = map(_read_field, parts, FIELDS)
        evaluated = [_for_cronsim(*values) for values in (seconds, *others)]
        _check_days(evaluated[3:])
    except ValueError as error:
        raise refusal(text, f"{error}; {EXAMPLE}") from None
    count = len(seconds[0])
    note = f"it comes {count} times in each minute: the first of the six fields is the second" if count > 1 else ""
    return Cron(" ".join(parts).upper(), became, note, " ".join(evaluated))


def refusal(text: str, what: str) -> UsageError:
    """Returns the error for an expression that is refused."""
    return UsageError(f'--schedule "{" ".join(text.split())[:100]}": {what}')


def _check_form(parts: list[str]) -> None:
    if parts and parts[0].startswith("@"):
        raise ValueError("a name is no expression")
    if any("=" in part for part in parts):
        raise ValueError("a time zone can't be given here, Kubeflow's is meant (UTC, if no one changed it)")
    if len(parts) not in (5, 6):
        what = "fields, and there is none for the year" if len(parts) == 7 else "field" + "s" * (len(parts) != 1)
        raise ValueError(f"that is {len(parts)} {what}")


def _read_field(text: str, kind: _Field) -> tuple[set[int], bool]:
    """Returns the values of a field, in lower case, and whether it has a star, which matters in those for days."""
    values: set[int] = set()
    has_star = False
    for item in text.split(","):
        match = ITEM.fullmatch(item)
        if not match or (match["first"] in "*?" and match["last"]):
            raise ValueError(f"{kind.name} {item.upper()!r} can't be read: L, W and # are not known")
        step, steps = int(match["step"] or 1), kind.most + 1 - kind.least
        if not 1 <= step <= steps:
            raise ValueError(f"{kind.name} {item!r} has steps of {step}: they are 1 to {steps}")
        if match["first"] in "*?":
            has_star = True
            first, last = kind.least, kind.most
        else:
            first = _read_value(match["first"], kind)
            last = _read_value(match["last"], kind) if match["last"] else kind.most if match["step"] else first
        if first > last:
            split = f"{match['first']}-{kind.most},{kind.least}-{match['last']}".upper()
            raise ValueError(f'{kind.name} {item!r} runs backwards, unlike "{split}"')
        values.update(range(first, last + 1, step))
    return values, has_star


def _read_value(text: str, kind: _Field) -> int:
    if text in kind.names:
        return kind.least + kind.names.index(text)
    if text.isdecimal() and len(text) <= 4 and kind.least <= int(text) <= kind.most:
        return int(text)
    names = f" or {kind.names[0].upper()} to {kind.names[-1].upper()}" if kind.names else ""
    sunday = ", Sunday is 0" if text == "7" and kind == WEEK else ""
    raise ValueError(f"{kind.name} {text.upper()!r} is none: they are {kind.least} to {kind.most}{names}{sunday}")


def _from_unix(text: str, kind: _Field) -> str:
    """Turns a field of Unix cron into one that Kubeflow reads in the same way."""
    is_week = kind == WEEK
    values, has_star = _read_field(text, replace(kind, most=7) if is_week else kind)
    # In Unix cron days of either field count unless one *begins* with a star; for Kubeflow, unless one has a star.
    star_first = text[0] in "*?"
    if has_star == star_first and not (is_week and "7" in text):
        return text
    numbers = {value % 7 for value in values} if is_week else values
    return "*/7," * star_first + ",".join(map(str, sorted(numbers)))


def _for_cronsim(values: set[int], has_star: bool) -> str:
    # It takes a field for one with a star only where it begins with it; steps of 99 add nothing but the least value.
    return "*/99," * has_star + ",".join(map(str, sorted(values)))


def _check_days(fields: list[str]) -> None:
    """Makes sure that the days of an expression come, and often enough."""
    now = datetime.now(UTC)
    times = [now]
    with contextlib.suppress(CronSimError):
        times += next_times(Cron("", evaluated=" ".join(["0 0 0", *fields])), 20, now)
    if len(times) == 1:
        raise ValueError("there is no such day, so that it never comes")
    # A full cycle of the calendar's days of the week is 28 years.
    if any(later.year - earlier.year > YEARS for earlier, later in pairwise(times) if later.year < now.year + 40):
        raise ValueError(f"it comes less than once in {YEARS} years, too seldom for a scheduler")


def next_times(cron: Cron, count: int, start: datetime) -> list[datetime]:
    """Returns the next times of a schedule after a start, in UTC; there may be fewer before the calendar's end."""
    times: list[datetime] = []
    with contextlib.suppress(OverflowError):  # the year 10000
        for time in islice(CronSim(cron.evaluated, start.astimezone(ZoneInfo(cron.zone))), count):
            times.append(time.astimezone(UTC))
    return times
