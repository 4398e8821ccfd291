"""Cron expressions: what is taken, what is refused, and that it comes when Kubeflow says it does."""

import re
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nlp_pipeline.errors import UsageError
from nlp_pipeline.platforms.cron import next_times, read_cron
from nlp_pipeline.platforms.schedules import read_time, write_time
from tests.fakes.kfp import robfig

NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)  # a Friday


def times(line: str, count: int = 3, start: datetime = NEW_YEAR) -> list[str]:
    return [f"{time:%a %Y-%m-%d %H:%M:%S}" for time in next_times(read_cron(line), count, start)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0 0 2 * * *", ["Fri 2027-01-01 02:00:00", "Sat 2027-01-02 02:00:00", "Sun 2027-01-03 02:00:00"]),
        ("0 0 2 ? * ?", ["Fri 2027-01-01 02:00:00", "Sat 2027-01-02 02:00:00", "Sun 2027-01-03 02:00:00"]),
        ("  0 0\t2 * * mon-FRI ", ["Fri 2027-01-01 02:00:00", "Mon 2027-01-04 02:00:00", "Tue 2027-01-05 02:00:00"]),
        ("0 0 0 * * 0", ["Sun 2027-01-03 00:00:00", "Sun 2027-01-10 00:00:00", "Sun 2027-01-17 00:00:00"]),
        # Days of either field count ...
        ("0 0 0 1 * 1", ["Mon 2027-01-04 00:00:00", "Mon 2027-01-11 00:00:00", "Mon 2027-01-18 00:00:00"]),
        # ... unless one of them has a star, also with a step and behind a comma.
        ("0 0 0 */10 * 1", ["Mon 2027-01-11 00:00:00", "Mon 2027-02-01 00:00:00", "Mon 2027-03-01 00:00:00"]),
        ("0 0 0 1,*/10 * 1", ["Mon 2027-01-11 00:00:00", "Mon 2027-02-01 00:00:00", "Mon 2027-03-01 00:00:00"]),
        # Where cronsim on its own sees other days: it counts the days of the week up to 7, and 0-0/5 is one value.
        ("0 0 12 * * 1/6", ["Mon 2027-01-04 12:00:00", "Mon 2027-01-11 12:00:00", "Mon 2027-01-18 12:00:00"]),
        ("0 5-5/10 0 * * *", ["Fri 2027-01-01 00:05:00", "Sat 2027-01-02 00:05:00", "Sun 2027-01-03 00:05:00"]),
        ("0 50/5 0 * * *", ["Fri 2027-01-01 00:50:00", "Fri 2027-01-01 00:55:00", "Sat 2027-01-02 00:50:00"]),
        ("*/30 59 23 31 dec *", ["Fri 2027-12-31 23:59:00", "Fri 2027-12-31 23:59:30", "Sun 2028-12-31 23:59:00"]),
        ("0 0 0 29 2 *", ["Tue 2028-02-29 00:00:00", "Sun 2032-02-29 00:00:00", "Fri 2036-02-29 00:00:00"]),
        ("0 0 0 30 2 MON", ["Mon 2027-02-01 00:00:00", "Mon 2027-02-08 00:00:00", "Mon 2027-02-15 00:00:00"]),
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
        ("0 2 * * */2,7", "0 0 2 * * */7,0,2,4,6"),
        # A star that does not stand first has no say in which days count, as in Debian's cron.
        ("0 2 5,*/10 * 1", "0 0 2 1,5,11,21,31 * 1"),
        ("0 2 1 * 1,*/3", "0 0 2 1 * 0,1,3,6"),
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
        ("nightly", "that is 1 field;"),
        ("0 2 * *", "that is 4 fields"),
        ("0 0 2 * * * *", "that is 7 fields, and there is none for the year"),
        ("@daily", "a name is no expression"),
        ("TZ=Europe/Berlin 0 0 2 * *", "a time zone can't be given here"),
        ("60 0 2 * * *", "second '60' is none: they are 0 to 59"),
        ("0 0 2 0 * *", "day of the month '0' is none: they are 1 to 31"),
        ("0 0 2 * 13 *", "month '13' is none: they are 1 to 12 or JAN to DEC"),
        ("0 0 2 * JUNE *", "month 'JUNE' is none"),
        ("0 0 2 * * 7", "day of the week '7' is none: they are 0 to 6 or SUN to SAT, Sunday is 0"),
        ("0 2 * * 8", "day of the week '8' is none: they are 0 to 7"),
        ("0 0 2 L * *", "'L' is none: they are 1 to 31"),
        ("0 0 2 * * MON#1", "L, W and # are not known"),
        ("0 0 22-2 * * *", "hour '22-2' runs backwards, unlike \"22-23,0-2\""),
        ("0 */0 2 * * *", "minute '*/0' has steps of 0: they are 1 to 60"),
        ("0 0 2 1,,5 * *", "day of the month '' can't be read"),
        ("0 0 2 *-5 * *", "can't be read"),
        ("0 0 -2 * * *", "can't be read"),
        ("0 0 \uff12 * * *", "can't be read"),
        ("0 0 2 30 2 *", "there is no such day"),
        ("0 0 2 31 4,6,9,11 ?", "there is no such day"),
        ("0 2 30 2 *", "there is no such day"),
        ("0 0 0 29 2 */6", "it comes less than once in 5 years"),
    ],
)
def test_all_else_is_refused_with_an_example(line: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_cron(line)
    message = str(caught.value)
    assert message.startswith(f'--schedule "{line}": ') and reason in message and "\n" not in message
    assert re.search(r'"(\S+ ){5}\S+"', message.removeprefix(f'--schedule "{line}"'))


def test_the_refusal_is_one_line_also_of_a_long_text() -> None:
    with pytest.raises(UsageError) as caught:
        read_cron("0 0\n2 " + "x" * 5000)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("line", "count"), [("* 0 2 * * *", 60), ("*/20 0 2 * * *", 3), ("0,30 0 2 * * *", 2), ("5 0 2 * * *", 0)]
)
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


def fields(least: int, most: int, names: tuple[str, ...] = ()) -> st.SearchStrategy[str]:
    """Fields of an expression."""
    numbers = st.integers(least, most)
    value = st.one_of(numbers.map(str), st.sampled_from(names) if names else numbers.map(str))
    span = st.tuples(numbers, numbers).map(lambda ends: f"{min(ends)}-{max(ends)}")
    step = st.integers(1, most + 1 - least).map(lambda step: f"/{step}")
    part = st.tuples(st.one_of(st.sampled_from("*?"), value, span), st.one_of(st.just(""), step)).map("".join)
    return st.one_of(st.just("*"), part, st.lists(part, min_size=1, max_size=3).map(",".join))


SIX = st.tuples(
    *(fields(0, 59), fields(0, 59), fields(0, 23), fields(1, 31)),
    *(fields(1, 12, robfig.MONTHS), fields(0, 6, robfig.DAYS)),
).map(" ".join)
ANY_TIME = st.datetimes(datetime(2026, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC))


def is_lost(line: str) -> bool:
    """Returns whether the controller finds no next time some day."""
    days = robfig.Schedule(" ".join(["0 0 0", *line.split()[3:]]))
    time: datetime | None = datetime.now(UTC)
    for _ in range(20):
        time = time and days.next(time)
    return time is None


@settings(deadline=None)
@given(line=SIX, start=ANY_TIME)
def test_they_come_when_the_controller_says(line: str, start: datetime) -> None:
    try:
        cron = read_cron(line)
    except UsageError:
        assert is_lost(line)
        return
    found = next_times(cron, 5, start)
    assert [time.tzinfo for time in found] == [UTC] * 5
    assert all(earlier < later for earlier, later in pairwise([start, *found]))
    controller, time = robfig.Schedule(cron.expression), start
    for one in found:
        assert controller.next(time) == one
        time = one


@settings(deadline=None)
@given(line=SIX)
def test_five_fields_come_as_six(line: str) -> None:
    five = line.split(maxsplit=1)[1]
    # Unix cron goes by where the star stands, Kubeflow by whether there is one.
    assume(not any(re.search(r",[*?]", field) for field in five.split()))
    assume(not re.search(r"\d/\d|[a-z]/", five.split()[4]))  # steps up to 6, or to 7
    try:
        cron = read_cron(five)
    except UsageError:
        assert is_lost(line)
        return
    assert cron.became
    assert next_times(cron, 3, NEW_YEAR) == next_times(read_cron(f"0 {five}"), 3, NEW_YEAR)
