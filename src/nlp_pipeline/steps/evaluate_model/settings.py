"""What `evaluate_model` can be told."""

from dataclasses import dataclass

from nlp_pipeline.parameters import SHARE, Settings, matches, one_of, parameter


@dataclass(frozen=True, kw_only=True)
class ChampionSettings(Settings):
    """Which model a new one is compared with, and in what."""

    champion: str = parameter(
        "live",
        "Model to compare with: live (what serves, else as release), release (validated last), none, or a digest.",
        matches("live|release|none|[0-9a-f]{16}", "live, release, none, or a release's digest of 16 digits"),
    )
    metric: str = parameter(
        "accuracy",
        "What is compared: accuracy, macro_f1, micro_f1, log_loss, or recall:LABEL.",
        matches(
            "accuracy|macro_f1|micro_f1|log_loss|recall:.+", "accuracy, macro_f1, micro_f1, log_loss, recall:LABEL"
        ),
    )


@dataclass(frozen=True, kw_only=True)
class GateSettings(Settings):
    """What a model must reach to be archived and served."""

    min_accuracy: float = parameter(
        0.5, "Floor of the accuracy, of several labels a text the micro F1; below it, nothing is archived.", SHARE
    )


@dataclass(frozen=True, kw_only=True)
class ComparisonLimits(Settings):
    """What it must reach beside the champion."""

    require: str = parameter(
        "not_worse",
        "What a model must be: not_worse than the champion, better, or above the floor alone.",
        one_of("not_worse", "better", "floor"),
    )
    min_gain: float = parameter(
        0.0,
        "By how much the metric must exceed the champion's to count as better.",
        (lambda value: 0 <= value <= 1, "from 0 to 1"),
    )
