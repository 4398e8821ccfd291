"""What each command does that speaks to Vertex AI."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nlp_pipeline.commands_client import (
    print_checks,
    print_end,
    print_result,
    print_rows,
    read_settings,
    run_print_config,
    stopped_waiting,
)
from nlp_pipeline.errors import UsageError

# Imports that take time stay inside what needs them: --help answers at once.

INSTEAD = {
    "upload": "Vertex AI keeps no pipelines, each run carries its own: --submit it, or give the console the file that "
    "--compile --platform vertex writes",
    "deploy": "on Vertex AI the pipeline itself deploys: --submit --set deploy=true",
    "rollback": "on Vertex AI a version that fails its check is taken back by the run itself; to go back later, split "
    "the endpoint's traffic in the console",
}


def connect(settings: Any) -> Any:
    """Returns a connection, and says on stderr whose it is."""
    from nlp_pipeline.vertex.connection import Connection

    connection = Connection(settings)
    who = f", as {connection.who}" if connection.who else ", by the credentials of gcloud"
    print(f"project {connection.project}, region {connection.region}{who}", file=sys.stderr)
    return connection


def compiled(settings: Any) -> tuple[str, str]:
    """Returns the pipeline's IR with the settings' image, and the name of this version of it."""
    from nlp_pipeline.client.submitting import version_name
    from nlp_pipeline.pipeline.compiling import compile_pipeline
    from nlp_pipeline.pipeline.kubeflow import NAME

    ir = compile_pipeline(settings.image or None, "vertex")
    return ir, version_name(ir, NAME)


def checked_values(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the parameters that the user set, where a run can begin with them."""
    from nlp_pipeline.pipeline.parameters import parse_settings
    from nlp_pipeline.vertex.connection import check_installed
    from nlp_pipeline.vertex.submitting import check_parameters

    check_installed()
    values = parse_settings(arguments.set, "vertex")
    check_parameters(values)
    return values


def run_submit(arguments: argparse.Namespace) -> None:
    """`--submit`, with `--wait` too."""
    from nlp_pipeline.vertex.connection import bucket_of, check_settings
    from nlp_pipeline.vertex.submitting import check_bucket, run_url, start_run, with_place

    values = checked_values(arguments)
    settings, _ = read_settings(arguments)
    check_settings(settings)
    bucket = bucket_of(settings)
    ir, version = compiled(settings)
    if arguments.dry_run:
        sent = {"project": settings.project, "region": settings.region, "bucket": bucket, "version": version}
        sent |= {"experiment": settings.experiment, "service_account": settings.service_account}
        sent |= {"image": settings.image, "parameters": with_place(values, settings, settings.project)}
        return print_result(arguments, sent)
    connection = connect(settings)
    check_bucket(connection)
    run_id = start_run(connection, ir, version, values).name.rpartition("/")[2]
    result = {"run_id": run_id, "name": run_id, "url": run_url(connection, run_id)}
    if not arguments.wait:
        return print_result(arguments, {**result, "version": version})
    print(result["url"], file=sys.stderr)
    follow_run(arguments, connection, run_id)


def follow_run(arguments: argparse.Namespace, connection: Any, run_id: str) -> None:
    """Follows a run to its end and prints how it ended."""
    from nlp_pipeline.vertex.submitting import run_url
    from nlp_pipeline.vertex.waiting import follow

    try:
        result = follow(connection, run_id, arguments.timeout)
    except KeyboardInterrupt:
        raise stopped_waiting(run_id, run_url(connection, run_id)) from None
    print_end(arguments, result)


def run_wait(arguments: argparse.Namespace) -> None:
    """`--wait RUN_ID`."""
    follow_run(arguments, connect(read_settings(arguments)[0]), arguments.wait)


def run_schedule(arguments: argparse.Namespace) -> None:
    """`--schedule CRON`."""
    from nlp_pipeline.pipeline.kubeflow import NAME
    from nlp_pipeline.vertex.cron import read_zoned_cron
    from nlp_pipeline.vertex.schedules import schedule, schedule_plan
    from nlp_pipeline.vertex.submitting import check_bucket

    if arguments.catch_up:
        raise UsageError(
            "--catch-up: Vertex AI makes up for missed runs only where a schedule is resumed in the console"
        )
    values = checked_values(arguments)
    read_zoned_cron(arguments.schedule)
    connection = connect(read_settings(arguments)[0])
    ir, version = compiled(connection.settings)
    name = NAME if arguments.schedule_name is None else arguments.schedule_name
    plan = schedule_plan(
        connection,
        name,
        arguments.schedule,
        version,
        values,
        max_concurrency=1 if arguments.concurrency is None else arguments.concurrency,
        start=arguments.start,
        end=arguments.end,
    )
    check_bucket(connection)
    print_result(arguments, schedule(connection, plan, ir, arguments.dry_run))


def run_schedules(arguments: argparse.Namespace) -> None:
    """`--schedules`."""
    from nlp_pipeline.vertex.schedule_list import schedules

    print_rows(
        arguments, schedules(connect(read_settings(arguments)[0])), ("name", "cron", "next", "status", "version")
    )


def run_change_schedule(arguments: argparse.Namespace) -> None:
    """`--unschedule`, `--pause` and `--resume`."""
    from nlp_pipeline.vertex import schedules

    connection = connect(read_settings(arguments)[0])
    for name in ("unschedule", "pause", "resume"):
        if given := getattr(arguments, name):
            print_result(arguments, getattr(schedules, name)(connection, given, dry_run=arguments.dry_run))


def run_runs(arguments: argparse.Namespace) -> None:
    """`--runs`."""
    from nlp_pipeline.vertex.runs import recent_runs

    rows = recent_runs(connect(read_settings(arguments)[0]), arguments.count or 20)
    print_rows(arguments, rows, ("id", "name", "state", "created", "seconds"))


def run_download(arguments: argparse.Namespace) -> None:
    """`--download RUN_ID`."""
    from nlp_pipeline.vertex.downloading import download

    target = arguments.to or Path("outputs") / "runs" / arguments.download
    connection = connect(read_settings(arguments)[0])
    print_result(arguments, download(connection, arguments.download, target, arguments.dry_run))


def run_doctor(arguments: argparse.Namespace) -> int:
    """`--doctor`."""
    from nlp_pipeline.pipeline.parameters import parse_settings
    from nlp_pipeline.vertex.connection import check_installed
    from nlp_pipeline.vertex.doctor import doctor

    check_installed()
    return print_checks(arguments, doctor(read_settings(arguments)[0], parse_settings(arguments.set, "vertex")))


def run_undeploy(arguments: argparse.Namespace) -> None:
    """`--undeploy`."""
    from nlp_pipeline.pipeline.parameters import parse_settings
    from nlp_pipeline.vertex.connection import check_installed
    from nlp_pipeline.vertex.undeploying import undeploy

    check_installed()
    values = parse_settings(arguments.set, "vertex")
    print_result(arguments, undeploy(connect(read_settings(arguments)[0]), values, arguments.dry_run))


def refuse(arguments: argparse.Namespace) -> None:
    """Says what to do instead of a command that has no sense on Vertex AI."""
    command = next(name for name in INSTEAD if getattr(arguments, name))
    raise UsageError(f"--{command}: {INSTEAD[command]}")


# Each returns its exit code, where that is not 0.
RUN: dict[str, Callable[..., int | None]] = {
    "submit": run_submit,
    "wait": run_wait,
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
