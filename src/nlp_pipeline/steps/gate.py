"""The gate: is the model good enough to be archived and served?"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlp_pipeline.parameters import SHARE, Settings, parameter


@dataclass(frozen=True, kw_only=True)
class GateSettings(Settings):
    """What a model must reach."""

    min_accuracy: float = parameter(0.5, "Floor of the accuracy, from 0 to 1; below it, nothing is archived.", SHARE)


def passes_gate(metrics: str | Path, settings: GateSettings) -> bool:
    """Says whether a model with these metrics, the JSON of `evaluate_model`, passes; prints why or why not."""
    result, floor = json.loads(Path(metrics).read_text(encoding="utf-8")), settings.min_accuracy
    missing = shortfall(result, floor)
    accuracy, majority = result["accuracy"], result["majority_accuracy"]
    reached = f"passed: accuracy {accuracy:.4f}, min_accuracy {floor}, most frequent class {majority:.4f}"
    print(f"not passed: {missing}" if missing else reached)
    return not missing


def shortfall(metrics: dict[str, Any], min_accuracy: float) -> str:
    """Returns what a model lacks: the floor, or the accuracy of always naming the most frequent class."""
    accuracy, majority = metrics["accuracy"], metrics["majority_accuracy"]
    if accuracy < min_accuracy:
        return f"accuracy {accuracy:.4f} is {min_accuracy - accuracy:.4f} below min_accuracy {min_accuracy}"
    if accuracy <= majority:
        return f"accuracy {accuracy:.4f} is not above {majority:.4f}, that of always naming the most frequent class"
    return ""
