"""When a schedule runs: cron expressions as Kubeflow Pipelines reads them.

Its server and its controller read them with `cron.Parse` of github.com/robfig/cron 1.2: six fields, of which the first
is the second, Sunday is 0, and a line of five fields lacks the day of the week. What people mean by five fields is Unix
cron, so these are turned into six. What comes is evaluated by cronsim, which reads some of it in another way; hence
each field is read here, strictly, and told to cronsim in a form that both understand alike.
"""

import contextlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from nlp_pipeline.errors import UsageError

EXAMPLE = 'write six fields, the second first, as in "0 0 2 * * *" (every night at two)'
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
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
# The controller looks no further than the end of the fifth year from now: what comes later hangs it.
YEARS = 5


@dataclass(frozen=True)
class Cron:
    """When a schedule runs.

    Attributes:
        expression: Six fields, as Kubeflow gets them; for Vertex AI see vertex/cron.py.
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


KINDS = (
    Kind("second", 0, 59),
    Kind("minute", 0, 59),
    Kind("hour", 0, 23),
    Kind("day of the month", 1, 31),
    Kind("month", 1, 12, MONTHS),
    Kind("day of the week", 0, 6, DAYS),
)
UNIX_WEEK = Kind("day of the week", 0, 7, DAYS)


@dataclass(frozen=True)
class Field:
    """What a field says.

    Attributes:
        stars: Its parts `*` and `*/n`: the other one of the two fields for days must match, too, where there is one.
        numbers: The values of its other parts.
    """

    stars: tuple[str, ...]
    numbers: frozenset[int]

    def __str__(self) -> str:
        return ",".join([*self.stars, *map(str, sorted(self.numbers))])


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
    if any("=" in one for one in fields):
        raise refusal(
            text, f"a time zone can't be given here, Kubeflow's is meant (UTC, if no one changed it); {EXAMPLE}"
        )
    if len(fields) not in (5, 6):
        what = "fields, and there is none for the year" if len(fields) == 7 else "field" + "s" * (len(fields) != 1)
        raise refusal(text, f"that is {len(fields)} {what}; {EXAMPLE}")
    became = len(fields) == 5
    if became:
        fields = ["0", *(from_unix(text, one, kind) for one, kind in zip(fields, KINDS[1:], strict=True))]
    read = [read_field(text, one, kind) for one, kind in zip(fields, KINDS, strict=True)]
    cron = Cron(" ".join(fields).upper(), text, became, evaluated=" ".join(map(str, read)))
    check_comes(cron)
    seconds = len(read[0].numbers | values_of_stars(read[0], KINDS[0]))
    note = f"it comes {seconds} times in each minute: the first of the six fields is the second" if seconds > 1 else ""
    return Cron(cron.expression, text, became, note, cron.evaluated)


def refusal(text: str, what: str) -> UsageError:
    """Returns the error for an expression that is refused."""
    return UsageError(f'--schedule "{" ".join(text.split())[:100]}": {what}')


def read_field(text: str, told: str, kind: Kind) -> Field:
    """Reads a field.

    Args:
        text: The whole expression, for messages.
        told: The field, in lower case.
        kind: Which one it is.

    Raises:
        UsageError: It is wrong.
    """
    stars: list[str] = []
    numbers: set[int] = set()
    for part in told.split(","):
        found = ITEM.fullmatch(part)
        if not found or (found["first"] in "*?" and found["last"]):
            raise refusal(text, f"{kind.name} {part.upper()!r} can't be read{quartz(part)}; {EXAMPLE}")
        step = int(found["step"] or 1)
        if not 1 <= step <= kind.most + 1 - kind.least:
            allowed = f"they are 1 to {kind.most + 1 - kind.least}"
            raise refusal(text, f"{kind.name} {part!r} has steps of {step}: {allowed}; {EXAMPLE}")
        if found["first"] in "*?":
            stars.append(f"*/{step}" if step > 1 else "*")
            continue
        first = read_value(text, found["first"], kind)
        last = kind.most if found["step"] else first
        last = read_value(text, found["last"], kind) if found["last"] else last
        if first > last:
            split = f"{found['first']}-{kind.most},{kind.least}-{found['last']}".upper()
            raise refusal(text, f'{kind.name} {part!r} runs backwards, unlike "{split}"; {EXAMPLE}')
        numbers |= set(range(first, last + 1, step))
    return Field(tuple(stars), frozenset(numbers))


def read_value(text: str, value: str, kind: Kind) -> int:
    """Returns the number that a number or a name stands for.

    Args:
        text: The whole expression, for messages.
        value: The value.
        kind: Of which field.

    Raises:
        UsageError: There is no such value.
    """
    if value in kind.names:
        return kind.least + kind.names.index(value)
    if value.isdecimal() and len(value) <= 4 and kind.least <= int(value) <= kind.most:
        return int(value)
    allowed = f"{kind.least} to {kind.most}"
    if kind.names:
        allowed += f" or {kind.names[0].upper()} to {kind.names[-1].upper()}"
    sunday = ", Sunday is 0" if value == "7" and kind.names == DAYS else ""
    raise refusal(text, f"{kind.name} {value.upper()!r} is none: they are {allowed}{sunday}{quartz(value)}; {EXAMPLE}")


def quartz(part: str) -> str:
    """Returns a hint where a part of a field is of another scheduler's language."""
    return ", and L, W and # are not known" if re.fullmatch(r"[a-z0-9]*[0-9]l|l|lw|[0-9]+w|\w+#[0-9]+", part) else ""


def values_of_stars(told: Field, kind: Kind) -> set[int]:
    """Returns the values that a field's stars stand for."""
    steps = [int(star.partition("/")[2] or 1) for star in told.stars]
    return {value for step in steps for value in range(kind.least, kind.most + 1, step)}


def from_unix(text: str, told: str, kind: Kind) -> str:
    """Turns a field of Unix cron into one that Kubeflow reads in the same way.

    Args:
        text: The whole expression, for messages.
        told: The field, in lower case.
        kind: Which one it is.

    Raises:
        UsageError: It is wrong.
    """
    read = read_field(text, told, UNIX_WEEK if kind.names == DAYS else kind)
    stars, numbers = read.stars, set(read.numbers)
    # In Unix cron days of either field count unless one *begins* with a star; for Kubeflow, unless one has a star.
    if stars and told[0] not in "*?":
        stars, numbers = (), numbers | values_of_stars(read, kind)
    if kind.names == DAYS and 7 in numbers:
        numbers = numbers - {7} | {0}
    meant = Field(stars, frozenset(numbers))
    return told if meant == read else str(meant)


def check_comes(cron: Cron) -> None:
    """Makes sure that the days of an expression come, and often enough.

    Args:
        cron: The expression.

    Raises:
        UsageError: They don't.
    """
    days = Cron("", "", evaluated=" ".join(["0 0 0", *cron.evaluated.split()[3:]]))
    now = datetime.now(UTC)
    try:
        comes = [now, *next_times(days, 20, now)]
    except CronSimError:
        comes = [now]
    # A full cycle of the calendar's days of the week is 28 years.
    if len(comes) == 1:
        raise refusal(cron.given, f"there is no such day, so that it never comes; {EXAMPLE}")
    if any(later.year - earlier.year > YEARS for earlier, later in pairwise(comes) if later.year < now.year + 40):
        raise refusal(cron.given, f"it comes less than once in {YEARS} years, too seldom for a scheduler; {EXAMPLE}")


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


def as_kubeflow_reads(text: str) -> Cron | None:
    """Returns a schedule that is in Kubeflow already, as Kubeflow itself reads it; None where that can't be told.

    Args:
        text: Its expression: five fields lack the day of the week, and names such as @daily are known.
    """
    fields = DESCRIPTORS.get(text, text).split()
    try:
        return read_cron(" ".join([*fields, "*"] if len(fields) == 5 else fields)) if len(fields) > 4 else None
    except UsageError:
        return None


def read_time(text: str, flag: str) -> datetime:
    """Reads a time of ISO 8601.

    Args:
        text: The time; what has no zone is meant in UTC.
        flag: What it was given as.

    Returns:
        The time in UTC, in whole seconds, as Kubeflow keeps no more.

    Raises:
        UsageError: It is none.
    """
    try:
        time = datetime.fromisoformat(text.strip().upper())
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
        if time - timedelta(days=1) < datetime(1970, 1, 1, tzinfo=UTC):  # 1970 itself means "none" to Kubeflow
            raise ValueError
    except (ValueError, OverflowError):
        raise UsageError(f"{flag} {text!r} is no time: write it as in 2027-01-31T02:00:00Z") from None
    return time.replace(microsecond=0)


def write_time(time: datetime) -> str:
    """Returns a time as JSON has it, in UTC."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
