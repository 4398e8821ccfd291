"""`--drift` and `--batch`: what is done with a file of texts on this machine."""

import argparse
import contextlib
import json
import sys

from nlp_pipeline.commands import chosen_release, parameters_of
from nlp_pipeline.errors import GateNotPassedError, UsageError
from nlp_pipeline.pipeline.parameters import check_ranges, with_defaults
from nlp_pipeline.platforms.output import print_result, print_rows


def drift(arguments: argparse.Namespace) -> int:
    """`--drift`."""
    from nlp_pipeline.steps.detect_drift.detection import FIGURES, describe, detect_drift, rounded

    if arguments.data is None:
        raise UsageError("--drift needs --data FILE: texts to compare with those that a release was trained on")
    values = {**parameters_of(arguments), "data": arguments.data}
    check_ranges(values, "drift")
    for name in ("release", "retrain"):
        if name in values:
            raise UsageError(
                f"{name}={values[name]} is for --pipeline drift; --drift takes --release DIR, and starts no training"
            )
    release = chosen_release(arguments)
    complete = with_defaults(values, "drift")
    with contextlib.redirect_stdout(sys.stderr):
        columns = complete["text_column"], complete["label_column"]
        result = detect_drift(release, complete["data"], columns, complete["label_separator"], complete["threshold"])
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        print_rows([rounded(figure) for figure in result["figures"]], FIGURES, as_json=False)
        print(f"\n{describe(result)}")
    return GateNotPassedError.exit_code if result["moved"] else 0


def batch(arguments: argparse.Namespace) -> None:
    """`--batch`."""
    from nlp_pipeline.steps.batch_predict.prediction import predict_all
    from nlp_pipeline.steps.batch_predict.settings import BatchSettings

    if arguments.data is None or arguments.to is None:
        raise UsageError("--batch needs --data FILE, the rows to classify, and --to DIR, a folder for the results")
    values = {**parameters_of(arguments), "data": arguments.data, "to": arguments.to}
    check_ranges(values, "batch")
    for name in ("release", "pods", "pod_cpu", "pod_gpus"):
        if name in values:
            raise UsageError(f"{name}={values[name]} is for --pipeline batch; --batch takes --release DIR, and no pods")
    release = chosen_release(arguments)
    complete = with_defaults(values, "batch")
    settings = BatchSettings.of(complete)
    with contextlib.redirect_stdout(sys.stderr):
        manifest = predict_all(settings, complete["text_column"], release)
    result = {"to": arguments.to, "without_label": 0, **manifest, "shards": len(manifest["shards"])}
    if arguments.json:
        print(json.dumps(manifest, indent=2))
    else:
        print_result(result, False)
