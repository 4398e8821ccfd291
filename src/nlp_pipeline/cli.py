"""The command line: flags in, one command run, results on stdout, all else on stderr."""

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from nlp_pipeline import commands, commands_client, commands_kubeflow, commands_vertex
from nlp_pipeline.errors import PipelineError, StoppedWaitingError
from nlp_pipeline.flags import BY_PLATFORM, CLIENT, check_arguments, check_platform, make_parser

INTERRUPTED = 130
SENDING = {f"--{name}" for name in CLIENT}
DEPLOYING = {"--deploy", "--rollback", "--undeploy"}
# Each returns its exit code, where that is not 0. What is done on Vertex AI instead, stands in commands_vertex.py.
RUN: dict[str, Callable[..., int | None]] = {
    "local": commands.run_local,
    "serve": commands.run_serve,
    "predict": commands.run_predict,
    "compile": commands.run_compile,
    "submit": commands_kubeflow.run_submit,
    "upload": commands_kubeflow.run_upload,
    "wait": commands_kubeflow.run_wait,
    "schedule": commands_kubeflow.run_schedule,
    "schedules": commands_kubeflow.run_schedules,
    "unschedule": commands_kubeflow.run_change_schedule,
    "pause": commands_kubeflow.run_change_schedule,
    "resume": commands_kubeflow.run_change_schedule,
    "runs": commands_kubeflow.run_runs,
    "download": commands_kubeflow.run_download,
    "doctor": commands_kubeflow.run_doctor,
    "print_config": commands_client.run_print_config,
    "completion": commands.run_completion,
    "manifests": commands.run_manifests,
    "deploy": commands.run_deployment,
    "rollback": commands.run_deployment,
    "undeploy": commands.run_deployment,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: The arguments; those of the process where there are none.

    Returns:
        The exit code: see errors.py.
    """
    given = sys.argv[1:] if argv is None else argv
    facts: dict[str, Any] = {}
    try:
        arguments = make_parser().parse_args(argv)
        command = check_arguments(arguments)
        code = chosen(command, arguments)(arguments) or 0
        if sys.stdout is not None:
            sys.stdout.flush()  # while what goes wrong with it can still be told
        return code
    except BrokenPipeError:
        # Whoever reads the results has read enough, as `head` does; Python would complain once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PipelineError.exit_code
    except PipelineError as error:
        show_traceback(given)
        told, code, facts = f"error: {error}", error.exit_code, error.facts
    except Exception as error:  # noqa: BLE001, a mistake of ours, or something that no one has thought of
        show_traceback(given)
        reason = " ".join(str(error).split())
        told = f"error: unexpected {type(error).__name__}: {reason}; --debug shows where"
        code = PipelineError.exit_code
    except StoppedWaitingError as error:
        told, code, facts = f"interrupted; {error}", INTERRUPTED, error.facts
    except KeyboardInterrupt:
        left = "; nothing is left running"
        if SENDING & set(given):
            left = "; see --runs and --schedules for what was done"
        elif DEPLOYING & set(given):
            left = ""  # what is left in the cluster has been said, where something was sent
        told, code = f"interrupted{left}", INTERRUPTED
    print(told, file=sys.stderr)
    if "--json" in given:
        print(json.dumps({**facts, "error": told.removeprefix("error: ")}, indent=2, default=str))
    return code


def chosen(command: str, arguments: argparse.Namespace) -> Callable[..., int | None]:
    """Returns what does a command: on the platform that a flag or a setting names, where there is a choice.

    Raises:
        UsageError: The settings are wrong, or a flag means nothing on this platform.
    """
    if command not in BY_PLATFORM:
        return RUN[command]
    platform = commands_client.read_settings(arguments, ask=False)[0].platform
    check_platform(arguments, platform)
    return (commands_vertex.RUN if platform == "vertex" else RUN)[command]


def show_traceback(given: Sequence[str]) -> None:
    """Shows the traceback of the error that is being handled, where the arguments want it."""
    if "--debug" in given:
        traceback.print_exc()
