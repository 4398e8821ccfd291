"""What `evaluate_model` can be told."""

from dataclasses import dataclass

from nlp_pipeline.parameters import Settings, matches, parameter


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
