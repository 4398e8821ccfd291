"""What a schedule is on either platform: when it is wanted, whether that can be, and what is said of it."""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from nlp_pipeline.errors import UsageError
from nlp_pipeline.platforms.cron import Cron, next_times

MOST_AT_ONCE = 10
# How many of its next times are shown, and up to how many missed ones are counted.
SHOWN, COUNTED = 5, 1000


@dataclass(frozen=True, kw_only=True)
class Timing:
    """When a schedule is wanted.

    Attributes:
        name: Its name.
        cron: When it runs.
        catch_up: Whether missed runs are made up for.
        max_concurrency: How many runs there may be at once.
        start: Not before; None for at once.
        end: Not after; None for never.
    """

    name: str
    cron: Cron
    catch_up: bool = False
    max_concurrency: int = 1
    start: datetime | None = None
    end: datetime | None = None

    def times(self, count: int, now: datetime) -> list[datetime]:
        """Returns the next times that it runs."""
        times = next_times(self.cron, count, max(now, self.start or now))
        return [time for time in times if self.end is None or time <= self.end]


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """What the user says of a schedule, as flags have it.

    Attributes:
        cron: When it runs.
        name: Its name.
        catch_up: Whether missed runs are made up for.
        max_concurrency: How many runs there may be at once.
        start: Not before, ISO 8601, in UTC where it has no zone; None or empty for at once.
        end: Not after; None or empty for never.
    """

    cron: str
    name: str
    catch_up: bool = False
    max_concurrency: int = 1
    start: str | None = None
    end: str | None = None

    def read(self, read_cron: Callable[[str], Cron], platform: str, now: datetime) -> Timing:
        """Returns when the schedule is wanted, where it can be.

        Args:
            read_cron: Reads the platform's cron expressions.
            platform: Who allows so many runs at once, for the message.
            now: The time.

        Raises:
            UsageError: It can't be.
        """
        timing = Timing(
            name=self.name,
            cron=read_cron(self.cron),
            catch_up=self.catch_up,
            max_concurrency=self.max_concurrency,
            start=read_time(self.start, "--start"),
            end=read_time(self.end, "--end"),
        )
        check_timing(timing, now, platform)
        return timing


TimingT = TypeVar("TimingT", bound=Timing)


def check_timing(timing: TimingT, now: datetime, platform: str) -> TimingT:
    """Returns a schedule as it is wanted, where it can be; see `ScheduleOptions.read`."""
    if not timing.name.strip() or not timing.name.isprintable():
        raise UsageError(f"--schedule-name {timing.name!r} is no name: write a line, as in --schedule-name nightly")
    if not 1 <= timing.max_concurrency <= MOST_AT_ONCE:
        raise UsageError(f"--concurrency {timing.max_concurrency}: {platform} allows 1 to {MOST_AT_ONCE} runs at once")
    start, end = timing.start and write_time(timing.start), timing.end and write_time(timing.end)
    if timing.end is not None:
        if timing.start is not None and timing.start >= timing.end:
            raise UsageError(f"--start {start} is not before --end {end}")
        if timing.end <= now:
            raise UsageError(f"--end {end} is past: it is {write_time(now)}")
    if not timing.times(1, now):
        after = f" after --start {start}" if timing.start and timing.start > now else ""
        before = f" before --end {end}" if end else ""
        raise UsageError(f'--schedule "{timing.cron.expression}" never comes{after}{before}')
    return timing


def note_of_start(timing: Timing, replaces: bool, now: datetime) -> str:
    """Returns what a start in the past means; empty where it is none."""
    if timing.start is None or timing.start > now:
        return ""
    if not timing.catch_up:
        return "its start is past, and runs since then are not made up for"
    if replaces:
        return "its start is past, and runs since then are not made up for, as it replaces a former one"
    missed = sum(time <= now for time in next_times(timing.cron, COUNTED, timing.start))
    return f"its start is past: {'more than ' * (missed == COUNTED)}{missed} runs since then are made up for at once"


def unknown_schedule(name: str, known: Iterable[str]) -> UsageError:
    """Returns what to raise where there is no schedule of a name; those there are help to find the right one."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=1)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names[:10])}{more}"
    return UsageError(f"there is no schedule {name!r}; {hint if names else 'there are none at all'}")


def read_time(text: str | None, flag: str) -> datetime | None:
    """Reads a time of ISO 8601.

    Args:
        text: The time; what has no zone is meant in UTC. None or empty for none.
        flag: What it was given as.

    Returns:
        The time in UTC, in whole seconds, as Kubeflow keeps no more.

    Raises:
        UsageError: It is none.
    """
    if not text:
        return None
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
