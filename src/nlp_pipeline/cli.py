"""The command line: every flag, which of them make sense together, and how it ends.

A command is a flag, too: it names the function of commands.py that does it. Results go to stdout, all else to stderr.
"""

import argparse
import io
import json
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nlp_pipeline import __version__, commands, file_commands
from nlp_pipeline.errors import PipelineError, StoppedWaitingError, UsageError
from nlp_pipeline.pipeline.compiling import check_image
from nlp_pipeline.pipeline.parameters import OTHERS, TRAIN, Parameter, pipeline_parameters
from nlp_pipeline.platforms import PLATFORMS

INTERRUPTED = 130
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
  python pipeline_v2.py --drift --data new.csv
      tells whether new texts are still such as its training data was
  python pipeline_v2.py --compile
      writes compiled/nlp_pipeline.yaml, which the Kubeflow dashboard takes, and nlp_pipeline_vertex.yaml beside it
  python pipeline_v2.py --submit --wait --platform vertex --project my-project --bucket gs://my-bucket \\
          --set train_data=gs://my-bucket/reviews.csv --set deploy=false
      runs it on Vertex AI; with deploy=true, --undeploy --platform vertex ends what an endpoint costs
  python pipeline_v2.py --manifests --set namespace=team | kubectl apply -f -
      makes what the namespace "team" needs: volume, access, serving runtime
  python pipeline_v2.py --deploy --release outputs/volume/m/releases/0123456789abcdef \\
          --set model_store=s3://models --set namespace=team
      uploads a release and serves it with KServe; --rollback goes back, --undeploy removes it

exit codes:
  0 fine, 1 a run failed, 2 bad usage or configuration, 3 the model did not pass the gate, or texts moved,
  4 not ready in time, 5 rolled back: what was deployed before serves again, 130 interrupted
"""

# Commands of a platform that send or change something, and those that only look.
CHANGES = ("submit", "upload", "wait", "retry", "schedule", "unschedule", "pause", "resume", "download")
RUNS = (*CHANGES, "schedules", "runs")
CLIENT = (*RUNS, "doctor", "print_config")
COMPILING = ("compile", "submit", "upload", "schedule", "print_config")
DEPLOYING = ("deploy", "rollback", "undeploy")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.run: dict[str, commands.Command] = {}  # what does a command, by its name; all commands, in order
        # By an option's name, the commands that it means something for, and the only platform; any other does for all.
        self.goes_with: dict[str, tuple[str, ...]] = {}
        self.platform_of: dict[str, str] = {}

    def format_help(self) -> str:
        """Returns what `--help` prints: flags, examples, exit codes, and the pipeline's parameters."""
        return super().format_help() + parameter_list()

    def error(self, message: str) -> Any:
        """Raises what is wrong with the arguments as a UsageError."""
        secrets = "password|token|cookies|s3-access-key|s3-secret-key"
        if match := re.search(rf"unrecognized arguments:.*?--({secrets})", message):
            raise UsageError(
                f"--{match[1]}: secrets have no flag, as others can read a process's arguments; set "
                f"NLP_PIPELINE_{match[1].replace('-', '_').upper()} in the environment or in .env"
            )
        hint = "; a text that looks like a flag goes as --predict=TEXT" if "--predict: expected" in message else ""
        raise UsageError(f"{message}{hint}; see --help")

    def _parse_optional(self, arg_string: str) -> Any:
        """Takes for a flag only what looks like one: argparse would take a text such as "-bad" for one too."""
        is_flag = re.fullmatch(r"-h|--[a-z][a-z0-9_-]*(=.*)?", arg_string, re.DOTALL)
        return super()._parse_optional(arg_string) if is_flag else None

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Refuses empty values: an empty one is a variable of the shell that is not set."""
        if "" in arg_strings:
            raise argparse.ArgumentError(action, "it is empty: give a value, or leave the flag out")
        return super()._get_values(action, arg_strings)

    def command(self, group: Any, flag: str, run: commands.Command, text: str, **options: Any) -> None:
        """Adds a command."""
        if not {"metavar", "choices"} & options.keys():
            options["action"] = "store_true"
        self.run[group.add_argument(flag, help=text, **options).dest] = run

    def option(
        self, group: Any, flag: str, goes_with: Sequence[str], text: str, platform: str = "", **options: Any
    ) -> None:
        """Adds an option of some commands, or of one platform."""
        if not options:
            options["action"] = "store_true"
        name = group.add_argument(flag, help=text, **options).dest
        self.goes_with[name] = tuple(goes_with)
        if platform:
            self.platform_of[name] = platform


def own_parameters(platform: str) -> list[Parameter]:
    """Returns the parameters of a platform's pipeline that Kubeflow's has not."""
    shared = pipeline_parameters().values()
    return [item for item in pipeline_parameters(platform).values() if item not in shared]


def parameter_list() -> str:
    """Returns the pipeline's parameters with their defaults, as `--help` lists them."""
    text, both = "", list(pipeline_parameters().values())
    for title, parameters in {
        "parameters, for --set, with their defaults (docs/parameters.md says what they are)": both,
        "parameters with --platform vertex, besides those that both have": own_parameters("vertex"),
        **{f"parameters with --pipeline {name}": list(pipeline_parameters(name).values()) for name in OTHERS},
    }.items():
        words = ", ".join(f"{item.name}={'' if item.default is None else item.default}" for item in parameters)
        text += f"\n{title}:\n{textwrap.indent(textwrap.fill(words, 98, break_on_hyphens=False), '  ')}\n"
    return text


def make_parser() -> Parser:
    """Returns the parser of the command line."""
    parser = Parser(
        prog="pipeline_v2.py",
        description="Labelled text to a live, checked text classification endpoint, with Kubeflow Pipelines v2.",
        epilog=EXAMPLES,
        # The width is fixed: docs/command-line.md shows this text, whatever terminal it was made on.
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100),
        allow_abbrev=False,
        usage="%(prog)s COMMAND [options], with one of the commands below",
    )
    add_commands(parser)
    add_run_options(parser)
    add_platform_options(parser)
    add_deploying_options(parser)
    add_output_options(parser)
    parser.set_defaults(settings=None)
    return parser


def add_commands(parser: Parser) -> None:
    """Adds the commands."""
    add = partial(parser.command, parser.add_argument_group("on this machine"))
    add("--local", commands.local, "run the whole pipeline on this machine")
    add("--serve", commands.serve, "serve a release until Ctrl-C")
    text = "classify texts; after --local, the texts to show at its end"
    add("--predict", commands.predict, text, nargs="+", metavar="TEXT")
    add("--card", commands.card, "show a release's model card")
    add("--drift", file_commands.drift, "compare texts with those of a release's training; exit code 3 if they moved")
    add("--batch", file_commands.batch, "classify all rows of a file; what was stopped goes on where it was")
    add("--compile", commands.compile_, "write the pipeline's IR YAML to compiled/")

    title = "on Kubeflow Pipelines, or with --platform vertex on Vertex AI"
    add = partial(parser.command, parser.add_argument_group(title))
    add("--submit", commands.submit, "run the pipeline; with --wait, follow the run")
    text = "follow a run until it ends; its exit code is the run's"
    add("--wait", commands.wait, text, nargs="?", const=True, metavar="RUN_ID")
    text = "let a run go on that failed; what has succeeded is not run again; with --wait, follow it"
    add("--retry", commands.retry, text, metavar="RUN_ID")
    add("--upload", commands.upload, "upload the pipeline, or a new version of it, without a run")
    text = 'run it again and again: six fields, as in "0 0 2 * * *"'
    add("--schedule", commands.schedule, text, metavar="CRON")
    add("--schedules", commands.schedules, "list the schedules")
    add("--unschedule", commands.change_schedule, "remove a schedule", metavar="NAME")
    add("--pause", commands.change_schedule, "let a schedule rest", metavar="NAME")
    add("--resume", commands.change_schedule, "let it go on", metavar="NAME")
    add("--runs", commands.runs, "list recent runs")
    add("--download", commands.download, "fetch a run's report, metrics, model and archive", metavar="RUN_ID")
    add("--doctor", commands.doctor, "check what a run needs there, a line each")
    add("--print-config", commands.print_config, "show every setting, and where it came from")

    add = partial(parser.command, parser.add_argument_group("on the cluster, by the kubeconfig"))
    add("--manifests", commands.manifests, "print what a namespace needs, as YAML for kubectl apply -f -")
    add("--deploy", commands.change_deployment, "deploy a release with KServe, by the kubeconfig's context")
    add("--rollback", commands.change_deployment, "go back to the release that was deployed before")
    text = "remove the InferenceService, or on Vertex AI the endpoint, which costs money by the hour; releases stay"
    add("--undeploy", commands.change_deployment, text)


def add_run_options(parser: Parser) -> None:
    """Adds the options of local runs, of serving and of compiling."""
    text = "set a parameter of the pipeline; may be given often (they are listed at the end)"
    group = parser.add_argument_group("the run")
    group.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=text)
    parser.option(group, "--data", ("drift", "batch"), "a path or URL of texts, as train_data", metavar="FILE")

    add = partial(parser.option, parser.add_argument_group("serving"))
    text = (
        "the release; default: the one validated last. For --deploy a folder, or its address in the cluster: "
        "pvc://claim/model/releases/digest or s3://bucket/model/releases/digest"
    )
    add("--release", ("serve", "predict", "card", "drift", "batch", "deploy"), text, metavar="DIR")
    add("--port", ("serve",), "port for --serve (default: 8080)", type=int, metavar="N")
    text = "what serves: onnx, our own server (the default where the package kserve is installed), or torchserve"
    add("--runtime", ("serve", "predict"), text, choices=("onnx", "torchserve"))
    add("--endpoint", ("predict",), "for --predict: ask this server, as in http://host:8080", metavar="URL")
    add("--deployed", ("predict",), "for --predict: ask the InferenceService of the kubeconfig's context")

    add = partial(parser.option, parser.add_argument_group("compiling"))
    add("--check", ("compile",), "with --compile: write nothing, exit 1 and show a diff if it is stale")
    text = "an image that holds the packages of every step, for steps that install nothing"
    add("--image", (*COMPILING, "doctor"), text, metavar="IMAGE")
    text = "the steps' user, by number, where a namespace lets no pod run as root"
    add("--run-as-user", COMPILING, text, "kubeflow", type=int, metavar="UID")
    text = "the compiled file of one platform, or a folder for the files (default: compiled/)"
    add("--output", ("compile",), text, metavar="PATH")


def add_platform_options(parser: Parser) -> None:
    """Adds the options of what is done on a platform."""
    names = "each also as NLP_PIPELINE_<NAME> in the environment or a file; secrets only so: PASSWORD, TOKEN, ..."
    add = partial(parser.option, parser.add_argument_group("Kubeflow and Vertex AI", names))
    text = "where runs are (default: kubeflow); --compile without it writes the files of both"
    add("--platform", ("compile", *CLIENT, *DEPLOYING), text, choices=PLATFORMS)
    text = "which pipeline is meant (default: train); --compile without it writes the files of all"
    add("--pipeline", (*COMPILING, "doctor"), text, choices=(TRAIN, *OTHERS))
    reaching = (*CLIENT, "manifests")
    add("--host", reaching, "Kubeflow's address, as in https://kubeflow.example.com", "kubeflow", metavar="URL")
    add("--namespace", reaching, "the namespace of your profile", "kubeflow", metavar="NAME")
    add("--experiment", CLIENT, "the runs' experiment (default: nlp-pipeline)", metavar="NAME")
    add("--username", reaching, "who signs in, with NLP_PIPELINE_PASSWORD", "kubeflow", metavar="NAME")
    add("--ca-cert", reaching, "certificates of a private authority", "kubeflow", metavar="FILE")
    add("--insecure", reaching, "do not verify the server's certificate", "kubeflow")
    add("--service-account", reaching, "what runs run as; an e-mail address on Vertex AI", metavar="NAME")
    google = (*CLIENT, "undeploy")
    add("--project", google, "Vertex AI: the Google Cloud project", "vertex", metavar="NAME")
    add("--region", google, "Vertex AI: the region (default: us-central1)", "vertex", metavar="NAME")
    add("--bucket", google, "Vertex AI: where runs write, as in gs://bucket/folder", "vertex", metavar="URI")
    add("--config", (*google, "manifests"), "file of NAME=VALUE lines (default: .env)", type=Path, metavar="FILE")
    text = "for --wait: give up after so long, exit code 4"
    add("--timeout", ("submit", "wait", "retry"), text, type=float, metavar="SECONDS")
    add("--to", ("download", "batch"), "where to; for --download by default outputs/runs/RUN_ID", metavar="DIR")
    add("--count", ("runs",), "for --runs: how many (default: 20)", type=int, metavar="N")

    add = partial(parser.option, parser.add_argument_group("schedules"))
    add("--schedule-name", ("schedule",), "its name (default: the pipeline's, as nlp-pipeline)", metavar="NAME")
    add("--force", ("unschedule",), "for --unschedule: also where a run of it is in progress", "kubeflow")
    add("--start", ("schedule",), "not before, as in 2027-01-31T00:00:00Z", metavar="TIME")
    add("--end", ("schedule",), "not after", metavar="TIME")
    add("--catch-up", ("schedule",), "also start the runs that were missed")
    add("--concurrency", ("schedule",), "so many runs at once, 1 to 10 (default: 1)", type=int, metavar="N")


def add_deploying_options(parser: Parser) -> None:
    """Adds the options of what is done on the cluster, by the kubeconfig."""
    add = partial(parser.option, parser.add_argument_group("deploying"))
    text = "labelled rows to ask for: datasets/predictions.parquet of a run"
    add("--rows", ("deploy",), text, type=Path, metavar="FILE")
    text = "with --manifests: the image of the project's own server, for the runtime nlp-pipeline-onnx"
    add("--server-image", ("manifests",), text, metavar="IMAGE")
    text = "with --manifests: the image of the project's TorchServe runtime, nlp-pipeline-torchserve"
    add("--runtime-image", ("manifests",), text, metavar="IMAGE")
    text = "with --manifests: the service account that the steps run as (default: by the kind of Kubeflow at --host)"
    add("--steps-account", ("manifests",), text, metavar="[NAMESPACE/]NAME")


def add_output_options(parser: Parser) -> None:
    """Adds the options of all commands."""
    group = parser.add_argument_group("output")
    parser.option(group, "--json", tuple(parser.run), "print one JSON document on stdout")
    sending = (*(name for name in CHANGES if name != "wait"), *DEPLOYING)
    parser.option(group, "--dry-run", sending, "show what would be sent or changed; send and change nothing")
    parser.command(group, "--completion", commands.completion, "print what completes flags", choices=("bash", "zsh"))
    group.add_argument("--debug", action="store_true", help="show tracebacks")
    group.add_argument("--version", action="version", version=f"%(prog)s {__version__}")


def check_arguments(parser: Parser, arguments: argparse.Namespace) -> str:
    """Returns the command, and raises UsageError where the flags make no sense together."""
    chosen = [name for name in parser.run if is_given(arguments, name)]
    for command, also in (("local", "predict"), ("submit", "wait"), ("retry", "wait")):
        if command in chosen and also in chosen:
            chosen.remove(also)  # the texts to show at the end; the run to follow is the one that is submitted
    if len(chosen) != 1:
        problem = f"{' and '.join(map(flag_of, chosen))} exclude each other" if chosen else "nothing to do"
        raise UsageError(f"{problem}: give one of {', '.join(map(flag_of, parser.run))}; see --help")
    command = chosen[0]
    for name, allowed in parser.goes_with.items():
        if is_given(arguments, name) and command not in allowed:
            partners = " or ".join(map(flag_of, allowed))
            raise UsageError(f"{flag_of(name)} goes with {partners}, not with {flag_of(command)}")
    if problem := find_conflict(arguments, command):
        raise UsageError(problem)
    return command


def is_given(arguments: argparse.Namespace, name: str) -> bool:
    """Returns whether a flag was given."""
    return getattr(arguments, name) not in (None, False)


def flag_of(name: str) -> str:
    """Returns a flag by its name."""
    return f"--{name.replace('_', '-')}"


def find_conflict(arguments: argparse.Namespace, command: str) -> str:
    """Returns what is wrong with a command's flags beside each other; empty where they make sense."""
    if arguments.endpoint and arguments.deployed:
        return "--endpoint and --deployed exclude each other: the latter finds the endpoint by itself"
    if arguments.deployed and arguments.release:
        return "--release and --deployed exclude each other: what is deployed is asked, whatever it is"
    if arguments.deploy and not arguments.release:
        return "--deploy needs --release: a folder, pvc://claim/model/releases/digest or s3://..."
    if arguments.port is not None and not 1 <= arguments.port <= 65535:
        return f"--port {arguments.port}: give a port from 1 to 65535"
    if arguments.set and command in {"compile", *CLIENT} - {"submit", "schedule", "doctor"}:
        return f"--set goes with a run, not with {flag_of(command)}: parameters are given when the pipeline is run"
    if command == "wait" and arguments.wait is True:
        return "--wait needs the run's id, or goes with --submit: --runs lists them"
    if command in ("submit", "retry") and isinstance(arguments.wait, str):
        return f"{flag_of(command)} --wait {arguments.wait}: the run to follow is known; leave it out"
    if arguments.timeout is not None and not (arguments.timeout > 0 and arguments.wait):
        return "--timeout takes seconds above 0, and goes with --wait"
    if arguments.count is not None and arguments.count < 1:
        return f"--count {arguments.count}: give 1 or more"
    return ""


def add_settings(parser: Parser, arguments: argparse.Namespace) -> None:
    """Adds `settings`, and their `origins`, to the arguments; raises UsageError where a flag is another platform's."""
    from nlp_pipeline.settings import Settings, load_settings

    flags = {name: value for name, value in vars(arguments).items() if name in Settings.model_fields}
    arguments.settings, arguments.origins = load_settings(flags, arguments.config)
    if arguments.settings.image:
        check_image(arguments.settings.image)
    for name, only in parser.platform_of.items():
        if only != arguments.settings.platform and is_given(arguments, name):
            raise UsageError(f"{flag_of(name)} goes with --platform {only}, not with {arguments.settings.platform}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line, of the process or `argv`, and returns the exit code: see errors.py."""
    flags = sys.argv[1:] if argv is None else argv
    facts: dict[str, Any] = {}
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not have all letters
    try:
        code = run_command(argv)
        if sys.stdout is not None:
            sys.stdout.flush()  # while what goes wrong with it can still be reported
        return code
    except BrokenPipeError:
        # Whoever reads the results has read enough, as `head` does; Python would complain once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PipelineError.exit_code
    except KeyboardInterrupt as error:
        message, code, facts = "interrupted", INTERRUPTED, getattr(error, "facts", {})
        message += f"; {error}" if isinstance(error, StoppedWaitingError) else what_is_left(flags)
    except Exception as error:  # noqa: BLE001, also a mistake of ours, or something that no one has thought of
        if isinstance(error, PipelineError):
            message, code, facts = f"error: {error}", error.exit_code, error.facts
        else:
            reason = f"unexpected {type(error).__name__}: {' '.join(str(error).split())}"
            message, code = f"error: {reason}; --debug shows where", PipelineError.exit_code
        if "--debug" in flags:
            traceback.print_exc()
    print(message, file=sys.stderr)
    if "--json" in flags:
        print(json.dumps({**facts, "error": message.removeprefix("error: ")}, indent=2, default=str))
    return code


def run_command(argv: Sequence[str] | None) -> int:
    """Does what the arguments say, and returns the exit code."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    arguments.command = check_arguments(parser, arguments)
    if arguments.command in (*CLIENT, *DEPLOYING, "manifests"):
        add_settings(parser, arguments)
    return parser.run[arguments.command](arguments) or 0


def what_is_left(flags: Sequence[str]) -> str:
    """Returns what to say of what goes on after an interrupt."""
    if any(flag_of(name) in flags for name in RUNS):
        return "; see --runs and --schedules for what was done"
    # What is left in the cluster has been said, where something was sent.
    return "" if any(flag_of(name) in flags for name in DEPLOYING) else "; nothing is left running"
