"""`--runs` on Vertex AI: the recent runs of a project and region."""

import datetime
from itertools import islice
from typing import Any

from nlp_pipeline.vertex.connection import Connection
from nlp_pipeline.vertex.submitting import EXPERIMENT, VERSION

FIELDS = ("name", "display_name", "state", "create_time", "end_time", "labels")
PAGE = 100
# What KFP calls in another way.
STATES = {"CANCELLED": "CANCELED", "CANCELLING": "CANCELING", "QUEUED": "PENDING"}


def state_of(run: Any) -> str:
    """Returns a run's state, as KFP calls it."""
    state = str(run.state.name).removeprefix("PIPELINE_STATE_")
    return STATES.get(state, state)


def recent_runs(connection: Connection, count: int, of: str = "") -> list[dict[str, Any]]:
    """Returns the runs that were made last.

    Args:
        connection: The connection.
        count: How many at most.
        of: Only those that this filter of the API takes.

    Returns:
        Newest first, each with `id`, `name`, `state`, `created` (ISO 8601, UTC), `seconds` (None while it is not
        over), `experiment` and `version` (of the pipeline; both empty for runs of others).

    Raises:
        PipelineError: They can't be listed.
    """
    request = {
        "parent": connection.parent,
        "filter": of,
        "order_by": "create_time desc",
        "page_size": min(count, PAGE),
        "read_mask": {"paths": FIELDS},
    }
    listing = connection.pipelines.list_pipeline_jobs
    found = connection.call(
        "listing runs", lambda timeout: list(islice(listing(request=request, timeout=timeout), count))
    )
    return [
        {
            "id": run.name.rpartition("/")[2],
            "name": run.display_name,
            "state": state_of(run),
            "created": run.create_time.astimezone(datetime.UTC).isoformat(timespec="seconds"),
            "seconds": max(0, round((run.end_time - run.create_time).total_seconds())) if run.end_time else None,
            "experiment": run.labels.get(EXPERIMENT, ""),
            "version": run.labels.get(VERSION, ""),
        }
        for run in found
    ]
