"""When a schedule runs on Vertex AI: what is sent, what is refused, and when it comes."""

from datetime import UTC, datetime

import pytest

from nlp_pipeline.errors import UsageError
from nlp_pipeline.platforms.cron import next_times
from nlp_pipeline.vertex.schedules import as_vertex_reads, read_cron

SUMMER = datetime(2026, 7, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "sent", "became"),
    [
        ("0 0 2 * * *", "TZ=UTC 0 2 * * *", False),
        ("0 30 6 * * mon-fri", "TZ=UTC 30 6 * * MON-FRI", False),
        ("00 0 2 * * *", "TZ=UTC 0 2 * * *", False),
        ("0 2 * * *", "TZ=UTC 0 2 * * *", True),
        # Sunday is 7 as well in Unix cron, and 0 only in what Vertex AI reads.
        ("0 2 * * 7", "TZ=UTC 0 2 * * 0", True),
        ("0 2 * * 5-7", "TZ=UTC 0 2 * * 0,5,6", True),
        ("TZ=Europe/Berlin 0 0 2 * * *", "TZ=Europe/Berlin 0 2 * * *", False),
        ("CRON_TZ=America/New_York 0 2 * * *", "TZ=America/New_York 0 2 * * *", True),
    ],
)
def test_what_is_sent(given: str, sent: str, became: bool) -> None:
    cron = read_cron(given)
    assert (cron.expression, cron.became, cron.given, cron.note) == (sent, became, given, "")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("30 0 2 * * *", 'Vertex AI knows no seconds: write 0 for the first field, as in "0 0 2 * * *"'),
        ("* 0 2 * * *", "Vertex AI knows no seconds"),
        ("0,30 0 2 * * *", "Vertex AI knows no seconds"),
        ("TZ=Europe/Nowhere 0 0 2 * * *", "there is no time zone 'Europe/Nowhere': write it as in TZ=Europe/Berlin"),
        ("TZ=../etc 0 0 2 * * *", "there is no time zone '../etc'"),
        ("TZ= 0 0 2 * * *", "there is no time zone ''"),
        ("0 0 2 * * 7", "Sunday is 0"),
        ("0 0 25 * * *", "hour '25' is none"),
        ("0 0 0 31 2 *", "it never comes"),
        ("@daily", 'in six fields that is "0 0 0 * * *"'),
        ("2 * * *", "that is 4 fields"),
    ],
)
def test_what_is_refused(given: str, message: str) -> None:
    with pytest.raises(UsageError, match=r"^--schedule ") as refused:
        read_cron(given)
    assert message in str(refused.value)


def test_when_it_comes_in_a_zone_with_summer_time() -> None:
    berlin = read_cron("TZ=Europe/Berlin 0 0 2 * * *")
    assert next_times(berlin, 1, SUMMER) == [datetime(2026, 7, 1, 0, tzinfo=UTC).replace(day=2)]
    assert next_times(berlin, 1, datetime(2026, 12, 1, tzinfo=UTC)) == [datetime(2026, 12, 1, 1, tzinfo=UTC)]
    assert next_times(read_cron("0 0 2 * * *"), 1, SUMMER) == [datetime(2026, 7, 1, 2, tzinfo=UTC)]


def test_schedules_that_others_made() -> None:
    # 5 is Friday for robfig's cron and for Unix's; what Unix's lines alone allow is not known there.
    found = as_vertex_reads("TZ=Europe/Berlin 0 2 * * 5")
    assert found and next_times(found, 1, SUMMER) == [datetime(2026, 7, 3, 0, tzinfo=UTC)]
    assert as_vertex_reads("0 2 * * 7") is None and as_vertex_reads("TZ=Nowhere 0 2 * * *") is None
    daily = as_vertex_reads("@daily")
    assert daily and next_times(daily, 1, SUMMER) == [datetime(2026, 7, 2, tzinfo=UTC)]
