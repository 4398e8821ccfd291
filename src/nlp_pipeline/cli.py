"""The command line: flags in, one command run, results on stdout, all else on stderr."""

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlp_pipeline import __version__, commands
from nlp_pipeline.compiling import COMPILED
from nlp_pipeline.errors import PipelineError, UsageError

# Imports that take time stay inside what needs them: --help answers at once.

EXAMPLES = """\
examples:
  python pipeline_v2.py --local
      the demo: film reviews, a six-layer encoder, all steps, a real TorchServe
  python pipeline_v2.py --local --set train_data=my.csv --set label_column=stars
      the same on a data set of one's own
  python pipeline_v2.py --serve
      keeps serving the release that was validated last
  python pipeline_v2.py --predict "what a film" "what a bore"
      asks it
  python pipeline_v2.py --compile
      writes compiled/nlp_pipeline.yaml, which the Kubeflow dashboard takes
  python pipeline_v2.py --manifests --set namespace=team | kubectl apply -f -
      makes what the namespace "team" needs: volume, access, serving runtime
  python pipeline_v2.py --deploy --release outputs/volume/m/releases/0123456789abcdef \\
          --set model_store=s3://models --set namespace=team
      uploads a release and serves it with KServe; --rollback goes back, --undeploy removes it

exit codes:
  0 fine, 1 a run failed, 2 bad usage or configuration, 3 the model did not pass the gate,
  4 not ready in time, 5 rolled back: what was deployed before serves again, 130 interrupted
"""

RUN = {
    "local": commands.run_local,
    "serve": commands.run_serve,
    "predict": commands.run_predict,
    "compile": commands.run_compile,
    "manifests": commands.run_manifests,
    "deploy": commands.run_deployment,
    "rollback": commands.run_deployment,
    "undeploy": commands.run_deployment,
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> Any:
        """Raises what is wrong with the arguments as a UsageError."""
        raise UsageError(f"{message}; see --help")


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = Parser(
        prog="pipeline_v2.py",
        description="Labelled text to a live, checked text classification endpoint, with Kubeflow Pipelines v2.",
        epilog=EXAMPLES,
        # The width is fixed: the README shows this text, whatever terminal it was made on.
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100),
        allow_abbrev=False,
        usage="%(prog)s (--local | --serve | --predict TEXT... | --compile | --manifests |\n"
        "                      --deploy | --rollback | --undeploy) [options]",
    )
    what = parser.add_argument_group("what to do")
    what.add_argument("--local", action="store_true", help="run the whole pipeline on this machine")
    what.add_argument("--serve", action="store_true", help="serve a release with TorchServe until Ctrl-C")
    what.add_argument(
        "--predict", nargs="+", metavar="TEXT", help="classify texts; after --local, the texts to show at its end"
    )
    what.add_argument("--compile", action="store_true", help="write the pipeline's IR YAML to compiled/")
    what.add_argument(
        "--manifests", action="store_true", help="print what a namespace needs, as YAML for kubectl apply -f -"
    )
    what.add_argument("--deploy", action="store_true", help="deploy a release with KServe, by the kubeconfig's context")
    what.add_argument("--rollback", action="store_true", help="go back to the release that was deployed before")
    what.add_argument("--undeploy", action="store_true", help="remove the InferenceService; releases stay")

    run = parser.add_argument_group("the run")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a parameter of the pipeline; may be given often (the README lists them)",
    )

    serve = parser.add_argument_group("serving")
    serve.add_argument(
        "--release",
        metavar="DIR",
        help="the release; default: the one validated last. For --deploy a folder, or its address in the cluster: "
        "pvc://claim/model/releases/digest or s3://bucket/model/releases/digest",
    )
    serve.add_argument("--port", type=int, metavar="N", help="port for --serve (default: 8080)")
    serve.add_argument("--endpoint", metavar="URL", help="for --predict: ask this server, as in http://host:8080")
    serve.add_argument(
        "--deployed", action="store_true", help="for --predict: ask the InferenceService of the kubeconfig's context"
    )

    deploying = parser.add_argument_group("deploying")
    deploying.add_argument(
        "--rows", type=Path, metavar="FILE", help="labelled rows to ask for: datasets/predictions.parquet of a run"
    )
    deploying.add_argument(
        "--dry-run", action="store_true", help="show the object, and how it differs from the live one; change nothing"
    )

    compiling = parser.add_argument_group("compiling")
    compiling.add_argument(
        "--check", action="store_true", help="with --compile: write nothing, exit 1 and show a diff if it is stale"
    )

    compiling.add_argument(
        "--image", help="with --compile: an image that holds the packages of every step, for steps that install nothing"
    )
    compiling.add_argument("--output", type=Path, metavar="FILE", help=f"the compiled file (default: {COMPILED})")

    namespace = parser.add_argument_group("what a namespace needs")
    namespace.add_argument(
        "--runtime-image", metavar="IMAGE", help="with --manifests: the image of the project's TorchServe runtime"
    )
    namespace.add_argument(
        "--steps-account",
        metavar="[NAMESPACE/]NAME",
        help="with --manifests: the service account that the steps run as (default: default-editor)",
    )

    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    output.add_argument("--debug", action="store_true", help="show tracebacks")
    output.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def check_arguments(arguments: argparse.Namespace) -> str:
    """Makes sure that the flags make sense together.

    Returns:
        The command: the name of its flag.

    Raises:
        UsageError: They do not.
    """
    given = [name for name in RUN if getattr(arguments, name)]
    if arguments.local and arguments.predict:
        given.remove("predict")  # the texts to show at the end
    if len(given) != 1:
        problem = f"{' and '.join(f'--{name}' for name in given)} exclude each other" if given else "nothing to do"
        raise UsageError(f"{problem}: give one of --{', --'.join(RUN)}; see --help")
    command = given[0]
    goes_with = {
        "check": ("compile",),
        "image": ("compile",),
        "output": ("compile",),
        "release": ("serve", "predict", "deploy"),
        "port": ("serve",),
        "endpoint": ("predict",),
        "deployed": ("predict",),
        "rows": ("deploy",),
        "dry-run": ("deploy", "rollback", "undeploy"),
        "json": ("local", "predict", "serve", "deploy", "rollback", "undeploy"),
        "runtime-image": ("manifests",),
        "steps-account": ("manifests",),
    }
    for flag, allowed in goes_with.items():
        if getattr(arguments, flag.replace("-", "_")) not in (None, False) and command not in allowed:
            raise UsageError(f"--{flag} goes with {' or '.join(f'--{name}' for name in allowed)}, not with --{command}")
    if arguments.endpoint and arguments.deployed:
        raise UsageError("--endpoint and --deployed exclude each other: the latter finds the endpoint by itself")
    if arguments.deployed and arguments.release:
        raise UsageError("--release and --deployed exclude each other: what is deployed is asked, whatever it is")
    if arguments.deploy and not arguments.release:
        raise UsageError("--deploy needs --release: a folder, pvc://claim/model/releases/digest or s3://...")
    if arguments.port is not None and not 1 <= arguments.port <= 65535:
        raise UsageError(f"--port {arguments.port}: give a port from 1 to 65535")
    if arguments.set and command == "compile":
        raise UsageError("--set goes with a run, not with --compile: parameters are given when the pipeline is run")
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: The arguments; those of the process where there are none.

    Returns:
        The exit code: see errors.py.
    """
    debug = "--debug" in (sys.argv[1:] if argv is None else argv)
    try:
        arguments = make_parser().parse_args(argv)
        RUN[check_arguments(arguments)](arguments)
    except PipelineError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:  # noqa: BLE001, a mistake of ours, or something that no one has thought of
        if debug:
            traceback.print_exc()
        reason = " ".join(str(error).split())
        print(f"error: unexpected {type(error).__name__}: {reason}; --debug shows where", file=sys.stderr)
        return PipelineError.exit_code
    except KeyboardInterrupt:
        print("interrupted; nothing is left running", file=sys.stderr)
        return 130
    return 0
