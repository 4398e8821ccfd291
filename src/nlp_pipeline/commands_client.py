"""What commands share that speak to Kubeflow Pipelines or to Vertex AI: their settings, and how results are printed."""

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

from nlp_pipeline.errors import StoppedWaitingError, UsageError

# Imports that take time stay inside what needs them: --help answers at once.

FLAGS = (
    *("platform", "host", "namespace", "experiment", "username", "ca_cert", "insecure", "image", "service_account"),
    *("project", "region", "bucket"),
)


def read_settings(arguments: argparse.Namespace, ask: bool = True) -> tuple[Any, dict[str, str]]:
    """Returns the settings, and where each came from; asks for the password on a terminal, where it is needed."""
    import getpass

    from pydantic import SecretStr

    from nlp_pipeline.pipeline.compiling import check_image
    from nlp_pipeline.settings import load_settings

    settings, origins = load_settings({name: getattr(arguments, name) for name in FLAGS}, arguments.config)
    if settings.image:
        check_image(settings.image)
    told = any(one.get_secret_value() for one in (settings.password, settings.token, settings.cookies))
    ask = ask and settings.platform == "kubeflow"
    if ask and settings.username and not told and sys.stdin.isatty():
        try:
            settings.password = SecretStr(getpass.getpass(f"password of {settings.username}: ", sys.stderr))
        except EOFError:
            raise UsageError("no password was given") from None
        origins["password"] = "the terminal"  # noqa: S105
    return settings, origins


def print_result(arguments: argparse.Namespace, result: Any) -> None:
    """Prints what a command gives: as JSON, or a line for each fact."""
    if arguments.json:
        print(json.dumps(result, indent=2, default=str))
        return
    for key, value in result.items():
        if isinstance(value, (dict, list)):
            inner = value.items() if isinstance(value, dict) else zip(range(1, len(value) + 1), value, strict=True)
            for name, one in inner:
                print(f"{key:<17} {name}: {one}")
        elif value not in ("", None):
            print(f"{key:<17} {value}")


def print_rows(arguments: argparse.Namespace, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    """Prints a list: as JSON, or as a table of some columns."""
    if arguments.json:
        print(json.dumps(rows, indent=2, default=str))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # a file or a pipe has no width that lines had to be broken to
    # An id that is cut can't be given to another command: a narrow terminal breaks the line instead.
    console.width = max(console.width, 160)
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text("" if row[column] is None else str(row[column])) for column in columns))
    console.print(table)


def print_end(arguments: argparse.Namespace, result: dict[str, Any]) -> None:
    """Prints how a run ended that was followed."""
    print_result(arguments, result if arguments.json else {key: result[key] for key in ("state", "url", "seconds")})


def stopped_waiting(run_id: str, url: str) -> StoppedWaitingError:
    """Returns what to raise where someone does not want to wait for a run any longer."""
    return StoppedWaitingError(f"the run goes on: --wait {run_id} comes back to it", {"run_id": run_id, "url": url})


def print_checks(arguments: argparse.Namespace, checks: list[Any]) -> int:
    """Prints what a doctor found, and on stderr what a run needs and is missing.

    Returns:
        The exit code.
    """
    from nlp_pipeline.platforms import doctor

    if arguments.json:
        print(json.dumps([asdict(one) for one in checks], indent=2))
    else:
        doctor.print_checks(checks)
    if missing := doctor.missing(checks):
        print(f"error: not ready for a run: {', '.join(missing)}", file=sys.stderr)
    return UsageError.exit_code if missing else 0


def run_print_config(arguments: argparse.Namespace) -> None:
    """`--print-config`."""
    from pydantic import SecretStr

    settings, origins = read_settings(arguments, ask=False)
    rows = []
    for name, origin in origins.items():
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            value = "********" if value.get_secret_value() else ""
        rows.append({"setting": name, "value": value, "from": origin})
    print_rows(arguments, rows, ("setting", "value", "from"))
