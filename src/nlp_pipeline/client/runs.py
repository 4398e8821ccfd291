"""`--runs`: the recent runs of a namespace."""

import datetime
import json
from typing import Any

from nlp_pipeline.client.calls import NotFoundError
from nlp_pipeline.client.connection import Connection
from nlp_pipeline.errors import UsageError

# As many as the server gives at once.
PAGE = 200
NOT_ARCHIVED = json.dumps(
    {"predicates": [{"operation": "NOT_EQUALS", "key": "storage_state", "string_value": "ARCHIVED"}]}
)


def recent_runs(connection: Connection, count: int) -> list[dict[str, Any]]:
    """Returns the runs that were made last in the user's namespace, those archived left out.

    Args:
        connection: The connection.
        count: How many at most.

    Returns:
        Newest first, each with `id`, `name`, `state`, `created` (ISO 8601, UTC), `seconds` (None while it is not
        over), `experiment` and `version` (of the pipeline; empty where there is none any more).

    Raises:
        PipelineError: They can't be listed.
    """
    if count < 1:
        raise UsageError(f"{count} runs can't be listed: give 1 or more")
    names: dict[tuple[str, ...], str] = {}

    def name_of(doing: str, method: Any, *ids: str) -> str:
        if not all(ids):
            return ""
        if ids not in names:
            try:
                names[ids] = connection.call(doing, method, *ids).display_name or ""
            except NotFoundError:
                names[ids] = ""
        return names[ids]

    told = []
    for run in newest(connection, count):
        version = run.pipeline_version_reference
        of_version = (version.pipeline_id or "", version.pipeline_version_id or "") if version else ("",)
        experiment = connection.experiments.experiment_service_get_experiment
        pipeline_version = connection.pipelines.pipeline_service_get_pipeline_version
        told.append(
            {
                "id": run.run_id,
                "name": run.display_name or "",
                "state": run.state or "",
                "created": run.created_at.astimezone(datetime.UTC).isoformat(timespec="seconds"),
                "seconds": seconds_of(run),
                "experiment": name_of("reading the experiment", experiment, run.experiment_id or ""),
                "version": name_of("reading the pipeline's version", pipeline_version, *of_version),
            }
        )
    return told


def newest(connection: Connection, count: int) -> list[Any]:
    """Returns the newest runs, as the API has them."""
    found: list[Any] = []
    token = ""
    while len(found) < count:
        answer = connection.call(
            "listing runs",
            connection.runs.run_service_list_runs,
            namespace=connection.namespace,
            sort_by="created_at desc",
            filter=NOT_ARCHIVED,
            page_size=min(count - len(found), PAGE),
            page_token=token,
        )
        found += answer.runs or []
        token = answer.next_page_token or ""
        if not token:
            break
    return found[:count]


def seconds_of(run: Any) -> int | None:
    """Returns how long a run took; None while it is not over."""
    # The server tells the beginning of 1970 of what never came.
    if run.finished_at is None or run.finished_at.timestamp() <= 0:
        return None
    seconds: float = (run.finished_at - run.created_at).total_seconds()
    return max(0, round(seconds))
