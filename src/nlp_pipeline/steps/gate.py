"""The gate: is the model good enough to be archived and served?"""

import json
from dataclasses import dataclass
from pathlib import Path

from nlp_pipeline.parameters import SHARE, Settings, parameter


@dataclass(frozen=True, kw_only=True)
class GateSettings(Settings):
    """What a model must reach."""

    min_accuracy: float = parameter(0.5, "Floor of the accuracy, from 0 to 1; below it, nothing is archived.", SHARE)


def passes_gate(metrics: str | Path, settings: GateSettings) -> bool:
    """Says whether the accuracy is at or above the floor, and above that of always naming the most frequent class.

    Args:
        metrics: JSON of `evaluate_model`, with `accuracy` and `majority_accuracy`.
        settings: What a model must reach.
    """
    result, floor = json.loads(Path(metrics).read_text(encoding="utf-8")), settings.min_accuracy
    accuracy, majority = result["accuracy"], result["majority_accuracy"]
    if accuracy < floor:
        print(f"not passed: accuracy {accuracy:.4f} is {floor - accuracy:.4f} below min_accuracy {floor}")
    elif accuracy <= majority:
        print(f"not passed: accuracy {accuracy:.4f} is not above {majority:.4f}, the most frequent class's")
    else:
        print(f"passed: accuracy {accuracy:.4f}, min_accuracy {floor}, most frequent class {majority:.4f}")
        return True
    return False
