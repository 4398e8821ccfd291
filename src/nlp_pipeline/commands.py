"""What each command of the command line calls, and how its result is printed.

Imports that take time stay inside what needs them: --help answers at once.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.pipeline import compiling
from nlp_pipeline.pipeline.admission import check_placement
from nlp_pipeline.pipeline.parameters import (
    OTHERS,
    PIPELINES,
    GraphSettings,
    check_ranges,
    find_pipeline,
    parse_settings,
    refuse_passwords,
    with_defaults,
)
from nlp_pipeline.platforms import find_verb
from nlp_pipeline.platforms.output import print_result, print_rows
from nlp_pipeline.processes import nothing_left_running
from nlp_pipeline.release import CARD, verify
from nlp_pipeline.serving.endpoint import describe_answer, predict_address, predict_at
from nlp_pipeline.serving.local_server import drain, find_release, predict_with_release, served, wait_for_end

# It returns its exit code, where that is not 0.
Command = Callable[[argparse.Namespace], int | None]


def parameters_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the pipeline's parameters that the user set."""
    return parse_settings(arguments.set, pipeline_of(arguments))


def pipeline_of(arguments: argparse.Namespace) -> str:
    """Returns the pipeline whose parameters are meant, as PIPELINES has it."""
    for name in OTHERS:
        if getattr(arguments, name):
            return name
    return find_pipeline(arguments.settings.platform, arguments.settings.pipeline) if arguments.settings else "kubeflow"


# On this machine


def local(arguments: argparse.Namespace) -> None:
    """`--local`."""
    from nlp_pipeline.local import print_summary, run_locally

    values = parameters_of(arguments)
    with nothing_left_running():
        result = run_locally(values, arguments.predict or [], debug=arguments.debug)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        print_summary(result)


def chosen_release(arguments: argparse.Namespace) -> Path:
    """Returns the release that `--release` names, or the one that was validated last."""
    from nlp_pipeline.local import local_volume

    values = parameters_of(arguments)
    if arguments.release is not None:
        return Path(arguments.release)
    check_ranges(values, pipeline_of(arguments))
    return find_release(local_volume(), values.get("model_name"))


def serve(arguments: argparse.Namespace) -> None:
    """`--serve`."""
    release = chosen_release(arguments)
    with (
        contextlib.suppress(KeyboardInterrupt),  # while it starts, or again
        nothing_left_running(),
        served(release, arguments.port or 8080, runtime=arguments.runtime) as server,
    ):
        address = server.address
        if arguments.json:
            print(json.dumps({"release": str(release), "url": address}), flush=True)
        else:
            print(
                f"serving {release}\n  {address}\n\nask it:\n"
                f"  curl -H 'Content-Type: application/json' -d '{{\"instances\": [\"what a film\"]}}' {address}\n"
                "Ctrl-C ends it.",
                flush=True,
            )
        try:
            wait_for_end(server)
        except KeyboardInterrupt:
            print("it ends when it has answered what it was asked; a second Ctrl-C ends it at once", file=sys.stderr)
            drain(server)


def predict(arguments: argparse.Namespace) -> None:
    """`--predict`: asks a deployed model, an endpoint, or a server that is booted for the question."""
    values = parameters_of(arguments)
    if arguments.deployed:
        from nlp_pipeline.deploy.commands import predict_deployed

        refuse_passwords(values)
        predictions = predict_deployed(arguments.predict, values)
    elif arguments.endpoint:
        from nlp_pipeline.settings import settings

        address = predict_address(arguments.endpoint, values.get("model_name"))
        labels = verify(Path(arguments.release)).labels if arguments.release else []
        predictions = predict_at(address, arguments.predict, labels, settings().endpoint_headers())
    else:
        with nothing_left_running():
            predictions = predict_with_release(chosen_release(arguments), arguments.predict, arguments.runtime)
    if arguments.json:
        print(json.dumps({"predictions": predictions}, indent=2))
        return
    for item in predictions:
        print("\t".join((*describe_answer(item, 4), item["text"])))


def card(arguments: argparse.Namespace) -> None:
    """`--card`: as it is into a file or a pipe, and without its header, which is for the hub, on a terminal."""
    release = chosen_release(arguments)
    if CARD not in verify(release).files:
        raise UsageError(f"{release} has no model card: it is from before releases had one")
    text = (release / CARD).read_text(encoding="utf-8")
    if arguments.json:
        print(json.dumps({"release": str(release), "card": text}, indent=2))
    elif not sys.stdout.isatty():
        print(text, end="")
    else:
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text.split("\n---\n", 1)[1]))


def compile_(arguments: argparse.Namespace) -> None:
    """`--compile` and `--compile --check`."""
    if arguments.image is not None:
        compiling.check_image(arguments.image)
    targets = compiling.find_targets(arguments.platform, arguments.output, arguments.pipeline)

    def options(name: str) -> tuple[Any, ...]:
        return arguments.image, name, arguments.run_as_user if PIPELINES[name].platform == "kubeflow" else None

    result: dict[str, Any] = {}
    if arguments.check:
        differences = {file: compiling.check_compiled(file, *options(name)) for name, file in targets.items()}
        if stale := {file: difference for file, difference in differences.items() if difference}:
            difference = "\n".join(stale.values())
            if not arguments.json:
                print(difference)
            advice = "is stale: write it" if len(stale) == 1 else "are stale: write them"
            message = f"{' and '.join(map(str, stale))} {advice} anew with --compile"
            raise PipelineError(message, {"stale": True, "difference": difference})
        result["stale"] = False
    else:
        for name, target in targets.items():
            compiling.write_compiled(target, *options(name))
            if not arguments.json:
                print(target)
            result[f"compiled_{name}" if result else "compiled"] = str(target)
    result["budget"] = compiling.weigh_compiled(arguments.image, targets)
    if arguments.json:
        print(json.dumps(result))


# On a platform


def on_platform(arguments: argparse.Namespace, verb: str, *values: Any) -> Any:
    """Does a verb of platforms/__init__.py on the platform of the settings, and returns its result."""
    settings = arguments.settings
    if not (arguments.dry_run and verb in ("submit", "upload")):  # of these, a dry run asks no server
        settings.ask_password()
    return find_verb(settings.platform, verb)(settings, *values)


def submit(arguments: argparse.Namespace) -> None:
    """`--submit`, with `--wait` too."""
    result = on_platform(arguments, "submit", parameters_of(arguments), arguments.dry_run)
    if arguments.dry_run or not arguments.wait:
        return print_result(result, arguments.json)
    print(result["url"], file=sys.stderr)
    follow_run(arguments, result["run_id"])


def wait(arguments: argparse.Namespace) -> None:
    """`--wait RUN_ID`."""
    follow_run(arguments, arguments.wait)


def follow_run(arguments: argparse.Namespace, run_id: str) -> None:
    """Follows a run until it ends, and prints how."""
    result = on_platform(arguments, "wait", run_id, arguments.timeout)
    shown = result if arguments.json else {key: result[key] for key in ("state", "url", "seconds")}
    print_result(shown, arguments.json)


def retry(arguments: argparse.Namespace) -> None:
    """`--retry RUN_ID`, with `--wait` too."""
    result = on_platform(arguments, "retry", arguments.retry, arguments.dry_run)
    if arguments.dry_run or not arguments.wait:
        return print_result(result, arguments.json)
    follow_run(arguments, arguments.retry)


def upload(arguments: argparse.Namespace) -> None:
    """`--upload`."""
    print_result(on_platform(arguments, "upload", arguments.dry_run), arguments.json)


def schedule(arguments: argparse.Namespace) -> None:
    """`--schedule CRON`."""
    from nlp_pipeline.platforms.schedules import ScheduleOptions

    options = ScheduleOptions(
        cron=arguments.schedule,
        name=PIPELINES[pipeline_of(arguments)].name if arguments.schedule_name is None else arguments.schedule_name,
        catch_up=arguments.catch_up,
        max_concurrency=1 if arguments.concurrency is None else arguments.concurrency,
        start=arguments.start,
        end=arguments.end,
    )
    values = parameters_of(arguments)
    result = on_platform(arguments, "schedule", options, values, arguments.dry_run)
    if arguments.dry_run and arguments.settings.platform == "kubeflow":
        from nlp_pipeline.kubeflow.pipelines import describe_pods

        result |= describe_pods(arguments.settings, values)
    print_result(result, arguments.json)


def schedules(arguments: argparse.Namespace) -> None:
    """`--schedules`."""
    rows = on_platform(arguments, "schedules")
    print_rows(rows, ("name", "cron", "next", "status", "version"), arguments.json)


def change_schedule(arguments: argparse.Namespace) -> None:
    """`--unschedule`, `--pause` and `--resume`."""
    name, force = getattr(arguments, arguments.command), (True,) if arguments.force else ()
    print_result(on_platform(arguments, arguments.command, name, arguments.dry_run, *force), arguments.json)


def runs(arguments: argparse.Namespace) -> None:
    """`--runs`."""
    rows = on_platform(arguments, "runs", arguments.count or 20)
    print_rows(rows, ("id", "name", "state", "created", "seconds"), arguments.json)


def download(arguments: argparse.Namespace) -> None:
    """`--download RUN_ID`."""
    run_id = arguments.download
    folder = Path(arguments.to) if arguments.to else Path("outputs") / "runs" / run_id
    print_result(on_platform(arguments, "download", run_id, folder, arguments.dry_run), arguments.json)


def doctor(arguments: argparse.Namespace) -> int:
    """`--doctor`."""
    from nlp_pipeline.platforms.doctor import missing, print_findings

    findings = on_platform(arguments, "doctor", parameters_of(arguments))
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        print_findings(findings)
    if names := missing(findings):
        print(f"error: not ready for a run: {', '.join(names)}", file=sys.stderr)
    return UsageError.exit_code if names else 0


def print_config(arguments: argparse.Namespace) -> None:
    """`--print-config`."""
    from pydantic import SecretStr

    rows = []
    for name, origin in arguments.origins.items():
        value = getattr(arguments.settings, name)
        if isinstance(value, SecretStr):
            value = "********" if value.get_secret_value() else ""
        rows.append({"setting": name, "value": value, "from": origin})
    print_rows(rows, ("setting", "value", "from"), arguments.json)


# On the cluster, by the kubeconfig

ON_VERTEX = {
    "deploy": "on Vertex AI the pipeline itself deploys: --submit --set deploy=true",
    "rollback": "on Vertex AI a version that fails its check is taken back by the run itself; to go back later, split "
    "the endpoint's traffic in the console",
}


def change_deployment(arguments: argparse.Namespace) -> None:
    """`--deploy`, `--rollback` and `--undeploy`."""
    settings, command = arguments.settings, arguments.command
    if settings.platform == "vertex":
        from nlp_pipeline.vertex.undeploy import undeploy

        if command in ON_VERTEX:
            raise UsageError(f"--{command}: {ON_VERTEX[command]}")
        return print_result(undeploy(settings, parameters_of(arguments), arguments.dry_run), arguments.json)
    from nlp_pipeline.deploy import commands

    values = parameters_of(arguments)
    refuse_passwords(values)
    if command == "deploy":
        check_placement(values)
        endpoint_rows = values.get("endpoint_rows", GraphSettings.endpoint_rows)
        result = commands.deploy(arguments.release, arguments.rows, values, endpoint_rows, arguments.dry_run)
    else:
        result = getattr(commands, command)(values, arguments.dry_run)
    if arguments.dry_run and not arguments.json:
        import yaml

        print(f"{yaml.safe_dump(result['object'], sort_keys=False)}\n{result['difference'] or 'no difference'}")
    else:
        print_result(result, arguments.json)


def manifests(arguments: argparse.Namespace) -> None:
    """`--manifests`."""
    from nlp_pipeline.deploy.manifests import PLACEHOLDER
    from nlp_pipeline.deploy.manifests import manifests as make_manifests
    from nlp_pipeline.kubeflow.accounts import find_steps_account
    from nlp_pipeline.pipeline.pods import S3_KEYS

    values = parse_settings(arguments.set)
    check_ranges(values)
    images = {"onnx": arguments.server_image, "torchserve": arguments.runtime_image}
    for flag, image in zip(("--server-image", "--runtime-image"), images.values(), strict=True):
        if image is not None:
            compiling.check_image(image, flag)
    values = with_defaults(values)
    values["namespace"] = values["namespace"] or arguments.settings.namespace
    if values["deploy"] and not values["namespace"]:
        raise UsageError("--manifests needs a namespace, as a RoleBinding names it: add --set namespace=NAME")
    account = arguments.steps_account or str(find_steps_account(arguments.settings, values["namespace"]))
    text = make_manifests(values, S3_KEYS, images, account)
    if arguments.json:
        import yaml

        items = list(yaml.safe_load_all(text))
        print(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=2))
    else:
        print(text, end="")
    if PLACEHOLDER in text:
        print(
            f"note: the Secret holds {PLACEHOLDER} for what only you know: fill it in before you apply this, "
            "and don't apply it again over the filled-in one",
            file=sys.stderr,
        )


def completion(arguments: argparse.Namespace) -> None:
    """`--completion SHELL`."""
    import shtab

    from nlp_pipeline.cli import make_parser

    parser = make_parser()
    parser.prog = "nlp-pipeline"  # a file that is run by `python` is none that a shell could complete
    print(shtab.complete(parser, arguments.completion))
