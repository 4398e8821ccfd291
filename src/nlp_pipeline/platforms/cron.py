"""When a schedule runs: cron expressions of six fields as both platforms read them, evaluated by cronsim.

Their servers read them as github.com/robfig/cron 1.2 does: the first field is the second, Sunday is 0, and a line of
five fields lacks the day of the week. What people mean by five fields is Unix cron, so these are turned into six.
"""

import contextlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from nlp_pipeline.errors import UsageError

EXAMPLE = 'write six fields, the second first, as in "0 0 2 * * *" (every night at two)'
# What cronsim and the servers read alike: a star alone, perhaps with a step, or values, ranges and steps of ranges.
VALUES = r"([0-9]+|[A-Z]{3})(-([0-9]+|[A-Z]{3}))?(/[0-9]+)?"
FIELD = re.compile(rf"[*?](/[0-9]+)?|{VALUES}(,{VALUES})*")


@dataclass(frozen=True)
class Cron:
    """When a schedule runs: six fields, which `became` so where the user wrote five, of Unix cron."""

    expression: str
    became: bool
    note: str = ""  # what is odd about it
    zone: str = "UTC"


def read_cron(text: str) -> Cron:
    """Reads six fields, the second first, or five of Unix cron; a UsageError says what is wrong with it."""
    fields = text.upper().split()
    became = len(fields) == 5
    if became:
        fields.insert(0, "0")
    try:
        if odd := [field for field in fields if not FIELD.fullmatch(field)]:
            raise ValueError(f"{odd[0]!r} can't be read")
        times = simulate(" ".join(fields), datetime.now(UTC))
    except (CronSimError, ValueError) as error:
        raise refusal(text, f"{str(error)[:100]}; {EXAMPLE}") from None
    if fields[5][0] not in "*?" and re.search("[7/]", fields[5]):
        # A Sunday that is 7, also as the end of steps, only cronsim knows.
        fields[5] = ",".join(map(str, sorted({day % 7 for day in times.weekdays if isinstance(day, int)})))
    count = len(times.seconds)
    note = f"it comes {count} times in each minute: the first of the six fields is the second" if count > 1 else ""
    return Cron(" ".join(fields), became, note)


def simulate(expression: str, start: datetime) -> CronSim:
    """Returns the times of an expression after a start, without end."""
    return CronSim(expression.replace("?", "*"), start)


def refusal(text: str, what: str) -> UsageError:
    """Returns the error for an expression that is refused."""
    return UsageError(f'--schedule "{" ".join(text.split())[:100]}": {what}')


def next_times(cron: Cron, count: int, start: datetime) -> list[datetime]:
    """Returns the next times of a schedule after a start, in UTC; there may be fewer before the calendar's end."""
    times: list[datetime] = []
    with contextlib.suppress(OverflowError):  # the year 10000
        for time in islice(simulate(cron.expression, start.astimezone(ZoneInfo(cron.zone))), count):
            times.append(time.astimezone(UTC))
    return times
