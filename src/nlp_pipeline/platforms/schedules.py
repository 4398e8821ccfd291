"""Schedules on either platform: when one is desired, what is done for that, and what is reported of it."""

import contextlib
import difflib
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.platforms import waiting
from nlp_pipeline.platforms.calls import NotFoundError
from nlp_pipeline.platforms.cron import Cron, next_times
from nlp_pipeline.settings import Settings

MOST_AT_ONCE = 10
# How many of its next times are reported.
NEXT = 5
ENABLED, PAUSED, ENDED = "enabled", "paused", "ended"
# What a schedule's change is in messages while it is done, and when it is done.
CHANGES = {"delete": ("removing", "removed"), "pause": ("pausing", "paused"), "resume": ("resuming", "resumed")}


@dataclass(frozen=True)
class Timing:
    """When a schedule is desired: not before `start` (None for at once), not after `end` (None for never)."""

    name: str
    cron: Cron
    catch_up: bool
    max_concurrency: int
    start: datetime | None
    end: datetime | None
    now: datetime

    @property
    def later_start(self) -> datetime | None:
        """The start; None where it is past."""
        return self.start if self.start and self.start > self.now else None

    def times(self, count: int) -> list[datetime]:
        """Returns the next times that it runs."""
        times = next_times(self.cron, count, self.later_start or self.now)
        return [time for time in times if self.end is None or time <= self.end]

    def note_of_start(self, replaces: bool) -> str:
        """Returns what a start in the past means; empty where it is none."""
        if self.start is None or self.later_start:
            return ""
        if self.catch_up and not replaces:
            return "its start is past: runs since then are made up for at once"
        return "its start is past, and runs since then are not made up for"


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """What the user says of a schedule, as flags have it; see `Timing`. Times are of ISO 8601."""

    cron: str
    name: str
    catch_up: bool = False
    max_concurrency: int = 1
    start: str | None = None
    end: str | None = None

    def read(self, read_cron: Callable[[str], Cron], platform: str, longest_name: int) -> Timing:
        """Returns when the schedule is desired, where it can be; `read_cron` reads the platform's expressions."""
        if not self.name.strip() or not self.name.isprintable():
            raise UsageError(f"--schedule-name {self.name!r} is no name: write a line, as in --schedule-name nightly")
        if (length := len(self.name)) > longest_name:
            taken = f"{platform} takes {longest_name} at most"
            raise UsageError(f"--schedule-name {self.name[:20]}... has {length} characters: {taken}")
        if not 1 <= self.max_concurrency <= MOST_AT_ONCE:
            allowed = f"{platform} allows 1 to {MOST_AT_ONCE} runs at once"
            raise UsageError(f"--concurrency {self.max_concurrency}: {allowed}")
        cron, start, end = read_cron(self.cron), read_time(self.start, "--start"), read_time(self.end, "--end")
        timing = Timing(self.name, cron, self.catch_up, self.max_concurrency, start, end, datetime.now(UTC))
        if not timing.times(1):
            after = f" after --start {write_time(start)}" if start and timing.later_start else ""
            before = f" before --end {write_time(end)}" if end else ""
            raise UsageError(f'--schedule "{cron.expression}" never comes{after}{before}')
        return timing


@dataclass(frozen=True)
class Schedule:
    """A schedule that there is."""

    name: str
    id: str
    status: str  # ENABLED, PAUSED or ENDED
    created: datetime
    next: datetime | None  # None where that can't be known
    content: Any  # the platform's own object


class Schedules(ABC):
    """The verbs, of which each platform's module `schedules` says how they are done there."""

    platform: ClassVar[str]  # its name, for messages
    longest_name: ClassVar[int]
    kills_runs: ClassVar[bool] = False  # whether a run in progress may be lost with its schedule
    when_resumed: ClassVar[str]  # what becomes of the times that a paused schedule has missed

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    # What a platform does

    @abstractmethod
    def read(self, options: ScheduleOptions, values: dict[str, Any]) -> Timing:
        """Returns when a schedule is desired; raises UsageError where that, or its parameters, can't be."""

    @abstractmethod
    def list_schedules(self) -> list[Schedule]:
        """Returns all schedules, of any pipeline, oldest first."""

    @abstractmethod
    def build(self, timing: Timing, values: dict[str, Any], former: Any, dry_run: bool) -> Any:
        """Returns the content of the desired schedule, not sent yet, in the place of a former content, if any."""

    @abstractmethod
    def choose_action(self, former: Any, desired: Any) -> str:
        """Returns what becomes of the newest schedule of a name: "unchanged", "updated" or "replaced"."""

    @abstractmethod
    def send(self, desired: Any, former: Schedule | None) -> Schedule:
        """Makes a schedule, once, or updates a former one; returns it."""

    @abstractmethod
    def change(self, doing: str, verb: str, schedule: Schedule) -> None:
        """Does what is one of CHANGES."""

    @abstractmethod
    def describe(self, content: Any) -> dict[str, Any]:
        """Returns what a schedule says of itself."""

    def look_up(self, content: Any) -> dict[str, Any]:
        """Returns what else is to be listed, that has to be asked for."""
        return {}

    @abstractmethod
    def last_runs(self, schedule: Schedule, count: int) -> list[dict[str, Any]]:
        """Returns the last of its runs, as `runs` lists them."""

    # The same on each

    def schedule(self, options: ScheduleOptions, values: dict[str, Any], dry_run: bool) -> dict[str, Any]:
        """Schedules the pipeline: makes, updates or replaces the schedule of a name, where it is not as desired.

        One that was paused stays so.

        Returns:
            `name`, `action` ("created", "updated", "replaced" or "unchanged"), `dry_run`, `id` (None where a dry run
            makes none), `status`, `became` (whether five fields became six), `next` (its next times, in UTC; none while
            it is paused), `replaced` (the ids of those that were removed, or would be), `note`, `start`, `end`, and
            what `describe` returns.

        Raises:
            UsageError: It can't be as desired, or the platform refuses that.
            PipelineError: The platform fails. No schedule is lost: where a new one was made, and the former could not
                be removed, both are there, until the next call removes the former; `facts` has the `id` of the new one,
                and in `left` those of the others.
        """
        timing = self.read(options, values)
        older = self.named(timing.name)  # whether that is allowed shows before anything is made
        former = older[-1] if older else None
        desired = self.build(timing, values, former and former.content, dry_run)
        action = self.choose_action(former.content, desired) if former else "created"
        kept = older.pop() if action in ("unchanged", "updated") else None
        paused = former is not None and former.status == PAUSED
        notes = [
            timing.cron.note,
            timing.note_of_start(former is not None) if action != "unchanged" else "",
            f"it was paused and stays so: --resume {timing.name}" if paused else "",
            f"older ones of this name go: {len(older)}" if older and kept else "",
        ]
        if not dry_run:
            kept = kept if kept and action == "unchanged" else self.send(desired, kept)
            if paused and kept.status != PAUSED:
                self._change("pause", kept)
            self._remove(older, kept, action)
        return {
            "name": timing.name,
            "action": action,
            "dry_run": dry_run,
            "id": kept and kept.id,
            "status": PAUSED if paused else ENABLED,
            "became": timing.cron.became,
            "next": [] if paused else [write_time(time) for time in timing.times(NEXT)],
            "replaced": [schedule.id for schedule in older],
            "note": "; ".join(filter(None, notes)),
            **self.describe(desired),
            "start": timing.start and write_time(timing.start),
            "end": timing.end and write_time(timing.end),
        }

    def _remove(self, older: list[Schedule], kept: Schedule, action: str) -> None:
        """Removes the older schedules of a name; the error says that the new one is there."""
        for at, schedule in enumerate(older):
            try:
                self._change("delete", schedule)
            except PipelineError as error:
                done = "is as it was" if action == "unchanged" else "was scheduled anew"
                more = "older ones of this name may be there, too, until the same command is run again"
                facts = {"id": kept.id, "left": [item.id for item in older[at:]]}
                raise type(error)(f"{kept.name!r} {done}, but {more}: {error}", facts) from None

    def schedules(self) -> list[dict[str, Any]]:
        """Returns the schedules, of any pipeline, by name.

        Returns:
            Each with `name`, `id`, `status`, `next`, `created`, what `describe` and `look_up` return, `last_run` (its
            id), `last_state` and `last_time`. What is not there, or can't be known, is None; times are in UTC.
        """
        return [self._row(schedule) for schedule in sorted(self.list_schedules(), key=lambda schedule: schedule.name)]

    def _known_runs(self, schedule: Schedule, count: int) -> list[dict[str, Any]]:
        with contextlib.suppress(UsageError):  # an older server can't look for that, or the user may not
            return self.last_runs(schedule, count)
        return []

    def _row(self, schedule: Schedule) -> dict[str, Any]:
        last = next(iter(self._known_runs(schedule, 1)), {})
        return {
            "name": schedule.name,
            "id": schedule.id,
            "status": schedule.status,
            "next": schedule.next and write_time(schedule.next),
            "created": write_time(schedule.created),
            **self.describe(schedule.content),
            **self.look_up(schedule.content),
            "last_run": last.get("id"),
            "last_state": last.get("state"),
            "last_time": last.get("created"),
        }

    def unschedule(self, name: str, dry_run: bool, force: bool = False) -> dict[str, Any]:
        """Removes a schedule; not while a run of it might be killed, except by force."""
        named = self._find(name)
        for schedule in named if self.kills_runs and not force else []:
            for run in self._known_runs(schedule, MOST_AT_ONCE):
                if run["state"] not in waiting.ENDED:
                    raise UsageError(
                        f"run {run['id']} of {name!r} is in progress; {self.platform} may kill it with its schedule, "
                        f"and leave it RUNNING for good: --pause {name}, then --wait {run['id']}; or --force"
                    )
        return self._change_all("delete", name, named, dry_run)

    def pause(self, name: str, dry_run: bool) -> dict[str, Any]:
        """Lets a schedule rest; runs that it has made go on."""
        enabled = [schedule for schedule in self._find(name) if schedule.status == ENABLED]
        return {**self._change_all("pause", name, enabled, dry_run), "status": PAUSED, "note": ""}

    def resume(self, name: str, dry_run: bool) -> dict[str, Any]:
        """Lets a schedule go on that rests; of several of this name, which a failure may have left, the newest."""
        newest = self._find(name)[-1]
        if newest.status == ENDED:
            raise UsageError(f"schedule {name!r} is over: --schedule it anew, with another --end or none")
        resting = [newest] if newest.status == PAUSED else []
        note = self.when_resumed if resting else ""
        return {**self._change_all("resume", name, resting, dry_run), "status": ENABLED, "note": note}

    def _change_all(self, verb: str, name: str, schedules: list[Schedule], dry_run: bool) -> dict[str, Any]:
        for schedule in () if dry_run else schedules:
            self._change(verb, schedule)
        action = CHANGES[verb][1] if schedules else "unchanged"
        return {"name": name, "action": action, "dry_run": dry_run, "ids": [schedule.id for schedule in schedules]}

    def _change(self, verb: str, schedule: Schedule) -> None:
        try:
            self.change(f"{CHANGES[verb][0]} schedule {schedule.name!r}", verb, schedule)
        except NotFoundError:
            if verb != "delete":  # that it is gone already is fine
                raise

    def named(self, name: str) -> list[Schedule]:
        """Returns the schedules of a name, oldest first."""
        return [schedule for schedule in self.list_schedules() if schedule.name == name]

    def _find(self, name: str) -> list[Schedule]:
        """Returns the schedules of a name, oldest first; raises UsageError where there is none."""
        every = self.list_schedules()
        if schedules := [schedule for schedule in every if schedule.name == name]:
            return schedules
        names = sorted({schedule.name for schedule in every})
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
        raise UsageError(f"there is no schedule {name!r}; {hint if names else 'there are none at all'}")


def digest(*asked: Any) -> str:
    """Returns what a schedule carries of what was asked for, to know the same again."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:16]


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
