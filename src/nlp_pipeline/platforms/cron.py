"""When a schedule runs: cron expressions as Kubeflow Pipelines reads them, evaluated by cronsim.

Kubeflow's server and controller read them with `cron.Parse` of github.com/robfig/cron 1.2: six fields, of which the
first is the second, Sunday is 0, and a line of five fields lacks the day of the week. What people mean by five fields
is Unix cron, so these are turned into six. As cronsim reads some of it in another way, each field is read here,
strictly, and handed to cronsim in a form that both understand alike.
"""

import contextlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from nlp_pipeline.errors import UsageError

EXAMPLE = 'write six fields, the second first, as in "0 0 2 * * *" (every night at two)'
DESCRIPTORS = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}
ITEM = re.compile(r"(?P<first>[*?]|[a-z0-9]+)(?:-(?P<last>[a-z0-9]+))?(?:/(?P<step>[0-9]{1,4}))?", re.ASCII)
QUARTZ = re.compile(r"[a-z0-9]*[0-9]l|l|lw|[0-9]+w|\w+#[0-9]+")
# The controller looks no further than the end of the fifth year from now: what comes later hangs it.
YEARS = 5


@dataclass(frozen=True)
class Cron:
    """When a schedule runs.

    Attributes:
        expression: As the platform gets it: six fields for Kubeflow, a time zone and five for Vertex AI.
        given: What the user wrote.
        became: Whether that were five fields, of Unix cron.
        note: What is odd about it; empty where nothing is.
        evaluated: The same for cronsim.
        zone: The time zone that the fields are meant in.
    """

    expression: str
    given: str
    became: bool = False
    note: str = ""
    evaluated: str = field(default="", repr=False, compare=False)
    zone: str = "UTC"


@dataclass(frozen=True)
class Kind:
    """A field's name, its least and largest value, and names of values from the least on."""

    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many values there are."""
        return self.most + 1 - self.least


DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
KINDS = (
    Kind("second", 0, 59),
    Kind("minute", 0, 59),
    Kind("hour", 0, 23),
    Kind("day of the month", 1, 31),
    Kind("month", 1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")),
    Kind("day of the week", 0, 6, DAYS),
)
UNIX_WEEK = Kind("day of the week", 0, 7, DAYS)


@dataclass
class Field:
    """What a field says.

    Attributes:
        stars: Its parts `*` and `*/n`, and the values of each: the other one of the two fields for days must match,
            too, where there is one.
        numbers: The values of its other parts.
    """

    stars: dict[str, range] = field(default_factory=dict)
    numbers: set[int] = field(default_factory=set)

    def __str__(self) -> str:
        # cronsim takes a field for one with a star only where it begins with it.
        return ",".join([*self.stars, *map(str, sorted(self.numbers))])

    @property
    def values(self) -> set[int]:
        """All its values."""
        return self.numbers.union(*self.stars.values())


def read_cron(text: str) -> Cron:
    """Reads a cron expression.

    Args:
        text: Six fields, the second first; or five, which are read as Unix cron.

    Raises:
        UsageError: It is something else, Kubeflow would refuse it or read it in another way, or it never comes.
    """
    fields = text.lower().split()
    if text.lstrip().startswith("@"):
        plain = DESCRIPTORS.get(" ".join(fields))
        raise refusal(text, f'in six fields that is "{plain}"' if plain else f"a name is no expression; {EXAMPLE}")
    if any("=" in item for item in fields):
        raise refusal(
            text, f"a time zone can't be given here, Kubeflow's is meant (UTC, if no one changed it); {EXAMPLE}"
        )
    if len(fields) not in (5, 6):
        what = "fields, and there is none for the year" if len(fields) == 7 else "field" + "s" * (len(fields) != 1)
        raise refusal(text, f"that is {len(fields)} {what}; {EXAMPLE}")
    became = len(fields) == 5
    if became:
        fields = ["0", *(from_unix(text, item, kind) for item, kind in zip(fields, KINDS[1:], strict=True))]
    read = [read_field(text, item, kind) for item, kind in zip(fields, KINDS, strict=True)]
    check_comes(text, read)
    seconds = len(read[0].values)
    note = f"it comes {seconds} times in each minute: the first of the six fields is the second" if seconds > 1 else ""
    return Cron(" ".join(fields).upper(), text, became, note, " ".join(map(str, read)))


def refusal(text: str, what: str) -> UsageError:
    """Returns the error for an expression that is refused."""
    return UsageError(f'--schedule "{" ".join(text.split())[:100]}": {what}')


def read_field(text: str, given: str, kind: Kind) -> Field:
    """Reads a field, in lower case, of the whole expression `text`, which is for messages."""
    read = Field()
    for part in given.split(","):
        quartz = ", and L, W and # are not known" if QUARTZ.fullmatch(part) else ""
        found = ITEM.fullmatch(part)
        if not found or (found["first"] in "*?" and found["last"]):
            raise refusal(text, f"{kind.name} {part.upper()!r} can't be read{quartz}; {EXAMPLE}")
        step = int(found["step"] or 1)
        if not 1 <= step <= kind.count:
            raise refusal(text, f"{kind.name} {part!r} has steps of {step}: they are 1 to {kind.count}; {EXAMPLE}")
        if found["first"] in "*?":
            read.stars[f"*/{step}" if step > 1 else "*"] = range(kind.least, kind.most + 1, step)
            continue
        first = read_value(text, found["first"], kind, quartz)
        last = kind.most if found["step"] else first
        last = read_value(text, found["last"], kind, quartz) if found["last"] else last
        if first > last:
            split = f"{found['first']}-{kind.most},{kind.least}-{found['last']}".upper()
            raise refusal(text, f'{kind.name} {part!r} runs backwards, unlike "{split}"; {EXAMPLE}')
        read.numbers |= set(range(first, last + 1, step))
    return read


def read_value(text: str, value: str, kind: Kind, hint: str) -> int:
    """Returns the number that a number or a name stands for."""
    if value in kind.names:
        return kind.least + kind.names.index(value)
    if value.isdecimal() and len(value) <= 4 and kind.least <= int(value) <= kind.most:
        return int(value)
    allowed = f"{kind.least} to {kind.most}"
    if kind.names:
        allowed += f" or {kind.names[0].upper()} to {kind.names[-1].upper()}"
    sunday = ", Sunday is 0" if value == "7" and kind.names == DAYS else ""
    raise refusal(text, f"{kind.name} {value.upper()!r} is none: they are {allowed}{sunday}{hint}; {EXAMPLE}")


def from_unix(text: str, given: str, kind: Kind) -> str:
    """Turns a field of Unix cron into one that Kubeflow reads in the same way."""
    read = read_field(text, given, UNIX_WEEK if kind.names == DAYS else kind)
    meant = Field(read.stars, set(read.numbers))
    # In Unix cron days of either field count unless one *begins* with a star; for Kubeflow, unless one has a star.
    if read.stars and given[0] not in "*?":
        meant = Field({}, read.values)
    if kind.names == DAYS and 7 in meant.numbers:
        meant.numbers = meant.numbers - {7} | {0}
    return given if meant == read else str(meant)


def check_comes(text: str, fields: list[Field]) -> None:
    """Makes sure that the days of an expression come, and often enough."""
    days = Cron("", "", evaluated=" ".join(["0 0 0", *map(str, fields[3:])]))
    now = datetime.now(UTC)
    comes = [now]
    with contextlib.suppress(CronSimError):
        comes += next_times(days, 20, now)
    if len(comes) == 1:
        raise refusal(text, f"there is no such day, so that it never comes; {EXAMPLE}")
    # A full cycle of the calendar's days of the week is 28 years.
    if any(later.year - earlier.year > YEARS for earlier, later in pairwise(comes) if later.year < now.year + 40):
        raise refusal(text, f"it comes less than once in {YEARS} years, too seldom for a scheduler; {EXAMPLE}")


def next_times(cron: Cron, count: int, start: datetime) -> list[datetime]:
    """Returns the next times of a schedule, in UTC.

    Args:
        cron: When it runs.
        count: How many times; there may be fewer before the end of the calendar.
        start: After when; what has no zone is meant in UTC.
    """
    after = start.replace(tzinfo=UTC) if start.tzinfo is None else start
    times: list[datetime] = []
    with contextlib.suppress(OverflowError):  # the year 10000
        for time in islice(CronSim(cron.evaluated, after.astimezone(ZoneInfo(cron.zone))), count):
            times.append(time.astimezone(UTC))
    return times
