"""What the platforms that run the pipeline share: their verbs, and what these show. Neither knows the other.

A platform is a package: `nlp_pipeline.kubeflow`, `nlp_pipeline.vertex`. Its modules have the same functions, or,
as the flow of schedules is the same on both, a class:

    pipelines   submit(settings, values, dry_run)    upload(settings, dry_run)
    runs        runs(settings, count, only)          wait(settings, run_id, timeout)
                retry(settings, run_id, dry_run)
    schedules   Schedules(settings); see `platforms.schedules`
    artifacts   download(settings, run_id, folder, dry_run)
    doctor      doctor(settings, values)

`settings` are those of settings.py, `values` the pipeline's parameters that the user set. Each connects by itself, and
returns what `--json` prints.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

PLATFORMS = ("kubeflow", "vertex")
# Where each verb stands.
VERBS = {
    **dict.fromkeys(("submit", "upload"), "pipelines"),
    **dict.fromkeys(("runs", "wait", "retry"), "runs"),
    **dict.fromkeys(("schedule", "schedules", "unschedule", "pause", "resume"), "schedules"),
    "download": "artifacts",
    "doctor": "doctor",
}


def find_verb(platform: str, name: str) -> Callable[..., Any]:
    """Returns a platform's function for a verb, one of VERBS."""
    module = import_module(f"nlp_pipeline.{platform}.{VERBS[name]}")
    if VERBS[name] == "schedules":
        return lambda settings, *values: getattr(module.Schedules(settings), name)(*values)
    verb: Callable[..., Any] = getattr(module, name)
    return verb
