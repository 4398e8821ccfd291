"""What each command does that speaks to Kubeflow Pipelines."""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from nlp_pipeline.commands_client import (
    print_checks,
    print_end,
    print_result,
    print_rows,
    read_settings,
    stopped_waiting,
)
from nlp_pipeline.errors import UsageError

# Imports that take time stay inside what needs them: --help answers at once.


def check_names(settings: Any) -> None:
    """Makes sure that names which Kubeflow and Kubernetes will be given can be such.

    Raises:
        UsageError: One can't.
    """
    for name in ("namespace", "service_account"):
        if not re.fullmatch(r"|[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", getattr(settings, name)):
            raise UsageError(f"{name} is {getattr(settings, name)[:80]!r}: it must be a name as Kubernetes has them")
    if not 0 < len(settings.experiment.strip()) <= 128:
        raise UsageError(f"experiment is {settings.experiment[:80]!r}: give a name of at most 128 characters")


def connect(settings: Any) -> Any:
    """Returns a connection, and says on stderr how it signed in."""
    from nlp_pipeline.client.connection import Connection

    check_names(settings)
    if settings.insecure:
        print("--insecure: the server's certificate is not verified; who is in between can read all", file=sys.stderr)
    connection = Connection(settings)
    print(f"{connection.host}, {connection.sign_in.how}", file=sys.stderr)
    return connection


def compiled(settings: Any) -> str:
    """Returns the pipeline's IR with the settings' image."""
    from nlp_pipeline.pipeline.compiling import compile_pipeline

    return compile_pipeline(settings.image or None)


def run_submit(arguments: argparse.Namespace) -> None:
    """`--submit`, with `--wait` too."""
    from nlp_pipeline.client.submitting import (
        check_parameters,
        get_experiment,
        run_url,
        start_run,
        upload,
        version_name,
    )
    from nlp_pipeline.pipeline.kubeflow import NAME
    from nlp_pipeline.pipeline.parameters import parse_settings

    values = parse_settings(arguments.set)
    check_parameters(values)
    settings, _ = read_settings(arguments, ask=not arguments.dry_run)
    ir = compiled(settings)
    if arguments.dry_run:
        sent = {"host": settings.host, "namespace": settings.namespace, "pipeline": NAME}
        sent |= {"version": version_name(ir, NAME), "experiment": settings.experiment}
        return print_result(arguments, {**sent, "image": settings.image, "parameters": values})
    connection = connect(settings)
    version = upload(connection, ir, NAME)
    print(f"version {version.name}, {'uploaded' if version.is_new else 'which is there already'}", file=sys.stderr)
    run = start_run(
        connection, version, get_experiment(connection, settings.experiment), values, settings.service_account
    )
    result = {"run_id": run.run_id, "name": run.display_name, "url": run_url(connection, run.run_id)}
    if not arguments.wait:
        return print_result(arguments, {**result, "version": version.name, "new_version": version.is_new})
    print(result["url"], file=sys.stderr)
    follow_run(arguments, connection, run.run_id)


def follow_run(arguments: argparse.Namespace, connection: Any, run_id: str) -> None:
    """Follows a run to its end and prints how it ended."""
    from nlp_pipeline.client.submitting import run_url
    from nlp_pipeline.client.waiting import follow, told

    try:
        result = told(connection, follow(connection, run_id, arguments.timeout))
    except KeyboardInterrupt:
        raise stopped_waiting(run_id, run_url(connection, run_id)) from None
    print_end(arguments, result)


def run_wait(arguments: argparse.Namespace) -> None:
    """`--wait RUN_ID`."""
    follow_run(arguments, connect(read_settings(arguments)[0]), arguments.wait)


def run_upload(arguments: argparse.Namespace) -> None:
    """`--upload`."""
    from nlp_pipeline.client.submitting import upload, version_name
    from nlp_pipeline.pipeline.kubeflow import NAME

    settings, _ = read_settings(arguments, ask=not arguments.dry_run)
    ir = compiled(settings)
    if arguments.dry_run:
        return print_result(arguments, {"host": settings.host, "pipeline": NAME, "version": version_name(ir, NAME)})
    version = upload(connect(settings), ir, NAME)
    ids = {"pipeline_id": version.pipeline_id, "version_id": version.version_id}
    print_result(arguments, {**ids, "version": version.name, "new_version": version.is_new})


def run_schedule(arguments: argparse.Namespace) -> None:
    """`--schedule CRON`."""
    from nlp_pipeline.client.cron import read_cron
    from nlp_pipeline.client.schedules import schedule
    from nlp_pipeline.client.submitting import check_parameters, get_experiment, upload, version_name
    from nlp_pipeline.pipeline.kubeflow import NAME
    from nlp_pipeline.pipeline.parameters import parse_settings

    values = parse_settings(arguments.set)
    check_parameters(values)
    cron = read_cron(arguments.schedule)
    settings, _ = read_settings(arguments)
    ir = compiled(settings)
    connection = connect(settings)
    options: dict[str, Any] = {
        "parameters": values,
        "catch_up": arguments.catch_up,
        "max_concurrency": 1 if arguments.concurrency is None else arguments.concurrency,
        "start": arguments.start,
        "end": arguments.end,
        "service_account": settings.service_account,
    }
    name = NAME if arguments.schedule_name is None else arguments.schedule_name
    # First a dry run in any case: what is wrong is told before anything is uploaded.
    result = schedule(
        connection,
        name,
        cron,
        **known_ids(connection, version_name(ir, NAME), settings.experiment),
        **options,
        dry_run=True,
    )
    if not arguments.dry_run:
        version = upload(connection, ir, NAME)
        experiment_id = get_experiment(connection, settings.experiment)
        result = schedule(connection, name, cron, version.pipeline_id, version.version_id, experiment_id, **options)
    print_result(arguments, result)


def known_ids(connection: Any, version: str, experiment: str) -> dict[str, Any]:
    """Returns the ids of the pipeline, a version of it and an experiment; empty for what is not there yet."""
    from nlp_pipeline.client.submitting import find_experiment, find_pipeline, find_version
    from nlp_pipeline.pipeline.kubeflow import NAME

    pipeline = find_pipeline(connection, NAME)
    found = pipeline and find_version(connection, pipeline.pipeline_id, version)
    in_experiment = find_experiment(connection, experiment)
    return {
        "pipeline_id": pipeline.pipeline_id if pipeline else "",
        "version_id": found.pipeline_version_id if found else "",
        "experiment_id": in_experiment.experiment_id if in_experiment else "",
    }


def run_schedules(arguments: argparse.Namespace) -> None:
    """`--schedules`."""
    from nlp_pipeline.client.schedules import schedules

    rows = schedules(connect(read_settings(arguments)[0]))
    print_rows(arguments, rows, ("name", "cron", "next", "status", "version"))


def run_change_schedule(arguments: argparse.Namespace) -> None:
    """`--unschedule`, `--pause` and `--resume`."""
    from nlp_pipeline.client import schedules

    connection = connect(read_settings(arguments)[0])
    for name in ("unschedule", "pause", "resume"):
        if given := getattr(arguments, name):
            print_result(arguments, getattr(schedules, name)(connection, given, dry_run=arguments.dry_run))


def run_runs(arguments: argparse.Namespace) -> None:
    """`--runs`."""
    from nlp_pipeline.client.runs import recent_runs

    rows = recent_runs(connect(read_settings(arguments)[0]), arguments.count or 20)
    print_rows(arguments, rows, ("id", "name", "state", "created", "seconds"))


def run_download(arguments: argparse.Namespace) -> None:
    """`--download RUN_ID`."""
    from nlp_pipeline.client.artifacts import download

    settings, _ = read_settings(arguments)
    target = arguments.to or Path("outputs") / "runs" / arguments.download
    print_result(arguments, download(connect(settings), settings, arguments.download, target, arguments.dry_run))


def run_doctor(arguments: argparse.Namespace) -> int:
    """`--doctor`."""
    from nlp_pipeline.client.doctor import doctor
    from nlp_pipeline.pipeline.parameters import parse_settings

    return print_checks(arguments, doctor(read_settings(arguments)[0], parse_settings(arguments.set)))
