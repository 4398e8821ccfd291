"""Cron expressions: what is taken, what is refused, and that it comes when Kubeflow says it does."""

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest

from nlp_pipeline.errors import UsageError
from nlp_pipeline.platforms.cron import next_times, read_cron
from nlp_pipeline.platforms.schedules import read_time, write_time

NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)  # a Friday


def times(line: str, count: int = 3, start: datetime = NEW_YEAR) -> list[str]:
    return [f"{time:%a %Y-%m-%d %H:%M:%S}" for time in next_times(read_cron(line), count, start)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0 0 2 * * *", ["Fri 2027-01-01 02:00:00", "Sat 2027-01-02 02:00:00", "Sun 2027-01-03 02:00:00"]),
        ("  0 0\t2 * * mon-FRI ", ["Fri 2027-01-01 02:00:00", "Mon 2027-01-04 02:00:00", "Tue 2027-01-05 02:00:00"]),
        ("0 0 0 ? * 0", ["Sun 2027-01-03 00:00:00", "Sun 2027-01-10 00:00:00", "Sun 2027-01-17 00:00:00"]),
        # Days of either field count ...
        ("0 0 0 1 * 1", ["Mon 2027-01-04 00:00:00", "Mon 2027-01-11 00:00:00", "Mon 2027-01-18 00:00:00"]),
        # ... unless one of them has a star, also with a step.
        ("0 0 0 */10 * 1", ["Mon 2027-01-11 00:00:00", "Mon 2027-02-01 00:00:00", "Mon 2027-03-01 00:00:00"]),
        ("0 50/5 0 * * *", ["Fri 2027-01-01 00:50:00", "Fri 2027-01-01 00:55:00", "Sat 2027-01-02 00:50:00"]),
        ("*/30 59 23 31 dec *", ["Fri 2027-12-31 23:59:00", "Fri 2027-12-31 23:59:30", "Sun 2028-12-31 23:59:00"]),
        ("0 0 0 29 2 *", ["Tue 2028-02-29 00:00:00", "Sun 2032-02-29 00:00:00", "Fri 2036-02-29 00:00:00"]),
    ],
)
def test_six_fields(line: str, expected: list[str]) -> None:
    cron = read_cron(line)
    assert (cron.expression, cron.became) == (" ".join(line.upper().split()), False)
    assert times(line) == expected


@pytest.mark.parametrize(
    ("line", "becomes"),
    [
        ("0 2 * * *", "0 0 2 * * *"),
        ("*/15 9-17 * * mon-fri", "0 */15 9-17 * * MON-FRI"),
        ("0 2 * * 7", "0 0 2 * * 0"),
        ("0 2 * * 5-7", "0 0 2 * * 0,5,6"),
        ("0 2 1 * 0-7", "0 0 2 1 * 0,1,2,3,4,5,6"),
        ("0 2 1 * 1/3", "0 0 2 1 * 0,1,4"),
    ],
)
def test_five_fields_are_unix_cron(line: str, becomes: str) -> None:
    cron = read_cron(line)
    assert (cron.expression, cron.became) == (becomes, True)
    assert read_cron(becomes).became is False
    assert next_times(cron, 5, NEW_YEAR) == next_times(read_cron(becomes), 5, NEW_YEAR)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 2 * *", "Wrong number of fields"),
        ("@daily", "'@DAILY' can't be read"),
        ("60 0 2 * * *", "Bad second"),
        ("0 0 2 * JUNE *", "'JUNE' can't be read"),
        ("0 2 * * 8", "Bad day-of-week"),
        ("0 0 2 * * MON#1", "'MON#1' can't be read"),
        ("0 0 22-2 * * *", "Bad hour"),
        ("0 */0 2 * * *", "Bad minute"),
        ("0 0 2 1,*/10 * *", "'1,*/10' can't be read"),
        ("0 0 \uff12 * * *", "can't be read"),
        ("0 0 2 30 2 *", "Bad day-of-month"),
    ],
)
def test_all_else_is_refused_with_an_example(line: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_cron(line)
    message = str(caught.value)
    assert message.startswith(f'--schedule "{line}": ') and reason in message and "\n" not in message
    assert re.search(r'"(\S+ ){5}\S+"', message.removeprefix(f'--schedule "{line}"'))


@pytest.mark.parametrize(("line", "count"), [("* 0 2 * * *", 60), ("*/20 0 2 * * *", 3), ("5 0 2 * * *", 0)])
def test_more_than_one_time_in_a_minute_is_told(line: str, count: int) -> None:
    assert read_cron(line).note.startswith(f"it comes {count} times in each minute") is bool(count)
    assert bool(read_cron(line).note) is bool(count)


def test_times_are_after_the_start_in_utc() -> None:
    assert times("0 0 2 * * *", 1, NEW_YEAR.replace(hour=2)) == ["Sat 2027-01-02 02:00:00"]
    assert times("0 0 2 * * *", 1, NEW_YEAR.replace(hour=1, second=59, microsecond=5)) == ["Fri 2027-01-01 02:00:00"]
    east = datetime(2027, 1, 1, 3, tzinfo=timezone(timedelta(hours=2)))
    assert times("0 0 2 * * *", 1, east) == ["Fri 2027-01-01 02:00:00"]
    assert len(times("0 0 0 1 1 *", 5, datetime(9998, 6, 1, tzinfo=UTC))) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2027-01-31t02:00z", "2027-01-31T02:00:00Z"),
        (" 2027-01-31 ", "2027-01-31T00:00:00Z"),
        ("2027-01-31T02:00:00.999+02:00", "2027-01-31T00:00:00Z"),
    ],
)
def test_times_are_read(text: str, expected: str) -> None:
    time = read_time(text, "--start")
    assert time and write_time(time) == expected


@pytest.mark.parametrize(
    "text", ["tomorrow", "2027-02-30", "1970-01-01", "0001-01-01T00:00+10:00", "9999-12-31T23:00-10:00", "02:00"]
)
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--end '.*' is no time: write it as in 2027-01-31T02:00:00Z$"):
        read_time(text, "--end")
