"""A schedule as it is wanted: whether it can be, what it means, and whether a recurring run is just that."""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from nlp_pipeline.client.cron import Cron, next_times, write_time
from nlp_pipeline.client.recurring import mark
from nlp_pipeline.errors import UsageError

MOST_AT_ONCE = 10
COUNTED = 1000


@dataclass(frozen=True, kw_only=True)
class Timing:
    """When a schedule is wanted, wherever it is.

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
    max_concurrency: int
    start: datetime | None
    end: datetime | None

    def times(self, count: int, now: datetime) -> list[datetime]:
        """Returns the next times that it runs."""
        times = next_times(self.cron, count, max(now, self.start or now))
        return [time for time in times if self.end is None or time <= self.end]


@dataclass(frozen=True, kw_only=True)
class Plan(Timing):
    """A schedule as it is wanted in Kubeflow.

    Attributes:
        pipeline_id: The pipeline's id.
        version_id: The version's id.
        experiment_id: The id of the runs' experiment.
        parameters: The pipeline's arguments.
        service_account: The service account of the runs; empty for Kubeflow's choice.
    """

    pipeline_id: str
    version_id: str
    experiment_id: str
    parameters: dict[str, Any]
    service_account: str

    def content(self) -> str:
        """Returns a digest of all that Kubeflow may tell in other words than it was told."""
        told = [self.parameters, self.start, self.end, self.service_account]
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def matches(self, one: Any) -> bool:
        """Returns whether a recurring run is what is wanted."""
        source, cron = one.pipeline_version_reference, one.trigger and one.trigger.cron_schedule
        return bool(
            mark(one, "content") == self.content()
            and cron
            and cron.cron == self.cron.expression
            and source
            and (source.pipeline_id, source.pipeline_version_id) == (self.pipeline_id, self.version_id)
            and one.experiment_id == self.experiment_id
            and int(one.max_concurrency or 0) == self.max_concurrency
            and bool(one.no_catchup) is not self.catch_up
        )


TimingT = TypeVar("TimingT", bound=Timing)


def check_plan(plan: TimingT, now: datetime, platform: str = "Kubeflow") -> TimingT:
    """Makes sure that a schedule can be.

    Args:
        plan: The schedule.
        now: The time.
        platform: Who allows so many runs at once, for the message.

    Returns:
        The schedule.

    Raises:
        UsageError: It can't.
    """
    if not plan.name.strip() or not plan.name.isprintable():
        raise UsageError(f"--schedule-name {plan.name!r} is no name: write a line, as in --schedule-name nightly")
    if not 1 <= plan.max_concurrency <= MOST_AT_ONCE:
        raise UsageError(f"--concurrency {plan.max_concurrency}: {platform} allows 1 to {MOST_AT_ONCE} runs at once")
    start, end = plan.start and write_time(plan.start), plan.end and write_time(plan.end)
    if plan.end is not None:
        if plan.start is not None and plan.start >= plan.end:
            raise UsageError(f"--start {start} is not before --end {end}")
        if plan.end <= now:
            raise UsageError(f"--end {end} is past: it is {write_time(now)}")
    if not plan.times(1, now):
        after = f" after --start {start}" if plan.start and plan.start > now else ""
        before = f" before --end {end}" if end else ""
        raise UsageError(f'--schedule "{plan.cron.expression}" never comes{after}{before}')
    return plan


def note_of_start(plan: Timing, replaces: bool, now: datetime) -> str:
    """Returns what a start in the past means; empty where it is none."""
    if plan.start is None or plan.start > now:
        return ""
    if not plan.catch_up:
        return "its start is past, and runs since then are not made up for"
    if replaces:
        return "its start is past, and runs since then are not made up for, as it replaces a former one"
    missed = sum(time <= now for time in next_times(plan.cron, COUNTED, plan.start))
    return f"its start is past: {'more than ' * (missed == COUNTED)}{missed} runs since then are made up for at once"
