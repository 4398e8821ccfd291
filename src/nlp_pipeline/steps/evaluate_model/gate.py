"""The gate: is the model good enough to be archived and served?"""

import json
from pathlib import Path
from typing import Any

from nlp_pipeline.steps.evaluate_model.settings import ComparisonLimits, GateSettings
from nlp_pipeline.volume import GATE, Run

# How the line begins that says what a model lacks; `--wait` looks for it in the step's log.
NOT_PASSED = "not passed: "


def passes_gate(metrics: str | Path, run: Run, settings: GateSettings, limits: ComparisonLimits) -> bool:
    """Says whether a model with these metrics, the JSON of `evaluate_model`, passes; prints and records why."""
    result = json.loads(Path(metrics).read_text(encoding="utf-8"))
    missing = shortfall(result, settings, limits)
    name, value, majority = main_figure(result)
    reached = f"{name} {value:.4f}, min_accuracy {settings.min_accuracy}, most frequent class {majority:.4f}"
    if champion := result["champion"]:
        reached += f"; {describe(champion, limits.min_gain)}"
    print(f"{NOT_PASSED}{missing}" if missing else f"passed: {reached}")
    run.record(GATE, passed=not missing, reason=missing or reached)
    return not missing


def main_figure(metrics: dict[str, Any]) -> tuple[str, float, float]:
    """Returns the name and the value of what a model is judged by, and that of always naming the most frequent class.

    It is the accuracy; of several labels a text the micro F1, which of one label a text would be the accuracy.
    """
    name = "micro_f1" if "micro_f1" in metrics else "accuracy"
    return name.replace("_f1", " F1"), metrics[name], metrics[f"majority_{name}"]


def shortfall(metrics: dict[str, Any], settings: GateSettings, limits: ComparisonLimits) -> str:
    """Returns what a model lacks: the floor, the accuracy of always naming one class, or what the champion has."""
    (name, value, majority), floor = main_figure(metrics), settings.min_accuracy
    if value < floor:
        return f"{name} {value:.4f} is {floor - value:.4f} below min_accuracy {floor}"
    if value <= majority:
        return f"{name} {value:.4f} is not above {majority:.4f}, that of always naming the most frequent class"
    champion = metrics["champion"]
    if not champion or limits.require == "floor":
        return ""
    if champion["problem"] or champion["gone"]:
        return f"{describe(champion, 0)}: set require=floor to release it all the same"
    outcome = verdict(champion, limits.min_gain)
    is_enough = outcome == "better" or (outcome == "equal" and limits.require == "not_worse")
    return "" if is_enough else f"{describe(champion, limits.min_gain)}; require is {limits.require}"


def verdict(champion: dict[str, Any], min_gain: float) -> str:
    """Returns better or worse where the difference's whole interval lies on one side of the gain, else equal."""
    _, low, high = champion["figures"][champion["metric"]]["difference"]
    return "better" if low > min_gain else "worse" if high < min_gain else "equal"


def describe(champion: dict[str, Any], min_gain: float) -> str:
    """Returns in a line how a model compares with the champion, by what `compare_with` returned."""
    name = f"the champion, release {champion['digest']}"
    if champion["problem"]:
        return f"no comparison with {name}: {champion['problem']}"
    if champion["gone"]:
        return f"the model does not know {champion['gone']}, which {name}, answers"
    difference, low, high = champion["figures"][champion["metric"]]["difference"]
    outcome = verdict(champion, min_gain)
    words = {"better": "better than", "equal": "as good as", "worse": "worse than"}[outcome]
    if min_gain:
        words = {"better": "", "equal": "perhaps ", "worse": "not "}[outcome] + f"better by {min_gain:g} than"
    return (
        f"{words} {name}: {champion['metric']} {difference:+.4f}, in 95 % from {low:+.4f} to {high:+.4f}, "
        f"on {champion['rows']} rows"
    )
