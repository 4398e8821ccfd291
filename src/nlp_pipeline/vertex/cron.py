"""When a schedule runs on Vertex AI: a time zone, and five fields.

A prefix `TZ=` is that of github.com/robfig/cron, of which a former version reads Kubeflow's expressions: so the fields
are taken to mean the same on both, and what is written for the one can be given to the other.
"""

import re
from dataclasses import replace
from zoneinfo import ZoneInfo

from nlp_pipeline.errors import UsageError
from nlp_pipeline.platforms.cron import DESCRIPTORS, Cron, read_cron, refusal

ZONE = re.compile(r"\s*(?:CRON_)?TZ=(?P<zone>\S*)\s+(?P<fields>.*)", re.DOTALL)


def read_zoned_cron(text: str) -> Cron:
    """Reads a cron expression.

    Args:
        text: Six fields as for Kubeflow, the second first, which must be 0; or five of Unix cron. Before them the time
            zone may stand, as in `TZ=Europe/Berlin`; otherwise they are meant in UTC.

    Raises:
        UsageError: It is something else, or it never comes.
    """
    zone, fields = split_zone(text)
    cron = read_cron(fields)
    if cron.evaluated.split()[0] != "0":
        raise refusal(text, 'Vertex AI knows no seconds: write 0 for the first field, as in "0 0 2 * * *"')
    try:
        ZoneInfo(zone)
    except (LookupError, ValueError, OSError):
        raise refusal(text, f"there is no time zone {zone!r}: write it as in TZ=Europe/Berlin") from None
    return replace(cron, expression=f"TZ={zone} {' '.join(cron.expression.split()[1:])}", given=text, zone=zone)


def as_vertex_reads(text: str) -> Cron | None:
    """Returns a schedule that is there already, as Vertex AI reads it; None where that can't be told."""
    zone, fields = split_zone(text)
    try:
        # Not as Unix cron: the days of the week are robfig's here, too.
        cron = read_cron(DESCRIPTORS.get(fields, f"0 {fields}"))
        ZoneInfo(zone)
    except (UsageError, LookupError, ValueError, OSError):
        return None
    return replace(cron, expression=text, given=text, zone=zone)


def split_zone(text: str) -> tuple[str, str]:
    """Returns the time zone that stands before the fields, UTC where there is none, and the fields."""
    found = ZONE.fullmatch(text)
    return (found["zone"], found["fields"]) if found else ("UTC", text)
