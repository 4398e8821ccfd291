"""What each command of the command line does."""

import argparse
import contextlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.release import verify

if TYPE_CHECKING:
    from nlp_pipeline.pipeline.budget import Budget

# Imports that take time stay inside what needs them: --help answers at once.


def run_local(arguments: argparse.Namespace) -> None:
    """`--local`."""
    from nlp_pipeline.local import print_result, run_locally
    from nlp_pipeline.pipeline.parameters import parse_settings
    from nlp_pipeline.processes import nothing_left_running

    values = parse_settings(arguments.set)
    with nothing_left_running():
        result = run_locally(values, arguments.predict or [], debug=arguments.debug)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        print_result(result)


def chosen_release(arguments: argparse.Namespace) -> Path:
    """Returns the release that `--release` names, or the one that was validated last."""
    from nlp_pipeline.local import OUTPUTS
    from nlp_pipeline.pipeline.parameters import parse_settings
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
    from nlp_pipeline.pipeline.parameters import parse_settings, refuse_passwords
    from nlp_pipeline.processes import nothing_left_running
    from nlp_pipeline.serving.endpoint import predict_address, predict_at
    from nlp_pipeline.serving.local_server import predict_with_release

    values = parse_settings(arguments.set)
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
            predictions = predict_with_release(chosen_release(arguments), arguments.predict)
    if arguments.json:
        print(json.dumps({"predictions": predictions}, indent=2))
    else:
        for one in predictions:
            score = "" if one["score"] is None else f"{one['score']:.4f}"
            print(f"{one['label']}\t{score}\t{one['text']}")


def run_deployment(arguments: argparse.Namespace) -> None:
    """`--deploy`, `--rollback` and `--undeploy`."""
    from nlp_pipeline.deploy.commands import deploy, rollback, undeploy
    from nlp_pipeline.pipeline.parameters import GraphSettings, parse_settings, refuse_passwords

    values = parse_settings(arguments.set)
    refuse_passwords(values)
    if arguments.deploy:
        endpoint_rows = values.get("endpoint_rows", GraphSettings.endpoint_rows)
        result = deploy(arguments.release, arguments.rows, values, endpoint_rows, arguments.dry_run)
    else:
        result = (rollback if arguments.rollback else undeploy)(values, arguments.dry_run)
    if arguments.json:
        print(json.dumps(result, indent=2))
    elif arguments.dry_run:
        import yaml

        print(f"{yaml.safe_dump(result['object'], sort_keys=False)}\n{result['difference'] or 'no difference'}")
    else:
        print_deployment(result)


def print_deployment(result: dict[str, Any]) -> None:
    """Prints what came of a deployment, a line each."""
    for key, value in result.items():
        if value != "":
            print(f"{key:<17} {f'{value:.4g}' if isinstance(value, float) else value}")


def compile_targets(arguments: argparse.Namespace) -> dict[str, Path]:
    """Returns the compiled files that are meant, by platform: all of them where none is named, so that none goes stale.

    Raises:
        UsageError: What a platform needs is not installed; nothing is written then.
    """
    from nlp_pipeline.pipeline.compiling import compiled_path, load_pipeline
    from nlp_pipeline.pipeline.parameters import PLATFORMS

    if arguments.output:
        targets = {arguments.platform or PLATFORMS[0]: arguments.output}
    else:
        platforms = (arguments.platform,) if arguments.platform else PLATFORMS
        targets = {platform: compiled_path(platform) for platform in platforms}
    try:
        for platform in targets:
            load_pipeline(platform)
    except UsageError as error:
        others = "" if arguments.platform else f"; or name one platform, as in --platform {PLATFORMS[0]}"
        raise UsageError(f"{error}{others}") from None
    return targets


def run_compile(arguments: argparse.Namespace) -> None:
    """`--compile` and `--compile --check`."""
    from nlp_pipeline.pipeline.compiling import check_compiled, check_image, write_compiled

    if arguments.image is not None:
        check_image(arguments.image)
    targets = compile_targets(arguments)
    if arguments.check:
        report_stale(arguments, {file: check_compiled(file, arguments.image, name) for name, file in targets.items()})
        result: dict[str, Any] = {"stale": False}
    else:
        for platform, target in targets.items():
            write_compiled(target, arguments.image, platform)
            if not arguments.json:
                print(target)
        first, *others = targets.items()
        result = {"compiled": str(first[1]), **{f"compiled_{name}": str(file) for name, file in others}}
    budgets = compute_budgets(arguments, targets)
    if arguments.json:
        plain = {name: {kind: asdict(one) for kind, one in found.items()} for name, found in budgets.items()}
        print(json.dumps({**result, "budget": plain}))


def compute_budgets(arguments: argparse.Namespace, targets: dict[str, Path]) -> "dict[str, dict[str, Budget]]":
    """Returns what runs of compiled files take, by platform, and prints it.

    Args:
        arguments: The arguments.
        targets: The compiled files by platform.

    Returns:
        Of each, as it is ("image" where the steps' code is in one, else "embedded"), and how it would be with an image.
    """
    from nlp_pipeline.pipeline.budget import IMAGE, weigh
    from nlp_pipeline.pipeline.compiling import with_image

    budgets: dict[str, dict[str, Budget]] = {}
    for platform, target in targets.items():
        text = target.read_text(encoding="utf-8")
        texts = {"image": text if arguments.image else with_image(text, IMAGE)}
        if not arguments.image:
            texts = {"embedded": text, **texts}
        budgets[platform] = {kind: weigh(text) for kind, text in texts.items()}
        for kind, budget in budgets[platform].items():
            print(f"{target}{'' if kind == 'embedded' else ' with --image'}: {budget}", file=sys.stderr)
    return budgets


def report_stale(arguments: argparse.Namespace, differences: dict[Path, str]) -> None:
    """Says which compiled files are stale.

    Args:
        arguments: The arguments.
        differences: The difference of each file and the code; empty where it is current.

    Raises:
        PipelineError: One is stale.
    """
    stale = [str(target) for target, one in differences.items() if one]
    if not stale:
        return
    difference = "\n".join(filter(None, differences.values()))
    if not arguments.json:
        print(difference)
    told = f"{stale[0]} is stale: write it" if len(stale) == 1 else f"{' and '.join(stale)} are stale: write them"
    raise PipelineError(f"{told} anew with --compile", {"stale": True, "difference": difference})


def run_manifests(arguments: argparse.Namespace) -> None:
    """`--manifests`."""
    from dataclasses import fields

    from nlp_pipeline.deploy.manifests import PLACEHOLDER, RUNTIME_IMAGE, STEPS_ACCOUNT, Needs, manifests
    from nlp_pipeline.deploy.settings import DeploySettings
    from nlp_pipeline.pipeline.compiling import check_image
    from nlp_pipeline.pipeline.kubeflow import S3_KEYS
    from nlp_pipeline.pipeline.parameters import check_ranges, parse_settings, pipeline_parameters

    values = parse_settings(arguments.set)
    check_ranges(values)
    image = RUNTIME_IMAGE if arguments.runtime_image is None else arguments.runtime_image
    check_image(image, "--runtime-image")
    values = {name: one.default for name, one in pipeline_parameters().items()} | values
    needs = Needs(
        settings=DeploySettings(**{one.name: values[one.name] for one in fields(DeploySettings)}),
        deploys=values["deploy"],
        reads_s3=any((values[name] or "").startswith("s3://") for name in ("train_data", "evaluation_data")),
        secret=values["s3_secret"],
        secret_keys=S3_KEYS,
        runtime_image=image,
        steps_account=STEPS_ACCOUNT if arguments.steps_account is None else arguments.steps_account,
    )
    text = manifests(needs)
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


def run_completion(arguments: argparse.Namespace) -> None:
    """`--completion SHELL`."""
    import shtab

    from nlp_pipeline.flags import make_parser

    parser = make_parser()
    parser.prog = "nlp-pipeline"  # a file that is run by `python` is none that a shell could complete
    print(shtab.complete(parser, arguments.completion))
