"""What a schedule is on either platform: when it is wanted, whether that can be, and what is said of it."""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.platforms.cron import Cron, next_times

MOST_AT_ONCE = 10
# How many of its next times are shown, and up to how many missed ones are counted.
SHOWN, COUNTED = 5, 1000


@dataclass(frozen=True)
class Timing:
    """When a schedule is wanted: not before `start` (None for at once), not after `end` (None for never)."""

    name: str
    cron: Cron
    catch_up: bool
    max_concurrency: int
    start: datetime | None
    end: datetime | None

    def times(self, count: int, now: datetime) -> list[datetime]:
        """Returns the next times that it runs."""
        times = next_times(self.cron, count, max(now, self.start or now))
        return [time for time in times if self.end is None or time <= self.end]


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """What the user says of a schedule, as flags have it; see `Timing`. Times are of ISO 8601."""

    cron: str
    name: str
    catch_up: bool = False
    max_concurrency: int = 1
    start: str | None = None
    end: str | None = None

    def read(self, read_cron: Callable[[str], Cron], platform: str, now: datetime) -> Timing:
        """Returns when the schedule is wanted, where it can be; `read_cron` reads the platform's expressions."""
        if not self.name.strip() or not self.name.isprintable():
            raise UsageError(f"--schedule-name {self.name!r} is no name: write a line, as in --schedule-name nightly")
        if not 1 <= self.max_concurrency <= MOST_AT_ONCE:
            allowed = f"{platform} allows 1 to {MOST_AT_ONCE} runs at once"
            raise UsageError(f"--concurrency {self.max_concurrency}: {allowed}")
        cron, start, end = read_cron(self.cron), read_time(self.start, "--start"), read_time(self.end, "--end")
        if start and end and start >= end:
            raise UsageError(f"--start {write_time(start)} is not before --end {write_time(end)}")
        if end and end <= now:
            raise UsageError(f"--end {write_time(end)} is past: it is {write_time(now)}")
        timing = Timing(self.name, cron, self.catch_up, self.max_concurrency, start, end)
        if not timing.times(1, now):
            after = f" after --start {write_time(start)}" if start and start > now else ""
            before = f" before --end {write_time(end)}" if end else ""
            raise UsageError(f'--schedule "{cron.expression}" never comes{after}{before}')
        return timing


def note_of_start(timing: Timing, replaces: bool, now: datetime) -> str:
    """Returns what a start in the past means; empty where it is none."""
    if timing.start is None or timing.start > now:
        return ""
    if not timing.catch_up or replaces:
        why = ", as it replaces a former one" if timing.catch_up else ""
        return f"its start is past, and runs since then are not made up for{why}"
    missed = sum(time <= now for time in next_times(timing.cron, COUNTED, timing.start))
    return f"its start is past: {'more than ' * (missed == COUNTED)}{missed} runs since then are made up for at once"


def unknown_schedule(name: str, known: Iterable[str]) -> UsageError:
    """Returns what to raise where there is no schedule of a name; those there are help to find the right one."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=1)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names[:10])}{more}"
    return UsageError(f"there is no schedule {name!r}; {hint if names else 'there are none at all'}")


def remove_older(name: str, action: str, kept: str, older: list[str], remove: Callable[[str], None]) -> None:
    """Removes the older schedules of a name, by their ids; `action` is what became of the one that is kept."""
    for at, item in enumerate(older):
        try:
            remove(item)
        except PipelineError as error:
            done = "is as it was" if action == "unchanged" else "was scheduled anew"
            left = "an older one of this name is there, too, until the same command is run again"
            facts = {"id": kept, "left": older[at:]}
            raise type(error)(f"{name!r} {done}, but {left}: {error}", facts) from None


def report_switch(name: str, action: str, ids: list[str], dry_run: bool, note: str) -> dict[str, Any]:
    """Returns what is reported of schedules that were "paused" or "resumed"; `note` is for the latter."""
    return {
        "name": name,
        "action": action if ids else "unchanged",
        "dry_run": dry_run,
        "ids": ids,
        "status": "paused" if action == "paused" else "enabled",
        "note": note if action == "resumed" and ids else "",
    }


def read_time(text: str | None, flag: str) -> datetime | None:
    """Returns a time of ISO 8601 in whole seconds of UTC, which is meant where it has no zone; None for none."""
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
