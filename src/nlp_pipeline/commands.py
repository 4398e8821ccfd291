"""What each command of the command line calls, and how its result is printed.

Imports that take time stay inside what needs them: --help answers at once.
"""

import argparse
import contextlib
import getpass
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.platforms import find_verb
from nlp_pipeline.platforms.output import print_result, print_rows

if TYPE_CHECKING:
    from nlp_pipeline.settings import Settings

# It returns its exit code, where that is not 0.
Command = Callable[[argparse.Namespace], int | None]


def parameters_of(arguments: argparse.Namespace, platform: str = "kubeflow") -> dict[str, Any]:
    """Returns the pipeline's parameters that the user set."""
    from nlp_pipeline.pipeline.parameters import parse_settings

    return parse_settings(arguments.set, platform)


# On this machine


def local(arguments: argparse.Namespace) -> None:
    """`--local`."""
    from nlp_pipeline.local import print_result as print_summary
    from nlp_pipeline.local import run_locally
    from nlp_pipeline.processes import nothing_left_running

    values = parameters_of(arguments)
    with nothing_left_running():
        result = run_locally(values, arguments.predict or [], debug=arguments.debug)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        print_summary(result)


def chosen_release(arguments: argparse.Namespace) -> Path:
    """Returns the release that `--release` names, or the one that was validated last."""
    from nlp_pipeline.local import OUTPUTS
    from nlp_pipeline.serving.local_server import find_release

    values = parameters_of(arguments)
    if arguments.release is not None:
        return Path(arguments.release)
    return find_release(Path(values.get("volume_path", OUTPUTS / "volume")), values.get("model_name"))


def serve(arguments: argparse.Namespace) -> None:
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


def predict(arguments: argparse.Namespace) -> None:
    """`--predict`."""
    from nlp_pipeline.processes import nothing_left_running
    from nlp_pipeline.release import verify
    from nlp_pipeline.serving.endpoint import predict_address, predict_at
    from nlp_pipeline.serving.local_server import predict_with_release

    values = parameters_of(arguments)
    if arguments.deployed:
        from nlp_pipeline.deploy.commands import predict_deployed
        from nlp_pipeline.pipeline.parameters import refuse_passwords

        refuse_passwords(values)
        predictions = predict_deployed(arguments.predict, values)
    elif arguments.endpoint:
        from nlp_pipeline.settings import settings

        address = predict_address(arguments.endpoint, values.get("model_name"))
        labels = verify(Path(arguments.release)).labels if arguments.release else []
        predictions = predict_at(address, arguments.predict, labels, settings().endpoint_headers())
    else:
        with nothing_left_running():
            predictions = predict_with_release(chosen_release(arguments), arguments.predict)
    if arguments.json:
        print(json.dumps({"predictions": predictions}, indent=2))
    else:
        for item in predictions:
            score = "" if item["score"] is None else f"{item['score']:.4f}"
            print(f"{item['label']}\t{score}\t{item['text']}")


def compile_(arguments: argparse.Namespace) -> None:
    """`--compile` and `--compile --check`."""
    from nlp_pipeline.pipeline import compiling

    if arguments.image is not None:
        compiling.check_image(arguments.image)
    targets = compiling.find_targets(arguments.platform, arguments.output)
    if arguments.check:
        stale = compiling.find_stale(targets, arguments.image)
        difference = "\n".join(stale.values())
        if stale and not arguments.json:
            print(difference)
        if stale:
            advice = "is stale: write it" if len(stale) == 1 else "are stale: write them"
            message = f"{' and '.join(map(str, stale))} {advice} anew with --compile"
            raise PipelineError(message, {"stale": True, "difference": difference})
        result: dict[str, Any] = {"stale": False}
    else:
        for platform, target in targets.items():
            compiling.write_compiled(target, arguments.image, platform)
            if not arguments.json:
                print(target)
        first, *others = targets.items()
        result = {"compiled": str(first[1]), **{f"compiled_{name}": str(file) for name, file in others}}
    result["budget"] = weigh(arguments.image, targets)
    if arguments.json:
        print(json.dumps(result))


def weigh(image: str | None, targets: dict[str, Path]) -> dict[str, Any]:
    """Prints what runs of compiled files take, and returns it as JSON has it.

    Raises:
        PipelineError: It is more than a stock cluster can store.
    """
    from nlp_pipeline.pipeline.compiling import weigh_compiled

    budgets = {name: weigh_compiled(target, image, name) for name, target in targets.items()}
    for name, found in budgets.items():
        for kind, budget in found.items():
            shown = f"{targets[name]}{'' if kind == 'embedded' else ' with --image'}"
            print(f"{shown}: {budget}", file=sys.stderr)
            if excess := budget.excess(embedded=kind == "embedded"):
                raise PipelineError(
                    f"{shown} is larger than a stock cluster can store ({excess}): let steps import less"
                )
    return {name: {kind: asdict(one) for kind, one in found.items()} for name, found in budgets.items()}


# On a platform

FLAGS = (
    *("platform", "host", "namespace", "experiment", "username", "ca_cert", "insecure", "image", "service_account"),
    *("project", "region", "bucket"),
)


def load_settings(arguments: argparse.Namespace) -> "tuple[Settings, dict[str, str]]":
    """Returns the settings, and where each came from."""
    from nlp_pipeline import settings
    from nlp_pipeline.pipeline.compiling import check_image

    found, origins = settings.load_settings({name: getattr(arguments, name) for name in FLAGS}, arguments.config)
    if found.image:
        check_image(found.image)
    return found, origins


def read_settings(arguments: argparse.Namespace) -> "Settings":
    """Returns the settings; asks for the password on a terminal, where it is needed."""
    from pydantic import SecretStr

    settings, _ = load_settings(arguments)
    is_known = any(secret.get_secret_value() for secret in (settings.password, settings.token, settings.cookies))
    if settings.platform == "kubeflow" and settings.username and not is_known and sys.stdin.isatty():
        try:
            settings.password = SecretStr(getpass.getpass(f"password of {settings.username}: ", sys.stderr))
        except EOFError:
            raise UsageError("no password was given") from None
    return settings


def submit(arguments: argparse.Namespace) -> None:
    """`--submit`, with `--wait` too."""
    settings = load_settings(arguments)[0] if arguments.dry_run else read_settings(arguments)
    values = parameters_of(arguments, settings.platform)
    result = find_verb(settings.platform, "submit")(settings, values, arguments.dry_run)
    if arguments.dry_run or not arguments.wait:
        return print_result(result, arguments.json)
    print(result["url"], file=sys.stderr)
    print_end(arguments, find_verb(settings.platform, "wait")(settings, result["run_id"], arguments.timeout))


def wait(arguments: argparse.Namespace) -> None:
    """`--wait RUN_ID`."""
    settings = read_settings(arguments)
    print_end(arguments, find_verb(settings.platform, "wait")(settings, arguments.wait, arguments.timeout))


def print_end(arguments: argparse.Namespace, result: dict[str, Any]) -> None:
    """Prints how a run ended that was followed."""
    shown = result if arguments.json else {key: result[key] for key in ("state", "url", "seconds")}
    print_result(shown, arguments.json)


def upload(arguments: argparse.Namespace) -> None:
    """`--upload`."""
    settings = load_settings(arguments)[0] if arguments.dry_run else read_settings(arguments)
    print_result(find_verb(settings.platform, "upload")(settings, arguments.dry_run), arguments.json)


def schedule(arguments: argparse.Namespace) -> None:
    """`--schedule CRON`."""
    from nlp_pipeline.pipeline.parameters import NAME
    from nlp_pipeline.platforms.schedules import ScheduleOptions

    settings = read_settings(arguments)
    options = ScheduleOptions(
        cron=arguments.schedule,
        name=NAME if arguments.schedule_name is None else arguments.schedule_name,
        catch_up=arguments.catch_up,
        max_concurrency=1 if arguments.concurrency is None else arguments.concurrency,
        start=arguments.start,
        end=arguments.end,
    )
    values = parameters_of(arguments, settings.platform)
    run = find_verb(settings.platform, "schedule")
    print_result(run(settings, options, values, arguments.dry_run), arguments.json)


def schedules(arguments: argparse.Namespace) -> None:
    """`--schedules`."""
    settings = read_settings(arguments)
    rows = find_verb(settings.platform, "schedules")(settings)
    print_rows(rows, ("name", "cron", "next", "status", "version"), arguments.json)


def change_schedule(arguments: argparse.Namespace) -> None:
    """`--unschedule`, `--pause` and `--resume`."""
    settings = read_settings(arguments)
    name = next(name for name in ("unschedule", "pause", "resume") if getattr(arguments, name) is not None)
    run = find_verb(settings.platform, name)
    print_result(run(settings, getattr(arguments, name), arguments.dry_run), arguments.json)


def runs(arguments: argparse.Namespace) -> None:
    """`--runs`."""
    settings = read_settings(arguments)
    rows = find_verb(settings.platform, "runs")(settings, arguments.count or 20)
    print_rows(rows, ("id", "name", "state", "created", "seconds"), arguments.json)


def download(arguments: argparse.Namespace) -> None:
    """`--download RUN_ID`."""
    settings = read_settings(arguments)
    folder = arguments.to or Path("outputs") / "runs" / arguments.download
    run = find_verb(settings.platform, "download")
    print_result(run(settings, arguments.download, folder, arguments.dry_run), arguments.json)


def doctor(arguments: argparse.Namespace) -> int:
    """`--doctor`."""
    from nlp_pipeline.platforms.doctor import missing, print_checks

    settings = read_settings(arguments)
    checks = find_verb(settings.platform, "doctor")(settings, parameters_of(arguments, settings.platform))
    if arguments.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        print_checks(checks)
    if names := missing(checks):
        print(f"error: not ready for a run: {', '.join(names)}", file=sys.stderr)
        return UsageError.exit_code
    return 0


def print_config(arguments: argparse.Namespace) -> None:
    """`--print-config`."""
    from pydantic import SecretStr

    settings, origins = load_settings(arguments)
    rows = []
    for name, origin in origins.items():
        value = getattr(settings, name)
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


def deployment(arguments: argparse.Namespace) -> None:
    """`--deploy`, `--rollback` and `--undeploy`."""
    settings, _ = load_settings(arguments)
    name = next(name for name in ("deploy", "rollback", "undeploy") if getattr(arguments, name))
    if settings.platform == "vertex" and name in ON_VERTEX:
        raise UsageError(f"--{name}: {ON_VERTEX[name]}")
    values = parameters_of(arguments, settings.platform)
    if settings.platform == "vertex":
        from nlp_pipeline.vertex.undeploy import undeploy

        return print_result(undeploy(settings, values, arguments.dry_run), arguments.json)
    from nlp_pipeline.deploy import commands
    from nlp_pipeline.pipeline.parameters import GraphSettings, refuse_passwords

    refuse_passwords(values)
    if arguments.deploy:
        endpoint_rows = values.get("endpoint_rows", GraphSettings.endpoint_rows)
        result = commands.deploy(arguments.release, arguments.rows, values, endpoint_rows, arguments.dry_run)
    else:
        result = getattr(commands, name)(values, arguments.dry_run)
    if arguments.dry_run and not arguments.json:
        import yaml

        print(f"{yaml.safe_dump(result['object'], sort_keys=False)}\n{result['difference'] or 'no difference'}")
    else:
        print_result(result, arguments.json)


def manifests(arguments: argparse.Namespace) -> None:
    """`--manifests`."""
    from dataclasses import fields

    from nlp_pipeline.deploy.manifests import PLACEHOLDER, RUNTIME_IMAGE, STEPS_ACCOUNT, Needs
    from nlp_pipeline.deploy.manifests import manifests as make_manifests
    from nlp_pipeline.deploy.settings import DeploySettings
    from nlp_pipeline.pipeline.compiling import check_image
    from nlp_pipeline.pipeline.kubeflow import S3_KEYS
    from nlp_pipeline.pipeline.parameters import check_ranges, pipeline_parameters

    values = parameters_of(arguments)
    check_ranges(values)
    image = RUNTIME_IMAGE if arguments.runtime_image is None else arguments.runtime_image
    check_image(image, "--runtime-image")
    values = {name: parameter.default for name, parameter in pipeline_parameters().items()} | values
    needs = Needs(
        settings=DeploySettings(**{field.name: values[field.name] for field in fields(DeploySettings)}),
        deploys=values["deploy"],
        reads_s3=any((values[name] or "").startswith("s3://") for name in ("train_data", "evaluation_data")),
        secret=values["s3_secret"],
        secret_keys=S3_KEYS,
        runtime_image=image,
        steps_account=STEPS_ACCOUNT if arguments.steps_account is None else arguments.steps_account,
    )
    text = make_manifests(needs)
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
