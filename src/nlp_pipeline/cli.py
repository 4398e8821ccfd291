"""The command line: flags in, one command run, results on stdout, all else on stderr."""

import argparse
import contextlib
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlp_pipeline import __version__
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

exit codes:
  0 fine, 1 a run failed, 2 bad usage or configuration, 3 the model did not pass the gate, 130 interrupted
"""


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
        usage="%(prog)s (--local | --serve | --predict TEXT... | --compile | --manifests) [options]",
    )
    commands = parser.add_argument_group("what to do")
    commands.add_argument("--local", action="store_true", help="run the whole pipeline on this machine")
    commands.add_argument("--serve", action="store_true", help="serve a release with TorchServe until Ctrl-C")
    commands.add_argument(
        "--predict", nargs="+", metavar="TEXT", help="classify texts; after --local, the texts to show at its end"
    )
    commands.add_argument("--compile", action="store_true", help="write the pipeline's IR YAML to compiled/")
    commands.add_argument(
        "--manifests", action="store_true", help="print what a namespace needs, as YAML for kubectl apply -f -"
    )

    run = parser.add_argument_group("the run")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a parameter of the pipeline; may be given often (the README lists them)",
    )

    serve = parser.add_argument_group("serving")
    serve.add_argument("--release", type=Path, metavar="DIR", help="the release; default: the one validated last")
    serve.add_argument("--port", type=int, metavar="N", help="port for --serve (default: 8080)")
    serve.add_argument("--endpoint", metavar="URL", help="for --predict: ask this server, as in http://host:8080")

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


def check_arguments(arguments: argparse.Namespace) -> None:
    """Makes sure that the flags make sense together.

    Raises:
        UsageError: They do not.
    """
    commands = [name for name in ("local", "serve", "compile", "manifests") if getattr(arguments, name)]
    if arguments.predict and not arguments.local:
        commands.append("predict")
    if len(commands) != 1:
        problem = (
            f"{' and '.join(f'--{name}' for name in commands)} exclude each other" if commands else "nothing to do"
        )
        raise UsageError(f"{problem}: give one of --local, --serve, --predict, --compile and --manifests; see --help")
    command = commands[0]
    goes_with = {
        "check": ("compile",),
        "image": ("compile",),
        "output": ("compile",),
        "release": ("serve", "predict"),
        "port": ("serve",),
        "endpoint": ("predict",),
        "json": ("local", "predict", "serve"),
        "runtime-image": ("manifests",),
        "steps-account": ("manifests",),
    }
    for flag, allowed in goes_with.items():
        if getattr(arguments, flag.replace("-", "_")) not in (None, False) and command not in allowed:
            raise UsageError(f"--{flag} goes with {' or '.join(f'--{name}' for name in allowed)}, not with --{command}")
    if arguments.endpoint and arguments.release:
        raise UsageError("--endpoint and --release exclude each other: a release is served here, an endpoint elsewhere")
    if arguments.port is not None and not 1 <= arguments.port <= 65535:
        raise UsageError(f"--port {arguments.port}: give a port from 1 to 65535")
    if arguments.set and command == "compile":
        raise UsageError("--set goes with a run, not with --compile: parameters are given when the pipeline is run")


def run_local(arguments: argparse.Namespace) -> None:
    """`--local`."""
    from nlp_pipeline.local import run_locally
    from nlp_pipeline.parameters import parse_settings
    from nlp_pipeline.processes import nothing_left_running
    from nlp_pipeline.summary import print_summary

    values = parse_settings(arguments.set)
    with nothing_left_running():
        result = run_locally(values, arguments.predict or [], debug=arguments.debug)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        print_summary(result)


def chosen_release(arguments: argparse.Namespace) -> Path:
    """Returns the release that `--release` names, or the one that was validated last."""
    from nlp_pipeline.local import OUTPUTS
    from nlp_pipeline.parameters import parse_settings
    from nlp_pipeline.serving.local_server import find_release

    values = parse_settings(arguments.set)
    if arguments.release is not None:
        return Path(arguments.release)
    return find_release(Path(values.get("volume_path", OUTPUTS / "volume")), values.get("model_name"))


def run_serve(arguments: argparse.Namespace) -> None:
    """`--serve`."""
    from nlp_pipeline.processes import nothing_left_running
    from nlp_pipeline.serving.local_server import served, wait_for_end

    release = chosen_release(arguments)
    with (
        contextlib.suppress(KeyboardInterrupt),  # which is how it is meant to end
        nothing_left_running(),
        served(release, arguments.port or 8080) as (address, process),
    ):
        if arguments.json:
            print(json.dumps({"release": str(release), "url": address}), flush=True)
        else:
            print(
                f"serving {release}\n  {address}\n\nask it:\n"
                f"  curl -H 'Content-Type: application/json' -d '{{\"instances\": [\"what a film\"]}}' {address}\n"
                "Ctrl-C ends it.",
                flush=True,
            )
        wait_for_end(process)


def run_predict(arguments: argparse.Namespace) -> None:
    """`--predict`."""
    from nlp_pipeline.processes import nothing_left_running
    from nlp_pipeline.serving.local_server import predict_address, predict_at, predict_with_release

    if arguments.endpoint:
        from nlp_pipeline.parameters import parse_settings

        address = predict_address(arguments.endpoint, parse_settings(arguments.set).get("model_name"))
        predictions = predict_at(address, arguments.predict)
    else:
        with nothing_left_running():
            predictions = predict_with_release(chosen_release(arguments), arguments.predict)
    if arguments.json:
        print(json.dumps({"predictions": predictions}, indent=2))
    else:
        for one in predictions:
            print(f"{one['label']}\t{one['score']:.4f}\t{one['text']}")


def run_compile(arguments: argparse.Namespace) -> None:
    """`--compile` and `--compile --check`."""
    from nlp_pipeline.compiling import check_compiled, check_image, write_compiled

    target = arguments.output or COMPILED
    if arguments.image is not None:
        check_image(arguments.image)
    if not arguments.check:
        write_compiled(target, arguments.image)
        print(target)
    elif diff := check_compiled(target, arguments.image):
        print(diff)
        raise PipelineError(f"{target} is stale: write it anew with --compile")


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
        check_arguments(arguments)
        if arguments.local:
            run_local(arguments)
        elif arguments.serve:
            run_serve(arguments)
        elif arguments.predict:
            run_predict(arguments)
        elif arguments.manifests:
            from nlp_pipeline.manifests import run_manifests

            run_manifests(arguments)
        else:
            run_compile(arguments)
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
