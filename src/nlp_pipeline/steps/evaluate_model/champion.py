"""The model that a new one has to be as good as: which it is, and how the two compare on rows that neither has seen."""

import json
from pathlib import Path
from typing import Any

import numpy

from nlp_pipeline.errors import PipelineError, UsageError
from nlp_pipeline.release import verify
from nlp_pipeline.steps.classes import Classes
from nlp_pipeline.steps.evaluate_model.comparison import compare_models
from nlp_pipeline.steps.evaluate_model.prediction import predict
from nlp_pipeline.steps.parquet import Texts
from nlp_pipeline.steps.training_data import compare_profiles, was_trained_on
from nlp_pipeline.volume import Run


def find_champion(choice: str, run: Run, namespace: str) -> tuple[Path | None, str]:
    """Returns the folder of the release to compare with, None where there is none, and a line on which it is."""
    if run.model_folder is None or choice == "none":
        return None, "champion=none" if choice == "none" else "there is no volume, and so no former release"
    releases, note = run.model_folder / "releases", ""
    if choice not in ("live", "release"):
        if not (releases / choice).is_dir():
            raise UsageError(f"there is no release {choice} in {releases}")
        return releases / choice, f"release {choice}"
    if choice == "live":
        try:
            digest = live_release(run.model_name, namespace)
            if (releases / digest).is_dir():
                return releases / digest, f"release {digest}, which is live"
            note = f"; the live release, {digest}, is not on the volume"
        except PipelineError as error:
            note = f"; none is known to be live: {error}"
    try:
        digest = json.loads((run.model_folder / "latest.json").read_bytes())["digest"]
    except FileNotFoundError:
        return None, f"there is no former release{note}"
    return releases / digest, f"release {digest}, validated last{note}"


def live_release(model_name: str, namespace: str) -> str:
    """Returns the digest of the release that an InferenceService serves; a PipelineError where none is known to."""
    from nlp_pipeline.deploy import cluster

    if not cluster.POD_NAMESPACE.exists():
        raise PipelineError("this is no pod of a cluster")
    cluster.connect()
    service = cluster.read_service(model_name, namespace or cluster.own_namespace())
    if service is None or not service.release:
        raise PipelineError(f"there is no InferenceService {model_name} of this pipeline's")
    return service.release


def compare_with(
    folder: Path, model: Path, texts: Texts, truth: Any, probabilities: Any, classes: Classes, metric: str
) -> dict[str, Any]:
    """Compares a new model with a release, on the rows that the release has not been trained on, of labels it knows.

    Args:
        folder: The release.
        model: The new model's folder.
        texts: The evaluation rows'.
        truth: Their labels, as `classes` encodes them, of shape (rows, classes).
        probabilities: The new model's, of shape (rows, classes).
        classes: Its labels.
        metric: What decides, as `ChampionSettings` has it.

    Returns:
        The `digest`; how many `rows` were compared, and left out as `seen` or `unknown`; the labels that are `new` or
        `gone`; `figures` as `compare_models` returns them; the name of the `metric` in them; `data`, how the rows
        differ that the two were trained on; `problem`, a sentence where the two can't be compared, else empty; the
        champion's `answers`, by name, None for rows that are left out.
    """
    result: dict[str, Any] = {"digest": folder.name, "metric": metric.partition(":")[0], "figures": {}, "problem": ""}
    result |= {"rows": 0, "seen": 0, "unknown": 0, "new": [], "gone": [], "data": {}}
    result["answers"] = [None] * len(probabilities)
    try:
        release = verify(folder)
        former = folder / "huggingface"
        known = Classes.of(former)
        theirs = predict(former, texts, release.parameters["max_length"])
    except (PipelineError, OSError, ValueError, RuntimeError, KeyError) as error:
        return result | {"problem": f"it can't be loaded: {error}"}
    if (known.thresholds is None) != (classes.thresholds is None):
        return result | {"problem": "of the two models, one gives a text one label and the other several"}
    labels = classes.labels
    union = Classes([*labels, *(label for label in known.labels if label not in labels)], classes.thresholds)
    truth = numpy.pad(truth, ((0, 0), (0, len(union.labels) - len(labels))))
    is_seen = was_trained_on(former, texts)
    is_known = ~truth[:, [label not in known.labels for label in union.labels]].any(axis=1)
    is_compared = is_known & ~is_seen
    result |= {
        "rows": int(is_compared.sum()),
        "seen": int(is_seen.sum()),
        "unknown": int((~is_known & ~is_seen).sum()),
        "new": [label for label in labels if label not in known.labels],
        "gone": union.labels[len(labels) :],
        "data": compare_profiles(former, model),
        "answers": [
            name if is_good else None
            for name, is_good in zip(known.name(known.choose(theirs)), is_compared, strict=True)
        ],
    }
    truth, label = truth[is_compared], metric.partition(":")[2]
    if not len(truth):
        return result | {"problem": "it was trained on all of the evaluation rows, or knows none of their labels"}
    number = union.labels.index(label) if label in union.labels else None
    if label and (number is None or not truth[:, number].any()):
        return result | {"problem": f"there is no row of {label!r} to compare"}

    def widen(own: Classes, values: Any) -> Any:
        wide = numpy.zeros(truth.shape, values.dtype)
        wide[:, [union.labels.index(label) for label in own.labels]] = values
        return wide

    both = (classes, probabilities[is_compared]), (known, theirs[is_compared])
    answers = [widen(own, own.choose(values)) for own, values in both]
    losses = [union.losses(truth, widen(own, values)) for own, values in both]
    return result | {"figures": compare_models(truth, answers, losses, number)}
