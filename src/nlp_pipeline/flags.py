"""The flags of the command line, and which of them make sense together."""

import argparse
import re
from pathlib import Path
from typing import Any

from nlp_pipeline import __version__
from nlp_pipeline.errors import UsageError
from nlp_pipeline.pipeline.parameters import PLATFORMS

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
  0 fine, 1 a run failed, 2 bad usage or configuration, 3 the model did not pass the gate,
  4 not ready in time, 5 rolled back: what was deployed before serves again, 130 interrupted
"""

CLIENT = ("submit", "upload", "wait", "schedule", "schedules", "unschedule", "pause", "resume", "runs", "download")
COMMANDS = (
    *("local", "serve", "predict", "compile"),
    *CLIENT,
    *("doctor", "manifests", "deploy", "rollback", "undeploy", "print_config", "completion"),
)
# Flags that mean something on one platform only.
OF_PLATFORM = {
    "kubeflow": ("host", "namespace", "username", "ca-cert", "insecure"),
    "vertex": ("project", "region", "bucket"),
}
# Commands that do something else on each platform; compiling goes by the flag alone.
BY_PLATFORM = (*CLIENT, "doctor", "print_config", "deploy", "rollback", "undeploy")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> Any:
        """Raises what is wrong with the arguments as a UsageError."""
        if wanted := re.search(
            r"unrecognized arguments:.*?--(password|token|cookies|s3-access-key|s3-secret-key)", message
        ):
            name = wanted[1].replace("-", "_").upper()
            raise UsageError(
                f"--{wanted[1]}: secrets have no flag, as others can read a process's arguments; set "
                f"NLP_PIPELINE_{name} in the environment or in .env"
            )
        raise UsageError(f"{message}; see --help")


def make_parser() -> argparse.ArgumentParser:
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
    add_client_options(parser)
    add_cluster_options(parser)

    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    output.add_argument(
        "--dry-run", action="store_true", help="show what would be sent or changed; send and change nothing"
    )
    output.add_argument("--completion", choices=("bash", "zsh"), help="print what completes nlp-pipeline's flags there")
    output.add_argument("--debug", action="store_true", help="show tracebacks")
    output.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Adds the commands, each of which is a flag."""
    what = parser.add_argument_group("on this machine")
    what.add_argument("--local", action="store_true", help="run the whole pipeline on this machine")
    what.add_argument("--serve", action="store_true", help="serve a release with TorchServe until Ctrl-C")
    what.add_argument(
        "--predict", nargs="+", metavar="TEXT", help="classify texts; after --local, the texts to show at its end"
    )
    what.add_argument("--compile", action="store_true", help="write the pipeline's IR YAML to compiled/")

    what = parser.add_argument_group("on Kubeflow Pipelines, or with --platform vertex on Vertex AI")
    what.add_argument("--submit", action="store_true", help="run the pipeline; with --wait, follow the run")
    what.add_argument(
        "--wait", nargs="?", const=True, metavar="RUN_ID", help="follow a run until it ends; its exit code is the run's"
    )
    what.add_argument(
        "--upload", action="store_true", help="upload the pipeline, or a new version of it, without a run"
    )
    what.add_argument("--schedule", metavar="CRON", help='run it again and again: six fields, as in "0 0 2 * * *"')
    what.add_argument("--schedules", action="store_true", help="list the schedules")
    what.add_argument("--unschedule", metavar="NAME", help="remove a schedule")
    what.add_argument("--pause", metavar="NAME", help="let a schedule rest")
    what.add_argument("--resume", metavar="NAME", help="let it go on")
    what.add_argument("--runs", action="store_true", help="list recent runs")
    what.add_argument("--download", metavar="RUN_ID", help="fetch a run's report, metrics, model and archive")
    what.add_argument("--doctor", action="store_true", help="check what a run needs there, a line each")
    what.add_argument("--print-config", action="store_true", help="show every setting, and where it came from")

    what = parser.add_argument_group("on the cluster, by the kubeconfig")
    what.add_argument(
        "--manifests", action="store_true", help="print what a namespace needs, as YAML for kubectl apply -f -"
    )
    what.add_argument("--deploy", action="store_true", help="deploy a release with KServe, by the kubeconfig's context")
    what.add_argument("--rollback", action="store_true", help="go back to the release that was deployed before")
    what.add_argument(
        "--undeploy",
        action="store_true",
        help="remove the InferenceService, or on Vertex AI the endpoint, which costs money by the hour; releases stay",
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of local runs, of serving and of compiling."""
    run = parser.add_argument_group("the run")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a parameter of the pipeline; may be given often (docs/parameters.md lists them)",
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

    compiling = parser.add_argument_group("compiling")
    compiling.add_argument(
        "--check", action="store_true", help="with --compile: write nothing, exit 1 and show a diff if it is stale"
    )

    compiling.add_argument(
        "--image", help="an image that holds the packages of every step, for steps that install nothing"
    )
    compiling.add_argument(
        "--output", type=Path, metavar="FILE", help="the compiled file of one platform (default: in compiled/)"
    )


def add_client_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of what is done on Kubeflow Pipelines. None takes a secret: see settings.py."""
    client = parser.add_argument_group(
        "Kubeflow and Vertex AI",
        "each also as NLP_PIPELINE_<NAME> in the environment or a file; secrets only so: PASSWORD, TOKEN, ...",
    )
    client.add_argument(
        "--platform",
        choices=PLATFORMS,
        help="where runs are (default: kubeflow); --compile without it writes the files of both",
    )
    client.add_argument("--host", metavar="URL", help="Kubeflow's address, as in https://kubeflow.example.com")
    client.add_argument("--namespace", metavar="NAME", help="the namespace of your profile")
    client.add_argument("--experiment", metavar="NAME", help="the runs' experiment (default: nlp-pipeline)")
    client.add_argument("--username", metavar="NAME", help="who signs in, with NLP_PIPELINE_PASSWORD")
    client.add_argument("--ca-cert", metavar="FILE", help="certificates of a private authority")
    client.add_argument("--insecure", action="store_true", help="do not verify the server's certificate")
    client.add_argument("--service-account", metavar="NAME", help="what runs run as; an e-mail address on Vertex AI")
    client.add_argument("--project", metavar="NAME", help="Vertex AI: the Google Cloud project")
    client.add_argument("--region", metavar="NAME", help="Vertex AI: the region (default: us-central1)")
    client.add_argument("--bucket", metavar="URI", help="Vertex AI: where runs write, as in gs://bucket/folder")
    client.add_argument("--config", type=Path, metavar="FILE", help="file of NAME=VALUE lines (default: .env)")
    client.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="for --wait: give up after so long, exit code 4"
    )
    client.add_argument(
        "--to", type=Path, metavar="DIR", help="for --download: where to (default: outputs/runs/RUN_ID)"
    )
    client.add_argument("--count", type=int, metavar="N", help="for --runs: how many (default: 20)")

    schedule = parser.add_argument_group("schedules")
    schedule.add_argument("--schedule-name", metavar="NAME", help="its name (default: nlp-pipeline)")
    schedule.add_argument("--start", metavar="TIME", help="not before, as in 2027-01-31T00:00:00Z")
    schedule.add_argument("--end", metavar="TIME", help="not after")
    schedule.add_argument("--catch-up", action="store_true", help="also start the runs that were missed")
    schedule.add_argument("--concurrency", type=int, metavar="N", help="so many runs at once, 1 to 10 (default: 1)")


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of what is done on the cluster, by the kubeconfig."""
    deploying = parser.add_argument_group("deploying")
    deploying.add_argument(
        "--rows", type=Path, metavar="FILE", help="labelled rows to ask for: datasets/predictions.parquet of a run"
    )
    deploying.add_argument(
        "--runtime-image", metavar="IMAGE", help="with --manifests: the image of the project's TorchServe runtime"
    )
    deploying.add_argument(
        "--steps-account",
        metavar="[NAMESPACE/]NAME",
        help="with --manifests: the service account that the steps run as (default: default-editor)",
    )


def check_arguments(arguments: argparse.Namespace) -> str:
    """Makes sure that the flags make sense together.

    Returns:
        The command: the name of its flag.

    Raises:
        UsageError: They do not.
    """
    given = [name for name in COMMANDS if getattr(arguments, name) not in (None, False)]
    for command, also in (("local", "predict"), ("submit", "wait")):
        if getattr(arguments, command) and also in given and getattr(arguments, also) is not False:
            given.remove(also)  # the texts to show at the end; the run to follow is the one that is submitted
    if len(given) != 1:
        shown = [f"--{name.replace('_', '-')}" for name in given]
        problem = f"{' and '.join(shown)} exclude each other" if given else "nothing to do"
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in COMMANDS)
        raise UsageError(f"{problem}: give one of {flags}; see --help")
    command = given[0]
    client = (*CLIENT, "doctor", "print_config")
    changes = ("submit", "upload", "schedule", "unschedule", "pause", "resume", "download")
    goes_with: dict[str, tuple[str, ...]] = {
        "check": ("compile",),
        "image": ("compile", "submit", "upload", "schedule", "doctor", "print_config"),
        "output": ("compile",),
        "release": ("serve", "predict", "deploy"),
        "port": ("serve",),
        "endpoint": ("predict",),
        "deployed": ("predict",),
        "rows": ("deploy",),
        "dry-run": (*changes, "deploy", "rollback", "undeploy"),
        "json": tuple(name for name in COMMANDS if name != "completion"),
        "runtime-image": ("manifests",),
        "steps-account": ("manifests",),
        "platform": ("compile", *BY_PLATFORM),
        **dict.fromkeys(("host", "namespace", "experiment", "username", "ca-cert", "insecure"), client),
        "service-account": client,
        **dict.fromkeys(("project", "region", "bucket", "config"), (*client, "undeploy")),
        "timeout": ("submit", "wait"),
        "to": ("download",),
        "count": ("runs",),
        **dict.fromkeys(("schedule-name", "start", "end", "catch-up", "concurrency"), ("schedule",)),
    }
    for flag, allowed in goes_with.items():
        if getattr(arguments, flag.replace("-", "_")) not in (None, False) and command not in allowed:
            partners = " or ".join(f"--{name.replace('_', '-')}" for name in allowed)
            raise UsageError(f"--{flag} goes with {partners}, not with --{command.replace('_', '-')}")
    check_pairs(arguments, command)
    return command


def check_pairs(arguments: argparse.Namespace, command: str) -> None:
    """Makes sure that the flags of a command make sense beside each other.

    Raises:
        UsageError: They do not.
    """
    if arguments.endpoint and arguments.deployed:
        raise UsageError("--endpoint and --deployed exclude each other: the latter finds the endpoint by itself")
    if arguments.deployed and arguments.release:
        raise UsageError("--release and --deployed exclude each other: what is deployed is asked, whatever it is")
    if arguments.deploy and not arguments.release:
        raise UsageError("--deploy needs --release: a folder, pvc://claim/model/releases/digest or s3://...")
    if arguments.port is not None and not 1 <= arguments.port <= 65535:
        raise UsageError(f"--port {arguments.port}: give a port from 1 to 65535")
    no_run = ("wait", "upload", "schedules", "unschedule", "pause", "resume", "runs", "download", "print_config")
    if arguments.set and command in ("compile", *no_run):
        shown = command.replace("_", "-")
        raise UsageError(f"--set goes with a run, not with --{shown}: parameters are given when the pipeline is run")
    if command == "wait" and arguments.wait is True:
        raise UsageError("--wait needs the run's id, or goes with --submit: --runs lists them")
    if command == "submit" and isinstance(arguments.wait, str):
        raise UsageError(
            f"--submit --wait {arguments.wait}: the run to follow is the one that is submitted; leave it out"
        )
    if arguments.timeout is not None and not (arguments.timeout > 0 and arguments.wait):
        raise UsageError("--timeout takes seconds above 0, and goes with --wait")
    if arguments.count is not None and arguments.count < 1:
        raise UsageError(f"--count {arguments.count}: give 1 or more")


def check_platform(arguments: argparse.Namespace, platform: str) -> None:
    """Makes sure that no flag was given which means nothing on the platform that was chosen.

    Raises:
        UsageError: One was.
    """
    for other, flags in OF_PLATFORM.items():
        for flag in flags:
            if other != platform and getattr(arguments, flag.replace("-", "_")) not in (None, False):
                raise UsageError(f"--{flag} goes with --platform {other}, not with {platform}")
