"""What each command does that speaks to Vertex AI."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from nlp_pipeline.commands_client import (
    print_checks,
    print_end,
    print_result,
    print_rows,
    read_settings,
    run_print_config,
)
from nlp_pipeline.errors import UsageError
from nlp_pipeline.platforms import find_verb

# Imports that take time stay inside what needs them: --help answers at once.

INSTEAD = {
    "deploy": "on Vertex AI the pipeline itself deploys: --submit --set deploy=true",
    "rollback": "on Vertex AI a version that fails its check is taken back by the run itself; to go back later, split "
    "the endpoint's traffic in the console",
}


def run_submit(arguments: argparse.Namespace) -> None:
    """`--submit`, with `--wait` too."""
    from nlp_pipeline.pipeline.parameters import parse_settings

    values = parse_settings(arguments.set, "vertex")
    settings, _ = read_settings(arguments)
    result = find_verb("vertex", "submit")(settings, values, arguments.dry_run)
    if arguments.dry_run or not arguments.wait:
        return print_result(arguments, result)
    print(result["url"], file=sys.stderr)
    print_end(arguments, find_verb("vertex", "wait")(settings, result["run_id"], arguments.timeout))


def run_wait(arguments: argparse.Namespace) -> None:
    """`--wait RUN_ID`."""
    print_end(arguments, find_verb("vertex", "wait")(read_settings(arguments)[0], arguments.wait, arguments.timeout))


def run_upload(arguments: argparse.Namespace) -> None:
    """`--upload`."""
    print_result(arguments, find_verb("vertex", "upload")(read_settings(arguments)[0], arguments.dry_run))


def run_schedule(arguments: argparse.Namespace) -> None:
    """`--schedule CRON`."""
    from nlp_pipeline.pipeline.parameters import NAME, parse_settings
    from nlp_pipeline.platforms.schedules import ScheduleOptions

    values = parse_settings(arguments.set, "vertex")
    options = ScheduleOptions(
        cron=arguments.schedule,
        name=NAME if arguments.schedule_name is None else arguments.schedule_name,
        catch_up=arguments.catch_up,
        max_concurrency=1 if arguments.concurrency is None else arguments.concurrency,
        start=arguments.start,
        end=arguments.end,
    )
    schedule = find_verb("vertex", "schedule")
    print_result(arguments, schedule(read_settings(arguments)[0], options, values, arguments.dry_run))


def run_schedules(arguments: argparse.Namespace) -> None:
    """`--schedules`."""
    rows = find_verb("vertex", "schedules")(read_settings(arguments)[0])
    print_rows(arguments, rows, ("name", "cron", "next", "status", "version"))


def run_change_schedule(arguments: argparse.Namespace) -> None:
    """`--unschedule`, `--pause` and `--resume`."""
    for name in ("unschedule", "pause", "resume"):
        if given := getattr(arguments, name):
            change = find_verb("vertex", name)
            print_result(arguments, change(read_settings(arguments)[0], given, arguments.dry_run))


def run_runs(arguments: argparse.Namespace) -> None:
    """`--runs`."""
    rows = find_verb("vertex", "runs")(read_settings(arguments)[0], arguments.count or 20)
    print_rows(arguments, rows, ("id", "name", "state", "created", "seconds"))


def run_download(arguments: argparse.Namespace) -> None:
    """`--download RUN_ID`."""
    folder = arguments.to or Path("outputs") / "runs" / arguments.download
    download = find_verb("vertex", "download")
    print_result(arguments, download(read_settings(arguments)[0], arguments.download, folder, arguments.dry_run))


def run_doctor(arguments: argparse.Namespace) -> int:
    """`--doctor`."""
    from nlp_pipeline.pipeline.parameters import parse_settings

    values = parse_settings(arguments.set, "vertex")
    return print_checks(arguments, find_verb("vertex", "doctor")(read_settings(arguments)[0], values))


def run_undeploy(arguments: argparse.Namespace) -> None:
    """`--undeploy`."""
    from nlp_pipeline.pipeline.parameters import parse_settings
    from nlp_pipeline.vertex.undeploy import undeploy

    values = parse_settings(arguments.set, "vertex")
    print_result(arguments, undeploy(read_settings(arguments)[0], values, arguments.dry_run))


def refuse(arguments: argparse.Namespace) -> None:
    """Says what to do instead of a command that has no sense on Vertex AI."""
    command = next(name for name in INSTEAD if getattr(arguments, name))
    raise UsageError(f"--{command}: {INSTEAD[command]}")


# Each returns its exit code, where that is not 0.
RUN: dict[str, Callable[..., int | None]] = {
    "submit": run_submit,
    "wait": run_wait,
    "upload": run_upload,
    "schedule": run_schedule,
    "schedules": run_schedules,
    "unschedule": run_change_schedule,
    "pause": run_change_schedule,
    "resume": run_change_schedule,
    "runs": run_runs,
    "download": run_download,
    "doctor": run_doctor,
    "undeploy": run_undeploy,
    "print_config": run_print_config,
    **dict.fromkeys(INSTEAD, refuse),
}
